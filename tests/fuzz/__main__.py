"""Fuzz decoders: `python -m tests.fuzz [--runs N] [TARGET...]`, each in a process of its own, one after the other.

Needs atheris (`pip install atheris`, or the extra `fuzz`). Prints a table with the number of inputs; exit status 1 when
one of them made a decoder raise what it is not declared to. Inputs that did are kept in build/fuzz/TARGET/.
"""

import argparse
import re
import subprocess
import sys
import time

from tests.fuzz.targets import ROOT, TARGETS

DONE = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)


def main() -> None:
    """Run targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    chosen = parser.parse_args()
    failed = False
    print("| decoder | inputs | seconds | found |\n|---|---|---|---|", flush=True)
    for name in chosen.targets or TARGETS:
        inputs, seconds, problem = fuzz(name, chosen.runs)
        failed = failed or bool(problem) or inputs < chosen.runs
        print(f"| {name} | {inputs} | {seconds:.0f} | {problem or 'nothing'} |", flush=True)
    raise SystemExit(failed)


def fuzz(name: str, runs: int) -> tuple[int, float, str]:
    """(inputs, seconds, the last line of what went wrong or nothing) of one target."""
    folder = ROOT / "build" / "fuzz" / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    command = [
        *(sys.executable, "-m", "tests.fuzz.one", name, f"-runs={runs}", f"-max_len={TARGETS[name].longest}"),
        *("-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={folder}/", str(corpus)),
    ]
    began_s = time.monotonic()
    log = folder / "log"
    with log.open("wb") as output:
        status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False).returncode
    text = log.read_text(errors="replace")
    done = DONE.search(text)
    problem = (
        "" if status == 0 and done else next((line for line in reversed(text.splitlines()) if line.strip()), "ended")
    )
    return int(done[1]) if done else 0, time.monotonic() - began_s, problem


if __name__ == "__main__":
    main()
