"""What comes on the port of ESP in UDP: ESP, IKE behind its marker, keepalives (RFC 3948 section 2), and nonsense."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.app.config import parse
from swanroam.errors import ConfigError, Unsupported, WireError
from swanroam.model.path import Endpoint
from swanroam.wire.esppacket import parse_esp
from swanroam.wire.ike import MARKER, parse_ike
from swanroam.wire.inner import pack_udp, parse_udp
from tests.unit.test_config import FILE

TERMINAL, GATEWAY = Endpoint(IPv4Address("198.51.100.1"), 31000), Endpoint(IPv4Address("203.0.113.1"), 4500)
ESP = bytes.fromhex("c0000001 00000007") + bytes(20)
TERMINAL6, GATEWAY6 = Endpoint(IPv6Address("2001:db8::1"), 31000), Endpoint(IPv6Address("2001:db8:99::1"), 4500)
IKE = bytes.fromhex("0102030405060708 1112131415161718") + bytes(12)


def in_udp(payload: bytes) -> bytes:
    return pack_udp(TERMINAL, GATEWAY, payload)


def test_esp_in_udp_is_told_with_the_port_that_it_came_from_and_without_its_header() -> None:
    packet = parse_esp(in_udp(ESP))
    assert (packet.source, packet.port, packet.origin) == (TERMINAL.address, TERMINAL.port, TERMINAL)
    assert (packet.spi, packet.sequence, packet.data) == (0xC0000001, 7, ESP)


@pytest.mark.parametrize(
    ("payload", "kind", "problem"),
    [
        (MARKER + IKE, Unsupported, "IKE"),
        (b"\xff", WireError, "1 bytes where a header needs 8"),
        (b"", WireError, "0 bytes where a header needs 8"),
        (ESP[:7], WireError, "7 bytes where a header needs 8"),
    ],
)
def test_ike_and_keepalives_are_no_esp(payload: bytes, kind: type[WireError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        parse_esp(in_udp(payload))


@pytest.mark.parametrize(("terminal", "gateway"), [(TERMINAL, GATEWAY), (TERMINAL6, GATEWAY6)], ids=["ipv4", "ipv6"])
def test_an_ike_message_goes_behind_the_marker_and_comes_out_as_it_was(terminal: Endpoint, gateway: Endpoint) -> None:
    bare = parse_ike(pack_udp(Endpoint(terminal.address, 500), Endpoint(gateway.address, 500), IKE), marked=False)
    assert (bare.initiator_spi, bare.marked, bare.message) == (0x0102030405060708, False, IKE)
    there = bare.marked_from(terminal, gateway)
    udp = parse_udp(there)
    assert Endpoint(udp.source, udp.source_port) == terminal
    assert Endpoint(udp.destination, udp.destination_port) == gateway
    assert udp.payload == MARKER + IKE
    arrived = parse_ike(there, marked=True)
    assert (arrived.initiator_spi, arrived.marked, arrived.message) == (0x0102030405060708, True, IKE)
    put_back = arrived.bare_from(Endpoint(terminal.address, 500), Endpoint(gateway.address, 500))
    assert parse_udp(put_back).payload == IKE


@pytest.mark.parametrize("payload", [b"", IKE, IKE + b"\xff", bytes(65527)])
def test_over_ipv6_udp_has_a_checksum_over_its_pseudo_header(payload: bytes) -> None:
    packet = pack_udp(TERMINAL6, GATEWAY6, payload)
    length = 8 + len(payload)
    pseudo = packet[8:40] + length.to_bytes(4) + bytes([0, 0, 0, 17])
    # In one's complement of 16 bits (RFC 1071) a sum with its checksum is 0, and zero on the wire would say "none".
    assert int.from_bytes(pseudo + packet[40:] + bytes(length % 2)) % 0xFFFF == 0
    assert packet[46:48] != bytes(2)


@pytest.mark.parametrize(
    ("payload", "marked", "problem"),
    [
        (IKE[:27], False, "27 bytes where a header needs 28"),
        (MARKER + IKE[:27], True, "27 bytes where a header needs 28"),
        (ESP + bytes(20), True, "no marker"),
        (b"\xff", True, "no marker"),
        (b"", False, "0 bytes"),
    ],
)
def test_what_is_no_ike_message_is_refused(payload: bytes, marked: bool, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        parse_ike(in_udp(payload), marked=marked)


def test_mobike_is_said_of_a_connection_or_of_all_or_left_to_be_found_out() -> None:
    text = 'role = "terminal"\n[tunnels."*"]\nmobike = false\n[tunnels.home]\nmobike = true\n[tunnels.work]\n'
    settings = parse(text, FILE).settings
    assert [settings.of(name).mobike for name in ("home", "work", "other")] == [True, False, False]
    assert parse('role = "terminal"', FILE).settings.of("home").mobike is None
    with pytest.raises(ConfigError, match="mobike"):
        parse('role = "terminal"\n[tunnels.home]\nmobike = "no"\n', FILE)
