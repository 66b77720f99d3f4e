"""One target under atheris: `python -m tests.fuzz.one TARGET [options of libFuzzer] [corpus]`."""

import sys

import atheris

with atheris.instrument_imports(include=["swanroam"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
