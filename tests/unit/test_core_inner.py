"""Where in-tunnel messages go."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from swanroam.core.inner import message_addresses
from swanroam.core.tunnel import Tunnel
from swanroam.model.tunnel import Capability, Role, Selector
from tests.support.values import GATEWAY, INNER, KEY, PORT, ike_sa, path


def tunnel(role: Role, *gateway_side: Selector, terminal_side: tuple[Selector, ...] = ()) -> Tunnel:
    sa = ike_sa(role)
    child = sa.children[0]
    if role is Role.TERMINAL:
        child = replace(child, remote_selectors=gateway_side, local_selectors=terminal_side or child.local_selectors)
    else:
        child = replace(child, local_selectors=gateway_side, remote_selectors=terminal_side or child.remote_selectors)
    return Tunnel(
        key=KEY, role=role, sas=(replace(sa, children=(child,)),), path=path(role), capability=Capability.PENDING
    )


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("10.1.0.0/24", "10.1.0.1"),
        ("10.1.0.7/32", "10.1.0.7"),
        ("10.1.0.6/31", "10.1.0.6"),
        ("0.0.0.0/0", str(GATEWAY)),
    ],
)
def test_the_gateways_side_is_some_host_of_its_selector(network: str, host: str) -> None:
    selector = Selector(IPv4Network(network))
    assert message_addresses(tunnel(Role.TERMINAL, selector), PORT) == (INNER, IPv4Address(host))
    assert message_addresses(tunnel(Role.GATEWAY, selector), PORT) == (IPv4Address(host), INNER)


@pytest.mark.parametrize(
    "selector",
    [
        Selector(IPv4Network("10.1.0.0/24"), 6),
        Selector(IPv4Network("10.1.0.0/24"), 17, 0, PORT - 1),
        Selector(IPv6Network("fd00::/64")),
    ],
)
def test_there_is_no_way_where_no_selector_lets_the_port_through(selector: Selector) -> None:
    assert message_addresses(tunnel(Role.TERMINAL, selector), PORT) is None


def test_the_first_selector_that_lets_the_port_through_is_used() -> None:
    narrow, wide = Selector(IPv4Network("10.1.0.0/24"), 6), Selector(IPv4Network("10.2.0.0/24"), 17, PORT, PORT)
    assert message_addresses(tunnel(Role.TERMINAL, narrow, wide), PORT) == (INNER, IPv4Address("10.2.0.1"))


def test_there_is_no_way_where_the_terminals_selectors_leave_its_inner_address_out() -> None:
    elsewhere = (Selector(IPv4Network("10.9.0.0/24")),)
    servers = Selector(IPv4Network("10.1.0.0/24"))
    assert message_addresses(tunnel(Role.GATEWAY, servers, terminal_side=elsewhere), PORT) is None


def test_messages_need_a_child_sa() -> None:
    empty = Tunnel(
        key=KEY,
        role=Role.TERMINAL,
        sas=(ike_sa(Role.TERMINAL, spis=()),),
        path=path(Role.TERMINAL),
        capability=Capability.PENDING,
    )
    assert message_addresses(empty, PORT) is None
