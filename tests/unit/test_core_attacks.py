"""Attackers and flapping terminals against a terminal and a gateway in memory."""

from dataclasses import replace

import pytest

from swanroam.core.damping import MOVES_PER_MINUTE
from swanroam.core.gateway import CHALLENGE_DELAYS_S, LEAVING_S
from swanroam.model.events import Reason
from tests.support.peers import Packet, World
from tests.support.values import A, B, C

CONVERGES_S = 5.0


def together(world: World) -> bool:
    """Whether both ends have the tunnel at the same address, and wait for nothing."""
    terminal, gateway = world.terminal.tunnel, world.gateway.tunnel
    here = world.terminal.addresses[0]
    return terminal.path.local.address == gateway.path.remote.address == here and terminal.phase == gateway.phase


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("moves", [50, 51])
def test_a_terminal_that_moves_fifty_times_in_ten_seconds_is_followed_soon_after_the_last(
    *, idle: bool, moves: int
) -> None:
    world = World()
    world.run(1.0)
    if not idle:
        world.stream((world.terminal, world.gateway), 0.02, 60.0)
    for number in range(moves):
        world.roam((B, A)[number % 2])
        world.run(0.2)
    assert world.until(lambda: together(world), CONVERGES_S) < CONVERGES_S
    assert world.gateway.tunnel.rejected.get(Reason.FLAPPING, 0) > 0
    assert world.builds == 1


def relaying(world: World, *, ahead_s: float = 0.005) -> None:
    """Somebody on the path sends each packet of the terminal on from C, a moment before the packet itself arrives."""
    carry = world.transmit

    def transmit(packet: Packet) -> None:
        if packet.source in (A, B):
            world.after(world.delay_s - ahead_s, lambda: world.deliver(replace(packet, source=C)))
        carry(packet)

    world.transmit = transmit  # type: ignore[method-assign]


def test_who_sends_packets_on_ahead_of_the_terminal_has_the_tunnel_for_ever_smaller_parts_of_the_time() -> None:
    world = World()
    world.run(1.0)
    world.stream((world.terminal, world.gateway), 0.02, 400.0)
    relaying(world)
    minutes = []
    for _ in range(4):
        there, began_s = 0, world.now_s
        while world.now_s < began_s + 60.0:
            world.run(0.05)
            there += world.gateway.tunnel.path.remote.address == C
        minutes.append(there / 1200)
    assert 0.2 < minutes[0] < 0.5
    assert minutes[-1] < 0.1
    assert minutes == sorted(minutes, reverse=True)
    moves = [at_s for at_s, _ in world.gateway.moves]
    assert len(moves) <= MOVES_PER_MINUTE


def test_who_sends_one_packet_on_has_the_tunnel_until_the_terminal_sends_the_next_but_one() -> None:
    world = World()
    world.run(1.0)
    world.stream((world.terminal,), 0.02, 10.0)
    world.run(1.0)
    fresh = replace(world.sent[-1], source=C, sequence=world.sent[-1].sequence + 1)
    for state in world.terminal.states.values():
        state.sent += 1
    world.deliver(fresh)
    assert world.gateway.tunnel.path.remote.address == C
    took_s = world.until(lambda: world.gateway.tunnel.path.remote.address == A, 5.0)
    assert took_s < LEAVING_S + 0.1


def test_a_silent_terminal_whose_packet_was_sent_on_gets_its_tunnel_back_at_the_deadline() -> None:
    world = World()
    world.run(1.0)
    world.terminal.say()
    world.gateway.receive(replace(world.sent[-1], source=C))
    assert world.gateway.tunnel.path.remote.address == C
    took_s = world.until(lambda: world.gateway.tunnel.path.remote.address == A, 5.0)
    assert took_s == pytest.approx(sum(CHALLENGE_DELAYS_S))
