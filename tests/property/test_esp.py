"""ESP verification holds for whatever bytes, and for every bit of a packet."""

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from swanroam.errors import WireError
from swanroam.model.events import Reason
from swanroam.wire.esp import EspPacket, EspState, ReplayWindow, VerifiedPacket, parse_esp, verify
from swanroam.wire.inner import parse_udp
from tests.support.esp_captures import CAPTURES, Capture
from tests.support.esp_seal import ip_packet, seal

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
captures = st.sampled_from(CAPTURES)
windows = st.builds(
    ReplayWindow,
    highest=st.integers(0, 2**64 - 1),
    size=st.sampled_from([0, 1, 32, 33, 64, 2048]),
    received=st.integers(0, 2**64 - 1),
    ring=st.booleans(),
)


@given(captures, st.data())
def test_any_flipped_bit_behind_the_sequence_number_is_noticed(capture: Capture, data: st.DataObject) -> None:
    bit = data.draw(st.integers(64, 8 * len(capture.data) - 1))
    forged = bytearray(capture.data)
    forged[bit // 8] ^= 1 << bit % 8
    packet = parse_esp(ip_packet(A, B, 50, bytes(forged)))
    assert verify(capture.state, packet) in (Reason.BAD_ICV, Reason.MALFORMED)


@given(captures, st.integers(0, 63))
def test_a_flipped_bit_of_spi_or_sequence_number_is_never_authentic(capture: Capture, bit: int) -> None:
    forged = bytearray(capture.data)
    forged[bit // 8] ^= 1 << bit % 8
    packet = parse_esp(ip_packet(A, B, 50, bytes(forged)))
    assert verify(capture.state, packet) in (Reason.BAD_ICV, Reason.REPLAYED)


@given(captures, st.data())
def test_any_shorter_packet_is_refused(capture: Capture, data: st.DataObject) -> None:
    size = data.draw(st.integers(8, len(capture.data) - 1))
    packet = parse_esp(ip_packet(A, B, 50, capture.data[:size]))
    assert verify(capture.state, packet) in (Reason.BAD_ICV, Reason.MALFORMED)


@given(captures, windows, st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_any_bytes_give_a_reason(capture: Capture, window: ReplayWindow, sequence: int, rest: bytes) -> None:
    packet = EspPacket(A, B, 1, sequence, (1).to_bytes(4, "big") + sequence.to_bytes(4, "big") + rest)
    assert isinstance(verify(replace(capture.state, window=window), packet), Reason)


@given(st.binary(max_size=120))
def test_any_authentic_payload_is_read_or_malformed(payload: bytes) -> None:
    state = CAPTURES[0].state
    for next_header in (4, 41):
        result = verify(state, parse_esp(ip_packet(A, B, 50, seal(state, 1, 1, payload, next_header))))
        assert result is Reason.MALFORMED or isinstance(result, VerifiedPacket)


@given(st.binary(max_size=100), st.sampled_from([b"", b"\x45", b"\x46", b"\x60"]))
def test_any_bytes_are_parsed_or_refused_with_an_offset_in_them(data: bytes, start: bytes) -> None:
    for parse in (parse_esp, parse_udp):
        offset = 0
        try:
            parse(start + data)
        except WireError as error:
            offset = error.offset
        assert 0 <= offset <= len(start + data)


@given(st.integers(1, 2**64 - 1), st.sampled_from([32, 64, 2048]), st.data())
def test_the_upper_half_is_right_for_every_number_in_and_above_the_window(
    highest: int, size: int, data: st.DataObject
) -> None:
    first = highest - size + 1
    sequence = data.draw(st.integers(max(first, 0), min(first + 2**32 - 1, 2**64 - 1)))
    assert ReplayWindow(highest=highest, size=size).full_sequence(sequence & 0xFFFFFFFF) == sequence


@given(st.integers(1, 2**32 - 1), st.lists(st.integers(0, 40), max_size=40))
def test_a_window_refuses_exactly_what_was_received_or_is_too_old(start: int, steps: list[int]) -> None:
    seen, highest = set[int](), 0
    for behind in steps:
        number = max(start + 2 * len(seen) - behind, 1)
        seen.add(number)
        highest = max(highest, number)
    plain = sum(1 << highest - number for number in seen if highest - number < 32)
    # The ring's positions are those of the lower 32 bits, so it is tried where these do not wrap.
    ring = sum(1 << (number - 1) % 32 for number in seen if highest - number < 32)
    windows = [ReplayWindow(highest=highest, size=32, received=plain)]
    if highest < 2**32:
        windows.append(ReplayWindow(highest=highest, size=32, received=ring, ring=True))
    for window in windows:
        for number in range(max(highest - 40, 0), highest + 3):
            too_old = number == 0 or highest - number >= 32
            assert window.refuses(number) is (number <= highest and (too_old or number in seen))


@given(captures, st.integers(1, 2**32 - 1), st.binary(max_size=64))
def test_what_is_sealed_is_verified(capture: Capture, sequence: int, payload: bytes) -> None:
    state: EspState = replace(capture.state, window=ReplayWindow())
    inner = ip_packet(B, A, 17, payload)
    verified = verify(state, parse_esp(ip_packet(A, B, 50, seal(state, 7, sequence, inner))))
    assert isinstance(verified, VerifiedPacket)
    assert verified.sequence == sequence
    assert verified.inner is not None
    assert verified.inner.source == B
