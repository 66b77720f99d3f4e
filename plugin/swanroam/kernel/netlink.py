"""A netlink socket: requests with their answers, and multicast events (man 7 netlink).

Requests are answered by the kernel within the system call that sends them, so they are made synchronously: a move of
a tunnel is a handful of system calls on one socket and never waits for a thread or an event loop.
"""

import errno
import itertools
import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from swanroam.errors import KernelRefused, WireError
from swanroam.wire.netlink import NLMSG_DONE, NLMSG_ERROR, Flag, NetlinkMessage, pack_message, unpack_messages

__all__ = ["NetlinkSocket"]

SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
RECEIVE_BYTES: Final = 1 << 18
RECEIVE_BUFFER: Final = 1 << 21
"""Bytes that wait in the kernel; beyond that events are lost (ENOBUFS)."""
ANSWER_TIMEOUT_S: Final = 5


class NetlinkSocket:
    """One netlink socket of `family` (NETLINK_XFRM 6, NETLINK_NETFILTER 12), joined to multicast `groups`.

    Use one socket for requests and another for events. Every method may raise KernelRefused with the kernel's errno.
    """

    def __init__(
        self,
        family: int,
        groups: Iterable[int] = (),
        answer_timeout_s: int = ANSWER_TIMEOUT_S,
    ) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sequence = itertools.count(1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
            # Not settimeout(): with it Python polls before each call, which costs a system call, and waits for the
            # whole time also where MSG_DONTWAIT is given.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", answer_timeout_s, 0))
        except OSError as error:
            self._socket.close()
            raise KernelRefused(f"netlink socket of family {family}", error.errno or errno.EIO) from error

    def fileno(self) -> int:
        """The file descriptor, for an event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; closing twice does nothing."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def request(self, operation: str, type_: int, payload: bytes, flags: int = 0) -> list[NetlinkMessage]:
        """Send one request and return the messages that answer it, without the closing acknowledgement.

        `operation` names the request in errors. A dump is asked for with Flag.DUMP in `flags`.
        """
        sequence = next(self._sequence) & 0xFFFFFFFF
        self.send(operation, pack_message(type_, flags | Flag.REQUEST | Flag.ACK, sequence, payload))
        answers: list[NetlinkMessage] = []
        while True:
            for message in self.receive(operation):
                if message.sequence != sequence:
                    continue  # the late answer to a request that timed out
                if message.type == NLMSG_DONE:
                    return answers
                if message.type == NLMSG_ERROR:
                    if message.error:
                        raise KernelRefused(operation, message.error)
                    return answers
                answers.append(message)

    def send(self, operation: str, data: bytes) -> None:
        """Send ready bytes: one message, or a batch."""
        try:
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise KernelRefused(operation, error.errno or errno.EIO) from error

    def receive(self, operation: str, *, block: bool = True) -> list[NetlinkMessage]:
        """The messages of one datagram, an empty list when `block` is false and there is none.

        Raises KernelRefused with ENOBUFS when the kernel had to drop events: the caller must read the state anew; with
        ETIMEDOUT when the kernel does not answer; with EBADMSG for a datagram that cannot be parsed.
        """
        try:
            data, _ancillary, flags, sender = self._socket.recvmsg(
                RECEIVE_BYTES, 0, 0 if block else socket.MSG_DONTWAIT
            )
        except BlockingIOError as error:
            if block:
                raise KernelRefused(operation, errno.ETIMEDOUT) from error
            return []
        except OSError as error:
            raise KernelRefused(operation, error.errno or errno.EIO) from error
        if sender[0] != 0:
            return []  # another process, not the kernel
        if flags & socket.MSG_TRUNC:
            raise KernelRefused(operation, errno.EMSGSIZE)
        try:
            return list(unpack_messages(data))
        except WireError as error:
            raise KernelRefused(f"{operation} ({error})", errno.EBADMSG) from error

    def own_port(self) -> int:
        """The port id that the kernel gave this socket (0 before the bind)."""
        return int(self._socket.getsockname()[0])
