"""ESP packets (RFC 4303 section 2): what can be told without a key, and without loading a library of ciphers."""

import struct
from dataclasses import dataclass
from typing import Final

from swanroam.errors import Unsupported, WireError
from swanroam.model.path import Endpoint, IPAddress, Origin
from swanroam.wire.inner import PROTOCOL_ESP, PROTOCOL_UDP, parse_ip, parse_udp

__all__ = ["EspPacket", "parse_esp"]

ESP_HEADER: Final = struct.Struct("!II")
UDP_HEADER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class EspPacket:
    """An ESP packet as it arrived; `data` goes from the SPI to the end of the integrity value."""

    source: IPAddress
    destination: IPAddress
    spi: int
    sequence: int
    """The lower 32 bits, all that is sent."""
    data: bytes
    port: int | None = None
    """UDP source port of an encapsulated packet."""

    @property
    def origin(self) -> Origin:
        """Where it came from."""
        return self.source if self.port is None else Endpoint(self.source, self.port)


def parse_esp(data: bytes) -> EspPacket:
    """An IP packet that carries ESP, or UDP that carries ESP (RFC 3948 section 2.1).

    Raises Unsupported for another protocol, IKE (four bytes of zero) and fragments, WireError where a header is cut off
    or a length lies.
    """
    header = parse_ip(data)
    if header.fragment:
        raise Unsupported("ESP packet", 0, "a fragment")
    start, end, port = header.start, header.end, None
    if header.protocol == PROTOCOL_UDP:
        udp = parse_udp(data)
        start, port = header.start + UDP_HEADER_BYTES, udp.source_port
        end = start + len(udp.payload)
    elif header.protocol != PROTOCOL_ESP:
        raise Unsupported("ESP packet", 0, f"protocol {header.protocol}")
    size = end - start
    if size < ESP_HEADER.size:
        raise WireError("ESP header", start, f"{size} bytes where a header needs {ESP_HEADER.size}")
    spi, sequence = ESP_HEADER.unpack_from(data, start)
    if port is not None and spi == 0:
        raise Unsupported("ESP packet", start, "IKE")
    return EspPacket(header.source, header.destination, spi, sequence, data[start:end], port)
