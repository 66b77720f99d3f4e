"""Inner packets: UDP, and the dummy that this side sends."""

import struct
from ipaddress import ip_address

import pytest

from swanroam.errors import Unsupported, WireError
from swanroam.wire.inner import UdpPacket, dummy, parse_ip, parse_udp, readdressed
from tests.support.esp_seal import ip_packet

A, B = ip_address("10.9.0.1"), ip_address("10.1.0.1")
A6, B6 = ip_address("fd00:9::1"), ip_address("fd00:1::1")


def udp(length: int, payload: bytes = b"hello") -> bytes:
    return struct.pack("!HHHH", 4555, 4556, length, 0) + payload


def test_udp_is_read_over_both_ip_versions_without_what_follows_it() -> None:
    assert parse_udp(ip_packet(A, B, 17, udp(13))) == UdpPacket(A, B, 4555, 4556, b"hello")
    assert parse_udp(ip_packet(A6, B6, 17, udp(12))) == UdpPacket(A6, B6, 4555, 4556, b"hell")
    assert parse_udp(ip_packet(A, B, 17, udp(8, b""))).payload == b""


@pytest.mark.parametrize("length", [0, 7, 14, 65535])
def test_a_udp_length_that_lies_is_refused(length: int) -> None:
    with pytest.raises(WireError, match=f"length {length} outside 8..13") as refused:
        parse_udp(ip_packet(A, B, 17, udp(length)))
    assert refused.value.offset == 24


def test_what_is_not_whole_udp_is_refused() -> None:
    with pytest.raises(WireError, match="7 bytes where a header needs 8"):
        parse_udp(ip_packet(A, B, 17, bytes(7)))
    with pytest.raises(Unsupported, match="protocol 6"):
        parse_udp(ip_packet(A, B, 6, bytes(20)))
    raw = ip_packet(A, B, 17, udp(13))
    with pytest.raises(Unsupported, match="fragment"):
        parse_udp(raw[:6] + b"\x20\0" + raw[8:])


def test_the_dummy_is_an_echo_reply_with_our_mark() -> None:
    four, six = dummy(4), dummy(6)
    assert (four[0], six[0]) == (0, 129)
    assert four[4:6] == six[4:6] == b"sr"
    assert four[8:] == six[8:] == b"swanroam"
    # RFC 1071: the sum over a message with its checksum is all ones.
    total = sum(struct.unpack("!8H", four))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


OTHER, OTHER6 = ip_address("198.51.100.20"), ip_address("2001:db8:2::b")


def test_a_readdressed_packet_is_the_same_but_for_where_it_goes() -> None:
    four, six = ip_packet(A, B, 50, b"esp" * 9), ip_packet(A6, B6, 50, b"esp" * 9)
    for packet, other in ((four, OTHER), (six, OTHER6)):
        before, changed = parse_ip(packet), readdressed(packet, other)
        after = parse_ip(changed)
        assert (after.source, after.destination, after.protocol) == (before.source, other, 50)
        assert changed[after.start :] == packet[before.start :]
        assert changed[:10] == packet[:10]
        assert len(changed) == len(packet)


@pytest.mark.parametrize("options", [b"", b"\1\1\1\0"], ids=["plain", "with options"])
def test_the_checksum_of_a_readdressed_ipv4_header_is_right(options: bytes) -> None:
    raw = ip_packet(A, B, 50, b"esp" * 9)
    head = bytes([0x45 + len(options) // 4]) + raw[1:2] + struct.pack("!H", len(raw) + len(options)) + raw[4:20]
    changed = readdressed(head + options + raw[20:], OTHER)
    words = struct.unpack(f"!{(20 + len(options)) // 2}H", changed[: 20 + len(options)])
    total = sum(words)
    # RFC 1071: the sum over a header with its checksum is all ones.
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert changed[20 : 20 + len(options)] == options


def test_no_packet_changes_its_ip_version() -> None:
    with pytest.raises(WireError, match="version 6"):
        readdressed(ip_packet(A, B, 50, bytes(8)), OTHER6)
