"""The gateway's own addresses: what terminals are told of them, and what it does when one is gone."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.core.addresses import ANNOUNCE_DELAYS_S
from swanroam.core.settings import TunnelSettings
from swanroam.core.tunnel import Phase
from swanroam.model.effects import (
    Effect,
    InformCharon,
    MoveStates,
    SendMessage,
    Trigger,
    TunnelMoved,
    VerifyPacket,
    Watch,
)
from swanroam.model.events import Reason, RepositoryChanged, TimerKind
from swanroam.model.messages import (
    ADDRESSES_MOST,
    Feature,
    GatewayMoved,
    GatewayMovedAck,
    Hello,
    HelloAck,
    PathResponse,
)
from swanroam.model.path import IPAddress, LocalAddress, Path, Repository
from swanroam.model.tunnel import Role
from tests.support.values import (
    GATEWAY,
    KEY,
    SECOND,
    SPI_UP,
    A,
    B,
    Desk,
    homes,
    ike_sa,
    in_udp,
    messages,
    one,
    path,
    some,
    timers,
)

THIRD, GATEWAY6 = IPv4Address("203.0.113.3"), IPv6Address("2001:db8:99::1")
HERE = path(Role.GATEWAY)
THERE = replace(HERE, local=replace(HERE.local, address=SECOND))
HELLO = Hello(nonce=bytes(16), features=Feature.UPDATE)


def has(desk: Desk, there: Repository) -> tuple[Effect, ...]:
    """These are the gateway's addresses now."""
    return desk.step(RepositoryChanged(at_s=desk.now_s, repository=there))


def configured(desk: Desk, *addresses: IPAddress) -> None:
    wanted = TunnelSettings(gateways=addresses)
    desk.core.reconfigure(replace(desk.core.settings, tunnels={"*": wanted}))


def told(desk: Desk) -> tuple[IPAddress, ...]:
    """The addresses in the answer to a HELLO."""
    (ack,) = messages(desk.message(HELLO))
    assert isinstance(ack, HelloAck)
    return ack.addresses


def gateway(*addresses: IPAddress) -> Desk:
    """A gateway with these addresses on one interface, and a terminal that was told of them."""
    desk = Desk(Role.GATEWAY)
    has(desk, homes(*addresses))
    desk.listed(ike_sa(Role.GATEWAY))
    desk.greeted()
    return desk


def announced(effects: tuple[Effect, ...]) -> GatewayMoved:
    (message,) = messages(effects)
    assert isinstance(message, GatewayMoved)
    return message


def test_a_terminal_is_told_the_addresses_on_the_interface_of_its_tunnel_its_own_one_first() -> None:
    desk = gateway(SECOND, GATEWAY, GATEWAY6)
    assert told(desk) == (GATEWAY, SECOND, GATEWAY6)
    lan = LocalAddress(address=THIRD, prefix_length=24, interface="lan0", usable=True)
    has(desk, replace(homes(GATEWAY), addresses=(lan, *homes(GATEWAY).addresses)))
    assert told(desk) == (GATEWAY,)


def test_addresses_that_are_of_no_use_to_a_terminal_are_not_told() -> None:
    desk = gateway(GATEWAY)
    behind, privacy = IPv4Address("10.1.0.7"), replace(homes(GATEWAY6).addresses[0], temporary=True)
    seen = homes(GATEWAY, behind, deprecated=[SECOND])
    has(desk, replace(seen, addresses=(*seen.addresses, privacy)))
    assert told(desk) == (GATEWAY,)


def test_where_addresses_are_configured_those_are_told_that_there_are_on_whatever_interface() -> None:
    desk = gateway(GATEWAY, SECOND)
    configured(desk, THIRD, GATEWAY, GATEWAY6)
    lte = LocalAddress(address=THIRD, prefix_length=24, interface="wan1", usable=True)
    has(desk, replace(homes(GATEWAY, SECOND), addresses=(lte, *homes(GATEWAY, SECOND).addresses)))
    assert told(desk) == (GATEWAY, THIRD)


def test_no_more_addresses_are_told_than_a_message_may_have() -> None:
    many = [IPv4Address(f"203.0.113.{last}") for last in range(20, 40)]
    assert told(gateway(*many, GATEWAY)) == (GATEWAY, *many[: ADDRESSES_MOST - 1])


def test_of_tunnels_that_charon_moves_or_that_it_set_up_in_udp_nothing_is_told() -> None:
    mobike = ike_sa(Role.GATEWAY)
    mobike = replace(mobike, local=replace(mobike.local, port=4500), remote=replace(mobike.remote, port=4500))
    for sa in (mobike, in_udp(ike_sa(Role.GATEWAY))):
        desk = Desk(Role.GATEWAY)
        desk.core.settings.learned["home", sa.remote_vips] = sa is mobike
        has(desk, homes(GATEWAY, SECOND))
        desk.listed(sa)
        assert told(desk) == ()
        assert has(desk, homes(SECOND)) == ()


def test_nothing_is_done_before_the_terminal_has_agreed_nor_for_an_address_that_was_never_seen() -> None:
    desk = Desk(Role.GATEWAY)
    has(desk, homes(GATEWAY, SECOND))
    desk.listed(ike_sa(Role.GATEWAY))
    assert has(desk, homes(SECOND)) == ()
    desk = Desk(Role.GATEWAY)
    has(desk, homes(SECOND))
    desk.listed(ike_sa(Role.GATEWAY))
    desk.greeted()
    assert has(desk, homes(SECOND, THIRD)) == ()


def test_a_tunnel_whose_address_is_gone_goes_to_another_one_and_the_terminal_is_told() -> None:
    desk = gateway(GATEWAY, SECOND)
    (move,) = has(desk, homes(SECOND))
    assert move == MoveStates(key=KEY, children=desk.tunnel.children, old=HERE, new=THERE, trigger=Trigger.GATEWAY)
    effects = desk.moved(move)
    assert [type(effect) for effect in effects][:2] == [Watch, SendMessage]
    watch = one(Watch, effects)
    assert (watch.own, watch.sources, watch.leaving) == ((SECOND,), (A,), ())
    assert announced(effects).addresses == (SECOND,)
    assert one(TunnelMoved, effects).trigger is Trigger.GATEWAY
    assert timers(effects, TimerKind.ANNOUNCE) == [ANNOUNCE_DELAYS_S[0]]
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, THERE)


def test_it_is_told_again_until_it_acknowledges_and_then_charon_follows() -> None:
    desk = gateway(GATEWAY, SECOND)
    first = announced(desk.moved(one(MoveStates, has(desk, homes(SECOND)))))
    for delay_s in ANNOUNCE_DELAYS_S[1:]:
        again = desk.expired(TimerKind.ANNOUNCE)
        assert announced(again) == first
        assert timers(again, TimerKind.ANNOUNCE) == [delay_s]
    assert desk.message(GatewayMovedAck(sequence=first.sequence - 1)) == ()
    effects = desk.message(GatewayMovedAck(sequence=first.sequence))
    assert timers(effects, TimerKind.INFORM) == [0.0], "its charon goes on sending from where the tunnel was"
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is True
    informed = one(InformCharon, desk.expired(TimerKind.INFORM))
    assert (informed.old, informed.new) == (HERE, THERE)
    assert desk.message(GatewayMovedAck(sequence=first.sequence)) == ()


def test_a_terminal_that_never_acknowledges_is_told_no_more_after_the_last_time() -> None:
    desk = gateway(GATEWAY, SECOND)
    desk.moved(one(MoveStates, has(desk, homes(SECOND))))
    for _ in ANNOUNCE_DELAYS_S[1:]:
        desk.expired(TimerKind.ANNOUNCE)
    assert desk.expired(TimerKind.ANNOUNCE) == ()
    assert desk.tunnel.announcements == 0


def test_of_an_address_that_still_works_the_terminal_is_told_and_what_it_does_moves_the_tunnel() -> None:
    desk = gateway(GATEWAY, SECOND)
    effects = has(desk, homes(SECOND, deprecated=[GATEWAY]))
    assert some(MoveStates, effects) == []
    message = announced(effects)
    assert message.addresses == (SECOND,)
    assert desk.held(A, packet_id=1, own=SECOND) == (VerifyPacket(packet_id=1, destination=GATEWAY, spi=SPI_UP),)
    move = one(MoveStates, desk.verified(1, 10))
    assert (move.new, move.trigger) == (THERE, Trigger.PACKET)
    followed = desk.moved(move)
    assert one(Watch, followed).leaving == (), "where it was is where it is: only our own address is another one"
    desk.message(PathResponse(nonce=desk.tunnel.nonce))
    assert timers(desk.message(GatewayMovedAck(sequence=message.sequence)), TimerKind.INFORM) == []
    assert desk.tunnel.announcements == 0


def test_a_terminal_whose_charon_took_the_tunnel_back_is_told_again_that_the_address_is_on_its_way_out() -> None:
    desk = gateway(GATEWAY, SECOND)
    message = announced(has(desk, homes(SECOND, deprecated=[GATEWAY])))
    desk.held(A, packet_id=1, own=SECOND)
    desk.moved(one(MoveStates, desk.verified(1, 10)))
    assert timers(desk.message(PathResponse(nonce=desk.tunnel.nonce)), TimerKind.INFORM) == [0.0]
    desk.message(GatewayMovedAck(sequence=message.sequence))
    desk.now_s += 1.0
    desk.held(A, packet_id=2, own=GATEWAY)
    back = desk.moved(one(MoveStates, desk.verified(2, 20)))
    (again,) = (each for each in messages(back) if isinstance(each, GatewayMoved))
    assert (again.addresses, again.sequence > message.sequence) == ((SECOND,), True)


def test_the_operator_renumbers_by_configuration_as_well() -> None:
    desk = gateway(GATEWAY, SECOND)
    configured(desk, SECOND)
    assert announced(has(desk, homes(GATEWAY, SECOND))).addresses == (SECOND,)


def test_a_terminal_is_told_of_what_changes_and_of_nothing_else() -> None:
    desk = gateway(GATEWAY, SECOND)
    assert has(desk, homes(SECOND, GATEWAY)) == ()
    first = announced(has(desk, homes(GATEWAY, SECOND, THIRD)))
    assert first.addresses == (GATEWAY, SECOND, THIRD)
    assert has(desk, homes(GATEWAY, SECOND, THIRD)) == ()
    assert announced(has(desk, homes(GATEWAY, THIRD))).sequence > first.sequence


def test_the_sequence_of_a_daemon_that_was_started_anew_is_greater_than_that_of_the_last_one() -> None:
    first = announced(has(gateway(GATEWAY), homes(GATEWAY, SECOND)))
    later = gateway(GATEWAY)
    later.later(0.002)
    assert announced(has(later, homes(GATEWAY, SECOND))).sequence > first.sequence


def test_a_gateway_that_ends_before_anybody_acknowledged_tells_again_when_it_is_started() -> None:
    desk = gateway(GATEWAY, SECOND)
    first = announced(desk.moved(one(MoveStates, has(desk, homes(SECOND)))))
    again = Desk(Role.GATEWAY)
    again.core.remember([(replace(desk.tunnel, gateways=(), gateway_sequence=0, announcements=0), {SPI_UP})])
    again.later(5.0)
    has(again, homes(SECOND))
    effects = again.listed(ike_sa(Role.GATEWAY), at={SPI_UP: THERE})
    message = announced(effects)
    assert (message.addresses, message.sequence > first.sequence) == ((SECOND,), True)


def test_where_there_is_no_other_address_or_only_one_of_the_other_ip_version_the_tunnel_stays() -> None:
    for left in (homes(), homes(GATEWAY6)):
        desk = gateway(GATEWAY, GATEWAY6)
        assert some(MoveStates, has(desk, left)) == []
        assert len(some(MoveStates, has(desk, homes(GATEWAY6, SECOND)))) == 1, "it was on the same interface"


def test_a_move_that_the_kernel_refuses_is_tried_again_and_one_that_is_vetoed_when_the_addresses_change() -> None:
    desk = gateway(GATEWAY, SECOND)
    move = one(MoveStates, has(desk, homes(SECOND)))
    assert len(timers(desk.refused(move), TimerKind.MOVE)) == 1
    move = one(MoveStates, desk.expired(TimerKind.MOVE))
    assert timers(desk.refused(move, Reason.VETOED), TimerKind.MOVE) == []
    assert len(some(MoveStates, has(desk, homes(SECOND, THIRD)))) == 1


def test_a_challenge_that_waits_for_its_answer_goes_on_waiting_and_the_way_back_is_at_the_new_address() -> None:
    desk = gateway(GATEWAY, SECOND)
    desk.held(B, packet_id=1)
    desk.moved(one(MoveStates, desk.verified(1, 10)))
    assert desk.tunnel.phase is Phase.VALIDATING
    desk.moved(one(MoveStates, has(desk, homes(SECOND))))
    assert desk.tunnel.phase is Phase.VALIDATING
    assert desk.tunnel.validated_path == Path(THERE.local, HERE.remote)


@pytest.mark.parametrize("own", [GATEWAY, SECOND])
def test_a_packet_to_where_the_tunnel_is_passes_and_one_to_another_address_is_verified(own: IPAddress) -> None:
    desk = gateway(GATEWAY, SECOND)
    (effect,) = desk.held(A, own=own)
    assert isinstance(effect, VerifyPacket) == (own == SECOND)
