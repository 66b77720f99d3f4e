"""Sends entries to journald in its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["JOURNAL_SOCKET", "JournalSender", "encode", "stderr_is_journal"]

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
SEND_TIMEOUT_S: Final = 0.2


def encode(fields: Mapping[str, str]) -> bytes:
    """One datagram: `NAME=value` lines; a value with a line break as name, 64-bit little-endian length and value.

    Raises ValueError for a name that journald would drop: capitals, digits and underscores, not first an underscore or
    digit, 64 at most.
    """
    entry = bytearray()
    for name, value in fields.items():
        plain = name.replace("_", "A")
        if not (name[:1].isalpha() and plain.isascii() and plain.isalnum() and plain.isupper() and len(name) <= 64):
            raise ValueError(f"{name!r} is no name of a journal field")
        data = value.encode(errors="replace")
        if b"\n" in data:
            entry += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
        else:
            entry += name.encode() + b"=" + data + b"\n"
    return bytes(entry)


def stderr_is_journal(environment: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether systemd connected stderr to the journal (JOURNAL_STREAM, systemd.exec(5)): device and inode agree.

    A daemon in the foreground writes to its terminal, although the machine has a journal.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalSender:
    """Sends entries; when that fails the caller writes elsewhere."""

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        self._path = path

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send one entry. False when journald is not there, is stalled, or the entry is too large."""
        data = encode(fields)
        try:
            # A socket for each of the few entries: nobody would tell a plugin when to close one that it keeps.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as journal:
                journal.settimeout(SEND_TIMEOUT_S)
                journal.sendto(data, str(self._path))
        except OSError:
            return False
        return True
