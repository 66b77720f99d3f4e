"""Policies: XFRM_MSG_NEWPOLICY, UPDPOLICY, GETPOLICY, DELPOLICY, dumps.

The kernel answers GETPOLICY and a dump with messages of type NEWPOLICY.
"""

import socket
from dataclasses import dataclass, field
from typing import Final, Self

from swanroam.errors import WireError
from swanroam.model.path import IPAddress
from swanroam.wire.netlink import attribute
from swanroam.wire.xfrm.structs import (
    U32,
    Attr,
    Current,
    Direction,
    Layout,
    Limits,
    Mark,
    Mode,
    XfrmSelector,
    located_attributes,
    pack_address,
    padded_to_u64,
    unpack_address,
    unpack_scalar,
)

__all__ = ["USERPOLICY_INFO_SIZE", "Policy", "PolicyId", "PolicyType", "Template"]

_INFO: Final = Layout("xfrm_userpolicy_info", "=IIBBBB")
_INFO_AT: Final = 152
USERPOLICY_INFO_SIZE: Final = padded_to_u64(_INFO_AT + _INFO.size)


@dataclass(frozen=True, slots=True)
class PolicyType:
    """Main (0) or sub (1) policy.

    struct xfrm_userpolicy_type { __u8 type; __u16 reserved1; __u8 reserved2; };
    """

    LAYOUT = Layout("xfrm_userpolicy_type", "=BxHBx")

    value: int

    def pack(self) -> bytes:
        """6 bytes."""
        return self.LAYOUT.pack(self.value, 0, 0)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 6 bytes at `offset`."""
        return cls(cls.LAYOUT.unpack(data, offset)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What a packet must be protected with, or must have been.

    struct xfrm_user_tmpl {
        struct xfrm_id id; __u16 family; xfrm_address_t saddr; __u32 reqid; __u8 mode, share, optional;
        __u32 aalgos, ealgos, calgos;
    };                                                                                          64 bytes

    Of family 0 (transport mode; addresses are those of the packet) the addresses are IPv6, and mostly `::`.
    """

    LAYOUT = Layout("xfrm_user_tmpl", "=16sIB3xH2x16sIBBBxIII")

    source: IPAddress
    destination: IPAddress
    family: int
    reqid: int
    protocol: int
    mode: int = Mode.TUNNEL
    spi: int = 0
    share: int = 0
    optional: int = 0
    auth_mask: int = 0xFFFFFFFF
    crypt_mask: int = 0xFFFFFFFF
    comp_mask: int = 0xFFFFFFFF

    def pack(self) -> bytes:
        """64 bytes."""
        return self.LAYOUT.pack(
            pack_address(self.destination),
            socket.htonl(self.spi),
            self.protocol,
            self.family,
            pack_address(self.source),
            self.reqid,
            self.mode,
            self.share,
            self.optional,
            self.auth_mask,
            self.crypt_mask,
            self.comp_mask,
        )

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 64 bytes at `offset`."""
        raw = cls.LAYOUT.unpack(data, offset)
        what, at = "xfrm_user_tmpl.family", offset + 24
        return cls(
            destination=unpack_address(raw[0], raw[3], what, at, unspecified=True),
            spi=socket.ntohl(raw[1]),
            protocol=raw[2],
            family=raw[3],
            source=unpack_address(raw[4], raw[3], what, at, unspecified=True),
            reqid=raw[5],
            mode=raw[6],
            share=raw[7],
            optional=raw[8],
            auth_mask=raw[9],
            crypt_mask=raw[10],
            comp_mask=raw[11],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyId:
    """What names a policy to the kernel: GETPOLICY and DELPOLICY. By `index` where that is not 0, else by selector.

    struct xfrm_userpolicy_id { struct xfrm_selector sel; __u32 index; __u8 dir; };    64 bytes
    """

    LAYOUT = Layout("xfrm_userpolicy_id", "=56sIB3x")

    selector: XfrmSelector
    direction: int
    index: int = 0
    type: int = 0
    mark: Mark | None = None
    if_id: int = 0

    def pack(self) -> bytes:
        """The payload of GETPOLICY and DELPOLICY."""
        head = self.LAYOUT.pack(self.selector.pack(), self.index, self.direction)
        return head + _identity(self.type, self.mark, self.if_id)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload of a GETPOLICY or DELPOLICY message."""
        _selector, index, direction = cls.LAYOUT.unpack(data)
        type_, mark, if_id = 0, None, 0
        for attr, at, value in located_attributes(data, cls.LAYOUT.size):
            if attr == Attr.POLICY_TYPE:
                type_ = PolicyType.unpack(data[: at + len(value)], at).value
            elif attr == Attr.MARK:
                mark = Mark.unpack(data[: at + len(value)], at)
            elif attr == Attr.IF_ID:
                if_id = unpack_scalar(U32, "XFRMA_IF_ID", value, at)
        selector = XfrmSelector.unpack(data)
        return cls(selector=selector, direction=direction, index=index, type=type_, mark=mark, if_id=if_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy with its templates.

    struct xfrm_userpolicy_info {
        struct xfrm_selector sel; struct xfrm_lifetime_cfg lft; struct xfrm_lifetime_cur curlft;
        __u32 priority, index; __u8 dir, action, flags, share;
    };                                                                         168 bytes, then attributes
    """

    selector: XfrmSelector
    direction: int = Direction.OUT
    action: int = 0
    """0 allow, 1 block."""
    priority: int = 0
    index: int = 0
    """The kernel's own number; its lowest three bits are the direction."""
    flags: int = 0
    share: int = 0
    limits: Limits = field(default_factory=Limits)
    current: Current = field(default_factory=Current)
    templates: tuple[Template, ...] = ()
    type: int = 0
    mark: Mark | None = None
    if_id: int = 0
    others: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)
    """Attributes that are not understood, as (type, value): kept for a policy that is installed again."""

    @property
    def id(self) -> PolicyId:
        """What names this policy to the kernel."""
        return PolicyId(
            selector=self.selector,
            direction=self.direction,
            index=self.index,
            type=self.type,
            mark=self.mark,
            if_id=self.if_id,
        )

    def pack_info(self) -> bytes:
        """Struct xfrm_userpolicy_info, 168 bytes."""
        info = (
            self.selector.pack()
            + self.limits.pack()
            + self.current.pack()
            + _INFO.pack(self.priority, self.index, self.direction, self.action, self.flags, self.share)
        )
        return info.ljust(USERPOLICY_INFO_SIZE, b"\0")

    def pack(self) -> bytes:
        """The payload of NEWPOLICY and UPDPOLICY."""
        templates = b"".join(template.pack() for template in self.templates)
        return b"".join(
            (
                self.pack_info(),
                attribute(Attr.TMPL, templates) if templates else b"",
                _identity(self.type, self.mark, self.if_id),
                *(attribute(type_, value) for type_, value in self.others),
            )
        )

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0, *, attributes: bool = True, attributes_at: int | None = None) -> Self:
        """From `offset` in the payload of a NEWPOLICY or UPDPOLICY message; without `attributes` the struct alone.

        The attributes are at `attributes_at`; None: behind the struct.
        """
        if len(data) - offset < USERPOLICY_INFO_SIZE:
            there = max(len(data) - offset, 0)
            raise WireError("xfrm_userpolicy_info", offset, f"{there} bytes where {USERPOLICY_INFO_SIZE} are needed")
        priority, index, direction, action, flags, share = _INFO.unpack(data, offset + _INFO_AT)
        start = offset + USERPOLICY_INFO_SIZE if attributes_at is None else attributes_at
        templates: list[Template] = []
        others: list[tuple[int, bytes]] = []
        type_, mark, if_id = 0, None, 0
        for attr, at, value in located_attributes(data, start) if attributes else ():
            until = data[: at + len(value)]
            if attr == Attr.TMPL:
                steps = range(at, len(until), Template.LAYOUT.size)
                templates = [Template.unpack(until, step) for step in steps]
            elif attr == Attr.POLICY_TYPE:
                type_ = PolicyType.unpack(until, at).value
            elif attr == Attr.MARK:
                mark = Mark.unpack(until, at)
            elif attr == Attr.IF_ID:
                if_id = unpack_scalar(U32, "XFRMA_IF_ID", value, at)
            elif attr != Attr.PAD:
                others.append((attr, value))
        return cls(
            selector=XfrmSelector.unpack(data, offset),
            limits=Limits.unpack(data, offset + 56),
            current=Current.unpack(data, offset + 120),
            priority=priority,
            index=index,
            direction=direction,
            action=action,
            flags=flags,
            share=share,
            templates=tuple(templates),
            type=type_,
            mark=mark,
            if_id=if_id,
            others=tuple(others),
        )


def _identity(type_: int, mark: Mark | None, if_id: int) -> bytes:
    return b"".join(
        (
            attribute(Attr.POLICY_TYPE, PolicyType(type_).pack()) if type_ else b"",
            attribute(Attr.MARK, mark.pack()) if mark else b"",
            attribute(Attr.IF_ID, U32.pack(if_id)) if if_id else b"",
        )
    )
