"""IKE_SAs of which nothing can be said yet: charon is asked for them until something can."""

from dataclasses import replace

from swanroam.core.newcomers import DELAYS_S
from swanroam.core.step import BARE_S
from swanroam.model.effects import DeleteStates, Effect, ListIkeSas, StartTimer, Unwatch
from swanroam.model.events import IkeSaEnded, IkeSasListed, TimerExpired, TimerId, TimerKind
from swanroam.model.tunnel import Capability, IkeSa, Role, TunnelKey
from tests.support.values import KEY, Desk, ike_sa, negotiated, one, some

TIMER = TimerId(TunnelKey("home"), TimerKind.NEWCOMERS)
OLD = ike_sa(Role.GATEWAY)
NEW = replace(OLD, unique_id=2, initiator_spi=7, responder_spi=8)
"""It has the CHILD_SAs of the other one, as after a reauthentication of IKEv1."""
BARE = replace(NEW, remote_vips=(), children=())


def looks(desk: Desk) -> tuple[Effect, ...]:
    return desk.step(TimerExpired(at_s=desk.now_s, timer=TIMER))


def asked(desk: Desk, *sas: IkeSa, unique_ids: tuple[int, ...]) -> tuple[Effect, ...]:
    return desk.step(IkeSasListed(at_s=desk.now_s, sas=sas, complete=False, asked=unique_ids))


def delays(effects: tuple[Effect, ...]) -> list[float]:
    return [each.delay_s for each in some(StartTimer, effects) if each.timer == TIMER]


def test_it_is_asked_for_less_and_less_often_and_not_any_more_when_it_is_a_tunnel() -> None:
    desk = Desk(Role.GATEWAY)
    assert delays(desk.listed(BARE, complete=False)) == [DELAYS_S[0]]
    for delay_s in (*DELAYS_S[1:], DELAYS_S[-1]):
        effects = looks(desk)
        assert (one(ListIkeSas, effects).unique_ids, delays(effects)) == ((2,), [delay_s])
        assert delays(asked(desk, BARE, unique_ids=(2,))) == []
    asked(desk, NEW, unique_ids=(2,))
    assert KEY in desk.core.table
    assert looks(desk) == ()


def test_another_one_of_the_connection_is_asked_for_soon() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(BARE, complete=False)
    looks(desk)
    assert delays(desk.listed(replace(BARE, unique_id=3), complete=False)) == [DELAYS_S[0]]
    assert one(ListIkeSas, looks(desk)).unique_ids == (2, 3)


def test_one_that_ends_or_is_not_listed_is_not_asked_for() -> None:
    for told in (
        IkeSaEnded(at_s=1000.0, unique_id=2),
        IkeSasListed(at_s=1000.0, sas=(), complete=False, asked=(2,)),
        IkeSasListed(at_s=1000.0, sas=(), complete=True),
    ):
        desk = Desk(Role.GATEWAY)
        desk.listed(BARE, complete=False)
        desk.step(told)
        assert looks(desk) == ()


def test_sites_are_none() -> None:
    desk = Desk(Role.GATEWAY)
    assert delays(desk.listed(replace(NEW, remote_vips=()), complete=False)) == []


def test_a_tunnel_whose_child_sas_one_has_taken_over_goes_on_when_its_ike_sa_ends() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.listed(BARE, complete=False)
    effects = desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert some(Unwatch, effects) == some(DeleteStates, effects) == []
    assert one(ListIkeSas, effects).unique_ids == (2,)
    asked(desk, NEW, unique_ids=(2,))
    assert desk.tunnel.capability is Capability.NEGOTIATED
    lingering = desk.expired(TimerKind.LINGERING)
    desk.later(BARE_S)
    asked(desk, NEW, unique_ids=one(ListIkeSas, lingering).unique_ids)
    assert (desk.tunnel.sas, desk.tunnel.bare_since_s) == ((NEW,), None)


def test_a_tunnel_that_ends_while_another_terminal_connects_ends_a_moment_later() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.listed(BARE, complete=False)
    desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    desk.later(BARE_S)
    assert one(ListIkeSas, desk.expired(TimerKind.LINGERING)).unique_ids == (1, 2)
    assert Unwatch(KEY) in asked(desk, BARE, unique_ids=(1, 2))
