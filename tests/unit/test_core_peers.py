"""A terminal and a gateway in memory: what the two cores do together."""

from dataclasses import replace
from itertools import pairwise

import pytest

from swanroam.core.distrust import FIRST_S
from swanroam.core.terminal import REMIND_S
from swanroam.core.tunnel import Phase
from swanroam.model.effects import Reestablish
from swanroam.model.events import Reason
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, Role
from tests.support.peers import Host, World
from tests.support.values import GATEWAY, NAT_A, SECOND, A, B, C, path

LOCAL = (A, B, C)
RTT_S = 0.02
TOLERANCE_S = 1e-6


def began() -> World:
    world = World()
    world.until(world.agreed, 1.0)
    return world


def longest_gap_s(host: Host, since_s: float) -> float:
    times = [since_s, *(at_s for at_s, _ in host.data if at_s > since_s)]
    return max(after - before for before, after in pairwise(times))


def test_both_ends_agree_on_the_capability_within_a_round_trip() -> None:
    world = World()
    assert not world.agreed()
    assert world.until(world.agreed, 1.0) <= RTT_S + TOLERANCE_S


def test_an_idle_tunnel_is_at_its_new_place_after_half_a_round_trip_and_settled_after_one() -> None:
    world = began()
    world.roam(B)
    moved = world.until(lambda: world.gateway.tunnel.path == path(Role.GATEWAY, B), 1.0)
    settled = world.until(world.agreed, 1.0)
    assert moved == pytest.approx(RTT_S / 2)
    assert settled <= RTT_S + TOLERANCE_S
    assert world.builds == 1


def test_no_uplink_packet_that_was_sent_after_the_move_is_lost_and_the_downlink_waits_one_round_trip() -> None:
    world = began()
    world.stream((world.terminal, world.gateway), 0.01, 2.0)
    world.run(1.0)
    changed_s = world.now_s
    world.roam(B)
    world.run(2.0)
    sent = {packet.sequence for packet in world.sent if packet.source == B and packet.payload is None}
    assert len(sent) > 90
    assert sent <= {number for _, number in world.gateway.data}
    assert longest_gap_s(world.terminal, changed_s) <= 0.01 + RTT_S + TOLERANCE_S


def test_twenty_moves_in_a_row_are_followed_also_when_they_go_back_and_forth() -> None:
    world = began()
    world.stream((world.terminal, world.gateway), 0.01, 25.0)
    world.run(1.0)
    began_s = world.now_s
    for number in range(20):
        world.roam(LOCAL[(number + 1) % 2])
        world.until(world.agreed, 0.3)
        world.run(0.7)
    # One round trip; and where the terminal comes back to the source that it just left, one more packet.
    assert longest_gap_s(world.terminal, began_s) <= 0.01 + RTT_S + 0.01 + TOLERANCE_S
    assert (world.terminal.tunnel.moves, world.gateway.tunnel.moves) == (20, 20)
    assert world.builds == 1


def test_a_lost_update_is_sent_again() -> None:
    world = began()
    world.loss = 1.0
    world.roam(B)
    world.run(0.1)
    world.loss = 0.0
    assert world.until(world.agreed, 1.0) < 0.2


def test_an_idle_terminal_whose_challenges_were_all_lost_is_followed_again_before_it_says_anything() -> None:
    world = began()
    world.roam(B)
    world.until(lambda: world.gateway.tunnel.phase is Phase.VALIDATING, 1.0)
    world.loss = 1.0  # for all but the acknowledgement, which is on its way
    world.run(3.5)
    world.loss = 0.0
    assert world.terminal.tunnel.phase is Phase.STEADY
    assert world.gateway.tunnel.path == path(Role.GATEWAY, A)
    assert world.until(world.agreed, 4.0) <= REMIND_S - 3.5 + RTT_S + TOLERANCE_S
    world.run(10.0)
    assert world.agreed()
    assert world.builds == 1


def with_two_homes() -> World:
    """A gateway with two addresses, and streams both ways."""
    world = World(gateways=(GATEWAY, SECOND))
    world.until(world.agreed, 1.0)
    world.stream((world.terminal, world.gateway), 0.01, 60.0)
    world.run(1.0)
    return world


def home(world: World) -> IPAddress:
    """The gateway's address that both ends use."""
    assert world.agreed()
    return world.terminal.tunnel.path.remote.address


def charons_agree(world: World) -> bool:
    (terminal,), (gateway,) = world.terminal.sas, world.gateway.sas
    return (terminal.local.address, terminal.remote.address) == (gateway.remote.address, gateway.local.address)


def test_a_gateway_whose_address_is_gone_goes_on_at_the_other_one_after_a_round_trip() -> None:
    world = with_two_homes()
    since_s = world.now_s
    world.renumber(SECOND)
    assert world.until(world.agreed, 1.0) <= 1.5 * RTT_S + TOLERANCE_S
    world.run(2.0)
    assert home(world) == SECOND
    assert longest_gap_s(world.terminal, since_s) <= 0.01 + TOLERANCE_S, "the way down does not wait"
    assert charons_agree(world)
    assert world.builds == 1
    world.renumber(GATEWAY, SECOND)
    world.run(2.0)
    assert home(world) == SECOND, "an address that comes back is no reason to move"


def test_a_lost_word_of_the_gateways_address_is_said_again() -> None:
    world = with_two_homes()
    world.loss = 1.0
    world.renumber(SECOND)
    world.run(0.5)
    world.loss = 0.0
    assert world.until(world.agreed, 1.0) < 0.6


def test_a_terminal_that_moves_while_the_gateways_address_is_silent_finds_it_at_the_other_one() -> None:
    world = with_two_homes()
    world.silent = frozenset({GATEWAY})
    world.roam(B)
    assert world.until(world.agreed, 2.0) == pytest.approx(0.2 + 0.4 + RTT_S, abs=0.01)
    world.run(2.0)
    assert home(world) == SECOND
    assert charons_agree(world)
    assert world.builds == 1


def test_a_gateway_that_is_not_heard_at_its_new_address_is_found_at_the_old_one_when_that_is_back() -> None:
    world = with_two_homes()
    world.silent = frozenset({SECOND})
    world.renumber(SECOND)
    world.run(1.0)
    world.renumber(GATEWAY, SECOND)
    world.roam(B)
    world.until(world.agreed, 2.0)
    assert home(world) == GATEWAY


@pytest.mark.parametrize("who", ["terminal", "gateway"])
def test_a_daemon_that_is_killed_when_the_gateways_address_goes_loses_no_tunnel(who: str) -> None:
    world = with_two_homes()
    world.renumber(SECOND)
    world.restart(getattr(world, who), 1.0, remember=True)
    world.until(world.agreed, 5.0)
    world.run(2.0)
    assert home(world) == SECOND
    assert charons_agree(world)
    assert world.builds == 1


def test_a_terminal_without_any_address_for_30_s_comes_back() -> None:
    world = began()
    world.roam()
    world.run(29.0)
    world.roam(C)
    world.until(world.agreed, 1.0)
    assert world.builds == 1


def test_a_gateway_that_cannot_be_reached_has_charon_build_the_tunnel_anew() -> None:
    world = began()
    world.loss = 1.0
    world.roam(B)
    asked = world.until(lambda: any(isinstance(effect, Reestablish) for _, effect in world.terminal.effects), 20.0)
    assert asked == pytest.approx(12.6)
    world.loss = 0.0
    world.until(world.agreed, 15.0)
    assert world.builds == 2


@pytest.mark.parametrize("remember", [True, False])
@pytest.mark.parametrize("who", ["terminal", "gateway"])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_daemon_that_is_killed_around_a_move_loses_no_tunnel(who: str, when: str, remember: bool) -> None:
    world = began()
    host = world.terminal if who == "terminal" else world.gateway
    if when == "before":
        world.restart(host, 0.5, remember=remember)
        world.until(lambda: host.running and world.agreed(), 2.0)
    world.roam(B)
    if when == "during":
        world.run(0.005)
        world.restart(host, 0.5, remember=remember)
    if when == "after":
        world.until(world.agreed, 1.0)
        world.restart(host, 0.5, remember=remember)
    world.until(lambda: host.running and world.agreed(), 5.0)
    assert world.builds == 1


def test_a_terminal_that_moves_while_its_daemon_is_dead_is_followed_when_it_is_back() -> None:
    world = began()
    world.terminal.kill()
    world.roam(B)
    world.run(5.0)
    world.terminal.start(remember=True)
    assert world.until(world.agreed, 1.0) < 0.1


def test_a_gateway_that_forgot_everything_while_the_terminal_moved_is_reminded_by_an_update() -> None:
    world = began()
    world.gateway.kill()
    world.roam(B)
    world.run(0.5)
    world.gateway.start(remember=False)
    assert world.until(world.agreed, 5.0) < 2.0
    assert world.builds == 1


def test_rekeys_and_moves_do_not_disturb_each_other() -> None:
    world = began()
    for number in range(1, 7):
        world.rekey()
        world.roam(LOCAL[number % 3])
        world.rekey()
        world.until(world.agreed, 5.0)
    assert world.builds == 1


def captured(world: World, source: IPAddress, *, forged: bool = False) -> None:
    """Somebody on the path sends the terminal's last packet on from elsewhere, before it arrives itself."""
    packet = next(packet for packet in reversed(world.sent) if packet.source in world.terminal.addresses)
    world.gateway.receive(replace(packet, source=source, forged=forged))


def test_a_packet_that_was_captured_and_sent_from_elsewhere_moves_the_tunnel_for_3_s_at_most() -> None:
    world = began()
    world.terminal.say()
    captured(world, C)
    assert world.gateway.tunnel.path == path(Role.GATEWAY, C)
    assert world.until(world.agreed, 4.0) <= 3.1
    assert world.gateway.tunnel.rejected == {Reason.NOT_VALIDATED: 1}
    for failures in range(1, 4):
        world.run(FIRST_S * 2.0 ** (failures - 1) - 0.5)
        world.terminal.say()
        captured(world, C)
        assert world.gateway.tunnel.path == path(Role.GATEWAY, A), "each time it is distrusted for longer"
        world.run(0.5)
        world.terminal.say()
        captured(world, C)
        assert world.gateway.tunnel.path == path(Role.GATEWAY, C)
        assert world.until(world.agreed, 4.0) <= 3.1


def test_a_silent_terminal_whose_packets_are_captured_again_and_again_keeps_its_agreement() -> None:
    world = began()
    for source in (B, C) * 3:
        world.run(FIRST_S * 32)
        world.terminal.say()
        captured(world, source)
        assert world.gateway.tunnel.path == path(Role.GATEWAY, source)
        assert world.until(world.agreed, 4.0) <= 3.1
        world.run(2 * RTT_S)
        assert (world.gateway.tunnel.capability, world.gateway.tunnel.unheard) == (Capability.NEGOTIATED, 0)


def test_a_terminal_whose_daemon_was_killed_is_asked_in_vain_and_one_that_is_back_is_followed() -> None:
    world = began()
    world.terminal.kill()
    for source in (B, C):
        world.run(FIRST_S * 2)
        world.terminal.say()
        captured(world, source)
        world.run(4.0)
    assert world.gateway.tunnel.path == path(Role.GATEWAY, A)
    assert world.gateway.tunnel.capability is Capability.PENDING
    world.run(20.0)
    assert world.gateway.tunnel.capability is Capability.NONE
    world.roam(B)
    world.terminal.start(remember=True)
    assert world.until(world.agreed, 5.0) < 0.5
    assert world.builds == 1


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_where_the_terminals_daemon_is_gone_a_nat_that_forgets_is_followed_as_by_strongswan_alone(way: str) -> None:
    world = World(nats={A: NAT_A})
    world.until(world.agreed, 1.0)
    world.stream((world.terminal, world.gateway), 0.05, 60.0)
    world.run(1.0)
    if way == "stopped":
        world.terminal.stop()
    else:
        world.terminal.kill()
        world.network.forget()
        world.until(lambda: not world.gateway.tunnel.guarded, 10.0)
    world.run(1.0)
    since_s, moves = world.now_s, world.gateway.tunnel.moves
    for _ in range(3):
        world.network.forget()
        world.run(5.0)
    assert longest_gap_s(world.terminal, since_s) < 0.2
    assert (world.gateway.tunnel.moves, world.builds) == (moves, 1)
    world.terminal.start(remember=True)
    world.until(world.agreed, 5.0)
    world.network.forget()
    assert world.until(world.agreed, 1.0) < 0.2


def test_a_packet_that_was_captured_moves_nothing_after_it_arrived() -> None:
    world = began()
    world.terminal.say()
    world.run(0.1)
    captured(world, C)
    assert world.gateway.tunnel.path == path(Role.GATEWAY, A)
    assert world.gateway.tunnel.rejected == {Reason.REPLAYED: 1}


def test_a_forged_packet_moves_nothing() -> None:
    world = began()
    world.terminal.say()
    captured(world, C, forged=True)
    assert world.gateway.tunnel.path == path(Role.GATEWAY, A)
    assert world.gateway.tunnel.rejected == {Reason.BAD_ICV: 1}


def test_a_terminal_whose_gateway_has_no_daemon_does_what_strongswan_does() -> None:
    world = began()
    world.run(1.0)
    world.gateway.kill()
    world.terminal.start(remember=False)
    world.run(100.0)
    assert world.terminal.tunnel.capability is Capability.NONE
    world.roam(B)
    assert world.terminal.moves == []
    assert world.terminal.tunnel.phase is Phase.STEADY
