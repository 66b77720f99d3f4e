"""A netlink socket of netfilter: what nftables and NFQUEUE need besides."""

import select
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from swanroam.kernel.netlink import NetlinkSocket
from swanroam.wire.netlink import NetlinkMessage

__all__ = ["NetfilterSocket"]

NETLINK_NETFILTER: Final = 12
SO_RCVBUFFORCE: Final = 33
RECEIVE_BUFFER: Final = 1 << 22


class NetfilterSocket(NetlinkSocket):
    """A NETLINK_NETFILTER socket with room for bursts of packets and events. Raises KernelRefused as its base."""

    def __init__(self, groups: Iterable[int] = ()) -> None:
        super().__init__(NETLINK_NETFILTER, groups)
        self._ready = select.poll()
        self._ready.register(self.fileno(), select.POLLIN)
        # The limit of net.core.rmem_max, 208 KiB on most machines, is some 150 packets. Without the capability for
        # more (CAP_NET_ADMIN of the initial user namespace) the buffer stays as it is.
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)

    def receive(self, operation: str, *, block: bool = True) -> list[NetlinkMessage]:
        """As its base; without `block` it does not wait for the socket's timeout, which Python would do."""
        if not block and not self._ready.poll(0):
            return []
        return super().receive(operation, block=block)
