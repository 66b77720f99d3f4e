"""Telling systemd how the daemon is (man 3 sd_notify): datagrams of KEY=VALUE lines to the socket NOTIFY_SOCKET."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Self

__all__ = ["Notifier"]

log = logging.getLogger(__name__)

UNSUPPORTED: Final = "NOTIFY_SOCKET is neither an absolute path nor an abstract name; systemd is not told anything"


class Notifier:
    """Notifies systemd, or nobody when `address` is None. Never fails and never waits.

    `address` is a path, or an abstract name after "@". `watchdog_s` is the time without a sign of life after which
    systemd restarts the daemon.
    """

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address, self._watchdog_s = address, watchdog_s
        self._failing = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As systemd set the environment of this process (man 3 sd_notify, sd_watchdog_enabled)."""
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None and address[0] not in "/@":
            log.warning(UNSUPPORTED)
            address = None
        watched, microseconds = environment.get("WATCHDOG_PID"), environment.get("WATCHDOG_USEC", "")
        mine = watched in (None, "", str(os.getpid()))
        usable = mine and microseconds.isascii() and microseconds.isdigit() and 0 < int(microseconds) < 1 << 63
        return cls(address, int(microseconds) / 1e6 if usable else None)

    def ready(self) -> None:
        """The daemon does its work; also the end of `reloading`."""
        self.notify("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is about to end."""
        self.notify("STOPPING=1")

    async def watchdog(self) -> None:
        """Give signs of life from the event loop, twice as often as asked for; returns at once when none are."""
        if self._watchdog_s is None or self._address is None:
            return
        while True:
            self.notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def notify(self, *lines: str) -> None:
        """Send lines as one message."""
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(errors="surrogateescape"), address)
        except OSError as error:
            if not self._failing:
                log.warning("systemd cannot be notified at %s: %s", self._address, error)
            self._failing = True
        else:
            self._failing = False
