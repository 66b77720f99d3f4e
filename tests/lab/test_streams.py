"""A tunnel moves while data flows through it, in every combination of directions, and while none does."""

import pytest

from tests.lab.conditions import eventually
from tests.lab.stories import reached_without_data, settled
from tests.lab.topology import SERVER
from tests.lab.world import World

TRANSFER_BYTES = 20_000_000
DROP_UPDATES = "table ip story { chain out { type filter hook output priority -300; udp dport 4555 drop; }; }"


def test_the_first_data_packet_after_a_move_is_the_update(world: World) -> None:
    world.terminal.namespace.run(["nft", DROP_UPDATES])
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        move = world.terminal.move()
        up.flows(move.usable_ns)
        down.flows(move.usable_ns)
        world.terminal.namespace.run(["nft", "delete table ip story"])
    to_terminal = world.capture.esp_to(move.new, move.began_ns)
    first = world.capture.esp_from(move.new, move.began_ns)[0]
    data_length = max(set(lengths := [packet.length for packet in world.capture.esp_from(move.old)]), key=lengths.count)
    assert first.length == data_length, "the first packet from the new address is one of the stream's"
    assert first.at_ns < to_terminal[0].at_ns
    assert up.outcome(move.usable_ns).lost == ()
    assert world.terminal.sa.identity == before
    settled(world, move)


def test_no_uplink_packet_sent_after_the_new_address_is_usable_is_lost(world: World) -> None:
    before = world.terminal.sa.identity
    with world.uplink() as up:
        up.flows()
        move = world.terminal.move()
        up.flows(move.usable_ns, packets=20)
        sent_after = [packet for packet in up.sent() if packet.sent_ns >= move.usable_ns]
    arrived = {packet.number for packet in up.received()}
    assert sent_after
    assert [packet.number for packet in sent_after if packet.number not in arrived] == []
    assert world.terminal.sa.identity == before
    settled(world, move)


def test_an_idle_tunnel_is_reached_by_a_single_packet_after_the_update(world: World) -> None:
    reached_without_data(world)


def test_a_downlink_stream_goes_on_without_any_uplink_data(world: World) -> None:
    before = world.terminal.sa.identity
    with world.downlink() as down:
        down.flows()
        move = world.terminal.move()
        down.flows(move.usable_ns)
    assert world.terminal.sa.identity == before
    assert world.gateway.swanroam.tunnel(world.terminal.inner)["last_move"]["to"] == move.new
    settled(world, move)


@pytest.mark.parametrize("how", ["move", "unplug"])
def test_streams_in_both_directions_go_on(world: World, how: str) -> None:
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        move = world.terminal.move() if how == "move" else world.terminal.unplug()
        up.flows(move.usable_ns)
        down.flows(move.usable_ns)
    assert up.outcome(move.usable_ns).lost == ()
    assert world.terminal.sa.identity == before
    settled(world, move)


def test_a_download_of_20_mb_over_20_moves_has_the_right_checksum(world: World) -> None:
    before = world.terminal.sa.identity
    server, terminal = world.server.agent, world.terminal.agent
    server.do("serve", "download", port=8080, size=TRANSFER_BYTES)
    terminal.do("fetch", "download", source=world.terminal.inner, destination=SERVER, port=8080)

    def has(share: int) -> bool:
        report = terminal.do("report", "download")
        assert report["error"] is None
        return bool(report["bytes"] >= TRANSFER_BYTES * share // 21)

    moves = []
    for number in range(1, 21):
        eventually(lambda number=number: has(number), f"part {number} of the download", deadline_s=60)  # type: ignore[misc]
        moves.append(world.terminal.move())
    eventually(lambda: terminal.do("report", "download")["done"], "the download is complete", deadline_s=120)
    got, gave = terminal.do("stop", "download"), server.do("stop", "download")
    assert got["bytes"] == TRANSFER_BYTES
    assert got["sha256"] == gave["sha256"]
    assert world.terminal.sa.identity == before
    settled(world, moves[0])
