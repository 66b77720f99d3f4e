"""Addresses that a terminal has left and goes on with: the order of what comes and goes, and what a failure leaves."""

import errno
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from swanroam.errors import KernelRefused
from swanroam.kernel import kept as module
from swanroam.kernel.kept import KeptAddresses
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.netlink import NetlinkMessage
from swanroam.wire.rtnetlink import RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR, AddressFact, decode_change, loopback_address
from tests.support.values import GATEWAY, KEY, A, B, C

OTHER = TunnelKey("other", KEY.inner)
Noted = list[tuple[object, ...]]


class FakeRoutes:
    """rtnetlink: notes additions and removals of addresses; `refuse` is what it says to the next one, if anything.

    `addresses` is what there is already.
    """

    def __init__(self, noted: Noted) -> None:
        self.noted = noted
        self.refuse: int | None = None
        self.addresses: list[NetlinkMessage] = []
        self.closed = False

    def request(self, operation: str, type_: int, payload: bytes, flags: int = 0) -> list[NetlinkMessage]:
        """Dumps have nothing but addresses."""
        del payload, flags
        if type_ in (RTM_NEWADDR, RTM_DELADDR):
            if code := self.refuse:
                self.refuse = None
                raise KernelRefused(operation, code)
            self.noted.append(tuple(operation.split()))
        return self.addresses if type_ == RTM_GETADDR else []

    def close(self) -> None:
        """Closed."""
        self.closed = True


class FakeTranslation:
    """The maps; `refuse` as above."""

    def __init__(self, noted: Noted) -> None:
        self.noted = noted
        self.refuse: int | None = None

    def translate(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Note it."""
        if code := self.refuse:
            self.refuse = None
            raise KernelRefused("translate", code)
        self.noted.append(("translate", key.name, kept, actual, remote))

    def untranslate(self, key: TunnelKey) -> None:
        """Note it."""
        self.noted.append(("untranslate", key.name))


class Desk:
    """Kept addresses on a machine that only notes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noted: Noted = []
        self.routes, self.translation = FakeRoutes(self.noted), FakeTranslation(self.noted)
        monkeypatch.setattr(module, "NetlinkSocket", lambda _: self.routes)
        self.kept = KeptAddresses(self.translation)

    def keep(self, key: TunnelKey = KEY, kept: IPAddress = A, actual: IPAddress = B) -> None:
        """Towards the gateway."""
        self.kept.keep(key, kept, actual, GATEWAY)

    def since(self) -> Noted:
        """What was noted since this was asked last."""
        noted = self.noted[:]
        self.noted.clear()
        return noted


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_an_address_is_rewritten_before_it_is_there_and_not_for_longer_than_it_is(desk: Desk) -> None:
    desk.keep()
    assert desk.since() == [("translate", "home", A, B, GATEWAY), ("add", str(A))]
    desk.kept.drop(KEY)
    assert desk.since() == [("untranslate", "home"), ("remove", str(A))]
    desk.kept.drop(KEY)
    assert desk.since() == []


def test_at_the_next_place_it_is_rewritten_to_that(desk: Desk) -> None:
    desk.keep()
    desk.since()
    desk.routes.refuse = errno.EEXIST
    desk.keep(actual=C)
    assert desk.since() == [("translate", "home", A, C, GATEWAY)]


def test_an_address_that_another_tunnel_goes_on_with_stays(desk: Desk) -> None:
    desk.keep()
    desk.keep(OTHER)
    desk.since()
    desk.kept.drop(KEY)
    assert desk.since() == [("untranslate", "home")]
    desk.kept.drop(OTHER)
    assert desk.since() == [("untranslate", "other"), ("remove", str(A))]


def test_what_the_kernel_refuses_leaves_all_as_it_was(desk: Desk) -> None:
    desk.routes.refuse = errno.EPERM
    with pytest.raises(KernelRefused):
        desk.keep()
    assert desk.since() == [("translate", "home", A, B, GATEWAY), ("untranslate", "home")]
    desk.kept.drop(KEY)
    assert desk.since() == []


def test_what_is_refused_of_the_next_place_leaves_the_tunnel_at_the_one_before(desk: Desk) -> None:
    desk.keep()
    desk.since()
    desk.translation.refuse = errno.EEXIST
    with pytest.raises(KernelRefused):
        desk.keep(actual=C)
    assert desk.since() == [("translate", "home", A, B, GATEWAY)]
    desk.kept.drop(KEY)
    assert desk.since() == [("untranslate", "home"), ("remove", str(A))]


def test_an_address_that_is_gone_already_is_no_failure(desk: Desk) -> None:
    desk.keep()
    desk.routes.refuse = errno.EADDRNOTAVAIL
    desk.kept.drop(KEY)


KEPT = pytest.mark.parametrize("kept", [A, ip_address("2001:db8::1")], ids=["ipv4", "ipv6"])


@KEPT
def test_what_a_killed_daemon_left_is_removed_and_nothing_of_others(desk: Desk, kept: IPAddress) -> None:
    ours = NetlinkMessage(RTM_NEWADDR, 0, 0, 0, loopback_address(kept, "lo:swanroam"))
    of_a_link = replace(ours, payload=ours.payload[:4] + bytes([2, 0, 0, 0]) + ours.payload[8:])
    unmarked = replace(ours, payload=ours.payload[: 8 + 2 * (4 + len(kept.packed))])
    desk.routes.addresses = [unmarked, of_a_link, replace(ours, type=RTM_DELADDR), replace(ours, payload=b"")]
    desk.kept.clean()
    assert desk.since() == []
    desk.routes.addresses.append(ours)
    desk.kept.clean()
    assert desk.since() == [("remove", str(kept))]


@KEPT
def test_no_tunnel_ever_goes_to_a_kept_address(kept: IPAddress) -> None:
    change = decode_change(NetlinkMessage(RTM_NEWADDR, 0, 0, 0, loopback_address(kept, "lo:swanroam")))
    assert change is not None
    assert isinstance(change.fact, AddressFact)
    assert change.fact.address == kept
    assert not change.fact.usable


def test_closing_removes_everything(desk: Desk) -> None:
    desk.keep()
    desk.keep(OTHER, kept=IPv4Address("192.0.2.99"))
    desk.since()
    desk.kept.close()
    assert {what[0] for what in desk.since()} == {"untranslate", "remove"}
    assert desk.routes.closed
