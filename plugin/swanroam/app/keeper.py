"""Tunnels to records and back: what is worth knowing after a restart.

Times are monotonic in the core and in seconds since the epoch on disk: a monotonic clock means nothing to the next
process.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final, Protocol

from swanroam.app.records import Record
from swanroam.core.table import Table
from swanroam.core.tunnel import LastMove, Tunnel
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Role, TunnelKey

__all__ = ["StoreKeeper", "recall"]

NOWHERE: Final = Path(Endpoint(IPv4Address(0), 0), Endpoint(IPv4Address(0), 0))


CALENDAR_S: Final = 1e11
"""Seconds since the epoch that every calendar can show, three thousand years of them; no move takes as long."""


STEP_S: Final = 1.0
"""By how much the time of day may be off before it is taken anew."""


class Records(Protocol):
    """The part of the store that keeping needs."""

    def put(self, record: Record) -> None:
        """Write a record."""

    def remove(self, key: TunnelKey) -> None:
        """Remove a record."""


class StoreKeeper:
    """Writes tunnels of the table to the store. `clock` gives monotonic seconds, `wall` seconds since the epoch."""

    def __init__(self, store: Records, table: Table, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._store, self._table, self._clock, self._wall = store, table, clock, wall
        self._epoch_s = wall() - clock()

    def persist(self, key: TunnelKey) -> None:
        """Write what is known of a tunnel; one that is gone by now is left out."""
        tunnel = self._table.get(key)
        if tunnel is None:
            return
        record = Record(
            key=key,
            capability=tunnel.capability,
            # Every inbound SPI is there, also those that moved nothing yet: by them the tunnel is known again.
            highest={spi: tunnel.highest.get(spi, 0) for spi in tunnel.spis},
            moves=tunnel.moves,
            last_move=_shifted(tunnel.last_move, self._epoch()),
            rejected=tunnel.rejected,
            update_sequence=tunnel.update_sequence,
        )
        self._store.put(record)

    def _epoch(self) -> float:
        """When the monotonic clock was 0; the same each time, so that what did not change is not written again."""
        epoch_s = self._wall() - self._clock()
        if abs(epoch_s - self._epoch_s) > STEP_S:
            self._epoch_s = epoch_s
        return self._epoch_s

    def forget(self, key: TunnelKey) -> None:
        """Remove a tunnel from the store."""
        self._store.remove(key)


def recall(
    records: Iterable[Record], role: Role, clock_s: float, wall_s: float
) -> Iterator[tuple[Tunnel, frozenset[int]]]:
    """The tunnels of records, with their inbound SPIs; charon and the kernel say where they are now."""
    for record in records:
        tunnel = Tunnel(
            key=record.key,
            role=role,
            sas=(),
            path=NOWHERE,
            capability=record.capability,
            highest=record.highest,
            moves=record.moves,
            last_move=_shifted(_credible(record.last_move), clock_s - wall_s),
            rejected=record.rejected,
            update_sequence=record.update_sequence,
        )
        yield tunnel, frozenset(record.highest)


def _credible(move: LastMove | None) -> LastMove | None:
    """The move, unless its times are none: a file that was damaged must not keep the status from being shown."""
    if move is None or not (0 <= move.at_s < CALENDAR_S and 0 <= move.duration_s < CALENDAR_S):
        return None
    return move


def _shifted(move: LastMove | None, by_s: float) -> LastMove | None:
    return None if move is None else replace(move, at_s=move.at_s + by_s)
