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
from typing import Final

from swanroam.errors import KernelRefused
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.kernel.nft import run_nft
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
    label_of,
    local_route,
    local_routes_request,
    loopback_address,
    own_local_route,
)

__all__ = ["KeptAddresses"]

NETLINK_ROUTE: Final = 0
LABEL: Final = "lo:swanroam"
"""What our addresses on the loopback interface are known by, also after a crash (at most 15 characters)."""

TABLE: Final = """
table ip {table}
delete table ip {table}
"""
RULES: Final = """
table ip {table} {{
  chain out {{
    type filter hook postrouting priority srcnat + 10; policy accept;
    {out}
  }}
  chain in {{
    type filter hook prerouting priority raw - 10; policy accept;
    {into}
  }}
}}
"""
OUT: Final = "ip saddr {kept} ip daddr {remote} udp sport {{ 500, 4500 }} ip saddr set {actual}"
INTO: Final = "ip saddr {remote} ip daddr {actual} udp dport {{ 500, 4500 }} ip daddr set {kept}"


@dataclass(frozen=True, slots=True)
class _Kept:
    kept: IPAddress
    actual: IPAddress
    remote: IPAddress


class KeptAddresses:
    """The addresses kept on this machine, by tunnel. Methods raise KernelRefused."""

    def __init__(self, *, table: str = "swanroam_kept", program: str = "nft") -> None:
        self._table, self._program = table, program
        self._kept: dict[TunnelKey, _Kept] = {}
        self._held: set[IPAddress] = set()
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def clean(self) -> None:
        """Remove what a daemon that was killed left behind."""
        left = self._left()
        for address in left:
            self._remove(address)
        if left:
            self._load()
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
            if self._kept:
                kept, self._kept = {each.kept for each in self._kept.values()}, {}
                self._load()
                for address in kept:
                    self._remove(address)
        finally:
            self._socket.close()

    def keep(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Let a tunnel go on with an address while the terminal is at another. IPv4 only (EAFNOSUPPORT)."""
        if kept.version != 4:
            raise KernelRefused(f"keep {kept}", errno.EAFNOSUPPORT)
        before = self._kept.get(key)
        self._kept[key] = _Kept(kept, actual, remote)
        try:
            # Rules first: what left before they are there would be taken for another host by a NAT.
            self._load()
            self._add(kept)
        except KernelRefused:
            self._kept.pop(key)
            if before:
                self._kept[key] = before
            else:
                self._forget(kept)
            raise

    def drop(self, key: TunnelKey) -> None:
        """The tunnel needs its address no longer, or has it again; no error where none was kept."""
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._load()
            self._forget(gone.kept)

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

    def _forget(self, address: IPAddress) -> None:
        if all(each.kept != address for each in self._kept.values()):
            self._remove(address)

    def _load(self) -> None:
        rules = TABLE.format(table=self._table)
        if self._kept:
            each = [
                {"kept": one.kept, "actual": one.actual, "remote": one.remote}
                for one in dict.fromkeys(self._kept.values())
            ]
            out = "\n    ".join(OUT.format(**one) for one in each)
            into = "\n    ".join(INTO.format(**one) for one in each)
            rules += RULES.format(table=self._table, out=out, into=into)
        run_nft(self._program, rules, self._table)

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
        return [address for message in messages if (address := label_of(message, LABEL)) is not None]
