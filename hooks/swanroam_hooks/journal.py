"""Writes one line for each move, change of capability and rejection, with fields when it can reach journald.

    [hooks.journal]
    target = "auto"    # "journald", "logging", or "auto": journald when the daemon's stderr goes there
    interval_s = 10    # the same rejection, or the same capability, of a tunnel is written once in this time

`journalctl -o verbose SWANROAM_EVENT=moved` shows the fields; they are the variables of the run-parts hook.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from swanroam.hookspecs import hookimpl
from swanroam.model.effects import Announcement, CapabilityChanged, PacketRejected, TunnelMoved
from swanroam_hooks.damper import Damper
from swanroam_hooks.fields import describe, fields_of
from swanroam_hooks.journald import JOURNAL_SOCKET, JournalSender, stderr_is_journal
from swanroam_hooks.options import Options

__all__ = ["Journal"]

logger: Final = logging.getLogger("swanroam.journal")

SYSLOG_PRIORITY: Final = {logging.INFO: "6", logging.WARNING: "4"}


class Journal:
    """The log of what happened to tunnels."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, socket_path: Path = JOURNAL_SOCKET) -> None:
        self._clock = clock
        self._socket_path = socket_path
        self._sender: JournalSender | None = None
        self._damper = Damper(10.0)

    @hookimpl
    def swanroam_configure(self, options: Mapping[str, object]) -> None:
        """Read the options and find the journal."""
        read = Options(options, ("target", "interval_s"))
        target = read.choice("target", "auto", ("auto", "journald", "logging"))
        self._damper = Damper(read.seconds("interval_s", 10.0))
        if target == "journald" or (target == "auto" and stderr_is_journal(os.environ)):
            self._sender = JournalSender(self._socket_path)

    @hookimpl
    def swanroam_moved(self, move: TunnelMoved) -> None:
        """Write every move: they are rare, and each one counts."""
        self._write(logging.INFO, move, 0)

    @hookimpl
    def swanroam_capability(self, change: CapabilityChanged) -> None:
        """Write changes of capability, damped."""
        self._write_damped(logging.INFO, change, (change.key, change.capability))

    @hookimpl
    def swanroam_rejected(self, rejection: PacketRejected) -> None:
        """Write rejections, damped: anybody on the network can cause them."""
        self._write_damped(logging.WARNING, rejection, (rejection.key, rejection.reason))

    def _write_damped(self, level: int, announcement: Announcement, subject: object) -> None:
        held_back = self._damper.admit(subject, self._clock())
        if held_back is not None:
            self._write(level, announcement, held_back)

    def _write(self, level: int, announcement: Announcement, held_back: int) -> None:
        message = describe(announcement)
        fields = fields_of(announcement)
        if held_back:
            message += f" ({held_back} more like this were not written)"
            fields["SWANROAM_HELD_BACK"] = str(held_back)
        if self._sender is None or not self._sender.send(
            {"MESSAGE": message, "PRIORITY": SYSLOG_PRIORITY[level], "SYSLOG_IDENTIFIER": "swanroam"} | fields
        ):
            logger.log(level, "%s", message)
