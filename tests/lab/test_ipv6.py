"""IPv6 outside and inside of the tunnel, both versions inside, and a change from one to the other outside."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.lab import journeys
from tests.lab.agreement import Wanted, agrees
from tests.lab.charon import CONNECTION, TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.figures import measured, medians, move_once
from tests.lab.journeys import Variant, begin, compare_with_mobike, rehearse, survives_a_kill, tidies_up
from tests.lab.nat_figures import IN_UDP6
from tests.lab.stories import (
    answers_dead_peer_detection,
    carries_all,
    deletes_what_was_rekeyed,
    outlasts_the_gateways_absence,
    reached_without_data,
    rekeys_the_child,
    rekeys_the_ike_sa,
    survives_a_move,
)
from tests.lab.topology import GATEWAY_WAN, GATEWAY_WAN6, Topology
from tests.lab.world import World

TOGETHER = "figures of NATs"

MOVES = 3
OVER6 = TunnelOptions(gateway=GATEWAY_WAN6, inner=(4, 6))
BOTH = {CONNECTION: {"gateway_addresses": [GATEWAY_WAN, GATEWAY_WAN6]}}


@pytest.fixture(scope="module")
def over6(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(outer=(6, 6)), OVER6)
    world.connect()
    world.roam()
    return world


@pytest.fixture(scope="module")
def in_udp(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(outer=(6, 6)), journeys.OVER6[0].tunnel())
    world.connect()
    world.roam(mobike=False)
    rehearse(world)
    return world


@pytest.fixture(scope="module", params=journeys.OVER6, ids=str)
def variant(request: pytest.FixtureRequest, in_udp: World) -> Variant:
    chosen: Variant = request.param
    chosen.arrange(in_udp)
    return chosen


@pytest.fixture(scope="module")
def mixed(make_world: Callable[..., World]) -> World:
    """IPv4 on wlan0, IPv6 on lte0, both versions inside, and a terminal that knows both addresses of the gateway."""
    world = make_world(Topology(outer=(4, 6)), TunnelOptions(inner=(4, 6)))
    world.connect()
    world.roam(tunnels=BOTH)
    return world


@contextmanager
def no_esp(world: World, interface: str) -> Iterator[None]:
    """A network that lets UDP through but not ESP, as some firewalls do; it is behind this interface of the router."""
    router = world.router.namespace
    rules = "".join(f"meta l4proto esp {way} {interface} drop; " for way in ("iifname", "oifname"))
    router.run(["nft", f"table ip6 wall {{ chain c {{ type filter hook forward priority filter; {rules}}}; }}"])
    try:
        yield
    finally:
        router.run(["nft", "delete table ip6 wall"])


def figures_of(world: World, name: str) -> None:
    moves = []
    for _ in range(MOVES):
        moves.append(move_once(world, world.terminal, world.capture))
        agrees(world, world.terminal)
    measured.append(medians(name, moves))
    assert all(move.same_keys and not move.ike_packets for move in moves)


def alone_for_comparison(world: World, tunnel: TunnelOptions, name: str) -> None:
    """The same moves without swanroam."""
    world.begin_without_swanroam(tunnel)
    moves = []
    for _ in range(MOVES):
        moves.append(move_once(world, world.terminal, world.capture))
        agrees(world, world.terminal, Wanted(swanroam=()))
    measured.append(medians(name, moves))


class TestOverIPv6:
    """Every link has IPv6 only, outside of the tunnel."""

    @pytest.fixture
    def world(self, over6: World) -> World:
        return over6

    def test_a_tunnel_with_both_versions_inside_moves(self, world: World) -> None:
        carries_all(world)
        figures_of(world, "IPv6 outside, swanroam")

    def test_after_a_move_the_tunnel_is_rekeyed_and_the_next_move_works(self, world: World) -> None:
        rekeys_the_child(world, world.terminal)
        rekeys_the_ike_sa(world, world.gateway)
        survives_a_move(world)

    def test_an_idle_tunnel_with_ipv6_only_inside_is_reached_after_a_move(self, world: World) -> None:
        world.reconnect(replace(OVER6, inner=(6,), dpd_delay_s=2))
        assert ":" in world.terminal.inner
        move = world.terminal.move()
        agrees(world, world.terminal)
        answers_dead_peer_detection(world, time.monotonic_ns())
        with world.downlink(count=3) as down:
            down.flows(move.usable_ns, packets=3)

    def test_where_no_esp_gets_through_it_goes_in_udp_and_ike_with_it(self, world: World) -> None:
        world.reconnect(replace(OVER6, dpd_delay_s=2))
        terminal, in_udp = world.terminal, Wanted(encap=True, charon=False)
        before = terminal.sa.identity
        with no_esp(world, terminal.other.bridge):
            with world.both_ways() as (up, down):
                move = terminal.move()
                for stream in (up, down):
                    stream.flows(move.usable_ns)
            agrees(world, terminal, in_udp)
            assert terminal.sa.identity == before
            for end in world.ends:
                rekeys_the_child(world, end, in_udp)
                rekeys_the_ike_sa(world, end, in_udp)
            answers_dead_peer_detection(world, time.monotonic_ns())
            survives_a_move(world)

    def test_the_gateways_address_goes_with_its_link_and_the_terminal_moves_before_it_is_back(
        self, world: World
    ) -> None:
        outlasts_the_gateways_absence(world)

    def test_a_deprecated_address_is_left_for_a_new_one_of_the_same_link_while_it_works_and_nothing_is_lost(
        self, world: World
    ) -> None:
        """As privacy addresses come and go (RFC 8981)."""
        terminal = world.terminal
        link, old = terminal.access.link, terminal.address
        with world.both_ways() as (up, down):
            terminal.address = f"{terminal.access.network}:77/64"
            terminal.show(f"ip address add {terminal.address} dev {link} nodad")
            terminal.links.announce(link, terminal.outer)
            terminal.show(f"ip address change {old} dev {link} preferred_lft 0")
            agrees(world, terminal)
            for stream in (up, down):
                stream.flows(packets=10)
            terminal.show(f"ip address del {old} dev {link}")
            for stream in (up, down):
                stream.flows(packets=10)
        assert up.outcome().lost == down.outcome().lost == ()

    def test_a_tunnel_of_ikev1_moves_and_is_rekeyed_afterwards(self, world: World) -> None:
        world.reconnect(replace(OVER6, ike_version=1, inner=(6,), dpd_delay_s=2))
        for end in world.ends:
            survives_a_move(world)
            rekeys_the_child(world, end)
            deletes_what_was_rekeyed(world)
        answers_dead_peer_detection(world, time.monotonic_ns())

    def test_an_icmpv6_dummy_is_enough(self, world: World) -> None:
        world.reconnect(replace(OVER6, inner=(6,)))
        for end in world.ends:
            end.swanroam.configure(capability="configured")
            end.swanroam.reload()
        eventually(
            lambda: {end.swanroam.tunnel(world.terminal.inner)["capability"] for end in world.ends} == {"configured"},
            "both ends take the capability from the configuration",
        )
        reached_without_data(world)

    def test_strongswan_alone_moves_with_mobike_for_comparison(self, world: World) -> None:
        alone_for_comparison(
            world, replace(OVER6, mobike=True, roam_events=True), "IPv6 outside, MOBIKE, strongSwan alone"
        )


class TestInUdp:
    """As over IPv6, but charon set the tunnel up in UDP and goes on with the address of then."""

    @pytest.fixture
    def world(self, in_udp: World) -> World:
        return in_udp

    def test_a_tunnel_goes_on_and_all_that_strongswan_does_works_on_a_kept_address(
        self, world: World, variant: Variant
    ) -> None:
        journey = begin(world, variant, "wlan0")
        for _ in range(MOVES):
            journey.goes_on(IN_UDP6, world.terminal.move)
        assert world.terminal.aliases == [f"{journey.began_at}/128"]
        journey.ends_well()

    def test_nothing_is_left_of_the_first_address_when_it_comes_back_or_the_daemon_stops(
        self, world: World, variant: Variant
    ) -> None:
        tidies_up(begin(world, variant, "wlan0"), (IN_UDP6, IN_UDP6))

    def test_a_killed_daemon_leaves_the_tunnel_working_and_nothing_that_the_next_one_does_not_clean(
        self, world: World, variant: Variant
    ) -> None:
        survives_a_kill(world, variant, "wlan0", IN_UDP6)

    def test_strongswan_alone_moves_with_mobike_for_comparison(self, world: World) -> None:
        world.begin_without_swanroam(replace(OVER6, mobike=True, roam_events=True, encap=True))
        for _ in range(MOVES):
            compare_with_mobike(world, IN_UDP6, world.terminal.move)


class TestChangeOfVersion:
    """wlan0 has IPv4, lte0 has IPv6: every move changes the version."""

    @pytest.fixture
    def world(self, mixed: World) -> World:
        return mixed

    def test_a_tunnel_goes_from_ipv4_to_ipv6_and_back(self, world: World) -> None:
        carries_all(world)
        assert world.terminal.gateway == GATEWAY_WAN6
        carries_all(world)
        assert world.terminal.gateway == GATEWAY_WAN

        figures_of(world, "change of IP version, swanroam")

    def test_after_a_change_the_tunnel_is_rekeyed_and_changes_again(self, world: World) -> None:
        survives_a_move(world)
        rekeys_the_child(world, world.gateway)
        rekeys_the_ike_sa(world, world.terminal)
        survives_a_move(world)

    def test_an_idle_tunnel_is_reached_after_a_change(self, world: World) -> None:
        for _ in range(2):
            reached_without_data(world)

    def test_strongswan_alone_changes_with_mobike_for_comparison(self, world: World) -> None:
        if world.terminal.gateway != GATEWAY_WAN:
            world.terminal.move()  # to where a new tunnel can begin
            agrees(world, world.terminal)
        alone = replace(world.tunnel, mobike=True, roam_events=True)
        alone_for_comparison(world, alone, "change of IP version, MOBIKE, strongSwan alone")
