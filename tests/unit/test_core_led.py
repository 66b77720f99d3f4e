"""Where charon takes a tunnel by itself, without MOBIKE: what a gateway and a terminal make of that."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from swanroam.core.distrust import FIRST_S
from swanroam.core.gateway import CHALLENGE_DELAYS_S
from swanroam.core.settings import Agreement, TunnelSettings
from swanroam.core.tunnel import Phase
from swanroam.model.effects import (
    Effect,
    InformCharon,
    ListIkeSas,
    MoveStates,
    Trigger,
    TunnelMoved,
    Watch,
)
from swanroam.model.events import Reason, TimerKind
from swanroam.model.messages import PathResponse
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import Capability, Role
from tests.support.values import (
    NAT_A,
    SPI_DOWN,
    SPI_UP,
    A,
    B,
    C,
    Desk,
    ike_sa,
    in_udp,
    messages,
    negotiated,
    one,
    path,
    settings,
    some,
    timers,
)
from tests.unit.test_core_gateway import AT_A, AT_B, challenge, follow, reasons, unanswered

HOME, ELSEWHERE = path(Role.TERMINAL, A), Path(Endpoint(A, 500), Endpoint(C, 500))


def led(desk: Desk, to: IPAddress) -> tuple[Effect, ...]:
    """A moment later the gateway's charon went there, and took the states with it."""
    desk.later(0.01)
    return desk.listed(ike_sa(Role.GATEWAY, outer=to), complete=False, at={SPI_UP: path(Role.GATEWAY, to)})


def goes(desk: Desk, source: IPAddress, sequence: int) -> tuple[Effect, ...]:
    """The terminal is there: a packet of its moves the tunnel."""
    desk.later(0.01)
    desk.expired(TimerKind.LEAVING)
    return follow(desk, source, sequence + 1, sequence)


def test_the_terminal_is_challenged_where_charon_went_and_nothing_else_is_let_through_unseen() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = led(desk, B)
    assert one(TunnelMoved, effects).trigger is Trigger.CHARON
    assert timers(effects, TimerKind.VALIDATION) == [CHALLENGE_DELAYS_S[0]]
    watch = one(Watch, effects)
    assert (watch.sources, watch.leaving, watch.unproven) == ((B,), (), (SPI_DOWN,))
    assert (desk.tunnel.phase, desk.tunnel.path, desk.tunnel.validated_path) == (Phase.VALIDATING, AT_B, AT_A)


def test_a_terminal_that_answers_is_there_and_charon_is_not_told_what_it_knows() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(PathResponse(nonce=challenge(led(desk, B)).nonce))
    assert (desk.tunnel.phase, desk.tunnel.validated_path) == (Phase.STEADY, AT_B)
    assert desk.expired(TimerKind.INFORM) == ()
    assert not some(InformCharon, desk.listed(ike_sa(Role.GATEWAY, outer=B), at={SPI_UP: AT_B}))


def test_without_an_answer_the_tunnel_returns_and_charon_with_it() -> None:
    desk = negotiated(Role.GATEWAY)
    back = one(MoveStates, unanswered(desk, led(desk, B)))
    assert (back.old, back.new, back.trigger) == (AT_B, AT_A, Trigger.REVERT)
    desk.moved(back)
    desk.later(2.0)
    told = one(InformCharon, desk.listed(ike_sa(Role.GATEWAY, outer=B), at={SPI_UP: AT_A}))
    assert (told.old, told.new) == (AT_B, AT_A)


def test_the_terminals_next_packet_takes_the_tunnel_back() -> None:
    desk = negotiated(Role.GATEWAY)
    led(desk, B)
    desk.held(A, packet_id=1)
    assert one(MoveStates, desk.verified(1, 10)).new == AT_A


def test_from_where_no_challenge_was_answered_lately_it_returns_at_once() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.moved(one(MoveStates, unanswered(desk, led(desk, B))))
    desk.later(FIRST_S / 2)
    effects = led(desk, B)
    assert reasons(effects) == [Reason.NOT_VALIDATED]
    back = one(MoveStates, effects)
    assert (back.new, messages(effects)) == (AT_A, [])
    desk.moved(back)
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_A)


@pytest.mark.parametrize("validation", [True, False])
def test_from_where_it_is_not_allowed_it_returns_at_once(*, validation: bool) -> None:
    desk = negotiated(Role.GATEWAY)
    allowed = TunnelSettings(allow=(ip_network(f"{A}/32"),), path_validation=validation)
    desk.core.reconfigure(replace(settings(Role.GATEWAY), tunnels={"*": allowed}))
    effects = led(desk, B)
    assert reasons(effects) == [Reason.SOURCE_NOT_ALLOWED]
    desk.moved(one(MoveStates, effects))
    assert desk.tunnel.path == AT_A


def test_when_it_flaps_it_returns_at_once_and_what_charon_did_is_no_flapping() -> None:
    desk = negotiated(Role.GATEWAY)
    for sequence in range(30):
        assert not reasons(led(desk, B))
        goes(desk, A, sequence)
    for sequence in range(30, 41):
        goes(desk, (B, C)[sequence % 2], sequence)
    effects = led(desk, C)
    assert reasons(effects) == [Reason.FLAPPING]


def test_what_charon_did_keeps_no_packet_of_the_terminals_from_moving_the_tunnel() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.moved(one(MoveStates, unanswered(desk, led(desk, B))))
    desk.expired(TimerKind.LEAVING)
    goes(desk, B, 10)
    assert desk.tunnel.path == AT_B


def test_somebody_who_leads_it_from_place_to_place_does_not_put_the_return_off() -> None:
    desk = negotiated(Role.GATEWAY)
    led(desk, B)
    for delay_s in CHALLENGE_DELAYS_S[:-1]:
        desk.later(delay_s)
        assert messages(desk.expired(TimerKind.VALIDATION))
    led(desk, C)
    desk.later(CHALLENGE_DELAYS_S[-1])
    assert one(MoveStates, desk.expired(TimerKind.VALIDATION)).new == AT_A


def test_a_daemon_that_ends_takes_charon_back_with_the_tunnel() -> None:
    desk = negotiated(Role.GATEWAY)
    led(desk, B)
    effects = desk.core.leave()
    assert one(MoveStates, effects).new == AT_A
    assert (one(InformCharon, effects).old, one(InformCharon, effects).new) == (AT_B, AT_A)


def test_charon_is_not_told_of_a_place_that_nobody_has_proven() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.later(10.0)
    effects = desk.listed(ike_sa(Role.GATEWAY, outer=C), at={SPI_UP: AT_B})
    assert one(TunnelMoved, effects).trigger is Trigger.CHARON
    assert not some(InformCharon, effects)


def test_where_charon_is_late_and_goes_where_it_was_told_nobody_led_it() -> None:
    desk = negotiated(Role.GATEWAY)
    for sequence, source in enumerate((B, C)):
        desk.message(PathResponse(nonce=challenge(goes(desk, source, sequence + 1)).nonce))
        desk.expired(TimerKind.INFORM)
        desk.expired(TimerKind.LEAVING)
    assert not some(TunnelMoved, led(desk, B))


def test_the_path_to_return_to_is_the_last_one_that_was_proven() -> None:
    desk = negotiated(Role.GATEWAY)
    led(desk, B)
    assert one(MoveStates, unanswered(desk, led(desk, C))).new == AT_A


def test_where_charon_leads_back_to_the_proven_path_nothing_is_to_be_returned_to() -> None:
    desk = negotiated(Role.GATEWAY)
    led(desk, B)
    assert some(MoveStates, unanswered(desk, led(desk, A))) == []
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_A)


def test_another_port_of_a_nat_is_another_place() -> None:
    desk = Desk(Role.GATEWAY)
    desk.core.reconfigure(settings(Role.GATEWAY, mobike=False))
    first, second = (in_udp(ike_sa(Role.GATEWAY), seen=Endpoint(NAT_A, port)) for port in (30000, 30001))
    desk.listed(first)
    desk.greeted()
    effects = desk.listed(second, complete=False, at={SPI_UP: second.path})
    assert one(TunnelMoved, effects).trigger is Trigger.CHARON
    assert challenge(effects)


@pytest.mark.parametrize("agreement", [Agreement.CONFIGURED, Agreement.NEGOTIATE])
def test_where_nobody_is_challenged_the_tunnel_is_where_charon_went(agreement: Agreement) -> None:
    desk = Desk(Role.GATEWAY, agreement, path_validation=agreement is Agreement.CONFIGURED)
    desk.listed(ike_sa(Role.GATEWAY))
    if agreement is Agreement.NEGOTIATE:
        desk.greeted()
    effects = led(desk, B)
    assert one(TunnelMoved, effects).trigger is Trigger.CHARON
    assert not messages(effects)
    assert (desk.tunnel.phase, desk.tunnel.validated_path) == (Phase.STEADY, AT_B)


def test_a_tunnel_that_may_not_move_and_one_that_was_elsewhere_before_the_daemon_began_are_charons() -> None:
    alone = Desk(Role.GATEWAY)
    alone.listed(ike_sa(Role.GATEWAY))
    assert not some(TunnelMoved, led(alone, B))
    assert (alone.tunnel.path, alone.tunnel.phase) == (AT_B, Phase.STEADY)
    begun = Desk(Role.GATEWAY)
    assert not some(TunnelMoved, led(begun, B))


def terminal_led(desk: Desk, version: int = 1) -> tuple[Effect, ...]:
    """The terminal's charon takes somebody at C for the gateway."""
    astray = replace(ike_sa(Role.TERMINAL), version=version, remote=ELSEWHERE.remote)
    return desk.listed(astray, complete=False, at={SPI_DOWN: ELSEWHERE})


def test_a_terminal_goes_back_from_what_is_no_address_of_its_gateway_and_tells_it() -> None:
    desk = negotiated(Role.TERMINAL)
    effects = terminal_led(desk)
    assert reasons(effects) == [Reason.SOURCE_NOT_ALLOWED]
    back = one(MoveStates, effects)
    assert (back.old, back.new) == (ELSEWHERE, HOME)
    assert messages(desk.moved(back))
    assert desk.tunnel.path == HOME


def test_a_terminal_that_may_not_go_back_yet_tries_again_and_takes_nothing_else_for_its_gateway() -> None:
    desk = negotiated(Role.TERMINAL)
    assert some(ListIkeSas, desk.refused(one(MoveStates, terminal_led(desk))))
    assert some(MoveStates, terminal_led(desk)) == []
    assert desk.tunnel.path == HOME
    desk.later(1.0)
    assert some(ListIkeSas, desk.expired(TimerKind.MOVE))
    assert one(MoveStates, terminal_led(desk)).new == HOME


def test_a_terminal_stays_where_the_gateway_may_be_or_spoke_ikev2() -> None:
    assert not some(MoveStates, terminal_led(negotiated(Role.TERMINAL), version=2))
    told = negotiated(Role.TERMINAL)
    told.core.table.put(replace(told.tunnel, gateways=(C,)))
    assert not some(MoveStates, terminal_led(told))
    configured = Desk(Role.TERMINAL, Agreement.CONFIGURED)
    configured.listed(ike_sa(Role.TERMINAL))
    assert configured.tunnel.capability is Capability.CONFIGURED
    assert not some(MoveStates, terminal_led(configured))
