"""States (security associations): XFRM_MSG_NEWSA, UPDSA, GETSA, DELSA, dumps.

The kernel answers GETSA and a dump with messages of type NEWSA.
"""

import socket
from dataclasses import dataclass, field
from typing import Any, Final, Self

from swanroam.errors import WireError
from swanroam.model.path import IPAddress
from swanroam.wire.netlink import attribute
from swanroam.wire.xfrm.algorithms import Algorithm
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.structs import (
    U8,
    U32,
    U64,
    Attr,
    Current,
    Layout,
    Limits,
    Mark,
    Mode,
    StateFlag,
    XfrmSelector,
    family_of,
    located_attributes,
    pack_address,
    padded_to_u64,
    unpack_address,
    unpack_scalar,
)

__all__ = [
    "ESP",
    "UDP_ENCAP_ESPINUDP",
    "USERSA_INFO_SIZE",
    "Encap",
    "Offload",
    "SaHead",
    "SaId",
    "SaState",
    "dump_states_request",
]

ESP: Final = 50
UDP_ENCAP_ESPINUDP: Final = 2

_ID: Final = Layout("xfrm_id", "=16sIB3x")
_FILTER: Final = Layout("xfrm_address_filter", "=16s16sHBB")
_STATS: Final = Layout("xfrm_stats", "=III")
_REST: Final = Layout("xfrm_usersa_info", "=IIHBBB")
_REST_AT: Final = 204
USERSA_INFO_SIZE: Final = padded_to_u64(_REST_AT + _REST.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encap:
    """ESP in UDP (RFC 3948), ports in host order; original address is for transport mode.

    struct xfrm_encap_tmpl { __u16 encap_type; __be16 encap_sport, encap_dport; xfrm_address_t encap_oa; };
    """

    LAYOUT = Layout("xfrm_encap_tmpl", "=HHH2x16s")

    type: int = UDP_ENCAP_ESPINUDP
    source_port: int = 4500
    destination_port: int = 4500
    original: bytes = bytes(16)
    """An xfrm_address_t, of a family that the struct does not tell."""

    def pack(self) -> bytes:
        """24 bytes."""
        return self.LAYOUT.pack(
            self.type, socket.htons(self.source_port), socket.htons(self.destination_port), self.original
        )

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 24 bytes at `offset`."""
        type_, source, destination, original = cls.LAYOUT.unpack(data, offset)
        return cls(
            type=type_,
            source_port=socket.ntohs(source),
            destination_port=socket.ntohs(destination),
            original=original,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Hardware offload.

    struct xfrm_user_offload { int ifindex; __u8 flags; };
    """

    LAYOUT = Layout("xfrm_user_offload", "=iB3x")

    interface: int
    flags: int = 0

    def pack(self) -> bytes:
        """8 bytes."""
        return self.LAYOUT.pack(self.interface, self.flags)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 8 bytes at `offset`."""
        interface, flags = cls.LAYOUT.unpack(data, offset)
        return cls(interface=interface, flags=flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaId:
    """What names a state to the kernel: GETSA and DELSA.

    struct xfrm_usersa_id { xfrm_address_t daddr; __be32 spi; __u16 family; __u8 proto; };                    24 bytes
    """

    LAYOUT = Layout("xfrm_usersa_id", "=16sIHBx")

    destination: IPAddress
    spi: int
    """Host order."""
    protocol: int = ESP
    mark: Mark | None = None

    def pack(self) -> bytes:
        """The struct alone, 24 bytes."""
        return self.LAYOUT.pack(
            pack_address(self.destination), socket.htonl(self.spi), family_of(self.destination), self.protocol
        )

    def request(self) -> bytes:
        """The payload of GETSA and DELSA."""
        return self.pack() + (attribute(Attr.MARK, self.mark.pack()) if self.mark else b"")

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 24 bytes at `offset`; the mark is an attribute of the message and not known here."""
        raw, spi, family, protocol = cls.LAYOUT.unpack(data, offset)
        destination = unpack_address(raw, family, "xfrm_usersa_id.family", offset + 20)
        return cls(destination=destination, spi=socket.ntohl(spi), protocol=protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaHead:
    """Where a state is, of a message that has its keys too: these are not looked at."""

    source: IPAddress
    destination: IPAddress
    spi: int
    protocol: int
    mode: int
    reqid: int
    encap: Encap | None = None
    mark: Mark | None = None
    if_id: int = 0
    larval: bool = False
    """Whether it has no algorithm: an SPI that is taken, or a packet that found no state and waits for one."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload of a NEWSA message."""
        destination, spi, protocol, source, raw = _where(data)
        encap, mark, if_id, larval = None, None, 0, True
        for type_, at, value in located_attributes(data, USERSA_INFO_SIZE):
            larval = larval and type_ not in _ALGORITHMS
            if type_ == Attr.ENCAP:
                encap = Encap.unpack(data[: at + len(value)], at)
            elif type_ == Attr.MARK:
                mark = Mark.unpack(data[: at + len(value)], at)
            elif type_ == Attr.IF_ID:
                if_id = unpack_scalar(U32, "XFRMA_IF_ID", value, at)
        return cls(
            source=source,
            destination=destination,
            spi=spi,
            protocol=protocol,
            mode=raw[3],
            reqid=raw[1],
            encap=encap,
            mark=mark,
            if_id=if_id,
            larval=larval,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SaState:
    """A state with its keys, counters and sequence numbers; SPI in host order.

    struct xfrm_usersa_info {
        struct xfrm_selector sel; struct xfrm_id id; xfrm_address_t saddr; struct xfrm_lifetime_cfg lft;
        struct xfrm_lifetime_cur curlft; struct xfrm_stats stats; __u32 seq, reqid; __u16 family;
        __u8 mode, replay_window, flags;
    };                                                                                 224 bytes, then attributes
    struct xfrm_id    { xfrm_address_t daddr; __be32 spi; __u8 proto; };
    struct xfrm_stats { __u32 replay_window, replay, integrity_failed; };
    """

    source: IPAddress
    destination: IPAddress
    spi: int
    selector: XfrmSelector
    protocol: int = ESP
    mode: int = Mode.TUNNEL
    reqid: int = 0
    flags: int = 0
    replay_window: int = 0
    """Packets; 0 for those that have `esn_replay` with a window of its own."""
    limits: Limits = field(default_factory=Limits)
    current: Current = field(default_factory=Current)
    dropped_late: int = 0
    dropped_replayed: int = 0
    dropped_integrity: int = 0
    key_manager_sequence: int = 0

    auth: Algorithm | None = None
    crypt: Algorithm | None = None
    aead: Algorithm | None = None
    comp: Algorithm | None = None
    encap: Encap | None = None
    mark: Mark | None = None
    output_mark: Mark | None = None
    """XFRMA_SET_MARK and its mask: what packets are marked with."""
    if_id: int = 0
    replay: Replay | None = None
    esn_replay: EsnReplay | None = None
    replay_threshold: int | None = None
    timer_threshold: int | None = None
    """In units of 100 ms."""
    mapping_threshold_s: int | None = None
    extra_flags: int = 0
    tfc_padding: int = 0
    source_address: IPAddress | None = None
    """XFRMA_SRCADDR."""
    care_of: IPAddress | None = None
    last_used_s: int | None = None
    offload: Offload | None = None
    direction: int | None = None
    """XFRMA_SA_DIR: 1 inbound, 2 outbound."""
    cpu: int | None = None
    others: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)
    """Attributes that are not understood, as (type, value): kept for a state that is installed again."""

    @property
    def esn(self) -> bool:
        """Whether sequence numbers have 64 bits (RFC 4303 section 2.2.1)."""
        return bool(self.flags & StateFlag.ESN)

    @property
    def id(self) -> SaId:
        """What names this state to the kernel."""
        return SaId(destination=self.destination, spi=self.spi, protocol=self.protocol, mark=self.mark)

    @property
    def sent(self) -> int:
        """The last sequence number sent, 64 bits with ESN."""
        return (self.esn_replay or self.replay or Replay()).sent

    @property
    def received(self) -> int:
        """The highest sequence number received, 64 bits with ESN."""
        return (self.esn_replay or self.replay or Replay()).received

    @property
    def window(self) -> int:
        """Packets in the replay window."""
        return self.esn_replay.window if self.esn_replay else self.replay_window

    def pack_info(self) -> bytes:
        """Struct xfrm_usersa_info, 224 bytes."""
        info = (
            self.selector.pack()
            + _ID.pack(pack_address(self.destination), socket.htonl(self.spi), self.protocol)
            + pack_address(self.source)
            + self.limits.pack()
            + self.current.pack()
            + _STATS.pack(self.dropped_late, self.dropped_replayed, self.dropped_integrity)
            + _REST.pack(
                self.key_manager_sequence,
                self.reqid,
                family_of(self.destination),
                self.mode,
                self.replay_window,
                self.flags,
            )
        )
        return info.ljust(USERSA_INFO_SIZE, b"\0")

    def pack(self) -> bytes:
        """The payload of NEWSA and UPDSA."""
        parts = [self.pack_info()]
        for type_, (name, with_icv) in _ALGORITHMS.items():
            algorithm = getattr(self, name)
            if algorithm and (name != "auth" or with_icv == (algorithm.icv_bits != 0)):
                parts.append(attribute(type_, algorithm.pack(with_icv=with_icv)))
        for type_, (name, _kind) in _STRUCTS.items():
            if (value := getattr(self, name)) is not None:
                parts.append(attribute(type_, value.pack()))
        for type_, (name, layout, default) in _NUMBERS.items():
            if (number := getattr(self, name)) != default:
                parts.append(attribute(type_, layout.pack(number)))
        if self.output_mark:
            parts.append(attribute(Attr.SET_MARK, U32.pack(self.output_mark.value)))
            parts.append(attribute(Attr.SET_MARK_MASK, U32.pack(self.output_mark.mask)))
        for type_, name in _ADDRESSES.items():
            if (address := getattr(self, name)) is not None:
                parts.append(attribute(type_, pack_address(address)))
        parts += [attribute(type_, value) for type_, value in self.others]
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0, *, attributes: bool = True) -> Self:
        """From `offset` in the payload of a NEWSA or UPDSA message; without `attributes` the struct alone.

        Raises WireError with the name of the struct or attribute. Attributes longer than their type are not refused.
        """
        destination, spi, protocol, source, raw = _where(data, offset)
        late, replayed, integrity = _STATS.unpack(data, offset + 192)
        return cls(
            source=source,
            destination=destination,
            spi=spi,
            protocol=protocol,
            selector=XfrmSelector.unpack(data, offset),
            limits=Limits.unpack(data, offset + 96),
            current=Current.unpack(data, offset + 160),
            dropped_late=late,
            dropped_replayed=replayed,
            dropped_integrity=integrity,
            key_manager_sequence=raw[0],
            reqid=raw[1],
            mode=raw[3],
            replay_window=raw[4],
            flags=raw[5],
            **(_unpack_attributes(data, offset + USERSA_INFO_SIZE, family_of(destination)) if attributes else {}),
        )


_ALGORITHMS: Final[dict[int, tuple[str, bool]]] = {
    # The kernel tells of an integrity algorithm twice, the second time with its length.
    Attr.ALG_AUTH: ("auth", False),
    Attr.ALG_AUTH_TRUNC: ("auth", True),
    Attr.ALG_CRYPT: ("crypt", False),
    Attr.ALG_AEAD: ("aead", True),
    Attr.ALG_COMP: ("comp", False),
}

_STRUCTS: Final[dict[int, tuple[str, type[Encap | Mark | Replay | EsnReplay | Offload]]]] = {
    Attr.ENCAP: ("encap", Encap),
    Attr.MARK: ("mark", Mark),
    Attr.REPLAY_VAL: ("replay", Replay),
    Attr.REPLAY_ESN_VAL: ("esn_replay", EsnReplay),
    Attr.OFFLOAD_DEV: ("offload", Offload),
}

_NUMBERS: Final[dict[int, tuple[str, Layout, int | None]]] = {
    Attr.IF_ID: ("if_id", U32, 0),
    Attr.SA_EXTRA_FLAGS: ("extra_flags", U32, 0),
    Attr.TFCPAD: ("tfc_padding", U32, 0),
    Attr.REPLAY_THRESH: ("replay_threshold", U32, None),
    Attr.ETIMER_THRESH: ("timer_threshold", U32, None),
    Attr.MTIMER_THRESH: ("mapping_threshold_s", U32, None),
    Attr.LASTUSED: ("last_used_s", U64, None),
    Attr.SA_DIR: ("direction", U8, None),
    Attr.SA_PCPU: ("cpu", U32, None),
}

_ADDRESSES: Final[dict[int, str]] = {Attr.SRCADDR: "source_address", Attr.COADDR: "care_of"}


def _unpack_attributes(data: bytes, offset: int, family: int) -> dict[str, Any]:
    known: dict[str, Any] = {}
    others: list[tuple[int, bytes]] = []
    mark: dict[int, int] = {}
    for type_, at, value in located_attributes(data, offset):
        if type_ in _ALGORITHMS:
            name, with_icv = _ALGORITHMS[type_]
            algorithm = Algorithm.unpack(f"XFRMA_{Attr(type_).name}", value, at, with_icv=with_icv)
            if with_icv or name not in known:
                known[name] = algorithm
        elif type_ in _STRUCTS:
            name, kind = _STRUCTS[type_]
            known[name] = kind.unpack(data[: at + len(value)], at)
        elif type_ in _NUMBERS:
            name, layout, _default = _NUMBERS[type_]
            known[name] = unpack_scalar(layout, f"XFRMA_{Attr(type_).name}", value, at)
        elif type_ in (Attr.SET_MARK, Attr.SET_MARK_MASK):
            mark[type_] = unpack_scalar(U32, f"XFRMA_{Attr(type_).name}", value, at)
        elif type_ in _ADDRESSES:
            if len(value) < 16:
                raise WireError(f"XFRMA_{Attr(type_).name}", at, f"{len(value)} bytes where 16 are needed")
            known[_ADDRESSES[type_]] = unpack_address(value[:16], family, "xfrm_usersa_info.family", at)
        elif type_ != Attr.PAD:
            others.append((type_, value))
    if mark:
        # A kernel before 4.19 knows no mask and marks the packet with the value as it is.
        known["output_mark"] = Mark(mark.get(Attr.SET_MARK, 0), mark.get(Attr.SET_MARK_MASK, 0xFFFFFFFF))
    known["others"] = tuple(others)
    return known


def _where(data: bytes, offset: int = 0) -> tuple[IPAddress, int, int, IPAddress, tuple[Any, ...]]:
    if len(data) - offset < USERSA_INFO_SIZE:
        there = max(len(data) - offset, 0)
        raise WireError("xfrm_usersa_info", offset, f"{there} bytes where {USERSA_INFO_SIZE} are needed")
    raw = _REST.unpack(data, offset + _REST_AT)
    raw_destination, spi, protocol = _ID.unpack(data, offset + 56)
    at = offset + _REST_AT + 8
    destination = unpack_address(raw_destination, raw[2], "xfrm_usersa_info.family", at)
    source = unpack_address(data[offset + 80 : offset + 96], raw[2], "xfrm_usersa_info.family", at)
    return destination, socket.ntohl(spi), protocol, source, raw


def dump_states_request(
    protocol: int = ESP, source: IPAddress | None = None, destination: IPAddress | None = None
) -> bytes:
    """The payload of a GETSA dump: states of `protocol`, from `source` to `destination` where these are given.

    struct xfrm_address_filter { xfrm_address_t saddr, daddr; __u16 family; __u8 splen, dplen; };    36 bytes
    """
    request = attribute(Attr.PROTO, U8.pack(protocol))
    some = source or destination
    if some is None:
        return request
    raw = _FILTER.pack(
        pack_address(source) if source else bytes(16),
        pack_address(destination) if destination else bytes(16),
        family_of(some),
        source.max_prefixlen if source else 0,
        destination.max_prefixlen if destination else 0,
    )
    return request + attribute(Attr.ADDRESS_FILTER, raw)
