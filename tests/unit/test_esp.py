"""ESP packets: parsing, verification with the vectors of the RFCs and of the kernel, the replay window."""

import hmac
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.errors import Unsupported, WireError
from swanroam.model.events import Reason
from swanroam.wire.esp import Algorithm, EspPacket, EspState, ReplayWindow, VerifiedPacket, parse_esp, verify
from swanroam.wire.espcrypt import open_combined, open_separate
from tests.support.esp_captures import CAPTURES, Capture, key
from tests.support.esp_seal import ip_packet, seal

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
INNER, SERVER = ip_address("10.9.0.1"), ip_address("10.1.0.1")
INNER6, SERVER6 = ip_address("fd00:9::1"), ip_address("fd00:1::1")
SPI = 0xC0000001
GCM = EspState(combined=Algorithm("rfc4106(gcm(aes))", key(20), 128))
CBC = EspState(encryption=Algorithm("cbc(aes)", key(16)), authentication=Algorithm("hmac(sha256)", key(32), 128))


def packet(data: bytes) -> EspPacket:
    return parse_esp(ip_packet(A, B, 50, data))


def udp_inside() -> bytes:
    return ip_packet(INNER, SERVER, 17, bytes(12))


# Parsing


def test_an_esp_packet_is_parsed_over_both_ip_versions() -> None:
    data = SPI.to_bytes(4, "big") + bytes([0, 0, 0, 7]) + bytes(20)
    assert parse_esp(ip_packet(A, B, 50, data)) == EspPacket(A, B, SPI, 7, data)
    assert parse_esp(ip_packet(INNER6, SERVER6, 50, data)) == EspPacket(INNER6, SERVER6, SPI, 7, data)


def test_ip_options_and_padding_after_the_packet_are_no_part_of_esp() -> None:
    data = SPI.to_bytes(4, "big") + bytes(20)
    plain = ip_packet(A, B, 50, data)
    options = b"\x46" + plain[1:2] + (len(plain) + 4).to_bytes(2, "big") + plain[4:20] + b"\1\1\1\1" + data
    assert parse_esp(options).data == data
    assert parse_esp(plain + bytes(6)).data == data


@pytest.mark.parametrize(
    ("change", "offset", "problem"),
    [
        (lambda raw: raw[:0], 0, "no bytes"),
        (lambda raw: raw[:19], 0, "header length"),
        (lambda raw: b"\x44" + raw[1:], 0, "header length 16"),
        (lambda raw: b"\x4f" + raw[1:50], 0, "header length 60"),
        (lambda raw: b"\x55" + raw[1:], 0, "version 5"),
        (lambda raw: raw[:-1], 2, "total length 60"),
        (lambda raw: raw[:2] + b"\0\x13" + raw[4:], 2, "total length 19"),
        (lambda raw: raw[:2] + b"\0\x1b" + raw[4:], 20, "7 bytes where a header needs 8"),
        (lambda raw: raw[:6] + b"\x20\0" + raw[8:], 0, "a fragment"),
        (lambda raw: raw[:6] + b"\0\1" + raw[8:], 0, "a fragment"),
        (lambda raw: raw[:9] + b"\x06" + raw[10:], 0, "protocol 6"),
    ],
)
def test_an_ipv4_packet_that_lies_is_refused(change: Callable[[bytes], bytes], offset: int, problem: str) -> None:
    with pytest.raises(WireError, match=problem) as refused:
        parse_esp(change(ip_packet(A, B, 50, bytes(40))))
    assert refused.value.offset == offset


def test_dont_fragment_is_no_fragment() -> None:
    raw = ip_packet(A, B, 50, bytes(40))
    assert parse_esp(raw[:6] + b"\x40\0" + raw[8:]).spi == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda raw: raw[:39], "39 bytes where a header needs 40"),
        (lambda raw: raw[:-1], "payload length 40 beyond 79"),
        (lambda raw: raw[:4] + b"\0\x07" + raw[6:], "7 bytes where a header needs 8"),
        (lambda raw: raw[:4] + b"\0\x07\0" + raw[7:], "7 bytes where a header needs 8"),
        (lambda raw: raw[:6] + b"\0" + raw[7:40] + b"\x32\x05" + raw[42:], "length 48 beyond 40"),
        (lambda raw: raw[:6] + b"\x2c" + raw[7:40] + b"\x32\0\0\1" + raw[44:], "a fragment"),
        (lambda raw: raw[:6] + b"\x2c" + raw[7:40] + b"\x32\0\0\x08" + raw[44:], "a fragment"),
        (lambda raw: raw[:6] + b"\x3b" + raw[7:], "protocol 59"),
    ],
)
def test_an_ipv6_packet_that_lies_is_refused(change: Callable[[bytes], bytes], problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        parse_esp(change(ip_packet(INNER6, SERVER6, 50, bytes(40))))


def test_extension_headers_are_passed_over() -> None:
    data = SPI.to_bytes(4, "big") + bytes(20)
    destination_options = b"\x2c\1" + bytes(14)
    whole_fragment = b"\x32\0\0\0\0\0\0\1"
    raw = ip_packet(INNER6, SERVER6, 60, destination_options + whole_fragment + data)
    assert parse_esp(raw).data == data


# Vectors


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture.name for capture in CAPTURES])
def test_packets_of_the_kernel_are_verified(capture: Capture) -> None:
    verified = verify(capture.state, packet(capture.data))
    assert isinstance(verified, VerifiedPacket)
    assert (verified.sequence, verified.next_header) == (capture.sequence, 4)
    assert verified.inner is not None
    assert (verified.inner.source, verified.inner.destination, verified.inner.protocol) == (INNER, SERVER, 17)


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture.name for capture in CAPTURES])
def test_the_seal_of_the_tests_is_that_of_the_kernel(capture: Capture) -> None:
    sealed = seal(capture.state, SPI, capture.sequence, udp_inside())
    verified = verify(capture.state, packet(sealed))
    assert isinstance(verified, VerifiedPacket)
    assert verified.sequence == capture.sequence


def test_chacha20_poly1305_as_in_rfc_7634_appendix_a() -> None:
    text = (
        "0102030400000005 1011121314151617 24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d528"
        "44eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0"
        "76aaa8266b7fb0f7b11b369907e1ad43"
    )
    algorithm = Algorithm("rfc7539esp(chacha20,poly1305)", bytes(range(0x80, 0xA0)) + bytes.fromhex("a0a1a2a3"), 128)
    verified = verify(EspState(combined=algorithm), packet(bytes.fromhex(text)))
    assert isinstance(verified, VerifiedPacket)
    assert verified.inner is not None
    assert (str(verified.inner.source), str(verified.inner.destination)) == ("198.51.100.5", "192.0.2.5")


def test_aes_gcm_with_esn_as_in_draft_mcgrew_gcm_test_01_section_4() -> None:
    text = (
        "00004321 00000000 4956ed7e3b244cfe fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34"
        "cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732"
        "459018148f6cbe722fd04796562dfdb4"
    )
    algorithm = Algorithm("rfc4106(gcm(aes))", bytes.fromhex("4c80cdefbb5d10da906ac73c3613a634 2e443b68"), 128)
    plain = open_combined(algorithm, bytes.fromhex(text), bytes.fromhex("87654321"))
    assert plain is not None
    assert plain.hex().startswith("45000048699a000080114db7c0a80102c0a80101")
    before = ReplayWindow(highest=0x87654320_FFFFFFFF, size=32)
    verified = verify(EspState(combined=algorithm, esn=True, window=before), packet(bytes.fromhex(text)))
    # The draft's next header says ICMP, so the payload is not looked into.
    assert verified == VerifiedPacket(0x87654321_00000000, 1, None)


def test_aes_cbc_as_in_rfc_3602_case_5() -> None:
    text = (
        "00004321 00000001 e96e8c08ab465763fd098d45dd3ff893 f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4"
        "898dc856a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874aa269add047ad2d5913ac19b7cfbad4a6"
    )
    encryption = Algorithm("cbc(aes)", bytes.fromhex("90d382b410eeba7ad938c46cec1a82bf"))
    body = bytes.fromhex(text)
    # The RFC's packet has no integrity value.
    signed = body + hmac.digest(key(32), body, "sha256")[:16]
    plain = open_separate(encryption, Algorithm("hmac(sha256)", key(32), 128), signed, b"")
    assert plain is not None
    assert plain.hex().startswith("08000ebda70a00008e9c083db95b0700")
    assert plain.hex().endswith("0a0b0c0d0e0e01")


# What makes a packet no proof


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture.name for capture in CAPTURES])
def test_another_key_or_upper_half_of_the_number_is_a_bad_icv(capture: Capture) -> None:
    state = capture.state
    others = [
        replace(
            state,
            combined=state.combined and replace(state.combined, key=state.combined.key[:-1] + b"?"),
            authentication=state.authentication and replace(state.authentication, key=bytes(32)),
        )
    ]
    if state.esn:
        others.append(replace(state, window=ReplayWindow(highest=0x2_FFFF_FFFE, size=64)))
    for other in others:
        assert verify(other, packet(capture.data)) is Reason.BAD_ICV


@pytest.mark.parametrize("state", [GCM, CBC])
@pytest.mark.parametrize("size", range(8, 26))
def test_a_packet_too_short_for_its_algorithm_is_malformed(state: EspState, size: int) -> None:
    assert verify(state, packet(bytes(4) + b"\0\0\0\1" + bytes(size - 8))) is Reason.MALFORMED


def test_cbc_that_is_no_whole_blocks_is_malformed() -> None:
    body = SPI.to_bytes(4, "big") + b"\0\0\0\1" + bytes(16 + 17)
    signed = body + hmac.digest(key(32), body, "sha256")[:16]
    assert verify(CBC, packet(signed)) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("payload", "next_header"),
    [(b"", 4), (udp_inside()[:19], 4), (udp_inside()[:-1], 4), (udp_inside(), 41), (b"\x60" + bytes(30), 41)],
)
def test_an_authentic_packet_without_a_whole_inner_packet_is_malformed(payload: bytes, next_header: int) -> None:
    assert verify(GCM, packet(seal(GCM, SPI, 1, payload, next_header))) is Reason.MALFORMED


def test_padding_longer_than_the_payload_is_malformed() -> None:
    null = replace(CBC, encryption=Algorithm("ecb(cipher_null)", b""))
    body = SPI.to_bytes(4, "big") + b"\0\0\0\1" + bytes([1, 2, 3, 4, 5, 4])
    assert verify(null, packet(body + hmac.digest(key(32), body, "sha256")[:16])) is Reason.MALFORMED


def test_an_inner_fragment_and_traffic_flow_padding_are_no_fault() -> None:
    inner = udp_inside()
    fragment = inner[:6] + b"\x20\0" + inner[8:] + bytes(100)
    verified = verify(GCM, packet(seal(GCM, SPI, 1, fragment)))
    assert isinstance(verified, VerifiedPacket)
    assert verified.inner is not None
    assert verified.inner.source == INNER


@pytest.mark.parametrize("next_header", [59, 17, 108])
def test_what_is_no_tunnel_mode_has_no_inner_addresses(next_header: int) -> None:
    assert verify(GCM, packet(seal(GCM, SPI, 1, bytes(10), next_header))) == VerifiedPacket(1, next_header, None)


def test_an_inner_ipv6_packet_is_read() -> None:
    verified = verify(GCM, packet(seal(GCM, SPI, 1, ip_packet(INNER6, SERVER6, 17, bytes(8)), 41)))
    assert isinstance(verified, VerifiedPacket)
    assert verified.inner is not None
    assert verified.inner.source == INNER6


@pytest.mark.parametrize(
    "state",
    [
        EspState(),
        replace(CBC, authentication=None),
        replace(CBC, encryption=None),
        replace(CBC, encryption=Algorithm("cbc(des3_ede)", key(24))),
        replace(CBC, encryption=Algorithm("cbc(aes)", key(15))),
        replace(CBC, encryption=Algorithm("rfc3686(ctr(aes))", key(4))),
        replace(CBC, encryption=Algorithm("rfc3686(ctr(aes))", key(21))),
        replace(CBC, authentication=Algorithm("digest_null", b"", 0)),
        replace(CBC, authentication=Algorithm("hmac(sha256)", key(32), 0)),
        replace(CBC, authentication=Algorithm("hmac(sha256)", key(32), 8)),
        replace(CBC, authentication=Algorithm("hmac(sha1)", key(20), 256)),
        EspState(combined=Algorithm("rfc4106(gcm(aes))", key(21), 128)),
        EspState(combined=Algorithm("rfc4106(gcm(aes))", key(4), 128)),
        EspState(combined=Algorithm("rfc4106(gcm(aes))", key(20), 32)),
        EspState(combined=Algorithm("rfc4309(ccm(aes))", key(20), 128)),
        EspState(combined=Algorithm("rfc7539esp(chacha20,poly1305)", key(35), 128)),
        EspState(combined=Algorithm("aegis", key(20), 128)),
    ],
)
def test_what_this_side_does_not_know_is_an_unsupported_algorithm(state: EspState) -> None:
    body = SPI.to_bytes(4, "big") + b"\0\0\0\1" + bytes(64)
    signed = body + hmac.digest(key(32), body, "sha256")[:16]
    assert verify(state, packet(signed)) is Reason.UNSUPPORTED_ALGORITHM


def test_no_key_is_shown() -> None:
    shown = repr(CBC) + repr(GCM)
    assert "rfc4106(gcm(aes))" in shown
    assert "\\x01\\x02" not in shown
    assert "0102" not in shown
    with pytest.raises(Unsupported) as refused:
        open_combined(Algorithm("aegis", b"secret-secret", 128), bytes(64), b"")
    assert "secret" not in str(refused.value)


# The replay window


@pytest.mark.parametrize(
    ("window", "low", "refused"),
    [
        (ReplayWindow(highest=100, size=0, received=1), 100, False),
        (ReplayWindow(highest=100, size=32, received=1), 101, False),
        (ReplayWindow(highest=100, size=32, received=1), 100, True),
        (ReplayWindow(highest=100, size=32, received=0b101), 99, False),
        (ReplayWindow(highest=100, size=32, received=0b101), 98, True),
        (ReplayWindow(highest=100, size=32, received=1), 69, False),
        (ReplayWindow(highest=100, size=32, received=1), 68, True),
        (ReplayWindow(highest=0, size=32), 0, True),
        (ReplayWindow(highest=10, size=32), 0, True),
        # A ring of 64: number n is bit (n - 1) % 64, so 100 is bit 35, 65 bit 0 and 64 bit 63.
        (ReplayWindow(highest=100, size=64, received=1 << 35, ring=True), 100, True),
        (ReplayWindow(highest=100, size=64, received=1 << 35, ring=True), 99, False),
        (ReplayWindow(highest=100, size=64, received=1, ring=True), 65, True),
        (ReplayWindow(highest=100, size=64, received=1 << 63, ring=True), 64, True),
        (ReplayWindow(highest=100, size=64, received=1 << 63, ring=True), 63, False),
        (ReplayWindow(highest=100, size=64, ring=True), 37, False),
        (ReplayWindow(highest=100, size=64, ring=True), 36, True),
    ],
)
def test_the_window_refuses_what_the_kernel_refuses(window: ReplayWindow, low: int, refused: bool) -> None:
    assert window.refuses(low) is refused
    expected = Reason.REPLAYED if refused else Reason.BAD_ICV
    assert verify(replace(GCM, window=window), packet(bytes(4) + low.to_bytes(4, "big") + bytes(60))) is expected


@pytest.mark.parametrize(
    ("highest", "low", "meant"),
    [
        (0, 1, 1),
        (0, 0xFFFF_FFFF, -1),
        (100, 69, 69),
        (100, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (0xFFFF_FFFE, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (0xFFFF_FFFE, 0, 0x1_0000_0000),
        (0x1_0000_0005, 0xFFFF_FFF0, 0xFFFF_FFF0),
        (0x1_0000_0005, 6, 0x1_0000_0006),
        (0x1_0000_0005, 0xFFFF_FF00, 0x1_FFFF_FF00),
        (0x3_0000_0100, 0x80, 0x4_0000_0080),
    ],
)
def test_the_upper_half_is_the_one_nearest_to_the_window(highest: int, low: int, meant: int) -> None:
    assert ReplayWindow(highest=highest, size=32).full_sequence(low) == meant


def test_a_number_before_the_first_is_replayed() -> None:
    state = replace(GCM, esn=True, window=ReplayWindow(highest=0, size=32))
    assert verify(state, packet(bytes(4) + b"\xff\xff\xff\xff" + bytes(60))) is Reason.REPLAYED


def test_without_a_window_the_upper_half_stays() -> None:
    state = replace(GCM, esn=True, window=ReplayWindow(highest=0x5_0000_0001))
    verified = verify(state, packet(seal(state, SPI, 0x5_0000_0001, udp_inside())))
    assert isinstance(verified, VerifiedPacket)
    assert verified.sequence == 0x5_0000_0001
