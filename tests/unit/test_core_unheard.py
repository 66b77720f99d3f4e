"""A terminal whose daemon is gone without a word: its gateway leaves the tunnel to strongSwan, and to nobody else."""

from dataclasses import replace
from itertools import count

import pytest

from swanroam.core.gateway import CHALLENGE_DELAYS_S, SETTLE_S
from swanroam.core.tunnel import Phase
from swanroam.core.unheard import FAILURES
from swanroam.model.effects import AlignStates, CapabilityChanged, Effect, MoveStates, Watch
from swanroam.model.events import IkeSaEnded, Reason, TimerKind
from swanroam.model.messages import Feature, Hello, HelloAck
from swanroam.model.path import Endpoint, IPAddress
from swanroam.model.tunnel import Capability, IkeSa, Role
from tests.support.values import (
    NAT_A,
    SPI_UP,
    B,
    C,
    Desk,
    ike_sa,
    in_udp,
    messages,
    negotiated,
    one,
    settings,
    some,
    timers,
)
from tests.unit.test_core_gateway import AT_A, AT_B

NEW_SPI = SPI_UP + 1
numbers = count(100)


def behind_nat(port: int) -> IkeSa:
    """An IKE_SA of a terminal behind a NAT that gave it this port."""
    return in_udp(ike_sa(Role.GATEWAY), seen=Endpoint(NAT_A, port))


def agreed(sa: IkeSa) -> Desk:
    """A gateway whose terminal takes part, without MOBIKE."""
    desk = Desk(Role.GATEWAY)
    desk.core.reconfigure(settings(Role.GATEWAY, mobike=False))
    desk.listed(sa)
    desk.greeted()
    return desk


def goes(desk: Desk, source: IPAddress, port: int | None = None, spi: int = SPI_UP) -> tuple[Effect, ...]:
    """A packet from there moves the tunnel, if it may."""
    desk.later(1.0)
    desk.expired(TimerKind.LEAVING)
    number = next(numbers)
    desk.held(source, spi, packet_id=number, port=port)
    moves = some(MoveStates, desk.verified(number, number))
    return desk.moved(moves[0]) if moves else ()


def unanswered(desk: Desk) -> tuple[Effect, ...]:
    """Nobody answers the challenges, and the tunnel returns."""
    for delay_s in CHALLENGE_DELAYS_S:
        desk.later(delay_s)
        effects = desk.expired(TimerKind.VALIDATION)
    return (*effects, *desk.moved(one(MoveStates, effects)))


def gives_up(desk: Desk, between_s: float = 0.0) -> None:
    """The NAT gave the terminal another port, and nobody answers from there, until the agreement is over."""
    while desk.tunnel.guarded:
        desk.later(between_s)
        if goes(desk, NAT_A, 40001):
            unanswered(desk)


def asked(effects: tuple[Effect, ...]) -> Hello:
    """The HELLO in these effects."""
    (hello,) = messages(effects)
    assert isinstance(hello, Hello)
    return hello


def test_after_two_failures_in_which_nothing_was_heard_the_tunnel_is_strongswans_until_the_daemon_is_heard() -> None:
    desk = negotiated(Role.GATEWAY)
    goes(desk, B)
    asked(unanswered(desk))
    assert desk.tunnel.capability is Capability.NEGOTIATED, "the challenges may have been lost"
    goes(desk, C)
    effects = unanswered(desk)
    assert one(CapabilityChanged, effects).capability is Capability.PENDING
    assert some(Watch, effects)[-1].sources == ()
    assert (desk.tunnel.path, desk.tunnel.phase) == (AT_A, Phase.STEADY)
    desk.later(60.0)
    assert goes(desk, B) == ()
    assert desk.tunnel.rejected[Reason.NO_CAPABILITY] == 1
    desk.message(HelloAck(nonce=asked(effects).nonce, features=Feature.UPDATE))
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert goes(desk, B)


def test_a_daemon_that_answers_where_it_was_proven_to_be_keeps_the_agreement_however_often_it_is_led_away() -> None:
    desk = negotiated(Role.GATEWAY)
    for source in (B, C) * FAILURES:
        desk.later(60.0)
        goes(desk, source)
        hello = asked(unanswered(desk))
        desk.message(HelloAck(nonce=hello.nonce, features=Feature.UPDATE))
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert desk.tunnel.rejected[Reason.NOT_VALIDATED] == 2 * FAILURES


def test_a_tunnel_whose_ike_is_carried_is_left_to_the_terminal() -> None:
    desk = agreed(ike_sa(Role.GATEWAY))
    goes(desk, NAT_A, 40000)
    desk.core.table.put(replace(desk.tunnel, phase=Phase.STEADY))
    assert desk.tunnel.carries_ike
    for port in range(FAILURES + 1):
        desk.later(60.0)
        goes(desk, NAT_A, 40001 + port)
        unanswered(desk)
    assert desk.tunnel.capability is Capability.NEGOTIATED


def test_where_a_nat_changes_under_a_terminal_without_a_daemon_the_tunnel_goes_on_by_itself_in_10_s() -> None:
    desk = agreed(behind_nat(40000))
    began_s = desk.now_s
    gives_up(desk)
    assert desk.now_s - began_s < 10.0


def test_the_last_return_of_a_tunnel_in_udp_is_to_where_charon_has_followed() -> None:
    desk, led = agreed(behind_nat(40000)), behind_nat(40002)
    goes(desk, NAT_A, 40001)
    unanswered(desk)
    desk.core.table.put(replace(desk.tunnel, sas=(led,)))
    gives_up(desk, between_s=2.0)
    assert desk.tunnel.path == led.path


def test_where_charon_has_followed_already_the_kernel_is_made_to_agree_when_the_agreement_is_over() -> None:
    """A charon that is where packets come from does nothing when the kernel reports them."""
    first, second = behind_nat(40000), behind_nat(40001)
    desk = agreed(first)
    gives_up(desk)
    desk.later(SETTLE_S)
    effects = desk.listed(second, at={SPI_UP: first.path})
    aligned = one(AlignStates, effects)
    assert (aligned.old, aligned.path) == (first.path, second.path)
    assert timers(effects, TimerKind.SETTLE)
    assert not some(AlignStates, desk.listed(second, at={SPI_UP: second.path}))
    assert desk.tunnel.path == second.path
    desk.listed(first, at={SPI_UP: second.path})
    assert not some(AlignStates, desk.listed(first, at={SPI_UP: second.path})), "where it is by itself it is let be"


def reauthenticated(desk: Desk) -> tuple[Effect, ...]:
    """Charon sets an IKE_SA up anew from B while the old one is there, at A."""
    desk.later(100.0)
    new = ike_sa(Role.GATEWAY, unique_id=2, outer=B, ike_spis=(0x33, 0x44), spis=((NEW_SPI, 0xD2),))
    return desk.listed(new, complete=False, at={SPI_UP: AT_A, NEW_SPI: AT_B})


def test_a_reauthentication_from_elsewhere_proves_where_the_terminal_is_and_asks_for_its_daemon() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = reauthenticated(desk)
    hello = asked(effects)
    assert (desk.tunnel.path, desk.tunnel.also) == (AT_B, (AT_A,))
    assert desk.tunnel.capability is Capability.PENDING
    desk.later(0.2)
    desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert (desk.tunnel.path, desk.tunnel.phase) == (AT_B, Phase.STEADY)
    desk.message(HelloAck(nonce=hello.nonce, features=Feature.UPDATE))
    assert goes(desk, C, spi=NEW_SPI)


def test_a_challenge_that_waits_for_its_answer_is_settled_by_a_reauthentication() -> None:
    desk = negotiated(Role.GATEWAY)
    goes(desk, C)
    reauthenticated(desk)
    assert (desk.tunnel.path, desk.tunnel.phase) == (AT_B, Phase.STEADY)
    assert desk.expired(TimerKind.VALIDATION) == ()


@pytest.mark.parametrize("agreed", [Capability.NONE, Capability.CONFIGURED])
def test_where_nothing_was_negotiated_nothing_is_asked(agreed: Capability) -> None:
    desk = negotiated(Role.GATEWAY)
    desk.core.table.put(replace(desk.tunnel, capability=agreed))
    effects = reauthenticated(desk)
    assert messages(effects) == []
    assert timers(effects, TimerKind.HELLO) == []
