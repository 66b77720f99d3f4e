"""Verification of held packets against kernel states: every reason, and keys that nobody gets to see."""

import base64
import errno
import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import pytest

from swanroam.app.verify import EspVerifier, esp_state
from swanroam.errors import KernelRefused
from swanroam.model.events import PacketVerified, Reason
from swanroam.model.path import IPAddress
from swanroam.wire.esp import EspPacket, EspState
from swanroam.wire.espcrypt import Algorithm as EspAlgorithm
from swanroam.wire.xfrm import SaState
from swanroam.wire.xfrm.algorithms import Algorithm, Key
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.structs import StateFlag, XfrmSelector
from tests.support.esp_captures import CAPTURES, Capture
from tests.support.esp_seal import ip_packet, seal

SOURCE, GATEWAY = IPv4Address("10.9.0.1"), IPv4Address("10.1.0.1")
SPI = 0xC0000001
INNER = IPv4Address("10.3.0.1")
ANY = XfrmSelector(family=2, source=IPv4Address(0), destination=IPv4Address(0))
SECRET = bytes((37 * n + 91) % 251 for n in range(20))
"""16 bytes of AES, 4 of salt."""
GCM = Algorithm(name="rfc4106(gcm(aes))", key=Key(SECRET), icv_bits=128)


@dataclass(slots=True)
class States:
    """The kernel, with one state."""

    found: SaState | None
    refused: int = 0

    def state(self, destination: IPAddress, spi: int) -> SaState | None:
        """By destination and SPI."""
        if self.refused:
            raise KernelRefused(f"state {spi:08x}", self.refused)
        return self.found if (destination, spi) == (GATEWAY, SPI) else None


def gcm_state(received: int = 0, bitmap: int = 0, **changes: object) -> SaState:
    state = SaState(
        source=SOURCE,
        destination=GATEWAY,
        spi=SPI,
        selector=ANY,
        replay_window=32,
        aead=GCM,
        replay=Replay(sent=0, received=received, bitmap=bitmap),
    )
    return replace(state, **changes)  # type: ignore[arg-type]  # names and types are the caller's to mind


def packet(data: bytes) -> EspPacket:
    spi, sequence = struct.unpack("!II", data[:8])
    return EspPacket(SOURCE, GATEWAY, spi, sequence, data)


def sealed(sequence: int, payload: bytes | None = None, next_header: int = 4) -> EspPacket:
    inner = ip_packet(INNER, GATEWAY, 17, b"12345678") if payload is None else payload
    sealing = EspState(combined=EspAlgorithm(GCM.name, SECRET, GCM.icv_bits))
    return packet(seal(sealing, SPI, sequence, inner, next_header))


def verified(state: SaState | None, held: EspPacket, refused: int = 0) -> PacketVerified:
    return EspVerifier(States(state, refused)).verify(7, held, 12.5)


def test_an_authentic_new_packet_is_told_with_all_that_a_decision_needs() -> None:
    assert verified(gcm_state(received=4, bitmap=0b1111), sealed(9)) == PacketVerified(
        at_s=12.5, packet_id=7, reason=None, sequence=9, kernel_highest=4, inner_source=INNER
    )


def test_a_dummy_of_esp_is_authentic_and_has_no_inner_source() -> None:
    answer = verified(gcm_state(), sealed(1, b"", 59))
    assert (answer.reason, answer.inner_source) == (None, None)


def forged() -> EspPacket:
    good = sealed(1)
    return packet(good.data[:-1] + bytes([good.data[-1] ^ 1]))


REASONS: dict[str, tuple[Callable[[], PacketVerified], Reason]] = {
    "no state": (lambda: verified(None, sealed(1)), Reason.UNKNOWN_SPI),
    "another destination": (
        lambda: verified(gcm_state(), replace(sealed(1), destination=SOURCE)),
        Reason.UNKNOWN_SPI,
    ),
    "the kernel refuses": (lambda: verified(gcm_state(), sealed(1), errno.ENOMEM), Reason.KERNEL_REFUSED),
    "a wrong integrity value": (lambda: verified(gcm_state(), forged()), Reason.BAD_ICV),
    "the highest number again": (lambda: verified(gcm_state(received=9, bitmap=1), sealed(9)), Reason.REPLAYED),
    "a number seen before": (lambda: verified(gcm_state(received=9, bitmap=0b101), sealed(7)), Reason.REPLAYED),
    "a number before the window": (lambda: verified(gcm_state(received=99), sealed(67)), Reason.REPLAYED),
    "number 0": (lambda: verified(gcm_state(received=9), sealed(0)), Reason.REPLAYED),
    "encryption without integrity": (
        lambda: verified(gcm_state(aead=None, crypt=Algorithm(name="cbc(aes)", key=Key(SECRET[:16]))), sealed(1)),
        Reason.UNSUPPORTED_ALGORITHM,
    ),
    "no algorithm at all": (lambda: verified(gcm_state(aead=None), sealed(1)), Reason.UNSUPPORTED_ALGORITHM),
    "an unknown algorithm": (
        lambda: verified(gcm_state(aead=replace(GCM, name="rot13(aes)")), sealed(1)),
        Reason.UNSUPPORTED_ALGORITHM,
    ),
    "a key of no known size": (
        lambda: verified(gcm_state(aead=replace(GCM, key=Key(SECRET[:7]))), sealed(1)),
        Reason.UNSUPPORTED_ALGORITHM,
    ),
    "no IP packet inside": (lambda: verified(gcm_state(), sealed(1, b"\x77" * 40)), Reason.MALFORMED),
    "too short for its algorithm": (lambda: verified(gcm_state(), packet(sealed(1).data[:20])), Reason.MALFORMED),
    "IPv4 that calls itself IPv6": (
        lambda: verified(gcm_state(), sealed(1, ip_packet(INNER, GATEWAY, 17, b""), 41)),
        Reason.MALFORMED,
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_each_packet_that_may_not_move_a_tunnel_has_its_reason(case: str) -> None:
    call, reason = REASONS[case]
    answer = call()
    assert (answer.packet_id, answer.at_s, answer.reason, answer.inner_source) == (7, 12.5, reason, None)


def test_of_a_state_without_a_window_nobody_can_tell_what_is_new() -> None:
    state = gcm_state(replay=None, replay_window=0)
    assert verified(state, sealed(3)).reason is Reason.REPLAYED
    assert verified(gcm_state(received=9, bitmap=1, replay_window=0), sealed(10)).reason is Reason.REPLAYED


def test_a_number_within_the_window_that_was_not_seen_is_authentic() -> None:
    assert verified(gcm_state(received=9, bitmap=0b101), sealed(8)).reason is None


def test_more_bits_than_the_kernel_has_for_a_window_are_not_believed() -> None:
    assert esp_state(gcm_state(replay_window=64)).window.size == 32


@pytest.mark.parametrize("window", [32, 33, 64, 128])
def test_the_window_of_many_words_is_that_of_the_kernel(window: int) -> None:
    highest = 1000
    seen = {1000, 999, 1000 - window + 1}
    words = [0] * -(-window // 32)
    for number in seen:
        bit = (number - 1) % window
        words[bit // 32] |= 1 << (bit % 32)
    ring = EsnReplay(received=highest, sent=0, window=window, bitmap=tuple(words))
    state = gcm_state(replay=None, replay_window=0, esn_replay=ring)
    for number in range(highest - window - 2, highest + 3):
        late = number <= highest - window
        reason = Reason.REPLAYED if late or number in seen else None
        answer = verified(state, sealed(number))
        assert answer.reason is reason, number
        assert answer.kernel_highest == (0 if reason else highest)


def kernel_state(capture: Capture) -> SaState:
    """The state of a capture, as the kernel tells of it."""

    def told(algorithm: EspAlgorithm | None) -> Algorithm | None:
        if algorithm is None:
            return None
        return Algorithm(name=algorithm.name, key=Key(algorithm.key), icv_bits=algorithm.icv_bits)

    esn = capture.state.esn
    highest, window = capture.state.window.highest, capture.state.window
    size = window.size or 32
    words = tuple(window.received >> (32 * index) & 0xFFFFFFFF for index in range(-(-size // 32)))
    return SaState(
        source=SOURCE,
        destination=GATEWAY,
        spi=SPI,
        selector=ANY,
        flags=StateFlag.ESN if esn else 0,
        replay_window=0 if esn else size,
        aead=told(capture.state.combined),
        crypt=told(capture.state.encryption),
        auth=told(capture.state.authentication),
        replay=None if esn else Replay(sent=0, received=highest, bitmap=0),
        esn_replay=EsnReplay(received=highest, sent=0, window=size, bitmap=words) if esn else None,
    )


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: capture.name)
def test_packets_of_a_real_kernel_are_authentic_by_its_states(capture: Capture) -> None:
    state = SaState.unpack(kernel_state(capture).pack())
    answer = verified(state, packet(capture.data))
    assert (answer.reason, answer.sequence) == (None, capture.sequence)
    assert answer.inner_source == SOURCE


def texts_of(key: bytes) -> set[str]:
    """The forms in which a key could be read in a text, also parts of it."""
    forms: set[str] = set()
    for part in (key, key[:16], key[:8], key[-8:], key[4:12]):
        words = [f"{byte:02x}" for byte in part]
        forms |= {"".join(words), ":".join(words), " ".join(words), "".join(f"\\x{word}" for word in words)}
        forms |= {
            repr(part)[2:-1],
            str(list(part))[1:-1],
            str(int.from_bytes(part)),
            str(int.from_bytes(part, "little")),
        }
        forms |= {f"{int.from_bytes(part):x}", f"{int.from_bytes(part, 'little'):x}"}
        forms |= {base64.b64encode(part[: len(part) // 3 * 3]).decode(), part.decode("latin-1")}
    return forms | {form.upper() for form in forms}


def shows(text: str, key: bytes) -> list[str]:
    return [form for form in texts_of(key) if form in text]


def test_the_search_for_keys_finds_them() -> None:
    raw = replace(GCM, key=Key(SECRET)).key.material
    for text in (repr(raw), raw.hex(), raw.hex(":"), str(list(raw)), repr(bytearray(raw)), str([1, raw])):
        assert shows(text, SECRET), text


def test_keys_are_in_no_repr() -> None:
    separate = gcm_state(aead=None, crypt=Algorithm(name="cbc(aes)", key=Key(SECRET)), auth=GCM)
    for state in (gcm_state(), separate):
        for value in (state, esp_state(state), verified(state, sealed(1))):
            for text in (repr(value), str(value), f"{value}", "%s %r" % (value, value)):  # noqa: UP031 - as logging does
                assert shows(text, SECRET) == []
    assert shows(repr((GCM, GCM.key, EspAlgorithm("x", SECRET))), SECRET) == []


@pytest.mark.parametrize("case", REASONS)
def test_keys_are_in_no_log_and_in_no_answer(case: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answer = REASONS[case][0]()
    assert shows(caplog.text + repr(answer), SECRET) == []
    assert shows(str([record.args for record in caplog.records]), SECRET) == []


def test_keys_are_in_no_error() -> None:
    good = gcm_state().pack()
    errors = 0
    for length in range(len(good)):
        try:
            SaState.unpack(good[:length])
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not tell
            errors += 1
            chain: list[BaseException] = [error]
            chain += [linked for linked in (error.__cause__, error.__context__) if linked is not None]
            assert shows(" ".join(f"{one} {one!r} {one.args}" for one in chain), SECRET) == []
    assert errors > 200


@pytest.mark.parametrize(
    ("sequence", "refused"),
    [(0, True), (101, False), (100, True), (99, False), (98, True), (69, False), (68, True), (1, True)],
)
def test_the_short_window_of_a_state_refuses_what_the_kernel_drops(sequence: int, refused: bool) -> None:
    state = gcm_state(replay_window=32, replay=Replay(received=100, bitmap=0b101))
    assert esp_state(state).window.refuses(sequence) is refused


def test_the_long_window_of_a_state_is_a_ring_over_the_lower_half_of_the_number() -> None:
    # 2^32 + 3 and 2^32 - 1 were received; bit of sequence s is (s - 1) % 64 of its lower 32 bits (xfrm_replay.c).
    high = 1 << 32
    bits = 1 << ((3 - 1) % 64) | 1 << (((3 - 1) - 4) % 64)
    state = gcm_state(esn_replay=EsnReplay(received=high | 3, window=64, bitmap=(bits & 0xFFFFFFFF, bits >> 32)))
    window = esp_state(state).window
    refused = [high | 3, high - 1, (high | 3) - 64, 0]
    taken = [high | 2, high - 2, high | 4, (high | 3) - 63]
    assert [window.refuses(sequence) for sequence in refused] == [True] * 4
    assert [window.refuses(sequence) for sequence in taken] == [False] * 4
