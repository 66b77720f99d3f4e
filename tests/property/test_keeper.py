"""Keeping: whatever a tunnel was, what comes back of it is the same, and shown without fail."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from swanroam.app.keeper import StoreKeeper, recall
from swanroam.app.records import Record, decode_record, encode_key, encode_record
from swanroam.app.report import report
from swanroam.core.table import Table
from swanroam.core.tunnel import LastMove, Tunnel
from swanroam.model.effects import Trigger
from swanroam.model.events import Reason
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, Nat, Role, TunnelKey
from tests.support.values import ike_sa, path

spis = st.integers(1, 2**32 - 1)
unsigned = st.integers(0, 2**64 - 1)
endpoints = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 2**16 - 1))
paths = st.builds(Path, endpoints, endpoints, st.booleans())
clocks = st.floats(0, 1e9)
walls = st.floats(0, 4e9)


def last_moves(seconds: st.SearchStrategy[float]) -> st.SearchStrategy[LastMove]:
    return st.builds(
        LastMove,
        at_s=seconds,
        old=paths,
        new=paths,
        trigger=st.sampled_from(Trigger),
        duration_s=seconds,
        validated=st.none() | st.booleans(),
    )


@st.composite
def tunnels(draw: st.DrawFn) -> Tunnel:
    role = draw(st.sampled_from(Role))
    pairs = draw(
        st.lists(st.tuples(spis, spis), min_size=1, max_size=3, unique_by=(lambda one: one[0], lambda o: o[1]))
    )
    sa = ike_sa(role, spis=pairs)
    received = [child.spi_in for child in sa.children]
    return Tunnel(
        key=TunnelKey(draw(st.text(max_size=10)), tuple(draw(st.lists(st.ip_addresses(), max_size=2)))),
        role=role,
        sas=(sa,),
        path=draw(paths),
        capability=draw(st.sampled_from(Capability)),
        highest=draw(st.dictionaries(st.sampled_from(received) | spis, unsigned, max_size=4)),
        nat=draw(st.sampled_from(Nat)),
        moves=draw(unsigned),
        last_move=draw(st.none() | last_moves(clocks)),
        rejected=draw(st.dictionaries(st.sampled_from(Reason), unsigned)),
        update_sequence=draw(unsigned),
    )


class Kept:
    """What would be on disk."""

    def __init__(self) -> None:
        self.key = self.record = b""

    def put(self, record: Record) -> None:
        """As text."""
        self.key, self.record = encode_key(record.key).encode(), encode_record(record).encode()

    def remove(self, key: TunnelKey) -> None:
        """Not used here."""
        raise AssertionError(key)


@given(tunnels(), clocks, walls, clocks, st.floats(0, 1e8))
def test_a_tunnel_that_was_kept_comes_back(
    tunnel: Tunnel, clock_s: float, wall_s: float, next_clock_s: float, later_s: float
) -> None:
    kept, table = Kept(), Table()
    table.put(tunnel)
    # A move cannot be older than the calendar, nor newer than now.
    if tunnel.last_move is not None:
        at_s = clock_s - min(tunnel.last_move.at_s, wall_s)
        tunnel = replace(tunnel, last_move=replace(tunnel.last_move, at_s=at_s))
        table.put(tunnel)
    StoreKeeper(kept, table, lambda: clock_s, lambda: wall_s).persist(tunnel.key)
    record = decode_record(kept.key, kept.record)
    ((back, known_by),) = recall([record], tunnel.role, next_clock_s, wall_s + later_s)
    assert known_by == set(tunnel.spis)
    assert back.highest == {spi: tunnel.highest.get(spi, 0) for spi in tunnel.spis}
    same: Mapping[str, object] = {
        name: getattr(tunnel, name) for name in ("key", "role", "capability", "moves", "rejected", "update_sequence")
    }
    assert {name: getattr(back, name) for name in same} == same
    assert (back.last_move is None) is (tunnel.last_move is None)
    if tunnel.last_move is not None and back.last_move is not None:
        age_s, age_then_s = clock_s - tunnel.last_move.at_s, next_clock_s - back.last_move.at_s
        assert abs(age_then_s - later_s - age_s) < 0.001
        assert replace(back.last_move, at_s=0.0) == replace(tunnel.last_move, at_s=0.0)


any_seconds = st.floats(allow_nan=True, allow_infinity=True) | clocks


@given(last_moves(any_seconds), clocks, walls)
def test_whatever_time_a_record_has_status_can_show_the_tunnel(last: LastMove, clock_s: float, wall_s: float) -> None:
    record = Record(key=TunnelKey("home"), capability=Capability.NONE, highest={1: 1}, moves=1, last_move=last)
    ((tunnel, _),) = recall([record], Role.GATEWAY, clock_s, wall_s)
    table = Table()
    table.put(replace(tunnel, sas=(ike_sa(Role.GATEWAY),), path=path(Role.GATEWAY)))
    told = report(Role.GATEWAY, table, connected=True, version="", epoch_s=wall_s - clock_s)
    json.dumps(told, allow_nan=False)
    assert told["tunnels"][0]["moves"] == 1


@given(tunnels(), st.booleans(), st.text(max_size=10), st.floats(0, 4e9))
def test_every_tunnel_can_be_told_as_json_of_the_contract(
    tunnel: Tunnel, connected: bool, version: str, epoch_s: float
) -> None:
    table = Table()
    table.put(tunnel)
    told = report(tunnel.role, table, connected=connected, version=version, epoch_s=epoch_s)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    (one,) = told["tunnels"]
    assert one["inner"] == [str(address) for address in tunnel.key.inner]
    assert [int(child["spi_in"], 16) for child in one["children"]] == list(tunnel.spis)
    if tunnel.last_move is None:
        assert one["last_move"] is None
    else:
        assert one["last_move"] is not None
        at_s = datetime.fromisoformat(one["last_move"]["at"]).timestamp()
        assert abs(at_s - tunnel.last_move.at_s - epoch_s) < 0.002
