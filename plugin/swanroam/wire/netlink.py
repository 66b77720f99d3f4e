"""Netlink framing (include/uapi/linux/netlink.h): message headers and attributes, bytes to values and back.

    struct nlmsghdr { __u32 len; __u16 type; __u16 flags; __u32 seq; __u32 pid; };    16 bytes, host byte order
    struct nlattr   { __u16 len; __u16 type; };                                       4 bytes, host byte order

Lengths include the header; messages and attributes start on 4-byte boundaries. Two bits of an attribute's type are
flags (nested, network byte order) and no part of it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final

from swanroam.errors import WireError

__all__ = [
    "NLMSG_DONE",
    "NLMSG_ERROR",
    "Flag",
    "NetlinkMessage",
    "attribute",
    "nested",
    "pack_message",
    "unpack_attributes",
    "unpack_messages",
]

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF

HEADER: Final = struct.Struct("=IHHII")
ATTRIBUTE: Final = struct.Struct("=HH")


class Flag(IntFlag):
    """Flags of a message header."""

    REQUEST = 0x001
    MULTI = 0x002
    ACK = 0x004
    ROOT = 0x100
    MATCH = 0x200
    DUMP = 0x300
    REPLACE = 0x100
    EXCL = 0x200
    CREATE = 0x400
    APPEND = 0x800


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
    """One message: type, flags, sequence, port id of the sender (0: the kernel), and what follows the header."""

    type: int
    flags: int
    sequence: int
    port: int
    payload: bytes = field(repr=False)
    """May hold keys, and is not shown."""

    @property
    def error(self) -> int:
        """For NLMSG_ERROR the positive errno, 0 for an acknowledgement."""
        if len(self.payload) < 4:
            raise WireError("nlmsgerr", HEADER.size, f"{len(self.payload)} bytes where an error code needs 4")
        return -int(struct.unpack_from("=i", self.payload)[0])


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def pack_message(type_: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """One message, padded, ready to be sent to the kernel (port id 0)."""
    length = HEADER.size + len(payload)
    return HEADER.pack(length, type_, flags, sequence, 0) + payload + bytes(_aligned(length) - length)


def attribute(type_: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(length, type_) + value + bytes(_aligned(length) - length)


def nested(type_: int, *attributes: bytes) -> bytes:
    """One attribute that holds others."""
    return attribute(type_ | NLA_F_NESTED, b"".join(attributes))


def unpack_messages(data: bytes) -> Iterator[NetlinkMessage]:
    """The messages of one datagram.

    Raises WireError where a header is cut off, or a length lies beyond the datagram or below the header.
    """
    offset = 0
    while offset < len(data):
        if len(data) - offset < HEADER.size:
            raise WireError("nlmsghdr", offset, f"{len(data) - offset} bytes where a header needs {HEADER.size}")
        length, type_, flags, sequence, port = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            raise WireError("nlmsghdr", offset, f"length {length} outside {HEADER.size}..{len(data) - offset}")
        yield NetlinkMessage(type_, flags, sequence, port, data[offset + HEADER.size : offset + length])
        offset += _aligned(length)


def unpack_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The (type, value) pairs from `offset` to the end of `data`; flags are taken off the type.

    Raises WireError where an attribute is cut off, or its length lies beyond the data or below its header.
    """
    while offset < len(data):
        if len(data) - offset < ATTRIBUTE.size:
            raise WireError("nlattr", offset, f"{len(data) - offset} bytes where a header needs {ATTRIBUTE.size}")
        length, type_ = ATTRIBUTE.unpack_from(data, offset)
        if not ATTRIBUTE.size <= length <= len(data) - offset:
            raise WireError("nlattr", offset, f"length {length} outside {ATTRIBUTE.size}..{len(data) - offset}")
        yield type_ & NLA_TYPE_MASK, data[offset + ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
