"""Parts that several stories share."""

import time

from tests.lab.agreement import USUAL, Wanted, agrees
from tests.lab.charon import IkeSa
from tests.lab.conditions import eventually
from tests.lab.world import End, Move, Terminal, World

__all__ = [
    "answers_dead_peer_detection",
    "carries_all",
    "deletes_what_was_rekeyed",
    "ends",
    "outlasts_the_gateways_absence",
    "reached_without_data",
    "rekeys_the_child",
    "rekeys_the_ike_sa",
    "settled",
    "survives_a_move",
]


def settled(world: World, move: Move, terminal: Terminal | None = None) -> None:
    """Everything agrees on the new address, nothing was negotiated and nothing left the tunnel."""
    agrees(world, terminal or world.terminal)
    now_ns, capture = time.monotonic_ns(), world.capture
    # Where charon asks whether the other end is there it may do so at any time.
    said = capture.negotiations if world.tunnel.dpd_delay_s else capture.ike
    assert not said(move.began_ns, now_ns)
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
    assert not [
        packet for packet in capture.packets(move.began_ns) if packet.icmp and packet.source == world.terminal.gateway
    ]
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


def carries_all(world: World) -> None:
    """Move once under streams from and to each inner address, which all go on with the same keys."""
    terminal = world.terminal
    before = terminal.sa.identity
    streams = [each(inner=inner).start() for inner in terminal.sa.inner for each in (world.uplink, world.downlink)]
    try:
        for stream in streams:
            stream.flows()
        move = terminal.move()
        for stream in streams:
            stream.flows(move.usable_ns)
        settled(world, move)
        for stream in streams:
            stream.flows()
    finally:
        for stream in streams:
            stream.stop()
    assert terminal.sa.identity == before


def outlasts_the_gateways_absence(world: World) -> None:
    """The gateway's link goes down, the terminal moves, and the tunnel goes on with the same keys when it is back.

    Nobody answers plain ESP meanwhile, so it goes in UDP, and back with the next move.
    """
    terminal = world.terminal
    before = terminal.sa.identity
    with world.both_ways() as (up, down):
        with world.cut_off():
            move = terminal.move()
            eventually(lambda: terminal.swanroam.tunnel(terminal.inner)["encap"], "it goes in UDP")
        for stream in (up, down):
            stream.flows()
        agrees(world, terminal, Wanted(encap=True, charon=False))
    assert terminal.sa.identity == before
    assert not world.capture.negotiations(move.began_ns, time.monotonic_ns())
    survives_a_move(world)


def rekeys_the_child(world: World, end: End, wanted: Wanted = USUAL, terminal: Terminal | None = None) -> None:
    """One end rekeys a CHILD_SA: other SPIs in the same IKE_SA, and everything agrees on them."""
    whose = terminal or world.terminal
    before = whose.sa
    child, *_ = world.sa(end, whose).children
    end.charon.rekey_child(child)

    def rekeyed() -> bool:
        now = {child.spi_in for child in whose.sa.children}
        return len(now) == len(before.children) and now != {child.spi_in for child in before.children}

    eventually(rekeyed, f"the {end.name} rekeys the CHILD_SA")
    assert whose.sa.spis == before.spis
    agrees(world, whose, wanted)


def deletes_what_was_rekeyed(world: World) -> None:
    """Nothing is left of a rekeyed CHILD_SA, which in IKEv1 charon alone would keep until its lifetime ends."""
    for end in (world.terminal, world.gateway):
        eventually(
            lambda end=end: not world.sa(end, world.terminal).replaced,  # type: ignore[misc]
            f"the {end.name} deletes what was rekeyed",
        )


def rekeys_the_ike_sa(world: World, end: End, wanted: Wanted = USUAL, terminal: Terminal | None = None) -> None:
    """One end rekeys the IKE_SA, the CHILD_SA stays, and everything agrees."""
    whose = terminal or world.terminal
    before = whose.sa
    end.charon.rekey_ike(world.sa(end, whose))

    def rekeyed() -> IkeSa:
        now = whose.sa
        assert now.unique_id != before.unique_id
        return now

    now = eventually(rekeyed, f"the {end.name} rekeys the IKE_SA")
    assert [child.spi_in for child in now.children] == [child.spi_in for child in before.children]
    agrees(world, whose, wanted)


def answers_dead_peer_detection(world: World, since_ns: int, terminal: Terminal | None = None) -> None:
    """Both ends are heard of on the path that the terminal is on; the tunnel's options ask for it each few seconds."""
    whose = terminal or world.terminal
    before = whose.sa.identity
    for source in (whose.seen, whose.gateway):
        eventually(
            lambda source=source: [p for p in world.capture.ike(since_ns, host=whose.seen) if p.source == source],  # type: ignore[misc]
            f"an IKE packet from {source}",
        )
    assert whose.sa.identity == before


def ends(world: World, end: End, swanroam: tuple[str, ...] = ("terminal", "gateway")) -> None:
    """One end terminates the only tunnel, and nothing is left of it anywhere."""
    end.charon.terminate()
    eventually(lambda: not world.terminal.charon.sas() and not world.gateway.charon.sas(), "both ends let go")
    for where, one in (("terminal", world.terminal), ("gateway", world.gateway)):
        if where in swanroam:
            eventually(lambda one=one: one.swanroam.tunnels() == [], f"swanroam on the {where} forgets")  # type: ignore[misc]
        assert "proto esp" not in one.show("ip xfrm state list nokeys")
