"""A terminal whose gateway is silent, or says that it has other addresses."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.core.seeking import ATTEMPTS
from swanroam.core.settings import TunnelSettings
from swanroam.core.tunnel import Phase
from swanroam.model.effects import Effect, MoveStates, PacketRejected, Reestablish, Trigger
from swanroam.model.events import Reason, RepositoryChanged, TimerKind
from swanroam.model.messages import Feature, GatewayMoved, GatewayMovedAck, Hello, HelloAck, Update, UpdateAck
from swanroam.model.path import Endpoint, IPAddress
from swanroam.model.tunnel import Role
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    PRIVATE,
    SECOND,
    A,
    B,
    Desk,
    ike_sa,
    in_udp,
    messages,
    one,
    path,
    some,
    timers,
)
from tests.unit.test_core_reach import A6, at

THIRD, GATEWAY6 = IPv4Address("203.0.113.3"), IPv6Address("2001:db8:99::1")
NEVER = (*map(IPv4Address, ("224.0.0.1", "127.0.0.1", "169.254.1.1", "0.0.0.0")), INNER, FIRST_SERVER, A)  # noqa: S104


def terminal(*told: IPAddress) -> Desk:
    """A terminal at A, which its gateway told these addresses."""
    desk = Desk(Role.TERMINAL)
    desk.roam(A)
    (hello,) = messages(desk.listed(ike_sa(Role.TERMINAL)))
    assert isinstance(hello, Hello)
    desk.message(HelloAck(nonce=hello.nonce, features=Feature.UPDATE, addresses=told))
    return desk


def moved(desk: Desk, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """The kernel makes the move that is among these effects."""
    return desk.moved(one(MoveStates, effects))


def silent(desk: Desk) -> tuple[Effect, ...]:
    """Nobody acknowledges as many UPDATEs as it takes; what is done then."""
    for _ in range(ATTEMPTS - 1):
        desk.expired(TimerKind.UPDATE)
    return desk.expired(TimerKind.UPDATE)


def goes_to(effects: tuple[Effect, ...]) -> tuple[IPAddress, IPAddress]:
    move = one(MoveStates, effects)
    assert move.trigger is Trigger.GATEWAY
    return move.new.addresses


def acknowledged(desk: Desk) -> tuple[Effect, ...]:
    return desk.message(UpdateAck(sequence=desk.tunnel.update_sequence, observed=Endpoint(desk.tunnel.here, 500)))


def test_a_terminal_learns_the_addresses_of_its_gateway_but_for_those_that_can_be_none() -> None:
    assert terminal(GATEWAY, SECOND, GATEWAY6, *NEVER).tunnel.gateways == (GATEWAY, SECOND, GATEWAY6)


def test_where_both_ends_say_hello_at_once_the_answer_to_its_own_still_tells_the_terminal_of_them() -> None:
    desk = Desk(Role.TERMINAL)
    (hello,) = messages(desk.listed(ike_sa(Role.TERMINAL)))
    assert isinstance(hello, Hello)
    desk.greeted()
    (again,) = messages(desk.expired(TimerKind.HELLO))
    assert again == hello
    desk.message(HelloAck(nonce=hello.nonce, features=Feature.UPDATE, addresses=(GATEWAY, SECOND)))
    assert desk.tunnel.gateways == (GATEWAY, SECOND)


def test_an_answer_to_another_hello_tells_nothing() -> None:
    desk = terminal(GATEWAY)
    desk.message(HelloAck(nonce=b"another nonce 16", features=Feature.UPDATE, addresses=(THIRD,)))
    assert desk.tunnel.gateways == (GATEWAY,)


def test_a_gateway_that_is_silent_is_sought_at_its_other_addresses_one_after_the_other_and_then_at_the_first() -> None:
    desk = terminal(GATEWAY, SECOND, THIRD)
    moved(desk, desk.roam(B))
    for there in (SECOND, THIRD, GATEWAY):
        effects = silent(desk)
        assert goes_to(effects) == (B, there)
        told = moved(desk, effects)
        assert isinstance(messages(told)[0], Update)
    assert messages(silent(desk)) != [], "it goes on at the first as without others"
    assert desk.tunnel.attempt == ATTEMPTS
    udp = one(MoveStates, desk.expired(TimerKind.UPDATE))
    assert (udp.trigger, udp.new.remote.address) == (Trigger.NAT, GATEWAY)


def test_in_the_end_charon_is_asked_to_build_the_tunnel_anew() -> None:
    desk = terminal(SECOND)
    effects = moved(desk, desk.roam(B))
    for _ in range(40):
        if some(Reestablish, effects):
            break
        moves = some(MoveStates, effects)
        effects = desk.moved(moves[0]) if moves else desk.expired(TimerKind.UPDATE)
    assert len(some(Reestablish, effects)) == 1
    assert desk.tunnel.phase is Phase.ABANDONED


def test_where_it_is_found_charon_follows_and_the_next_time_all_addresses_are_tried_again() -> None:
    desk = terminal(GATEWAY, SECOND)
    moved(desk, desk.roam(B))
    moved(desk, silent(desk))
    acknowledged(desk)
    assert (desk.tunnel.phase, desk.tunnel.path.addresses) == (Phase.STEADY, (B, SECOND))
    assert desk.tunnel.sought == ()
    moved(desk, desk.roam(A))
    assert goes_to(silent(desk)) == (A, GATEWAY)


def test_the_configured_addresses_come_before_those_that_were_told() -> None:
    desk = terminal(SECOND)
    wanted = TunnelSettings(gateways=(THIRD,))
    desk.core.reconfigure(replace(desk.core.settings, tunnels={"*": wanted}))
    moved(desk, desk.roam(B))
    assert goes_to(silent(desk)) == (B, THIRD)


def test_an_address_that_no_route_leads_to_is_left_out() -> None:
    desk = terminal(GATEWAY6, SECOND)
    moved(desk, desk.roam(B))
    assert goes_to(silent(desk)) == (B, SECOND)


def test_a_gateway_that_told_no_others_is_not_sought() -> None:
    for told in ((), (GATEWAY,)):
        desk = terminal(*told)
        moved(desk, desk.roam(B))
        assert some(MoveStates, silent(desk)) == []


def test_from_a_private_address_it_is_sought_in_udp() -> None:
    desk = terminal(SECOND)
    moved(desk, desk.roam(PRIVATE))
    move = one(MoveStates, silent(desk))
    assert (move.new.encap, move.new.remote) == (True, Endpoint(SECOND, 4500))


def test_where_the_kernel_refuses_to_go_there_it_is_told_again_where_it_is() -> None:
    desk = terminal(SECOND)
    moved(desk, desk.roam(B))
    effects = desk.refused(one(MoveStates, silent(desk)))
    assert [type(message) for message in messages(effects)] == [Update]
    assert len(timers(effects, TimerKind.UPDATE)) == 1
    assert desk.tunnel.path == path(Role.TERMINAL, B)


def test_a_gateway_that_has_moved_is_followed_and_told_so_there() -> None:
    desk = terminal(GATEWAY, SECOND)
    effects = desk.message(GatewayMoved(sequence=7, addresses=(SECOND,)))
    assert goes_to(effects) == (A, SECOND)
    told = messages(moved(desk, effects))
    assert told[0] == GatewayMovedAck(sequence=7)
    assert isinstance(told[1], Update)
    acknowledged(desk)
    assert (desk.tunnel.phase, desk.tunnel.path.addresses) == (Phase.STEADY, (A, SECOND))
    assert messages(desk.message(GatewayMoved(sequence=7, addresses=(SECOND,)))) == [GatewayMovedAck(sequence=7)]


def test_a_gateway_that_has_other_addresses_besides_is_acknowledged_and_nothing_moves() -> None:
    desk = terminal(GATEWAY)
    effects = desk.message(GatewayMoved(sequence=7, addresses=(SECOND, GATEWAY)))
    assert messages(effects) == [GatewayMovedAck(sequence=7)]
    assert some(MoveStates, effects) == []
    assert desk.tunnel.gateways == (SECOND, GATEWAY)


def test_a_word_that_is_older_than_the_last_one_is_refused_and_counted() -> None:
    desk = terminal(GATEWAY)
    desk.message(GatewayMoved(sequence=7, addresses=(GATEWAY, SECOND)))
    effects = desk.message(GatewayMoved(sequence=6, addresses=(THIRD,)))
    assert [(each.reason, each.source) for each in some(PacketRejected, effects)] == [
        (Reason.OLD_SEQUENCE, FIRST_SERVER)
    ]
    assert some(MoveStates, effects) == []
    assert messages(effects) == []
    assert desk.tunnel.rejected == {Reason.OLD_SEQUENCE: 1}
    assert desk.tunnel.gateways == (GATEWAY, SECOND)


def test_where_nobody_answers_at_the_new_address_the_tunnel_comes_back_and_is_not_sent_there_again() -> None:
    desk = terminal(GATEWAY, SECOND)
    message = GatewayMoved(sequence=7, addresses=(SECOND,))
    moved(desk, desk.message(message))
    back = silent(desk)
    assert goes_to(back) == (A, GATEWAY)
    assert [type(message) for message in messages(moved(desk, back))] == [Update]
    acknowledged(desk)
    assert desk.message(message) == ()
    assert desk.tunnel.path == path(Role.TERMINAL)
    assert goes_to(desk.message(GatewayMoved(sequence=8, addresses=(SECOND,)))) == (A, SECOND)


@pytest.mark.parametrize("address", NEVER)
def test_a_tunnel_is_not_moved_to_an_address_that_can_be_no_gateways(address: IPAddress) -> None:
    desk = terminal(GATEWAY)
    assert desk.message(GatewayMoved(sequence=7, addresses=(address,))) == ()
    assert desk.tunnel.path == path(Role.TERMINAL)


def test_while_the_tunnel_moves_and_after_a_refusal_the_message_waits_for_its_repetition() -> None:
    desk = terminal(GATEWAY, SECOND)
    message = GatewayMoved(sequence=7, addresses=(SECOND,))
    move = one(MoveStates, desk.message(message))
    assert desk.message(message) == ()
    desk.refused(move)
    assert goes_to(desk.message(message)) == (A, SECOND)


def test_tunnels_that_may_not_move_and_gateways_refuse_the_message_and_count_it() -> None:
    message = GatewayMoved(sequence=7, addresses=(SECOND,))
    pending, gateway, udp = Desk(Role.TERMINAL), Desk(Role.GATEWAY), Desk(Role.TERMINAL)
    there = ike_sa(Role.TERMINAL), ike_sa(Role.GATEWAY), in_udp(ike_sa(Role.TERMINAL))
    for desk, sa in zip((pending, gateway, udp), there, strict=True):
        desk.core.settings.learned["home", sa.remote_vips] = False
        desk.roam(A)
        desk.listed(sa)
        if desk is not pending:
            desk.greeted()
        assert one(PacketRejected, desk.message(message)).reason is Reason.BAD_MESSAGE
        assert desk.tunnel.gateway_sequence == 0


def test_a_terminal_that_is_left_without_its_ip_version_goes_to_an_address_that_was_told() -> None:
    desk = terminal(GATEWAY, GATEWAY6)
    move = one(MoveStates, desk.step(RepositoryChanged(at_s=desk.now_s, repository=at(A6))))
    assert move.new.addresses == (A6, GATEWAY6)
