"""What is fuzzed: for each decoder a function of bytes that raises only for what the decoder should not have raised.

Each has seeds, inputs that are well-formed, so that the fuzzer does not have to find headers by itself.
"""

import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from swanroam.app.config import parse
from swanroam.app.control import ControlServer
from swanroam.app.records import Malformed, Record, decode_record, encode_key, encode_record
from swanroam.app.strongswan_conf import read_settings
from swanroam.charon.connection import parse_packet
from swanroam.charon.decode import decode_event as decode_charon_event
from swanroam.charon.decode import decode_listing
from swanroam.charon.protocols import EventKind
from swanroam.errors import ConfigError, WireError
from swanroam.kernel.filter import name_of_table
from swanroam.model.messages import Feature, GatewayMoved, Hello, PathChallenge, Refusal, Refuse, Update, UpdateAck
from swanroam.model.path import Endpoint
from swanroam.model.tunnel import Capability, TunnelKey
from swanroam.wire import control, rtnetlink
from swanroam.wire.esp import verify
from swanroam.wire.esppacket import EspPacket, parse_esp
from swanroam.wire.inner import parse_ip, parse_udp
from swanroam.wire.netlink import NetlinkMessage, attribute, pack_message, unpack_messages
from swanroam.wire.nfqueue import unpack_packet
from swanroam.wire.nftables import unpack_counter
from swanroam.wire.xfrm import SaState
from swanroam.wire.xfrm.aevents import AeState
from swanroam.wire.xfrm.events import decode_event
from swanroam.wire.xfrm.migrate import Migrate
from swanroam.wire.xfrm.policies import Policy
from swanroam.wire.xfrm.states import SaHead
from tests.support.esp_captures import CAPTURES

__all__ = ["TARGETS", "Target"]

ROOT = Path(__file__).resolve().parents[2]
HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    longest: int = 1024
    """Bytes of the longest input."""


def _ignoring(*declared: type[Exception]) -> Callable[[Callable[[bytes], object]], Callable[[bytes], None]]:
    """The function without the errors that it is declared to raise."""

    def wrap(function: Callable[[bytes], object]) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            try:
                function(data)
            except declared:
                return

        return run

    return wrap


# The kernel: XFRM, rtnetlink, nftables, NFQUEUE.

XFRM_UNPACKERS = (SaState.unpack, SaHead.unpack, AeState.unpack, Policy.unpack, Migrate.unpack)


def xfrm(data: bytes) -> None:
    """The first byte chooses: an event of that type, or one of the structs by itself."""
    kind, payload = data[:1], data[1:]
    if not kind:
        return
    with contextlib.suppress(WireError):
        decode_event(NetlinkMessage(kind[0], 0, 1, 0, payload))
    with contextlib.suppress(WireError):
        XFRM_UNPACKERS[kind[0] % len(XFRM_UNPACKERS)](payload)


def xfrm_seeds() -> Iterator[bytes]:
    lines = (ROOT / "tests" / "unit" / "test_xfrm_captured.txt").read_text(encoding="ascii").splitlines()[1:]
    for line in lines:
        _, kind, payload = line.split()
        yield bytes([int(kind)]) + bytes.fromhex(payload)


@_ignoring(WireError)
def netlink(data: bytes) -> None:
    for message in unpack_messages(data):
        for read in (rtnetlink.decode_change, name_of_table, unpack_counter, lambda message: message.error):
            try:
                read(message)
            except WireError:
                continue


def netlink_seeds() -> Iterator[bytes]:
    address = struct.pack("=BBBBI", 2, 24, 0, 0, 1)
    address += attribute(1, bytes((192, 0, 2, 1))) + attribute(2, bytes((192, 0, 2, 1))) + attribute(3, b"eth0\0")
    route = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 0, 1, 0)
    route += (
        attribute(1, bytes((192, 0, 2, 0))) + attribute(4, struct.pack("=I", 1)) + attribute(5, bytes((10, 0, 0, 1)))
    )
    link = struct.pack("=BxHiII", 0, 1, 1, 0x11043, 0) + attribute(3, b"eth0\0") + attribute(16, b"\6")
    for kind, payload in ((20, address), (24, route), (16, link), (2, struct.pack("=i", -2))):
        yield pack_message(kind, 0, 1, payload)


@_ignoring(WireError)
def nfqueue(data: bytes) -> None:
    queued = unpack_packet(NetlinkMessage(0x300, 0, 0, 0, data))
    for read in (parse_esp, parse_udp, parse_ip):
        try:
            read(queued.payload)
        except WireError:
            continue


def nfqueue_seeds() -> Iterator[bytes]:
    for payload in (*packet_seeds(),):
        header = struct.pack("!BBH", 2, 0, 4555)
        yield header + attribute(1, struct.pack("!IHBx", 7, 0x0800, 0)) + attribute(10, payload)


# Peers: packets and messages.


def packet(data: bytes) -> None:
    for read in (parse_esp, parse_udp, parse_ip):
        try:
            read(data)
        except WireError:
            continue


def packet_seeds() -> Iterator[bytes]:
    def ip4(protocol: int, payload: bytes) -> bytes:
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, b"\xc0\0\2\1", b"\xc0\0\2\2"
        )
        return head + payload

    def ip6(protocol: int, payload: bytes) -> bytes:
        return (
            struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, bytes(15) + b"\1", bytes(15) + b"\2")
            + payload
        )

    esp = struct.pack("!II", 0xC0000001, 1) + bytes(40)
    udp = struct.pack("!HHHH", 4555, 4555, 24, 0) + bytes(16)
    for make in (ip4, ip6):
        yield make(50, esp)
        yield make(17, udp)


def esp(data: bytes) -> None:
    """The first byte chooses the state, the rest is behind the IP header; no error at all is declared."""
    if len(data) < 9:
        return
    spi, sequence = struct.unpack_from("!II", data, 1)
    verify(CAPTURES[data[0] % len(CAPTURES)].state, EspPacket(HERE, THERE, spi, sequence, data[1:]))


def esp_seeds() -> Iterator[bytes]:
    for number, capture in enumerate(CAPTURES):
        yield bytes([number]) + capture.data


message = _ignoring(WireError)(control.decode)


def message_seeds() -> Iterator[bytes]:
    nonce, here, there = (
        bytes(range(16)),
        Endpoint(ip_address("192.0.2.1"), 500),
        Endpoint(ip_address("2001:db8::1"), 4500),
    )
    for each in (
        Hello(nonce=nonce, features=Feature.UPDATE, critical=3, version=1),
        Refuse(nonce=nonce, reason=Refusal.POLICY),
        Update(sequence=1 << 40, claimed=here),
        UpdateAck(sequence=1, observed=there),
        PathChallenge(nonce=nonce),
        GatewayMoved(sequence=1, addresses=(here.address, there.address)),
    ):
        yield control.encode(each)


# charon.


@_ignoring(WireError)
def vici(data: bytes) -> None:
    """A segment as charon sends it: a packet, with the message in it read as a listing and as each kind of event."""
    received = parse_packet(data)
    decode_listing([received.message])
    for kind in EventKind:
        try:
            decode_charon_event(kind, received.message, 1.0)
        except WireError:
            continue


def vici_seeds() -> Iterator[bytes]:
    from vici.protocol import Message, Packet

    from tests.fakes.vici import child_section, ike_section

    sa = ike_section(1) | {"child-sas": {"net-1": child_section(1)}}
    for name, tree in (("list-sa", {"roam": sa}), ("ike-updown", {"up": "yes", "roam": sa})):
        body = Message.serialize(tree)
        yield bytes([Packet.EVENT, len(name)]) + name.encode() + body
        yield bytes([Packet.CMD_RESPONSE]) + body


# Local users and files.

SERVER = ControlServer(Path("/nowhere"), {"status": lambda: {"role": "gateway"}}, group=0)


def control_socket(data: bytes) -> None:
    """A line of a client: whatever it is, the answer is one line of JSON."""
    answer = SERVER._obey(data)
    assert b"\n" not in answer
    assert isinstance(json.loads(answer), dict)


def control_seeds() -> Iterator[bytes]:
    yield from (b'{"command": "status"}\n', b'{"command": 1}', b"[]", b'{"command": "\xff"}')


@_ignoring(Malformed)
def store(data: bytes) -> None:
    """Two texts, key and record, with a zero between."""
    key, _, record = data.partition(b"\0")
    decode_record(key, record)


def store_seeds() -> Iterator[bytes]:
    record = Record(
        key=TunnelKey("home", (ip_address("10.9.0.1"),)), capability=Capability.NEGOTIATED, highest={1: 2}, moves=3
    )
    yield encode_key(record.key).encode() + b"\0" + encode_record(record).encode()


@_ignoring(ConfigError)
def configuration(data: bytes) -> None:
    parse(data.decode("utf-8", "replace"), Path("/etc/swanroam/swanroam.toml"))


def configuration_seeds() -> Iterator[bytes]:
    for file in sorted((ROOT / "examples" / "swanroam").glob("*.toml")):
        yield file.read_bytes()
    yield b'role="gateway"\n[tunnels.home]\nallow=["192.0.2.0/24"]\npath_validation="off"\n[hooks]\ndisable=["a"]\n'


@_ignoring(ValueError, OSError)
def strongswan_conf(data: bytes) -> None:
    read_settings(Path("/etc/strongswan.conf"), lambda _: data.decode("utf-8", "replace"), lambda *_: ())


def strongswan_seeds() -> Iterator[bytes]:
    yield b"charon {\n  plugins {\n    vici { socket = unix:///run/charon.vici }\n  }\n}\ninclude strongswan.d/*.conf\n"


TARGETS = {
    "xfrm": Target(xfrm, xfrm_seeds),
    "netlink": Target(netlink, netlink_seeds, 512),
    "nfqueue": Target(nfqueue, nfqueue_seeds, 512),
    "packet": Target(packet, packet_seeds, 256),
    "esp": Target(esp, esp_seeds, 256),
    "message": Target(message, message_seeds, 256),
    "vici": Target(vici, vici_seeds, 1024),
    "control": Target(control_socket, control_seeds, 256),
    "store": Target(store, store_seeds, 512),
    "configuration": Target(configuration, configuration_seeds, 512),
    "strongswan_conf": Target(strongswan_conf, strongswan_seeds, 256),
}
