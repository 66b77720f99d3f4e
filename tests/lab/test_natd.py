"""NAT discovery: our hashes are those of strongSwan's own notifies, and whoever lies about NATs moves nothing."""

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.core.natd import digest
from swanroam.model.messages import NatD, Update
from swanroam.model.path import Endpoint
from swanroam.model.tunnel import Role
from swanroam.wire.control import encode
from tests.lab.agreement import agrees
from tests.lab.conditions import eventually
from tests.lab.nats import Nat
from tests.lab.test_bad_input import ATTACKER, rejections, send_udp
from tests.lab.topology import GATEWAY_WAN, SERVER, Topology
from tests.lab.world import World
from tests.support.values import PORT, ike_sa

HEADERS = 20 + 8
"""Of IP and UDP."""
IKE_HEADER = 28
NOTIFY, SOURCE_IP, DESTINATION_IP = 41, 16388, 16389


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(nats=(Nat(link="wlan0"),), attacker=True))
    _ = world.capture
    world.connect()
    world.roam(mobike=False)
    return world


def notifies(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and data of the notify payloads of an IKE message (RFC 7296 sections 3.1, 3.2 and 3.10)."""
    kind, offset = message[16], IKE_HEADER
    while kind:
        following, _flags, length = struct.unpack_from("!BBH", message, offset)
        if kind == NOTIFY:
            _protocol, spi_size, what = struct.unpack_from("!BBH", message, offset + 4)
            yield what, message[offset + 8 + spi_size : offset + length]
        kind, offset = following, offset + length


def test_our_hashes_are_those_of_strongswans_notifies(world: World) -> None:
    init = [world.capture.contents(packet)[HEADERS:] for packet in world.capture.ike()[:2]]
    terminal, gateway = Endpoint(ip_address(world.terminal.outer), 500), Endpoint(ip_address(GATEWAY_WAN), 500)
    # The answer tells the terminal how it was seen: at the address and port of the NAT.
    seen = world.capture.ike()[0]
    translated = Endpoint(ip_address(seen.source), seen.first)
    for message, own, peer in ((init[0], terminal, gateway), (init[1], gateway, translated)):
        initiator, responder = struct.unpack_from("!QQ", message)
        sa = replace(ike_sa(Role.TERMINAL), initiator_spi=initiator, responder_spi=responder)
        told = dict(notifies(message))
        assert told[SOURCE_IP] == digest(sa, own)
        assert told[DESTINATION_IP] == digest(sa, peer)
    assert translated != terminal


def where(world: World) -> tuple[str, int, int]:
    """Where the gateway has the terminal, and how often it moved."""
    tunnel = world.gateway.swanroam.tunnel(world.terminal.inner)
    return tunnel["remote"]["address"], tunnel["remote"]["port"], tunnel["moves"]


@contextlib.contextmanager
def unmoved(world: World) -> Iterator[None]:
    """Whatever happens, the tunnel stays where it is and loses nothing, and nobody else gets anything."""
    before = where(world)
    with world.both_ways() as (up, down):
        yield
        for stream in (up, down):
            stream.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert where(world) == before
    assert not world.capture.esp_to(ATTACKER)
    assert not world.capture.cleartext()


@pytest.mark.parametrize(("what", "reason"), [("replayed", "replayed"), ("changed", "bad-icv")])
def test_a_packet_in_udp_of_a_tunnel_in_udp_is_counted_and_moves_nothing(world: World, what: str, reason: str) -> None:
    before = rejections(world)
    with world.uplink(count=3) as up:
        up.flows(up.sent()[0].sent_ns)
    packet = world.capture.esp_from(world.terminal.seen, encap=True)[-1]
    esp = world.capture.contents(packet)[HEADERS:]
    # One that was received before is refused for that, before its integrity value is looked at.
    forged = esp if what == "replayed" else esp[:4] + struct.pack("!I", packet.second + 1000) + esp[8:]
    with unmoved(world):
        for _ in range(3):
            send_udp(world, forged)
        eventually(lambda: rejections(world).get(reason, 0) >= before.get(reason, 0) + 3, "each of them is counted")


def test_keepalives_and_ike_mixed_in_move_nothing_and_are_no_rejections(world: World) -> None:
    before, (address, port, _) = rejections(world), where(world)
    sa = world.terminal.sa
    ike = bytes.fromhex("".join(sa.spis)) + struct.pack("!BBBBII", 46, 0x20, 37, 0x08, 99, 60) + bytes(32)
    with unmoved(world):
        for source in ((ATTACKER, 31337), (address, port)):
            for payload in (b"\xff", b"", bytes(4), bytes(4) + ike, bytes(4) + ike[:20], bytes(200)):
                send_udp(world, payload, *source)
    assert rejections(world) == before
    assert world.terminal.sa.spis == sa.spis


def shortened(data: bytes) -> bytes:
    """The last hash is a byte short."""
    head, last = data[:-HASH_BYTES], data[-HASH_BYTES:]
    kind, length = struct.unpack_from("!HH", last)
    return head[:4] + struct.pack("!H", len(data) - 1) + head[6:] + struct.pack("!HH", kind, length - 1) + last[4:-1]


def of_another_type(data: bytes, kind: int) -> bytes:
    """The last hash says that it is something else."""
    return data[:-HASH_BYTES] + struct.pack("!H", kind) + data[2 - HASH_BYTES :]


HASH_BYTES = 4 + 20
"""Of an attribute with a hash, which comes last."""
NAT_D_SOURCE, UNKNOWN = 7, 99


def say(world: World, payload: bytes) -> None:
    """The terminal sends a message through its tunnel."""
    world.terminal.agent.do(
        "say", source=world.terminal.inner, source_port=PORT, destination=SERVER, port=PORT, payload=payload.hex()
    )


def an_update(world: World, claimed: Endpoint, *, honest: bool = True) -> Update:
    """As the terminal's daemon would send it again, but for what it claims."""
    moves = world.terminal.swanroam.tunnel(world.terminal.inner)["moves"]
    spis = [int(spi, 16) for spi in world.terminal.sa.spis]
    sa = replace(ike_sa(Role.TERMINAL), initiator_spi=spis[0], responder_spi=spis[1])
    hashes = NatD(source=digest(sa, claimed), destination=digest(sa, Endpoint(ip_address(GATEWAY_WAN), 4500)))
    return Update(
        sequence=moves, claimed=claimed, natd=hashes if honest else NatD(source=bytes(20), destination=bytes(20))
    )


def test_hashes_of_wrong_length_or_type_are_counted_and_move_nothing(world: World) -> None:
    before = rejections(world)
    good = encode(an_update(world, Endpoint(ip_address(world.terminal.outer), 4500)))
    bad = (shortened(good), of_another_type(good, NAT_D_SOURCE), of_another_type(good, UNKNOWN))
    with unmoved(world):
        for payload in bad:
            say(world, payload)
        eventually(
            lambda: rejections(world).get("bad-message", 0) == before.get("bad-message", 0) + len(bad),
            "each of them is counted",
        )


@pytest.mark.parametrize("claimed", [ATTACKER, SERVER, GATEWAY_WAN])
@pytest.mark.parametrize("honest", [True, False], ids=["with its hash", "with a hash of nonsense"])
def test_a_claim_of_another_address_is_a_nat_and_never_a_redirect(world: World, claimed: str, *, honest: bool) -> None:
    with unmoved(world):
        say(world, encode(an_update(world, Endpoint(ip_address(claimed), 4500), honest=honest)))
        nat = "remote" if honest else "both"
        eventually(lambda: world.gateway.swanroam.tunnel(world.terminal.inner)["nat"] == nat, "it is taken for a NAT")


def test_after_all_that_the_tunnel_is_followed_as_before(world: World) -> None:
    before = world.terminal.sa.identity
    say(world, encode(an_update(world, Endpoint(ip_address(world.terminal.outer), 4500))))
    with world.both_ways() as (up, down):
        move = world.rebind("wlan0")
        for stream in (up, down):
            stream.flows(move.usable_ns)
        agrees(world, world.terminal)
    assert world.terminal.sa.identity == before
