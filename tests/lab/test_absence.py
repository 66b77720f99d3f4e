"""The terminal, or the gateway, is nowhere for a while."""

from tests.lab.conditions import eventually, stays
from tests.lab.stories import outlasts_the_gateways_absence, settled, survives_a_move
from tests.lab.world import World

ABSENCE_S = 30.0


def test_the_old_address_goes_and_a_new_one_comes_after_30_seconds(world: World) -> None:
    terminal = world.terminal
    before = terminal.sa.identity
    with world.both_ways() as (up, down):
        terminal.leave()
        stays(lambda: all(end.swanroam.running for end in world.ends), "swanroam on both ends", for_s=ABSENCE_S)
        move = terminal.enter()
        up.flows(move.usable_ns)
        down.flows(move.usable_ns)
    assert up.outcome(move.usable_ns).lost == ()
    assert terminal.sa.identity == before
    settled(world, move)
    survives_a_move(world)


def test_an_absence_shorter_than_a_blink(world: World) -> None:
    terminal = world.terminal
    with world.both_ways() as (up, down):
        terminal.leave()
        move = terminal.enter()
        up.flows(move.usable_ns)
        down.flows(move.usable_ns)
    eventually(lambda: world.gateway.swanroam.tunnel(terminal.inner)["remote"]["address"] == move.new, "the move")
    settled(world, move)


def test_the_gateways_link_goes_down_and_the_terminal_moves_before_it_is_back(world: World) -> None:
    outlasts_the_gateways_absence(world)
