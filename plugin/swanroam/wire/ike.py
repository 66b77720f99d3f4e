"""IKE messages on their way through a NAT that charon does not know of (RFC 3948 section 2.2).

charon, which knows of no NAT, sends and expects them on port 500. A NAT would give that port a mapping of its own,
which the other end does not know and which is forgotten when nothing is sent. So they go where the tunnel's ESP in UDP
goes, on port 4500 behind four bytes of zero, and are put back at the other end. Only the headers before them change;
nothing in them is looked at but the SPI that tells which tunnel they belong to (RFC 7296 and RFC 2408, section 3.1).

IKEv1 has no rekeying of an IKE_SA but another main mode, and its third and fourth message tell of NATs (RFC 3947
section 3.2), in the clear and unauthenticated. There the hashes become those of the addresses that charon sees. Else it
would leave port 500 for this IKE_SA only, not know it for the successor of the other one, and give out another inner
address.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from swanroam.errors import WireError
from swanroam.model.path import Endpoint
from swanroam.wire.inner import pack_udp, parse_udp

__all__ = ["MARKER", "IkePacket", "parse_ike"]

MARKER: Final = bytes(4)
HEADER_BYTES: Final = 28
SPIS_BYTES: Final = 16
GENERIC_BYTES: Final = 4
NEXT_PAYLOAD, VERSION, EXCHANGE, FLAGS = 16, 17, 18, 19
"""Offsets in the header (RFC 2408 section 3.1)."""
IKEV1: Final = 1
MAIN_MODE: Final = 2
ENCRYPTED: Final = 1
NAT_D: Final = (20, 130)
"""Payload types: RFC 3947 section 3.2, and the drafts before it."""
HASHES: Final = {16: "md5", 20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
"""The hash is the negotiated one (RFC 3947 section 3.2), told here by its length."""


@dataclass(frozen=True, slots=True)
class IkePacket:
    """An IKE message in a UDP packet of this machine."""

    initiator_spi: int
    marked: bool
    """Whether it goes on the port of ESP in UDP."""
    source: Endpoint
    destination: Endpoint
    message: bytes

    @property
    def begins_main_mode(self) -> bool:
        """Whether it is the first message of an IKE_SA of IKEv1."""
        return self._main_mode and self.message[8:SPIS_BYTES] == bytes(8)

    @property
    def _main_mode(self) -> bool:
        return self.message[VERSION] >> 4 == IKEV1 and self.message[EXCHANGE] == MAIN_MODE

    def marked_from(self, source: Endpoint, destination: Endpoint) -> bytes:
        """The packet between these endpoints of ESP in UDP."""
        return pack_udp(source, destination, MARKER + self.message)

    def bare_from(self, source: Endpoint, destination: Endpoint) -> bytes:
        """The packet between these endpoints of IKE without NAT."""
        message = self.message
        if self._main_mode and not message[FLAGS] & ENCRYPTED:
            message = _without_nat(message, source, destination)
        return pack_udp(source, destination, message)


def parse_ike(data: bytes, *, marked: bool) -> IkePacket:
    """An IP packet with an IKE message, behind the marker where it is `marked`. Raises WireError, Unsupported."""
    udp = parse_udp(data)
    payload = udp.payload
    message = payload[len(MARKER) :] if marked else payload
    if marked and payload[: len(MARKER)] != MARKER:
        raise WireError("IKE message", 0, "no marker")
    if len(message) < HEADER_BYTES:
        raise WireError("IKE message", 0, f"{len(message)} bytes where a header needs {HEADER_BYTES}")
    source, destination = Endpoint(udp.source, udp.source_port), Endpoint(udp.destination, udp.destination_port)
    return IkePacket(int.from_bytes(message[:8]), marked, source, destination, message)


def _without_nat(message: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    """A message of IKEv1 whose NAT-D payloads are those that a sender behind no NAT would have sent.

    The first of them is of the destination, the others are of the source. What cannot be read stays as it is: charon
    says more about it.
    """
    changed = bytearray(message)
    ends = [destination, source]
    for kind, start, end in _payloads(message):
        if kind in NAT_D and (name := HASHES.get(end - start)):
            seen = ends.pop(0) if len(ends) > 1 else ends[0]
            data = message[:SPIS_BYTES] + seen.address.packed + seen.port.to_bytes(2)
            changed[start:end] = hashlib.new(name, data, usedforsecurity=False).digest()
    return bytes(changed)


def _payloads(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, and where the body begins and ends, of each payload up to the first that is cut off (RFC 2408, 3.2)."""
    kind, offset = message[NEXT_PAYLOAD], HEADER_BYTES
    while kind and offset + GENERIC_BYTES <= len(message):
        following, length = struct.unpack_from("!BxH", message, offset)
        if not GENERIC_BYTES <= length <= len(message) - offset:
            return
        yield kind, offset + GENERIC_BYTES, offset + length
        kind, offset = following, offset + length
