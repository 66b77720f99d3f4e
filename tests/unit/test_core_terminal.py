"""The terminal: when it moves, whom it tells, and when it gives up."""

from dataclasses import replace

import pytest

from swanroam.core import natd
from swanroam.core.recovery import DELAYS_S, SOON_S
from swanroam.core.settings import Agreement
from swanroam.core.terminal import DUMMY_DELAYS_S, INFORM_S, LATE_S, PLAIN_ATTEMPTS, REMIND_S, UPDATE_DELAYS_S
from swanroam.core.tunnel import Phase
from swanroam.model.effects import (
    Effect,
    InformCharon,
    ListIkeSas,
    MoveStates,
    PacketRejected,
    Reestablish,
    SendDummy,
    SendMessage,
    StopTimer,
    Trigger,
    Watch,
)
from swanroam.model.events import ConnectionUnknown, IkeSaEnded, Reason, TimerId, TimerKind
from swanroam.model.messages import PathChallenge, PathResponse, Update, UpdateAck
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, Nat, Role
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    KEY,
    PRIVATE,
    SPI_DOWN,
    A,
    B,
    C,
    Desk,
    ike_sa,
    messages,
    negotiated,
    one,
    path,
    repository,
    settings,
    some,
    timers,
)

HERE, THERE = path(Role.TERMINAL, A), path(Role.TERMINAL, B)
IN_UDP = Path(Endpoint(B, 4500), Endpoint(GATEWAY, 4500), encap=True)


def roamed() -> tuple[Desk, tuple[Effect, ...]]:
    """A terminal that went to B, and what came of it."""
    desk = negotiated(Role.TERMINAL)
    return desk, desk.moved(one(MoveStates, desk.roam(B)))


def update(sequence: int, at: Path) -> Update:
    discovery = natd.payloads(ike_sa(Role.TERMINAL), at.local, at.remote)
    return Update(sequence=sequence, claimed=at.local, natd=discovery)


def ack(desk: Desk, sequence: int, observed: Endpoint = THERE.local) -> tuple[Effect, ...]:
    return desk.message(UpdateAck(sequence=sequence, observed=observed))


def test_when_the_address_is_gone_all_child_sas_move_at_once() -> None:
    desk = Desk(Role.TERMINAL)
    desk.listed(ike_sa(Role.TERMINAL, spis=((1, 2), (3, 4))))
    desk.greeted()
    (move,) = desk.roam(B)
    assert isinstance(move, MoveStates)
    assert (move.key, move.old, move.new) == (KEY, HERE, THERE)
    assert [child.spi_in for child in move.children] == [2, 4]


@pytest.mark.parametrize("addresses", [(A,), (A, B), ()])
def test_nothing_moves_where_the_present_source_is_best_or_there_is_no_other(addresses: tuple[()]) -> None:
    assert negotiated(Role.TERMINAL).roam(*addresses) == ()


def test_a_better_source_is_taken_while_the_present_one_still_works() -> None:
    assert one(MoveStates, negotiated(Role.TERMINAL).roam(B, A)).new == THERE


def test_what_comes_to_a_working_address_after_it_was_left_is_sent_on_for_a_while() -> None:
    desk = negotiated(Role.TERMINAL)
    effects = desk.roam(B, A)
    watch, move = one(Watch, effects), one(MoveStates, effects)
    assert watch.late == (A,)
    assert effects.index(watch) < effects.index(move)
    assert timers(effects, TimerKind.LEAVING) == [LATE_S]
    assert one(Watch, desk.moved(move)).late == (A,)
    assert one(Watch, desk.expired(TimerKind.LEAVING)).late == ()


def test_an_address_that_is_gone_is_not_looked_at() -> None:
    desk, effects = roamed()
    assert one(Watch, effects).late == ()
    assert desk.tunnel.leaving == ()


def test_a_working_address_that_was_not_left_after_all_is_not_looked_at() -> None:
    desk = negotiated(Role.TERMINAL)
    move = one(MoveStates, desk.roam(B, A))
    for reason in (Reason.VETOED, Reason.KERNEL_REFUSED):
        assert one(Watch, desk.refused(move, reason)).late == ()
        desk.later(1)
        move = one(MoveStates, desk.roam(B, A))


def test_in_udp_nothing_is_sent_on() -> None:
    desk = negotiated(Role.TERMINAL)
    desk.moved(one(MoveStates, desk.roam(PRIVATE)))
    assert desk.tunnel.path.encap
    assert one(MoveStates, desk.roam(B, PRIVATE))
    assert desk.tunnel.leaving == ()


def test_the_inner_address_is_no_outer_address() -> None:
    assert negotiated(Role.TERMINAL).roam(INNER) == ()


def test_a_terminal_stranded_for_30_s_moves_when_an_address_comes() -> None:
    desk = negotiated(Role.TERMINAL)
    assert desk.roam() == ()
    desk.later(30.0)
    assert one(MoveStates, desk.roam(C)).new == path(Role.TERMINAL, C)


def test_the_gateway_is_told_first_then_everybody_else_and_charon_when_the_gateway_knows() -> None:
    desk, effects = roamed()
    assert isinstance(effects[0], SendMessage)
    assert timers(effects, TimerKind.INFORM) == [INFORM_S]
    told = one(InformCharon, ack(desk, 1))
    assert (told.old, told.new) == (HERE, THERE)
    assert desk.expired(TimerKind.INFORM) == ()


def test_charon_does_not_wait_for_a_gateway_that_is_slow() -> None:
    desk, _ = roamed()
    assert one(InformCharon, desk.expired(TimerKind.INFORM)).new == THERE
    assert some(InformCharon, ack(desk, 1)) == [], "it is told once"


def test_an_idle_tunnel_sends_an_update_with_what_it_knows_of_its_address() -> None:
    desk, effects = roamed()
    sent = one(SendMessage, effects)
    assert (sent.source, sent.destination) == (INNER, FIRST_SERVER)
    assert sent.message == update(1, THERE)
    assert desk.tunnel.phase is Phase.UPDATING
    assert desk.tunnel.path == THERE


def test_an_unacknowledged_update_is_repeated_with_growing_intervals_until_charon_has_to_build_anew() -> None:
    desk, effects = roamed()
    delays = timers(effects, TimerKind.UPDATE)
    ways = []
    for _ in range(PLAIN_ATTEMPTS - 1):
        effects = desk.expired(TimerKind.UPDATE)
        assert messages(effects) == [update(1, THERE)]
        delays += timers(effects, TimerKind.UPDATE)
    while some(MoveStates, effects := desk.expired(TimerKind.UPDATE)):
        while switches := some(MoveStates, effects):
            (switch,) = switches
            assert (switch.trigger, switch.old) == (Trigger.NAT, desk.tunnel.path)
            effects = desk.moved(switch)
            ways.append(switch.new)
            assert messages(effects) == [update(1, switch.new)]
        delays += timers(effects, TimerKind.UPDATE)
    # Until it is known that the gateway can hear what is in UDP, it gets what it heard before as well.
    assert ways == [IN_UDP, *2 * (THERE, IN_UDP)]
    assert tuple(delays) == UPDATE_DELAYS_S
    assert desk.tunnel.phase is Phase.ABANDONED
    assert one(Reestablish, effects) == Reestablish(key=KEY, connection="home", unique_ids=(1,), children=("net",))
    assert timers(effects, TimerKind.REESTABLISH) == [DELAYS_S[0]]
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is False


def give_up(desk: Desk) -> tuple[Effect, ...]:
    """Nobody answers any UPDATE."""
    effects: tuple[Effect, ...] = ()
    while desk.tunnel.phase is Phase.UPDATING:
        effects = desk.expired(TimerKind.UPDATE)
        while switches := some(MoveStates, effects):
            effects = desk.moved(switches[0])
    return effects


def abandoned() -> Desk:
    desk, _ = roamed()
    give_up(desk)
    return desk


@pytest.mark.parametrize(
    ("states", "built"),
    [
        ({"a": "INSTALLED", "b": "INSTALLED"}, ("a", "b")),
        ({"a": "INSTALLED", "b": "REKEYING", "c": "UPDATING"}, ("a", "b", "c")),
        ({"a": "INSTALLED", "b": "DELETING"}, ("a", "b")),
        ({"a": "INSTALLED", "b": "REKEYED", "c": "DELETED"}, ("a",)),
        ({"a": "REKEYED"}, ("a",)),
    ],
)
def test_charon_is_asked_for_each_child_sa_that_was_there(states: dict[str, str], built: tuple[str, ...]) -> None:
    desk, _ = roamed()
    sa = ike_sa(Role.TERMINAL, outer=B, spis=tuple((number, SPI_DOWN + number) for number in range(len(states))))
    named = zip(sa.children, states.items(), strict=True)
    first, *others = (replace(each, name=name, state=state) for each, (name, state) in named)
    successor = replace(first, unique_id=77, spi_in=SPI_DOWN + 77)
    desk.listed(replace(sa, children=(replace(first, spi_in=SPI_DOWN), *others, successor)))
    assert one(Reestablish, give_up(desk)).children == built


def test_charon_is_asked_again_with_growing_intervals_until_the_tunnel_is_back() -> None:
    desk = abandoned()
    delays = []
    for _ in range(5):
        effects = desk.expired(TimerKind.REESTABLISH)
        assert one(Reestablish, effects).unique_ids == (1,)
        delays += timers(effects, TimerKind.REESTABLISH)
    assert delays == [20.0, 40.0, 60.0, 60.0, 60.0]
    desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert one(Reestablish, desk.expired(TimerKind.REESTABLISH)).unique_ids == ()
    back = desk.listed(ike_sa(Role.TERMINAL, unique_id=2, outer=B, ike_spis=(3, 4), spis=((7, 8),)))
    assert StopTimer(TimerId(KEY, TimerKind.REESTABLISH)) in back
    assert desk.expired(TimerKind.REESTABLISH) == ()
    assert desk.tunnel.phase is Phase.STEADY


def test_charon_is_asked_soon_when_there_is_an_address_that_was_not_there() -> None:
    desk = abandoned()
    desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    desk.expired(TimerKind.REESTABLISH)
    assert desk.roam(B) == desk.roam() == ()
    assert timers(desk.roam(C), TimerKind.REESTABLISH) == [SOON_S]
    assert timers(desk.expired(TimerKind.REESTABLISH), TimerKind.REESTABLISH) == [DELAYS_S[1]]


def test_a_tunnel_that_was_built_anew_before_the_old_one_is_gone_is_back_too() -> None:
    desk = abandoned()
    new = ike_sa(Role.TERMINAL, unique_id=2, outer=B, ike_spis=(3, 4), spis=((7, 8),))
    effects = desk.listed(ike_sa(Role.TERMINAL, outer=B), new)
    assert StopTimer(TimerId(KEY, TimerKind.REESTABLISH)) in effects
    assert desk.tunnel.phase is Phase.STEADY
    assert desk.expired(TimerKind.REESTABLISH) == ()


def test_a_rekeyed_ike_sa_is_no_tunnel_built_anew() -> None:
    desk = abandoned()
    desk.listed(ike_sa(Role.TERMINAL, unique_id=2, outer=B, ike_spis=(3, 4)))
    assert desk.tunnel.phase is Phase.ABANDONED


def test_charon_is_not_asked_again_for_what_was_switched_off() -> None:
    desk = abandoned()
    desk.core.reconfigure(settings(Role.TERMINAL, Agreement.OFF))
    assert desk.expired(TimerKind.REESTABLISH) == ()


def test_charon_is_not_asked_again_for_what_it_does_not_know_any_more() -> None:
    desk = abandoned()
    assert desk.step(ConnectionUnknown(at_s=desk.now_s, connection="other")) == ()
    assert one(Reestablish, desk.expired(TimerKind.REESTABLISH))
    effects = desk.step(ConnectionUnknown(at_s=desk.now_s, connection="home"))
    assert effects == (StopTimer(TimerId(KEY, TimerKind.REESTABLISH)),)
    assert desk.expired(TimerKind.REESTABLISH) == ()


def test_a_late_acknowledgement_takes_an_abandoned_tunnel_back() -> None:
    desk = abandoned()
    ack(desk, 1)
    assert desk.tunnel.phase is Phase.STEADY
    assert desk.expired(TimerKind.REESTABLISH) == ()


def test_another_move_takes_an_abandoned_tunnel_back() -> None:
    desk = abandoned()
    effects = desk.moved(one(MoveStates, desk.roam(C)))
    assert messages(effects) == [update(2, path(Role.TERMINAL, C))]
    assert desk.tunnel.phase is Phase.UPDATING


def test_an_acknowledgement_ends_the_repetition() -> None:
    desk, _ = roamed()
    effects = ack(desk, 1)
    assert StopTimer(TimerId(KEY, TimerKind.UPDATE)) in effects
    assert desk.tunnel.phase is Phase.STEADY
    assert desk.tunnel.nat is Nat.NONE
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is True
    assert desk.expired(TimerKind.UPDATE) == ()


def test_an_acknowledged_address_that_is_not_its_own_tells_of_a_nat() -> None:
    desk, _ = roamed()
    ack(desk, 1, path(Role.TERMINAL, C).local)
    assert desk.tunnel.nat is Nat.LOCAL


def test_acknowledgements_of_other_moves_say_nothing() -> None:
    desk, _ = roamed()
    desk.moved(one(MoveStates, desk.roam(C)))
    for sequence in (0, 1, 3):
        assert ack(desk, sequence) == ()
    assert desk.tunnel.phase is Phase.UPDATING


def test_an_acknowledgement_that_comes_twice_is_ignored() -> None:
    desk, _ = roamed()
    ack(desk, 1)
    assert ack(desk, 1) == ()


def test_where_nobody_acknowledges_a_dummy_is_sent_a_few_times() -> None:
    desk = Desk(Role.TERMINAL, Agreement.CONFIGURED)
    desk.listed(ike_sa(Role.TERMINAL))
    effects = desk.moved(one(MoveStates, desk.roam(B)))
    assert one(SendDummy, effects) == SendDummy(key=KEY, source=INNER, destination=FIRST_SERVER)
    assert messages(effects) == []
    delays = timers(effects, TimerKind.UPDATE)
    while some(SendDummy, effects := desk.expired(TimerKind.UPDATE)):
        delays += timers(effects, TimerKind.UPDATE)
    assert tuple(delays) == DUMMY_DELAYS_S
    assert effects == ()
    assert desk.tunnel.phase is Phase.STEADY
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is None


def test_soon_after_a_move_an_idle_terminal_says_once_more_that_it_is_there() -> None:
    desk, effects = roamed()
    assert timers(effects, TimerKind.KEEPALIVE) == [REMIND_S]
    ack(desk, 1)
    desk.later(REMIND_S)
    effects = desk.expired(TimerKind.KEEPALIVE)
    assert one(SendDummy, effects) == SendDummy(key=KEY, source=INNER, destination=FIRST_SERVER)
    desk.later(*timers(effects, TimerKind.KEEPALIVE))
    assert desk.expired(TimerKind.KEEPALIVE) == ()


def test_a_challenge_is_answered_with_its_nonce() -> None:
    desk, _ = roamed()
    sent = one(SendMessage, desk.message(PathChallenge(nonce=b"nonce of 16 byte")))
    assert sent.message == PathResponse(nonce=b"nonce of 16 byte")
    assert (sent.source, sent.destination) == (INNER, FIRST_SERVER)


def test_a_gateway_that_asks_without_having_acknowledged_is_told_again_what_it_missed() -> None:
    desk, _ = roamed()
    challenge = PathChallenge(nonce=b"nonce of 16 byte")
    desk.expired(TimerKind.UPDATE)
    effects = desk.message(challenge)
    assert messages(effects) == [PathResponse(nonce=challenge.nonce), update(1, THERE)]
    assert timers(effects, TimerKind.UPDATE) == []
    desk.message(UpdateAck(sequence=1, observed=THERE.local))
    assert messages(desk.message(challenge)) == [PathResponse(nonce=challenge.nonce)]


def test_a_veto_stands_until_the_addresses_change() -> None:
    desk = negotiated(Role.TERMINAL)
    effects = desk.refused(one(MoveStates, desk.roam(B)), Reason.VETOED)
    assert [effect.reason for effect in some(PacketRejected, effects)] == [Reason.VETOED]
    assert some(ListIkeSas, effects) == []
    assert timers(effects, TimerKind.MOVE) == []
    assert some(MoveStates, desk.listed(ike_sa(Role.TERMINAL))) == []
    assert one(MoveStates, desk.roam(B)).new == THERE
    assert desk.tunnel.rejected == {Reason.VETOED: 1}
    assert desk.tunnel.path == HERE


def test_where_the_best_source_is_vetoed_the_next_one_is_taken() -> None:
    desk = negotiated(Role.TERMINAL)
    best = one(MoveStates, desk.roam(B, C))
    next_best = one(MoveStates, desk.refused(best, Reason.VETOED))
    assert (best.new.local.address, next_best.new.local.address) == (B, C)
    assert some(MoveStates, desk.refused(next_best, Reason.VETOED)) == []
    assert desk.tunnel.rejected == {Reason.VETOED: 2}


def test_what_the_kernel_refused_is_tried_again_after_a_moment_and_not_by_the_listing_that_follows() -> None:
    desk = negotiated(Role.TERMINAL)
    effects = desk.refused(one(MoveStates, desk.roam(B)))
    assert len(some(ListIkeSas, effects)) == 1
    assert timers(effects, TimerKind.MOVE) == [0.2]
    assert some(MoveStates, desk.listed(ike_sa(Role.TERMINAL))) == []
    assert one(MoveStates, desk.expired(TimerKind.MOVE)).new == THERE


def test_a_move_that_is_under_way_is_not_begun_again() -> None:
    desk = negotiated(Role.TERMINAL)
    move = one(MoveStates, desk.roam(B))
    assert desk.roam(B) == ()
    assert some(MoveStates, desk.listed(ike_sa(Role.TERMINAL))) == []
    assert some(MoveStates, desk.moved(move)) == []


def test_what_became_better_during_a_move_is_the_next_move_from_where_that_one_went() -> None:
    desk = negotiated(Role.TERMINAL)
    move = one(MoveStates, desk.roam(B))
    assert desk.roam(C) == ()
    following = one(MoveStates, desk.moved(move))
    assert (following.old, following.new) == (THERE, path(Role.TERMINAL, C))


@pytest.mark.parametrize("capability", [Capability.PENDING, Capability.NONE])
def test_without_the_capability_nothing_moves(capability: Capability) -> None:
    desk = Desk(Role.TERMINAL)
    desk.listed(ike_sa(Role.TERMINAL))
    while desk.tunnel.capability is not capability:
        desk.expired(TimerKind.HELLO)
    assert desk.roam(B) == ()
    assert some(MoveStates, desk.listed(ike_sa(Role.TERMINAL))) == []


def test_a_packet_that_is_held_on_a_terminal_goes_on() -> None:
    effects = negotiated(Role.TERMINAL).held(B, spi=SPI_DOWN)
    assert [type(effect).__name__ for effect in effects] == ["GiveVerdict", "PacketRejected"]


@pytest.mark.parametrize("message", [Update(sequence=1, claimed=THERE.local), PathResponse(nonce=bytes(16))])
def test_messages_for_gateways_are_refused(message: Update | PathResponse) -> None:
    desk = negotiated(Role.TERMINAL)
    assert one(PacketRejected, desk.message(message)).reason is Reason.BAD_MESSAGE
    assert desk.tunnel.rejected == {Reason.BAD_MESSAGE: 1}


def test_each_tunnel_moves_on_its_own() -> None:
    desk = negotiated(Role.TERMINAL)
    other = ike_sa(Role.TERMINAL, unique_id=2, name="work", inner=(C,), ike_spis=(5, 6), spis=((7, 8),))
    desk.listed(ike_sa(Role.TERMINAL), other)
    assert [move.key for move in some(MoveStates, desk.roam(B))] == [KEY]
    assert desk.core.repository == repository(B)
