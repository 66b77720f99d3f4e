"""In-tunnel messages: bytes to model.messages and back.

A message is one UDP datagram between inner addresses. Integers are in network byte order.

    0      2         3      4        6          8
    | "SR" | version | type | length | reserved | attributes ...

    attribute: type (2, the top bit says critical), length of the value (2), value

`length` covers the whole message and must equal the datagram's. Reserved bits are sent as zero and ignored. Unknown
attributes are skipped unless critical; unknown types raise Unsupported, which receivers count and ignore. The layout
of HELLO and REFUSE is the same in every version, so that ends of different versions can tell each other so; all other
messages are of VERSION only.

ADDRESSES, one to ADDRESSES_MOST in the order of preference, of either IP version, each: IP version (1), address (4 or
16). In HELLO-ACK there may be none of it: a terminal has none to tell, nor had gateways of earlier releases, and
terminals of these skip it.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from swanroam.errors import Unsupported, WireError
from swanroam.model.messages import (
    ADDRESSES_MOST,
    Feature,
    GatewayMoved,
    GatewayMovedAck,
    Goodbye,
    Hello,
    HelloAck,
    Message,
    NatD,
    PathChallenge,
    PathResponse,
    Refusal,
    Refuse,
    Update,
    UpdateAck,
)
from swanroam.model.path import Endpoint, IPAddress

__all__ = ["NONCE_BYTES", "VERSION", "decode", "encode"]

VERSION: Final = 1
NONCE_BYTES: Final = 16
HASH_BYTES: Final = 20
ADDRESS_BYTES: Final = {4: 4, 6: 16}
"""By IP version."""
MAGIC: Final = b"SR"
HEADER: Final = struct.Struct("!2sBBHH")
ATTRIBUTE: Final = struct.Struct("!HH")
CRITICAL_BIT: Final = 0x8000
WHAT: Final = "in-tunnel message"


class Type(IntEnum):
    """Message types."""

    HELLO = 1
    HELLO_ACK = 2
    REFUSE = 3
    UPDATE = 4
    UPDATE_ACK = 5
    PATH_CHALLENGE = 6
    PATH_RESPONSE = 7
    GOODBYE = 8
    GATEWAY_MOVED = 9
    GATEWAY_MOVED_ACK = 10


class Attribute(IntEnum):
    """Attribute types."""

    NONCE = 1
    FEATURES = 2
    CRITICAL_FEATURES = 3
    REASON = 4
    SEQUENCE = 5
    ENDPOINT = 6
    NAT_D_SOURCE = 7
    NAT_D_DESTINATION = 8
    ADDRESSES = 9


def encode(message: Message) -> bytes:
    """The datagram for a message."""
    version = VERSION
    match message:
        case Hello():
            version = message.version
            body = (
                _attribute(Attribute.NONCE, message.nonce)
                + _attribute(Attribute.FEATURES, _u32(message.features))
                + _attribute(Attribute.CRITICAL_FEATURES, _u32(message.critical))
            )
            type_ = Type.HELLO
        case HelloAck():
            body = _attribute(Attribute.NONCE, message.nonce) + _attribute(Attribute.FEATURES, _u32(message.features))
            body += _addresses(message.addresses)
            type_ = Type.HELLO_ACK
        case Refuse():
            body = _attribute(Attribute.NONCE, message.nonce) + _attribute(Attribute.REASON, bytes([message.reason]))
            type_ = Type.REFUSE
        case Update():
            body = _attribute(Attribute.SEQUENCE, message.sequence.to_bytes(8)) + _endpoint(message.claimed)
            body += _natd(message.natd)
            type_ = Type.UPDATE
        case UpdateAck():
            body = _attribute(Attribute.SEQUENCE, message.sequence.to_bytes(8)) + _endpoint(message.observed)
            body += _natd(message.natd)
            type_ = Type.UPDATE_ACK
        case PathChallenge():
            body, type_ = _attribute(Attribute.NONCE, message.nonce), Type.PATH_CHALLENGE
        case PathResponse():
            body, type_ = _attribute(Attribute.NONCE, message.nonce), Type.PATH_RESPONSE
        case Goodbye():
            body, type_ = b"", Type.GOODBYE
        case GatewayMoved():
            body = _attribute(Attribute.SEQUENCE, message.sequence.to_bytes(8)) + _addresses(message.addresses)
            type_ = Type.GATEWAY_MOVED
        case GatewayMovedAck():
            body, type_ = _attribute(Attribute.SEQUENCE, message.sequence.to_bytes(8)), Type.GATEWAY_MOVED_ACK
    return HEADER.pack(MAGIC, version, type_, HEADER.size + len(body), 0) + body


def decode(data: bytes) -> Message:
    """The message in a datagram.

    Raises WireError for anything malformed, and its subclass Unsupported for a type, version or critical attribute
    that this side does not know.
    """
    if len(data) < HEADER.size:
        raise WireError(WHAT, 0, f"{len(data)} bytes where a header needs {HEADER.size}")
    magic, version, number, length, _reserved = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError(WHAT, 0, f"magic {magic!r} is not {MAGIC!r}")
    if length != len(data):
        raise WireError(WHAT, 4, f"length {length} in a datagram of {len(data)} bytes")
    try:
        type_ = Type(number)
    except ValueError:
        raise Unsupported(WHAT, 3, f"type {number}") from None
    if version != VERSION and type_ not in (Type.HELLO, Type.REFUSE):
        raise Unsupported(WHAT, 2, f"version {version}")
    if version == 0:
        raise WireError(WHAT, 2, "version 0")
    values = _attributes(data)
    match type_:
        case Type.HELLO:
            return Hello(
                nonce=_nonce(values),
                features=Feature(_number(values, Attribute.FEATURES, 4)),
                critical=_number(values, Attribute.CRITICAL_FEATURES, 4),
                version=version,
            )
        case Type.HELLO_ACK:
            return HelloAck(
                nonce=_nonce(values),
                features=Feature(_number(values, Attribute.FEATURES, 4)),
                addresses=_parse_addresses(values) if Attribute.ADDRESSES in values else (),
            )
        case Type.REFUSE:
            code = _number(values, Attribute.REASON, 1)
            try:
                reason = Refusal(code)
            except ValueError:
                raise Unsupported(WHAT, values[Attribute.REASON][0], f"reason {code}") from None
            return Refuse(nonce=_nonce(values), reason=reason)
        case Type.UPDATE:
            return Update(
                sequence=_number(values, Attribute.SEQUENCE, 8),
                claimed=_parse_endpoint(values),
                natd=_parse_natd(values),
            )
        case Type.UPDATE_ACK:
            return UpdateAck(
                sequence=_number(values, Attribute.SEQUENCE, 8),
                observed=_parse_endpoint(values),
                natd=_parse_natd(values),
            )
        case Type.PATH_CHALLENGE:
            return PathChallenge(nonce=_nonce(values))
        case Type.PATH_RESPONSE:
            return PathResponse(nonce=_nonce(values))
        case Type.GOODBYE:
            return Goodbye()
        case Type.GATEWAY_MOVED:
            return GatewayMoved(sequence=_number(values, Attribute.SEQUENCE, 8), addresses=_parse_addresses(values))
        case Type.GATEWAY_MOVED_ACK:
            return GatewayMovedAck(sequence=_number(values, Attribute.SEQUENCE, 8))


Values = Mapping[Attribute, tuple[int, bytes]]
"""Attributes by type, each with the offset of its value in the message."""


def _attributes(data: bytes) -> Values:
    values: dict[Attribute, tuple[int, bytes]] = {}
    offset = HEADER.size
    while offset < len(data):
        if len(data) - offset < ATTRIBUTE.size:
            raise WireError(WHAT, offset, f"{len(data) - offset} bytes where an attribute needs {ATTRIBUTE.size}")
        number, length = ATTRIBUTE.unpack_from(data, offset)
        start = offset + ATTRIBUTE.size
        if length > len(data) - start:
            raise WireError(WHAT, offset, f"attribute length {length}, {len(data) - start} bytes left")
        try:
            attribute = Attribute(number & ~CRITICAL_BIT)
        except ValueError:
            if number & CRITICAL_BIT:
                raise Unsupported(WHAT, offset, f"critical attribute {number & ~CRITICAL_BIT}") from None
        else:
            if attribute in values:
                raise WireError(WHAT, offset, f"attribute {attribute.name} twice")
            values[attribute] = (start, data[start : start + length])
        offset = start + length
    return values


def _value(values: Values, attribute: Attribute) -> tuple[int, bytes]:
    if attribute not in values:
        raise WireError(WHAT, HEADER.size, f"attribute {attribute.name} is missing")
    return values[attribute]


def _number(values: Values, attribute: Attribute, size: int) -> int:
    offset, value = _value(values, attribute)
    if len(value) != size:
        raise WireError(WHAT, offset, f"{attribute.name} of {len(value)} bytes, not {size}")
    return int.from_bytes(value)


def _nonce(values: Values) -> bytes:
    offset, value = _value(values, Attribute.NONCE)
    if len(value) != NONCE_BYTES:
        raise WireError(WHAT, offset, f"NONCE of {len(value)} bytes, not {NONCE_BYTES}")
    return value


def _parse_endpoint(values: Values) -> Endpoint:
    offset, value = _value(values, Attribute.ENDPOINT)
    match len(value):
        case 6:
            address: IPv4Address | IPv6Address = IPv4Address(value[2:])
        case 18:
            address = IPv6Address(value[2:])
        case size:
            raise WireError(WHAT, offset, f"ENDPOINT of {size} bytes, neither 6 (IPv4) nor 18 (IPv6)")
    return Endpoint(address, int.from_bytes(value[:2]))


def _parse_addresses(values: Values) -> tuple[IPAddress, ...]:
    """One to ADDRESSES_MOST different addresses."""
    offset, value = _value(values, Attribute.ADDRESSES)
    found: list[IPAddress] = []
    position = 0
    while position < len(value):
        at = offset + position
        version, start = value[position], position + 1
        if version not in ADDRESS_BYTES:
            raise WireError(WHAT, at, f"ADDRESSES with an address of IP version {version}")
        position = start + ADDRESS_BYTES[version]
        if position > len(value):
            raise WireError(WHAT, at, f"ADDRESSES with an address of {len(value) - start} bytes")
        packed = value[start:position]
        address: IPAddress = IPv4Address(packed) if version == 4 else IPv6Address(packed)
        if address in found:
            raise WireError(WHAT, at, f"ADDRESSES with {address} twice")
        found.append(address)
        if len(found) > ADDRESSES_MOST:
            raise WireError(WHAT, at, f"ADDRESSES with more than {ADDRESSES_MOST} addresses")
    if not found:
        raise WireError(WHAT, offset, "ADDRESSES without an address")
    return tuple(found)


def _parse_natd(values: Values) -> NatD | None:
    """Both hashes or none."""
    if Attribute.NAT_D_SOURCE not in values and Attribute.NAT_D_DESTINATION not in values:
        return None
    source, destination = (_hash(values, of) for of in (Attribute.NAT_D_SOURCE, Attribute.NAT_D_DESTINATION))
    return NatD(source=source, destination=destination)


def _hash(values: Values, attribute: Attribute) -> bytes:
    offset, value = _value(values, attribute)
    if len(value) != HASH_BYTES:
        raise WireError(WHAT, offset, f"{attribute.name} of {len(value)} bytes, not {HASH_BYTES}")
    return value


def _attribute(type_: Attribute, value: bytes) -> bytes:
    return ATTRIBUTE.pack(type_, len(value)) + value


def _u32(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4)


def _natd(natd: NatD | None) -> bytes:
    if natd is None:
        return b""
    source = _attribute(Attribute.NAT_D_SOURCE, natd.source)
    return source + _attribute(Attribute.NAT_D_DESTINATION, natd.destination)


def _addresses(addresses: tuple[IPAddress, ...]) -> bytes:
    if not addresses:
        return b""
    return _attribute(Attribute.ADDRESSES, b"".join(bytes([each.version]) + each.packed for each in addresses))


def _endpoint(endpoint: Endpoint) -> bytes:
    return _attribute(Attribute.ENDPOINT, endpoint.port.to_bytes(2) + endpoint.address.packed)
