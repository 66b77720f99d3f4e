"""One of the terminal's networks has a NAT: it appears under a tunnel, forgets, and disappears again."""

from collections.abc import Callable

import pytest

from tests.lab.charon import TunnelOptions
from tests.lab.journeys import VARIANTS, Variant, begin, compare_with_mobike
from tests.lab.nat_figures import APPEARS, DISAPPEARS, FORGETS
from tests.lab.nats import Nat
from tests.lab.topology import Topology
from tests.lab.world import World

PUBLIC, NATTED = "wlan0", "lte0"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(nats=(Nat(link=NATTED),)), VARIANTS[0].tunnel())
    world.connect()
    world.roam()
    return world


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest, world: World) -> Variant:
    chosen: Variant = request.param
    if chosen.alone:
        world.leave_the_gateway_alone()
    return chosen


def test_a_nat_appears(world: World, variant: Variant) -> None:
    journey = begin(world, variant, PUBLIC)
    journey.goes_on(APPEARS, world.terminal.move)
    journey.ends_well()


def test_a_nat_disappears(world: World, variant: Variant) -> None:
    journey = begin(world, variant, NATTED if variant.alone else PUBLIC)
    if not variant.alone:
        journey.goes_on(APPEARS, world.terminal.move)
    journey.goes_on(DISAPPEARS, world.terminal.move)
    journey.ends_well()


def test_a_nat_forgets_its_mappings_and_gets_another_address(world: World, variant: Variant) -> None:
    journey = begin(world, variant, NATTED)
    journey.goes_on(FORGETS, lambda: world.rebind(NATTED), same_keys=True)
    journey.goes_on(FORGETS, lambda: world.rebind(NATTED, new_address=True), same_keys=True)
    journey.ends_well()


# The last: it stops swanroam.
def test_mobike_for_comparison(world: World) -> None:
    if world.terminal.access.link == NATTED:
        world.terminal.move()
    world.begin_without_swanroam(TunnelOptions(mobike=True, roam_events=True))
    for _ in range(2):
        compare_with_mobike(world, APPEARS, world.terminal.move)
        compare_with_mobike(world, FORGETS, lambda: world.rebind(NATTED))
        compare_with_mobike(world, DISAPPEARS, world.terminal.move)
