"""ESP packets (RFC 4303 section 2): what can be told without a key, and without loading a library of ciphers."""

import struct
from dataclasses import dataclass
from typing import Final

from swanroam.errors import Unsupported, WireError
from swanroam.model.path import IPAddress
from swanroam.wire.inner import PROTOCOL_ESP, parse_ip

__all__ = ["EspPacket", "parse_esp"]

ESP_HEADER: Final = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class EspPacket:
    """An ESP packet as it arrived; `data` goes from the SPI to the end of the integrity value."""

    source: IPAddress
    destination: IPAddress
    spi: int
    sequence: int
    """The lower 32 bits, all that is sent."""
    data: bytes


def parse_esp(data: bytes) -> EspPacket:
    """An IP packet that carries ESP.

    Raises Unsupported for another protocol and for fragments, WireError where a header is cut off or a length lies.
    """
    header = parse_ip(data)
    if header.fragment:
        raise Unsupported("ESP packet", 0, "a fragment")
    if header.protocol != PROTOCOL_ESP:
        raise Unsupported("ESP packet", 0, f"protocol {header.protocol}")
    size = header.end - header.start
    if size < ESP_HEADER.size:
        raise WireError("ESP header", header.start, f"{size} bytes where a header needs {ESP_HEADER.size}")
    spi, sequence = ESP_HEADER.unpack_from(data, header.start)
    return EspPacket(header.source, header.destination, spi, sequence, data[header.start : header.end])
