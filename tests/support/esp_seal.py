"""Makes ESP packets (RFC 4303), apart from the code under test: for tests and fuzzing."""

import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from swanroam.model.path import IPAddress
from swanroam.wire.esp import EspState

__all__ = ["ip_packet", "seal"]


def ip_packet(source: IPAddress, destination: IPAddress, protocol: int, payload: bytes) -> bytes:
    """An IP packet without options; the checksum of IPv4 is left 0."""
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return head + source.packed + destination.packed + payload


def seal(state: EspState, spi: int, sequence: int, payload: bytes, next_header: int = 4) -> bytes:
    """An ESP packet from the SPI to the integrity value; IVs are the sequence number, repeated."""
    header = struct.pack("!II", spi, sequence & 0xFFFFFFFF)
    high = struct.pack("!I", sequence >> 32) if state.esn else b""
    block = 16 if state.encryption and state.encryption.name == "cbc(aes)" else 4
    padding = -(len(payload) + 2) % block
    plain = payload + bytes(range(1, padding + 1)) + bytes([padding, next_header])
    number = struct.pack("!Q", sequence)
    if state.combined:
        return header + number + _seal_combined(state, header[:4] + high + header[4:], number, plain)
    assert state.encryption is not None
    assert state.authentication is not None
    body = header + _encrypt(state.encryption.name, state.encryption.key, number, plain)
    digest = state.authentication.name.removeprefix("hmac(").removesuffix(")")
    value = hmac.digest(state.authentication.key, body + high, digest)
    return body + value[: state.authentication.icv_bytes]


def _seal_combined(state: EspState, associated: bytes, iv: bytes, plain: bytes) -> bytes:
    algorithm = state.combined
    assert algorithm is not None
    length = algorithm.icv_bytes
    match algorithm.name:
        case "rfc4106(gcm(aes))":
            sealed = AESGCM(algorithm.key[:-4]).encrypt(algorithm.key[-4:] + iv, plain, associated)
            return sealed[: len(plain) + length]
        case "rfc4543(gcm(aes))":
            return plain + AESGCM(algorithm.key[:-4]).encrypt(algorithm.key[-4:] + iv, b"", associated + iv + plain)
        case "rfc4309(ccm(aes))":
            return AESCCM(algorithm.key[:-3], length).encrypt(algorithm.key[-3:] + iv, plain, associated)
        case _:
            return ChaCha20Poly1305(algorithm.key[:-4]).encrypt(algorithm.key[-4:] + iv, plain, associated)


def _encrypt(name: str, key: bytes, number: bytes, plain: bytes) -> bytes:
    match name:
        case "cbc(aes)":
            cipher, iv = Cipher(algorithms.AES(key), modes.CBC(number * 2)), number * 2
            return iv + cipher.encryptor().update(plain)
        case "rfc3686(ctr(aes))":
            counter = modes.CTR(key[-4:] + number + b"\0\0\0\1")
            return number + Cipher(algorithms.AES(key[:-4]), counter).encryptor().update(plain)
        case _:
            return plain
