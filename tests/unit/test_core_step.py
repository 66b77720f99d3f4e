"""Listings, ends, reauthentication, the store, and settings: what charon and the operator say."""

from dataclasses import replace
from typing import Any

import pytest

from swanroam.core.settings import Agreement, Settings, TunnelSettings
from swanroam.core.step import ASTRAY_S, BARE_S, LINGERING_S
from swanroam.core.tunnel import LastMove, Phase, Tunnel
from swanroam.model.effects import (
    CapabilityChanged,
    DeleteStates,
    Forget,
    GiveVerdict,
    InformCharon,
    LeftAlone,
    ListIkeSas,
    MoveStates,
    Persist,
    ReleaseInner,
    StopTimer,
    Trigger,
    Unwatch,
    Watch,
)
from swanroam.model.events import CharonLost, IkeSaEnded, Reason, TimerId, TimerKind
from swanroam.model.messages import Feature, Hello, HelloAck, Update
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, ChildSa, Mode, Nat, Role, TunnelKey
from tests.support.values import (
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
    with_spis,
)

ROLES = pytest.mark.parametrize("role", list(Role))
OTHER_KEY = TunnelKey("home", (OTHER_INNER,))
GATEWAYS = ike_sa(Role.GATEWAY)
OTHER = ike_sa(Role.GATEWAY, unique_id=2, outer=B, inner=(OTHER_INNER,), ike_spis=(5, 6), spis=((0xB, 0xC),))


def keys(desk: Desk) -> set[TunnelKey]:
    return {tunnel.key for tunnel in desk.core.table}


def spi_of(role: Role) -> int:
    return SPI_UP if role is Role.GATEWAY else SPI_DOWN


@ROLES
def test_a_listed_tunnel_is_watched_and_stored(role: Role) -> None:
    effects = Desk(role).listed(ike_sa(role))
    assert one(Watch, effects) == Watch(key=KEY, inner=(INNER,), spis=(spi_of(role),))
    assert Persist(KEY) in effects


def test_the_kernel_knows_better_than_charon_where_a_tunnel_is() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(GATEWAYS, at={SPI_UP: path(Role.GATEWAY, C)})
    assert desk.tunnel.path == path(Role.GATEWAY, C)


def test_a_partial_listing_changes_what_it_names_only() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(GATEWAYS, OTHER)
    effects = desk.listed(with_spis(OTHER, (0xD, 0xE)), complete=False)
    assert keys(desk) == {KEY, OTHER_KEY}
    assert [watch.key for watch in some(Watch, effects)] == [OTHER_KEY]
    assert one(Watch, effects).spis == (0xD,)


def test_a_complete_listing_ends_what_it_does_not_name() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(GATEWAYS, OTHER)
    effects = desk.listed(GATEWAYS)
    assert keys(desk) == {KEY}
    assert Unwatch(OTHER_KEY) in effects
    assert Forget(OTHER_KEY) in effects


def test_child_sas_that_another_tunnel_has_taken_over_are_not_deleted_with_the_first_one() -> None:
    """In IKEv1 a reauthenticated IKE_SA may get another inner address, and adopts the CHILD_SAs all the same."""
    desk = Desk(Role.GATEWAY)
    before = replace(
        GATEWAYS,
        version=1,
        children=tuple(
            replace(GATEWAYS.children[0], state=each, spi_in=spi) for each, spi in (("REKEYED", 1), ("INSTALLED", 2))
        ),
    )
    desk.listed(before)
    after = replace(before, unique_id=2, initiator_spi=7, remote_vips=(*before.remote_vips, OTHER_INNER))
    assert not some(DeleteStates, desk.listed(after))
    assert some(DeleteStates, desk.listed())


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("state", ["CONNECTING", "DELETING", "REKEYED"])
def test_an_ike_sa_that_is_not_established_is_no_tunnel(complete: bool, state: str) -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(GATEWAYS)
    desk.listed(replace(GATEWAYS, state=state), complete=complete)
    assert keys(desk) == set()


def test_an_ike_sa_without_inner_addresses_or_of_the_other_role_is_no_tunnel() -> None:
    desk = Desk(Role.GATEWAY)
    effects = desk.listed(replace(GATEWAYS, remote_vips=()), ike_sa(Role.TERMINAL, unique_id=3))
    assert [type(effect) for effect in effects] == [LeftAlone, LeftAlone]
    assert keys(desk) == set()


def test_an_ike_sa_without_a_child_sa_in_tunnel_mode_is_no_tunnel_yet() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(replace(GATEWAYS, children=()))
    desk.listed(replace(GATEWAYS, children=(replace(GATEWAYS.children[0], mode=Mode.TRANSPORT),)))
    assert keys(desk) == set()
    desk.listed(GATEWAYS, complete=False)
    assert keys(desk) == {KEY}
    assert Unwatch(KEY) not in desk.listed(replace(GATEWAYS, children=()), complete=False)
    desk.later(BARE_S)
    assert Unwatch(KEY) in desk.listed(replace(GATEWAYS, children=()))


@ROLES
def test_a_tunnel_outlives_the_moment_in_which_its_child_sas_go_over_to_a_rekeyed_ike_sa(role: Role) -> None:
    desk = negotiated(role)
    desk.core.table.put(replace(desk.tunnel, nat=Nat.REMOTE))
    before = ike_sa(role)
    successor = replace(before, unique_id=2, initiator_spi=7, responder_spi=8)
    bare = desk.listed(replace(successor, children=()), replace(before, state="REKEYED", children=()), complete=False)
    assert timers(bare, TimerKind.LINGERING) == [BARE_S]
    assert some(Unwatch, desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))) == []
    desk.listed(successor)
    assert (desk.tunnel.nat, desk.tunnel.capability) == (Nat.REMOTE, Capability.NEGOTIATED)
    assert desk.tunnel.bare_since_s is None


def test_a_tunnel_whose_child_sas_are_nowhere_ends_when_that_stays_so() -> None:
    desk = negotiated(Role.GATEWAY)
    bare = replace(GATEWAYS, children=())
    effects = desk.listed(bare, complete=False)
    assert timers(effects, TimerKind.LINGERING) == [BARE_S]
    assert some(Unwatch, effects) == []
    assert desk.expired(TimerKind.LINGERING) == (ListIkeSas((1,)),)
    desk.later(BARE_S)
    assert Unwatch(KEY) in desk.listed(bare)
    assert keys(desk) == set()


def test_a_tunnel_whose_child_sas_went_over_to_a_rekeyed_ike_sa_goes_on_with_its_agreement() -> None:
    desk = negotiated(Role.GATEWAY)
    rekeyed = replace(GATEWAYS, unique_id=2, initiator_spi=0x77, responder_spi=0x88)
    desk.listed(replace(GATEWAYS, children=()), complete=False)
    desk.later(BARE_S / 2)
    desk.listed(rekeyed)
    desk.later(BARE_S)
    desk.listed(replace(rekeyed, children=()), complete=False)
    assert desk.tunnel.capability is Capability.NEGOTIATED, "the time counts anew"


@ROLES
@pytest.mark.parametrize("where", [A, B])
def test_what_charon_would_not_find_of_a_tunnel_that_ended_is_deleted(role: Role, where: IPAddress) -> None:
    desk = Desk(role)
    desk.listed(ike_sa(role, outer=A), at={spi_of(role): path(role, where)})
    inbound, outbound = ((B,), ()) if role is Role.TERMINAL else ((), (B,))
    elsewhere = DeleteStates(key=KEY, children=desk.tunnel.children, inbound=inbound, outbound=outbound)
    assert some(DeleteStates, desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))) == ([elsewhere] * (where == B))


@ROLES
def test_what_is_left_of_a_rekeyed_child_sa_is_deleted_wherever_it_may_be_when_that_is_gone(role: Role) -> None:
    desk = Desk(role)
    pair, following = (SPI_UP, SPI_DOWN), (SPI_UP + 1, SPI_DOWN + 1)
    desk.listed(ike_sa(role, outer=A), at={spi_of(role): path(role, B)})
    first = desk.tunnel.children
    at = {spi: path(role, B) for spi in (spi_of(role), spi_of(role) + 1)}
    assert not some(DeleteStates, desk.listed(ike_sa(role, spis=(pair, following)), at=at))
    assert some(DeleteStates, desk.listed(ike_sa(role, spis=(following,)), at=at)) == [left(role, first)]


@ROLES
def test_what_is_left_of_a_tunnel_is_deleted_wherever_it_may_be_when_there_is_another_in_its_place(role: Role) -> None:
    desk = Desk(role)
    desk.listed(ike_sa(role, outer=A), at={spi_of(role): path(role, B)})
    first = desk.tunnel.children
    another = ike_sa(role, unique_id=2, ike_spis=(0x33, 0x44), spis=((SPI_UP + 1, SPI_DOWN + 1),))
    assert some(DeleteStates, desk.listed(another)) == [left(role, first)]


def left(role: Role, children: tuple[ChildSa, ...]) -> DeleteStates:
    """What deletes their states, where they were last and where charon looked for them."""
    gateway, terminal = (GATEWAY,), (B, A)
    inbound, outbound = (terminal, gateway) if role is Role.TERMINAL else (gateway, terminal)
    return DeleteStates(key=KEY, children=children, inbound=inbound, outbound=outbound)


@ROLES
def test_an_ended_ike_sa_ends_its_tunnel_and_all_its_timers(role: Role) -> None:
    desk = negotiated(role)
    effects = desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert keys(desk) == set()
    stopped = {effect.timer for effect in some(StopTimer, effects)}
    lasting = {TimerKind.REESTABLISH, TimerKind.PARTING}
    assert stopped == {TimerId(KEY, kind) for kind in TimerKind if kind not in lasting}
    assert effects[-2:] == (Unwatch(KEY), Forget(KEY))
    assert desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1)) == ()
    for kind in TimerKind:
        assert desk.expired(kind) == ()


def test_losing_charon_loses_no_tunnel() -> None:
    desk = negotiated(Role.GATEWAY)
    assert desk.step(CharonLost(at_s=desk.now_s)) == ()
    assert keys(desk) == {KEY}


@ROLES
def test_a_rekeyed_child_sa_keeps_the_agreement_and_changes_the_spis(role: Role) -> None:
    desk = negotiated(role)
    effects = desk.listed(with_spis(ike_sa(role), (7, 8)), complete=False)
    spi = 7 if role is Role.GATEWAY else 8
    assert one(Watch, effects).spis == (spi,)
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert desk.core.table.by_spi(spi) == desk.tunnel
    assert desk.core.table.by_spi(spi_of(role)) is None
    assert messages(effects) == []


@ROLES
def test_a_rekeyed_ike_sa_keeps_the_agreement_and_changes_the_id(role: Role) -> None:
    desk = negotiated(role)
    effects = desk.listed(ike_sa(role, unique_id=9, ike_spis=(7, 8)), complete=True)
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert desk.core.table.by_ike(9) == desk.tunnel
    assert desk.core.table.by_ike(1) is None
    assert messages(effects) == []


def test_the_highest_sequence_of_an_spi_is_forgotten_with_the_spi() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=1)
    desk.moved(one(MoveStates, desk.verified(1, 10)))
    assert desk.tunnel.highest == {SPI_UP: 10}
    desk.listed(with_spis(GATEWAYS, (SPI_UP, SPI_DOWN), (7, 8)))
    assert desk.tunnel.highest == {SPI_UP: 10}
    desk.listed(with_spis(GATEWAYS, (7, 8)))
    assert desk.tunnel.highest == {}


@ROLES
def test_two_ike_sas_of_a_reauthentication_are_one_tunnel_newest_first(role: Role) -> None:
    desk = negotiated(role)
    new = ike_sa(role, unique_id=2, ike_spis=(7, 8), spis=((0x70, 0x80),))
    desk.listed(new, complete=False)
    assert [sa.unique_id for sa in desk.tunnel.sas] == [2, 1]
    assert len(set(desk.tunnel.spis)) == 2
    effects = desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert one(Watch, effects).spis == desk.tunnel.spis == (0x70 if role is Role.GATEWAY else 0x80,)
    assert desk.tunnel.capability is Capability.NEGOTIATED


def test_when_the_last_ike_sa_with_a_child_sa_ends_the_tunnel_does() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(GATEWAYS, ike_sa(Role.GATEWAY, unique_id=2, ike_spis=(7, 8), spis=()))
    effects = desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=1))
    assert ListIkeSas((2,)) in effects
    assert timers(effects, TimerKind.LINGERING) == [BARE_S]
    desk.later(BARE_S)
    assert Unwatch(KEY) in desk.listed(ike_sa(Role.GATEWAY, unique_id=2, ike_spis=(7, 8), spis=()))


@ROLES
def test_a_tunnel_built_anew_begins_anew_but_keeps_its_counters(role: Role) -> None:
    desk = negotiated(role)
    desk.core.table.put(replace(desk.tunnel, moves=3, rejected={Reason.BAD_ICV: 2}, phase=Phase.STEADY, nonce=b"x"))
    effects = desk.listed(ike_sa(role, unique_id=2, outer=B, ike_spis=(7, 8), spis=((0x70, 0x80),)))
    assert [type(message) for message in messages(effects)] == [Hello]
    tunnel = desk.tunnel
    assert (tunnel.capability, tunnel.moves, tunnel.rejected) == (Capability.PENDING, 3, {Reason.BAD_ICV: 2})
    assert (tunnel.path, tunnel.nonce, tunnel.highest) == (path(role, B), b"", {})


def test_charon_that_does_not_know_of_a_move_is_told_but_not_while_it_may_be_following() -> None:
    desk = negotiated(Role.TERMINAL)
    at = {SPI_DOWN: path(Role.TERMINAL, B)}
    desk.moved(one(MoveStates, desk.roam(B)))
    desk.later(0.5)
    assert some(InformCharon, desk.listed(ike_sa(Role.TERMINAL), at=at)) == []
    assert desk.expired(TimerKind.SETTLE) == (ReleaseInner((INNER,)), ListIkeSas((1,)))
    desk.later(0.5)
    told = one(InformCharon, desk.listed(ike_sa(Role.TERMINAL), at=at))
    assert (told.old, told.new) == (path(Role.TERMINAL, A), path(Role.TERMINAL, B))
    assert some(InformCharon, desk.listed(ike_sa(Role.TERMINAL, outer=B), at=at)) == []


@ROLES
def test_charon_that_put_the_policies_of_a_new_child_sa_where_the_tunnel_was_is_told_again(role: Role) -> None:
    desk = negotiated(role)
    rekeyed, spi = ike_sa(role, spis=((0x50, 0x60),)), (0x60 if role is Role.TERMINAL else 0x50)
    here = {spi: path(role)}
    early = desk.listed(rekeyed, at=here, policies=path(role, B), complete=False)
    assert some(InformCharon, early) == []
    assert timers(early, TimerKind.SETTLE) == [ASTRAY_S]
    told = one(InformCharon, desk.listed(rekeyed, at=here, policies=path(role, B)))
    assert (told.old, told.new) == (path(role, B), path(role))
    desk.later(1.0)
    assert some(InformCharon, desk.listed(rekeyed, at=here, policies=path(role))) == []


@ROLES
def test_charon_is_told_once_more_when_only_the_child_sa_is_left_that_did_not_follow(role: Role) -> None:
    desk = negotiated(role)
    both = ike_sa(role, spis=((SPI_UP, SPI_DOWN), (0x50, 0x60)))
    left = replace(both, children=both.children[1:])
    here = {child.spi_in: path(role) for child in both.children}
    assert some(InformCharon, desk.listed(both, at=here, policies=path(role, B)))
    desk.later(1.0)
    assert some(InformCharon, desk.listed(both, at=here, policies=path(role))) == []
    told = one(InformCharon, desk.listed(left, at=here, policies=path(role)))
    assert (told.old, told.new, told.children) == (path(role, B), path(role), left.children)
    desk.later(1.0)
    assert some(InformCharon, desk.listed(left, at=here, policies=path(role))) == []


@ROLES
def test_policies_that_charon_puts_where_the_tunnel_was_are_noticed_at_once(role: Role) -> None:
    desk = negotiated(role)
    assert timers(desk.installed(path(role, B)), TimerKind.SETTLE) == [ASTRAY_S]
    assert desk.installed(path(role, B), reqid=2) == (), "another tunnel's"
    assert desk.installed(path(role)) == (), "where they should be"


def test_policies_of_a_tunnel_that_charon_has_not_followed_yet_are_where_it_was() -> None:
    desk = negotiated(Role.TERMINAL)
    desk.moved(one(MoveStates, desk.roam(B)))
    assert desk.installed(path(Role.TERMINAL, A)) == ()


def test_policies_of_a_tunnel_that_may_not_move_are_charons_business() -> None:
    desk = Desk(Role.TERMINAL, Agreement.OFF)
    desk.listed(ike_sa(Role.TERMINAL))
    at = {SPI_DOWN: path(Role.TERMINAL)}
    assert some(InformCharon, desk.listed(ike_sa(Role.TERMINAL), at=at, policies=path(Role.TERMINAL, B))) == []


def test_kernel_paths_that_were_read_before_the_last_move_are_not_believed() -> None:
    desk = negotiated(Role.TERMINAL)
    move = one(MoveStates, desk.roam(B))
    at = {SPI_DOWN: path(Role.TERMINAL, A)}
    desk.listed(ike_sa(Role.TERMINAL), at=at)
    desk.moved(move)
    effects = desk.listed(ike_sa(Role.TERMINAL), at=at)
    assert desk.tunnel.path == path(Role.TERMINAL, B)
    assert some(MoveStates, effects) == []
    assert some(InformCharon, effects) == []


def test_a_tunnel_that_appears_on_a_worse_source_moves_once_the_capability_is_there() -> None:
    desk = Desk(Role.TERMINAL, Agreement.CONFIGURED)
    desk.roam(B)
    assert one(MoveStates, desk.listed(ike_sa(Role.TERMINAL))).new == path(Role.TERMINAL, B)


def remembered(role: Role, capability: Capability = Capability.NEGOTIATED) -> Tunnel:
    nowhere = path(role, C)
    return Tunnel(
        key=KEY,
        role=role,
        sas=(),
        path=nowhere,
        capability=capability,
        highest={spi_of(role): 40},
        moves=5,
        update_sequence=5,
        last_move=LastMove(
            at_s=900.0, old=nowhere, new=path(role, B), trigger=Trigger.PACKET, duration_s=0.01, validated=True
        ),
        rejected={Reason.REPLAYED: 1},
    )


@ROLES
def test_a_restarted_daemon_knows_the_tunnel_by_an_spi_and_what_was_agreed(role: Role) -> None:
    desk = Desk(role)
    desk.core.remember([(remembered(role), frozenset({spi_of(role)}))])
    effects = desk.listed(ike_sa(role, outer=A), at={spi_of(role): path(role, B)})
    tunnel = desk.tunnel
    assert (tunnel.capability, tunnel.moves, tunnel.update_sequence) == (Capability.NEGOTIATED, 5, 5)
    assert tunnel.highest == {spi_of(role): 40}
    assert tunnel.path == path(role, B)
    # The gateway holds what comes until its charon, which is told, has followed.
    assert one(Watch, effects).waiting == ((B,) if role is Role.GATEWAY else ())
    # The terminal says so again, as the gateway may have been restarted too; the gateway has no need to.
    assert len(messages(effects)) == (role is Role.TERMINAL)
    assert some(Forget, effects) == []


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ({"validated": True, "new": path(Role.TERMINAL, B)}, False),
        ({"validated": None, "new": path(Role.TERMINAL, B)}, True),
        ({"validated": False, "new": path(Role.TERMINAL, B)}, True),
        ({"validated": True, "new": path(Role.TERMINAL, A)}, True),
        (None, True),
    ],
    ids=["acknowledged", "not acknowledged", "given up", "not stored", "the first one, not stored"],
)
def test_a_restarted_terminal_goes_on_telling_of_a_move_that_nobody_acknowledged(
    last: dict[str, Any] | None, told: bool
) -> None:
    desk, before = Desk(Role.TERMINAL), remembered(Role.TERMINAL)
    assert before.last_move is not None
    before = replace(before, last_move=None if last is None else replace(before.last_move, **last))
    desk.core.remember([(before, frozenset({SPI_DOWN}))])
    effects = desk.listed(ike_sa(Role.TERMINAL), at={SPI_DOWN: path(Role.TERMINAL, B)})
    hello, *updates = messages(effects)
    assert isinstance(hello, Hello)
    assert [message.sequence for message in updates if isinstance(message, Update)] == [6] * told
    answered = desk.message(HelloAck(nonce=hello.nonce, features=Feature.UPDATE))
    assert StopTimer(TimerId(KEY, TimerKind.HELLO)) in answered
    assert desk.tunnel.phase is (Phase.UPDATING if told else Phase.STEADY)


@ROLES
def test_a_restarted_daemon_does_not_believe_the_store_of_another_tunnel(role: Role) -> None:
    desk = Desk(role)
    desk.core.remember([(remembered(role), frozenset({1234}))])
    effects = desk.listed(ike_sa(role))
    tunnel = desk.tunnel
    assert (tunnel.capability, tunnel.moves, tunnel.highest) == (Capability.PENDING, 0, {})
    assert len(messages(effects)) == 1


def test_what_the_store_knows_and_charon_does_not_is_forgotten_with_the_first_complete_listing() -> None:
    desk = Desk(Role.GATEWAY)
    desk.core.remember([(remembered(Role.GATEWAY), frozenset({SPI_UP}))])
    assert some(Forget, desk.listed(OTHER, complete=False)) == []
    assert some(Forget, desk.listed(OTHER)) == [Forget(KEY)]


@pytest.mark.parametrize(
    ("agreement", "stored", "capability"),
    [
        (Agreement.OFF, Capability.NEGOTIATED, Capability.NONE),
        (Agreement.CONFIGURED, Capability.NEGOTIATED, Capability.CONFIGURED),
        (Agreement.NEGOTIATE, Capability.CONFIGURED, Capability.PENDING),
        (Agreement.NEGOTIATE, Capability.NONE, Capability.PENDING),
    ],
)
def test_the_settings_have_the_last_word_on_what_the_store_knows(
    agreement: Agreement, stored: Capability, capability: Capability
) -> None:
    desk = Desk(Role.GATEWAY, agreement)
    desk.core.remember([(remembered(Role.GATEWAY, stored), frozenset({SPI_UP}))])
    desk.listed(GATEWAYS)
    assert desk.tunnel.capability is capability


@ROLES
def test_new_settings_begin_anew_only_where_the_agreement_changed(role: Role) -> None:
    desk = negotiated(role)
    assert desk.core.reconfigure(settings(role, path_validation=False)) == ()
    effects = desk.core.reconfigure(settings(role, Agreement.OFF))
    assert one(CapabilityChanged, effects).capability is Capability.NONE
    assert one(Watch, effects).sources == ()
    again = desk.core.reconfigure(settings(role))
    assert [type(message) for message in messages(again)] == [Hello]
    assert len(timers(again, TimerKind.HELLO)) == 1


def test_the_name_of_a_connection_counts_more_than_the_star() -> None:
    own, star = TunnelSettings(agreement=Agreement.OFF), TunnelSettings(agreement=Agreement.CONFIGURED)
    both = Settings(role=Role.GATEWAY, tunnels={"home": own, "*": star})
    assert (both.of("home"), both.of("work")) == (own, star)
    assert Settings(role=Role.GATEWAY).of("home") == TunnelSettings()


def test_no_verdict_is_left_when_a_tunnel_is_switched_off_during_a_move() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.held(B, packet_id=1)
    move = one(MoveStates, desk.verified(1, 10))
    desk.core.reconfigure(settings(Role.GATEWAY, Agreement.OFF))
    effects = desk.moved(move)
    assert some(GiveVerdict, effects) == [GiveVerdict(packet_id=1)]
    assert one(Watch, effects).sources == ()
    assert messages(effects) == []


def test_a_child_sa_that_was_replaced_is_looked_for_until_it_is_gone() -> None:
    desk = negotiated(Role.GATEWAY)
    sa = ike_sa(Role.GATEWAY, spis=((0xC0000009, 0xD0000009), (SPI_UP, SPI_DOWN)))
    old = replace(sa.children[1], state="REKEYED")
    effects = desk.listed(replace(sa, children=(sa.children[0], old)))
    assert timers(effects, TimerKind.LINGERING) == [LINGERING_S]
    assert desk.expired(TimerKind.LINGERING) == (ListIkeSas((1,)),)
    assert timers(desk.listed(replace(sa, children=sa.children[:1])), TimerKind.LINGERING) == []
    assert desk.tunnel.spis == (0xC0000009,)
