"""IP packets as the kernel hands them over, before and after ESP: headers, in-tunnel messages, and the dummy.

Sources: RFC 791 section 3.1, RFC 8200 sections 3 and 4, RFC 768, RFC 792, RFC 4443 section 4.2. The kernel has checked
the outer header already, and ESP vouches for the inner one, so checksums are not looked at.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from swanroam.errors import Unsupported, WireError
from swanroam.model.path import Endpoint, IPAddress

__all__ = [
    "DUMMY_IDENTIFIER",
    "DUMMY_MAGIC",
    "PROTOCOL_ESP",
    "PROTOCOL_UDP",
    "IpHeader",
    "UdpPacket",
    "dummy",
    "pack_udp",
    "parse_ip",
    "parse_udp",
    "readdressed",
]

PROTOCOL_UDP: Final = 17
PROTOCOL_ESP: Final = 50

IP4_HEADER_BYTES: Final = 20
IP6_HEADER_BYTES: Final = 40
UDP_HEADER_BYTES: Final = 8
TTL: Final = 64
IP6_FRAGMENT: Final = 44
IP6_OPTIONS: Final = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options: all begin with (next header, length in 8 bytes after the first)."""

ECHO_REPLY: Final = 0
ECHO_REPLY6: Final = 129
DUMMY_IDENTIFIER: Final = 0x7372
DUMMY_MAGIC: Final = b"swanroam"


@dataclass(frozen=True, slots=True)
class IpHeader:
    """What an IPv4 or IPv6 header says; `start` and `end` bound what it carries, in bytes from the header's start."""

    source: IPAddress
    destination: IPAddress
    protocol: int
    start: int
    end: int
    fragment: bool


@dataclass(frozen=True, slots=True)
class UdpPacket:
    """An unfragmented UDP packet."""

    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int
    payload: bytes


def parse_ip(data: bytes) -> IpHeader:
    """The header of an IP packet. What follows its length is padding (RFC 4303 section 2.7) and left out.

    Raises WireError where the header is cut off, or a length lies.
    """
    if not data:
        raise WireError("IP header", 0, "no bytes")
    version = data[0] >> 4
    if version == 4:
        return _parse_ip4(data)
    if version == 6:
        return _parse_ip6(data)
    raise WireError("IP header", 0, f"version {version}")


def _parse_ip4(data: bytes) -> IpHeader:
    start = (data[0] & 0xF) * 4
    if not 20 <= start <= len(data):
        raise WireError("IPv4 header", 0, f"header length {start} outside 20..{len(data)}")
    end = data[2] << 8 | data[3]
    if not start <= end <= len(data):
        raise WireError("IPv4 header", 2, f"total length {end} outside {start}..{len(data)}")
    # More fragments, or an offset; "don't fragment" is no fragment.
    fragment = (data[6] << 8 | data[7]) & 0x3FFF != 0
    return IpHeader(IPv4Address(data[12:16]), IPv4Address(data[16:20]), data[9], start, end, fragment)


def _parse_ip6(data: bytes) -> IpHeader:
    if len(data) < IP6_HEADER_BYTES:
        raise WireError("IPv6 header", 0, f"{len(data)} bytes where a header needs {IP6_HEADER_BYTES}")
    end = IP6_HEADER_BYTES + (data[4] << 8 | data[5])
    if end > len(data):
        raise WireError("IPv6 header", 4, f"payload length {end - IP6_HEADER_BYTES} beyond {len(data)} bytes")
    protocol, start, fragment = data[6], IP6_HEADER_BYTES, False
    while protocol in IP6_OPTIONS or protocol == IP6_FRAGMENT:
        if end - start < 8:
            raise WireError("IPv6 extension header", start, f"{end - start} bytes where a header needs 8")
        length = 8
        if protocol == IP6_FRAGMENT:
            # An "atomic" fragment (RFC 6946) is whole.
            fragment = fragment or (data[start + 2] << 8 | data[start + 3]) & 0xFFF9 != 0
            if fragment:
                return IpHeader(
                    IPv6Address(data[8:24]), IPv6Address(data[24:40]), data[start], start + length, end, fragment
                )
        else:
            length += data[start + 1] * 8
            if length > end - start:
                raise WireError("IPv6 extension header", start + 1, f"length {length} beyond {end - start}")
        protocol, start = data[start], start + length
    return IpHeader(IPv6Address(data[8:24]), IPv6Address(data[24:40]), protocol, start, end, fragment)


def parse_udp(data: bytes) -> UdpPacket:
    """An IP packet that carries UDP.

    Raises Unsupported for another protocol and for fragments, WireError where a header is cut off or a length lies.
    """
    header = parse_ip(data)
    if header.fragment:
        raise Unsupported("UDP packet", 0, "a fragment")
    if header.protocol != PROTOCOL_UDP:
        raise Unsupported("UDP packet", 0, f"protocol {header.protocol}")
    if header.end - header.start < 8:
        raise WireError("UDP header", header.start, f"{header.end - header.start} bytes where a header needs 8")
    source_port, destination_port, length, _checksum = struct.unpack_from("!HHHH", data, header.start)
    if not 8 <= length <= header.end - header.start:
        raise WireError("UDP header", header.start + 4, f"length {length} outside 8..{header.end - header.start}")
    payload = data[header.start + 8 : header.start + length]
    return UdpPacket(header.source, header.destination, source_port, destination_port, payload)


def pack_udp(source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
    """An IP packet that carries UDP between endpoints of one IP version.

    Over IPv4 without a checksum of UDP (RFC 768 allows that; NATs would have to mend it); IPv6 wants one (RFC 8200
    section 8.1).
    """
    length = UDP_HEADER_BYTES + len(payload)
    udp = struct.pack("!HHHH", source.port, destination.port, length, 0) + payload
    addresses = source.address.packed + destination.address.packed
    if source.address.version == 6:
        checksum = _checksum(addresses + struct.pack("!II", length, PROTOCOL_UDP) + udp + bytes(length % 2)) or 0xFFFF
        head = struct.pack("!IHBB", 6 << 28, length, PROTOCOL_UDP, TTL) + addresses
        return head + udp[:6] + struct.pack("!H", checksum) + udp[8:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, IP4_HEADER_BYTES + len(udp), 0, 0, TTL, PROTOCOL_UDP, 0) + addresses
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + udp


def readdressed(data: bytes, destination: IPAddress) -> bytes:
    """An IP packet with another destination of the same IP version; what it carries must have no checksum over that.

    Raises WireError as `parse_ip`, and where the version differs.
    """
    header = parse_ip(data)
    if header.destination.version != destination.version:
        raise WireError("IP header", 0, f"a destination of version {destination.version} for {header.destination}")
    if destination.version == 6:
        return data[:24] + destination.packed + data[40:]
    length = (data[0] & 0xF) * 4
    head = data[:10] + bytes(2) + data[12:16] + destination.packed + data[20:length]
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + data[length:]


def dummy(version: int) -> bytes:
    """The ICMP message of a dummy, for IP `version` 4 or 6: an echo reply that nobody asked for, so nobody answers.

    The checksum of ICMPv6 covers addresses and is left to the kernel (RFC 3542 section 3.1).
    """
    if version == 6:
        return struct.pack("!BBHHH", ECHO_REPLY6, 0, 0, DUMMY_IDENTIFIER, 0) + DUMMY_MAGIC
    bare = struct.pack("!BBHHH", ECHO_REPLY, 0, 0, DUMMY_IDENTIFIER, 0) + DUMMY_MAGIC
    return bare[:2] + struct.pack("!H", _checksum(bare)) + bare[4:]


def _checksum(data: bytes) -> int:
    """Of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
