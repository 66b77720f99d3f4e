"""Inner packets: UDP, and the dummy that this side sends."""

import struct
from ipaddress import ip_address

import pytest

from swanroam.errors import Unsupported, WireError
from swanroam.wire.inner import UdpPacket, dummy, parse_udp
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
