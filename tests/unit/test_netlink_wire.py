"""Netlink framing, and the socket against the routing family, which every kernel has."""

import errno
import struct
import time

import pytest

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.wire.netlink import (
    Flag,
    NetlinkMessage,
    attribute,
    nested,
    pack_message,
    unpack_attributes,
    unpack_messages,
)

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_GETLINK = 16, 18


def test_messages_of_a_datagram_are_taken_apart() -> None:
    data = pack_message(16, Flag.MULTI, 7, b"abcde") + pack_message(3, 0, 8, b"")

    assert list(unpack_messages(data)) == [
        NetlinkMessage(16, Flag.MULTI, 7, 0, b"abcde"),
        NetlinkMessage(3, 0, 8, 0, b""),
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x10\0\0", "nlmsghdr: at byte 0: 3 bytes where a header needs 16"),
        (struct.pack("=IHHII", 15, 0, 0, 0, 0), "nlmsghdr: at byte 0: length 15 outside 16..16"),
        (pack_message(1, 0, 0, b"") + struct.pack("=IHHII", 17, 0, 0, 0, 0), "nlmsghdr: at byte 16: length 17 outside"),
    ],
)
def test_lying_message_lengths_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        list(unpack_messages(data))


def test_attributes_are_padded_and_lose_their_flags() -> None:
    data = attribute(5, b"abc") + nested(6, attribute(1, b"x"))

    assert len(data) % 4 == 0
    assert list(unpack_attributes(data)) == [(5, b"abc"), (6, attribute(1, b"x"))]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x04\0", "nlattr: at byte 0: 2 bytes where a header needs 4"),
        (b"\x03\0\x01\0", "nlattr: at byte 0: length 3 outside 4..4"),
        (b"\x09\0\x01\0abcd", "nlattr: at byte 0: length 9 outside 4..8"),
    ],
)
def test_lying_attribute_lengths_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        list(unpack_attributes(data))


def test_an_error_without_a_code_is_refused() -> None:
    assert NetlinkMessage(2, 0, 0, 0, struct.pack("=i", -errno.ENOENT)).error == errno.ENOENT
    with pytest.raises(WireError, match="nlmsgerr: at byte 16: 2 bytes"):
        _ = NetlinkMessage(2, 0, 0, 0, b"ab").error


def test_a_request_is_answered() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        links = kernel.request("links", RTM_GETLINK, bytes(16), Flag.DUMP)

        assert links
        assert {message.type for message in links} == {RTM_NEWLINK}


def test_a_refused_request_names_the_operation_and_the_error() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as kernel, pytest.raises(KernelRefused, match="link 2000000000: ENODEV"):
        kernel.request("link 2000000000", RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 2000000000, 0, 0))


def test_reading_without_blocking_does_not_block() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        begun = time.monotonic()

        assert kernel.receive("events", block=False) == []

        assert time.monotonic() - begun < 2


def test_no_answer_is_an_error_and_not_for_ever() -> None:
    with NetlinkSocket(NETLINK_ROUTE, answer_timeout_s=1) as kernel, pytest.raises(KernelRefused, match="ETIMEDOUT"):
        kernel.receive("events")
