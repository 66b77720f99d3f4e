"""The algorithms of ESP under the names that the Linux kernel gives them: integrity values checked, payloads decrypted.

    rfc4106(gcm(aes))                  RFC 4106    salt 4, IV 8, ICV 8, 12 or 16 bytes
    rfc4309(ccm(aes))                  RFC 4309    salt 3, IV 8, ICV 8, 12 or 16 bytes
    rfc4543(gcm(aes))                  RFC 4543    salt 4, IV 8, ICV 16 bytes; integrity alone (AES-GMAC)
    rfc7539esp(chacha20,poly1305)      RFC 7634    salt 4, IV 8, ICV 16 bytes
    cbc(aes), rfc3686(ctr(aes)), ecb(cipher_null), each with
    hmac(sha1), hmac(sha256), hmac(sha384), hmac(sha512)       RFC 2404, RFC 4868; truncated as the state says

Keys come as the kernel keeps them: the salt is the end of the key. With ESN the upper half of the sequence number is
authenticated without being sent: between SPI and lower half for the combined algorithms (RFC 4106 section 5), after
the payload for the others (RFC 4303 section 2.2.1).
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, CipherAlgorithm, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, ChaCha20Poly1305

from swanroam.errors import Unsupported, WireError

__all__ = ["Algorithm", "open_combined", "open_separate"]

HEADER_BYTES: Final = 8
"""SPI and the lower half of the sequence number."""
IV_BYTES: Final = 8
"""Of the combined algorithms, and of AES-CTR."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """An algorithm of a state, with its key, which is never shown."""

    name: str
    key: bytes = field(repr=False)
    icv_bits: int = 0
    """Bits of the integrity value; 0 for encryption."""

    @property
    def icv_bytes(self) -> int:
        """Octets of the integrity value."""
        return self.icv_bits // 8


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What a combined algorithm works on."""

    nonce: bytes
    associated: bytes
    iv: bytes
    ciphertext: bytes
    icv: bytes


def _open_gcm(key: bytes, sealed: _Sealed) -> bytes:
    mode = modes.GCM(sealed.nonce, sealed.icv, min_tag_length=8)
    decryptor = Cipher(algorithms.AES(key), mode).decryptor()
    decryptor.authenticate_additional_data(sealed.associated)
    return decryptor.update(sealed.ciphertext) + decryptor.finalize()


def _open_ccm(key: bytes, sealed: _Sealed) -> bytes:
    ccm = AESCCM(key, tag_length=len(sealed.icv))
    return ccm.decrypt(sealed.nonce, sealed.ciphertext + sealed.icv, sealed.associated)


def _open_gmac(key: bytes, sealed: _Sealed) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.GCM(sealed.nonce, sealed.icv)).decryptor()
    # RFC 4543 section 3.3: IV and payload are authenticated with the header, nothing is encrypted.
    decryptor.authenticate_additional_data(sealed.associated + sealed.iv + sealed.ciphertext)
    decryptor.finalize()
    return sealed.ciphertext


def _open_chacha(key: bytes, sealed: _Sealed) -> bytes:
    return ChaCha20Poly1305(key).decrypt(sealed.nonce, sealed.ciphertext + sealed.icv, sealed.associated)


@dataclass(frozen=True, slots=True)
class _Combined:
    salt_bytes: int
    icv_bits: frozenset[int]
    open: Callable[[bytes, _Sealed], bytes]


COMBINED: Final = {
    "rfc4106(gcm(aes))": _Combined(4, frozenset((64, 96, 128)), _open_gcm),
    "rfc4309(ccm(aes))": _Combined(3, frozenset((64, 96, 128)), _open_ccm),
    "rfc4543(gcm(aes))": _Combined(4, frozenset((128,)), _open_gmac),
    "rfc7539esp(chacha20,poly1305)": _Combined(4, frozenset((128,)), _open_chacha),
}

HASHES: Final = {
    "hmac(sha1)": ("sha1", 160),
    "hmac(sha256)": ("sha256", 256),
    "hmac(sha384)": ("sha384", 384),
    "hmac(sha512)": ("sha512", 512),
}
SHORTEST_ICV_BITS: Final = 96


def open_combined(algorithm: Algorithm, esp: bytes, high: bytes) -> bytes | None:
    """The plaintext of an ESP packet of a combined algorithm, None when its integrity value is wrong.

    `high` is the upper half of the sequence number with ESN, empty without. Raises Unsupported for an algorithm or
    parameter that this side does not know, WireError for a packet too short.
    """
    spec = COMBINED.get(algorithm.name)
    if spec is None or algorithm.icv_bits not in spec.icv_bits or len(algorithm.key) <= spec.salt_bytes:
        raise _unsupported(algorithm)
    start, end = HEADER_BYTES + IV_BYTES, len(esp) - algorithm.icv_bytes
    _need(esp, start, end)
    iv = esp[HEADER_BYTES:start]
    sealed = _Sealed(
        nonce=algorithm.key[-spec.salt_bytes :] + iv,
        associated=esp[:4] + high + esp[4:HEADER_BYTES],
        iv=iv,
        ciphertext=esp[start:end],
        icv=esp[end:],
    )
    try:
        return spec.open(algorithm.key[: -spec.salt_bytes], sealed)
    except InvalidTag:
        return None
    except (ValueError, UnsupportedAlgorithm):
        # Lengths were checked, so this is a key size that the algorithm has not.
        raise _unsupported(algorithm) from None


def open_separate(encryption: Algorithm, authentication: Algorithm, esp: bytes, high: bytes) -> bytes | None:
    """As `open_combined`, for a cipher with an integrity algorithm of its own."""
    if authentication.name not in HASHES:
        raise _unsupported(authentication)
    digest, bits = HASHES[authentication.name]
    if authentication.icv_bits % 8 or not SHORTEST_ICV_BITS <= authentication.icv_bits <= bits:
        raise _unsupported(authentication)
    iv_bytes = _iv_bytes(encryption)
    end = len(esp) - authentication.icv_bytes
    _need(esp, HEADER_BYTES + iv_bytes, end)
    expected = hmac.digest(authentication.key, esp[:end] + high, digest)[: authentication.icv_bytes]
    if not hmac.compare_digest(expected, esp[end:]):
        return None
    start = HEADER_BYTES + iv_bytes
    return _decrypt(encryption, esp[HEADER_BYTES:start], esp[start:end])


def _iv_bytes(encryption: Algorithm) -> int:
    match encryption.name:
        case "cbc(aes)":
            return 16
        case "rfc3686(ctr(aes))" if len(encryption.key) > 4:
            return IV_BYTES
        case "ecb(cipher_null)":
            return 0
        case _:
            raise _unsupported(encryption)


def _decrypt(encryption: Algorithm, iv: bytes, ciphertext: bytes) -> bytes:
    if not iv:
        return ciphertext
    mode: modes.Mode
    try:
        cipher: CipherAlgorithm
        if encryption.name == "cbc(aes)":
            if len(ciphertext) % 16:
                raise WireError("ESP payload", HEADER_BYTES + len(iv), f"{len(ciphertext)} bytes are no whole blocks")
            cipher, mode = algorithms.AES(encryption.key), modes.CBC(iv)
        else:
            # RFC 3686 section 4: nonce, IV, and a block counter that begins at one.
            cipher = algorithms.AES(encryption.key[:-4])
            mode = modes.CTR(encryption.key[-4:] + iv + b"\0\0\0\1")
        decryptor = Cipher(cipher, mode).decryptor()
    except (ValueError, UnsupportedAlgorithm):
        raise _unsupported(encryption) from None
    return decryptor.update(ciphertext) + decryptor.finalize()


def _need(esp: bytes, start: int, end: int) -> None:
    # The shortest payload is its trailer: pad length and next header.
    if end - start < 2:
        raise WireError("ESP packet", len(esp), f"{len(esp)} bytes are too few for this algorithm")


def _unsupported(algorithm: Algorithm) -> Unsupported:
    what = f"{algorithm.name}, key of {8 * len(algorithm.key)} bits, ICV of {algorithm.icv_bits} bits"
    return Unsupported("ESP algorithm", 0, what)
