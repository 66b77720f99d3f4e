"""A tunnel whose terminal did not promise to send updates is left to strongSwan."""

from collections.abc import Callable

import pytest

from tests.lab.agreement import Wanted, agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.world import World


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(tunnel=TunnelOptions(roam_events=True))
    world.connect()
    world.gateway.swanroam.start(capability="negotiate")
    return world


def test_a_terminal_without_the_capability_is_not_moved_and_negotiates_as_ever(world: World) -> None:
    terminal, gateway = world.terminal, world.gateway
    eventually(lambda: gateway.swanroam.tunnel(terminal.inner), "the gateway knows the tunnel")
    before = terminal.sa.identity
    with world.both_ways() as (up, down):
        move = terminal.move()
        up.flows(move.usable_ns, deadline_s=60)
        down.flows(move.usable_ns, deadline_s=60)
    assert terminal.sa.identity != before, "strongSwan reauthenticates"
    assert world.capture.ike(move.began_ns)
    status = eventually(lambda: gateway.swanroam.tunnel(terminal.inner), "the gateway knows the new tunnel")
    assert status["moves"] == 0
    assert status["capability"] in {"none", "pending"}
    agrees(world, terminal, Wanted(swanroam=()))


def test_a_terminal_that_is_told_to_keep_off_does_not_promise(world: World) -> None:
    world.terminal.swanroam.start(capability="off")
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns, deadline_s=60)
        down.flows(move.usable_ns, deadline_s=60)
    assert world.terminal.sa.identity != before
    eventually(
        lambda: world.terminal.swanroam.tunnel(world.terminal.inner)["capability"] == "none", "the terminal keeps off"
    )
    assert world.terminal.swanroam.tunnel(world.terminal.inner)["moves"] == 0
