"""What a restarted daemon knows of its tunnels: through the store's records and back."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

import pytest

from swanroam.app.keeper import StoreKeeper, recall
from swanroam.app.records import Record, decode_record, encode_key, encode_record
from swanroam.app.store import Store
from swanroam.core.table import Table
from swanroam.core.tunnel import LastMove, Phase, Tunnel
from swanroam.model.effects import Trigger
from swanroam.model.events import Reason
from swanroam.model.tunnel import Capability, Role, TunnelKey
from tests.support.values import KEY, SPI_UP, A, B, Desk, ike_sa, negotiated, path, with_spis

EPOCH_S = 1_800_000_000.0
LAST = LastMove(
    at_s=990.0,
    old=path(Role.GATEWAY, A),
    new=path(Role.GATEWAY, B),
    trigger=Trigger.PACKET,
    duration_s=0.01,
    validated=True,
)
TUNNEL = Tunnel(
    key=KEY,
    role=Role.GATEWAY,
    sas=(ike_sa(Role.GATEWAY),),
    path=path(Role.GATEWAY, B),
    capability=Capability.NEGOTIATED,
    highest={SPI_UP: 77, 0xDEAD: 5},
    moves=3,
    last_move=LAST,
    rejected={Reason.REPLAYED: 2},
    update_sequence=9,
)


@dataclass(slots=True)
class Kept:
    """A store in memory that keeps what would be on disk."""

    records: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)

    def put(self, record: Record) -> None:
        """As text."""
        key = encode_key(record.key)
        self.records[key] = key.encode(), encode_record(record).encode()

    def remove(self, key: TunnelKey) -> None:
        """Without one nothing happens."""
        self.records.pop(encode_key(key), None)

    def read(self) -> list[Record]:
        """What the next process reads."""
        return [decode_record(*each) for each in self.records.values()]


def persisted(tunnel: Tunnel, clock_s: float = 1000.0) -> Kept:
    kept, table = Kept(), Table()
    table.put(tunnel)
    StoreKeeper(kept, table, lambda: clock_s, lambda: EPOCH_S).persist(tunnel.key)
    return kept


def recalled(records: Iterable[Record], clock_s: float = 5.0, wall_s: float = EPOCH_S + 30) -> Tunnel:
    ((tunnel, _spis),) = recall(records, Role.GATEWAY, clock_s, wall_s)
    return tunnel


def test_a_tunnel_comes_back_with_all_that_charon_and_the_kernel_do_not_tell() -> None:
    ((back, spis),) = recall(persisted(TUNNEL).read(), Role.GATEWAY, 5.0, EPOCH_S + 30)
    assert (back.key, back.role, back.capability) == (KEY, Role.GATEWAY, Capability.NEGOTIATED)
    assert (back.moves, back.rejected, back.update_sequence) == (3, {Reason.REPLAYED: 2}, 9)
    assert (back.phase, back.sas) == (Phase.STEADY, ())
    assert spis == {SPI_UP}


def test_numbers_of_spis_that_are_gone_are_not_kept_and_those_without_any_are_0() -> None:
    two = replace(TUNNEL, sas=(with_spis(ike_sa(Role.GATEWAY), (SPI_UP, 1), (0xC0000002, 2)),))
    (record,) = persisted(two).read()
    assert record.highest == {SPI_UP: 77, 0xC0000002: 0}
    ((_, spis),) = recall([record], Role.GATEWAY, 0.0, EPOCH_S)
    assert spis == {SPI_UP, 0xC0000002}


def test_times_on_disk_are_those_of_the_wall_and_in_memory_those_of_this_boot() -> None:
    (record,) = persisted(TUNNEL, clock_s=1000.0).read()
    assert record.last_move is not None
    assert record.last_move.at_s == EPOCH_S - 10
    back = recalled([record], clock_s=5.0, wall_s=EPOCH_S + 30)
    assert back.last_move is not None
    assert back.last_move.at_s == pytest.approx(5.0 - 40)
    assert replace(back.last_move, at_s=LAST.at_s) == LAST


def test_a_tunnel_that_never_moved_comes_back_so() -> None:
    assert recalled(persisted(replace(TUNNEL, moves=0, last_move=None)).read()).last_move is None


@pytest.mark.parametrize("at_s", [math.inf, -math.inf, math.nan, 1e300, -1e12])
def test_a_time_that_no_calendar_has_is_not_believed(at_s: float) -> None:
    (record,) = persisted(TUNNEL).read()
    back = recalled([replace(record, last_move=replace(LAST, at_s=at_s))])
    assert (back.moves, back.last_move) == (3, None)


@pytest.mark.parametrize("duration_s", [math.inf, -math.inf, math.nan])
def test_a_duration_that_is_no_number_is_not_believed(duration_s: float) -> None:
    (record,) = persisted(TUNNEL).read()
    assert recalled([replace(record, last_move=replace(LAST, at_s=EPOCH_S, duration_s=duration_s))]).last_move is None


def test_a_tunnel_that_is_gone_by_then_is_not_written() -> None:
    kept = Kept()
    StoreKeeper(kept, Table(), lambda: 0.0, lambda: EPOCH_S).persist(KEY)
    assert kept.records == {}


def test_what_did_not_change_is_the_same_text_whenever_it_is_written_but_for_another_time_of_day() -> None:
    table, kept, now = Table(), Kept(), [900.1, EPOCH_S]
    table.put(TUNNEL)
    keeper = StoreKeeper(kept, table, lambda: now[0], lambda: now[1])
    written: set[tuple[bytes, bytes]] = set()
    for step_s in (0.0, 0.1, 0.2, 3600.0):
        now = [now[0] + 0.3, now[1] + 0.3 + step_s * (step_s > 1)]
        keeper.persist(KEY)
        written.update(kept.records.values())
    assert len(written) == 2


def test_a_tunnel_that_is_forgotten_is_removed() -> None:
    kept = persisted(TUNNEL)
    keeper = StoreKeeper(kept, Table(), lambda: 0.0, lambda: EPOCH_S)
    keeper.forget(KEY)
    keeper.forget(KEY)
    assert kept.records == {}


def test_a_restarted_daemon_goes_on_with_what_was_kept(tmp_path: FilePath) -> None:
    first = negotiated(Role.GATEWAY)
    first.core.table.put(replace(first.tunnel, highest={SPI_UP: 41}, moves=2, last_move=LAST))
    store, _, _ = Store.open(tmp_path)
    StoreKeeper(store, first.core.table, lambda: first.now_s, lambda: EPOCH_S).persist(KEY)
    store.close(20)

    store, records, problem = Store.open(tmp_path)
    store.close(20)
    assert problem is None
    second = Desk(Role.GATEWAY)
    second.core.remember(recall(records, Role.GATEWAY, second.now_s, EPOCH_S))
    second.listed(ike_sa(Role.GATEWAY))
    assert second.tunnel.capability is Capability.NEGOTIATED
    assert second.tunnel.highest == {SPI_UP: 41}
    assert (second.tunnel.moves, second.tunnel.last_move) == (2, LAST)
    assert second.tunnel.path == path(Role.GATEWAY)


def test_a_tunnel_that_was_built_anew_meanwhile_is_not_taken_for_the_old_one() -> None:
    desk = Desk(Role.GATEWAY)
    desk.core.remember(recall(persisted(TUNNEL).read(), Role.GATEWAY, desk.now_s, EPOCH_S))
    desk.listed(ike_sa(Role.GATEWAY, spis=((0xC0000002, 0xD0000002),)))
    assert desk.tunnel.capability is Capability.PENDING
    assert (desk.tunnel.moves, desk.tunnel.highest) == (0, {})
