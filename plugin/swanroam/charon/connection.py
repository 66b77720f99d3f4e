"""One vici connection: packets of the vici library over a Unix socket, with deadlines (strongSwan vici/README.md).

The library's own transport takes the time limit off after the first byte of a packet, and opens a listing with two more
round trips for its registration; so the packets and messages are the library's, the socket work is done here.
"""

import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vici.exception import DeserializationException
from vici.protocol import Message, Packet

from swanroam.errors import CharonGone, CharonRefused, WireError

__all__ = ["Answer", "Received", "ViciConnection", "parse_packet"]

LENGTH: Final = struct.Struct("!I")
SEGMENT_LIMIT: Final = 512 * 1024
"""charon never sends more (vici/README.md, transport protocol)."""
RECEIVE_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Received:
    """A packet: its type, the name of the event if it is one, and its message."""

    type: int
    event: str
    message: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a command, and the events that charon streamed before it."""

    message: Mapping[str, object]
    streamed: tuple[Mapping[str, object], ...] = ()


class ViciConnection:
    """A connection for one thread; only `interrupt` may be called from another.

    Every method, and making one, raises CharonGone when there is no socket, or it was closed or stalls; the connection
    is of no use then.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        with self._gone("no socket"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._buffer = bytearray()
        self._events: deque[tuple[str, Mapping[str, object]]] = deque()
        self.malformed = 0
        """Events whose message could not be read, and that were dropped for it."""

    def connect(self, timeout_s: float) -> None:
        """Connect; a Unix socket does so at once or not at all."""
        with self._gone("cannot connect"):
            self._socket.settimeout(timeout_s)
            self._socket.connect(str(self._path))

    def interrupt(self) -> None:
        """End the connection under a thread that waits in another method, which raises CharonGone there.

        The socket itself is left to its thread to close: its number may not be given away while that still reads.
        """
        with suppress(OSError):  # not connected yet, or closed by charon
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; closing twice does nothing."""
        self._socket.close()

    def alive(self) -> bool:
        """Whether charon has not closed the connection; only while no answer is awaited."""
        try:
            self._socket.settimeout(0)
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def register(self, event: str, timeout_s: float) -> bool:
        """Register for an event; false when this charon does not know it."""
        deadline_s = self._clock() + timeout_s
        self._send(Packet.register_event(event), deadline_s)
        while True:
            received = self._receive(deadline_s)
            if received.type == Packet.EVENT_CONFIRM:
                return True
            if received.type == Packet.EVENT_UNKNOWN:
                return False
            if received.type != Packet.EVENT:
                raise CharonGone(f"{self._path}: packet type {received.type} answers the registration of {event}")
            self._events.append((received.event, received.message))

    def request(self, command: str, message: Mapping[str, object], timeout_s: float) -> Answer:
        """Give a command and return its answer; raises CharonRefused when charon says no or does not know it."""
        deadline_s = self._clock() + timeout_s
        self._send(Packet.request(command, Message.serialize(message)), deadline_s)
        streamed: list[Mapping[str, object]] = []
        while True:
            received = self._receive(deadline_s)
            if received.type == Packet.EVENT:
                streamed.append(received.message)
            elif received.type == Packet.CMD_RESPONSE:
                _refuse(command, received.message)
                return Answer(received.message, tuple(streamed))
            elif received.type == Packet.CMD_UNKNOWN:
                raise CharonRefused(command, "this charon does not know the command")
            else:
                raise CharonGone(f"{self._path}: packet type {received.type} answers {command}")

    def next_event(self, stall_s: float) -> tuple[str, Mapping[str, object]]:
        """Wait, however long, for an event; once it has begun it must be complete within `stall_s`."""
        while not self._events:
            if not self._buffer:
                with self._gone("connection lost"):
                    self._socket.settimeout(None)
                    self._take(self._socket.recv(RECEIVE_BYTES))
            received = self._receive(self._clock() + stall_s)
            if received.type == Packet.EVENT:
                self._events.append((received.event, received.message))
        return self._events.popleft()

    def _send(self, packet: bytes, deadline_s: float) -> None:
        with self._gone("cannot send"):
            self._socket.settimeout(self._left(deadline_s))
            self._socket.sendall(LENGTH.pack(len(packet)) + packet)

    def _receive(self, deadline_s: float) -> Received:
        while True:
            segment = self._segment(deadline_s)
            try:
                return parse_packet(segment)
            except WireError as error:
                if segment[:1] != bytes([Packet.EVENT]):
                    raise CharonGone(f"{self._path}: {error}") from error
                self.malformed += 1  # one bad event is no reason to lose the connection

    def _segment(self, deadline_s: float) -> bytes:
        while True:
            if len(self._buffer) >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._buffer)
                if not 0 < length <= SEGMENT_LIMIT:
                    raise CharonGone(f"{self._path}: a packet of {length} bytes, outside 1..{SEGMENT_LIMIT}")
                end = LENGTH.size + length
                if len(self._buffer) >= end:
                    segment = bytes(self._buffer[LENGTH.size : end])
                    del self._buffer[:end]
                    return segment
            with self._gone("no answer"):
                self._socket.settimeout(self._left(deadline_s))
                self._take(self._socket.recv(RECEIVE_BYTES))

    def _take(self, data: bytes) -> None:
        if not data:
            raise ConnectionResetError("closed by charon")
        self._buffer += data

    def _left(self, deadline_s: float) -> float:
        left_s = deadline_s - self._clock()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s

    @contextmanager
    def _gone(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CharonGone(f"{self._path}: {what}: {error.strerror or error}") from error


def parse_packet(segment: bytes) -> Received:
    """A packet with its message; raises WireError for what the library cannot take apart."""
    try:
        packet = Packet.parse(segment)
        event = packet.event_type.decode() if packet.response_type == Packet.EVENT else ""
        has_message = packet.response_type in (Packet.CMD_RESPONSE, Packet.EVENT)
        message = Message.deserialize(packet.payload) if has_message else {}
    except (struct.error, ValueError, DeserializationException) as error:
        raise WireError("vici packet", 0, f"{type(error).__name__}: {error}") from error
    return Received(packet.response_type, event, message)


def _refuse(command: str, message: Mapping[str, object]) -> None:
    if message.get("success", b"yes") == b"yes":
        return
    reason = message.get("errmsg", b"no reason given")
    raise CharonRefused(command, reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason))
