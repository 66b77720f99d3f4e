"""Outbound states that a packet did not find."""

from dataclasses import replace

import pytest

from swanroam.core.missing import LOOK_S, PATIENCE, QUIET, REFUSED
from swanroam.core.settings import Agreement
from swanroam.core.terminal import UPDATE_DELAYS_S
from swanroam.model.effects import (
    Effect,
    LookForStates,
    MoveStates,
    Reestablish,
    RekeyChild,
    SendMessage,
    StartTimer,
    StopTimer,
)
from swanroam.model.events import IkeSaEnded, StateMissed, StatesLookedFor, TimerId, TimerKind
from swanroam.model.tunnel import Role
from tests.support.values import GATEWAY, KEY, SPI_DOWN, SPI_UP, A, B, Desk, child, ike_sa, negotiated, one, path, some

TIMER = TimerId(KEY, TimerKind.MISSING)


def missed(desk: Desk, spi: int = SPI_UP) -> tuple[Effect, ...]:
    return desk.step(StateMissed(at_s=desk.now_s, spi=spi))


def looked(desk: Desk, *lost: int) -> tuple[Effect, ...]:
    return desk.step(StatesLookedFor(at_s=desk.now_s, key=KEY, lost=lost))


@pytest.fixture
def desk() -> Desk:
    """A terminal with a tunnel that may move."""
    desk = Desk(Role.TERMINAL, Agreement.CONFIGURED)
    desk.listed(ike_sa(Role.TERMINAL))
    return desk


def searching(desk: Desk) -> Desk:
    missed(desk)
    return desk


def test_a_packet_that_found_no_state_has_the_states_looked_for_now_and_in_a_moment(desk: Desk) -> None:
    look, timer = missed(desk)

    assert look == LookForStates(key=KEY, children=desk.tunnel.children, places=(GATEWAY,))
    assert timer == StartTimer(timer=TIMER, delay_s=LOOK_S)
    assert desk.expired(TimerKind.MISSING) == (look, timer)


def test_more_such_packets_meanwhile_change_nothing(desk: Desk) -> None:
    assert missed(searching(desk)) == ()


def test_packets_of_others_and_of_tunnels_that_may_not_move_are_not_looked_into(desk: Desk) -> None:
    assert missed(desk, SPI_DOWN) == ()
    off = Desk(Role.TERMINAL, Agreement.OFF)
    off.listed(ike_sa(Role.TERMINAL))
    assert missed(off) == ()


def test_once_the_state_is_there_for_a_while_nothing_is_looked_for_any_more(desk: Desk) -> None:
    searching(desk)
    looked(desk, SPI_UP)

    assert [looked(desk) for _ in range(QUIET)] == [()] * (QUIET - 1) + [(StopTimer(TIMER),)]
    assert some(LookForStates, missed(desk))


def test_charon_rekeys_a_child_sa_whose_state_stays_away(desk: Desk) -> None:
    searching(desk)
    for _ in range(PATIENCE - 1):
        assert looked(desk, SPI_UP) == ()

    assert looked(desk, SPI_UP) == (RekeyChild(key=KEY, unique_id=desk.tunnel.children[0].unique_id),)


def test_what_is_lost_of_a_child_sa_that_another_took_over_from_is_not_looked_for(desk: Desk) -> None:
    searching(desk)
    rekeyed = replace(desk.tunnel.children[0], state="DELETED")
    another = child(Role.TERMINAL, up=SPI_UP + 1, down=SPI_DOWN + 1)
    desk.listed(replace(ike_sa(Role.TERMINAL), children=(rekeyed, another)))

    assert one(LookForStates, desk.expired(TimerKind.MISSING)).children == (another,)


def test_a_state_that_comes_back_in_between_begins_the_count_anew(desk: Desk) -> None:
    searching(desk)
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            assert looked(desk, SPI_UP) == ()
        looked(desk)


def test_a_tunnel_that_charon_does_not_mend_is_built_anew(desk: Desk) -> None:
    searching(desk)
    for _ in range(REFUSED - 1):
        assert not some(Reestablish, looked(desk, SPI_UP))

    effects = looked(desk, SPI_UP)
    assert one(Reestablish, effects).key == KEY
    assert StopTimer(TIMER) in effects
    assert StartTimer(timer=TimerId(KEY, TimerKind.REESTABLISH), delay_s=10.0) in effects


def test_a_gateway_looks_wherever_its_terminal_was_and_leaves_building_anew_to_it() -> None:
    gateway = Desk(Role.GATEWAY, Agreement.CONFIGURED)
    gateway.listed(ike_sa(Role.GATEWAY, outer=A), at={SPI_UP: path(Role.GATEWAY, B)})

    assert one(LookForStates, missed(gateway, SPI_DOWN)).places == (B, A)
    for _ in range(REFUSED - 1):
        looked(gateway, SPI_DOWN)
    assert looked(gateway, SPI_DOWN) == (StopTimer(TIMER),)


def test_that_nobody_answers_says_nothing_of_the_path_while_nothing_can_be_sent() -> None:
    desk = negotiated(Role.TERMINAL)
    desk.moved(one(MoveStates, desk.roam(B)))
    missed(desk)
    looked(desk, SPI_UP)
    for _ in range(len(UPDATE_DELAYS_S)):
        assert some(SendMessage, effects := desk.expired(TimerKind.UPDATE))
        assert (some(MoveStates, effects), desk.tunnel.attempt) == ([], 0)

    looked(desk)
    desk.expired(TimerKind.UPDATE)
    assert desk.tunnel.attempt == 1


def test_what_was_found_of_a_tunnel_that_is_gone_matters_to_nobody(desk: Desk) -> None:
    searching(desk)
    desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert looked(desk, SPI_UP) == ()
