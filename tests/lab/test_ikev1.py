"""IKEv1 with a user's password (XAUTH) and mode config, and what is in it for somebody who has old messages of it."""

import time
from collections.abc import Callable

import pytest

from tests.lab.agreement import agrees
from tests.lab.captures import Packet
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import (
    answers_dead_peer_detection,
    deletes_what_was_rekeyed,
    ends,
    rekeys_the_child,
    rekeys_the_ike_sa,
    survives_a_move,
)
from tests.lab.tables import ATTACKS
from tests.lab.test_attacks import DEADLINE_S, away, counted, moves, remote, rules
from tests.lab.test_bad_input import ATTACKER, IP_HEADER, UDP, UDP_HEADER, rejections, send
from tests.lab.topology import GATEWAY_WAN, Topology
from tests.lab.world import World

XAUTH = TunnelOptions(ike_version=1, xauth=True, dpd_delay_s=2)
IKE = 500


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(attacker=True), XAUTH)
    world.connect()
    world.roam()
    return world


def test_a_tunnel_with_xauth_moves_and_all_that_strongswan_does_works_afterwards(world: World) -> None:
    """Away from where it began a reauthenticated IKE_SA may get another inner address: README."""
    for end in world.ends:
        assert "XAuth authentication of" in end.charon.log.read_text()
    for _ in range(2):
        move = survives_a_move(world)
        answers_dead_peer_detection(world, move.usable_ns)
        for end in world.ends:
            rekeys_the_child(world, end)
    rekeys_the_ike_sa(world, world.terminal)
    survives_a_move(world)
    ends(world, world.terminal)
    world.terminal.connect()
    world.agreed(world.terminal)


def test_the_terminal_rekeys_after_a_move_what_either_end_rekeyed_before(world: World) -> None:
    """Charon has the oldest CHILD_SA of a reqid follow (migrate_job.c): not that in use, if there is an older one."""
    for end in world.ends:
        rekeys_the_child(world, end)
        deletes_what_was_rekeyed(world)
        survives_a_move(world)
        rekeys_the_child(world, world.terminal)
        with world.both_ways():
            pass


def old_messages(world: World, source: str) -> list[bytes]:
    """Messages of IKE from an outer address, none of them the last one: charon knows that, and only that, again."""
    since_ns = time.monotonic_ns()

    def sent() -> list[Packet]:
        return [packet for packet in world.capture.ike(since_ns, host=world.terminal.outer) if packet.source == source]

    eventually(lambda: len(sent()) > 3, f"messages from {source}", deadline_s=60)
    return [world.capture.contents(packet)[IP_HEADER.size + UDP_HEADER.size :] for packet in sent()[:-1]]


def send_again(world: World, message: bytes, destination: str) -> None:
    """The attacker, off the path, sends it to this end of the tunnel."""
    send(world, UDP, UDP_HEADER.pack(IKE, IKE, UDP_HEADER.size + len(message), 0) + message, destination=destination)


def test_an_old_message_from_elsewhere_has_the_tunnel_until_the_terminal_goes_on(world: World) -> None:
    terminal, (message, *_) = world.terminal, old_messages(world, world.terminal.outer)
    before, began_ns = rejections(world), time.monotonic_ns()
    moved = moves(world)
    with world.both_ways() as (up, down):
        send_again(world, message, GATEWAY_WAN)
        eventually(lambda: moves(world) == moved + 2, "the tunnel is pulled away, and back")
        up.flows()
        down.flows()
    assert remote(world, terminal) == terminal.outer
    agrees(world, terminal)
    got = world.capture.esp_to(ATTACKER, began_ns)
    away_s = (got[-1].at_ns - got[0].at_ns) / 1e9 if got else 0.0
    assert away_s < DEADLINE_S / 2
    refused = counted(before, rejections(world))
    ATTACKS.append((f"off path: an old message of IKEv1, {len(got)} packets got", 1, 1, f"{away_s:.2f}", refused))


def test_old_messages_have_the_tunnel_of_a_silent_terminal_for_the_time_of_the_challenges_and_then_for_none(
    world: World,
) -> None:
    terminal, (first, second, *_) = world.terminal, old_messages(world, world.terminal.outer)
    before = rejections(world)
    with rules(world.router.namespace, "prerouting priority -300", f"ip saddr {terminal.outer} drop"):
        send_again(world, first, GATEWAY_WAN)
        away_s = away(world, terminal)
        assert DEADLINE_S - 0.5 < away_s < DEADLINE_S + 1.5
        eventually(lambda: world.sa(world.gateway, terminal).remote == terminal.outer, "charon goes back as well")
        refused = rejections(world)["not-validated"]
        began_ns = time.monotonic_ns()
        with world.downlink():
            send_again(world, second, GATEWAY_WAN)
            eventually(lambda: rejections(world)["not-validated"] > refused, "it is refused", every_s=0.005)
            eventually(lambda: world.sa(world.gateway, terminal).remote == terminal.outer, "charon is back")
        assert remote(world, terminal) == terminal.outer
        got = len(world.capture.esp_to(ATTACKER, began_ns))
    agrees(world, terminal)
    row = (f"off path: the same, of a silent terminal; {got} packets got the second time", 2, 2, f"{away_s:.1f}")
    ATTACKS.append((*row, counted(before, rejections(world))))


def test_an_old_message_of_the_gateway_from_elsewhere_does_not_keep_the_terminal_from_it(world: World) -> None:
    terminal, (message, *_) = world.terminal, old_messages(world, GATEWAY_WAN)
    began_ns = time.monotonic_ns()
    with world.both_ways() as (up, down):
        send_again(world, message, terminal.outer)
        refused = "source-not-allowed"
        eventually(lambda: refused in terminal.swanroam.tunnel(terminal.inner)["rejected"], "it is refused")
        up.flows()
        down.flows()
    agrees(world, terminal)
    gap_s = up.outcome(began_ns).longest_gap_ms / 1e3
    ATTACKS.append(("off path: an old message of IKEv1, to the terminal", 1, 1, f"{gap_s:.1f}", refused))
