"""Makes the single file: assemble.py OUTPUT WHEEL...

Wheels are laid over each other in one archive, in the order of their names, with one date (SOURCE_DATE_EPOCH): the same
wheels give the same file. Compiled modules go where __main__.py looks for them. Raises SystemExit with the reason when
a wheel cannot be used.
"""

import os
import re
import sys
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["assemble"]

SHEBANG: Final = b"#!/usr/bin/env python3\n"
LEFT_OUT: Final = re.compile(r"\.pyi$|\.dist-info/(RECORD|WHEEL|top_level\.txt)$|(^|/)tests?/|\.data/")
COMPILED: Final = re.compile(r"\.(?:(?P<abi3>abi3)|cpython-(?P<version>\d+)-[\w-]+)\.so$")
PLATFORM: Final = re.compile(r"linux(?:_\d+_\d+|\d+)?_(?P<machine>\w+?)(?:\.|$)")


def destination(name: str, machine: str) -> str | None:
    """Where a file of a wheel goes in the archive; None when it is left out."""
    if LEFT_OUT.search(name):
        return None
    compiled = COMPILED.search(name)
    if compiled is None:
        return name
    module = name[: compiled.start()].replace("/", ".")
    abi = compiled["abi3"] or f"cp{compiled['version']}"
    return f"compiled/{abi}-{machine}/{module}.so"


def contents(wheel: Path) -> dict[str, bytes]:
    """What a wheel adds to the archive."""
    tag = wheel.stem.split("-")[-1]
    found = PLATFORM.search(tag)
    if found is None and tag != "any":
        raise SystemExit(f"{wheel}: neither pure Python nor for Linux")
    machine = found["machine"] if found else ""
    with zipfile.ZipFile(wheel) as archive:
        names = {name: destination(name, machine) for name in archive.namelist() if not name.endswith("/")}
        return {there: archive.read(name) for name, there in names.items() if there is not None}


def assemble(output: Path, wheels: list[Path]) -> None:
    """Write the file. A name that two wheels give different contents is an error."""
    files = {"__main__.py": (Path(__file__).parent / "__main__.py").read_bytes()}
    for wheel in sorted(wheels):
        for name, data in contents(wheel).items():
            if files.setdefault(name, data) != data and PurePosixPath(name).suffix != ".txt":
                raise SystemExit(f"{wheel}: {name} is in another wheel too, and not the same")
    date = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800))[:6]  # zip begins in 1980
    with output.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, date)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system, entry.external_attr = 3, 0o100644 << 16
                archive.writestr(entry, files[name])
    output.chmod(0o755)


if __name__ == "__main__":
    assemble(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
