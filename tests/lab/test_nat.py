"""One of the terminal's networks has a NAT: it appears under a tunnel, forgets, and disappears again."""

from collections.abc import Callable

import pytest

from tests.lab.journeys import VARIANTS, Variant, begin
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
    journey.goes_on(world.terminal.move)
    journey.ends_well()


def test_a_nat_disappears(world: World, variant: Variant) -> None:
    journey = begin(world, variant, NATTED if variant.alone else PUBLIC)
    if not variant.alone:
        journey.goes_on(world.terminal.move)
    journey.goes_on(world.terminal.move)
    journey.ends_well()


def test_a_nat_forgets_its_mappings_and_gets_another_address(world: World, variant: Variant) -> None:
    journey = begin(world, variant, NATTED)
    journey.goes_on(lambda: world.rebind(NATTED), same_keys=True)
    journey.goes_on(lambda: world.rebind(NATTED, new_address=True), same_keys=True)
    journey.ends_well()
