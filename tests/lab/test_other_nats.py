"""Both of the terminals' networks have a NAT.

One has the addresses of the network behind the gateway; the other a carrier's NAT behind it, and forgets soon.
"""

import time
from collections.abc import Callable

import pytest

from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.journeys import VARIANTS, Journey, Variant, begin, compare_with_mobike, natted, rehearse
from tests.lab.nat_figures import CHANGES
from tests.lab.nats import Nat
from tests.lab.topology import Topology
from tests.lab.world import World

TOGETHER = "figures of NATs"

OVERLAPPING, CARRIER = "wlan0", "lte0"
IDLE_S = 5


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    nats = (Nat(link=OVERLAPPING, network="10.1.0"), Nat(link=CARRIER, carrier=True, idle_s=IDLE_S))
    world = make_world(Topology(terminals=2, nats=nats), VARIANTS[0].tunnel())
    world.connect()
    world.roam(mobike=False)
    world.rest(world.terminals[1])
    rehearse(world)
    return world


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest, world: World) -> Variant:
    chosen: Variant = request.param
    chosen.arrange(world)
    return chosen


def test_another_nat(world: World, variant: Variant) -> None:
    journey = begin(world, variant, OVERLAPPING)
    journey.goes_on(CHANGES, world.terminal.move)
    journey.goes_on(CHANGES, world.terminal.move)
    journey.ends_well()


# Those with swanroam on both ends whose IKE is carried are told of in test_nat.
@pytest.mark.parametrize("variant", VARIANTS[2:3], indirect=True, ids=str)
def test_two_terminals_behind_one_nat(world: World, variant: Variant) -> None:
    first, second = world.terminals
    journey = begin(world, variant, OVERLAPPING)
    if second.access.link != OVERLAPPING:
        second.move()
    with world.awake(second):
        other = Journey(world, variant, second, second.outer, natted(second, variant))
        other.goes_on(CHANGES, second.move)
        with world.both_ways(second) as still:
            journey.goes_on(CHANGES, first.move)
            for stream in still:
                stream.flows()
    assert first.seen == second.seen
    assert all(stream.outcome().lost == () for stream in still)


@pytest.mark.parametrize("variant", VARIANTS[3:], indirect=True, ids=str)
def test_an_idle_tunnel_is_reached_through_a_nat_that_forgets_soon(world: World, variant: Variant) -> None:
    journey = begin(world, variant, OVERLAPPING, dpd_delay_s=0)
    move = journey.goes_on(CHANGES, world.terminal.move)
    seen, capture = world.terminal.seen, world.capture

    def nothing_but_keepalives() -> bool:
        sent = [packet for packet in capture.packets(move.usable_ns) if packet.source == seen]
        last_ns = max(packet.at_ns for packet in sent if not packet.keepalive)
        kept_ns = [packet.at_ns for packet in sent if packet.keepalive and packet.at_ns > last_ns]
        return bool(kept_ns) and kept_ns[-1] - last_ns > 1.5e9 * IDLE_S

    eventually(nothing_but_keepalives, "nothing but keepalives for longer than the NAT remembers", every_s=0.5)
    with world.downlink(count=1) as probe:
        eventually(probe.received, "the one packet arrives")


# The last two: they stop swanroam.
def test_mobike_for_comparison(world: World) -> None:
    world.begin_without_swanroam(TunnelOptions(mobike=True, roam_events=True, charon={"keep_alive": "0s"}))
    for _ in range(3):
        compare_with_mobike(world, CHANGES, world.terminal.move)


def test_without_keepalives_the_nat_forgets(world: World) -> None:
    if world.terminal.access.link != CARRIER:
        world.terminal.move()
    with world.both_ways():
        began_ns = time.monotonic_ns()
    eventually(lambda: time.monotonic_ns() - began_ns > 1.5e9 * IDLE_S, "longer than the NAT remembers", every_s=0.5)
    assert not [packet for packet in world.capture.packets(began_ns + IDLE_S * 500_000_000) if packet.keepalive]
    with world.downlink(count=1) as probe:
        probe.stop()
    assert probe.outcome().lost == (0,)
