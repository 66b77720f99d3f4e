"""The ranking of local addresses, and when a tunnel leaves one for another."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from swanroam.core.paths import best, candidates
from swanroam.model.path import Candidate, LocalAddress, Repository, Route

REMOTE = ip_address("192.0.2.1")
REMOTE6 = ip_address("2001:db8::1")


def address(text: str, interface: str, *, usable: bool = True, preference: int = 0) -> LocalAddress:
    host, _, length = text.partition("/")
    return LocalAddress(
        address=ip_address(host), prefix_length=int(length), interface=interface, usable=usable, preference=preference
    )


def route(
    destination: str, interface: str, metric: int = 0, via: str | None = None, source: str | None = None
) -> Route:
    return Route(
        destination=ip_network(destination),
        interface=interface,
        metric=metric,
        gateway=ip_address(via) if via else None,
        preferred_source=ip_address(source) if source else None,
    )


WLAN = (address("10.0.1.2/24", "wlan0"), route("0.0.0.0/0", "wlan0", 600, "10.0.1.1"))
LTE = (address("10.0.2.2/24", "lte0"), route("0.0.0.0/0", "lte0", 700, "10.0.2.1"))


def repository(*parts: LocalAddress | Route) -> Repository:
    return Repository(
        addresses=tuple(part for part in parts if isinstance(part, LocalAddress)),
        routes=tuple(part for part in parts if isinstance(part, Route)),
    )


RANKINGS = {
    "nothing there": ((), []),
    "one link": (WLAN, ["10.0.1.2"]),
    "lower metric first": ((*LTE, *WLAN), ["10.0.1.2", "10.0.2.2"]),
    "an address without route is no way": ((WLAN[0], *LTE), ["10.0.2.2"]),
    "a route without address is no way": ((WLAN[1], *LTE), ["10.0.2.2"]),
    "an unusable address is none": ((address("10.0.1.2/24", "wlan0", usable=False), WLAN[1], *LTE), ["10.0.2.2"]),
    "a longer prefix counts more than the metric": (
        (*WLAN, *LTE, route("192.0.2.0/24", "lte0", 900)),
        ["10.0.2.2", "10.0.1.2"],
    ),
    "of two routes of an interface the better one counts": (
        (*WLAN, route("0.0.0.0/0", "wlan0", 50, "10.0.1.7"), *LTE),
        ["10.0.1.2", "10.0.2.2"],
    ),
    "preference counts more than the route": (
        (*WLAN, replace(LTE[0], preference=1), LTE[1]),
        ["10.0.2.2", "10.0.1.2"],
    ),
    "other destinations do not count": ((WLAN[0], route("198.51.100.0/24", "wlan0"), *LTE), ["10.0.2.2"]),
    "the preferred source comes first": (
        (WLAN[0], address("10.0.1.9/24", "wlan0"), route("0.0.0.0/0", "wlan0", 600, "10.0.1.1", "10.0.1.9")),
        ["10.0.1.9", "10.0.1.2"],
    ),
    "an unusable preferred source is passed over": (
        (
            address("10.0.1.9/24", "wlan0", usable=False),
            WLAN[0],
            route("0.0.0.0/0", "wlan0", 600, "10.0.1.1", "10.0.1.9"),
        ),
        ["10.0.1.2"],
    ),
    "a preferred source may be of another interface": (
        (*LTE, route("0.0.0.0/0", "wlan0", 600, "10.0.1.1", "10.0.2.2")),
        ["10.0.2.2"],
    ),
    "the subnet of the gateway comes first": (
        (address("172.16.0.2/24", "wlan0"), *WLAN),
        ["10.0.1.2", "172.16.0.2"],
    ),
    "without gateway the kernel's order counts": (
        (address("172.16.0.2/24", "wlan0"), WLAN[0], route("0.0.0.0/0", "wlan0")),
        ["172.16.0.2", "10.0.1.2"],
    ),
    "an IPv6 gateway of an IPv4 route is in no subnet": (
        (WLAN[0], route("0.0.0.0/0", "wlan0", 600, "fe80::1")),
        ["10.0.1.2"],
    ),
}


@pytest.mark.parametrize(("parts", "expected"), RANKINGS.values(), ids=RANKINGS.keys())
def test_candidates_are_ranked(parts: tuple[LocalAddress | Route, ...], expected: list[str]) -> None:
    assert [str(found.address) for found in candidates(repository(*parts), REMOTE, ())] == expected


def test_a_virtual_ip_is_no_candidate() -> None:
    inner = address("10.9.0.1/32", "wlan0")
    assert [str(found.address) for found in candidates(repository(inner, *WLAN), REMOTE, {inner.address})] == [
        "10.0.1.2"
    ]


def test_only_the_family_of_the_remote_counts() -> None:
    both = repository(
        *WLAN, address("2001:db8:2::2/64", "wlan0"), address("fd00::2/64", "wlan0"), route("::/0", "wlan0", 1024)
    )
    assert [str(found.address) for found in candidates(both, REMOTE, ())] == ["10.0.1.2"]
    assert [str(found.address) for found in candidates(both, REMOTE6, ())] == ["2001:db8:2::2", "fd00::2"]


def candidate(
    text: str, preference: int = 0, prefix: int = 0, metric: int = 100, order: int = 0, link: str = "a"
) -> Candidate:
    return Candidate(
        address=ip_address(text),
        interface=link,
        preference=preference,
        route_prefix_length=prefix,
        metric=metric,
        address_order=order,
    )


MINE = candidate("10.0.0.1")

CHOICES = {
    "nothing": ((), "10.0.0.1", None),
    "the only one": ((MINE,), "10.0.0.1", "10.0.0.1"),
    "no present source: the best": ((MINE, candidate("10.0.0.2", metric=50)), None, "10.0.0.2"),
    "the present source is gone: the best at once": ((candidate("10.0.0.2", metric=900),), "10.0.0.1", "10.0.0.2"),
    "higher preference: leave": ((MINE, candidate("10.0.0.2", preference=1, metric=900)), "10.0.0.1", "10.0.0.2"),
    "longer prefix: leave": ((MINE, candidate("10.0.0.2", prefix=24, metric=900)), "10.0.0.1", "10.0.0.2"),
    "lower metric: leave, the kernel routes there": ((MINE, candidate("10.0.0.2", metric=99)), "10.0.0.1", "10.0.0.2"),
    "lower preference but better metric: stay": (
        (MINE, candidate("10.0.0.2", preference=-1, metric=1)),
        "10.0.0.1",
        "10.0.0.1",
    ),
    "a twin link: stay": ((replace(MINE, interface="b"), candidate("10.0.0.0")), "10.0.0.1", "10.0.0.1"),
    "a better address of the same interface: stay": (
        (replace(MINE, address_order=1), candidate("10.0.0.2", order=0)),
        "10.0.0.1",
        "10.0.0.1",
    ),
}


@pytest.mark.parametrize(("ranked", "current", "expected"), CHOICES.values(), ids=CHOICES.keys())
def test_a_tunnel_leaves_a_source_that_works_only_for_a_better_way(
    ranked: tuple[Candidate, ...], current: str | None, expected: str | None
) -> None:
    choice = best(ranked, ip_address(current) if current else None)
    assert (str(choice.address) if choice else None) == expected
