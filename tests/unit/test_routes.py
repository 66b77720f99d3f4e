"""The address repository from rtnetlink messages, without a kernel."""

import errno
import os
import struct
from collections import deque
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import AF_BRIDGE, AF_INET, AF_INET6

import pytest

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel import pyroute
from swanroam.kernel.routes import RouteSource
from swanroam.model.path import IPAddress, LocalAddress, Repository, Route
from swanroam.wire.netlink import NLMSG_DONE, NLMSG_ERROR, attribute, pack_message, unpack_messages
from swanroam.wire.rtnetlink import (
    AddressFact,
    Hop,
    LinkFact,
    RouteFact,
    decode_change,
    local_route,
    own_local_route,
)

PORT = 4711
NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE, DELROUTE = 16, 17, 20, 21, 24, 25
WORKING = 0x1 | 0x40 | 0x10000
REPLACE = 0x100


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def message(kind: int, payload: bytes, *, flags: int = 0, sequence: int = 0, port: int = 0) -> bytes:
    packed = bytearray(pack_message(kind, flags, sequence, payload))
    struct.pack_into("=I", packed, 12, port)
    return bytes(packed)


def link(index: int, name: str, flags: int = WORKING, family: int = 0) -> bytes:
    return (
        struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(3, name.encode() + b"\0") + attribute(16, b"\6")
    )


def address(
    text: str, index: int = 1, *, flags: int = 0x80, scope: int = 0, preferred_s: int = 0xFFFFFFFF, peer: str = ""
) -> bytes:
    host, _, length = text.partition("/")
    own = ip_address(host)
    family = AF_INET if own.version == 4 else AF_INET6
    payload = struct.pack("=BBBBI", family, int(length), flags & 0xFF, scope, index)
    payload += attribute(1, ip_address(peer or host).packed)
    if own.version == 4 or peer:
        payload += attribute(2, own.packed)
    return payload + attribute(8, u32(flags)) + attribute(6, u32(preferred_s) + u32(0xFFFFFFFF) + bytes(8))


def route(
    destination: str,
    hops: Sequence[tuple[int, str | None]] = ((1, None),),
    *,
    metric: int = 0,
    source: str | None = None,
    table: int = 254,
    kind: int = 1,
    flags: int = 0,
) -> bytes:
    network = ip_network(destination)
    family = AF_INET if network.version == 4 else AF_INET6
    payload = struct.pack(
        "=BBBBBBBBI", family, network.prefixlen, 0, 0, min(table, 252 if table > 255 else 255), 3, 0, kind, flags
    )
    payload += attribute(15, u32(table))
    if network.prefixlen:
        payload += attribute(1, network.network_address.packed)
    if metric:
        payload += attribute(6, u32(metric))
    if source:
        payload += attribute(7, ip_address(source).packed)
    parts = [(index, _gateway(family, gateway)) for index, gateway in hops]
    if len(parts) == 1:
        return payload + parts[0][1] + attribute(4, u32(parts[0][0]))
    nexthops = b"".join(struct.pack("=HBBi", 8 + len(gateway), 0, 0, index) + gateway for index, gateway in parts)
    return payload + attribute(9, nexthops)


def _gateway(family: int, text: str | None) -> bytes:
    if text is None:
        return b""
    gateway = ip_address(text)
    if (gateway.version == 4) == (family == AF_INET):
        return attribute(5, gateway.packed)
    return attribute(18, struct.pack("=H", AF_INET6 if gateway.version == 6 else AF_INET) + gateway.packed)


class FakeKernel:
    """A RouteSocket: answers dumps from what it holds, and is told which events to send."""

    def __init__(self, *held: tuple[int, bytes]) -> None:
        self.port = PORT
        self.held = list(held)
        self.queue: deque[bytes | OSError] = deque()
        self.dumps = 0
        self.silent = False
        self.broken = False
        self.interrupted = 0
        self.closed = False

    def fileno(self) -> int:
        return 99

    def send(self, data: bytes) -> object:
        """Answer a dump."""
        ((request),) = unpack_messages(data)
        self.dumps += 1
        if self.broken:
            raise OSError(errno.EBADF, "bad file descriptor")
        if self.silent:
            return None
        kinds = {18: (NEWLINK,), 22: (NEWADDR,), 26: (NEWROUTE,)}[request.type]
        family, table = (request.payload[0], request.payload[4]) if request.type == 26 else (0, 0)
        flags = 2
        if self.interrupted:
            self.interrupted -= 1
            flags |= 0x10
        for kind, payload in self.held:
            if kind in kinds and family in (0, payload[0]) and table in (0, payload[4]):
                self.queue.append(message(kind, payload, flags=flags, sequence=request.sequence, port=PORT))
        end = u32(0) if table != 253 else struct.pack("=i", -errno.ENOENT) + bytes(16)
        kind = NLMSG_DONE if table != 253 else NLMSG_ERROR
        self.queue.append(message(kind, end, flags=flags, sequence=request.sequence, port=PORT))
        return len(data)

    def receive(self) -> bytes | None:
        """What is in the queue."""
        if not self.queue:
            return None
        first = self.queue.popleft()
        if isinstance(first, OSError):
            raise first
        return first

    def wait(self, timeout_s: float) -> bool:
        """Whether something is in the queue."""
        return bool(self.queue) and timeout_s > 0

    def close(self) -> None:
        """Close."""
        self.closed = True

    def tell(self, kind: int, payload: bytes, flags: int = 0) -> None:
        """Send an event."""
        self.queue.append(message(kind, payload, flags=flags, sequence=1, port=12))


HELD = (
    (NEWLINK, link(1, "eth0")),
    (NEWLINK, link(2, "eth1")),
    (NEWADDR, address("10.0.1.2/24", 1)),
    (NEWADDR, address("10.0.2.2/24", 2)),
    (NEWROUTE, route("0.0.0.0/0", [(1, "10.0.1.1")], metric=100)),
    (NEWROUTE, route("10.0.2.0/24", [(2, None)], source="10.0.2.2")),
)


def started(*held: tuple[int, bytes]) -> tuple[FakeKernel, RouteSource]:
    kernel = FakeKernel(*(held or HELD))
    source = RouteSource(open_socket=lambda: kernel, decode_dump=decode_change)
    source.start()
    return kernel, source


def own(text: str, interface: str = "eth0", *, usable: bool = True) -> LocalAddress:
    host, _, length = text.partition("/")
    return LocalAddress(address=ip_address(host), prefix_length=int(length), interface=interface, usable=usable)


def test_the_start_reads_everything() -> None:
    _kernel, source = started()
    assert source.repository == Repository(
        addresses=(own("10.0.1.2/24"), own("10.0.2.2/24", "eth1")),
        routes=(
            Route(destination=ip_network("0.0.0.0/0"), interface="eth0", metric=100, gateway=IPv4Address("10.0.1.1")),
            Route(
                destination=ip_network("10.0.2.0/24"),
                interface="eth1",
                metric=0,
                preferred_source=IPv4Address("10.0.2.2"),
            ),
        ),
    )
    assert source.process() is None


def test_a_kernel_that_does_not_answer_is_an_error_at_the_start() -> None:
    kernel = FakeKernel()
    kernel.silent = True
    with pytest.raises(KernelRefused, match="rtnetlink dump: ETIMEDOUT"):
        RouteSource(open_socket=lambda: kernel, decode_dump=decode_change).start()


def test_a_batch_of_events_gives_one_repository() -> None:
    kernel, source = started()
    kernel.tell(DELADDR, address("10.0.1.2/24", 1))
    kernel.tell(NEWADDR, address("10.0.2.9/24", 2))
    kernel.tell(NEWROUTE, route("0.0.0.0/0", [(2, "10.0.2.1")], metric=100), REPLACE)
    repository = source.process()
    assert repository is not None
    assert repository.addresses == (own("10.0.2.2/24", "eth1"), own("10.0.2.9/24", "eth1"))
    assert {way.interface for way in repository.routes} == {"eth1"}
    assert source.repository is repository


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (NEWLINK, link(1, "eth0")),
        (NEWLINK, link(1, "eth0", flags=0, family=AF_BRIDGE)),
        (DELLINK, link(1, "eth0", family=AF_BRIDGE)),
        (NEWADDR, address("10.0.1.2/24", 1)),
        (NEWROUTE, route("203.0.113.0/24", table=220)),
        (NEWROUTE, route("203.0.113.0/24", table=1000)),
        (NEWROUTE, route("203.0.113.0/24", kind=6)),
        (NEWROUTE, route("203.0.113.0/24", flags=0x200)),
        (DELROUTE, route("203.0.113.0/24")),
        (DELADDR, address("10.0.1.77/24", 1)),
        (28, bytes(12)),
    ],
)
def test_what_does_not_concern_the_repository_gives_nothing(kind: int, payload: bytes) -> None:
    kernel, source = started()
    kernel.tell(kind, payload)
    assert source.process() is None


@pytest.mark.parametrize(
    "flags",
    [WORKING & ~0x1, WORKING & ~0x40, WORKING & ~0x10000, 0],
    ids=["down", "not running", "no carrier", "nothing"],
)
def test_addresses_of_a_link_that_does_not_work_are_not_usable(flags: int) -> None:
    kernel, source = started()
    kernel.tell(NEWLINK, link(1, "eth0", flags))
    repository = source.process()
    assert repository is not None
    assert [found.usable for found in repository.addresses] == [False, True]


@pytest.mark.parametrize(
    ("payload", "usable"),
    [
        (address("10.0.1.9/24"), True),
        (address("10.0.1.9/24", flags=0x40), False),
        (address("10.0.1.9/24", flags=0x08), False),
        (address("10.0.1.9/24", flags=0x20), False),
        (address("10.0.1.9/24", flags=0x180), True),
        (address("10.0.1.9/24", preferred_s=0), False),
        (address("10.0.1.9/24", scope=253), False),
        (address("169.254.1.9/24"), False),
        (address("127.0.0.2/8"), False),
        (address("2001:db8::9/64"), True),
        (address("2001:db8::9/64", flags=0x40), False),
        (address("fe80::9/64"), False),
        (address("fd00::9/64"), True),
    ],
)
def test_only_addresses_that_one_may_send_from_are_usable(payload: bytes, usable: bool) -> None:
    kernel, source = started()
    kernel.tell(NEWADDR, payload)
    repository = source.process()
    assert repository is not None
    assert repository.addresses[-1].usable == usable


def test_ipv4_routes_go_with_their_source_their_last_address_and_their_link_at_once() -> None:
    kernel, source = started()
    kernel.tell(NEWROUTE, route("203.0.113.0/24", [(1, None)], source="10.0.2.2"))
    kernel.tell(NEWROUTE, route("198.51.100.0/24", [(1, None), (2, None)]))
    source.process()
    kernel.tell(DELADDR, address("10.0.2.2/24", 2))
    repository = source.process()
    assert repository is not None
    assert [(str(way.destination), way.interface) for way in repository.routes] == [
        ("0.0.0.0/0", "eth0"),
        ("198.51.100.0/24", "eth0"),
    ]


def test_what_the_events_do_not_tell_is_read_anew_and_has_the_last_word() -> None:
    kernel, source = started()
    before = kernel.dumps
    kernel.held = [part for part in HELD if part[0] != NEWROUTE]
    kernel.tell(DELADDR, address("10.0.1.77/24", 1))
    assert source.process() is None
    assert kernel.dumps > before
    repository = source.process()
    assert repository is not None
    assert repository.routes == ()
    assert len(repository.addresses) == 2


def test_what_the_events_do_not_tell_can_be_asked_for_later() -> None:
    kernel, source = started()
    before = kernel.dumps
    kernel.tell(DELADDR, address("10.0.1.77/24", 1))
    source.process(ask=False)
    assert kernel.dumps == before
    source.process(ask=True)
    assert kernel.dumps > before


def test_an_event_during_a_dump_is_seen_at_once_and_not_undone_by_it() -> None:
    kernel, source = started()
    kernel.tell(DELADDR, address("10.0.1.77/24", 1))
    source.process()  # asks for the routes
    late = route("203.0.113.0/24", [(1, "10.0.1.1")])
    kernel.tell(NEWROUTE, late)
    repository = source.process()
    assert repository is not None
    assert "203.0.113.0/24" in {str(way.destination) for way in repository.routes}
    assert source.process() is None
    assert source.repository == repository


@pytest.mark.parametrize(
    "loss",
    [
        OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)),
        OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)),
        b"\x10\0\0",
        struct.pack("=IHHII", 64, NEWADDR, 0, 0, 0),
        struct.pack("=IHHII", 3, NEWADDR, 0, 0, 0),
        message(NEWADDR, b"\2"),
        message(NEWADDR, struct.pack("=BBBBI", AF_INET, 24, 0, 0, 1)),
        message(NEWADDR, struct.pack("=BBBBI", AF_INET, 33, 0, 0, 1) + attribute(2, bytes(4))),
        message(NEWADDR, struct.pack("=BBBBI", AF_INET, 24, 0, 0, 1) + attribute(2, bytes(3))),
        message(NEWADDR, address("10.0.1.9/24")[:-3]),
        message(NEWLINK, bytes(16)),
        message(NEWROUTE, struct.pack("=BBBBBBBBI", AF_INET, 64, 0, 0, 254, 0, 0, 1, 0)),
        message(NEWROUTE, struct.pack("=BBBBBBBBI", AF_INET, 0, 0, 0, 254, 0, 0, 1, 0) + attribute(9, b"\7\0\0\0")),
        message(NEWROUTE, struct.pack("=BBBBBBBBI", AF_INET, 0, 0, 0, 254, 0, 0, 1, 0) + attribute(9, b"\7\0\0\0" * 2)),
        message(
            NEWROUTE,
            struct.pack("=BBBBBBBBI", AF_INET, 0, 0, 0, 254, 0, 0, 1, 0) + attribute(4, b"\1") + attribute(18, b""),
        ),
        message(
            NEWROUTE,
            struct.pack("=BBBBBBBBI", AF_INET, 0, 0, 0, 254, 0, 0, 1, 0) + attribute(4, u32(1)) + attribute(18, b""),
        ),
    ],
)
def test_after_lost_or_lying_messages_everything_is_read_anew(loss: bytes | OSError) -> None:
    kernel, source = started()
    kernel.held.append((NEWADDR, address("10.0.2.9/24", 2)))
    kernel.queue.append(loss)
    source.process()
    source.process()
    assert source.resyncs == 1
    assert own("10.0.2.9/24", "eth1") in source.repository.addresses
    assert source.malformed == (0 if isinstance(loss, OSError) else 1)


def test_a_bad_message_within_a_dump_is_counted_and_the_rest_is_taken() -> None:
    _kernel, source = started(*HELD, (NEWADDR, struct.pack("=BBBBI", AF_INET, 24, 0, 0, 1)))
    assert len(source.repository.addresses) == 2
    assert (source.malformed, source.resyncs) == (1, 0)


def test_a_dump_that_the_kernel_calls_inconsistent_is_made_again() -> None:
    kernel = FakeKernel(*HELD)
    kernel.interrupted = 1
    source = RouteSource(open_socket=lambda: kernel, decode_dump=decode_change)
    assert len(source.start().routes) == 2
    assert kernel.dumps == 12


def test_a_dump_that_never_ends_is_begun_again_later() -> None:
    now_s = 0.0
    kernel = FakeKernel(*HELD)
    source = RouteSource(open_socket=lambda: kernel, decode_dump=decode_change, clock=lambda: now_s)
    source.start()
    kernel.silent = True
    kernel.queue.append(OSError(errno.ENOBUFS, "lost"))
    source.process()
    kernel.silent = False
    before = kernel.dumps
    source.process()
    assert kernel.dumps == before
    now_s = 6.0
    source.process()
    assert kernel.dumps > before


def test_a_socket_that_always_fails_does_not_raise() -> None:
    kernel, source = started()

    kernel.broken = True
    kernel.queue.extend(OSError(errno.EBADF, "bad file descriptor") for _ in range(3))
    assert source.process() is None
    source.close()
    assert kernel.closed


MESSAGES = {
    "a link": (NEWLINK, link(3, "wlan0"), LinkFact(index=3, name="wlan0", up=True, working=True)),
    "a link that is down": (NEWLINK, link(3, "wlan0", 0), LinkFact(index=3, name="wlan0", up=False, working=False)),
    "an address": (
        NEWADDR,
        address("10.0.1.2/24"),
        AddressFact(index=1, address=IPv4Address("10.0.1.2"), prefix_length=24, usable=True),
    ),
    "an address of a point-to-point link": (
        NEWADDR,
        address("10.0.1.2/32", peer="10.0.1.1"),
        AddressFact(index=1, address=IPv4Address("10.0.1.2"), prefix_length=32, usable=True),
    ),
    "an IPv6 address": (
        NEWADDR,
        address("fd00::2/64", flags=0x40),
        AddressFact(index=1, address=IPv6Address("fd00::2"), prefix_length=64, usable=False),
    ),
    "a route": (
        NEWROUTE,
        route("198.51.100.0/24", [(2, "10.0.2.1")], metric=5, source="10.0.2.2"),
        ("198.51.100.0/24", 254, 5, "10.0.2.2", [(2, "10.0.2.1")]),
    ),
    "a default route": (NEWROUTE, route("::/0", [(2, "fe80::1")], table=253), ("::/0", 253, 0, None, [(2, "fe80::1")])),
    "a route of several hops": (
        NEWROUTE,
        route("0.0.0.0/0", [(1, "10.0.1.1"), (2, None), (2, "fd00::1")]),
        ("0.0.0.0/0", 254, 0, None, [(1, "10.0.1.1"), (2, None), (2, "fd00::1")]),
    ),
    "a route over an IPv6 gateway": (
        NEWROUTE,
        route("0.0.0.0/0", [(1, "fd00::1")]),
        ("0.0.0.0/0", 254, 0, None, [(1, "fd00::1")]),
    ),
    "a route of another table": (NEWROUTE, route("10.0.0.0/8", table=220), None),
    "a bridge's port": (NEWLINK, link(3, "wlan0", family=AF_BRIDGE), None),
}


@pytest.mark.parametrize("decode", [decode_change, pyroute.decode_change], ids=["own", "pyroute2"])
@pytest.mark.parametrize(("kind", "payload", "expected"), MESSAGES.values(), ids=MESSAGES.keys())
def test_both_decoders_read_a_message_alike(kind: int, payload: bytes, expected: object, decode: object) -> None:
    assert callable(decode)
    for type_, flags in ((kind, 0), (kind, REPLACE), (kind + 1, 0)):
        ((packed),) = unpack_messages(message(type_, payload, flags=flags))
        change = decode(packed)
        if expected is None:
            assert change is None
            continue
        assert (change.gone, change.replaces) == (type_ == kind + 1, flags == REPLACE)
        assert change.fact == (as_route(*expected) if isinstance(expected, tuple) else expected)


def as_route(
    destination: str, table: int, metric: int, source: str | None, hops: Sequence[tuple[int, str | None]]
) -> RouteFact:
    def known(text: str | None) -> IPAddress | None:
        return ip_address(text) if text else None

    return RouteFact(
        table=table,
        destination=ip_network(destination),
        tos=0,
        metric=metric,
        preferred_source=known(source),
        hops=tuple(Hop(index, known(gateway)) for index, gateway in hops),
    )


@pytest.mark.parametrize("cut", range(4, 60, 4))
def test_pyroute2_gives_an_error_of_ours_or_a_fact_for_cut_messages(cut: int) -> None:
    ((packed),) = unpack_messages(message(NEWADDR, address("10.0.1.2/24")[:cut]))
    try:
        change = pyroute.decode_change(packed)
    except WireError:
        return
    assert change is not None


@pytest.mark.parametrize(
    ("text", "flags", "usable", "temporary"),
    [
        ("2001:db8::1/64", 0x80, True, False),
        ("2001:db8::1/64", 0x01, True, True),
        ("2001:db8::1/64", 0x01 | 0x20, False, True),
        ("2001:db8::1/64", 0x40, False, False),
        ("2001:db8::1/64", 0x08, False, False),
        ("fe80::1/64", 0x80, False, False),
        ("10.0.1.2/24", 0x01, True, False),
    ],
    ids=["usual", "privacy", "privacy-deprecated", "tentative", "duplicate", "link-local", "second-of-ipv4"],
)
def test_which_addresses_are_usable_and_which_are_for_privacy(
    text: str, flags: int, usable: bool, temporary: bool
) -> None:
    (parsed,) = unpack_messages(message(NEWADDR, address(text, flags=flags)))
    change = decode_change(parsed)
    assert change is not None
    assert isinstance(change.fact, AddressFact)
    assert (change.fact.usable, change.fact.temporary) == (usable, temporary)


@pytest.mark.parametrize(
    ("flags", "preferred_s", "deprecated"),
    [(0x80, 60, False), (0x20, 60, True), (0x80, 0, True), (0x20 | 0x40, 0, False), (0x20 | 0x08, 0, False)],
    ids=["preferred", "flag", "lifetime", "tentative", "duplicate"],
)
@pytest.mark.parametrize("text", ["10.0.1.9/24", "2001:db8::9/64"])
def test_a_deprecated_address_still_works_where_its_link_does(
    text: str, flags: int, preferred_s: int, deprecated: bool
) -> None:
    kernel, source = started()
    kernel.tell(NEWADDR, address(text, flags=flags, preferred_s=preferred_s))
    repository = source.process()
    assert repository is not None
    assert repository.addresses[-1].deprecated == deprecated
    kernel.tell(NEWLINK, link(1, "eth0", 0x1))
    repository = source.process()
    assert repository is not None
    assert repository.addresses[-1].deprecated is False


def test_a_gateway_reads_no_routes_and_asks_for_none() -> None:
    kernel = FakeKernel(*HELD)
    source = RouteSource(open_socket=lambda: kernel, decode_dump=decode_change, routes=False)
    assert source.start() == Repository(addresses=(own("10.0.1.2/24"), own("10.0.2.2/24", "eth1")))
    assert kernel.dumps == 2
    kernel.tell(DELADDR, address("10.0.2.2/24", 2))
    assert source.process() == Repository(addresses=(own("10.0.1.2/24"),))
    assert kernel.dumps == 2


@pytest.mark.parametrize("text", ["10.9.0.1", "fd09::1"])
def test_a_route_that_has_an_inner_address_delivered_is_known_again_as_ours(text: str) -> None:
    inner = ip_address(text)
    (ours,) = unpack_messages(message(NEWROUTE, local_route(inner)))
    assert own_local_route(ours) == inner
    payload = bytearray(local_route(inner))
    payload[5] = 2  # RTPROT_KERNEL
    (kernels,) = unpack_messages(message(NEWROUTE, bytes(payload)))
    assert own_local_route(kernels) is None
