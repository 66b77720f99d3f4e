"""An attacker sends what is none of his, and an operator writes what makes no sense: no tunnel moves."""

import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.captures import Packet
from tests.lab.conditions import eventually
from tests.lab.daemon import CAPABILITIES
from tests.lab.errors import LabError
from tests.lab.hosts import Host
from tests.lab.stories import survives_a_move
from tests.lab.topology import ACCESS, GATEWAY_WAN, Topology
from tests.lab.world import World

ESP, UDP = 50, 17
UDP_HEADER = struct.Struct("!HHHH")
IP_HEADER = struct.Struct("!BBHHHBBH4s4s")
UNIT = Path(__file__).parents[2] / "packaging/systemd/swanroam.service"
ATTACKER = f"{ACCESS[1].network}.66"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(attacker=True))
    world.connect()
    world.roam()
    return world


def attacker(world: World) -> Host:
    assert world.attacker is not None
    return world.attacker


def send(world: World, protocol: int, payload: bytes, source: str = ATTACKER, destination: str = GATEWAY_WAN) -> None:
    """Send an IP packet, to the gateway unless somewhere else, from the attacker's host."""
    ends = (bytes(map(int, address.split("."))) for address in (source, destination))
    header = IP_HEADER.pack(0x45, 0, IP_HEADER.size + len(payload), 0, 0, 64, protocol, 0, *ends)
    attacker(world).agent.do("inject", packet=(header + payload).hex(), destination=destination)


def send_udp(world: World, payload: bytes, source: str = ATTACKER, port: int = 31337) -> None:
    """Send to port 4500, as from behind a NAT, without a checksum (RFC 768)."""
    send(world, UDP, UDP_HEADER.pack(port, 4500, UDP_HEADER.size + len(payload), 0) + payload, source)


def send_esp(world: World, esp: bytes, *, encap: bool = False) -> None:
    """Send ESP to the gateway from the attacker's address, in UDP or without it."""
    if encap:
        send_udp(world, esp)
    else:
        send(world, ESP, esp)


def a_packet_of_the_terminal(world: World) -> tuple[Packet, bytes]:
    """The last ESP packet that the terminal sent, and what is behind its IP header."""
    capture = world.capture
    with world.uplink(count=3) as up:
        up.flows(up.sent()[0].sent_ns)
    packet = capture.esp_from(world.terminal.outer)[-1]
    return packet, capture.contents(packet)[20:]


def rejections(world: World) -> dict[str, int]:
    """Reason -> count, over the gateway's tunnels and what belongs to none."""
    status = world.gateway.swanroam.status()
    counted: dict[str, int] = {}
    sources: list[dict[str, Any]] = [*status["tunnels"], status]
    for source in sources:
        for reason, count in source.get("rejected", {}).items():
            counted[reason] = counted.get(reason, 0) + count
    return counted


@pytest.mark.parametrize("encap", [False, True], ids=["esp", "esp in udp"])
@pytest.mark.parametrize("what", ["replayed", "changed", "of a sequence never sent"])
def test_a_packet_of_the_tunnel_from_an_attacker_is_counted_and_moves_nothing(
    world: World, what: str, *, encap: bool
) -> None:
    before = rejections(world)
    packet, esp = a_packet_of_the_terminal(world)
    match what:
        case "replayed":
            forged = esp
        case "changed":
            forged = esp[:-1] + bytes([esp[-1] ^ 1])
        case _:
            forged = esp[:4] + struct.pack("!I", packet.second + 1000) + esp[8:]
    with world.both_ways() as (up, down):
        send_esp(world, forged, encap=encap)
        eventually(lambda: sum(rejections(world).values()) > sum(before.values()), "the rejection is counted")
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert world.gateway.swanroam.tunnel(world.terminal.inner)["remote"]["address"] == world.terminal.outer
    assert not world.capture.esp_to(ATTACKER)


def test_a_packet_replayed_after_a_move_does_not_pull_the_tunnel_back(world: World) -> None:
    survives_a_move(world)
    _, esp = a_packet_of_the_terminal(world)
    survives_a_move(world)
    moves = world.gateway.swanroam.tunnel(world.terminal.inner)["moves"]
    before = rejections(world)
    send_esp(world, esp)
    eventually(lambda: sum(rejections(world).values()) > sum(before.values()), "the rejection is counted")
    assert world.gateway.swanroam.tunnel(world.terminal.inner)["moves"] == moves
    assert not world.capture.esp_to(ATTACKER)


@pytest.mark.parametrize("esp", [struct.pack("!II", 0x12345678, 1) + bytes(64), struct.pack("!I", 0x12345678)])
def test_an_unknown_spi_reaches_nobody(world: World, esp: bytes) -> None:
    with world.both_ways() as (up, down):
        send_esp(world, esp)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert not world.capture.esp_to(ATTACKER)


def test_keepalives_and_ike_on_the_port_of_esp_in_udp_move_nothing_and_are_no_rejections(world: World) -> None:
    before = rejections(world)
    ike = bytes(4) + bytes(range(1, 17)) + struct.pack("!BBBBII", 46, 0x20, 37, 0x08, 0, 28)
    with world.both_ways() as (up, down):
        for payload in (b"\xff", b"", bytes(3), bytes(4), ike, bytes(200)):
            send_udp(world, payload)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert rejections(world) == before
    assert world.gateway.swanroam.tunnel(world.terminal.inner)["remote"]["address"] == world.terminal.outer
    assert not world.capture.esp_to(ATTACKER)


def test_garbage_on_the_message_port_outside_a_tunnel_is_not_answered(world: World) -> None:
    for size in (16, 100, 1400):
        attacker(world).agent.do(
            "send", "garbage", source=ATTACKER, destination=GATEWAY_WAN, port=4555, count=3, interval_ms=1, size=size
        )
        eventually(lambda: len(attacker(world).agent.do("report", "garbage")["records"]) == 3, "the garbage is sent")
        attacker(world).agent.do("stop", "garbage")
    survives_a_move(world)
    answers = [p for p in world.capture.packets() if p.destination == ATTACKER and not p.icmp]
    assert answers == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('role = "gateway"\ncolour = "blue"\n', "colour"),
        ("role = 7\n", "role"),
        ('role = "gateway"\n[tunnels."*"]\ncapability = "perhaps"\n', "capability"),
        ("role = \n", "line 1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_file_and_key(world: World, text: str, named: str) -> None:
    file = world.server.folder / "bad.toml"
    file.write_text(text)
    refused(world, file, named)


def test_a_configuration_that_cannot_be_read_is_refused(world: World) -> None:
    refused(world, world.server.folder, "cannot be read")


def refused(world: World, file: Path, named: str) -> None:
    """Exit status 2 and a sentence that names the file and what is wrong."""
    with pytest.raises(LabError) as refusal:
        world.server.namespace.run([sys.executable, "-m", "swanroam", "run", "--config", str(file)])
    message = str(refusal.value)
    assert "status 2" in message
    assert str(file) in message
    assert named in message
    assert "Traceback" not in message


def test_the_daemon_has_no_capability_but_those_of_its_unit(world: World) -> None:
    (named,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert named.split() == list(CAPABILITIES)
    for end in world.ends:
        process = Path("/proc", str(end.swanroam.pid), "status").read_text()
        (bounding,) = re.findall(r"^CapBnd:\s*(\w+)$", process, re.MULTILINE)
        assert int(bounding, 16) == sum(1 << number for number in CAPABILITIES.values())
        assert "\nNoNewPrivs:\t1\n" in process
