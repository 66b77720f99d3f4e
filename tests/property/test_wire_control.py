"""The codec of in-tunnel messages, for all messages and for all bytes."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from swanroam.errors import WireError
from swanroam.model.messages import (
    ADDRESSES_MOST,
    Feature,
    GatewayMoved,
    GatewayMovedAck,
    Goodbye,
    Hello,
    HelloAck,
    Message,
    PathChallenge,
    PathResponse,
    Refusal,
    Refuse,
    Update,
    UpdateAck,
)
from swanroam.model.path import Endpoint
from swanroam.wire.control import decode, encode

NONCES = st.binary(min_size=16, max_size=16)
WORDS = st.integers(0, 2**32 - 1)
SEQUENCES = st.integers(0, 2**64 - 1)
ENDPOINTS = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 65535))
ADDRESSES = st.lists(st.ip_addresses(), min_size=1, max_size=ADDRESSES_MOST, unique=True).map(tuple)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, nonce=NONCES, features=WORDS.map(Feature), critical=WORDS, version=st.integers(1, 255)),
    st.builds(HelloAck, nonce=NONCES, features=WORDS.map(Feature), addresses=st.just(()) | ADDRESSES),
    st.builds(GatewayMoved, sequence=SEQUENCES, addresses=ADDRESSES),
    st.builds(GatewayMovedAck, sequence=SEQUENCES),
    st.builds(Refuse, nonce=NONCES, reason=st.sampled_from(Refusal)),
    st.builds(Update, sequence=SEQUENCES, claimed=ENDPOINTS),
    st.builds(UpdateAck, sequence=SEQUENCES, observed=ENDPOINTS),
    st.builds(PathChallenge, nonce=NONCES),
    st.builds(PathResponse, nonce=NONCES),
    st.just(Goodbye()),
)
FOUR, SIX = b"\4" + bytes(4), b"\6" + bytes(16)
ATTRIBUTES = st.builds(
    lambda number, value, lie: struct.pack("!HH", number, max(0, len(value) + lie)) + value,
    st.one_of(st.integers(0, 9), st.integers(0x8000, 0x8009), st.integers(0, 0xFFFF)),
    st.one_of(NONCES, st.binary(max_size=20), st.lists(st.sampled_from((FOUR, SIX)), max_size=9).map(b"".join)),
    st.sampled_from((0, 0, 0, 0, 1, -1, 4, 60000)),
)


def framed(type_: int, version: int, body: bytes) -> bytes:
    return struct.pack("!2sBBHH", b"SR", version, type_, 8 + len(body), 0) + body


def decoded(data: bytes) -> Message | WireError:
    try:
        return decode(data)
    except WireError as error:
        return error


def decodes_or_is_refused(data: bytes) -> None:
    answer = decoded(data)
    if isinstance(answer, WireError):
        assert 0 <= answer.offset <= len(data)
    else:
        assert decode(encode(answer)) == answer


@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    decodes_or_is_refused(data)


@given(st.integers(0, 11), st.integers(0, 3), st.lists(ATTRIBUTES, max_size=6))
def test_any_attributes_with_lying_lengths_are_a_message_or_refused(
    type_: int, version: int, attributes: list[bytes]
) -> None:
    decodes_or_is_refused(framed(type_, version, b"".join(attributes)))


@given(MESSAGES, st.data())
def test_no_truncated_message_is_taken_for_a_message(message: Message, data: st.DataObject) -> None:
    whole = encode(message)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert isinstance(decoded(part), WireError)


@given(MESSAGES, st.data())
def test_a_message_with_a_truncated_body_and_the_right_length_is_a_message_or_refused(
    message: Message, data: st.DataObject
) -> None:
    whole = encode(message)
    body = whole[8 : data.draw(st.integers(8, len(whole)))]
    decodes_or_is_refused(framed(whole[3], whole[2], body))


@given(MESSAGES, st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_gives_a_message_or_is_refused(message: Message, position: int, bit: int) -> None:
    data = bytearray(encode(message))
    data[position % len(data)] ^= 1 << bit
    decodes_or_is_refused(bytes(data))
