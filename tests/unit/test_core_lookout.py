"""A gateway of several addresses that falls silent while the terminal stands still."""

from dataclasses import replace

import pytest

from swanroam.core.lookout import LOOK_S, PAUSE_S
from swanroam.core.settings import Settings, TunnelSettings
from swanroam.core.silence import UNANSWERED
from swanroam.core.tunnel import Phase
from swanroam.model.effects import Effect, ListIkeSas, MoveStates, Reestablish
from swanroam.model.events import TimerKind
from swanroam.model.messages import Feature, Hello, HelloAck, Update
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Role
from tests.support.values import GATEWAY, SECOND, A, B, Desk, ike_sa, messages, one, path, some, timers
from tests.unit.test_core_seeking import acknowledged, goes_to, moved, silent, terminal

SA = ike_sa(Role.TERMINAL)


def looks(desk: Desk, received: int, sent: int) -> tuple[Effect, ...]:
    """It is looked at, and this is what charon says then."""
    effects = desk.expired(TimerKind.LOOKOUT)
    if some(ListIkeSas, effects):
        (child,) = SA.children
        desk.listed(replace(SA, children=(replace(child, packets_in=received, packets_out=sent),)))
    return effects


def asked() -> Desk:
    """Packets went out, and none came in: the gateway is asked."""
    desk = terminal(GATEWAY, SECOND)
    for sent in (100, 100 + UNANSWERED):
        assert one(ListIkeSas, looks(desk, 40, sent))
    effects = looks(desk, 40, 200)
    assert [type(message) for message in messages(effects)] == [Update]
    assert timers(effects, TimerKind.LOOKOUT) == [PAUSE_S]
    return desk


@pytest.mark.parametrize(("told", "delays"), [((GATEWAY, SECOND), [LOOK_S]), ((GATEWAY,), [])])
def test_it_is_looked_out_for_only_where_there_are_other_addresses_to_go_to(
    told: tuple[IPAddress, ...], delays: list[float]
) -> None:
    desk = Desk(Role.TERMINAL)
    desk.roam(A)
    (hello,) = messages(desk.listed(SA))
    assert isinstance(hello, Hello)
    answer = HelloAck(nonce=hello.nonce, features=Feature.UPDATE, addresses=told)
    assert timers(desk.message(answer), TimerKind.LOOKOUT) == delays


def test_it_is_looked_out_for_when_the_operator_names_another_address() -> None:
    desk = terminal(GATEWAY)
    named = TunnelSettings(gateways=(SECOND,))
    effects = desk.core.reconfigure(Settings(role=Role.TERMINAL, tunnels={"*": named}))
    assert timers(effects, TimerKind.LOOKOUT) == [LOOK_S]
    assert desk.core.reconfigure(Settings(role=Role.TERMINAL, tunnels={"*": named})) == ()


def test_a_gateway_that_is_heard_or_was_asked_little_is_not_asked() -> None:
    desk = terminal(GATEWAY, SECOND)
    for received, sent in ((40, 100), (41, 200), (41, 200 + UNANSWERED - 1), (41, 200 + UNANSWERED)):
        effects = looks(desk, received, sent)
        assert timers(effects, TimerKind.LOOKOUT) == [LOOK_S]
        assert messages(effects) == []


def test_one_that_answers_is_there() -> None:
    desk = asked()
    acknowledged(desk)
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, path(Role.TERMINAL))
    assert not desk.tunnel.asking


def test_one_that_does_not_is_sought_at_its_other_addresses() -> None:
    desk = asked()
    effects = silent(desk)
    assert goes_to(effects) == (A, SECOND)
    moved(desk, effects)
    acknowledged(desk)
    assert (desk.tunnel.phase, desk.tunnel.path.addresses, desk.tunnel.asking) == (Phase.STEADY, (A, SECOND), False)


def test_where_none_answers_the_tunnel_goes_on_where_it_was_and_nothing_is_negotiated() -> None:
    desk = asked()
    for there in (SECOND, GATEWAY):
        effects = silent(desk)
        assert goes_to(effects) == (A, there)
        moved(desk, effects)
    effects = silent(desk)
    assert some(MoveStates, effects) == some(Reestablish, effects) == []
    assert (desk.tunnel.phase, desk.tunnel.path, desk.tunnel.sought) == (Phase.STEADY, path(Role.TERMINAL), ())


def test_a_move_meanwhile_is_a_move_as_any() -> None:
    desk = asked()
    moved(desk, desk.roam(B))
    assert not desk.tunnel.asking
    for _ in range(3):
        moves = some(MoveStates, silent(desk))
        if not moves:
            break
        desk.moved(moves[0])
    assert desk.tunnel.phase is Phase.UPDATING, "it goes on being told"
