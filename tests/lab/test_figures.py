"""Figures to report: swanroam beside strongSwan's MOBIKE and its reauthentication, measured in one boot.

The table is printed at the end of the run and written to build/figures.json. What is asserted is what can be counted.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.agreement import agrees
from tests.lab.charon import TunnelOptions
from tests.lab.figures import Figures, MovedStream, measure, measured, write
from tests.lab.world import World

FILE = Path(__file__).resolve().parents[2] / "build" / "figures.json"
MOVES = 10
FEW = 4
IKEV1 = TunnelOptions(ike_version=1)

every: dict[str, list[MovedStream]] = {}


def report(name: str, world: World, moves: int = MOVES) -> Figures:
    figures, moved = measure(name, world, moves)
    measured.append(figures)
    every[name] = moved
    write(FILE, measured, every)
    return figures


@pytest.fixture(scope="module")
def plain(make_world: Callable[..., World]) -> World:
    """What strongSwan does by itself: it needs roam events to notice a move at all."""
    world = make_world(tunnel=TunnelOptions(roam_events=True))
    world.connect()
    return world


def test_strongswan_without_mobike_renegotiates_at_each_move(plain: World) -> None:
    assert report("strongSwan, reauthentication", plain).renegotiations == MOVES


def test_strongswan_with_mobike_exchanges_messages_at_each_move(plain: World) -> None:
    plain.reconnect(TunnelOptions(mobike=True))
    figures = report("strongSwan, MOBIKE", plain)
    assert figures.renegotiations == 0
    assert figures.ike_packets > 0


def test_strongswan_with_ikev1_finds_a_move_by_dead_peer_detection_and_renegotiates(plain: World) -> None:
    restart = {"dpd_action": "restart"}
    found = replace(IKEV1, dpd_delay_s=1, connection={"dpd_timeout": "3s"}, child_at_terminal=restart)
    plain.reconnect(found)
    assert report("IKEv1, strongSwan alone, DPD each second", plain, FEW).renegotiations == FEW


def test_swanroam_beside_roam_events_always_comes_back(plain: World) -> None:
    plain.reconnect(TunnelOptions())
    plain.roam()
    report("swanroam, roam_events = yes", plain, FEW)
    agrees(plain, plain.terminal)


def test_swanroam_negotiates_nothing_and_loses_nothing_upwards(world: World) -> None:
    figures = report("swanroam", world)
    assert figures.renegotiations == 0
    assert figures.ike_packets == 0
    assert figures.up_lost == 0


def test_it_is_the_same_with_ikev1(world: World) -> None:
    world.reconnect(IKEV1)
    figures = report("IKEv1, swanroam", world, FEW)
    assert (figures.renegotiations, figures.ike_packets, figures.up_lost) == (0, 0, 0)
