"""The address repository from rtnetlink: links, addresses and routes as they are, and as they change (man 7 rtnetlink).

One socket carries both the dumps and the events, so that the kernel's own order tells which of them is newer. Events
are applied as they come, and what they do not tell is read anew:

- the kernel says nothing of IPv4 routes that go because their interface goes down or their source address is removed
  (fib_frontend.c, fib_disable_ip; fib_semantics.c, fib_sync_down_addr). They are taken out at once by the same rules,
  and a dump of the routes is asked for whose answer, later, has the last word;
- events that were lost (ENOBUFS) or cannot be read: everything is dumped anew.
"""

import errno
import logging
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.repository import Tables
from swanroam.kernel.socketfilter import ALL as WHOLE
from swanroam.kernel.socketfilter import JUMP_IF_ANY, JUMP_IF_EQUAL, LOAD_BYTE, LOAD_HALF, RETURN, attach
from swanroam.model.path import Repository
from swanroam.wire.netlink import NLMSG_DONE, NLMSG_ERROR, Flag, NetlinkMessage, pack_message, unpack_messages
from swanroam.wire.rtnetlink import (
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    TABLES,
    Change,
    decode_change,
    route_request,
)

__all__ = ["RouteSocket", "RouteSource", "open_rtnetlink"]

LOG: Final = logging.getLogger(__name__)

ADDRESS_GROUPS: Final = (1, 5, 9)
"""RTNLGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR."""
ROUTE_GROUPS: Final = (7, 11)
"""RTNLGRP_IPV4_ROUTE, _IPV6_ROUTE."""
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_GET_STRICT_CHK: Final = 12
NLM_F_DUMP_INTR: Final = 0x10
RECEIVE_BYTES: Final = 1 << 16
RECEIVE_BUFFER: Final = 1 << 21
BATCH: Final = 1000
"""Datagrams that one call of process() takes, so that a flood of events cannot hold the event loop for long."""
ANSWER_S: Final = 5.0


def _in_host_order(number: int) -> int:
    # What BPF, which reads network byte order, makes of a number that the kernel wrote as it is.
    return int.from_bytes(struct.pack("=H", number))


FILTER: Final = (
    (LOAD_HALF, 0, 0, 4),  # nlmsghdr.type
    (JUMP_IF_EQUAL, 1, 0, _in_host_order(RTM_NEWROUTE)),
    (JUMP_IF_EQUAL, 0, 5, _in_host_order(RTM_DELROUTE)),
    (LOAD_HALF, 0, 0, 6),  # nlmsghdr.flags
    (JUMP_IF_ANY, 3, 0, _in_host_order(Flag.MULTI)),
    (LOAD_BYTE, 0, 0, 20),  # rtmsg.table
    (JUMP_IF_EQUAL, 1, 0, TABLES[0]),
    (JUMP_IF_EQUAL, 0, 1, TABLES[1]),
    (RETURN, 0, 0, WHOLE),
    (RETURN, 0, 0, 0),
)
"""Events about routes of other tables are not taken: with each address that comes or goes there are several of the
local table. The answers to a dump come many in a datagram and are taken as they are."""


class RouteSocket(Protocol):
    """A non-blocking rtnetlink socket."""

    port: int
    """The port id that answers to this socket carry."""

    def fileno(self) -> int:
        """The file descriptor, for an event loop."""

    def send(self, data: bytes) -> object:
        """Send a request. Raises OSError."""

    def receive(self) -> bytes | None:
        """One datagram of the kernel, None when there is none. Raises OSError, ENOBUFS when events were lost."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is a datagram; false when there was none in time."""

    def close(self) -> None:
        """Close the socket."""


class _KernelSocket:
    """The RouteSocket of the kernel."""

    def __init__(self, *, routes: bool) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            with suppress(OSError):  # Linux before 4.20 dumps all tables: slower, and sorted out when decoded
                self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            self._socket.bind((0, 0))
            for group in (*ADDRESS_GROUPS, *(ROUTE_GROUPS if routes else ())):
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            attach(self._socket, FILTER)
        except OSError:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[0])
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.fileno, self.send, self.close = self._socket.fileno, self._socket.send, self._socket.close

    def receive(self) -> bytes | None:
        try:
            # With MSG_TRUNC as a request the length is that of the datagram, not of what fits.
            length, sender = self._socket.recvfrom_into(self._buffer, 0, socket.MSG_TRUNC)
        except BlockingIOError:
            return None
        if length > RECEIVE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return bytes(self._buffer[:length]) if sender[0] == 0 else b""  # only the kernel is believed

    def wait(self, timeout_s: float) -> bool:
        return bool(select.select([self._socket], [], [], timeout_s)[0])


def open_rtnetlink(*, routes: bool = True) -> RouteSocket:
    """A socket that is told of links and addresses, and of routes where wanted. Raises KernelRefused."""
    try:
        return _KernelSocket(routes=routes)
    except OSError as error:
        raise KernelRefused("rtnetlink socket", error.errno or errno.EIO) from error


@dataclass(frozen=True, slots=True)
class _Request:
    type: int
    payload: bytes


ROUTES: Final = tuple(
    _Request(RTM_GETROUTE, route_request(family, table))
    for family in (socket.AF_INET, socket.AF_INET6)
    for table in TABLES
)
ADDRESSES: Final = (_Request(RTM_GETLINK, bytes(16)), _Request(RTM_GETADDR, bytes(8)))


@dataclass(slots=True)
class _Dump:
    """A dump under way: what is still to be asked, and what the answers said so far."""

    waiting: deque[_Request]
    began_s: float
    complete: bool
    """Links and addresses too, not only routes."""
    fresh: Tables
    sequence: int = 0
    again: bool = False
    """The state changed under the dump: the next one is due when this one ends."""


class RouteSource:
    """Keeps the address repository. `start` reads it; then watch `fileno` and call `process` when it is readable.

    `decode_dump` reads the messages of the first dump and of those after losses; None: pyroute2's message classes.
    Without `routes` the repository has none: a gateway, which may have very many, has no use for them.
    """

    def __init__(
        self,
        *,
        open_socket: Callable[[], RouteSocket] | None = None,
        decode_dump: Callable[[NetlinkMessage], Change | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        routes: bool = True,
    ) -> None:
        self._decode_dump, self._clock = decode_dump or _pyroute2_decoder(), clock
        self._socket = open_socket() if open_socket else open_rtnetlink(routes=routes)
        self._route_requests = ROUTES if routes else ()
        self._sequence = 0
        self._tables = Tables()
        self._dump: _Dump | None = None
        self._doubtful = False
        self._repository: Repository | None = None
        self.resyncs = 0
        """Dumps of everything because events were lost or unreadable."""
        self.malformed = 0
        """Messages and datagrams that could not be read."""

    @property
    def repository(self) -> Repository:
        """What `start` or `process` returned last."""
        return self._repository or Repository()

    def fileno(self) -> int:
        """The file descriptor, for an event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; closing twice does nothing."""
        self._socket.close()

    def start(self) -> Repository:
        """Read everything; takes a few milliseconds. Raises KernelRefused when the kernel does not answer."""
        self._begin(complete=True)
        deadline_s = self._clock() + ANSWER_S
        while self._dump:
            left_s = deadline_s - self._clock()
            if left_s <= 0 or not self._socket.wait(left_s):
                raise KernelRefused("rtnetlink dump", errno.ETIMEDOUT)
            self._drain()
        self._repository = self._tables.repository()
        return self._repository

    def process(self, *, ask: bool = True) -> Repository | None:
        """Take in what the kernel told; the new repository, or None when nothing in it changed. Never raises.

        What the events do not tell is asked for, or, without `ask`, by a later call: that can wait, and a move cannot.
        """
        self._doubtful |= self._drain()
        now = self._tables.repository()
        overdue = self._dump is not None and self._clock() - self._dump.began_s > ANSWER_S
        if self._doubtful and self._dump:
            self._dump.again = True
            self._doubtful = False
        if ask and (self._doubtful or overdue):
            self._doubtful = False
            self._begin(complete=self._dump is not None and self._dump.complete)
        if now == self._repository:
            return None
        self._repository = now
        return now

    def _drain(self) -> bool:
        """Take in all that is there; whether routes may have gone without a word."""
        doubtful = False
        for _ in range(BATCH):
            try:
                data = self._socket.receive()
                if data is None:
                    break
                for message in unpack_messages(data):
                    doubtful |= self._take(message)
            except OSError as error:
                self._resync(f"events were lost: {error.strerror}")
                break  # what is left makes the socket readable again
            except WireError as error:
                self.malformed += 1
                self._resync(str(error))
        return doubtful

    def _take(self, message: NetlinkMessage) -> bool:
        dump = self._dump
        if dump and message.sequence == dump.sequence and message.port == self._socket.port:
            self._take_answer(dump, message)
            return False
        change = decode_change(message)
        if change is None:
            return False
        if dump:
            dump.fresh.apply(change)
        self._tables.apply(change)
        return self._tables.drop_silently(change)

    def _take_answer(self, dump: _Dump, message: NetlinkMessage) -> None:
        if message.type in (NLMSG_DONE, NLMSG_ERROR):
            # A table that does not exist is refused (ENOENT): it has no routes.
            self._next(dump)
            return
        dump.again = dump.again or bool(message.flags & NLM_F_DUMP_INTR)
        try:
            change = self._decode_dump(message) if dump.complete else decode_change(message)
        except WireError as error:
            self.malformed += 1  # dumping again would bring the same message again
            LOG.debug("rtnetlink: %s", error)
            return
        if change:
            dump.fresh.load(change.fact)

    def _resync(self, why: str) -> None:
        self.resyncs += 1
        LOG.debug("rtnetlink: %s; reading everything anew", why)
        if self._dump:
            self._dump.again = self._dump.complete = True
        else:
            self._begin(complete=True)

    def _begin(self, *, complete: bool) -> None:
        requests = (*(ADDRESSES if complete else ()), *self._route_requests)
        self._dump = _Dump(deque(requests), self._clock(), complete, Tables())
        self._next(self._dump)

    def _next(self, dump: _Dump) -> None:
        """Ask for the next part: the kernel makes one dump at a time on a socket."""
        if not dump.waiting:
            self._finish(dump)
            return
        request = dump.waiting.popleft()
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        dump.sequence = self._sequence
        try:
            self._socket.send(pack_message(request.type, Flag.REQUEST | Flag.DUMP, dump.sequence, request.payload))
        except OSError as error:
            LOG.debug("rtnetlink: cannot ask: %s", error)  # asked again when the dump is overdue

    def _finish(self, dump: _Dump) -> None:
        self._dump = None
        if dump.again:
            self._begin(complete=dump.complete)
        else:
            self._tables.adopt(dump.fresh, complete=dump.complete)


def _pyroute2_decoder() -> Callable[[NetlinkMessage], Change | None]:
    # pyroute2's package imports every protocol it knows, 0.2 s: only who keeps a repository is to pay for it.
    from swanroam.kernel.pyroute import decode_change as decode

    return decode
