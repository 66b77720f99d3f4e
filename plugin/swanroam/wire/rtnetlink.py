"""rtnetlink messages about links, addresses and routes to facts (include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h).

    struct ifinfomsg { __u8 family, pad; __u16 type; __s32 index; __u32 flags, change; };                    16 bytes
    struct ifaddrmsg { __u8 family, prefixlen, flags, scope; __u32 index; };                                  8 bytes
    struct rtmsg     { __u8 family, dst_len, src_len, tos, table, protocol, scope, type; __u32 flags; };     12 bytes
    struct rtnexthop { __u16 len; __u8 flags, hops; __s32 ifindex; };                                         8 bytes

Only what the address repository needs is read, and it is read on the path of every move: a general decoder of all
attributes takes ten times as long.
"""

import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from typing import Final

from swanroam.errors import WireError
from swanroam.model.path import IPAddress, IPNetwork
from swanroam.wire.netlink import NetlinkMessage, attribute, unpack_attributes

__all__ = [
    "RTM_DELADDR",
    "RTM_DELROUTE",
    "RTM_GETADDR",
    "RTM_GETLINK",
    "RTM_GETROUTE",
    "RTM_NEWADDR",
    "RTM_NEWROUTE",
    "TABLES",
    "AddressFact",
    "Change",
    "Fact",
    "Hop",
    "LinkFact",
    "RouteFact",
    "address_fact",
    "decode_change",
    "local_route",
    "local_routes_request",
    "loopback_address",
    "own_local_route",
    "own_loopback_address",
    "route_request",
]

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

GONE: Final = (RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE)

NLM_F_REPLACE: Final = 0x100

RT_TABLE_LOCAL: Final = 255
RTN_LOCAL: Final = 2
RTPROT_SWANROAM: Final = 115
"""Who installed a route, or an IPv6 address; of the numbers that nobody has registered (rtnetlink.h, if_addr.h)."""
LOOPBACK: Final = 1
"""The kernel gives the loopback interface of every network namespace this index."""

BEHIND: Final = 4096
"""Metric of an IPv6 route of ours in the local table; the kernel's own have 0."""

TABLES: Final = (254, 253)
"""RT_TABLE_MAIN and RT_TABLE_DEFAULT; strongSwan puts its routes into a table of its own (220)."""

IFINFOMSG: Final = struct.Struct("=BxHiII")
IFADDRMSG: Final = struct.Struct("=BBBBI")
RTMSG: Final = struct.Struct("=BBBBBBBBI")
RTNEXTHOP: Final = struct.Struct("=HBBi")
U32: Final = struct.Struct("=I")
CACHEINFO: Final = struct.Struct("=4I")
"""struct ifa_cacheinfo { __u32 ifa_prefered, ifa_valid, cstamp, tstamp; }: lifetimes in seconds."""
FOREVER_S: Final = 0xFFFFFFFF

IFLA_IFNAME: Final = 3
IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
IFF_LOWER_UP: Final = 0x10000
WORKING: Final = IFF_UP | IFF_RUNNING | IFF_LOWER_UP
"""Administratively up, operational (RFC 2863: neither down nor dormant), and with carrier."""

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_LABEL: Final = 3
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_HOST: Final = 254
IFA_CACHEINFO: Final = 6
IFA_FLAGS: Final = 8
IFA_PROTO: Final = 11
IFA_F_TEMPORARY: Final = 0x01
IFA_F_NODAD: Final = 0x02
IFA_F_DEPRECATED: Final = 0x20
IFA_F_NOPREFIXROUTE: Final = 0x200
UNUSABLE: Final = 0x08 | 0x40
"""IFA_F_DADFAILED, IFA_F_TENTATIVE."""
RT_SCOPE_LINK: Final = 253

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
RTA_VIA: Final = 18
RTN_UNICAST: Final = 1
REMEMBERED: Final = 256
"""Addresses and networks that are made once: a move tells of the same few again and again."""
RTM_F_CLONED: Final = 0x200


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFact:
    """An interface: whether packets can leave through it now."""

    index: int
    name: str
    up: bool
    """Administratively up; IPv4 routes of an interface that is not are gone."""
    working: bool
    """Up, operational and with carrier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressFact:
    """An address of an interface: whether packets may be sent from it to anywhere."""

    index: int
    address: IPAddress
    prefix_length: int
    usable: bool
    """Neither tentative, duplicate, deprecated nor of a scope too small; says nothing of the link."""
    temporary: bool = False
    """A privacy address (RFC 8981)."""
    deprecated: bool = False
    """Not usable for no other reason than that its preferred lifetime is over."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop of a route: interface index and gateway, which may be of the other address family (RFC 5549)."""

    index: int
    gateway: IPAddress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFact:
    """A unicast route of one of TABLES, with all its next hops."""

    table: int
    destination: IPNetwork
    tos: int
    metric: int
    preferred_source: IPAddress | None
    hops: tuple[Hop, ...]

    @property
    def key(self) -> tuple[int, IPNetwork, int, int]:
        """What the kernel replaces a route by: table, destination, type of service, priority."""
        return self.table, self.destination, self.tos, self.metric


Fact = LinkFact | AddressFact | RouteFact


@dataclass(frozen=True, slots=True)
class Change:
    """What a message says: `fact` holds now, or no longer; `replaces`: instead of another route with its key."""

    fact: Fact
    gone: bool = False
    replaces: bool = False


def decode_change(message: NetlinkMessage) -> Change | None:
    """The change that a message is about, None when it does not concern the repository. Raises WireError."""
    decode = _DECODERS.get(message.type)
    fact = decode(message.payload) if decode else None
    if fact is None:
        return None
    return Change(fact, message.type in GONE, bool(message.flags & NLM_F_REPLACE))


def address_fact(
    *, index: int, address: IPAddress, prefix_length: int, flags: int, scope: int, preferred_s: int
) -> AddressFact:
    """The fact about an address with these IFA_F flags, RT_SCOPE scope and preferred lifetime."""
    works = not flags & UNUSABLE and scope < RT_SCOPE_LINK and not _special(address)
    preferred = preferred_s > 0 and not flags & IFA_F_DEPRECATED
    # The flag has another meaning for IPv4: IFA_F_SECONDARY.
    temporary = address.version == 6 and bool(flags & IFA_F_TEMPORARY)
    return AddressFact(
        index=index,
        address=address,
        prefix_length=prefix_length,
        usable=works and preferred,
        temporary=temporary,
        deprecated=works and not preferred,
    )


@lru_cache(REMEMBERED)
def _special(address: IPAddress) -> bool:
    return address.is_link_local or address.is_loopback or address.is_multicast or address.is_unspecified


def route_request(family: int, table: int) -> bytes:
    """The payload of RTM_GETROUTE that asks for one family and, where the kernel checks strictly, one table."""
    return RTMSG.pack(family, 0, 0, 0, table, 0, 0, 0, 0)


def _header(struct_: struct.Struct, what: str, payload: bytes) -> tuple[int, ...]:
    if len(payload) < struct_.size:
        raise WireError(what, 0, f"{len(payload)} bytes where {struct_.size} are needed")
    return struct_.unpack_from(payload)


def _link(payload: bytes) -> LinkFact | None:
    family, _type, index, flags, _change = _header(IFINFOMSG, "ifinfomsg", payload)
    if family != 0:
        return None  # a bridge tells of its ports in this way (AF_BRIDGE): a port that leaves is no interface that goes
    # The name comes first, and some forty attributes that are not needed follow.
    raw = next((value for type_, value in unpack_attributes(payload, IFINFOMSG.size) if type_ == IFLA_IFNAME), b"")
    name = raw.rstrip(b"\0").decode(errors="surrogateescape")
    if not name:
        raise WireError("ifinfomsg", IFINFOMSG.size, "no interface name")
    return LinkFact(
        index=index,
        name=name,
        up=bool(flags & IFF_UP),
        working=flags & WORKING == WORKING,
    )


def _address(payload: bytes) -> AddressFact | None:
    family, prefix_length, flags, scope, index = _header(IFADDRMSG, "ifaddrmsg", payload)
    if family not in (AF_INET, AF_INET6):
        return None
    attributes = dict(unpack_attributes(payload, IFADDRMSG.size))
    # On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL this one.
    raw = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
    if raw is None:
        raise WireError("ifaddrmsg", IFADDRMSG.size, "no address")
    address = _ip(family, raw, "ifaddrmsg")
    if prefix_length > address.max_prefixlen:
        raise WireError("ifaddrmsg", 1, f"prefix length {prefix_length} of an IPv{address.version} address")
    if IFA_FLAGS in attributes:
        flags = _u32(attributes[IFA_FLAGS], "IFA_FLAGS")
    preferred_s = _u32(attributes[IFA_CACHEINFO], "ifa_cacheinfo") if IFA_CACHEINFO in attributes else 1
    return address_fact(
        index=index, address=address, prefix_length=prefix_length, flags=flags, scope=scope, preferred_s=preferred_s
    )


def _route(payload: bytes) -> RouteFact | None:
    family, length, _src_len, tos, table, _protocol, _scope, type_, flags = _header(RTMSG, "rtmsg", payload)
    if family not in (AF_INET, AF_INET6) or type_ != RTN_UNICAST or flags & RTM_F_CLONED or table not in TABLES:
        return None
    attributes = dict(unpack_attributes(payload, RTMSG.size))
    if RTA_TABLE in attributes and _u32(attributes[RTA_TABLE], "RTA_TABLE") not in TABLES:
        return None
    source = attributes.get(RTA_PREFSRC)
    return RouteFact(
        table=table,
        destination=_network(family, attributes.get(RTA_DST), length),
        tos=tos,
        metric=_u32(attributes[RTA_PRIORITY], "RTA_PRIORITY") if RTA_PRIORITY in attributes else 0,
        preferred_source=None if source is None else _ip(family, source, "RTA_PREFSRC"),
        hops=tuple(_hops(family, attributes)),
    )


@lru_cache(REMEMBERED)
def _network(family: int, raw: bytes | None, length: int) -> IPNetwork:
    bits = 32 if family == AF_INET else 128
    if length > bits:
        raise WireError("rtmsg", 1, f"prefix length {length} of {bits} bits")
    value = 0 if raw is None else int(_ip(family, raw, "RTA_DST"))
    value = value >> (bits - length) << (bits - length)
    return IPv4Network((value, length)) if family == AF_INET else IPv6Network((value, length))


def _hops(family: int, attributes: dict[int, bytes]) -> Iterator[Hop]:
    if RTA_OIF in attributes:
        yield Hop(_u32(attributes[RTA_OIF], "RTA_OIF"), _gateway(family, attributes))
    data, offset = attributes.get(RTA_MULTIPATH, b""), 0
    while offset < len(data):
        if len(data) - offset < RTNEXTHOP.size:
            raise WireError("rtnexthop", offset, f"{len(data) - offset} bytes where {RTNEXTHOP.size} are needed")
        length, _flags, _hops, index = RTNEXTHOP.unpack_from(data, offset)
        if not RTNEXTHOP.size <= length <= len(data) - offset:
            raise WireError("rtnexthop", offset, f"length {length} outside {RTNEXTHOP.size}..{len(data) - offset}")
        own = dict(unpack_attributes(data[offset : offset + length], RTNEXTHOP.size))
        yield Hop(index, _gateway(family, own))
        offset += (length + 3) & ~3


def _gateway(family: int, attributes: dict[int, bytes]) -> IPAddress | None:
    if RTA_GATEWAY in attributes:
        return _ip(family, attributes[RTA_GATEWAY], "RTA_GATEWAY")
    via = attributes.get(RTA_VIA)
    if via is None:
        return None
    if len(via) < 2:
        raise WireError("RTA_VIA", 0, f"{len(via)} bytes where an address family needs 2")
    return _ip(int.from_bytes(via[:2], sys.byteorder), via[2:], "RTA_VIA")


@lru_cache(REMEMBERED)
def _ip(family: int, raw: bytes, what: str) -> IPAddress:
    if family == AF_INET and len(raw) == 4:
        return IPv4Address(raw)
    if family == AF_INET6 and len(raw) == 16:
        return IPv6Address(raw)
    raise WireError(what, 0, f"{len(raw)} bytes are no address of family {family}")


def _u32(raw: bytes, what: str) -> int:
    if len(raw) < U32.size:
        raise WireError(what, 0, f"{len(raw)} bytes where a number needs {U32.size}")
    return int(U32.unpack_from(raw)[0])


_DECODERS: Final[dict[int, Callable[[bytes], Fact | None]]] = {
    RTM_NEWLINK: _link,
    RTM_DELLINK: _link,
    RTM_NEWADDR: _address,
    RTM_DELADDR: _address,
    RTM_NEWROUTE: _route,
    RTM_DELROUTE: _route,
}


def loopback_address(address: IPAddress, label: str) -> bytes:
    """The payload of a request about an address of this host alone on the loopback interface, known again as ours.

    An IPv4 address has the label. IPv6 has no labels, but tells who installed an address (Linux 5.18); it is there at
    once, brings no route but that of the local table, and is deprecated, so that no program chooses it as a source.
    """
    own = attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    if address.version == 4:
        head = IFADDRMSG.pack(AF_INET, address.max_prefixlen, 0, RT_SCOPE_HOST, LOOPBACK)
        return head + own + attribute(IFA_LABEL, label.encode() + b"\0")
    return (
        IFADDRMSG.pack(AF_INET6, address.max_prefixlen, 0, RT_SCOPE_UNIVERSE, LOOPBACK)
        + own
        + attribute(IFA_FLAGS, U32.pack(IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
        + attribute(IFA_CACHEINFO, CACHEINFO.pack(0, FOREVER_S, 0, 0))
        + attribute(IFA_PROTO, bytes([RTPROT_SWANROAM]))
    )


def local_route(address: IPAddress) -> bytes:
    """The payload of a request about the route that has packets for an address delivered here, as ours.

    It is behind the kernel's own route of the same kind, which goes with the address: of IPv4 routes with one metric
    the first counts, of those of IPv6 the metric has to tell them apart.
    """
    family = AF_INET if address.version == 4 else AF_INET6
    length = address.max_prefixlen
    head = RTMSG.pack(family, length, 0, 0, RT_TABLE_LOCAL, RTPROT_SWANROAM, RT_SCOPE_HOST, RTN_LOCAL, 0)
    metric = attribute(RTA_PRIORITY, U32.pack(BEHIND)) if address.version == 6 else b""
    return head + attribute(RTA_DST, address.packed) + attribute(RTA_OIF, U32.pack(LOOPBACK)) + metric


def local_routes_request(version: int) -> bytes:
    """The payload of RTM_GETROUTE that asks for the local table of IP version 4 or 6."""
    return route_request(AF_INET if version == 4 else AF_INET6, RT_TABLE_LOCAL)


def own_local_route(message: NetlinkMessage) -> IPAddress | None:
    """The address of a route message that `local_route` made."""
    if message.type != RTM_NEWROUTE or len(message.payload) < RTMSG.size:
        return None
    family, _length, _source, _tos, table, protocol, *_ = RTMSG.unpack_from(message.payload)
    target = dict(unpack_attributes(message.payload, RTMSG.size)).get(RTA_DST, b"")
    if (table, protocol) != (RT_TABLE_LOCAL, RTPROT_SWANROAM):
        return None
    return _ip(family, target, "RTA_DST") if (family, len(target)) in ((AF_INET, 4), (AF_INET6, 16)) else None


def own_loopback_address(message: NetlinkMessage, label: str) -> IPAddress | None:
    """The address of an address message that `loopback_address` made with this label."""
    if message.type != RTM_NEWADDR or len(message.payload) < IFADDRMSG.size:
        return None
    family, _length, _flags, _scope, index = IFADDRMSG.unpack_from(message.payload)
    values = dict(unpack_attributes(message.payload, IFADDRMSG.size))
    labelled = family == AF_INET and values.get(IFA_LABEL) == label.encode() + b"\0"
    installed = family == AF_INET6 and values.get(IFA_PROTO) == bytes([RTPROT_SWANROAM])
    if index != LOOPBACK or not (labelled or installed):
        return None
    # The kernel tells IFA_LOCAL of an IPv6 address only where there is another end.
    return _ip(family, values.get(IFA_LOCAL) or values.get(IFA_ADDRESS, b""), "ifaddrmsg")
