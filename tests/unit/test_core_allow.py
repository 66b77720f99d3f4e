"""Where a tunnel may end."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from swanroam.core.allow import may_be_outer
from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, Role, Selector
from tests.support.values import GATEWAY, INNER, KEY, A, B, ike_sa, path

TUNNEL = Tunnel(
    key=KEY,
    role=Role.GATEWAY,
    sas=(ike_sa(Role.GATEWAY),),
    path=path(Role.GATEWAY),
    capability=Capability.NEGOTIATED,
)
NOWHERE = [
    str(IPv4Address(0)),
    "127.0.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "169.254.1.1",
    str(GATEWAY),
    str(INNER),
]


@pytest.mark.parametrize("source", NOWHERE)
def test_a_source_where_no_tunnel_can_end_is_not_allowed_whatever_is_configured(source: str) -> None:
    assert not may_be_outer(TUNNEL, IPv4Address(source), ())
    assert not may_be_outer(TUNNEL, IPv4Address(source), (ip_network("0.0.0.0/0"),))


def test_a_source_of_the_other_ip_version_is_judged_as_any_other() -> None:
    assert may_be_outer(TUNNEL, IPv6Address("2001:db8::1"), ())
    assert may_be_outer(TUNNEL, IPv6Address("2001:db8::1"), (ip_network("::/0"),))
    assert not may_be_outer(TUNNEL, IPv6Address("2001:db8::1"), (ip_network("0.0.0.0/0"),))
    for never in ("fe80::1", "::1", "::", "ff02::1"):
        assert not may_be_outer(TUNNEL, IPv6Address(never), (ip_network("::/0"),))


@pytest.mark.parametrize("source", [A, B, ip_address("10.77.0.1"), ip_address("100.64.0.1")])
def test_any_unicast_address_is_allowed_where_nothing_is_configured(source: IPAddress) -> None:
    assert may_be_outer(TUNNEL, source, ())


def test_only_the_configured_networks_are_allowed_where_there_are_any() -> None:
    allow = (ip_network("198.51.100.0/25"), ip_network("192.0.2.10/32"))
    assert may_be_outer(TUNNEL, A, allow)
    assert may_be_outer(TUNNEL, B, allow)
    assert not may_be_outer(TUNNEL, ip_address("198.51.100.128"), allow)


def test_the_inner_network_is_not_allowed_unless_it_is_configured() -> None:
    server = ip_address("10.1.0.77")
    assert not may_be_outer(TUNNEL, server, ())
    assert may_be_outer(TUNNEL, server, (ip_network("10.1.0.0/24"),))


@pytest.mark.parametrize("network", ["0.0.0.0/0", "128.0.0.0/1", "203.0.113.0/24"])
def test_a_selector_that_takes_in_the_internet_or_the_gateway_is_no_inner_network(network: str) -> None:
    (sa,) = TUNNEL.sas
    children = tuple(replace(child, local_selectors=(Selector(ip_network(network)),)) for child in sa.children)
    everything = replace(TUNNEL, sas=(replace(sa, children=children),))
    assert may_be_outer(everything, ip_address("203.0.113.99"), ())
