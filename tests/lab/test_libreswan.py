"""Libreswan as the gateway: it takes in what comes from elsewhere, and goes on sending to where the tunnel was.

A terminal that moves here leaves a network for good: what is sent to it there is lost.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab import nat_figures
from tests.lab.agreement import kernel_states
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually, stays
from tests.lab.figures import moved_stream
from tests.lab.libreswan import ROOT, Pluto
from tests.lab.nat_figures import APPEARS, CHANGES, DISAPPEARS
from tests.lab.nats import Nat
from tests.lab.stories import answers_dead_peer_detection
from tests.lab.streams import Stream
from tests.lab.topology import GATEWAY_WAN, Topology
from tests.lab.world import Move, World

PUBLIC, NATTED = "wlan0", "lte0"
BUILT_ANEW_S = 15
"""From a move under streams both ways until both flow again; the silence is believed after 3 s."""


def in_udp(version: int, *, mobike: bool = False) -> TunnelOptions:
    """A tunnel that is in UDP from the start."""
    keepalive = {"keep_alive": "2s"}
    return TunnelOptions(
        ike_version=version, encap=True, dpd_delay_s=2, mobike=mobike, roam_events=mobike, charon=keepalive
    )


def begun(make_world: Callable[..., World], *links: str) -> World:
    """A world with NATs on these links; swanroam runs on the terminal only."""
    if not ROOT.exists():
        pytest.fail(f"{ROOT} is not there: sh tests/run.sh libreswan")
    world = make_world(Topology(nats=tuple(Nat(link=link) for link in links)), in_udp(2), Pluto)
    world.connect()
    world.roam(mobike=False, alone=True)
    _ = world.capture
    return world


@pytest.fixture(scope="module")
def pluto(make_world: Callable[..., World]) -> World:
    return begun(make_world, NATTED)


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


def sent_to(world: World) -> set[tuple[str, tuple[int, int] | None]]:
    """Where the gateway's kernel has states that send: address and ports."""
    states = kernel_states(world.gateway).values()
    return {(state.destination, state.ports) for state in states if state.source == GATEWAY_WAN}


def keep(kind: str, title: str, world: World, move: Move, streams: tuple[Stream, Stream], *, same_keys: bool) -> None:
    """Have the figures of a move told at the end of the run."""
    figures = moved_stream(move, *streams, world.capture, same_keys=same_keys)
    nat_figures.every.setdefault(kind, {}).setdefault(title, []).append(figures)


def is_built_anew(world: World, version: int, kind: str) -> None:
    """Move with streams both ways: up they go on; when the silence is believed another tunnel is up, and both flow."""
    before, there = world.terminal.sa, sent_to(world)
    with world.both_ways() as (up, down):
        move = leaves(world)
        up.flows(move.usable_ns)
        assert sent_to(world) == there
        down.flows(move.usable_ns, deadline_s=BUILT_ANEW_S)
        up.flows()
    now, title = world.terminal.sa, f"Libreswan, swanroam terminal only, IKEv{version}"
    assert now.spis != before.spis
    assert now.inner == before.inner
    assert world.terminal.seen in {address for address, _ in sent_to(world)}
    keep(kind, title, world, move, (up, down), same_keys=False)


def test_a_tunnel_in_udp_carries_data_both_ways(world: World, version: int) -> None:
    assert world.gateway.charon.version.startswith("Libreswan ")
    world.reconnect(in_udp(version), link=PUBLIC)
    with world.both_ways():
        pass
    assert (world.terminal.seen, (4500, 4500)) in sent_to(world)


@pytest.mark.parametrize(("kind", "link"), [(APPEARS, PUBLIC), (DISAPPEARS, NATTED)])
def test_after_a_move_charon_builds_the_tunnel_anew(world: World, version: int, kind: str, link: str) -> None:
    world.reconnect(in_udp(version), link=link)
    is_built_anew(world, version, kind)


def test_an_idle_terminal_negotiates_nothing_until_it_sends(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=PUBLIC)
    before = world.terminal.sa.identity
    leaves(world)
    stays(lambda: world.terminal.sa.identity == before, "the tunnel", for_s=6)
    with world.uplink(), world.downlink() as down:
        down.flows(deadline_s=2 * BUILT_ANEW_S)
    assert world.terminal.sa.identity != before


def test_a_nat_that_forgets_cuts_the_way_down_until_the_child_is_rekeyed(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=NATTED)
    with world.both_ways() as (up, down):
        move = world.rebind(NATTED)
        up.flows(move.usable_ns, packets=200)
        assert not [packet for packet in down.received() if packet.sent_ns > move.usable_ns]
        world.terminal.charon.rekey_child(world.terminal.sa.children[0])
        down.flows()
        up.flows()


def test_a_nat_that_gets_another_address_cuts_a_way_that_no_rekey_of_the_child_mends(
    world: World, version: int
) -> None:
    world.reconnect(in_udp(version), link=NATTED)
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        world.rebind(NATTED, new_address=True)
        world.terminal.charon.rekey_child(world.terminal.sa.children[0])
        eventually(lambda: world.terminal.sa.identity != before, "other keys")
        open_way, cut = (up, down) if version == 2 else (down, up)
        rekeyed_ns = time.monotonic_ns()
        open_way.flows(rekeyed_ns, packets=200)
        assert not [packet for packet in cut.received() if packet.sent_ns > rekeyed_ns]


def test_a_tunnel_that_was_built_anew_is_rekeyed_watched_and_ended_as_any(world: World, version: int) -> None:
    world.reconnect(in_udp(version), link=PUBLIC)
    is_built_anew(world, version, APPEARS)
    terminal = world.terminal
    for rekey in rekeys(world)[: 4 if version == 2 else 1]:
        before = terminal.sa.identity
        rekey()
        eventually(lambda before=before: terminal.sa.identity != before, "other keys")  # type: ignore[misc]
        with world.both_ways():
            pass
    answers_dead_peer_detection(world, time.monotonic_ns())
    spis = {spi for child in terminal.sa.children for spi in (child.spi_in, child.spi_out)}
    terminal.charon.terminate()
    eventually(lambda: not terminal.charon.sas() and not terminal.swanroam.tunnels(), "the terminal lets go")
    # Of a tunnel of IKEv1 that it left behind, pluto looks for the state that sends at the new address, and leaves it.
    eventually(lambda: not spis & kernel_states(world.gateway).keys(), "the gateway lets go")


def rekeys(world: World) -> list[Callable[[], object]]:
    """Rekeys of the CHILD_SA by the terminal; in IKEv2 also by the gateway, and of the IKE_SA by both.

    In IKEv1 pluto is not to be asked, and what charon calls a rekey of the IKE_SA, a reauthentication, it does not take
    part in, moved or not: charon expects the CHILD_SAs to go over, and pluto clears them when the old one is silent.
    """
    terminal, gateway = world.terminal, world.gateway
    assert isinstance(gateway.charon, Pluto)
    whack = gateway.charon.whack
    return [
        lambda: terminal.charon.rekey_child(terminal.sa.children[0]),
        lambda: whack("--rekey-ipsec", "--name", "roam2"),
        lambda: terminal.charon.rekey_ike(terminal.sa),
        lambda: whack("--rekey-ike", "--name", "roam2"),
    ]


def test_from_one_nat_to_another_it_is_built_anew_too(make_world: Callable[..., World]) -> None:
    world = begun(make_world, PUBLIC, NATTED)
    for version in (2, 1):
        world.reconnect(in_udp(version))
        is_built_anew(world, version, CHANGES)
        world.router.show("ip route flush type blackhole")


# The last one: it stops swanroam.
@pytest.mark.parametrize("link", [PUBLIC, NATTED])
def test_with_mobike_on_both_ends_libreswan_follows_charon(world: World, link: str) -> None:
    if world.terminal.access.link != link:
        world.terminal.move()
    world.begin_without_swanroam(in_udp(2, mobike=True))
    before = world.terminal.sa
    with world.both_ways() as (up, down):
        move = leaves(world)
        for stream in (up, down):
            stream.flows(move.usable_ns)
    assert world.terminal.sa.identity == before.identity
    assert world.terminal.seen in {address for address, _ in sent_to(world)}
    kind = APPEARS if link == PUBLIC else DISAPPEARS
    keep(kind, "Libreswan, strongSwan alone, MOBIKE", world, move, (up, down), same_keys=True)
