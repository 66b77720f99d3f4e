"""Addresses that a terminal has left and that charon and the kernel's states go on with (design: NAT-T, one end only).

The gateway's strongSwan follows the terminal of a tunnel in UDP by itself: its kernel reports where authentic packets
come from. This end's charon cannot be told of a new address without losing the ports. So it is not told: the address
stays on the loopback interface, and what goes between it and that gateway on the ports of IKE and ESP in UDP is
rewritten, statelessly, to and from the address that the terminal really has. Nothing else uses it.

Inner addresses, too, are kept here for the moment in which charon, following a move, takes them from one interface to
another: packets for them would find nobody.

Two tunnels to one gateway that were set up at different addresses cannot both be kept at one new address: the first is.
"""

import contextlib
import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from swanroam.errors import KernelRefused
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.netlink import Flag
from swanroam.wire.rtnetlink import (
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    local_route,
    local_routes_request,
    loopback_address,
    own_local_route,
    own_loopback_address,
)

__all__ = ["KeptAddresses"]

NETLINK_ROUTE: Final = 0
LABEL: Final = "lo:swanroam"
"""What our IPv4 addresses on the loopback interface are known by, also after a crash (at most 15 characters)."""


class Translation(Protocol):
    """Where addresses are rewritten on the way. Methods raise KernelRefused."""

    def translate(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Rewrite what goes between `kept` and `remote`, on the ports of IKE and ESP in UDP, to and from `actual`."""

    def untranslate(self, key: TunnelKey) -> None:
        """Stop that; no error where nothing is rewritten for the tunnel."""


@dataclass(frozen=True, slots=True)
class _Kept:
    kept: IPAddress
    actual: IPAddress
    remote: IPAddress


class KeptAddresses:
    """The addresses kept on this machine, by tunnel. Methods raise KernelRefused."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._kept: dict[TunnelKey, _Kept] = {}
        self._held: set[IPAddress] = set()
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def clean(self) -> None:
        """Remove what a daemon that was killed left behind."""
        for address in self._left():
            self._remove(address)
        dumps = [
            self._socket.request("routes", RTM_GETROUTE, local_routes_request(version), Flag.DUMP) for version in (4, 6)
        ]
        routes = (message for dump in dumps for message in dump)
        self._held = {held for message in routes if (held := own_local_route(message)) is not None}
        self.release(self._held)

    def close(self) -> None:
        """Remove everything, and close the socket."""
        try:
            self.release(self._held)
            for key in tuple(self._kept):
                self.drop(key)
        finally:
            self._socket.close()

    def keep(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Let a tunnel go on with an address while the terminal is at another."""
        before = self._kept.get(key)
        try:
            # Before the address is there: what left untranslated would be taken for another host by a NAT.
            self._translation.translate(key, kept, actual, remote)
            self._add(kept)
        except KernelRefused:
            with contextlib.suppress(KernelRefused):
                if before:
                    self._translation.translate(key, before.kept, before.actual, before.remote)
                else:
                    self._translation.untranslate(key)
            raise
        self._kept[key] = _Kept(kept, actual, remote)

    def drop(self, key: TunnelKey) -> None:
        """The tunnel needs its address no longer, or has it again; no error where none was kept."""
        gone = self._kept.pop(key, None)
        if gone is None:
            return
        try:
            self._translation.untranslate(key)
        finally:
            if all(each.kept != gone.kept for each in self._kept.values()):
                self._remove(gone.kept)

    def hold(self, inner: Iterable[IPAddress]) -> None:
        """Have packets for these inner addresses delivered even while charon moves them to another interface."""
        for address in inner:
            with contextlib.suppress(FileExistsError):
                # Behind the kernel's own route of the same kind, which goes with the address.
                how = Flag.CREATE | (Flag.APPEND if address.version == 4 else Flag.EXCL)
                self._request(f"hold {address}", RTM_NEWROUTE, local_route(address), how)
            self._held.add(address)

    def release(self, inner: Iterable[IPAddress]) -> None:
        """Let go of inner addresses; those that are not held are no error."""
        for address in self._held & set(inner):
            with contextlib.suppress(FileNotFoundError):
                self._request(f"release {address}", RTM_DELROUTE, local_route(address), 0)
            self._held.discard(address)

    def _add(self, address: IPAddress) -> None:
        with contextlib.suppress(FileExistsError):
            payload = loopback_address(address, LABEL)
            self._request(f"add {address}", RTM_NEWADDR, payload, Flag.CREATE | Flag.EXCL)

    def _remove(self, address: IPAddress) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._request(f"remove {address}", RTM_DELADDR, loopback_address(address, LABEL), 0)

    def _request(self, operation: str, type_: int, payload: bytes, flags: int) -> None:
        try:
            self._socket.request(operation, type_, payload, flags)
        except KernelRefused as refused:
            if refused.code == errno.EEXIST:
                raise FileExistsError from refused
            if refused.code in (errno.EADDRNOTAVAIL, errno.ESRCH):
                raise FileNotFoundError from refused
            raise

    def _left(self) -> list[IPAddress]:
        messages = self._socket.request("addresses", RTM_GETADDR, bytes(8), Flag.DUMP)
        return [address for message in messages if (address := own_loopback_address(message, LABEL)) is not None]
