"""The tunnel table (patent page 11, item 740): inner address -> tunnel, inbound SPI -> tunnel, IKE_SA -> tunnel.

The kernel finds the tunnel of a downlink packet by its outbound policies, whose selectors are the inner addresses;
this table is the mirror of that for decisions and for people.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Generic, TypeVar

from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import IkeSa, TunnelKey

__all__ = ["Table"]

Entry = TypeVar("Entry")


class Index(Generic[Entry]):
    """From entries to the tunnels that have them. Claimed twice, an entry is the last claimant's, while that exists."""

    def __init__(self) -> None:
        self._claims: dict[Entry, tuple[TunnelKey, ...]] = {}

    def find(self, entry: Entry) -> TunnelKey | None:
        """The tunnel that has this entry."""
        claims = self._claims.get(entry)
        return claims[-1] if claims else None

    def all(self, entry: Entry) -> tuple[TunnelKey, ...]:
        """The tunnels that have this entry, where several may."""
        return self._claims.get(entry, ())

    def replace(self, key: TunnelKey, old: Collection[Entry], new: Collection[Entry]) -> None:
        """A tunnel has other entries now; those that it keeps it does not claim anew."""
        for entry in set(old) - set(new):
            left = tuple(other for other in self._claims[entry] if other != key)
            if left:
                self._claims[entry] = left
            else:
                del self._claims[entry]
        for entry in set(new) - set(old):
            self._claims[entry] = (*self._claims.get(entry, ()), key)


class Table:
    """All tunnels, and the ways to find them."""

    def __init__(self) -> None:
        self._tunnels: dict[TunnelKey, Tunnel] = {}
        self._by_inner: Index[IPAddress] = Index()
        self._by_spi: Index[int] = Index()
        self._by_spi_out: Index[int] = Index()
        self._by_reqid: Index[int] = Index()
        self._by_ike: Index[int] = Index()
        self._by_ike_spi: Index[int] = Index()

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
        return self._find(self._by_inner.find(address))

    def by_spi(self, spi: int) -> Tunnel | None:
        """The tunnel that receives on this SPI: uplink."""
        return self._find(self._by_spi.find(spi))

    def sending_on(self, spi: int) -> tuple[Tunnel, ...]:
        """The tunnels that send on this SPI, which other ends choose: there may be several."""
        return tuple(self._tunnels[key] for key in self._by_spi_out.all(spi))

    def of_reqid(self, reqid: int) -> tuple[Tunnel, ...]:
        """The tunnels with a CHILD_SA of this reqid: several where an operator gave them the same."""
        return tuple(self._tunnels[key] for key in self._by_reqid.all(reqid))

    def by_ike(self, unique_id: int) -> Tunnel | None:
        """The tunnel that this IKE_SA belongs to."""
        return self._find(self._by_ike.find(unique_id))

    def by_ike_spi(self, initiator_spi: int) -> Tunnel | None:
        """The tunnel with an IKE_SA of this initiator's SPI."""
        return self._find(self._by_ike_spi.find(initiator_spi))

    def related(self, sas: Iterable[IkeSa], unique_ids: Iterable[int] = ()) -> tuple[Tunnel, ...]:
        """The tunnels of these IKE_SAs, those with an inner address or a reqid in common with them, and so on."""
        left = list(sas)
        keys = [key for unique_id in unique_ids for key in self._by_ike.all(unique_id)]
        found: dict[TunnelKey, Tunnel] = {}
        while keys or left:
            if keys:
                key = keys.pop()
                if key not in found:
                    found[key] = self._tunnels[key]
                    left += found[key].sas
            else:
                keys += self._claiming(left.pop())
        return tuple(found.values())

    def _claiming(self, sa: IkeSa) -> Iterator[TunnelKey]:
        yield from self._by_ike.all(sa.unique_id)
        for inner in (*sa.local_vips, *sa.remote_vips):
            yield from self._by_inner.all(inner)
        for child in sa.children:
            yield from self._by_reqid.all(child.reqid) if child.reqid else ()

    def put(self, tunnel: Tunnel) -> None:
        """Insert a tunnel, or replace the one with its key."""
        known = self._tunnels.get(tunnel.key)
        if known is None or known.sas is not tunnel.sas:
            # All that a tunnel is found by is in its key and its IKE_SAs.
            self._index(tunnel.key, known, tunnel)
        self._tunnels[tunnel.key] = tunnel

    def remove(self, key: TunnelKey) -> Tunnel | None:
        """Take a tunnel out; returns it, or None when there is none."""
        tunnel = self._tunnels.pop(key, None)
        self._index(key, tunnel, None)
        return tunnel

    def _index(self, key: TunnelKey, old: Tunnel | None, new: Tunnel | None) -> None:
        self._by_inner.replace(key, old.key.inner if old else (), new.key.inner if new else ())
        self._by_spi.replace(key, old.spis if old else (), new.spis if new else ())
        self._by_spi_out.replace(key, _spis_out(old), _spis_out(new))
        self._by_reqid.replace(key, _reqids(old), _reqids(new))
        self._by_ike.replace(key, _ids(old) if old else (), _ids(new) if new else ())
        self._by_ike_spi.replace(key, _spis(old) if old else (), _spis(new) if new else ())

    def _find(self, key: TunnelKey | None) -> Tunnel | None:
        return None if key is None else self._tunnels.get(key)


def _spis(tunnel: Tunnel) -> tuple[int, ...]:
    return tuple(sa.initiator_spi for sa in tunnel.sas)


def _ids(tunnel: Tunnel) -> tuple[int, ...]:
    return tuple(sa.unique_id for sa in tunnel.sas)


def _spis_out(tunnel: Tunnel | None) -> tuple[int, ...]:
    return tuple(child.spi_out for child in tunnel.children) if tunnel else ()


def _reqids(tunnel: Tunnel | None) -> tuple[int, ...]:
    return tuple(child.reqid for child in tunnel.children) if tunnel else ()
