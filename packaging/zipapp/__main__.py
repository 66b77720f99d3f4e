"""The first program of the single file: swanroam with all its libraries, run from the archive that it is in.

Python imports from an archive what is written in Python. Compiled modules can only be loaded from a file that the
kernel maps: each is copied to a file in memory (man 2 memfd_create), so that nothing is written to a disk, nothing is
left behind, and nobody else can put another file in its place.

This file is read by any Python since 3.6, to say in a sentence that it is too old.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import platform
import sys
from typing import Any, NoReturn

OLDEST = (3, 11)
COMPILED = "compiled"
"""The folder of the archive: compiled/CPYTHON-MACHINE/MODULE.so, or compiled/abi3-MACHINE/MODULE.so for all."""
MFD_CLOEXEC, MFD_EXEC = 0x1, 0x10  # include/uapi/linux/memfd.h


def fail(problem: str) -> NoReturn:
    """Say what is wrong in one line, and end."""
    sys.exit(f"swanroam: cannot start: {problem}")


class CompiledFinder(importlib.abc.MetaPathFinder):
    """Finds the compiled modules of the archive. `archive` is the loader that Python made for it."""

    def __init__(self, archive: Any) -> None:
        major, minor = sys.version_info[:2]
        machine = platform.machine()
        self._archive = archive
        self._folders = [f"{archive.archive}/{COMPILED}/{abi}-{machine}" for abi in (f"cp{major}{minor}", "abi3")]
        self._kept: list[int] = []

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002 - Python's signature
        """The specification of a module that was copied to memory, None for all others."""
        for folder in self._folders:
            try:
                data = self._archive.get_data(f"{folder}/{fullname}.so")
            except OSError:
                continue
            file = self._copy(fullname, data)
            loader = importlib.machinery.ExtensionFileLoader(fullname, file)
            return importlib.util.spec_from_file_location(fullname, file, loader=loader)
        return None

    def _copy(self, name: str, data: bytes) -> str:
        try:
            # Where programs in memory are restricted, the kernel wants to be told that this one is meant to be run.
            descriptor = os.memfd_create(name, MFD_CLOEXEC | MFD_EXEC)
        except OSError:
            try:
                descriptor = os.memfd_create(name, MFD_CLOEXEC)  # Linux before 6.3
            except OSError as error:
                fail(f"no compiled module can be loaded from memory: {error.strerror}")
        self._kept.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        return f"/proc/self/fd/{descriptor}"


def main() -> None:
    """Run the command line."""
    if sys.version_info < OLDEST:
        fail(f"it needs Python {'.'.join(map(str, OLDEST))} or newer, this is {platform.python_version()}")
    if __spec__ is None or __spec__.loader is None:
        fail("this program works only in the archive that it is built into")
    sys.meta_path.insert(0, CompiledFinder(__spec__.loader))
    try:
        from swanroam.app.cli import main as command
    except ImportError as error:
        fail(f"{error}; the file may be damaged, or made for another machine than {platform.machine()}")

    command(prog_name="swanroam")


main()
