"""The keys that the kernel had in the course of a world's life, and where they must not be."""

import base64
import re
import subprocess
from pathlib import Path

from tests.lab.hosts import Host

__all__ = ["Secrets"]

KEY = re.compile(r"^\s*(?:aead|auth-trunc|auth|enc) \S+ 0x(?P<key>[0-9a-f]{16,})", re.MULTILINE)
SALT_BYTES = 4
"""At the end of the keys of the combined algorithms; the rest is what charon and OpenSSL call the key."""


class Secrets:
    """Keys by what they look like in a file: as bytes, in hexadecimal, in base64, and as Python shows bytes."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self._monitors: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def watch(self, host: Host, file: Path) -> None:
        """From now on take note of every key that the host's kernel is given, by way of a file with all of them."""
        with file.open("wb") as output:
            monitor = host.namespace.spawn(["ip", "xfrm", "monitor", "SA"], output=output)
        self._monitors.append((file, monitor))

    def note(self, host: Host) -> None:
        """Take note of the keys that there are now, and of those that were there for a moment."""
        self._take(host.show("ip xfrm state"))
        for file, _ in self._monitors:
            self._take(file.read_text())

    def close(self) -> None:
        """Forget the files."""
        for file, monitor in self._monitors:
            monitor.kill()
            monitor.wait()
            file.unlink()
        self._monitors.clear()

    def _take(self, text: str) -> None:
        for found in KEY.finditer(text):
            key = bytes.fromhex(found["key"])
            self.keys |= {key, key[:-SALT_BYTES]}

    def found_in(self, folder: Path) -> list[str]:
        """Files below a folder that hold a key, whatever they are."""
        return [
            str(file.relative_to(folder))
            for file in sorted(folder.rglob("*"))
            if file.is_file() and self.shown_by(file.read_bytes())
        ]

    def shown_by(self, data: bytes) -> bool:
        """Whether a key is in it, in any form."""
        lower = data.lower()
        return any(
            key in data
            or key.hex().encode() in lower
            or key.hex(":").encode() in lower
            or key.hex(" ").encode() in lower
            or base64.b64encode(key)[:-4] in data
            or repr(key)[2:-1].encode() in data
            for key in self.keys
        )
