"""The gateway: held packets, whom it follows, and whether the terminal is there."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from swanroam.core import natd
from swanroam.core.distrust import FIRST_S
from swanroam.core.following import DEADLINE_S, LOOK_S
from swanroam.core.gateway import CHALLENGE_DELAYS_S, INFORM_S, LEAVING_S
from swanroam.core.settings import Agreement, TunnelSettings
from swanroam.core.tunnel import Phase
from swanroam.model.effects import (
    Effect,
    GiveVerdict,
    InformCharon,
    ListIkeSas,
    MoveStates,
    PacketRejected,
    SendMessage,
    StartTimer,
    StopTimer,
    Trigger,
    TunnelMoved,
    VerifyPacket,
    Watch,
)
from swanroam.model.events import (
    IkeSaEnded,
    MessageMalformed,
    PacketVerified,
    Reason,
    TimerId,
    TimerKind,
)
from swanroam.model.messages import Feature, Hello, PathChallenge, PathResponse, Update, UpdateAck
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import Capability, Nat, Role, TunnelKey
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    KEY,
    OTHER_INNER,
    SPI_DOWN,
    SPI_UP,
    A,
    B,
    C,
    Desk,
    ike_sa,
    messages,
    negotiated,
    one,
    path,
    settings,
    some,
    timers,
)

AT_A, AT_B, AT_C = (path(Role.GATEWAY, outer) for outer in (A, B, C))


def verdicts(effects: tuple[Effect, ...]) -> list[int]:
    return [effect.packet_id for effect in some(GiveVerdict, effects)]


def reasons(effects: tuple[Effect, ...]) -> list[Reason]:
    return [effect.reason for effect in some(PacketRejected, effects)]


def phase(desk: Desk) -> Phase:
    return desk.tunnel.phase


def move(desk: Desk, source: IPAddress, sequence: int, packet_id: int) -> MoveStates:
    """A packet from this source that may move the tunnel, up to the move."""
    desk.held(source, packet_id=packet_id)
    return one(MoveStates, desk.verified(packet_id, sequence))


def acknowledged(sequence: int, at: Path) -> UpdateAck:
    discovery = natd.payloads(ike_sa(Role.GATEWAY), at.local, at.remote)
    return UpdateAck(sequence=sequence, observed=at.remote, natd=discovery)


def follow(desk: Desk, source: IPAddress, sequence: int, packet_id: int) -> tuple[Effect, ...]:
    return desk.moved(move(desk, source, sequence, packet_id))


def challenge(effects: tuple[Effect, ...]) -> PathChallenge:
    (message,) = messages(effects)
    assert isinstance(message, PathChallenge)
    return message


def test_a_packet_of_an_unknown_spi_is_the_kernels_to_judge() -> None:
    effects = negotiated(Role.GATEWAY).held(B, spi=0x1234, packet_id=7)
    assert effects == (
        GiveVerdict(packet_id=7),
        PacketRejected(key=None, reason=Reason.UNKNOWN_SPI, source=B, detail="SPI 00001234"),
    )


def test_a_packet_of_a_tunnel_without_the_capability_is_the_kernels_to_judge() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(ike_sa(Role.GATEWAY))
    effects = desk.held(B, packet_id=7)
    assert verdicts(effects) == [7]
    assert reasons(effects) == [Reason.NO_CAPABILITY]
    assert desk.tunnel.rejected == {Reason.NO_CAPABILITY: 1}


def test_a_packet_that_queued_up_behind_the_one_that_moved_the_tunnel_goes_on() -> None:
    assert negotiated(Role.GATEWAY).held(A, packet_id=7) == (GiveVerdict(packet_id=7),)


def test_a_packet_from_a_new_source_is_verified_before_anything_else() -> None:
    assert negotiated(Role.GATEWAY).held(B, packet_id=7) == (
        VerifyPacket(packet_id=7, destination=GATEWAY, spi=SPI_UP),
    )


def test_a_verified_packet_moves_the_tunnel_and_goes_on_when_that_is_done() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=7)
    (moving,) = desk.verified(7, 10)
    assert moving == MoveStates(key=KEY, children=desk.tunnel.children, old=AT_A, new=AT_B, trigger=Trigger.PACKET)
    effects = desk.moved(moving)
    assert [type(effect) for effect in effects][:3] == [GiveVerdict, Watch, SendMessage]
    assert verdicts(effects) == [7]
    assert one(Watch, effects) == Watch(
        key=KEY, inner=(INNER,), spis=(SPI_UP,), own=(GATEWAY,), sources=(B,), leaving=(A,), unproven=(SPI_DOWN,)
    )
    assert one(TunnelMoved, effects).trigger is Trigger.PACKET
    assert timers(effects, TimerKind.LEAVING) == [LEAVING_S]
    assert desk.tunnel.path == AT_B
    assert desk.tunnel.moves == 1


@pytest.mark.parametrize("reason", [Reason.BAD_ICV, Reason.REPLAYED, Reason.MALFORMED, Reason.UNSUPPORTED_ALGORITHM])
def test_a_packet_that_fails_its_verification_is_counted_and_moves_nothing(reason: Reason) -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=7)
    effects = desk.verified(7, 0, reason)
    assert effects == (GiveVerdict(packet_id=7), PacketRejected(key=KEY, reason=reason, source=B))
    assert desk.tunnel.rejected == {reason: 1}
    assert desk.tunnel.path == AT_A


def test_a_packet_that_moved_a_tunnel_cannot_move_it_again() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    desk.held(C, packet_id=2)
    assert reasons(desk.verified(2, 10)) == [Reason.OLD_SEQUENCE]


def test_a_packet_with_the_inner_source_of_another_terminal_moves_nothing() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=1)
    assert reasons(desk.verified(1, 10, inner=OTHER_INNER)) == [Reason.INNER_SOURCE]


def test_packets_from_the_source_that_is_left_go_on_until_its_time_is_over_then_are_held_again() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    assert desk.held(A, packet_id=2) == (GiveVerdict(packet_id=2),)
    assert one(Watch, desk.expired(TimerKind.LEAVING)).leaving == ()
    assert len(some(VerifyPacket, desk.held(A, packet_id=3))) == 1


def test_a_terminal_that_comes_back_at_once_is_followed_by_its_update_and_challenged() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    back = Update(sequence=2, claimed=AT_A.remote)
    (moving,) = desk.message(back)
    assert moving == MoveStates(key=KEY, children=desk.tunnel.children, old=AT_B, new=AT_A, trigger=Trigger.UPDATE)
    assert desk.message(back) == (), "while it moves an update waits for its repetition"
    told = messages(desk.moved(moving))
    assert told[0] == acknowledged(2, AT_A)
    assert isinstance(told[1], PathChallenge)
    assert messages(desk.message(back)) == [acknowledged(2, AT_A)]


def test_a_terminal_that_comes_back_at_once_to_where_it_is_not_allowed_is_held_and_refused() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    there = TunnelSettings(allow=(ip_network(f"{B}/32"),))
    desk.core.reconfigure(replace(desk.core.settings, tunnels={KEY.name: there}))
    (watch,) = desk.message(Update(sequence=2, claimed=AT_A.remote))
    assert one(Watch, (watch,)).leaving == (), "its packets are held again"
    desk.held(A, packet_id=2)
    assert reasons(desk.verified(packet_id=2, sequence=11)) == [Reason.SOURCE_NOT_ALLOWED]
    assert desk.tunnel.path == AT_B


def test_an_update_that_claims_an_address_that_the_tunnel_never_had_moves_nothing() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    effects = desk.message(Update(sequence=2, claimed=path(Role.GATEWAY, C).remote))
    assert some(MoveStates, effects) == []
    assert desk.tunnel.path == AT_B


@pytest.mark.parametrize(("sequence", "port"), [(1, 500), (2, 4500)])
def test_an_update_that_was_sent_before_in_another_form_does_not_take_the_tunnel_back(sequence: int, port: int) -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(Update(sequence=1, claimed=AT_A.remote))
    desk.held(A, packet_id=1, port=4500)
    desk.moved(one(MoveStates, desk.verified(1, 10)))
    assert desk.tunnel.leaving == (A,)
    effects = desk.message(Update(sequence=sequence, claimed=Endpoint(A, port)))
    assert some(MoveStates, effects) == []
    assert desk.tunnel.path.encap


def test_an_update_does_not_take_the_tunnel_back_to_where_nobody_answered() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.moved(one(MoveStates, unanswered(desk, follow(desk, B, 10, 1))))
    assert desk.tunnel.leaving == (B,)
    effects = desk.message(Update(sequence=2, claimed=AT_B.remote))
    assert effects == (Watch(key=KEY, inner=(INNER,), spis=(SPI_UP,), own=(GATEWAY,), sources=(A,)),)
    desk.held(B, packet_id=2)
    assert reasons(desk.verified(2, 20)) == [Reason.NOT_VALIDATED]


def test_two_terminals_may_swap_their_addresses() -> None:
    desk = Desk(Role.GATEWAY)
    other = TunnelKey("home", (OTHER_INNER,))
    second = ike_sa(Role.GATEWAY, unique_id=2, outer=B, inner=(OTHER_INNER,), ike_spis=(5, 6), spis=((0xB, 0xC),))
    desk.listed(ike_sa(Role.GATEWAY), second)
    desk.greeted()
    desk.message(Hello(nonce=bytes(16), features=Feature.UPDATE), inner=OTHER_INNER)
    follow(desk, B, 10, 1)
    desk.held(A, spi=0xB, packet_id=2)
    desk.moved(one(MoveStates, desk.verified(2, 10, inner=OTHER_INNER)))
    swapped = desk.core.table.get(other)
    assert swapped is not None
    assert (desk.tunnel.path, swapped.path) == (AT_B, AT_A)


def test_the_terminal_is_challenged_on_its_new_path_and_its_answer_settles_it() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = follow(desk, B, 10, 1)
    sent = one(SendMessage, effects)
    assert (sent.source, sent.destination) == (FIRST_SERVER, INNER)
    assert phase(desk) is Phase.VALIDATING
    answered = desk.message(PathResponse(nonce=challenge(effects).nonce))
    assert StopTimer(TimerId(KEY, TimerKind.VALIDATION)) in answered
    assert phase(desk) is Phase.STEADY
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is True
    assert desk.expired(TimerKind.VALIDATION) == ()


def test_an_answer_to_another_challenge_settles_nothing() -> None:
    desk = negotiated(Role.GATEWAY)
    first = challenge(follow(desk, B, 10, 1))
    second = challenge(follow(desk, C, 20, 2))
    assert first != second
    assert desk.message(PathResponse(nonce=first.nonce)) == ()
    assert desk.message(PathResponse(nonce=b"another nonce 16")) == ()
    assert phase(desk) is Phase.VALIDATING
    desk.message(PathResponse(nonce=second.nonce))
    assert phase(desk) is Phase.STEADY


def test_charon_follows_once_the_path_is_validated_from_where_it_was() -> None:
    desk = negotiated(Role.GATEWAY)
    assert some(InformCharon, follow(desk, B, 10, 1)) == []
    told = challenge(follow(desk, C, 20, 2))
    effects = desk.message(PathResponse(nonce=told.nonce))
    assert (some(InformCharon, effects), timers(effects, TimerKind.INFORM)) == ([], [INFORM_S])
    informed = one(InformCharon, desk.expired(TimerKind.INFORM))
    assert (informed.old, informed.new) == (AT_A, AT_C)
    assert desk.expired(TimerKind.INFORM) == (), "once"


def test_charon_is_not_told_of_a_path_that_the_tunnel_has_left_since() -> None:
    desk = negotiated(Role.GATEWAY)
    told = challenge(follow(desk, B, 10, 1))
    desk.message(PathResponse(nonce=told.nonce))
    told = challenge(follow(desk, C, 20, 2))
    assert desk.expired(TimerKind.INFORM) == ()
    desk.message(PathResponse(nonce=told.nonce))
    assert one(InformCharon, desk.expired(TimerKind.INFORM)).new == AT_C


def test_charon_is_not_told_of_a_path_that_is_not_validated_yet_nor_of_a_return() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = follow(desk, B, 10, 1)
    desk.later(1.0)
    assert some(InformCharon, desk.listed(ike_sa(Role.GATEWAY), at={SPI_UP: AT_B})) == []
    returned = desk.moved(one(MoveStates, unanswered(desk, effects)))
    assert some(InformCharon, returned) == []


def unanswered(desk: Desk, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """Let all time for the challenge in these effects pass."""
    first, delays = challenge(effects), timers(effects, TimerKind.VALIDATION)
    desk.later(delays[-1])
    while messages(effects := desk.expired(TimerKind.VALIDATION)):
        assert challenge(effects) == first
        delays += timers(effects, TimerKind.VALIDATION)
        desk.later(delays[-1])
    assert tuple(delays) == CHALLENGE_DELAYS_S
    return effects


def test_without_an_answer_in_time_the_tunnel_returns_and_the_source_is_distrusted_for_a_while() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = unanswered(desk, follow(desk, B, 10, 1))
    assert reasons(effects) == [Reason.NOT_VALIDATED]
    back = one(MoveStates, effects)
    assert (back.old, back.new) == (AT_B, AT_A)
    failed_s = desk.now_s
    returned = desk.moved(back)
    assert one(TunnelMoved, returned).trigger is Trigger.REVERT
    assert [type(message) for message in messages(returned)] == [Hello], (
        "where it was proven to be, it is asked as well"
    )
    assert verdicts(returned) == []
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_A)
    desk.expired(TimerKind.LEAVING)
    desk.held(B, packet_id=2)
    assert reasons(desk.verified(2, 20)) == [Reason.NOT_VALIDATED]
    desk.now_s = failed_s + FIRST_S
    desk.held(B, packet_id=3)
    assert len(some(MoveStates, desk.verified(3, 21))) == 1


def test_several_moves_before_an_answer_keep_the_first_validated_path() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    back = one(MoveStates, unanswered(desk, follow(desk, C, 20, 2)))
    assert (back.old, back.new) == (AT_C, AT_A)


def test_the_path_to_return_to_is_where_the_tunnel_was_proven_to_be_though_charon_moved_it_there() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(PathResponse(nonce=challenge(follow(desk, B, 10, 1)).nonce))
    desk.later(60.0)
    led = desk.listed(ike_sa(Role.GATEWAY, outer=C), at={SPI_UP: AT_C})
    desk.message(PathResponse(nonce=challenge(led).nonce))
    back = one(MoveStates, unanswered(desk, follow(desk, A, 20, 2)))
    assert (back.old, back.new) == (AT_A, AT_C)


def test_a_return_to_where_the_tunnel_is_already_ends_the_waiting() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    desk.expired(TimerKind.LEAVING)
    effects = unanswered(desk, follow(desk, A, 20, 2))
    assert some(MoveStates, effects) == []
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_A)


def test_a_return_that_the_kernel_refuses_is_tried_again_and_the_path_stays_unproven() -> None:
    desk = negotiated(Role.GATEWAY)
    back = one(MoveStates, unanswered(desk, follow(desk, B, 10, 1)))
    for _ in range(3):
        effects = desk.refused(back)
        assert len(some(ListIkeSas, effects)) == 1
        assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.VALIDATING, AT_B)
        assert one(Watch, desk.listed(ike_sa(Role.GATEWAY), at={SPI_UP: AT_B})).unproven == (SPI_DOWN,)
        assert desk.expired(TimerKind.VALIDATION) == (back,)
    desk.moved(back)
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_A)
    assert desk.tunnel.rejected[Reason.NOT_VALIDATED] == 1


def test_a_daemon_that_ends_before_the_terminal_has_answered_returns_and_the_next_one_asks_again() -> None:
    desk = negotiated(Role.GATEWAY)
    follow(desk, B, 10, 1)
    assert one(MoveStates, desk.core.leave()).new == AT_A

    following = Desk(Role.GATEWAY)
    following.later(1.0)
    following.core.remember([(desk.tunnel, frozenset({SPI_UP}))])
    effects = following.listed(ike_sa(Role.GATEWAY), at={SPI_UP: AT_B})
    assert (following.tunnel.phase, some(InformCharon, effects)) == (Phase.VALIDATING, [])
    assert one(MoveStates, unanswered(following, effects)).new == AT_A


@pytest.mark.parametrize("reason", [Reason.VETOED, Reason.KERNEL_REFUSED])
def test_a_move_that_is_refused_lets_its_packet_go_on(reason: Reason) -> None:
    desk = negotiated(Role.GATEWAY)
    effects = desk.refused(move(desk, B, 10, 1), reason)
    assert verdicts(effects) == [1]
    assert reasons(effects) == [reason]
    assert len(some(ListIkeSas, effects)) == (reason is Reason.KERNEL_REFUSED)
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_A)


def test_packets_verified_during_a_move_wait_for_it_and_go_on_without_another_one() -> None:
    desk = negotiated(Role.GATEWAY)
    first = move(desk, B, 10, 1)
    desk.held(B, packet_id=2)
    desk.held(A, packet_id=3)
    assert desk.verified(2, 11) == ()
    effects = desk.moved(first)
    assert verdicts(effects) == [1, 2]
    assert some(MoveStates, effects) == []
    assert desk.tunnel.moves == 1


def test_a_packet_from_a_third_source_during_a_move_is_the_next_move() -> None:
    desk = negotiated(Role.GATEWAY)
    first = move(desk, B, 10, 1)
    desk.held(C, packet_id=2)
    assert desk.verified(2, 11) == ()
    following = one(MoveStates, effects := desk.moved(first))
    assert verdicts(effects) == [1]
    assert (following.old, following.new) == (AT_B, AT_C)
    assert verdicts(desk.moved(following)) == [2]


def test_a_packet_that_waited_for_a_refused_move_is_judged_after_it() -> None:
    desk = negotiated(Role.GATEWAY)
    first = move(desk, B, 10, 1)
    desk.held(B, packet_id=2)
    desk.verified(2, 11)
    effects = desk.refused(first, Reason.VETOED)
    assert verdicts(effects) == [1]
    assert verdicts(desk.refused(one(MoveStates, effects), Reason.VETOED)) == [2]


def test_a_bad_packet_during_a_move_does_not_take_the_place_of_the_good_one() -> None:
    desk = negotiated(Role.GATEWAY)
    first = move(desk, B, 10, 1)
    desk.held(C, packet_id=2)
    desk.verified(2, 0, Reason.BAD_ICV)
    effects = desk.moved(first)
    assert verdicts(effects) == [1, 2]
    assert one(TunnelMoved, effects).trigger is Trigger.PACKET


def test_when_the_tunnel_ends_during_a_move_the_packets_go_on() -> None:
    desk = negotiated(Role.GATEWAY)
    first = move(desk, B, 10, 1)
    desk.held(B, packet_id=2)
    desk.verified(2, 11)
    assert verdicts(desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))) == [1, 2]
    assert desk.moved(first) == (ListIkeSas(),)


def test_when_the_tunnel_ends_during_a_verification_the_packet_goes_on() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=1)
    assert verdicts(desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))) == []
    assert desk.verified(1, 10) == (GiveVerdict(packet_id=1),)


def test_a_move_of_a_tunnel_that_was_built_anew_meanwhile_is_not_the_new_ones() -> None:
    desk = negotiated(Role.GATEWAY)
    first = move(desk, B, 10, 1)
    new = ike_sa(Role.GATEWAY, unique_id=2, outer=C, ike_spis=(5, 6), spis=((7, 8),))
    assert verdicts(desk.listed(new)) == [1]
    assert desk.moved(first) == (ListIkeSas(),)
    assert desk.tunnel.path == AT_C
    assert phase(desk) is Phase.STEADY


def test_the_deadline_of_a_challenge_waits_for_a_move_that_is_under_way() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = follow(desk, B, 10, 1)
    for _ in CHALLENGE_DELAYS_S[1:]:
        effects = desk.expired(TimerKind.VALIDATION)
    onward = move(desk, C, 20, 2)
    effects = desk.expired(TimerKind.VALIDATION)
    assert [type(effect) for effect in effects] == [StartTimer]
    challenge(desk.moved(onward))
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.VALIDATING, AT_C)


def test_a_return_that_is_under_way_is_not_taken_for_the_move_of_a_packet() -> None:
    desk = negotiated(Role.GATEWAY)
    back = one(MoveStates, unanswered(desk, follow(desk, B, 10, 1)))
    desk.held(C, packet_id=2)
    assert desk.verified(2, 20) == ()
    effects = desk.moved(back)
    assert one(TunnelMoved, effects).trigger is Trigger.REVERT
    assert one(MoveStates, effects).new == AT_C


@pytest.mark.parametrize("how", ["configured", "validation off"])
def test_where_nobody_is_to_be_challenged_the_new_path_is_believed(how: str) -> None:
    desk = negotiated(Role.GATEWAY, path_validation=False)
    if how == "configured":
        desk = Desk(Role.GATEWAY, Agreement.CONFIGURED)
        desk.listed(ike_sa(Role.GATEWAY))
    effects = follow(desk, B, 10, 1)
    assert messages(effects) == []
    assert (desk.tunnel.phase, desk.tunnel.path) == (Phase.STEADY, AT_B)


def test_an_update_is_acknowledged_with_the_address_that_the_packets_come_from() -> None:
    desk = negotiated(Role.GATEWAY)
    sent = one(SendMessage, desk.message(Update(sequence=1, claimed=AT_A.remote)))
    assert sent.message == acknowledged(1, AT_A)
    assert (sent.source, sent.destination) == (FIRST_SERVER, INNER)
    assert desk.tunnel.nat is Nat.NONE


def test_an_update_never_moves_a_tunnel_whatever_it_claims() -> None:
    desk = negotiated(Role.GATEWAY)
    effects = desk.message(Update(sequence=1, claimed=AT_C.remote))
    assert messages(effects) == [acknowledged(1, AT_A)]
    assert some(MoveStates, effects) == []
    assert (desk.tunnel.path, desk.tunnel.nat) == (AT_A, Nat.REMOTE)


def test_a_repeated_update_is_acknowledged_again_and_one_of_an_earlier_move_is_not() -> None:
    desk = negotiated(Role.GATEWAY)
    for sequence, answers in ((5, 1), (5, 1), (4, 0), (6, 1)):
        assert len(messages(desk.message(Update(sequence=sequence, claimed=AT_A.remote)))) == answers


def test_an_update_reminds_a_restarted_gateway_of_the_agreement_and_the_next_packet_moves_the_tunnel() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(ike_sa(Role.GATEWAY))
    effects = desk.message(Update(sequence=4, claimed=AT_B.remote))
    assert messages(effects) == []
    assert one(Watch, effects).sources == (A,)
    assert desk.tunnel.capability is Capability.NEGOTIATED
    follow(desk, B, 10, 1)
    assert messages(desk.message(Update(sequence=4, claimed=AT_B.remote))) == [acknowledged(4, AT_B)]


def test_an_update_where_the_agreement_is_off_is_refused() -> None:
    desk = Desk(Role.GATEWAY, Agreement.OFF)
    desk.listed(ike_sa(Role.GATEWAY))
    assert reasons(desk.message(Update(sequence=1, claimed=AT_B.remote))) == [Reason.BAD_MESSAGE]
    assert desk.tunnel.capability is Capability.NONE


@pytest.mark.parametrize("message", [PathChallenge(nonce=bytes(16)), UpdateAck(sequence=1, observed=AT_A.remote)])
def test_messages_for_terminals_are_refused(message: PathChallenge | UpdateAck) -> None:
    assert reasons(negotiated(Role.GATEWAY).message(message)) == [Reason.BAD_MESSAGE]


def test_a_message_that_cannot_be_read_is_counted_for_the_tunnel_that_it_came_by() -> None:
    desk = negotiated(Role.GATEWAY)
    told = []
    for inner in (INNER, OTHER_INNER):
        event = MessageMalformed(at_s=desk.now_s, inner=inner, peer=FIRST_SERVER, problem="NAT_D_SOURCE of 19 bytes")
        told.append(one(PacketRejected, desk.step(event)))
    assert [rejected.key for rejected in told] == [KEY, None]
    assert {rejected.reason for rejected in told} == {Reason.BAD_MESSAGE}
    assert "19 bytes" in told[0].detail
    assert (desk.tunnel.rejected, desk.core.rejected) == ({Reason.BAD_MESSAGE: 1}, {Reason.BAD_MESSAGE: 1})


def test_a_move_that_was_verified_before_the_agreement_ended_is_not_made() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=1)
    desk.core.reconfigure(settings(Role.GATEWAY, Agreement.OFF))
    effects = desk.verified(1, 10)
    assert verdicts(effects) == [1]
    assert reasons(effects) == [Reason.NO_CAPABILITY]
    assert desk.tunnel.capability is Capability.NONE


def test_a_verdict_on_a_packet_that_nobody_knows_is_accept() -> None:
    event = PacketVerified(at_s=1.0, packet_id=99, reason=None, sequence=5, inner_source=INNER)
    assert Desk(Role.GATEWAY).step(event) == (GiveVerdict(packet_id=99),)


def test_uplink_packets_wait_while_charon_follows_and_go_on_in_their_order() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(PathResponse(nonce=challenge(follow(desk, B, 10, 1)).nonce))
    told = desk.expired(TimerKind.INFORM)
    kinds = [type(effect) for effect in told]
    assert kinds.index(Watch) < kinds.index(InformCharon) < kinds.index(StartTimer)
    assert (one(Watch, told).sources, one(Watch, told).waiting) == ((), (B,))
    assert desk.held(B, packet_id=2) == ()
    assert desk.held(B, packet_id=3) == ()
    assert some(ListIkeSas, desk.expired(TimerKind.FOLLOW)) == [ListIkeSas((1,))]
    assert verdicts(desk.listed(ike_sa(Role.GATEWAY), at={SPI_UP: AT_B})) == []
    effects = desk.listed(ike_sa(Role.GATEWAY, outer=B), at={SPI_UP: AT_B})
    assert verdicts(effects) == [2, 3]
    assert (one(Watch, effects).sources, one(Watch, effects).waiting) == ((B,), ())
    assert desk.expired(TimerKind.FOLLOW) == ()


def test_packets_wait_until_charon_has_installed_the_policy_for_what_goes_out() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(PathResponse(nonce=challenge(follow(desk, B, 10, 1)).nonce))
    desk.expired(TimerKind.INFORM)
    assert desk.installed(AT_B, desk.tunnel.children[0].reqid, outbound=False) == ()
    assert one(Watch, desk.installed(AT_B, desk.tunnel.children[0].reqid)).waiting == ()


def test_packets_wait_no_longer_once_charon_has_done_with_the_states() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(PathResponse(nonce=challenge(follow(desk, B, 10, 1)).nonce))
    desk.expired(TimerKind.INFORM)
    assert desk.held(B, packet_id=7) == ()
    assert desk.installed(AT_B, reqid=2) == (), "another tunnel's"
    assert desk.installed(AT_A) == (), "of a CHILD_SA that another one takes over from"
    effects = desk.installed(AT_B)
    assert some(GiveVerdict, effects) == [GiveVerdict(packet_id=7)]
    assert one(Watch, effects).sources
    assert desk.held(B, packet_id=8) == (GiveVerdict(packet_id=8),)
    assert desk.installed(AT_B) == (), "once is enough"
    assert some(ListIkeSas, desk.expired(TimerKind.FOLLOW)), "charon is asked all the same"


def test_packets_do_not_wait_for_ever_for_a_charon_that_does_not_follow() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(PathResponse(nonce=challenge(follow(desk, B, 10, 1)).nonce))
    desk.expired(TimerKind.INFORM)
    desk.held(B, packet_id=2)
    looks = 1
    while not verdicts(effects := desk.expired(TimerKind.FOLLOW)):
        looks += 1
    assert verdicts(effects) == [2]
    assert one(Watch, effects).sources == (B,)
    assert looks == round(DEADLINE_S / LOOK_S)
