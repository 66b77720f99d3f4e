"""The tunnel table (patent page 11, item 740): inner address -> tunnel, inbound SPI -> tunnel, IKE_SA -> tunnel.

The kernel finds the tunnel of a downlink packet by its outbound policies, whose selectors are the inner addresses;
this table is the mirror of that for decisions and for people.
"""

from collections.abc import Iterator
from typing import TypeVar

from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import IkeSa, TunnelKey

__all__ = ["Table"]

Entry = TypeVar("Entry")


class Table:
    """All tunnels, and the ways to find them. An SPI or inner address claimed twice belongs to the last put."""

    def __init__(self) -> None:
        self._tunnels: dict[TunnelKey, Tunnel] = {}
        self._by_inner: dict[IPAddress, TunnelKey] = {}
        self._by_spi: dict[int, TunnelKey] = {}
        self._by_ike: dict[int, TunnelKey] = {}

    def __len__(self) -> int:
        return len(self._tunnels)

    def __iter__(self) -> Iterator[Tunnel]:
        return iter(tuple(self._tunnels.values()))

    def __contains__(self, key: TunnelKey) -> bool:
        return key in self._tunnels

    def get(self, key: TunnelKey) -> Tunnel | None:
        """The tunnel with this key."""
        return self._tunnels.get(key)

    def by_inner(self, address: IPAddress) -> Tunnel | None:
        """The tunnel whose terminal has this inner address: downlink."""
        return self._find(self._by_inner.get(address))

    def by_spi(self, spi: int) -> Tunnel | None:
        """The tunnel that receives on this SPI: uplink."""
        return self._find(self._by_spi.get(spi))

    def by_ike(self, unique_id: int) -> Tunnel | None:
        """The tunnel that this IKE_SA belongs to."""
        return self._find(self._by_ike.get(unique_id))

    def sas(self) -> tuple[IkeSa, ...]:
        """The IKE_SAs of all tunnels."""
        return tuple(sa for tunnel in self._tunnels.values() for sa in tunnel.sas)

    def put(self, tunnel: Tunnel) -> None:
        """Insert a tunnel, or replace the one with its key."""
        self.remove(tunnel.key)
        self._tunnels[tunnel.key] = tunnel
        for address in tunnel.key.inner:
            self._by_inner[address] = tunnel.key
        for spi in tunnel.spis:
            self._by_spi[spi] = tunnel.key
        for sa in tunnel.sas:
            self._by_ike[sa.unique_id] = tunnel.key

    def remove(self, key: TunnelKey) -> Tunnel | None:
        """Take a tunnel out; returns it, or None when there is none."""
        tunnel = self._tunnels.pop(key, None)
        if tunnel is None:
            return None
        _drop(self._by_inner, tunnel.key.inner, key)
        _drop(self._by_spi, tunnel.spis, key)
        _drop(self._by_ike, tuple(sa.unique_id for sa in tunnel.sas), key)
        return tunnel

    def _find(self, key: TunnelKey | None) -> Tunnel | None:
        return None if key is None else self._tunnels.get(key)


def _drop(index: dict[Entry, TunnelKey], entries: tuple[Entry, ...], key: TunnelKey) -> None:
    for entry in entries:
        if index.get(entry) == key:
            del index[entry]
