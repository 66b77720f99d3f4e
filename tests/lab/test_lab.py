"""The lab itself: what strongSwan does with a move when nobody helps it. The other stories compare with this."""

from collections.abc import Callable

import pytest

from tests.lab.agreement import Wanted, agrees
from tests.lab.charon import TunnelOptions
from tests.lab.world import World


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(tunnel=TunnelOptions(roam_events=True))
    world.connect()
    return world


def test_a_still_tunnel_loses_nothing_and_hides_everything(world: World) -> None:
    capture = world.capture
    with world.both_ways() as (up, down):
        up.flows(packets=50)
        began_ns = up.sent()[0].first_attempt_ns
    assert not up.outcome().lost
    assert not down.outcome().lost
    assert len(capture.esp_from(world.terminal.outer, began_ns)) >= 50
    assert not capture.cleartext(began_ns)


def test_without_mobike_charon_negotiates_anew_after_a_move(world: World) -> None:
    before = world.terminal.sa
    capture = world.capture
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns, deadline_s=60)
        down.flows(move.usable_ns, deadline_s=60)
    assert world.terminal.sa.identity != before.identity
    assert capture.ike(move.began_ns)
    assert down.outcome(move.began_ns).lost
    agrees(world, world.terminal, Wanted(swanroam=()))


def test_with_mobike_charon_keeps_its_keys(world: World) -> None:
    world.reconnect(TunnelOptions(mobike=True))
    before = world.terminal.sa
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns, deadline_s=60)
        down.flows(move.usable_ns, deadline_s=60)
    assert world.terminal.sa.identity == before.identity
    assert world.capture.ike(move.began_ns)
    assert down.outcome(move.began_ns).lost
    agrees(world, world.terminal, Wanted(swanroam=()))
