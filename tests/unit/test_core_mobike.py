"""Tunnels with MOBIKE: who moves what, and that charon has the last word."""

from dataclasses import replace

import pytest

from swanroam.core.capability import unserved
from swanroam.core.mobike import APART_S, GRACE_S, LOOK_S, UNAWARE_S, charons
from swanroam.core.settings import Agreement
from swanroam.core.terminal import UPDATE_DELAYS_S
from swanroam.core.tunnel import Phase
from swanroam.model.effects import (
    AlignStates,
    Effect,
    HoldInner,
    InformCharon,
    KeepAddress,
    MoveStates,
    Reestablish,
    StopTimer,
    Trigger,
    TunnelMoved,
)
from swanroam.model.events import RepositoryChanged, TimerId, TimerKind
from swanroam.model.messages import PathChallenge, PathResponse, Update, UpdateAck
from swanroam.model.path import NATT_PORT, Endpoint, IPAddress, Path
from swanroam.model.tunnel import Capability, IkeSa, Nat, Role
from tests.support.values import (
    GATEWAY,
    KEY,
    NAT_B,
    PRIVATE,
    SPI_DOWN,
    SPI_UP,
    A,
    B,
    C,
    Desk,
    ike_sa,
    messages,
    one,
    path,
    repository,
    settings,
    some,
    timers,
)

ROLES = pytest.mark.parametrize("role", list(Role))


def mobike_sa(role: Role, outer: IPAddress = A, *, encap: bool = False, seen: Endpoint | None = None) -> IkeSa:
    """An IKE_SA with MOBIKE: on port 4500, with or without a NAT before the terminal."""
    sa = ike_sa(role, outer=outer)
    terminal, gateway = seen or Endpoint(outer, NATT_PORT), Endpoint(GATEWAY, NATT_PORT)
    local, remote = (terminal, gateway) if role is Role.TERMINAL else (gateway, terminal)
    children = tuple(replace(child, encap=encap) for child in sa.children)
    at_terminal = role is Role.TERMINAL
    return replace(
        sa,
        local=local,
        remote=remote,
        children=children,
        nat_local=encap and at_terminal,
        nat_remote=encap and not at_terminal,
    )


def spi(role: Role) -> int:
    return SPI_DOWN if role is Role.TERMINAL else SPI_UP


def agreed(role: Role) -> Desk:
    """A tunnel with MOBIKE whose other end takes part."""
    desk = Desk(role)
    desk.listed(mobike_sa(role), at={spi(role): path(role)})
    desk.greeted()
    assert desk.tunnel.capability is Capability.NEGOTIATED
    return desk


def moved(role: Role) -> Desk:
    """That tunnel after swanroam moved it to B; the other end has not said anything yet."""
    desk = agreed(role)
    if role is Role.TERMINAL:
        effects = desk.roam(B)
    else:
        desk.held(B, packet_id=1)
        effects = desk.verified(1, sequence=100)
    desk.moved(one(MoveStates, effects))
    desk.later(0.02)
    return desk


def acknowledged(role: Role) -> Desk:
    """After that the other end proved the path."""
    desk = moved(role)
    if role is Role.TERMINAL:
        desk.message(UpdateAck(sequence=desk.tunnel.update_sequence, observed=Endpoint(B, 500)))
    else:
        desk.message(PathResponse(nonce=desk.tunnel.nonce))
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is True
    return desk


@ROLES
def test_it_is_told_by_the_port_and_known_from_then_on(role: Role) -> None:
    desk = agreed(role)
    assert desk.tunnel.mobike is True
    # As charon has it after XFRMA_KMADDRESS, or behind a NAT, where nothing tells any more.
    desk.listed(ike_sa(role), at={spi(role): path(role)})
    assert desk.tunnel.mobike is True
    assert unserved(ike_sa(role), settings(role), True) is None


@ROLES
def test_data_moves_at_once_and_charon_is_told_nothing(role: Role) -> None:
    desk = moved(role)
    effects = (
        *desk.message(UpdateAck(sequence=1, observed=Endpoint(B, 500))),
        *desk.message(PathResponse(nonce=desk.tunnel.nonce)),
        *desk.expired(TimerKind.INFORM),
    )
    assert some(InformCharon, effects) == []
    assert desk.tunnel.path == path(role, B)
    assert desk.tunnel.phase is Phase.STEADY


def test_the_terminal_tells_the_gateway_and_holds_its_inner_address_for_what_charon_will_do() -> None:
    desk = agreed(Role.TERMINAL)
    effects = desk.moved(one(MoveStates, desk.roam(B)))
    assert [type(message) for message in messages(effects)] == [Update]
    assert one(HoldInner, effects).inner == KEY.inner


@ROLES
def test_a_charon_that_follows_is_no_second_move(role: Role) -> None:
    desk = acknowledged(role)
    before = desk.tunnel
    effects = desk.listed(mobike_sa(role, B), complete=False, at={spi(role): path(role, B)})
    assert some(TunnelMoved, effects) == []
    assert (desk.tunnel.moves, desk.tunnel.path, desk.tunnel.last_move) == (1, path(role, B), before.last_move)
    # What it found in the kernel it may have changed: encapsulation is to be as it has it.
    assert one(AlignStates, effects).path == path(role, B)
    assert some(AlignStates, desk.listed(mobike_sa(role, B), at={spi(role): path(role, B)})) == []


def test_a_path_that_charon_took_needs_no_answer_to_a_challenge() -> None:
    desk = moved(Role.GATEWAY)
    assert desk.tunnel.phase is Phase.VALIDATING
    effects = desk.listed(mobike_sa(Role.GATEWAY, B), complete=False, at={SPI_UP: path(Role.GATEWAY, B)})
    assert StopTimer(TimerId(KEY, TimerKind.VALIDATION)) in effects
    assert desk.tunnel.phase is Phase.STEADY
    assert desk.tunnel.validated_path == path(Role.GATEWAY, B)
    assert some(MoveStates, desk.expired(TimerKind.VALIDATION)) == []


def test_a_path_that_nobody_proved_is_left_again() -> None:
    desk = moved(Role.GATEWAY)
    effects: tuple[Effect, ...] = ()
    while not some(MoveStates, effects):
        effects = desk.expired(TimerKind.VALIDATION)
        assert effects
    back = one(MoveStates, effects)
    assert (back.new, back.trigger) == (path(Role.GATEWAY), Trigger.REVERT)


@ROLES
def test_where_charon_moved_first_swanroam_tells_of_it(role: Role) -> None:
    desk = agreed(role)
    effects = desk.listed(mobike_sa(role, B), complete=False, at={spi(role): path(role, B)})
    told = one(TunnelMoved, effects)
    assert (told.old, told.new, told.trigger) == (path(role), path(role, B), Trigger.MOBIKE)
    assert desk.tunnel.last_move is not None
    assert (desk.tunnel.moves, desk.tunnel.last_move.validated) == (1, True)


@ROLES
def test_without_the_capability_swanroam_only_tells(role: Role) -> None:
    desk = Desk(role)
    desk.listed(mobike_sa(role), at={spi(role): path(role)})
    assert some(MoveStates, desk.roam(B)) == []
    effects = desk.listed(mobike_sa(role, B), complete=False, at={spi(role): path(role, B)})
    assert one(TunnelMoved, effects).trigger is Trigger.MOBIKE
    assert some(AlignStates, effects) == []
    assert some(MoveStates, effects) == []


@ROLES
def test_states_follow_a_charon_that_went_elsewhere(role: Role) -> None:
    desk = moved(role)
    effects = desk.listed(mobike_sa(role, C), complete=False, at={spi(role): path(role, B)})
    align = one(AlignStates, effects)
    assert (align.old, align.path) == (path(role, B), path(role, C))
    assert one(TunnelMoved, effects).trigger is Trigger.MOBIKE
    assert desk.tunnel.path == path(role, C)


@ROLES
def test_a_charon_that_is_still_on_its_way_is_not_followed_back(role: Role) -> None:
    desk = acknowledged(role)
    if role is Role.TERMINAL:
        effects = desk.roam(C)
    else:
        desk.held(C, packet_id=2)
        effects = desk.verified(2, sequence=200)
    desk.moved(one(MoveStates, effects))
    desk.later(0.02)
    late = desk.listed(mobike_sa(role, B), complete=False, at={spi(role): path(role, C)})
    assert some(AlignStates, late) == []
    assert some(TunnelMoved, late) == []
    assert desk.tunnel.path == path(role, C)
    there = desk.listed(mobike_sa(role, C), complete=False, at={spi(role): path(role, C)})
    assert one(AlignStates, there).path == path(role, C)
    # From now on B is a place as any other.
    desk.later(10)
    assert one(TunnelMoved, desk.listed(mobike_sa(role, B), at={spi(role): path(role, B)})).trigger is Trigger.MOBIKE


def test_where_the_gateway_went_back_charon_may_still_go() -> None:
    desk = moved(Role.GATEWAY)
    effects: tuple[Effect, ...] = ()
    while not some(MoveStates, effects):
        effects = desk.expired(TimerKind.VALIDATION)
        assert effects
    desk.moved(one(MoveStates, effects))
    desk.later(1)
    effects = desk.listed(mobike_sa(Role.GATEWAY, B), complete=False, at={SPI_UP: path(Role.GATEWAY, B)})
    assert one(AlignStates, effects).path == path(Role.GATEWAY, B)
    assert desk.tunnel.path == path(Role.GATEWAY, B)


@ROLES
def test_states_get_the_encapsulation_that_charon_found(role: Role) -> None:
    desk = moved(role)
    seen = Endpoint(NAT_B, 30000) if role is Role.GATEWAY else None
    sa = mobike_sa(role, B, encap=True, seen=seen)
    effects = desk.listed(sa, complete=False, at={spi(role): path(role, B)})
    assert one(AlignStates, effects).path == Path(sa.local, sa.remote, encap=True) == charons(sa)
    assert desk.tunnel.path == charons(sa)
    assert desk.tunnel.nat is (Nat.LOCAL if role is Role.TERMINAL else Nat.REMOTE)
    # Its IKE goes on port 4500 by itself.
    assert not desk.tunnel.carries_ike


@ROLES
def test_nothing_is_made_of_a_listing_in_the_middle_of_it(role: Role) -> None:
    desk = moved(role)
    sa = mobike_sa(role, B)
    halfway = replace(sa, children=tuple(replace(child, state="UPDATING") for child in sa.children))
    effects = desk.listed(halfway, complete=False, at={spi(role): path(role, B)})
    assert some(AlignStates, effects) == []
    assert LOOK_S in timers(effects, TimerKind.SETTLE)
    assert len(some(AlignStates, desk.listed(sa, at={spi(role): path(role, B)}))) == 1


@ROLES
def test_a_charon_that_stays_behind_is_told_after_a_while_if_the_path_is_proven(role: Role) -> None:
    desk = acknowledged(role)
    desk.later(1.0)
    waiting = desk.listed(mobike_sa(role), at={spi(role): path(role, B)})
    assert some(InformCharon, waiting) == []
    (delay_s,) = timers(waiting, TimerKind.SETTLE)
    assert delay_s == pytest.approx(GRACE_S - 1.02, abs=0.03)
    desk.later(delay_s)
    told = one(InformCharon, desk.listed(mobike_sa(role), at={spi(role): path(role, B)}))
    assert told.new == path(role, B)


@ROLES
def test_a_charon_that_stays_behind_on_an_unproven_path_is_not_told(role: Role) -> None:
    desk = moved(role)
    desk.later(GRACE_S + 1)
    effects = desk.listed(mobike_sa(role), at={spi(role): path(role, B)})
    assert some(InformCharon, effects) == []


def behind_a_nat(role: Role) -> Desk:
    """The other end has proved the path, which goes through a NAT, and charon is where it was."""
    desk = acknowledged(role)
    local, remote = (Endpoint(address, NATT_PORT) for address in path(role, B).addresses)
    there = Path(local, remote, encap=True)
    desk.core.table.put(replace(desk.tunnel, path=there))
    return desk


def test_a_terminals_charon_that_does_not_find_a_nat_for_long_builds_the_tunnel_anew_and_knows_of_it() -> None:
    desk = behind_a_nat(Role.TERMINAL)
    desk.later(GRACE_S)
    waiting = desk.listed(mobike_sa(Role.TERMINAL), at={SPI_DOWN: desk.tunnel.path})
    assert (some(InformCharon, waiting), some(Reestablish, waiting)) == ([], [])
    (delay_s,) = timers(waiting, TimerKind.SETTLE)
    desk.later(delay_s)
    effects = desk.listed(mobike_sa(Role.TERMINAL), at={SPI_DOWN: desk.tunnel.path})
    assert one(Reestablish, effects).unique_ids == (1,)
    assert timers(effects, TimerKind.REESTABLISH)


def test_a_gateways_charon_that_does_not_find_a_nat_is_left_to_the_terminals() -> None:
    desk = behind_a_nat(Role.GATEWAY)
    desk.later(UNAWARE_S + 1)
    effects = desk.listed(mobike_sa(Role.GATEWAY), at={SPI_UP: desk.tunnel.path})
    assert (some(InformCharon, effects), some(Reestablish, effects)) == ([], [])


def test_a_daemon_that_begins_does_not_tell_charon_either() -> None:
    desk = Desk(Role.TERMINAL)
    effects = desk.listed(mobike_sa(Role.TERMINAL), at={SPI_DOWN: path(Role.TERMINAL, B)})
    assert some(InformCharon, effects) == []


def test_a_better_path_is_left_to_charon_while_the_present_one_works() -> None:
    desk = agreed(Role.TERMINAL)
    assert some(MoveStates, desk.roam(B, A)) == []
    assert one(MoveStates, desk.roam(B)).new == path(Role.TERMINAL, B)


def test_the_new_path_is_the_one_that_routes_say_whatever_is_preferred() -> None:
    desk = agreed(Role.TERMINAL)
    there = repository(B, C, metrics={B: 100, C: 200})
    preferred = tuple(replace(each, preference=50 * (each.address == C)) for each in there.addresses)
    changed = RepositoryChanged(at_s=desk.now_s, repository=replace(there, addresses=preferred))
    assert one(MoveStates, desk.step(changed)).new == path(Role.TERMINAL, B)


def test_an_unanswered_update_neither_tries_udp_nor_builds_the_tunnel_anew() -> None:
    desk = moved(Role.TERMINAL)
    for _ in UPDATE_DELAYS_S:
        effects = desk.expired(TimerKind.UPDATE)
        assert some(MoveStates, effects) == []
        assert some(Reestablish, effects) == []
    assert desk.tunnel.phase is Phase.STEADY
    assert desk.tunnel.last_move is not None
    assert desk.tunnel.last_move.validated is False


def test_in_udp_it_is_moved_as_others_are_and_no_address_is_kept() -> None:
    desk = Desk(Role.TERMINAL)
    desk.core.reconfigure(settings(Role.TERMINAL, mobike=True))
    natted = Path(Endpoint(A, NATT_PORT), Endpoint(GATEWAY, NATT_PORT), encap=True)
    desk.listed(mobike_sa(Role.TERMINAL, encap=True), at={SPI_DOWN: natted})
    assert not desk.tunnel.alone
    desk.greeted()
    effects = desk.roam(PRIVATE)
    assert some(KeepAddress, effects) == []
    expected = Path(Endpoint(PRIVATE, NATT_PORT), Endpoint(GATEWAY, NATT_PORT), encap=True)
    assert one(MoveStates, effects).new == expected


@ROLES
def test_new_word_of_the_operator_begins_the_tunnel_anew(role: Role) -> None:
    desk = agreed(role)
    desk.core.reconfigure(settings(role, mobike=False))
    assert desk.tunnel.mobike is False
    assert desk.tunnel.capability is Capability.PENDING


def test_the_challenge_is_sent_all_the_same() -> None:
    desk = agreed(Role.GATEWAY)
    desk.held(B, packet_id=1)
    effects = desk.moved(one(MoveStates, desk.verified(1, sequence=100)))
    assert [type(message) for message in messages(effects)] == [PathChallenge]


def test_off_is_off() -> None:
    desk = Desk(Role.TERMINAL, Agreement.OFF)
    desk.listed(mobike_sa(Role.TERMINAL), at={SPI_DOWN: path(Role.TERMINAL)})
    assert some(MoveStates, desk.roam(B)) == []


@ROLES
def test_without_the_capability_states_that_an_earlier_daemon_left_elsewhere_are_brought_to_charon(role: Role) -> None:
    desk = Desk(role)
    apart = {spi(role): path(role, B)}
    assert timers(desk.listed(mobike_sa(role), at=apart), TimerKind.SETTLE) == [APART_S]
    desk.later(APART_S)
    # charon may be on its way, and was asked before the kernel.
    assert some(MoveStates, desk.listed(mobike_sa(role), at=apart)) == []
    desk.later(APART_S)
    move = one(MoveStates, desk.listed(mobike_sa(role), at=apart))
    assert (move.old, move.new, move.trigger) == (path(role, B), path(role), Trigger.MOBIKE)
    effects = desk.moved(move)
    assert messages(effects) == []
    assert (desk.tunnel.path, desk.tunnel.moves, desk.tunnel.phase) == (path(role), 0, Phase.STEADY)


@ROLES
def test_where_charon_itself_was_on_its_way_nothing_is_brought_anywhere(role: Role) -> None:
    desk = Desk(role)
    desk.listed(mobike_sa(role), at={spi(role): path(role, B)})
    desk.later(APART_S)
    desk.listed(mobike_sa(role, B), at={spi(role): path(role, B)})
    desk.later(APART_S)
    assert some(MoveStates, desk.listed(mobike_sa(role, B), at={spi(role): path(role, B)})) == []
