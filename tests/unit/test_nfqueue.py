"""Messages of NFQUEUE: what is sent is what the kernel's structs say, what comes is read or refused."""

import struct

import pytest

from swanroam.errors import WireError
from swanroam.wire.netlink import NetlinkMessage, attribute, unpack_attributes, unpack_messages
from swanroam.wire.nfqueue import NFQNL_MSG_PACKET, QueuedPacket, pack_bind, pack_verdict, unpack_packet


def packet(*attributes: bytes, head: bytes = b"\x02\0\x11\xcb") -> NetlinkMessage:
    return NetlinkMessage(NFQNL_MSG_PACKET, 0, 0, 0, head + b"".join(attributes))


HEADER = attribute(1, struct.pack("!IHB", 77, 0x0800, 0))


def test_a_packet_is_read_with_its_queue_number_and_content() -> None:
    message = packet(
        HEADER, attribute(3, b"\0\0\0\5"), attribute(5, b"\0\0\0\2"), attribute(10, b"E..."), attribute(99, b"")
    )
    assert unpack_packet(message) == QueuedPacket(
        queue=4555, packet_id=77, hook=0, payload=b"E...", mark=5, interface=2
    )


def test_a_packet_needs_only_its_number() -> None:
    assert unpack_packet(packet(HEADER)) == QueuedPacket(queue=4555, packet_id=77, hook=0, payload=b"")


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (packet(head=b"\2\0"), "nfgenmsg"),
        (packet(), "no packet id"),
        (packet(attribute(1, b"\0\0\0\1")), "4 bytes where 7"),
        (packet(HEADER, attribute(3, b"\1")), "mark"),
        (packet(HEADER, attribute(5, b"\1")), "interface"),
        (packet(HEADER, b"\xff\0\1\0"), "length 255"),
    ],
)
def test_a_packet_that_lies_is_refused(message: NetlinkMessage, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        unpack_packet(message)


@pytest.mark.parametrize(("accept", "code"), [(True, 1), (False, 0)])
def test_verdicts_can_be_joined(accept: bool, code: int) -> None:
    joined = pack_verdict(4555, 1, accept=accept) + pack_verdict(4556, 2, accept=accept)
    messages = list(unpack_messages(joined))
    assert [message.type for message in messages] == [0x301, 0x301]
    assert [message.payload[2:4] for message in messages] == [b"\x11\xcb", b"\x11\xcc"]
    assert [list(unpack_attributes(message.payload, 4)) for message in messages] == [
        [(2, struct.pack("!II", code, 1))],
        [(2, struct.pack("!II", code, 2))],
    ]


@pytest.mark.parametrize(("fail_open", "flags"), [(True, 1), (False, 0)])
def test_a_queue_is_bound_and_set_up_in_one_message(fail_open: bool, flags: int) -> None:
    (message,) = unpack_messages(pack_bind(4555, 9, max_held=512, fail_open=fail_open))
    assert (message.type, message.flags, message.sequence) == (0x302, 5, 9)
    assert dict(unpack_attributes(message.payload, 4)) == {
        1: b"\1\0\0\0",
        2: struct.pack("!IB", 0xFFFF, 2),
        3: struct.pack("!I", 512),
        4: struct.pack("!I", 1),
        5: struct.pack("!I", flags),
    }
