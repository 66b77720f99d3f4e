"""Libreswan as the gateway: it takes in what a terminal sends from elsewhere, and does not follow it by itself.

Where a terminal leaves a network for good nothing that is sent to it there arrives.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab import nat_figures
from tests.lab.agreement import kernel_states
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually, stays
from tests.lab.figures import moved_stream
from tests.lab.libreswan import Pluto
from tests.lab.nat_figures import APPEARS, DISAPPEARS, FORGETS
from tests.lab.nats import Nat
from tests.lab.stories import answers_dead_peer_detection
from tests.lab.topology import Topology
from tests.lab.world import Move, World

PUBLIC, NATTED = "wlan0", "lte0"
BUILT_ANEW_S = 10
"""From a move under streams both ways until both flow again: the silence is believed after 3 s."""


def in_udp(version: int) -> TunnelOptions:
    """A tunnel that is in UDP from the start, without MOBIKE."""
    return TunnelOptions(ike_version=version, encap=True, dpd_delay_s=2, charon={"keep_alive": "2s"})


@pytest.fixture(scope="module")
def pluto(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(nats=(Nat(link=NATTED),)), in_udp(2), Pluto)
    world.connect()
    world.roam(mobike=False, alone=True)
    return world


@pytest.fixture
def world(pluto: World) -> Iterator[World]:
    yield pluto
    pluto.router.show("ip route flush type blackhole")


@pytest.fixture(scope="module", params=[2, 1], ids=["ikev2", "ikev1"])
def version(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def leaves(world: World) -> Move:
    """The terminal moves, for good."""
    world.router.show(f"ip route add blackhole {world.terminal.seen}/32")
    return world.terminal.move()


def at_the_gateway(world: World) -> set[tuple[str, tuple[int, int] | None]]:
    """Where the gateway's kernel has the terminal: address, and ports of what goes there."""
    return {
        (state.destination, state.ports) for state in kernel_states(world.gateway).values() if state.source == "192.0.2.1"
    }


def keep(kind: str, title: str, world: World, move: Move, streams: tuple, *, same_keys: bool) -> None:
    figures = moved_stream(move, *streams, world.capture, same_keys=same_keys)
    nat_figures.every.setdefault(kind, {}).setdefault(title, []).append(figures)


def test_a_tunnel_through_udp_carries_data_both_ways(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=PUBLIC)
    with world.both_ways():
        pass
    assert at_the_gateway(world) == {(world.terminal.seen, (4500, 4500))}
    print(world.gateway.charon.version)


@pytest.mark.parametrize(("kind", "link"), [(APPEARS, PUBLIC), (DISAPPEARS, NATTED)])
def test_where_the_gateway_does_not_follow_charon_builds_the_tunnel_anew(
    world: World, version: int, kind: str, link: str
) -> None:
    world.reconnect(in_udp(version), link=link)
    before, there = world.terminal.sa, at_the_gateway(world)
    with world.both_ways() as (up, down):
        move = leaves(world)
        up.flows(move.usable_ns)
        assert at_the_gateway(world) == there
        down.flows(move.usable_ns, deadline_s=BUILT_ANEW_S)
        up.flows()
    now = world.terminal.sa
    assert now.spis != before.spis
    assert now.inner == before.inner
    assert {address for address, _ in at_the_gateway(world)} == {world.terminal.seen}
    keep(kind, f"Libreswan, swanroam terminal only, IKEv{version}", world, move, (up, down), same_keys=False)


def test_an_idle_terminal_negotiates_nothing_until_it_sends(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=PUBLIC)
    before = world.terminal.sa.identity
    leaves(world)
    stays(lambda: world.terminal.sa.identity == before, "the tunnel", for_s=6)
    with world.uplink(), world.downlink() as down:
        down.flows(deadline_s=20)
    assert world.terminal.sa.identity != before


def test_a_nat_that_forgets_cuts_the_way_down_until_a_rekey(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=NATTED)
    with world.both_ways() as (up, down):
        move = world.rebind(NATTED)
        up.flows(move.usable_ns, packets=200)
        assert not [packet for packet in down.received() if packet.sent_ns > move.usable_ns]
        (child,) = world.terminal.sa.children
        world.terminal.charon.rekey_child(child)
        down.flows()
        up.flows()


def test_a_tunnel_that_was_built_anew_is_rekeyed_watched_and_ended_as_any(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=PUBLIC)
    terminal, gateway = world.terminal, world.gateway
    assert isinstance(gateway.charon, Pluto)
    with world.both_ways() as (_, down):
        move = leaves(world)
        down.flows(move.usable_ns, deadline_s=BUILT_ANEW_S)
    whack = gateway.charon.whack
    for rekey in (
        lambda: terminal.charon.rekey_child(terminal.sa.children[0]),
        lambda: print(whack("--rekey-ipsec", "--name", f"roam{version}")),
        lambda: terminal.charon.rekey_ike(terminal.sa),
        lambda: print(whack("--rekey-ike", "--name", f"roam{version}")),
    ):
        before = terminal.sa.identity
        try:
            rekey()
            eventually(lambda before=before: terminal.sa.identity != before, "other keys")
            with world.both_ways():
                pass
            print("OK")
        except Exception as e: print("NO", e)
    print(terminal.sa)
    answers_dead_peer_detection(world, time.monotonic_ns())
    terminal.charon.terminate()
    eventually(lambda: not terminal.charon.sas() and not terminal.swanroam.tunnels(), "the terminal lets go")
    eventually(lambda: "proto esp" not in gateway.show("ip xfrm state list nokeys"), "the gateway lets go")


# The last ones: they stop swanroam.
@pytest.mark.parametrize("mobike", [True, False])
def test_strongswan_alone_for_comparison(world: World, mobike: bool) -> None:
    world.begin_without_swanroam(TunnelOptions(mobike=mobike, encap=not mobike, roam_events=True, dpd_delay_s=2))
    for _ in range(2):
        before = world.terminal.sa.identity
        kind = APPEARS if world.terminal.access.link == PUBLIC else DISAPPEARS
        with world.both_ways() as (up, down):
            move = leaves(world)
            for stream in (up, down):
                stream.flows(move.usable_ns, deadline_s=60)
        world.router.show("ip route flush type blackhole")
        keep(kind, f"Libreswan, strongSwan, MOBIKE {mobike}", world, move, (up, down), same_keys=world.terminal.sa.identity == before)
