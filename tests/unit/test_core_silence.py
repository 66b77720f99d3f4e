"""Gateways that do not follow by themselves: when that is known, and what is done about it."""

from dataclasses import replace

import pytest

from swanroam.core.settings import Agreement
from swanroam.core.silence import LISTEN_S, LONGEST_S, UNANSWERED
from swanroam.core.tunnel import Phase
from swanroam.model.effects import Effect, KeepAddress, ListIkeSas, MoveStates, Reestablish
from swanroam.model.events import TimerKind
from swanroam.model.tunnel import Capability, Role
from tests.support.values import KEY, SPI_DOWN, SPI_UP, B, Desk, ike_sa, in_udp, one, settings, some, timers, with_spis

NATIVE = in_udp(ike_sa(Role.TERMINAL))


def moved(*, agreed: bool = False) -> tuple[Desk, tuple[Effect, ...]]:
    """A terminal whose tunnel, set up in UDP, has just moved; the gateway's swanroam takes part, or there is none."""
    desk = Desk(Role.TERMINAL)
    desk.core.reconfigure(settings(Role.TERMINAL, Agreement.NEGOTIATE, mobike=False))
    desk.listed(NATIVE)
    if agreed:
        desk.greeted()
    while not agreed and desk.tunnel.capability is not Capability.NONE:
        desk.expired(TimerKind.HELLO)
    keep = one(KeepAddress, desk.roam(B))
    effects = desk.moved(MoveStates(key=KEY, children=(), old=keep.old, new=keep.new, trigger=keep.trigger))
    for _ in range(0 if agreed else 2):
        desk.expired(TimerKind.UPDATE)
    return desk, effects


def looks(desk: Desk, received: int, sent: int) -> tuple[Effect, ...]:
    """It is looked at, and this is what charon says then."""
    effects = desk.expired(TimerKind.SILENCE)
    if some(ListIkeSas, effects):
        (child,) = NATIVE.children
        counted = replace(child, packets_in=received, packets_out=sent)
        desk.listed(replace(NATIVE, children=(counted,)))
    return effects


def test_after_a_move_that_nobody_acknowledges_the_gateway_is_listened_for() -> None:
    desk, effects = moved()
    assert timers(effects, TimerKind.SILENCE) == [LISTEN_S]
    assert desk.tunnel.phase is Phase.STEADY
    assert timers(moved(agreed=True)[1], TimerKind.SILENCE) == []


def test_a_gateway_that_is_heard_is_listened_for_no_longer() -> None:
    desk, _ = moved()
    for received in (40, 40, 41):
        assert one(ListIkeSas, looks(desk, received, sent=100 + received))
    assert looks(desk, 41, 200) == ()
    assert desk.tunnel.listening is None


def test_where_packets_go_out_and_none_comes_in_charon_builds_the_tunnel_anew() -> None:
    desk, _ = moved()
    for sent in (100, 100 + UNANSWERED):
        looks(desk, 40, sent)
    effects = looks(desk, 40, 200)
    assert one(Reestablish, effects).unique_ids == (NATIVE.unique_id,)
    assert timers(effects, TimerKind.REESTABLISH), "it is asked again when that fails"
    assert desk.tunnel.phase is Phase.ABANDONED
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is False
    assert desk.expired(TimerKind.SILENCE) == ()
    anew = with_spis(replace(NATIVE, unique_id=9, initiator_spi=9), (SPI_UP + 1, SPI_DOWN + 1))
    desk.listed(anew)
    assert desk.tunnel.phase is Phase.STEADY


def test_an_idle_tunnel_is_looked_at_less_and_less_and_never_given_up() -> None:
    desk, _ = moved()
    delays = [delay_s for _ in range(9) for delay_s in timers(looks(desk, 40, 100), TimerKind.SILENCE)]
    assert len(delays) == 9
    assert (delays[0], delays[-1]) == (LISTEN_S, LONGEST_S)
    assert delays == sorted(delays)
    looks(desk, 40, 100 + UNANSWERED)
    assert one(Reestablish, looks(desk, 40, 200))


@pytest.mark.parametrize("sent", [0, UNANSWERED - 1])
def test_what_swanroam_itself_sends_is_no_sign(sent: int) -> None:
    desk, _ = moved()
    for number in range(9):
        assert one(ListIkeSas, looks(desk, 40, 100 + number * sent))


def test_a_rekeyed_child_that_hears_something_shows_that_the_gateway_follows() -> None:
    desk, _ = moved()
    for _ in range(3):
        looks(desk, 40, 100)
    rekeyed = with_spis(NATIVE, (SPI_UP + 1, SPI_DOWN + 1))
    (child,) = rekeyed.children
    desk.listed(replace(rekeyed, children=(replace(child, encap=True, packets_in=1, packets_out=50),)))
    assert desk.expired(TimerKind.SILENCE) == ()


def test_when_the_gateway_agrees_meanwhile_its_acknowledgements_tell() -> None:
    desk, _ = moved()
    desk.core.table.put(replace(desk.tunnel, capability=Capability.NEGOTIATED))
    assert desk.expired(TimerKind.SILENCE) == ()
    assert desk.tunnel.listening is None
