"""Sending through the tunnel: in-tunnel messages, and dummies.

The gateway answers from whatever address of its traffic selector the terminal wrote to, so sources need not be
addresses of this machine (IP_TRANSPARENT), and routing and policies see the source that a packet will have
(IP_PKTINFO; man 7 ip). Nothing is received here: messages come by NFQUEUE, bound to the SPI that decrypted them, and a
packet in clear text must never be taken for one.

Of policies that are for marked packets (`mark_out`) those that are sent have the mark.
"""

import errno
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from swanroam.errors import KernelRefused
from swanroam.kernel.socketfilter import RETURN, attach
from swanroam.model.path import IPAddress
from swanroam.wire.inner import dummy

__all__ = ["TunnelSender"]

IP_PKTINFO: Final = 8
IPV6_PKTINFO: Final = 50
IPV6_TRANSPARENT: Final = 75
NOTHING: Final = ((RETURN, 0, 0, 0),)


class TunnelSender:
    """UDP and ICMP sockets for both IP versions; without IPv6 in the kernel, for IPv4.

    The packet filter drops what would leave outside of a tunnel; it must be installed before anything is sent.
    Raises KernelRefused: EADDRINUSE when another program has the port.
    """

    def __init__(
        self, *, port: int = 4555, mark: Callable[[IPAddress, IPAddress], int] = lambda _source, _destination: 0
    ) -> None:
        self._port = port
        self._mark = mark
        self._udp: dict[int, socket.socket] = {}
        self._icmp: dict[int, socket.socket] = {}
        try:
            self._open(4, socket.AF_INET, socket.IPPROTO_ICMP)
            self._open(6, socket.AF_INET6, socket.IPPROTO_ICMPV6)
        except OSError as error:
            self.close()
            raise KernelRefused(f"sockets for UDP port {port}", error.errno or errno.EIO) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        for opened in (*self._udp.values(), *self._icmp.values()):
            opened.close()

    def send(self, source: IPAddress, destination: IPAddress, payload: bytes) -> None:
        """Send a message. Raises KernelRefused; EPERM while charon replaces policies, or when there is no tunnel."""
        self._send(self._udp, source, destination, self._port, payload)

    def send_dummy(self, source: IPAddress, destination: IPAddress) -> None:
        """Send a dummy, which the other end drops after decapsulation. Raises KernelRefused as `send`."""
        self._send(self._icmp, source, destination, 0, dummy(source.version))

    def _open(self, version: int, family: socket.AddressFamily, icmp: int) -> None:
        try:
            udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            if version == 6 and error.errno == errno.EAFNOSUPPORT:
                return
            raise
        self._udp[version] = udp
        self._icmp[version] = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, icmp)
        for opened in (udp, self._icmp[version]):
            opened.setblocking(False)
            attach(opened, NOTHING)
            if version == 4:
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
            else:
                opened.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        if version == 6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.bind(("", self._port))

    def _send(
        self, sockets: dict[int, socket.socket], source: IPAddress, destination: IPAddress, port: int, payload: bytes
    ) -> None:
        operation = f"send from {source} to {destination}"
        if source.version != destination.version or source.version not in sockets:
            raise KernelRefused(operation, errno.EAFNOSUPPORT)
        if source.version == 4:
            control = [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4s", 0, source.packed, bytes(4)))]
        else:
            control = [(socket.IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("=16sI", source.packed, 0))]
        if mark := self._mark(source, destination):
            control.append((socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark)))
        try:
            sockets[source.version].sendmsg([payload], control, 0, (str(destination), port))
        except OSError as error:
            raise KernelRefused(operation, error.errno or errno.EIO) from error
