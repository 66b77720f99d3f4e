"""The address repository against the kernel: what a dump says, which source the kernel itself chooses, and how fast.

namespace      link0 ---- peer0     10.20.0.2/24, fd20::2/64, default via 10.20.0.1 and fd20::1, metric 100
swrroutesPID-  link1 ---- peer1     10.21.0.2/24, fd21::2/64, default via 10.21.0.1 and fd21::1, metric 200
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from swanroam.core.paths import best, candidates
from swanroam.kernel.kept import KeptAddresses
from swanroam.kernel.routes import RouteSource
from swanroam.model.path import Candidate, IPAddress, LocalAddress, Repository
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.rtnetlink import decode_change
from tests.lab.conditions import eventually
from tests.lab.netns import Namespace, batch, sweep
from tests.support.values import KEY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")

FAMILY = "swrroutes"
REMOTE = IPv4Address("192.0.2.1")
REMOTE6 = IPv6Address("2001:db8::1")

LINKS = (
    "link set lo up",
    *(
        line.format(n=number, metric=100 * (number + 1))
        for number in (0, 1)
        for line in (
            "link add link{n} type veth peer name peer{n}",
            "link set peer{n} addrgenmode none",
            "link set peer{n} up",
            "link set link{n} addrgenmode none",
            "link set link{n} up",
            "addr add 10.2{n}.0.2/24 dev link{n}",
            "addr add fd2{n}::2/64 dev link{n} nodad",
            "route add default via 10.2{n}.0.1 dev link{n} metric {metric}",
            "route add default via fd2{n}::1 dev link{n} metric {metric}",
        )
    ),
)


class Machine:
    """A namespace with two links."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def ip(self, *lines: str) -> None:
        """Change something with `ip`."""
        self.namespace.call(lambda: batch("ip", lines))

    def source(self, **options: Callable[..., object]) -> RouteSource:
        """A source that is in the namespace, not yet started."""
        with self.namespace.entered():
            return RouteSource(**options)  # type: ignore[arg-type]  # keywords of the one test that gives any

    def dumped(self) -> Repository:
        """The repository as a dump gives it now."""
        source = self.source(decode_dump=decode_change)
        try:
            return source.start()
        finally:
            source.close()

    def kernel_choice(self, remote: IPAddress) -> tuple[IPAddress, str]:
        """Source and interface that the kernel would use."""
        (route,) = json.loads(self.namespace.run(["ip", "-j", "route", "get", str(remote)]))
        return ip_address(route["prefsrc"]), str(route["dev"])


@pytest.fixture
def machine() -> Iterator[Machine]:
    sweep(FAMILY)
    name = f"{FAMILY}{os.getpid()}-m"
    batch("ip", [f"netns add {name}"])
    namespace = Namespace(name)
    try:
        made = Machine(namespace)
        made.ip(*LINKS)
        yield made
    finally:
        namespace.close()
        batch("ip", [f"netns del {name}"])


@pytest.fixture
def source(machine: Machine) -> Iterator[RouteSource]:
    source = machine.source(decode_dump=decode_change)
    source.start()
    yield source
    source.close()


def same(one: Repository, other: Repository) -> bool:
    """Equal but for the order of routes, and of the addresses of different interfaces and families."""

    def addresses(repository: Repository) -> list[LocalAddress]:
        return sorted(repository.addresses, key=lambda address: (address.interface, address.address.version))

    return addresses(one) == addresses(other) and set(one.routes) == set(other.routes)


def ranked(repository: Repository, remote: IPAddress) -> tuple[IPAddress, str] | None:
    choice: Candidate | None = best(candidates(repository, remote, ()), None)
    return (choice.address, choice.interface) if choice else None


STORIES = {
    "an address goes and comes elsewhere": (
        "addr del 10.20.0.2/24 dev link0",
        "addr add 10.21.0.9/24 dev link1",
        "route replace default via 10.21.0.1 dev link1 metric 100",
    ),
    "the source of a route goes": (
        "addr add 10.20.0.77/32 dev link0",
        "route add 198.51.100.0/24 via 10.20.0.1 dev link0 src 10.20.0.77",
        "addr del 10.20.0.77/32 dev link0",
    ),
    "a link goes down and up": ("link set link0 down", "link set link0 up"),
    "carrier goes and comes": ("link set peer0 down", "link set peer0 up"),
    "a link is deleted": ("link del link0",),
    "a link is renamed": ("link set link0 down", "link set link0 name other0", "link set other0 up"),
    "routes of several next hops": (
        "route add 198.51.100.0/24 nexthop via 10.20.0.1 dev link0 nexthop via 10.21.0.1 dev link1",
        "route add 2001:db8:1::/48 nexthop via fd20::1 dev link0 nexthop via fd21::1 dev link1",
        "route append 2001:db8:1::/48 via fd20::5 dev link0",
        "route del 2001:db8:1::/48 via fd21::1 dev link1",
        "link set link0 down",
        "route del 198.51.100.0/24",
    ),
    "routes of one destination": (
        "route append default via 10.20.0.7 dev link0 metric 100",
        "route replace default via 10.20.0.8 dev link0 metric 100",
        "route del default via 10.20.0.8 dev link0 metric 100",
        "route add default via 10.20.0.9 dev link0 metric 100 tos 0x10",
    ),
    "an address is deprecated": (
        "addr change fd20::2/64 dev link0 preferred_lft 0",
        "addr change fd20::2/64 dev link0 preferred_lft forever",
    ),
    "routes of other tables and kinds": (
        "route add 198.51.100.0/24 via 10.20.0.1 table 220",
        "route add 198.51.100.0/24 via 10.20.0.1 table default",
        "route add blackhole 203.0.113.0/24",
        "route add unreachable 2001:db8:2::/48",
    ),
    "a bridge takes a link and gives it back": (
        "link add bridge0 type bridge",
        "link set link1 master bridge0",
        "link set link1 nomaster",
    ),
    "a secondary address is promoted or goes": (
        "addr add 10.20.0.3/24 dev link0",
        "addr add 10.20.0.4/24 dev link0",
        "addr del 10.20.0.2/24 dev link0",
    ),
}


@pytest.mark.parametrize("lines", STORIES.values(), ids=STORIES.keys())
def test_after_each_change_events_alone_give_what_a_dump_gives(
    machine: Machine, source: RouteSource, lines: tuple[str, ...]
) -> None:
    for line in lines:
        machine.ip(line)

        def up_to_date() -> bool:
            source.process()
            return same(source.repository, machine.dumped())

        # Carrier comes a moment after the command.
        eventually(up_to_date, line, deadline_s=10)
    assert source.resyncs == 0
    assert source.malformed == 0


def test_ipv4_routes_that_go_without_a_word_are_gone_with_the_first_answer(
    machine: Machine, source: RouteSource
) -> None:
    machine.ip("route add 198.51.100.0/24 via 10.20.0.1 dev link0")
    source.process()
    machine.ip("addr del 10.20.0.2/24 dev link0")
    repository = source.process()
    assert repository is not None
    assert {route.interface for route in repository.routes if route.destination.version == 4} == {"link1"}
    assert same(repository, machine.dumped())


def test_nothing_new_gives_nothing(machine: Machine, source: RouteSource) -> None:
    assert source.process() is None
    machine.ip("route add 198.51.100.0/24 via 10.20.0.1 table 220", "neigh add 10.20.0.1 lladdr 2:0:0:0:0:1 dev link0")
    assert source.process() is None


def test_pyroute2_and_the_own_decoder_agree(machine: Machine) -> None:
    machine.ip(
        "route add 198.51.100.0/24 nexthop via 10.20.0.1 dev link0 nexthop via 10.21.0.1 dev link1",
        "route add 203.0.113.0/24 via inet6 fd20::1 dev link0 src 10.20.0.2",
        "addr add 10.22.0.1 peer 10.22.0.2/32 dev link0",
    )
    source = machine.source()
    assert source.start() == machine.dumped()
    source.close()


CHOICES = {
    "the lower metric": (),
    "an exact route": (
        "route add 192.0.2.0/24 via 10.21.0.1 dev link1",
        "route add 2001:db8::/64 via fd21::1 dev link1",
    ),
    "the preferred source": (
        "addr add 10.20.0.5/24 dev link0",
        "route replace default via 10.20.0.1 dev link0 metric 100 src 10.20.0.5",
        "addr add fd20::5/64 dev link0 nodad",
        "route del default via fd20::1 dev link0 metric 100",
        "route add default via fd20::1 dev link0 metric 100 src fd20::5",
    ),
    "the subnet of the gateway": (
        "addr add 172.16.0.2/24 dev link0",
        "route replace default via 172.16.0.1 dev link0 metric 100",
    ),
    "a preferred source of another interface": (
        "route replace default via 10.20.0.1 dev link0 metric 100 src 10.21.0.2",
    ),
    "the link that is left": ("link set link0 down",),
    # IPv6 keeps routes of a link without addresses, and would send with the source of another link.
    "the link with an address": (
        "addr del 10.20.0.2/24 dev link0",
        "route del default via fd20::1 dev link0 metric 100",
    ),
    "a route without gateway": ("route add 192.0.2.0/24 dev link1", "route add 2001:db8::/64 dev link1"),
    "the nearest IPv6 prefix": ("addr add 2001:db8:0:1::2/64 dev link0 nodad",),
    "not the deprecated address": (
        "addr add 2001:db8:0:1::2/64 dev link0 nodad",
        "addr change 2001:db8:0:1::2/64 dev link0 preferred_lft 0",
    ),
}


@pytest.mark.parametrize("lines", CHOICES.values(), ids=CHOICES.keys())
@pytest.mark.parametrize("remote", [REMOTE, REMOTE6], ids=["IPv4", "IPv6"])
def test_the_best_source_is_the_one_that_the_kernel_chooses(
    machine: Machine, source: RouteSource, lines: tuple[str, ...], remote: IPAddress
) -> None:
    machine.ip(*lines)

    def agree() -> bool:
        source.process()
        return ranked(source.repository, remote) == machine.kernel_choice(remote)

    eventually(agree, f"{remote}: as the kernel", deadline_s=5)


def test_a_privacy_address_is_chosen_where_the_kernel_would_choose_it(machine: Machine, source: RouteSource) -> None:
    machine.namespace.run(["sysctl", "-qw", "net.ipv6.conf.link0.use_tempaddr=2"])
    machine.ip("addr add 2001:db8:0:1::2/64 dev link0 nodad mngtmpaddr")

    def agree() -> bool:
        source.process()
        private = [(each.address, "link0") for each in source.repository.addresses if each.temporary and each.usable]
        return private == [ranked(source.repository, REMOTE6)] == [machine.kernel_choice(REMOTE6)]

    eventually(agree, "the temporary address (RFC 8981) is the source", deadline_s=10)


class NoTranslation:
    """Where nothing is sent there is nothing to rewrite."""

    def translate(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Nothing."""

    def untranslate(self, key: TunnelKey) -> None:
        """Nothing."""


@pytest.mark.parametrize(("kept", "remote"), [("192.0.2.9", REMOTE), ("2001:db8::9", REMOTE6)], ids=["IPv4", "IPv6"])
def test_a_kept_address_is_nobodys_source_and_the_next_daemon_removes_it(
    machine: Machine, kept: str, remote: IPAddress
) -> None:
    machine.ip("addr add 192.0.2.77/32 dev lo", "addr add 2001:db8::77/128 dev lo preferred_lft 0")
    choice = machine.kernel_choice(remote)
    eventually(lambda: ranked(machine.dumped(), remote) == choice, "the links work", deadline_s=5)
    before = machine.dumped()
    with machine.namespace.entered():
        killed, restarted = KeptAddresses(NoTranslation()), KeptAddresses(NoTranslation())
    killed.keep(KEY, ip_address(kept), choice[0], remote)
    there = machine.dumped()
    assert set(there.routes) == set(before.routes)
    assert [each.usable for each in there.addresses if each.address == ip_address(kept)] == [False]
    assert ranked(there, remote) == machine.kernel_choice(remote) == choice
    restarted.clean()
    assert {each.address for each in machine.dumped().addresses} == {each.address for each in before.addresses}
    for each in (killed, restarted):
        each.close()


def test_a_move_is_taken_in_within_milliseconds(machine: Machine, source: RouteSource) -> None:
    took_ms: list[float] = []
    for move in range(20):
        old, new = move % 2, (move + 1) % 2
        machine.ip(
            f"addr del 10.2{old}.0.2/24 dev link{old}",
            f"addr replace 10.2{new}.0.2/24 dev link{new}",
            f"route replace default via 10.2{new}.0.1 dev link{new} metric 50",
        )
        began_s = time.monotonic()
        repository = source.process()
        took_ms.append((time.monotonic() - began_s) * 1000)
        assert repository is not None
        assert ranked(repository, REMOTE) == (IPv4Address(f"10.2{new}.0.2"), f"link{new}")
        source.process()
    print(f"\na move taken in: median {sorted(took_ms)[10]:.2f} ms, worst {max(took_ms):.2f} ms")
    assert sorted(took_ms)[10] < 50
