"""Figures to report: swanroam beside strongSwan's MOBIKE and its reauthentication, measured in one boot.

The table is printed at the end of the run and written to build/figures.json. What is asserted is what can be counted.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.agreement import agrees
from tests.lab.charon import TunnelOptions
from tests.lab.figures import Figures, MovedStream, measure, measured, write
from tests.lab.world import World

FILE = Path(__file__).resolve().parents[2] / "build" / "figures.json"
MOVES = 10

every: dict[str, list[MovedStream]] = {}


def report(name: str, world: World) -> Figures:
    figures, moves = measure(name, world, MOVES)
    measured.append(figures)
    every[name] = moves
    write(FILE, measured, every)
    return figures


@pytest.fixture(scope="module")
def arena(make_world: Callable[..., World]) -> World:
    """One world for all figures, so that nothing else runs beside any of them.

    strongSwan needs roam events to notice a move. The capture of every packet, which stories have, would be in the way.
    """
    world = make_world(tunnel=TunnelOptions(roam_events=True))
    world.connect()
    return world


def test_strongswan_without_mobike_renegotiates_at_each_move(arena: World) -> None:
    assert report("strongSwan, reauthentication", arena).renegotiations == MOVES


def test_strongswan_with_mobike_exchanges_messages_at_each_move(arena: World) -> None:
    arena.reconnect(TunnelOptions(roam_events=True, mobike=True))
    figures = report("strongSwan, MOBIKE", arena)
    assert figures.renegotiations == 0
    assert figures.ike_packets > 0


def test_swanroam_beside_roam_events_always_comes_back(arena: World) -> None:
    arena.reconnect(TunnelOptions(roam_events=True))
    arena.roam()
    report("swanroam, roam_events = yes", arena)
    agrees(arena, arena.terminal)


def test_swanroam_negotiates_nothing_and_loses_nothing_upwards(arena: World) -> None:
    arena.reconnect(TunnelOptions())
    figures = report("swanroam", arena)
    assert figures.renegotiations == 0
    assert figures.ike_packets == 0
    assert figures.up_lost == 0
