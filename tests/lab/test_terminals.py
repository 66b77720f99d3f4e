"""Several terminals on one gateway: what one does is nothing to the others."""

from collections.abc import Callable

import pytest

from tests.lab.agreement import agrees
from tests.lab.conditions import eventually
from tests.lab.stories import survives_a_move
from tests.lab.topology import Topology
from tests.lab.world import World


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(terminals=3))
    world.connect()
    world.roam()
    return world


def test_one_of_three_moves_and_the_others_lose_nothing(world: World) -> None:
    _, second, third = world.terminals
    with world.both_ways(second) as still, world.both_ways(third) as also_still:
        survives_a_move(world)
        for stream in (*still, *also_still):
            stream.flows()
    for stream in (*still, *also_still):
        assert stream.outcome().lost == ()
    assert [world.gateway.swanroam.tunnel(one.inner)["moves"] for one in (second, third)] == [0, 0]


def test_a_move_back_and_forth_and_the_others_are_still_there(world: World) -> None:
    for terminal in world.terminals:
        survives_a_move(world, terminal)


# The last: the terminals keep each other's addresses, and a move of one would take it to where the other is.
def test_two_terminals_swap_their_addresses(world: World) -> None:
    first, second, _ = world.terminals
    if first.access == second.access:
        second.move()
        eventually(lambda: world.gateway.swanroam.tunnel(second.inner)["remote"]["address"] == second.outer, "a move")
    before = first.sa.identity, second.sa.identity
    with world.both_ways(first) as one, world.both_ways(second) as two:
        addresses = first.address, second.address
        first.leave()
        second.leave()
        moves = first.enter(addresses[1]), second.enter(addresses[0])
        for stream in (*one, *two):
            stream.flows(moves[1].usable_ns)
    assert (first.outer, second.outer) == (moves[1].old, moves[0].old)
    assert (first.sa.identity, second.sa.identity) == before
    for terminal in (first, second):
        agrees(world, terminal)
