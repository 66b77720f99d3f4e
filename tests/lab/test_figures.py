"""Figures to report: swanroam beside strongSwan's MOBIKE and its reauthentication, measured in one boot.

The table is printed at the end of the run and written to build/figures.json. What is asserted is what can be counted.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.charon import TunnelOptions
from tests.lab.figures import MovedStream, measure, measured, table, write
from tests.lab.world import World

FILE = Path(__file__).resolve().parents[2] / "build" / "figures.json"
MOVES = 10

every: dict[str, list[MovedStream]] = {}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    world.connect()
    return world


@pytest.mark.parametrize("name", ["strongSwan, reauthentication", "strongSwan, MOBIKE", "swanroam"])
def test_figures(world: World, name: str) -> None:
    if name == "swanroam":
        world.reconnect(TunnelOptions())
        world.roam()
    elif name == "strongSwan, MOBIKE":
        world.reconnect(TunnelOptions(mobike=True))
    figures, moves = measure(name, world, MOVES)
    measured.append(figures)
    every[name] = moves
    write(FILE, measured, every)
    print(table(measured))
    if name == "swanroam":
        assert figures.renegotiations == 0
        assert figures.ike_packets == 0
        assert figures.up_lost == 0
