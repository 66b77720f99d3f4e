"""charon's events: a thread with a vici connection of its own listens and hands them to the event loop.

The connection is built anew whenever charon closes it, is restarted or stalls, with growing delays, for as long as the
daemon runs. Each outage gives one log line, and one more when it is over.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swanroam.charon.connection import ViciConnection
from swanroam.charon.decode import decode_event
from swanroam.charon.protocols import CharonEvent, EventKind
from swanroam.errors import CharonGone, WireError

__all__ = ["REGISTERED", "CharonEvents", "Delays"]

LOG: Final = logging.getLogger(__name__)
REGISTERED: Final = tuple(kind for kind in EventKind if kind not in (EventKind.CONNECTED, EventKind.LOST))
STOP_S: Final = 1.0
MALFORMED: Final = "malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How long to wait before the next attempt to connect: `first_s`, then twice as long each time up to `last_s`."""

    first_s: float = 0.1
    last_s: float = 2.0

    def after(self, delay_s: float) -> float:
        """The delay that follows `delay_s`."""
        return min(delay_s * 2, self.last_s)


class CharonEvents:
    """Listens for charon's events on the vici socket at `path` and calls `callback` with each on `loop`.

    `timeout_s` is how long charon may take to answer a registration or to finish an event that it has begun.
    """

    def __init__(
        self,
        path: Path,
        callback: Callable[[CharonEvent], object],
        loop: asyncio.AbstractEventLoop,
        *,
        delays: Delays | None = None,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._callback, self._loop = path, callback, loop
        self._delays, self._timeout_s, self._clock = delays or Delays(), timeout_s, clock
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connection: ViciConnection | None = None
        self._thread = threading.Thread(target=self._run, name="charon-events", daemon=True)
        self.ignored: Counter[str] = Counter()
        """Events that were not understood, by name; "malformed" where not even that could be read."""
        self.unsupported: frozenset[str] = frozenset()
        """Events that the connected charon does not know."""

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; returns within a second. Stopping twice, or before the start, does nothing."""
        self._stopping.set()
        with self._lock:
            if self._connection:
                self._connection.interrupt()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        delay_s, outage = self._delays.first_s, False
        while not self._stopping.is_set():
            began_s = self._clock()
            connection: ViciConnection | None = None
            try:
                connection = ViciConnection(self._path, self._clock)
                with self._lock:
                    self._connection = connection
                self._open(connection)
                LOG.info("charon is %s at %s", "back" if outage else "there", self._path)
                outage = False
                self._tell(CharonEvent(kind=EventKind.CONNECTED, at_s=self._clock()))
                self._listen(connection)
            except CharonGone as error:
                if not outage and not self._stopping.is_set():
                    LOG.warning("charon is not there (%s); waiting for it", error)
                outage = True
            except Exception:
                # A defect of ours: without events the daemon would be blind, so it goes on.
                LOG.exception("listening to charon failed")
                outage = True
            finally:
                with self._lock:
                    self._connection = None
                if connection:
                    connection.close()
            # A charon that takes connections only to drop them must not be met with a busy loop.
            if self._clock() - began_s > self._delays.last_s:
                delay_s = self._delays.first_s
            self._stopping.wait(delay_s)
            delay_s = self._delays.after(delay_s)

    def _open(self, connection: ViciConnection) -> None:
        connection.connect(self._timeout_s)
        if self._stopping.is_set():
            raise CharonGone("stopped")  # stop() may have come too early to interrupt the connection
        known = [kind for kind in REGISTERED if connection.register(kind, self._timeout_s)]
        self.unsupported = frozenset(REGISTERED) - frozenset(known)

    def _listen(self, connection: ViciConnection) -> None:
        try:
            while not self._stopping.is_set():
                self._hand_over(*connection.next_event(self._timeout_s))
        finally:
            self.ignored[MALFORMED] += connection.malformed
            self._tell(CharonEvent(kind=EventKind.LOST, at_s=self._clock()))

    def _hand_over(self, name: str, message: Mapping[str, object]) -> None:
        at_s = self._clock()
        if name not in REGISTERED:
            self.ignored[name] += 1
            return
        kind = EventKind(name)
        try:
            event = decode_event(kind, message, at_s)
        except WireError as error:
            self.ignored[name] += 1
            LOG.debug("charon's event cannot be read: %s", error)
            event = CharonEvent(kind=kind, at_s=at_s)
        self._tell(event)

    def _tell(self, event: CharonEvent) -> None:
        if self._stopping.is_set():
            return
        try:
            self._loop.call_soon_threadsafe(self._callback, event)
        except RuntimeError:
            self._stopping.set()  # the loop is closed: nobody is left to be told
