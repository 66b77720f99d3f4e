"""The codec of in-tunnel messages: what it refuses, and where it says the fault is."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.errors import Unsupported, WireError
from swanroam.model.messages import (
    ADDRESSES_MOST,
    Feature,
    GatewayMoved,
    GatewayMovedAck,
    Goodbye,
    Hello,
    HelloAck,
    NatD,
    PathChallenge,
    Refusal,
    Refuse,
    Update,
    UpdateAck,
)
from swanroam.model.path import Endpoint
from swanroam.wire.control import NONCE_BYTES, VERSION, decode, encode

NONCE = bytes(range(NONCE_BYTES))
HELLO = Hello(nonce=NONCE, features=Feature.UPDATE | Feature.PATH_CHALLENGE)


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value


def message(type_: int, *attributes: bytes, version: int = VERSION, magic: bytes = b"SR", reserved: int = 0) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!2sBBHH", magic, version, type_, 8 + len(body), reserved) + body


MOVED = attribute(5, bytes(8)) + attribute(6, bytes(6))
SEVENTH = attribute(5, (7).to_bytes(8))
MANY = b"".join(b"\4" + number.to_bytes(4) for number in range(ADDRESSES_MOST + 1))


def test_the_bytes_of_a_hello_are_those_of_the_documented_layout() -> None:
    assert encode(HELLO) == bytes.fromhex(
        "5352 01 01 002c 00000001 0010 000102030405060708090a0b0c0d0e0f0002 0004 000000030003 0004 00000000"
    )


def test_the_bytes_of_an_update_are_those_of_the_documented_layout() -> None:
    update = Update(sequence=7, claimed=Endpoint(IPv4Address("192.0.2.10"), 4500))
    assert encode(update) == bytes.fromhex(
        "5352 01 04 001e 0000" + "0005 0008 0000000000000007" + "0006 0006 1194 c000020a"
    )


def test_an_update_with_hashes_has_both_after_its_endpoint_and_comes_back() -> None:
    natd = NatD(source=bytes(range(20)), destination=bytes(range(100, 120)))
    update = Update(sequence=7, claimed=Endpoint(IPv4Address("192.0.2.10"), 4500), natd=natd)
    assert encode(update) == bytes.fromhex(
        "5352 01 04 004e 0000" + "0005 0008 0000000000000007" + "0006 0006 1194 c000020a"
    ) + attribute(7, natd.source) + attribute(8, natd.destination)
    ack = UpdateAck(sequence=7, observed=Endpoint(IPv6Address("2001:db8::1"), 4500), natd=natd)
    assert (decode(encode(update)), decode(encode(ack))) == (update, ack)


def test_hashes_that_are_not_those_of_an_update_are_skipped() -> None:
    assert decode(message(6, attribute(1, NONCE), attribute(7, b"?"))) == PathChallenge(nonce=NONCE)


def test_the_bytes_of_a_gateway_moved_are_those_of_the_documented_layout() -> None:
    moved = GatewayMoved(sequence=7, addresses=(IPv4Address("192.0.2.2"), IPv6Address("2001:db8::1")))
    assert encode(moved) == bytes.fromhex(
        "5352 01 09 002e 00000005 0008 00000000000000070009 0016 04 c0000202 06 20010db8000000000000000000000001"
    )
    ack = GatewayMovedAck(sequence=7)
    assert encode(ack) == bytes.fromhex("5352 01 0a 0014 0000" + "0005 0008 0000000000000007")
    assert (decode(encode(moved)), decode(encode(ack))) == (moved, ack)


def test_a_hello_ack_without_addresses_is_that_of_earlier_releases_and_with_them_they_come_last() -> None:
    earlier = bytes.fromhex("5352 01 02 0024 0000") + attribute(1, NONCE) + attribute(2, b"\0\0\0\3")
    ack = HelloAck(nonce=NONCE, features=Feature(3))
    assert encode(ack) == earlier
    assert decode(earlier) == ack
    telling = HelloAck(nonce=NONCE, features=Feature(3), addresses=(IPv4Address("192.0.2.2"),))
    assert encode(telling)[8:] == earlier[8:] + attribute(9, b"\4\xc0\0\2\2")
    assert decode(encode(telling)) == telling


def test_as_many_addresses_as_there_may_be_come_back_in_their_order() -> None:
    addresses = tuple(IPv4Address(number) for number in range(ADDRESSES_MOST, 0, -1))
    moved = GatewayMoved(sequence=1, addresses=addresses)
    assert decode(encode(moved)) == moved


def test_a_goodbye_has_nothing_but_its_header() -> None:
    assert encode(Goodbye()) == bytes.fromhex("5352 01 08 0008 0000")
    assert decode(encode(Goodbye())) == Goodbye()


def test_an_ipv6_endpoint_takes_18_bytes_and_comes_back() -> None:
    ack = UpdateAck(sequence=2**64 - 1, observed=Endpoint(IPv6Address("2001:db8::1"), 65535))
    assert decode(encode(ack)) == ack


def test_a_hello_of_a_later_version_decodes_so_that_it_can_be_refused() -> None:
    later = message(
        1, attribute(1, NONCE), attribute(2, b"\0\0\0\7"), attribute(3, b"\0\0\0\4"), attribute(77, b"new"), version=2
    )
    assert decode(later) == Hello(nonce=NONCE, features=Feature(7), critical=4, version=2)


def test_a_refusal_of_a_later_version_decodes() -> None:
    later = message(3, attribute(1, NONCE), attribute(4, b"\1"), version=9)
    assert decode(later) == Refuse(nonce=NONCE, reason=Refusal.VERSION)


@pytest.mark.parametrize("type_", [2, 4, 5, 6, 7, 8, 9, 10])
def test_all_other_messages_of_a_later_version_are_unsupported(type_: int) -> None:
    with pytest.raises(Unsupported, match="version 2") as caught:
        decode(message(type_, attribute(1, NONCE), version=2))
    assert caught.value.offset == 2


@pytest.mark.parametrize("type_", [1, 3])
def test_there_is_no_version_0(type_: int) -> None:
    with pytest.raises(WireError, match="version 0"):
        decode(message(type_, attribute(1, NONCE), version=0))


@pytest.mark.parametrize("type_", [0, 11, 255])
def test_unknown_types_are_unsupported_whatever_they_hold(type_: int) -> None:
    with pytest.raises(Unsupported, match=f"type {type_}") as caught:
        decode(message(type_, b"\xff"))
    assert caught.value.offset == 3


def test_unknown_attributes_are_skipped_unless_critical() -> None:
    assert decode(message(6, attribute(0x0123, b"?"), attribute(1, NONCE))) == PathChallenge(nonce=NONCE)
    with pytest.raises(Unsupported, match="critical attribute 291") as caught:
        decode(message(6, attribute(1, NONCE), attribute(0x8123, b"?")))
    assert caught.value.offset == 28


def test_a_known_attribute_may_be_marked_critical() -> None:
    assert decode(message(6, attribute(0x8001, NONCE))) == PathChallenge(nonce=NONCE)


def test_a_known_attribute_that_the_message_does_not_need_is_skipped() -> None:
    assert decode(message(6, attribute(4, b"\1\2\3"), attribute(1, NONCE))) == PathChallenge(nonce=NONCE)


def test_reserved_bits_are_ignored() -> None:
    assert decode(message(6, attribute(1, NONCE), reserved=0xFFFF)) == PathChallenge(nonce=NONCE)


def test_unknown_feature_bits_are_kept() -> None:
    ack = HelloAck(nonce=NONCE, features=Feature(0xFFFFFFFF))
    decoded = decode(encode(ack))
    assert isinstance(decoded, HelloAck)
    assert decoded.features == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "offset", "problem"),
    [
        (b"", 0, "0 bytes"),
        (encode(HELLO)[:7], 0, "7 bytes"),
        (message(6, attribute(1, NONCE), magic=b"RS"), 0, "magic"),
        (encode(HELLO) + b"\0", 4, "length 44 in a datagram of 45"),
        (encode(HELLO)[:-1], 4, "length 44 in a datagram of 43"),
        (message(6, b"\0\1\0"), 8, "3 bytes where an attribute needs 4"),
        (message(6, struct.pack("!HH", 1, 17) + NONCE), 8, "attribute length 17, 16 bytes left"),
        (message(6, attribute(1, NONCE), attribute(1, NONCE)), 28, "NONCE twice"),
        (message(6, attribute(1, NONCE), attribute(0x8001, NONCE)), 28, "NONCE twice"),
        (message(6), 8, "NONCE is missing"),
        (message(6, attribute(1, NONCE[1:])), 12, "NONCE of 15 bytes"),
        (message(6, attribute(1, b"")), 12, "NONCE of 0 bytes"),
        (message(1, attribute(1, NONCE), attribute(2, b"\0\0\0\3")), 8, "CRITICAL_FEATURES is missing"),
        (message(2, attribute(1, NONCE), attribute(2, b"\3")), 32, "FEATURES of 1 bytes, not 4"),
        (message(4, attribute(5, bytes(8)), attribute(6, bytes(7))), 24, "ENDPOINT of 7 bytes"),
        (message(4, attribute(5, bytes(4)), attribute(6, bytes(6))), 12, "SEQUENCE of 4 bytes"),
        (message(4, MOVED, attribute(7, bytes(20))), 8, "NAT_D_DESTINATION is missing"),
        (message(5, MOVED, attribute(8, bytes(20))), 8, "NAT_D_SOURCE is missing"),
        (message(4, MOVED, attribute(7, bytes(19)), attribute(8, bytes(20))), 34, "NAT_D_SOURCE of 19 bytes, not 20"),
        (message(5, MOVED, attribute(7, bytes(20)), attribute(8, bytes(21))), 58, "NAT_D_DESTINATION of 21 bytes"),
        (message(5, MOVED, attribute(7, b""), attribute(8, b"")), 34, "NAT_D_SOURCE of 0 bytes"),
        (message(4, MOVED, attribute(7, bytes(20)), attribute(7, bytes(20))), 54, "NAT_D_SOURCE twice"),
        (message(9, SEVENTH), 8, "ADDRESSES is missing"),
        (message(9, SEVENTH, attribute(9, b"")), 24, "ADDRESSES without an address"),
        (message(9, SEVENTH, attribute(9, b"\5" + bytes(4))), 24, "ADDRESSES with an address of IP version 5"),
        (message(9, SEVENTH, attribute(9, b"\4" + bytes(3))), 24, "ADDRESSES with an address of 3 bytes"),
        (message(9, SEVENTH, attribute(9, b"\4" + bytes(4) + b"\6" + bytes(15))), 29, "an address of 15 bytes"),
        (message(9, SEVENTH, attribute(9, (b"\4" + bytes(4)) * 2)), 29, "ADDRESSES with 0.0.0.0 twice"),
        (message(9, SEVENTH, attribute(9, MANY)), 64, "ADDRESSES with more than 8 addresses"),
        (message(9, attribute(9, b"\4" + bytes(4))), 8, "SEQUENCE is missing"),
        (message(2, attribute(1, NONCE), attribute(2, bytes(4)), attribute(9, b"")), 40, "without an address"),
        (message(10, attribute(5, bytes(4))), 12, "SEQUENCE of 4 bytes"),
    ],
)
def test_a_malformed_message_is_refused_with_the_place_of_the_fault(data: bytes, offset: int, problem: str) -> None:
    with pytest.raises(WireError, match=problem) as caught:
        decode(data)
    assert caught.value.offset == offset
    assert not isinstance(caught.value, Unsupported)


def test_a_refusal_for_an_unknown_reason_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="reason 200") as caught:
        decode(message(3, attribute(1, NONCE), attribute(4, b"\xc8")))
    assert caught.value.offset == 32
