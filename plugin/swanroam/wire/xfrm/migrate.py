"""XFRM_MSG_MIGRATE: new outer addresses for the templates of a policy and for states (needs CONFIG_XFRM_MIGRATE).

In a request all entries are in one XFRMA_MIGRATE attribute; the kernel's event has one attribute for each.
"""

from dataclasses import dataclass
from typing import Final, Self

from swanroam.errors import WireError
from swanroam.model.path import IPAddress
from swanroam.wire.netlink import attribute
from swanroam.wire.xfrm.policies import PolicyId, PolicyType
from swanroam.wire.xfrm.states import ESP, Encap
from swanroam.wire.xfrm.structs import (
    U32,
    Attr,
    Layout,
    Mode,
    XfrmSelector,
    family_of,
    located_attributes,
    pack_address,
    unpack_address,
    unpack_scalar,
)

__all__ = ["ENTRIES_MAX", "KmAddress", "Migrate", "MigrateEntry", "pack_migrate"]

ENTRIES_MAX: Final = 6
"""XFRM_MAX_DEPTH: more entries in one message are refused with EINVAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateEntry:
    """A change of addresses, for templates and states with this protocol, mode and reqid (0: any).

    struct xfrm_user_migrate {
        xfrm_address_t old_daddr, old_saddr, new_daddr, new_saddr; __u8 proto, mode; __u16 reserved;
        __u32 reqid; __u16 old_family, new_family;
    };                                                                                     76 bytes
    """

    LAYOUT = Layout("xfrm_user_migrate", "=16s16s16s16sBBHIHH")

    old_source: IPAddress
    old_destination: IPAddress
    new_source: IPAddress
    new_destination: IPAddress
    reqid: int
    protocol: int = ESP
    mode: int = Mode.TUNNEL

    def pack(self) -> bytes:
        """76 bytes."""
        return self.LAYOUT.pack(
            pack_address(self.old_destination),
            pack_address(self.old_source),
            pack_address(self.new_destination),
            pack_address(self.new_source),
            self.protocol,
            self.mode,
            0,
            self.reqid,
            family_of(self.old_destination),
            family_of(self.new_destination),
        )

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 76 bytes at `offset`."""
        raw = cls.LAYOUT.unpack(data, offset)
        old, new = ("xfrm_user_migrate.old_family", offset + 72), ("xfrm_user_migrate.new_family", offset + 74)
        return cls(
            old_destination=unpack_address(raw[0], raw[8], *old),
            old_source=unpack_address(raw[1], raw[8], *old),
            new_destination=unpack_address(raw[2], raw[9], *new),
            new_source=unpack_address(raw[3], raw[9], *new),
            protocol=raw[4],
            mode=raw[5],
            reqid=raw[7],
        )


@dataclass(frozen=True, slots=True)
class KmAddress:
    """Addresses that the key manager is to use from now on.

    struct xfrm_user_kmaddress { xfrm_address_t local, remote; __u32 reserved; __u16 family; };    40 bytes
    """

    LAYOUT = Layout("xfrm_user_kmaddress", "=16s16sIH2x")

    local: IPAddress
    remote: IPAddress

    def pack(self) -> bytes:
        """40 bytes."""
        return self.LAYOUT.pack(pack_address(self.local), pack_address(self.remote), 0, family_of(self.local))

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 40 bytes at `offset`."""
        local, remote, _reserved, family = cls.LAYOUT.unpack(data, offset)
        what, at = "xfrm_user_kmaddress.family", offset + 36
        return cls(unpack_address(local, family, what, at), unpack_address(remote, family, what, at))


def pack_migrate(
    selector: bytes,
    direction: int,
    entries: bytes,
    *,
    type_: int = 0,
    if_id: int = 0,
    kmaddress: KmAddress | None = None,
    encap: Encap | None = None,
) -> bytes:
    """The payload of a MIGRATE request.

    `selector` is struct xfrm_selector as the kernel gave it: it compares all bytes where a protocol is selected.
    `entries` are packed ones, at most ENTRIES_MAX.
    """
    parts = [
        PolicyId.LAYOUT.pack(selector, 0, direction),
        attribute(Attr.MIGRATE, entries),
    ]
    if type_:
        parts.append(attribute(Attr.POLICY_TYPE, PolicyType(type_).pack()))
    if if_id:
        parts.append(attribute(Attr.IF_ID, U32.pack(if_id)))
    if kmaddress:
        parts.append(attribute(Attr.KMADDRESS, kmaddress.pack()))
    if encap:
        parts.append(attribute(Attr.ENCAP, encap.pack()))
    return b"".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    """A MIGRATE request, or the event that tells of one: struct xfrm_userpolicy_id (its index unused), attributes."""

    selector: XfrmSelector
    direction: int
    entries: tuple[MigrateEntry, ...]
    type: int = 0
    if_id: int = 0
    kmaddress: KmAddress | None = None
    encap: Encap | None = None

    def pack(self) -> bytes:
        """The payload of a MIGRATE request."""
        return pack_migrate(
            self.selector.pack(),
            self.direction,
            b"".join(entry.pack() for entry in self.entries),
            type_=self.type,
            if_id=self.if_id,
            kmaddress=self.kmaddress,
            encap=self.encap,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload of a MIGRATE message. Raises WireError also where it has no entry."""
        _selector, _index, direction = PolicyId.LAYOUT.unpack(data)
        entries: list[MigrateEntry] = []
        type_, if_id, kmaddress, encap = 0, 0, None, None
        for attr, at, value in located_attributes(data, PolicyId.LAYOUT.size):
            until = data[: at + len(value)]
            if attr == Attr.MIGRATE:
                entries += [MigrateEntry.unpack(until, n) for n in range(at, len(until), MigrateEntry.LAYOUT.size)]
            elif attr == Attr.POLICY_TYPE:
                type_ = PolicyType.unpack(until, at).value
            elif attr == Attr.IF_ID:
                if_id = unpack_scalar(U32, "XFRMA_IF_ID", value, at)
            elif attr == Attr.KMADDRESS:
                kmaddress = KmAddress.unpack(until, at)
            elif attr == Attr.ENCAP:
                encap = Encap.unpack(until, at)
        if not entries:
            raise WireError("XFRMA_MIGRATE", PolicyId.LAYOUT.size, "no entry")
        return cls(
            selector=XfrmSelector.unpack(data),
            direction=direction,
            entries=tuple(entries),
            type=type_,
            if_id=if_id,
            kmaddress=kmaddress,
            encap=encap,
        )
