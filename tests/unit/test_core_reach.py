"""From where and to where a terminal goes, over IPv4, over IPv6, and from one to the other."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv6Address, ip_network

import pytest

from swanroam.core.reach import choose
from swanroam.core.settings import Settings, TunnelSettings
from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import InformCharon, MoveStates, VerifyPacket, Watch
from swanroam.model.events import PacketHeld, RepositoryChanged
from swanroam.model.messages import Update, UpdateAck
from swanroam.model.path import Endpoint, IPAddress, LocalAddress, Path, Repository, Route
from swanroam.model.tunnel import Capability, Role
from tests.support.values import (
    GATEWAY,
    INNER,
    KEY,
    SPI_UP,
    A,
    B,
    ike_sa,
    messages,
    negotiated,
    one,
    path,
    some,
)

GATEWAY6, OTHER6 = IPv6Address("2001:db8:99::1"), IPv6Address("2001:db8:98::1")
A6, B6, PRIVACY6 = IPv6Address("2001:db8:1::a"), IPv6Address("2001:db8:2::b"), IPv6Address("2001:db8:1::eeee:1")
LINK_LOCAL = IPv6Address("fe80::1")
OVER6 = Path(Endpoint(A6, 500), Endpoint(GATEWAY6, 500))
TUNNEL = Tunnel(
    key=KEY,
    role=Role.TERMINAL,
    sas=(ike_sa(Role.TERMINAL),),
    path=path(Role.TERMINAL),
    capability=Capability.NEGOTIATED,
)


def at(
    *addresses: IPAddress,
    unusable: tuple[IPAddress, ...] = (),
    deprecated: tuple[IPAddress, ...] = (),
    temporary: tuple[IPAddress, ...] = (),
    links: Mapping[IPAddress, str] | None = None,
) -> Repository:
    """These addresses, each on a link of its own unless `links` says otherwise, with a default route of its version."""
    local = tuple(
        LocalAddress(
            address=address,
            prefix_length=64,
            interface=(links or {}).get(address, f"link-{address}"),
            usable=address not in (*unusable, *deprecated),
            deprecated=address in deprecated,
            temporary=address in temporary,
        )
        for address in addresses
    )
    routes = (
        Route(
            destination=ip_network("0.0.0.0/0" if each.address.version == 4 else "::/0"),
            interface=each.interface,
            metric=100,
        )
        for each in local
    )
    return Repository(addresses=local, routes=tuple(dict.fromkeys(routes)))


def test_the_present_address_of_the_gateway_is_kept_while_anything_leads_there() -> None:
    assert choose(TUNNEL, at(A, A6), (INNER,), (GATEWAY6,)) is None
    assert choose(TUNNEL, at(B, A6), (INNER,), (GATEWAY6,)) == (B, GATEWAY)


@pytest.mark.parametrize("gateways", [(GATEWAY6,), (GATEWAY, GATEWAY6), (GATEWAY6, OTHER6)])
def test_where_nothing_leads_there_the_next_that_is_reached_is_taken(gateways: tuple[IPAddress, ...]) -> None:
    assert choose(TUNNEL, at(A6), (INNER,), gateways) == (A6, GATEWAY6)


def test_and_back_again() -> None:
    over6 = replace(TUNNEL, path=OVER6)
    assert choose(over6, at(A6, A), (), (GATEWAY, GATEWAY6)) is None
    assert choose(over6, at(A), (), (GATEWAY, GATEWAY6)) == (A, GATEWAY)
    assert choose(over6, at(B6), (), ()) == (B6, GATEWAY6)


def test_without_a_way_it_stays() -> None:
    assert choose(TUNNEL, at(A6), (), ()) is None
    assert choose(TUNNEL, at(), (), (GATEWAY6,)) is None


def test_a_tunnel_whose_address_is_kept_changes_no_version() -> None:
    native = replace(TUNNEL.sas[0], children=(replace(TUNNEL.sas[0].children[0], encap=True),))
    assert choose(replace(TUNNEL, sas=(native,)), at(A6), (), (GATEWAY6,)) is None


def test_what_may_not_be_used_is_not_used() -> None:
    """Tentative, deprecated and link-local addresses are not usable; inner addresses are never outer ones."""
    there = at(LINK_LOCAL, A6, B6, unusable=(LINK_LOCAL, A6))
    assert choose(replace(TUNNEL, path=OVER6), there, (), ()) == (B6, GATEWAY6)
    assert choose(replace(TUNNEL, path=OVER6), there, (B6,), ()) is None


def test_a_deprecated_address_is_left_for_another_of_its_ip_version_while_it_works() -> None:
    over6 = replace(TUNNEL, path=OVER6)
    assert choose(over6, at(A6, B6, deprecated=(A6,)), (), ()) == (B6, GATEWAY6)
    assert choose(over6, at(A6, A, deprecated=(A6,)), (), (GATEWAY,)) is None
    assert choose(over6, at(A), (), (GATEWAY,)) == (A, GATEWAY)
    assert choose(replace(over6, mobike=True), at(A6, B6, deprecated=(A6,)), (), ()) is None


def test_a_deprecated_address_from_which_no_route_leads_to_the_gateway_is_gone() -> None:
    """As of a router that has lost its own way out over IPv6 (RFC 4861 section 6.2.5)."""
    over6 = replace(TUNNEL, path=OVER6)
    there = at(A6, A, deprecated=(A6,))
    only4 = replace(there, routes=tuple(route for route in there.routes if route.destination.version == 4))
    assert choose(over6, only4, (), (GATEWAY,)) == (A, GATEWAY)
    assert choose(over6, replace(there, routes=()), (), (GATEWAY,)) is None


def test_what_comes_late_to_a_deprecated_address_is_looked_for() -> None:
    desk = negotiated(Role.TERMINAL)
    effects = desk.step(RepositoryChanged(at_s=desk.now_s, repository=at(A, B, deprecated=(A,))))
    assert (one(Watch, effects).late, one(MoveStates, effects).new.local.address) == ((A,), B)


def test_another_ip_version_is_charons_to_go_to_with_mobike() -> None:
    assert choose(replace(TUNNEL, mobike=True), at(A6), (), (GATEWAY6,)) is None
    assert choose(TUNNEL, at(A6), (), (GATEWAY6,)) == (A6, GATEWAY6)


def test_where_privacy_addresses_are_they_are_chosen_but_no_reason_to_move() -> None:
    same = {A6: "wlan0", PRIVACY6: "wlan0"}
    both = at(A6, PRIVACY6, temporary=(PRIVACY6,), links=same)
    over6 = replace(TUNNEL, path=OVER6)
    assert choose(over6, both, (), ()) is None
    assert choose(replace(over6, path=replace(OVER6, local=Endpoint(B6, 500))), both, (), ()) == (PRIVACY6, GATEWAY6)
    old = at(A6, PRIVACY6, temporary=(PRIVACY6,), unusable=(PRIVACY6,), links=same)
    there = replace(over6, path=replace(OVER6, local=Endpoint(PRIVACY6, 500)))
    assert choose(there, old, (), ()) == (A6, GATEWAY6)


def test_a_terminal_changes_the_ip_version_and_tells() -> None:
    desk = negotiated(Role.TERMINAL)
    desk.core.reconfigure(Settings(role=Role.TERMINAL, tunnels={"*": TunnelSettings(gateways=(GATEWAY6,))}))
    move = one(MoveStates, desk.step(RepositoryChanged(at_s=desk.now_s, repository=at(A6))))
    assert (move.old, move.new) == (path(Role.TERMINAL), OVER6)
    (update,) = messages(desk.moved(move))
    assert isinstance(update, Update)
    assert update.claimed == OVER6.local
    told = one(InformCharon, desk.message(UpdateAck(sequence=1, observed=OVER6.local)))
    assert (told.old, told.new) == (path(Role.TERMINAL), OVER6)


def test_a_gateway_follows_to_the_address_of_its_own_that_the_packet_came_to() -> None:
    desk = negotiated(Role.GATEWAY)
    held = PacketHeld(at_s=desk.now_s, packet_id=1, source=A6, destination=GATEWAY6, spi=SPI_UP)
    assert one(VerifyPacket, desk.step(held)).destination == GATEWAY
    move = one(MoveStates, desk.verified(1, sequence=100))
    assert move.new == Path(OVER6.remote, OVER6.local)
    assert one(Watch, desk.moved(move)).sources == (A6,)


def test_back_in_the_other_version_at_once_is_left_to_its_packets() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.step(PacketHeld(at_s=desk.now_s, packet_id=1, source=A6, destination=GATEWAY6, spi=SPI_UP))
    desk.moved(one(MoveStates, desk.verified(1, sequence=100)))
    effects = desk.message(Update(sequence=2, claimed=Endpoint(A, 500)))
    assert some(MoveStates, effects) == []
