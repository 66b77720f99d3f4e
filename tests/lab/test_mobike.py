"""Tunnels with MOBIKE: swanroam moves the data at once where it is on both ends, charon has the last word everywhere.

The figures stand beside those of strongSwan alone, in one boot.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab.agreement import USUAL, Wanted, agrees
from tests.lab.charon import CONNECTION, TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.figures import MOBIKE_ALONE, MOBIKE_FASTER, measured, medians, move_once
from tests.lab.nats import Nat
from tests.lab.stories import answers_dead_peer_detection, rekeys_the_child, rekeys_the_ike_sa, survives_a_move
from tests.lab.topology import Topology
from tests.lab.world import End, Move, World

MOVES = 4
TUNNEL = TunnelOptions(mobike=True, roam_events=True)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(tunnel=TUNNEL)
    world.connect()
    return world


@pytest.fixture(scope="module")
def natted(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(nats=(Nat(link="lte0"),)), TUNNEL)
    world.connect()
    world.roam()
    return world


def everywhere(world: World) -> None:
    """See to it that swanroam runs on both ends, whichever stories were told before."""
    if not all(end.swanroam.running for end in world.ends):
        world.roam()


def figures_of(world: World, name: str, wanted: Wanted) -> None:
    """Move some times under streams, each time to where both charons have followed; the medians go to the report."""
    moves = []
    for _ in range(MOVES):
        moves.append(move_once(world, world.terminal, world.capture))
        agrees(world, world.terminal, wanted)
    measured.append(medians(name, moves))
    assert all(move.same_keys for move in moves)
    assert all(move.ike_packets for move in moves)


def goes_on(world: World, wanted: Wanted = USUAL) -> Move:
    """Move with streams both ways, which go on with the same keys, and both charons follow by their own exchange."""
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns)
        down.flows(move.usable_ns)
        agrees(world, world.terminal, wanted)
        up.flows()
        down.flows()
    assert world.terminal.sa.identity == before
    assert not world.capture.cleartext(move.began_ns)
    return move


@contextmanager
def nobody_told_charon(world: World) -> Iterator[None]:
    """No charon was given XFRMA_KMADDRESS meanwhile: it logs a job to migrate by."""
    before = {end.name: len(end.charon.log.read_text()) for end in world.ends}
    yield
    for end in world.ends:
        assert "migrate job" not in end.charon.log.read_text()[before[end.name] :], end.name


def last_move(world: World, end: End) -> dict[str, object]:
    """What the status of one end says of the last move."""
    moved = end.swanroam.tunnel(world.terminal.inner)["last_move"]
    assert moved is not None
    return {key: moved[key] for key in ("to", "trigger", "validated")}


def test_strongswan_alone_for_comparison(world: World) -> None:
    figures_of(world, MOBIKE_ALONE, Wanted(swanroam=()))


def test_with_swanroam_on_both_ends_data_moves_first_and_charon_follows_by_itself(world: World) -> None:
    everywhere(world)
    with nobody_told_charon(world):
        figures_of(world, MOBIKE_FASTER, USUAL)
    where = world.terminal.outer
    assert last_move(world, world.terminal) == {"to": where, "trigger": "address", "validated": True}
    assert last_move(world, world.gateway) == {"to": where, "trigger": "packet", "validated": True}
    assert all(end.swanroam.tunnel(world.terminal.inner)["mobike"] is True for end in world.ends)


def test_after_a_move_either_end_rekeys_and_the_next_move_works(world: World) -> None:
    everywhere(world)
    for end in (world.terminal, world.gateway):
        goes_on(world)
        rekeys_the_child(world, end)
        rekeys_the_ike_sa(world, end)
    goes_on(world)


def test_an_idle_tunnel_is_reached_from_the_gateway_after_a_move(world: World) -> None:
    move = world.terminal.move()
    agrees(world, world.terminal)
    with world.downlink(count=3) as down:
        down.flows(move.usable_ns, packets=3)


def test_moves_that_overtake_charon_end_where_the_terminal_is(world: World) -> None:
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        for _ in range(3):
            move = world.terminal.move()
            up.flows(move.usable_ns)
            down.flows(move.usable_ns)
        agrees(world, world.terminal)
        up.flows()
        down.flows()
    assert world.terminal.sa.identity == before


def test_with_swanroam_on_the_terminal_only_it_follows_charon_and_tells(world: World) -> None:
    world.leave_the_gateway_alone()
    world.reconnect(TUNNEL)
    goes_on(world, Wanted(swanroam=("terminal",)))
    eventually(lambda: last_move(world, world.terminal)["trigger"] == "mobike", "swanroam tells that charon moved")
    assert last_move(world, world.terminal)["to"] == world.terminal.outer


def test_with_swanroam_on_the_gateway_only_it_follows_charon_and_tells(world: World) -> None:
    world.terminal.swanroam.stop()
    world.gateway.swanroam.run()
    try:
        world.reconnect(TUNNEL, roams=False)
        goes_on(world, Wanted(swanroam=("gateway",)))
        eventually(lambda: last_move(world, world.gateway)["trigger"] == "mobike", "swanroam tells that charon moved")
        assert last_move(world, world.gateway)["to"] == world.terminal.outer
    finally:
        world.roams_everywhere()


def test_dead_peer_detection_asks_on_the_new_path(world: World) -> None:
    world.reconnect(TunnelOptions(mobike=True, roam_events=True, dpd_delay_s=2))
    goes_on(world)
    answers_dead_peer_detection(world, time.monotonic_ns())
    agrees(world, world.terminal)


def test_a_charon_that_does_not_notice_is_told_once_the_path_is_proven(world: World) -> None:
    """roam_events = no: charon would not look for another path before dead peer detection fails."""
    silent = TunnelOptions(mobike=True)
    everywhere(world)
    world.begin_with_other_charons(silent)
    move = goes_on(world)
    assert last_move(world, world.terminal)["validated"] is True
    goes_on(world)
    assert not world.capture.ike(move.began_ns)


def test_where_the_gateway_refuses_mobike_and_that_is_said_the_tunnel_moves_as_without(world: World) -> None:
    everywhere(world)
    for end in world.ends:
        end.swanroam.configure(tunnels={CONNECTION: {"mobike": False}})
        end.swanroam.reload()
    world.begin_with_other_charons(TunnelOptions(mobike=True, mobike_refused=True))
    survives_a_move(world)
    for end in world.ends:
        rekeys_the_child(world, end)
    survives_a_move(world)


class TestNat:
    """lte0 is behind a NAT that lets no plain ESP through: charon finds it by its own exchange, swanroam follows."""

    @pytest.fixture
    def world(self, natted: World) -> World:
        return natted

    def test_a_tunnel_with_mobike_goes_behind_a_nat_where_both_ends_rekey_and_comes_back(self, world: World) -> None:
        goes_on(world)
        for end in (world.terminal, world.gateway):
            rekeys_the_child(world, end)
            rekeys_the_ike_sa(world, end)
        goes_on(world)
        assert all(end.swanroam.tunnel(world.terminal.inner)["mobike"] is True for end in world.ends)

    def test_a_charon_that_does_not_look_for_the_nat_builds_the_tunnel_anew_and_knows_of_it(self, world: World) -> None:
        """roam_events = no, and nothing that charon could be told: data goes on meanwhile."""
        terminal = world.terminal
        world.begin_with_other_charons(TunnelOptions(mobike=True))
        before = terminal.sa.identity
        with world.both_ways() as (up, down):
            move = terminal.move()
            for stream in (up, down):
                stream.flows(move.usable_ns)
            assert terminal.sa.identity == before
            eventually(lambda: terminal.sa.identity != before, "the tunnel is built anew", deadline_s=60.0)
            agrees(world, terminal)
            for stream in (up, down):
                stream.flows()
