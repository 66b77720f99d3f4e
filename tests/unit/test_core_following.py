"""A charon that follows only where it finds states has them put back when it is told of the next moves."""

import pytest

from swanroam.core.following import DEADLINE_S, LOOK_S
from swanroam.model.effects import AlignStates, Effect, InformCharon, MoveStates, Watch
from swanroam.model.events import TimerKind
from swanroam.model.path import IPAddress, Path
from swanroam.model.tunnel import Role
from tests.support.values import SPI_DOWN, SPI_UP, A, B, C, Desk, ike_sa, negotiated, one, path, some

AT_A, AT_B, AT_C = (path(Role.TERMINAL, outer) for outer in (A, B, C))
BOTH = ((SPI_UP, SPI_DOWN), (SPI_UP + 1, SPI_DOWN + 1))


def told(desk: Desk, outer: IPAddress) -> tuple[Effect, ...]:
    """The terminal went there, and charon is told of it."""
    desk.moved(one(MoveStates, desk.roam(outer)))
    return desk.expired(TimerKind.INFORM)


def put_back(desk: Desk, place: Path) -> tuple[Effect, ...]:
    """Charon installs policies there, those for what goes out last; what comes of that."""
    desk.installed(place, outbound=False)
    return desk.installed(place)


def demanding(first: Path = AT_A) -> Desk:
    """A terminal that is at B, and whose charon put its policies somewhere when it was told: where it had been."""
    desk = negotiated(Role.TERMINAL)
    assert not one(InformCharon, told(desk, B)).returning
    put_back(desk, first)
    desk.installed(AT_B)
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: AT_B})
    return desk


def test_its_states_are_put_back_and_what_comes_meanwhile_waits_until_it_has_installed_policies() -> None:
    desk = demanding()
    effects = told(desk, C)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Watch) < kinds.index(InformCharon)
    informed = one(InformCharon, effects)
    assert (informed.old, informed.new, informed.returning) == (AT_B, AT_C, True)
    assert one(Watch, effects).vacant == (C,)
    followed = desk.installed(AT_C)
    aligned = one(AlignStates, followed)
    assert (aligned.old, aligned.path) == (AT_B, AT_C)
    assert one(Watch, followed).vacant == ()


def test_it_is_told_again_at_once_from_where_it_was() -> None:
    desk = negotiated(Role.TERMINAL)
    told(desk, B)
    again = put_back(desk, AT_A)
    informed = one(InformCharon, again)
    assert (informed.old, informed.new, informed.returning) == (AT_A, AT_B, True)
    assert one(Watch, again).vacant == (B,)
    assert some(InformCharon, put_back(desk, AT_A)) == [], "once"


def test_where_its_states_are_meanwhile_the_tunnel_is_not() -> None:
    desk = demanding()
    told(desk, C)
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: AT_B})
    assert desk.tunnel.path == AT_C


def test_a_charon_that_takes_too_long_is_not_waited_for() -> None:
    desk = demanding()
    told(desk, C)
    for _ in range(round(DEADLINE_S / LOOK_S) - 1):
        assert some(AlignStates, desk.expired(TimerKind.FOLLOW)) == []
    effects = desk.expired(TimerKind.FOLLOW)
    assert (one(AlignStates, effects).old, one(Watch, effects).vacant) == (AT_B, ())


def test_a_gateways_too() -> None:
    desk = negotiated(Role.GATEWAY, path_validation=False)
    for number, (source, returning) in enumerate(((B, False), (C, True)), 1):
        desk.held(source, packet_id=number)
        desk.moved(one(MoveStates, desk.verified(number, 10 * number)))
        effects = desk.expired(TimerKind.INFORM)
        assert one(InformCharon, effects).returning is returning
        assert (one(Watch, effects).waiting, one(Watch, effects).vacant) == ((source,), ())
        put_back(desk, path(Role.GATEWAY, A))
        desk.listed(ike_sa(Role.GATEWAY, outer=source), at={SPI_UP: path(Role.GATEWAY, source)})


@pytest.mark.parametrize("place", [AT_B, AT_C], ids=["where the tunnel is", "anywhere else"])
def test_one_that_puts_policies_elsewhere_than_where_it_had_the_tunnel_follows_without(place: Path) -> None:
    assert not one(InformCharon, told(demanding(place), C)).returning


def test_one_that_has_followed_follows_without_wherever_it_puts_policies_later() -> None:
    desk = demanding(AT_B)
    put_back(desk, AT_A)
    assert not one(InformCharon, told(desk, C)).returning


@pytest.mark.parametrize("outbound", [True, False])
def test_policies_of_one_direction_are_those_of_a_child_sa_that_takes_over_from_another(outbound: bool) -> None:
    desk = negotiated(Role.TERMINAL)
    told(desk, B)
    assert some(InformCharon, desk.installed(AT_A, outbound=outbound)) == []
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: AT_B})
    assert not one(InformCharon, told(desk, C)).returning


def test_while_there_are_two_policies_say_nothing() -> None:
    desk = negotiated(Role.TERMINAL)
    told(desk, B)
    desk.listed(ike_sa(Role.TERMINAL, spis=BOTH), complete=False)
    put_back(desk, AT_A)
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: AT_B})
    assert not one(InformCharon, told(desk, C)).returning


def test_one_that_was_about_to_follow_there_when_it_was_told_otherwise_follows_without() -> None:
    desk = negotiated(Role.TERMINAL)
    told(desk, B)
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: AT_B})
    assert one(InformCharon, told(desk, A)).old == AT_B
    put_back(desk, AT_B)
    assert not one(InformCharon, told(desk, C)).returning
