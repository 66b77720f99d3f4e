"""swanroam ends, in good order or not, before, during and after a move: charon's tunnels outlive it."""

from collections.abc import Callable

import pytest

from tests.lab.agreement import agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import survives_a_move
from tests.lab.world import End, World

sides = pytest.mark.parametrize("side", ["terminal", "gateway"])
ways = pytest.mark.parametrize("way", ["stop", "kill"])


def end(world: World, side: str) -> End:
    return world.gateway if side == "gateway" else world.terminal


def finish(one: End, way: str) -> None:
    if way == "kill":
        one.swanroam.kill()
    else:
        assert one.swanroam.stop() == 0


def begin(world: World, one: End) -> None:
    one.swanroam.run()
    world.agreed(world.terminal)


@sides
@ways
def test_ended_before_a_move_it_makes_up_for_it_when_it_starts(world: World, side: str, way: str) -> None:
    finish(end(world, side), way)
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        begin(world, end(world, side))
        up.flows(move.usable_ns, deadline_s=90)
        down.flows(move.usable_ns, deadline_s=90)
    survives_a_move(world)


@sides
@ways
def test_ended_during_a_move_it_makes_up_for_it_when_it_starts(world: World, side: str, way: str) -> None:
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        finish(end(world, side), way)
        begin(world, end(world, side))
        up.flows(move.usable_ns, deadline_s=90)
        down.flows(move.usable_ns, deadline_s=90)
    survives_a_move(world)


@ways
def test_gone_from_the_gateway_the_terminal_builds_the_tunnel_anew(world: World, way: str) -> None:
    finish(world.gateway, way)
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns, deadline_s=90)
        down.flows(move.usable_ns, deadline_s=90)
    begin(world, world.gateway)
    survives_a_move(world)


@sides
@ways
def test_ended_after_a_move_the_tunnel_stays_as_it_is(world: World, side: str, way: str) -> None:
    move = survives_a_move(world)
    before = world.terminal.sa.identity
    moves = end(world, side).swanroam.tunnel(world.terminal.inner)["moves"]
    finish(end(world, side), way)
    with world.both_ways() as (up, down):
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert "swanroam" not in end(world, side).show("nft list ruleset") or way == "kill"
    begin(world, end(world, side))
    assert world.terminal.sa.identity == before
    assert not world.capture.ike(move.began_ns)
    assert end(world, side).swanroam.tunnel(world.terminal.inner)["moves"] >= moves, "counters outlive a restart"
    survives_a_move(world)


@sides
def test_charon_restarted_and_swanroam_resyncs(world: World, side: str) -> None:
    one = end(world, side)
    one.charon.restart()
    eventually(lambda: one.swanroam.status()["charon"]["connected"], "connected to the new charon", deadline_s=60)
    if side == "gateway":
        world.terminal.charon.restart()
    world.terminal.connect()
    assert one.swanroam.running
    world.agreed(world.terminal)
    agrees(world, world.terminal)
    survives_a_move(world)


@ways
def test_gone_from_the_terminal_strongswan_does_what_it_does_by_itself(
    make_world: Callable[..., World], way: str
) -> None:
    world = make_world(tunnel=TunnelOptions(roam_events=True))
    world.connect()
    world.roam()
    finish(world.terminal, way)
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns, deadline_s=90)
        down.flows(move.usable_ns, deadline_s=90)
    assert world.terminal.sa.children
    begin(world, world.terminal)
    agrees(world, world.terminal)
