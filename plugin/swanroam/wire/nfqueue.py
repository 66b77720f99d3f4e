"""Messages of NFQUEUE (include/uapi/linux/netfilter/nfnetlink_queue.h): configuration, held packets, verdicts.

struct nfgenmsg                  { __u8 family; __u8 version; __be16 res_id; };             res_id: queue number
struct nfqnl_msg_packet_hdr      { __be32 packet_id; __be16 hw_protocol; __u8 hook; };      packed, 7 bytes
struct nfqnl_msg_verdict_hdr     { __be32 verdict; __be32 id; };
struct nfqnl_msg_config_cmd      { __u8 command; __u8 pad; __be16 pf; };
struct nfqnl_msg_config_params   { __be32 copy_range; __u8 copy_mode; };                    packed, 5 bytes

All numbers are in network byte order, but for those of the netlink header and attributes.
"""

import struct
from dataclasses import dataclass
from typing import Final

from swanroam.errors import WireError
from swanroam.wire.netlink import Flag, NetlinkMessage, attribute, pack_message, unpack_attributes

__all__ = ["NFQNL_MSG_PACKET", "QueuedPacket", "pack_bind", "pack_verdict", "unpack_packet"]

NFNL_SUBSYS_QUEUE: Final = 3
NFQNL_MSG_PACKET: Final = NFNL_SUBSYS_QUEUE << 8
NFQNL_MSG_VERDICT: Final = NFNL_SUBSYS_QUEUE << 8 | 1
NFQNL_MSG_CONFIG: Final = NFNL_SUBSYS_QUEUE << 8 | 2

NFQA_PACKET_HDR: Final = 1
NFQA_VERDICT_HDR: Final = 2
NFQA_MARK: Final = 3
NFQA_IFINDEX_INDEV: Final = 5
NFQA_PAYLOAD: Final = 10

NFQA_CFG_CMD: Final = 1
NFQA_CFG_PARAMS: Final = 2
NFQA_CFG_QUEUE_MAXLEN: Final = 3
NFQA_CFG_MASK: Final = 4
NFQA_CFG_FLAGS: Final = 5

NFQNL_CFG_CMD_BIND: Final = 1
NFQNL_COPY_PACKET: Final = 2
NFQA_CFG_F_FAIL_OPEN: Final = 1

NF_DROP: Final = 0
NF_ACCEPT: Final = 1
COPY_RANGE: Final = 0xFFFF

# A plain number: arithmetic of enum members is done in Python, and a verdict is given for every held packet.
REQUEST: Final = int(Flag.REQUEST)

NFGENMSG: Final = struct.Struct("!BBH")
PACKET_HDR: Final = struct.Struct("!IHB")
VERDICT_HDR: Final = struct.Struct("!II")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedPacket:
    """A packet that the kernel holds until a verdict; `payload` begins with its IP header."""

    queue: int
    packet_id: int
    """Counted for each queue on its own."""
    hook: int
    """0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting."""
    payload: bytes
    mark: int = 0
    interface: int = 0
    """Index of the interface it came in by, 0 for none."""


def pack_bind(queue: int, sequence: int, *, max_held: int, fail_open: bool) -> bytes:
    """The request that binds a queue to the sending socket, with whole packets copied; acknowledged by the kernel.

    All of it in one message: a bound queue without a copy mode would drop packets. `fail_open` lets packets pass
    when the queue or the socket's buffer is full; otherwise they are dropped.
    """
    payload = (
        NFGENMSG.pack(0, 0, queue)
        + attribute(NFQA_CFG_CMD, struct.pack("!BBH", NFQNL_CFG_CMD_BIND, 0, 0))
        + attribute(NFQA_CFG_PARAMS, struct.pack("!IB", COPY_RANGE, NFQNL_COPY_PACKET))
        + attribute(NFQA_CFG_QUEUE_MAXLEN, struct.pack("!I", max_held))
        + attribute(NFQA_CFG_MASK, struct.pack("!I", NFQA_CFG_F_FAIL_OPEN))
        + attribute(NFQA_CFG_FLAGS, struct.pack("!I", NFQA_CFG_F_FAIL_OPEN if fail_open else 0))
    )
    return pack_message(NFQNL_MSG_CONFIG, Flag.REQUEST | Flag.ACK, sequence, payload)


def pack_verdict(queue: int, packet_id: int, *, accept: bool, changed: bytes | None = None) -> bytes:
    """The verdict for one packet, not acknowledged; verdicts may be joined and sent together.

    `changed`: what the packet is replaced by, from its IP header on.
    """
    header = VERDICT_HDR.pack(NF_ACCEPT if accept else NF_DROP, packet_id)
    payload = NFGENMSG.pack(0, 0, queue) + attribute(NFQA_VERDICT_HDR, header)
    if changed is not None:
        payload += attribute(NFQA_PAYLOAD, changed)
    return pack_message(NFQNL_MSG_VERDICT, REQUEST, 0, payload)


def unpack_packet(message: NetlinkMessage) -> QueuedPacket:
    """A message of type NFQNL_MSG_PACKET. Raises WireError without a packet id, or where a field is too short."""
    if len(message.payload) < NFGENMSG.size:
        raise WireError("nfgenmsg", 0, f"{len(message.payload)} bytes where {NFGENMSG.size} are needed")
    _family, _version, queue = NFGENMSG.unpack_from(message.payload)
    found = dict(unpack_attributes(message.payload, NFGENMSG.size))
    if NFQA_PACKET_HDR not in found:
        raise WireError("queued packet", NFGENMSG.size, "no packet id")
    _expect(found, NFQA_PACKET_HDR, PACKET_HDR.size, "packet header")
    packet_id, _protocol, hook = PACKET_HDR.unpack_from(found[NFQA_PACKET_HDR])
    return QueuedPacket(
        queue=queue,
        packet_id=packet_id,
        hook=hook,
        payload=found.get(NFQA_PAYLOAD, b""),
        mark=_number(found, NFQA_MARK, "mark"),
        interface=_number(found, NFQA_IFINDEX_INDEV, "interface"),
    )


def _expect(found: dict[int, bytes], type_: int, size: int, what: str) -> None:
    if len(found[type_]) < size:
        raise WireError(f"queued packet, {what}", 0, f"{len(found[type_])} bytes where {size} are needed")


def _number(found: dict[int, bytes], type_: int, what: str) -> int:
    if type_ not in found:
        return 0
    _expect(found, type_, 4, what)
    return int.from_bytes(found[type_][:4], "big")
