"""The keys that the kernel had in the course of a world's life, and where they must not be."""

import base64
import os
import re
import subprocess
from pathlib import Path
from typing import BinaryIO

from tests.lab.hosts import Host

__all__ = ["Secrets"]

KEY = re.compile(r"^\s*(?:aead|auth-trunc|auth|enc) \S+ 0x(?P<key>[0-9a-f]{16,})", re.MULTILINE)
SALT_BYTES = 4
"""At the end of the keys of the combined algorithms; the rest is what charon and OpenSSL call the key."""


class Secrets:
    """Keys by what they look like in a file: as bytes, in hexadecimal, in base64, and as Python shows bytes."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self._monitors: list[tuple[Path, BinaryIO, subprocess.Popen[bytes]]] = []

    def watch(self, host: Host, file: Path) -> None:
        """From now on take note of every key that the host's kernel is given, by way of a file with all of them."""
        with file.open("wb") as output:
            monitor = host.namespace.spawn(["ip", "xfrm", "monitor", "SA"], output=output)
        self._monitors.append((file, file.open("rb"), monitor))

    def note(self) -> None:
        """Take note of the keys that there were since the last time, for a moment or longer."""
        for _, new, _ in self._monitors:
            text = new.read()
            whole = text.rfind(b"\n") + 1
            new.seek(whole - len(text), os.SEEK_CUR)
            for found in KEY.finditer(text[:whole].decode()):
                key = bytes.fromhex(found["key"])
                self.keys |= {key, key[:-SALT_BYTES]}

    def close(self) -> None:
        """Forget the files."""
        for file, new, monitor in self._monitors:
            monitor.kill()
            monitor.wait()
            new.close()
            file.unlink()
        self._monitors.clear()

    def found_in(self, folder: Path) -> list[str]:
        """Files below a folder that hold a key, whatever they are."""
        # One pass for all of them; what grep takes for a line may be a part of a key.
        patterns = [max(re.split(rb"[\0\n]", form), key=len) for key in self.keys for form in _forms(key)]
        command = ["grep", "-rlaiF", "--devices=skip", "--file=-", str(folder)]
        grep = subprocess.run(
            command, input=b"\n".join(patterns), env={"LC_ALL": "C"}, capture_output=True, check=False
        )
        assert grep.returncode in {0, 1}, grep.stderr
        files = [Path(line) for line in sorted(grep.stdout.decode().splitlines())]
        return [str(file.relative_to(folder)) for file in files if self.shown_by(file.read_bytes())]

    def shown_by(self, data: bytes) -> bool:
        """Whether a key is in it, in any form."""
        lower = data.lower()
        return any(form in data or form in lower for key in self.keys for form in _forms(key))


def _forms(key: bytes) -> tuple[bytes, ...]:
    return (
        key,
        key.hex().encode(),
        key.hex(":").encode(),
        key.hex(" ").encode(),
        base64.b64encode(key)[:-4],
        repr(key)[2:-1].encode(),
    )
