"""What XFRM messages share: their numbers, addresses, selectors, lifetimes, marks (include/uapi/linux/xfrm.h)."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Self

from swanroam.errors import WireError
from swanroam.model.path import IPAddress
from swanroam.wire.netlink import unpack_attributes

__all__ = [
    "AF_INET",
    "AF_INET6",
    "INFINITE",
    "U8",
    "U32",
    "U64",
    "Attr",
    "Current",
    "Direction",
    "Group",
    "Layout",
    "Limits",
    "Mark",
    "Mode",
    "Msg",
    "StateFlag",
    "XfrmSelector",
    "family_of",
    "located_attributes",
    "pack_address",
    "padded_to_u64",
    "unpack_address",
    "unpack_scalar",
]

AF_INET: Final = 2
AF_INET6: Final = 10
INFINITE: Final = 0xFFFF_FFFF_FFFF_FFFF
"""XFRM_INF: a lifetime without a limit."""


class Msg(IntEnum):
    """Message types, XFRM_MSG_*."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    GETAE = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    MAPPING = 0x26


class Attr(IntEnum):
    """Attribute types, XFRMA_*."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    SEC_CTX = 8
    LTIME_VAL = 9
    REPLAY_VAL = 10
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    SRCADDR = 13
    COADDR = 14
    LASTUSED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    ALG_AEAD = 18
    KMADDRESS = 19
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    ADDRESS_FILTER = 26
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31
    MTIMER_THRESH = 32
    SA_DIR = 33
    NAT_KEEPALIVE_INTERVAL = 34
    SA_PCPU = 35


class Group(IntEnum):
    """Multicast groups, XFRMNLGRP_*. Members of SA see keys: do not join it."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8


class Direction(IntEnum):
    """Direction of a policy, XFRM_POLICY_*; socket policies have others."""

    IN = 0
    OUT = 1
    FWD = 2


class Mode(IntEnum):
    """Mode of a state or template, XFRM_MODE_*."""

    TRANSPORT = 0
    TUNNEL = 1
    ROUTEOPTIMIZATION = 2
    IN_TRIGGER = 3
    BEET = 4


class StateFlag(IntFlag):
    """Flags of a state, XFRM_STATE_*."""

    NOECN = 1
    DECAP_DSCP = 2
    NOPMTUDISC = 4
    WILDRECV = 8
    ICMP = 16
    AF_UNSPEC = 32
    ALIGN4 = 64
    ESN = 128


class Layout:
    """A C struct by the name it has in the header; `format_` is one of the struct module."""

    __slots__ = ("_struct", "name", "pack", "size")

    def __init__(self, name: str, format_: str) -> None:
        self.name = name
        self._struct = struct.Struct(format_)
        self.size = self._struct.size
        self.pack = self._struct.pack

    def unpack(self, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        """The members, from `offset`. Raises WireError where the data end before the struct does."""
        if not 0 <= offset <= len(data) - self.size:
            raise WireError(self.name, offset, f"{max(len(data) - offset, 0)} bytes where {self.size} are needed")
        return self._struct.unpack_from(data, offset)


U8: Final = Layout("__u8", "=B")
U32: Final = Layout("__u32", "=I")
U64: Final = Layout("__u64", "=Q")


def unpack_scalar(layout: Layout, name: str, data: bytes, offset: int) -> int:
    """An attribute that is one number. `offset` is where it is in the payload, for the error."""
    if len(data) < layout.size:
        raise WireError(name, offset, f"{len(data)} bytes where {layout.size} are needed")
    return int(layout.unpack(data)[0])


def padded_to_u64(size: int) -> int:
    """The size of a C struct of `size` bytes that has a __u64 member (aligned to 8 bytes, to 4 on i386)."""
    return struct.calcsize(f"@{size}B0Q")


def located_attributes(data: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """(type, offset of the value in `data`, value) of the attributes from `offset` to the end.

    Raises WireError as unpack_attributes does.
    """
    at = offset
    for type_, value in unpack_attributes(data, offset):
        yield type_, at + 4, value
        at += (len(value) + 7) & ~3


def family_of(address: IPAddress) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


def pack_address(address: IPAddress) -> bytes:
    """xfrm_address_t, 16 bytes."""
    return address.packed.ljust(16, b"\0")


def unpack_address(raw: bytes, family: int, what: str, offset: int, *, unspecified: bool = False) -> IPAddress:
    """The address in the 16 bytes of an xfrm_address_t.

    With `unspecified` family 0 is taken too, and gives all 16 bytes as an IPv6 address. Raises WireError for others.
    """
    if family == AF_INET:
        return IPv4Address(raw[:4])
    if family == AF_INET6 or (unspecified and family == 0):
        return IPv6Address(raw)
    raise WireError(what, offset, f"family {family} is neither AF_INET nor AF_INET6")


@dataclass(frozen=True, slots=True, kw_only=True)
class XfrmSelector:
    """Which packets a policy or state is for.

    struct xfrm_selector {
        xfrm_address_t daddr, saddr;                                                     16 bytes each
        __be16 dport, dport_mask, sport, sport_mask;
        __u16 family; __u8 prefixlen_d, prefixlen_s, proto; int ifindex; __kernel_uid32_t user;
    };                                                                                   56 bytes

    Addresses may have bits below the prefix. Of family 0 (any) the addresses are IPv6, and mostly `::`.
    """

    LAYOUT = Layout("xfrm_selector", "=16s16sHHHHHBBB3xiI")

    family: int
    destination: IPAddress
    source: IPAddress
    destination_length: int = 0
    source_length: int = 0
    destination_port: int = 0
    destination_port_mask: int = 0
    source_port: int = 0
    source_port_mask: int = 0
    protocol: int = 0
    interface: int = 0
    user: int = 0

    def covers(self, source: IPAddress, destination: IPAddress) -> bool:
        """Whether these addresses are in it, whatever protocol and ports are."""
        return _within(source, self.source, self.source_length) and _within(
            destination, self.destination, self.destination_length
        )

    def pack(self) -> bytes:
        """56 bytes."""
        return self.LAYOUT.pack(
            pack_address(self.destination),
            pack_address(self.source),
            socket.htons(self.destination_port),
            socket.htons(self.destination_port_mask),
            socket.htons(self.source_port),
            socket.htons(self.source_port_mask),
            self.family,
            self.destination_length,
            self.source_length,
            self.protocol,
            self.interface,
            self.user,
        )

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 56 bytes at `offset`. Raises WireError: short data, unknown family, prefix too long."""
        raw = cls.LAYOUT.unpack(data, offset)
        family, destination_length, source_length = raw[6:9]
        destination = unpack_address(raw[0], family, "xfrm_selector.family", offset + 40, unspecified=True)
        source = unpack_address(raw[1], family, "xfrm_selector.family", offset + 40, unspecified=True)
        longest = destination.max_prefixlen
        for name, at, length in (("prefixlen_d", 42, destination_length), ("prefixlen_s", 43, source_length)):
            if length > longest:
                raise WireError(f"xfrm_selector.{name}", offset + at, f"{length} is more than {longest}")
        return cls(
            family=family,
            destination=destination,
            source=source,
            destination_length=destination_length,
            source_length=source_length,
            destination_port=socket.ntohs(raw[2]),
            destination_port_mask=socket.ntohs(raw[3]),
            source_port=socket.ntohs(raw[4]),
            source_port_mask=socket.ntohs(raw[5]),
            protocol=raw[9],
            interface=raw[10],
            user=raw[11],
        )


def _within(address: IPAddress, network: IPAddress, length: int) -> bool:
    shift = network.max_prefixlen - length
    return address.version == network.version and int(address) >> shift == int(network) >> shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Configured lifetime; INFINITE (bytes, packets) and 0 (seconds) mean none.

    struct xfrm_lifetime_cfg { __u64 soft_byte_limit, hard_byte_limit, soft_packet_limit, hard_packet_limit,
        soft_add_expires_seconds, hard_add_expires_seconds, soft_use_expires_seconds, hard_use_expires_seconds; };
    """

    LAYOUT = Layout("xfrm_lifetime_cfg", "=8Q")

    soft_bytes: int = INFINITE
    hard_bytes: int = INFINITE
    soft_packets: int = INFINITE
    hard_packets: int = INFINITE
    soft_add_s: int = 0
    hard_add_s: int = 0
    soft_use_s: int = 0
    hard_use_s: int = 0

    def pack(self) -> bytes:
        """64 bytes."""
        return self.LAYOUT.pack(
            self.soft_bytes,
            self.hard_bytes,
            self.soft_packets,
            self.hard_packets,
            self.soft_add_s,
            self.hard_add_s,
            self.soft_use_s,
            self.hard_use_s,
        )

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 64 bytes at `offset`."""
        raw = cls.LAYOUT.unpack(data, offset)
        return cls(
            soft_bytes=raw[0],
            hard_bytes=raw[1],
            soft_packets=raw[2],
            hard_packets=raw[3],
            soft_add_s=raw[4],
            hard_add_s=raw[5],
            soft_use_s=raw[6],
            hard_use_s=raw[7],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """What was used of a lifetime; times are seconds since 1970, 0 for never.

    struct xfrm_lifetime_cur { __u64 bytes, packets, add_time, use_time; };
    """

    LAYOUT = Layout("xfrm_lifetime_cur", "=4Q")

    octets: int = 0
    packets: int = 0
    added_s: int = 0
    used_s: int = 0

    def pack(self) -> bytes:
        """32 bytes."""
        return self.LAYOUT.pack(self.octets, self.packets, self.added_s, self.used_s)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 32 bytes at `offset`."""
        raw = cls.LAYOUT.unpack(data, offset)
        return cls(octets=raw[0], packets=raw[1], added_s=raw[2], used_s=raw[3])


@dataclass(frozen=True, slots=True)
class Mark:
    """struct xfrm_mark { __u32 v; __u32 m; }: value and mask."""

    LAYOUT = Layout("xfrm_mark", "=II")

    value: int
    mask: int = 0xFFFFFFFF

    def pack(self) -> bytes:
        """8 bytes."""
        return self.LAYOUT.pack(self.value, self.mask)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 8 bytes at `offset`."""
        value, mask = cls.LAYOUT.unpack(data, offset)
        return cls(value, mask)
