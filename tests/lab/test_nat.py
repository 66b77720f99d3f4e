"""One of the terminal's networks has a NAT: it appears under a tunnel, forgets, and disappears again."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.agreement import Wanted, agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import SLACK, eventually
from tests.lab.journeys import (
    VARIANTS,
    Journey,
    Variant,
    begin,
    compare_with_mobike,
    natted,
    rehearse,
    survives_a_kill,
    tidies_up,
)
from tests.lab.nat_figures import APPEARS, DISAPPEARS, FORGETS
from tests.lab.nats import Nat
from tests.lab.stories import answers_dead_peer_detection, ends, rekeys_the_child, rekeys_the_ike_sa
from tests.lab.test_attacks import rules
from tests.lab.topology import Topology
from tests.lab.world import End, Move, World

TOGETHER = "figures of NATs"

PUBLIC, NATTED = "wlan0", "lte0"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(terminals=2, nats=(Nat(link=NATTED),)), VARIANTS[0].tunnel())
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


def test_a_nat_appears(world: World, variant: Variant) -> None:
    journey = begin(world, variant, PUBLIC)
    for kind in (APPEARS, DISAPPEARS, APPEARS):
        journey.goes_on(kind, world.terminal.move)
    journey.ends_well()


def test_a_nat_disappears(world: World, variant: Variant) -> None:
    journey = begin(world, variant, NATTED if variant.alone else PUBLIC)
    for kind in (DISAPPEARS, APPEARS, DISAPPEARS) if variant.alone else (APPEARS, DISAPPEARS):
        journey.goes_on(kind, world.terminal.move)
    journey.ends_well()


def test_a_nat_forgets_its_mappings_and_gets_another_address(world: World, variant: Variant) -> None:
    journey = begin(world, variant, NATTED)
    journey.goes_on(FORGETS, lambda: world.rebind(NATTED))
    journey.goes_on(FORGETS, lambda: world.rebind(NATTED, new_address=True))
    journey.ends_well()


ALONE = pytest.mark.parametrize("variant", [one for one in VARIANTS if one.alone][:1], indirect=True, ids=str)


@ALONE
def test_nothing_is_left_of_the_first_address_when_it_comes_back_or_the_daemon_stops(
    world: World, variant: Variant
) -> None:
    tidies_up(begin(world, variant, PUBLIC), (APPEARS, DISAPPEARS))


@ALONE
def test_a_killed_daemon_leaves_the_tunnel_working_and_nothing_that_the_next_one_does_not_clean(
    world: World, variant: Variant
) -> None:
    survives_a_kill(world, variant, PUBLIC, APPEARS)


@pytest.mark.parametrize(
    ("variant", "who"), [(VARIANTS[0], "terminal"), (VARIANTS[1], "gateway")], indirect=["variant"], ids=str
)
def test_a_daemon_that_stops_behind_a_nat_that_charon_does_not_know_of_leaves_a_tunnel_that_charon_knows_all_of(
    world: World, variant: Variant, who: str
) -> None:
    """It is built anew, with its inner address, and all that strongSwan does works without the daemon."""
    terminal, gateway = world.terminal, world.gateway
    journey = begin(world, variant, PUBLIC)
    journey.goes_on(APPEARS, terminal.move)
    before = terminal.sa
    stopped, left = (terminal, gateway) if who == "terminal" else (gateway, terminal)
    began_s = time.monotonic()
    assert stopped.swanroam.stop() == 0
    took_s = time.monotonic() - began_s
    eventually(lambda: "local" in terminal.sa.nat, "charon knows of the NAT")
    assert terminal.sa.inner == before.inner
    wanted = Wanted(swanroam=(left.name.rstrip("1"),))
    agrees(world, terminal, wanted)
    with world.both_ways():
        pass
    for end in (terminal, gateway):
        rekeys_the_child(world, end, wanted)
    with world.both_ways():
        pass
    answers_dead_peer_detection(world, time.monotonic_ns())
    assert took_s < 2 * SLACK


@pytest.mark.parametrize("variant", VARIANTS[:2], indirect=True, ids=str)
@pytest.mark.parametrize("way", ["stop", "kill"])
def test_where_the_terminals_daemon_is_gone_a_nat_that_forgets_is_followed_as_by_strongswan_alone(
    world: World, variant: Variant, way: str
) -> None:
    """At once where it said that it ends; where it was killed the gateway finds out by two challenges in vain."""
    terminal, gateway = world.terminal, world.gateway
    journey = begin(world, variant, NATTED)
    if way == "stop":
        assert terminal.swanroam.stop() == 0
    else:
        terminal.swanroam.kill()
    with world.both_ways() as (up, down):
        if way == "kill":
            world.rebind(NATTED)
        eventually(
            lambda: gateway.swanroam.tunnel(terminal.inner)["capability"] in {"pending", "none"},
            "the gateway holds the terminal to nothing",
        )
        down.flows()
        before = gateway.swanroam.tunnel(terminal.inner)["moves"]
        for _ in range(2):
            forgot = world.rebind(NATTED)
            down.flows(forgot.usable_ns, packets=300, deadline_s=6)
        assert gateway.swanroam.tunnel(terminal.inner)["moves"] == before
        up.flows()
    terminal.swanroam.run()
    world.agreed(terminal)
    journey.goes_on(FORGETS, lambda: world.rebind(NATTED))


@pytest.mark.parametrize("variant", VARIANTS[1:2], indirect=True, ids=str)
def test_two_terminals_whose_ike_is_carried_through_one_nat_are_told_apart(world: World, variant: Variant) -> None:
    first, second = world.terminals
    journeys = [begin(world, variant, PUBLIC)]
    if second.access.link != PUBLIC:
        second.move()
    with world.awake(second):
        journeys.append(Journey(world, variant, second, second.outer, natted(second, variant)))
        for journey in journeys:
            journey.goes_on(APPEARS, journey.terminal.move)
        assert first.seen == second.seen
        # What each of them sends tells the ports of new SPIs.
        with world.both_ways(first), world.both_ways(second):
            for journey in journeys:
                wanted, terminal = journey.wanted(), journey.terminal
                rekeys_the_child(world, world.gateway, wanted, terminal)
                rekeys_the_ike_sa(world, terminal, wanted, terminal)
                rekeys_the_child(world, terminal, wanted, terminal)


@pytest.mark.parametrize("variant", VARIANTS[:1], indirect=True, ids=str)
def test_the_gateway_ends_a_tunnel_though_its_first_word_of_that_is_lost(world: World, variant: Variant) -> None:
    """Charon says it again after 4 s, when swanroam has forgotten the tunnel, and the NAT lets nothing else in."""
    journey = begin(world, variant, PUBLIC, dpd_delay_s=60)
    journey.goes_on(APPEARS, world.terminal.move)
    first = "udp sport 4500 @th,64,32 0 limit rate 1/hour burst 1 packets counter drop"
    with rules(world.router.namespace, "forward priority -400", first):
        ends(world, world.gateway)
        assert "counter packets 1 " in world.router.show("nft list table ip evil")


UNTELLING = "198.18.7"
"""A network that is not told from a public one by its addresses (RFC 2544 section C.2.2)."""


def goes_where_nothing_tells_of_a_nat(world: World) -> Move:
    """Nothing but that nobody answers plain ESP."""
    terminal, (nat,) = world.terminal, world.nats[NATTED].hosts
    nat.namespace.run(["ip", "route", "replace", f"{UNTELLING}.0/24", "dev", "lan"])
    terminal.namespace.run(["ip", "route", "replace", f"{terminal.other.router}/32", "dev", NATTED])
    return terminal.move(f"{UNTELLING}.11/24")


@pytest.mark.parametrize("variant", VARIANTS[:1], indirect=True, ids=str)
def test_a_nat_of_which_nothing_tells_is_found_when_nobody_answers_plain_esp(world: World, variant: Variant) -> None:
    # It takes longer than these terminals wait before they ask whether the gateway is there, which is no negotiation.
    journey = begin(world, variant, PUBLIC, dpd_delay_s=60)
    journey.goes_on(APPEARS, lambda: goes_where_nothing_tells_of_a_nat(world), told=False)
    journey.goes_on(DISAPPEARS, world.terminal.move)


@pytest.mark.parametrize("variant", VARIANTS[:1], indirect=True, ids=str)
def test_a_daemon_that_is_killed_before_anybody_answered_goes_on_in_udp_when_it_is_back(
    world: World, variant: Variant
) -> None:
    terminal, journey = world.terminal, begin(world, variant, PUBLIC, dpd_delay_s=60)
    before, order = terminal.sa, terminal.folder / "kill"
    with dying(terminal), world.both_ways() as (up, down):
        world.agreed(terminal)
        order.write_text("TunnelMoved after")
        move = goes_where_nothing_tells_of_a_nat(world)
        for stream in (up, down):
            stream.flows(move.usable_ns)
        assert not order.exists()
        agrees(world, terminal, journey.wanted())
        assert terminal.sa.identity == before.identity


@contextlib.contextmanager
def dying(end: End) -> Iterator[None]:
    """An end's swanroam is killed where `kill` beside its configuration says, and started again."""
    usual = end.swanroam.module
    _run_as(end, "tests.lab.mortal")
    try:
        yield
    finally:
        _run_as(end, usual)


def _run_as(end: End, module: str) -> None:
    end.swanroam.stop()
    end.swanroam.module = module
    end.swanroam.run()


# The last: it stops swanroam.
def test_mobike_for_comparison(world: World) -> None:
    if world.terminal.access.link == NATTED:
        world.terminal.move()
    world.begin_without_swanroam(TunnelOptions(mobike=True, roam_events=True))
    for _ in range(2):
        compare_with_mobike(world, APPEARS, world.terminal.move)
        compare_with_mobike(world, FORGETS, lambda: world.rebind(NATTED))
        compare_with_mobike(world, DISAPPEARS, world.terminal.move)
