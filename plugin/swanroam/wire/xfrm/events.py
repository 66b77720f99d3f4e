"""Events: what the kernel multicasts to the groups of NETLINK_XFRM, decoded by `decode_event`."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

from swanroam.model.path import IPAddress
from swanroam.wire.netlink import NetlinkMessage
from swanroam.wire.xfrm.aevents import AeState
from swanroam.wire.xfrm.migrate import Migrate
from swanroam.wire.xfrm.policies import USERPOLICY_INFO_SIZE, Policy, PolicyId, PolicyType
from swanroam.wire.xfrm.states import USERSA_INFO_SIZE, SaId, SaState
from swanroam.wire.xfrm.structs import (
    Attr,
    Layout,
    Mark,
    Msg,
    XfrmSelector,
    family_of,
    located_attributes,
    padded_to_u64,
    unpack_address,
)

__all__ = [
    "Acquire",
    "Mapping",
    "Migrated",
    "PoliciesFlushed",
    "PolicyDeleted",
    "PolicyExpired",
    "PolicySet",
    "SequenceReported",
    "StateDeleted",
    "StateExpired",
    "StateSet",
    "StatesFlushed",
    "XfrmEvent",
    "decode_event",
]

_ID: Final = Layout("xfrm_id", "=16sIB3x")
_ACQUIRE_TAIL: Final = Layout("xfrm_user_acquire", "=IIII")
_MAPPING: Final = Layout("xfrm_user_mapping", "=24sI16s16sHH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquire:
    """A packet needs a state that is not there.

    struct xfrm_user_acquire {
        struct xfrm_id id; xfrm_address_t saddr; struct xfrm_selector sel; struct xfrm_userpolicy_info policy;
        __u32 aalgos, ealgos, calgos, seq;
    };                                                                                      280 bytes, then attributes
    """

    source: IPAddress
    destination: IPAddress
    protocol: int
    spi: int
    """That the policy names; 0 where it names none."""
    selector: XfrmSelector
    """Of the packet."""
    policy: Policy
    sequence: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload. Attributes are those of the policy, and are read as such."""
        raw, spi, protocol = _ID.unpack(data)
        selector = XfrmSelector.unpack(data, 40)
        attributes = padded_to_u64(96 + USERPOLICY_INFO_SIZE + _ACQUIRE_TAIL.size)
        policy = Policy.unpack(data, 96, attributes_at=attributes)
        sequence = _ACQUIRE_TAIL.unpack(data, 96 + USERPOLICY_INFO_SIZE)[3]
        # The struct has no family of its own: the outer addresses are of that of the templates, or of the packet.
        family = selector.family
        if policy.templates:
            family = policy.templates[0].family or family
        return cls(
            source=unpack_address(data[24:40], family, "xfrm_user_acquire.sel.family", 80, unspecified=True),
            destination=unpack_address(raw, family, "xfrm_user_acquire.sel.family", 80, unspecified=True),
            protocol=protocol,
            spi=socket.ntohl(spi),
            selector=selector,
            policy=policy,
            sequence=sequence,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateExpired:
    """A lifetime of a state ended.

    struct xfrm_user_expire { struct xfrm_usersa_info state; __u8 hard; };
    """

    state: SaState
    """Without algorithms and sequence numbers."""
    hard: bool
    """The kernel has deleted it."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload."""
        state = SaState.unpack(data, attributes=False)
        (hard,) = Layout("xfrm_user_expire.hard", "=B").unpack(data, USERSA_INFO_SIZE)
        return cls(state=state, hard=hard != 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyExpired:
    """A lifetime of a policy ended.

    struct xfrm_user_polexpire { struct xfrm_userpolicy_info pol; __u8 hard; };
    """

    policy: Policy
    hard: bool
    """The kernel has deleted it."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload."""
        policy = Policy.unpack(data, attributes=False)
        (hard,) = Layout("xfrm_user_polexpire.hard", "=B").unpack(data, USERPOLICY_INFO_SIZE)
        return cls(policy=policy, hard=hard != 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """Authentic ESP in UDP came from a new source; the kernel went on with the old one.

    struct xfrm_user_mapping {
        struct xfrm_usersa_id id; __u32 reqid; xfrm_address_t old_saddr, new_saddr; __be16 old_sport, new_sport;
    };                                                                                                64 bytes
    """

    id: SaId
    reqid: int
    old_source: IPAddress
    old_port: int
    new_source: IPAddress
    new_port: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload."""
        _id, reqid, old, new, old_port, new_port = _MAPPING.unpack(data)
        named = SaId.unpack(data)
        family, what = family_of(named.destination), "xfrm_usersa_id.family"
        return cls(
            id=named,
            reqid=reqid,
            old_source=unpack_address(old, family, what, 20),
            old_port=socket.ntohs(old_port),
            new_source=unpack_address(new, family, what, 20),
            new_port=socket.ntohs(new_port),
        )


@dataclass(frozen=True, slots=True)
class Migrated:
    """Templates of a policy, and perhaps states, have new addresses; nobody tells whether states had been found."""

    migrate: Migrate


@dataclass(frozen=True, slots=True)
class StateSet:
    """A state was added or updated. Members of the group SA get its keys too."""

    state: SaState


@dataclass(frozen=True, slots=True)
class StateDeleted:
    """A state was deleted, by request."""

    id: SaId

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload: struct xfrm_usersa_id, then XFRMA_SA (which is not read) and XFRMA_MARK."""
        named = SaId.unpack(data)
        mark = None
        for type_, at, value in located_attributes(data, SaId.LAYOUT.size):
            if type_ == Attr.MARK:
                mark = Mark.unpack(data[: at + len(value)], at)
        return cls(SaId(destination=named.destination, spi=named.spi, protocol=named.protocol, mark=mark))


@dataclass(frozen=True, slots=True)
class StatesFlushed:
    """All states of a protocol were deleted.

    struct xfrm_usersa_flush { __u8 proto; };
    """

    protocol: int


@dataclass(frozen=True, slots=True)
class SequenceReported:
    """Sequence numbers or counters of a state were set, or passed a threshold."""

    report: AeState


@dataclass(frozen=True, slots=True)
class PolicySet:
    """A policy was added, or replaced another of the same selector, mark and interface id."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class PolicyDeleted:
    """A policy was deleted, by request."""

    policy: Policy
    """Its struct, type, mark and interface id."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload: struct xfrm_userpolicy_id, then XFRMA_POLICY."""
        named = PolicyId.unpack(data)
        policy = Policy(selector=named.selector, direction=named.direction, index=named.index)
        for type_, at, value in located_attributes(data, PolicyId.LAYOUT.size):
            if type_ == Attr.POLICY:
                policy = Policy.unpack(data[: at + len(value)], at, attributes=False)
        return cls(replace(policy, type=named.type, mark=named.mark, if_id=named.if_id))


@dataclass(frozen=True, slots=True)
class PoliciesFlushed:
    """All policies of a type were deleted."""

    type: int

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload: attributes only."""
        for type_, at, value in located_attributes(data, 0):
            if type_ == Attr.POLICY_TYPE:
                return cls(PolicyType.unpack(data[: at + len(value)], at).value)
        return cls(0)


XfrmEvent = (
    Acquire
    | Mapping
    | Migrated
    | PoliciesFlushed
    | PolicyDeleted
    | PolicyExpired
    | PolicySet
    | SequenceReported
    | StateDeleted
    | StateExpired
    | StateSet
    | StatesFlushed
)

_FLUSH: Final = Layout("xfrm_usersa_flush", "=B")

_DECODERS: Final[dict[int, Callable[[bytes], XfrmEvent]]] = {
    Msg.ACQUIRE: Acquire.unpack,
    Msg.DELPOLICY: PolicyDeleted.unpack,
    Msg.DELSA: StateDeleted.unpack,
    Msg.EXPIRE: StateExpired.unpack,
    Msg.FLUSHPOLICY: PoliciesFlushed.unpack,
    Msg.FLUSHSA: lambda data: StatesFlushed(_FLUSH.unpack(data)[0]),
    Msg.MAPPING: Mapping.unpack,
    Msg.MIGRATE: lambda data: Migrated(Migrate.unpack(data)),
    Msg.NEWAE: lambda data: SequenceReported(AeState.unpack(data)),
    Msg.NEWPOLICY: lambda data: PolicySet(Policy.unpack(data)),
    Msg.NEWSA: lambda data: StateSet(SaState.unpack(data)),
    Msg.POLEXPIRE: PolicyExpired.unpack,
    Msg.UPDPOLICY: lambda data: PolicySet(Policy.unpack(data)),
    Msg.UPDSA: lambda data: StateSet(SaState.unpack(data)),
}


def decode_event(message: NetlinkMessage) -> XfrmEvent | None:
    """The event in a multicast message, None for a type that is not known here.

    Raises WireError; its offset counts from the start of the message's payload.
    """
    decoder = _DECODERS.get(message.type)
    return decoder(message.payload) if decoder else None
