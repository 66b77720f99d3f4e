"""IKE messages on their way through a NAT that charon does not know of (RFC 3948 section 2.2).

charon, which knows of no NAT, sends and expects them on port 500. A NAT would give that port a mapping of its own,
which the other end does not know and which is forgotten when nothing is sent. So they go where the tunnel's ESP in UDP
goes, on port 4500 behind four bytes of zero, and are put back at the other end. Only the headers before them change;
nothing in them is looked at but the SPI that tells which tunnel they belong to (RFC 7296 and RFC 2408, section 3.1).
"""

from dataclasses import dataclass
from typing import Final

from swanroam.errors import WireError
from swanroam.model.path import Endpoint
from swanroam.wire.inner import pack_udp, parse_udp

__all__ = ["MARKER", "IkePacket", "parse_ike"]

MARKER: Final = bytes(4)
HEADER_BYTES: Final = 28


@dataclass(frozen=True, slots=True)
class IkePacket:
    """An IKE message in a UDP packet of this machine."""

    initiator_spi: int
    marked: bool
    """Whether it goes on the port of ESP in UDP."""
    message: bytes

    def marked_from(self, source: Endpoint, destination: Endpoint) -> bytes:
        """The packet between these endpoints of ESP in UDP."""
        return pack_udp(source, destination, MARKER + self.message)

    def bare_from(self, source: Endpoint, destination: Endpoint) -> bytes:
        """The packet between these endpoints of IKE without NAT."""
        return pack_udp(source, destination, self.message)


def parse_ike(data: bytes, *, marked: bool) -> IkePacket:
    """An IP packet with an IKE message, behind the marker where it is `marked`. Raises WireError, Unsupported."""
    payload = parse_udp(data).payload
    message = payload[len(MARKER) :] if marked else payload
    if marked and payload[: len(MARKER)] != MARKER:
        raise WireError("IKE message", 0, "no marker")
    if len(message) < HEADER_BYTES:
        raise WireError("IKE message", 0, f"{len(message)} bytes where a header needs {HEADER_BYTES}")
    return IkePacket(int.from_bytes(message[:8]), marked, message)
