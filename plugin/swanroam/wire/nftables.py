"""Messages of nf_tables (include/uapi/linux/netfilter/nf_tables.h) for set elements, counters and change events.

A transaction is one datagram: NFNL_MSG_BATCH_BEGIN, the changes, NFNL_MSG_BATCH_END. The kernel applies all of it or
nothing. It answers each message that failed with an error; only the last change asks for an acknowledgement, so the
answer to that one ends the transaction. An error about the begin message is final too.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from swanroam.errors import WireError
from swanroam.model.path import Endpoint, Origin
from swanroam.wire.netlink import Flag, NetlinkMessage, attribute, pack_message, unpack_attributes

__all__ = [
    "NFNLGRP_NFTABLES",
    "Change",
    "Element",
    "ElementChange",
    "Transaction",
    "counter_query",
    "name_of_table",
    "pack_delete_table",
    "pack_transactions",
    "set_key",
    "table_query",
    "unpack_counter",
]

NFNLGRP_NFTABLES: Final = 7
NFNL_SUBSYS_NFTABLES: Final = 10
NFNL_MSG_BATCH_BEGIN: Final = 0x10
NFNL_MSG_BATCH_END: Final = 0x11
NFPROTO_INET: Final = 1

NFTA_TABLE: Final = 1
"""NFTA_TABLE_NAME, NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_TABLE...: in every message attribute 1 names the table."""
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_LIST_ELEM: Final = 1
NFTA_SET_ELEM_KEY: Final = 1
NFTA_SET_ELEM_DATA: Final = 2
NFTA_SET_ELEM_TIMEOUT: Final = 4
NFTA_DATA_VALUE: Final = 1
NFTA_OBJ_NAME: Final = 2
NFTA_OBJ_TYPE: Final = 3
NFTA_OBJ_DATA: Final = 4
NFTA_COUNTER_PACKETS: Final = 2
NFT_OBJECT_COUNTER: Final = 1

NFGENMSG: Final = struct.Struct("!BBH")
NLA_F_NESTED: Final = 0x8000
ELEMENT: Final = struct.Struct("=6H")
ELEMENTS_PER_MESSAGE: Final = 500
"""A list of elements is an attribute, whose length has 16 bits; an element takes at most 68 bytes."""
ELEMENTS_PER_TRANSACTION: Final = 2000
"""A transaction must fit into the socket's send buffer, 208 KiB where nobody raised it."""


class Change(IntEnum):
    """Message types of nf_tables that this side sends or listens for."""

    GETTABLE = NFNL_SUBSYS_NFTABLES << 8 | 1
    DELTABLE = NFNL_SUBSYS_NFTABLES << 8 | 2
    NEWCHAIN = NFNL_SUBSYS_NFTABLES << 8 | 3
    DELCHAIN = NFNL_SUBSYS_NFTABLES << 8 | 5
    NEWRULE = NFNL_SUBSYS_NFTABLES << 8 | 6
    DELRULE = NFNL_SUBSYS_NFTABLES << 8 | 8
    DELSET = NFNL_SUBSYS_NFTABLES << 8 | 11
    NEWSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 12
    DELSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 14
    GETOBJ = NFNL_SUBSYS_NFTABLES << 8 | 19
    DELOBJ = NFNL_SUBSYS_NFTABLES << 8 | 20


class Element(NamedTuple):
    """An element of a named set or map; `key` is the concatenation of its fields, each in network byte order.

    A tuple, because elements are hashed and compared while a tunnel moves, which a dataclass does in Python.
    """

    set_name: str
    key: bytes
    data: bytes = b""
    """What a map has for the key; in a transaction that changes it the removal goes first."""


class ElementChange(NamedTuple):
    """One element to add or to remove. Adding one that is there changes nothing; removing an absent one fails."""

    element: Element
    add: bool
    timeout_ms: int | None = None
    """After which the kernel removes it, in sets that have timeouts; None keeps it."""


# Plain numbers: arithmetic of enum members is done in Python, and this is on the way of a moving tunnel.
REQUEST: Final = int(Flag.REQUEST)
ACKNOWLEDGE: Final = int(Flag.ACK)
ADDITION: Final = (int(Change.NEWSETELEM), int(Flag.REQUEST | Flag.CREATE))
REMOVAL: Final = (int(Change.DELSETELEM), REQUEST)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One datagram, and the sequence numbers of the two messages whose answers end it."""

    data: bytes
    first: int
    last: int


def set_key(*fields: Origin | int) -> bytes:
    """The key of an element: addresses, endpoints, and SPIs as 32-bit numbers.

    Each field of a concatenation fills whole 4-byte registers; a port is followed by two bytes of zero.
    """
    return b"".join(map(_pack_field, fields))


def _pack_field(field: Origin | int) -> bytes:
    if isinstance(field, int):
        return struct.pack("!I", field)
    if isinstance(field, Endpoint):
        return field.address.packed + struct.pack("!H2x", field.port)
    return field.packed


def table_query(table: str) -> bytes:
    """The payload of GETTABLE, GETCHAIN... for a table of family inet."""
    return NFGENMSG.pack(NFPROTO_INET, 0, 0) + attribute(NFTA_TABLE, _text(table))


def counter_query(table: str, counter: str) -> bytes:
    """The payload of GETOBJ for a named counter."""
    return (
        table_query(table)
        + attribute(NFTA_OBJ_NAME, _text(counter))
        + attribute(NFTA_OBJ_TYPE, struct.pack("!I", NFT_OBJECT_COUNTER))
    )


def unpack_counter(message: NetlinkMessage) -> int:
    """Packets counted, of an answer to `counter_query`. Raises WireError where it tells none."""
    outer = dict(unpack_attributes(message.payload, NFGENMSG.size))
    data = dict(unpack_attributes(outer.get(NFTA_OBJ_DATA, b"")))
    packets = data.get(NFTA_COUNTER_PACKETS, b"")
    if len(packets) != 8:
        raise WireError("nft counter", NFGENMSG.size, f"{len(packets)} bytes where a 64-bit count is due")
    return int.from_bytes(packets, "big")


def name_of_table(message: NetlinkMessage) -> str | None:
    """The table of family inet that an event is about; None when it is about something else, or says nothing.

    Raises WireError where attributes are cut off.
    """
    if len(message.payload) < NFGENMSG.size or message.payload[0] != NFPROTO_INET:
        return None
    for type_, value in unpack_attributes(message.payload, NFGENMSG.size):
        if type_ == NFTA_TABLE:
            return value.rstrip(b"\0").decode("utf-8", "replace")
    return None


def pack_transactions(table: str, changes: Sequence[ElementChange], sequence: int) -> Iterator[Transaction]:
    """Transactions that make the changes in order, with sequence numbers from `sequence` on; one unless many.

    Runs of changes to the same set, in the same direction and with the same timeout, share a message.
    """
    for start in range(0, len(changes), ELEMENTS_PER_TRANSACTION):
        runs = list(_runs(changes[start : start + ELEMENTS_PER_TRANSACTION]))
        first, last = sequence, sequence + len(runs)
        parts = [_boundary(NFNL_MSG_BATCH_BEGIN, first)]
        for number, run in enumerate(runs, first + 1):
            parts.append(_pack_run(table, run, number, acknowledge=number == last))
        parts.append(_boundary(NFNL_MSG_BATCH_END, last + 1))
        yield Transaction(b"".join(parts), first, last)
        sequence = last + 2


def pack_delete_table(table: str, sequence: int) -> Transaction:
    """The transaction that deletes a table with all that is in it; ENOENT when there is none."""
    deletion = pack_message(Change.DELTABLE, Flag.REQUEST | Flag.ACK, sequence + 1, table_query(table))
    parts = (_boundary(NFNL_MSG_BATCH_BEGIN, sequence), deletion, _boundary(NFNL_MSG_BATCH_END, sequence + 2))
    return Transaction(b"".join(parts), sequence, sequence + 1)


def _runs(changes: Sequence[ElementChange]) -> Iterator[list[ElementChange]]:
    run: list[ElementChange] = []
    for change in changes:
        if run and (_kind(change) != _kind(run[0]) or len(run) == ELEMENTS_PER_MESSAGE):
            yield run
            run = []
        run.append(change)
    if run:
        yield run


def _kind(change: ElementChange) -> tuple[str, bool, int | None]:
    return change.element.set_name, change.add, change.timeout_ms


def _pack_run(table: str, run: list[ElementChange], sequence: int, *, acknowledge: bool) -> bytes:
    elements = b"".join(_pack_element(change) for change in run)
    payload = (
        table_query(table)
        + attribute(NFTA_SET_ELEM_LIST_SET, _text(run[0].element.set_name))
        + attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, elements)
    )
    type_, flags = ADDITION if run[0].add else REMOVAL
    return pack_message(type_, flags | ACKNOWLEDGE if acknowledge else flags, sequence, payload)


def _pack_element(change: ElementChange) -> bytes:
    """NFTA_LIST_ELEM { NFTA_SET_ELEM_KEY { NFTA_DATA_VALUE key } NFTA_SET_ELEM_TIMEOUT __be64 }, headers in one go.

    Behind that, for an element that a map is to get, NFTA_SET_ELEM_DATA { NFTA_DATA_VALUE data }.
    """
    (_, key, data), add, timeout_ms = change
    rest = b"" if timeout_ms is None else attribute(NFTA_SET_ELEM_TIMEOUT, struct.pack("!Q", timeout_ms))
    if data and add:
        rest += attribute(NFTA_SET_ELEM_DATA | NLA_F_NESTED, attribute(NFTA_DATA_VALUE, data))
    size = len(key)
    head = ELEMENT.pack(
        size + ELEMENT.size + len(rest),
        NFTA_LIST_ELEM | NLA_F_NESTED,
        size + 8,
        NFTA_SET_ELEM_KEY | NLA_F_NESTED,
        size + 4,
        NFTA_DATA_VALUE,
    )
    return head + key + rest


def _boundary(type_: int, sequence: int) -> bytes:
    return pack_message(type_, REQUEST, sequence, NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES))


def _text(name: str) -> bytes:
    return name.encode() + b"\0"
