"""The Pythons of this machine: the distribution's, and those of pyenv, which no path has to name."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["VERSIONS", "interpreter"]

VERSIONS = ("3.11", "3.12", "3.13")


def interpreter(version: str) -> Path:
    """A Python of that version that can make virtual environments; the test is skipped where there is none."""
    for candidate in filter(Path.exists, _candidates(version)):
        program = "import sys, venv, ensurepip; print(sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", program], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == f"({version.replace('.', ', ')})":
            return candidate
    pytest.skip(f"no Python {version} with venv on this machine")


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    yield Path("/usr/bin", name)
    if found := shutil.which(name):
        yield Path(found)
    yield from sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"))
