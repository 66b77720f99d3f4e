"""Properties of what is read from charon: whatever comes, it is a value or an error of ours."""

from ipaddress import IPv4Address, ip_address, summarize_address_range

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vici.protocol import Message, Packet

from swanroam.charon.connection import parse_packet
from swanroam.charon.decode import decode_event, decode_listing, decode_selectors
from swanroam.charon.protocols import EventKind
from swanroam.errors import WireError
from tests.fakes.vici import child_section, ike_section

KEYS = st.sampled_from([*ike_section(1), *child_section(1), "child-sas", "old", "new", "up"])
VALUES = st.binary(max_size=20) | st.sampled_from(
    [b"1", b"2", b"yes", b"10.0.0.1", b"ffff", b"%any", b"dynamic[tcp/1]"]
)
TREES = st.recursive(
    VALUES | st.lists(VALUES, max_size=3),
    lambda inner: st.dictionaries(KEYS, inner, max_size=24),
    max_leaves=40,
)


@given(st.lists(st.dictionaries(st.text(max_size=5), TREES, max_size=3), max_size=3))
def test_each_section_of_a_listing_is_an_ike_sa_or_a_problem(messages: list[dict[str, object]]) -> None:
    listing = decode_listing(messages)
    assert len(listing.sas) + len(listing.problems) == sum(len(message) for message in messages)


@given(st.sampled_from(EventKind), st.dictionaries(KEYS | st.text(max_size=3), TREES, max_size=4))
def test_an_event_is_read_or_is_a_wire_error(kind: EventKind, message: dict[str, object]) -> None:
    try:
        event = decode_event(kind, message, 1.0)
    except WireError:
        return
    assert event.kind == kind
    assert event.sa is not None


@given(KEYS, TREES)
def test_one_odd_field_never_raises_anything_else(key: str, value: object) -> None:
    tree = {name: text.encode() for name, text in ike_section(1).items() if isinstance(text, str)}
    decode_listing([{"roam": tree | {key: value}}])


@given(st.text(alphabet="0123456789abcdef.:/[]()-tcpudyn", max_size=30) | st.text(max_size=10))
def test_a_selector_is_read_or_is_a_value_error(text: str) -> None:
    try:
        decode_selectors(text)
    except ValueError:
        return
    assert text


@given(st.integers(min_value=0, max_value=2**32 - 1), st.integers(min_value=0, max_value=2**32 - 1))
def test_a_range_is_read_as_networks_that_cover_it_exactly(one: int, other: int) -> None:
    first, last = IPv4Address(min(one, other)), IPv4Address(max(one, other))
    networks = [selector.network for selector in decode_selectors(f"{first}..{last}[tcp/80]")]
    assert networks == list(summarize_address_range(first, last))
    assert ip_address(int(networks[0].network_address)) == first


@given(st.binary(max_size=60))
@example(b"\x01\x02")
@example(b"\x01\x04\x01a\x05\x00")
@example(b"\x07\x01a\x01\x01a")
def test_any_packet_is_read_or_is_a_wire_error(segment: bytes) -> None:
    try:
        parse_packet(segment)
    except WireError:
        return
    assert segment


@given(st.integers(min_value=0, max_value=200))
def test_a_cut_packet_is_read_or_is_a_wire_error(cut: int) -> None:
    packet = Packet._named_request(Packet.EVENT, "ike-updown", Message.serialize({"roam": ike_section(1)}))
    if cut >= len(packet):
        assert parse_packet(packet).event == "ike-updown"
        return
    try:
        received = parse_packet(packet[:cut])
    except WireError:
        return
    with pytest.raises(WireError):
        decode_event(EventKind.IKE_UPDOWN, received.message, 0.0)
