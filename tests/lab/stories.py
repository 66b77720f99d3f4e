"""Parts that several stories share."""

from tests.lab.agreement import agrees
from tests.lab.conditions import eventually
from tests.lab.topology import GATEWAY_WAN
from tests.lab.world import Move, Terminal, World

__all__ = ["reached_without_data", "settled", "survives_a_move"]


def settled(world: World, move: Move, terminal: Terminal | None = None) -> None:
    """Everything agrees on the new address, nothing was negotiated and nothing left the tunnel."""
    agrees(world, terminal or world.terminal)
    assert not world.capture.ike(move.began_ns)
    assert not world.capture.cleartext(move.began_ns)


def reached_without_data(world: World) -> None:
    """Move an idle tunnel, then send one packet from the server, once, and no other."""
    before = world.terminal.sa.identity
    capture = world.capture
    move = world.terminal.move()
    eventually(lambda: capture.esp_from(move.new, move.began_ns), "something tells the gateway")
    eventually(
        lambda: world.gateway.swanroam.tunnel(world.terminal.inner)["remote"]["address"] == move.new,
        "the gateway knows the new address",
    )
    probe = world.downlink(count=1).start()
    eventually(probe.received, "the one packet arrives")
    probe.stop()
    assert probe.outcome().lost == ()
    assert capture.esp_to(move.new, move.began_ns)
    assert not [packet for packet in capture.packets(move.began_ns) if packet.icmp and packet.source == GATEWAY_WAN]
    assert world.terminal.sa.identity == before
    settled(world, move)


def survives_a_move(world: World, terminal: Terminal | None = None) -> Move:
    """Move with streams in both directions, which go on, and nothing is negotiated."""
    moving = terminal or world.terminal
    before = moving.sa.identity
    with world.both_ways(moving) as (up, down):
        move = moving.move()
        up.flows(move.usable_ns)
        down.flows(move.usable_ns)
    assert moving.sa.identity == before
    settled(world, move, moving)
    return move
