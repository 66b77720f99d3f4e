"""A daemon is killed at each step of a move and started again: data flows in 5 s, all agree, nothing is left over."""

from collections.abc import Callable

import pytest

from tests.lab.conditions import eventually
from tests.lab.faults import faulty
from tests.lab.stories import survives_a_move
from tests.lab.world import World

TOGETHER = "table of faults"

# What an end does in a move that goes well, in this order; being killed after one is being killed before the next.
TERMINAL = [
    "MoveStates",
    "SendMessage",
    "StartTimer",
    "Watch",
    "TunnelMoved",
    "Persist",
    "StopTimer",
    "HoldInner",
    "InformCharon",
    "ListIkeSas",
    "ReleaseInner",
]
GATEWAY = [
    "VerifyPacket",
    "MoveStates",
    "GiveVerdict",
    "Watch",
    "SendMessage",
    "StartTimer",
    "TunnelMoved",
    "Persist",
    "StopTimer",
    "InformCharon",
    "ListIkeSas",
]
KILLS = [
    ("terminal", TERMINAL[0], "before"),
    *(("terminal", effect, "after") for effect in TERMINAL),
    ("gateway", GATEWAY[0], "before"),
    *(("gateway", effect, "after") for effect in GATEWAY),
]


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    world.connect()
    for end in world.ends:
        end.swanroam.module = "tests.lab.mortal"
    world.roam()
    return world


@pytest.mark.parametrize(("side", "effect", "when"), KILLS)
def test_a_daemon_is_killed_at_an_effect_of_a_move(world: World, side: str, effect: str, when: str) -> None:
    order = world.end(side).folder / "kill"
    with faulty(world, f"{side} killed {when} {effect}") as fault:
        order.write_text(f"{effect} {when}")
        world.terminal.move()
        eventually(lambda: not order.exists(), f"it comes to {effect}")
        fault.over()


def test_no_effect_of_a_move_was_left_out(world: World) -> None:
    ended = {one.name: (one.folder / "effects").stat().st_size for one in world.ends}
    survives_a_move(world)
    for one, effects in ((world.terminal, TERMINAL), (world.gateway, GATEWAY)):
        eventually(
            lambda one=one: "ListIkeSas" in (one.folder / "effects").read_text()[ended[one.name] :],  # type: ignore[misc]
            f"{one.name} has settled",
        )
        assert set((one.folder / "effects").read_text()[ended[one.name] :].split()) <= set(effects)
