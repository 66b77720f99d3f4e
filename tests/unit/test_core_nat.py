"""NATs: who finds out about them and how, what goes in UDP, and what charon is spared."""

import hashlib
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.core import encapsulation, natd
from swanroam.core.following import DEADLINE_S, LOOK_S
from swanroam.core.settings import Agreement
from swanroam.core.step import KEPT_S, PARTING_S
from swanroam.core.terminal import KEEPALIVE_S, PLAIN_ATTEMPTS
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import (
    AlignStates,
    CapabilityChanged,
    DropAddress,
    GiveVerdict,
    InformCharon,
    KeepAddress,
    ListIkeSas,
    MoveStates,
    PacketRejected,
    Reestablish,
    RemindCharon,
    SendDummy,
    Trigger,
    Unwatch,
    VerifyPacket,
    Watch,
)
from swanroam.model.events import Reason, TimerKind
from swanroam.model.messages import (
    Feature,
    Goodbye,
    Hello,
    NatD,
    PathChallenge,
    PathResponse,
    Refuse,
    Update,
    UpdateAck,
)
from swanroam.model.path import FORGOTTEN_PORT, Endpoint, IPAddress, Path
from swanroam.model.tunnel import Capability, IkeSa, Nat, Role
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    KEY,
    NAT_A,
    NAT_B,
    PRIVATE,
    SPI_DOWN,
    SPI_UP,
    A,
    B,
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
    with_spis,
)

TERMINALS, GATEWAYS = ike_sa(Role.TERMINAL), ike_sa(Role.GATEWAY)
SEEN = Endpoint(NAT_B, 31000)
"""The terminal at B, behind a NAT, as the gateway has it."""
UDP_AT_B = Path(Endpoint(B, 4500), Endpoint(GATEWAY, 4500), encap=True)
UDP_FROM_B = Path(Endpoint(GATEWAY, 4500), SEEN, encap=True)


# The discovery exchange


def test_the_hash_is_that_of_rfc_7296() -> None:
    sa = replace(TERMINALS, initiator_spi=0x0102030405060708, responder_spi=0x1112131415161718)
    data = bytes.fromhex("0102030405060708 1112131415161718 c000020a 01f4")
    assert natd.digest(sa, Endpoint(IPv4Address("192.0.2.10"), 500)) == hashlib.sha1(data).digest()  # noqa: S324
    assert natd.digest(sa, Endpoint(IPv4Address("192.0.2.10"), 500)).hex() == "441d377f1613130142837ac1d5ad099cada6ff2d"
    six = bytes.fromhex("0102030405060708 1112131415161718 20010db8000000000000000000000001 1194")
    assert natd.digest(sa, Endpoint(IPv6Address("2001:db8::1"), 4500)) == hashlib.sha1(six).digest()  # noqa: S324


HERE, THERE, ELSEWHERE = Endpoint(A, 4500), Endpoint(GATEWAY, 4500), Endpoint(NAT_A, 30000)


@pytest.mark.parametrize(
    ("sender", "receiver", "nat"),
    [
        # As the terminal knows itself and the gateway, for a gateway that knows them as HERE and THERE.
        (HERE, THERE, Nat.NONE),
        (ELSEWHERE, THERE, Nat.REMOTE),
        (HERE, ELSEWHERE, Nat.LOCAL),
        (ELSEWHERE, ELSEWHERE, Nat.BOTH),
        (Endpoint(A, 4501), THERE, Nat.REMOTE),
    ],
)
def test_who_is_behind_a_nat_follows_from_what_differs(sender: Endpoint, receiver: Endpoint, nat: Nat) -> None:
    received = natd.payloads(TERMINALS, sender, receiver)
    assert natd.judge((GATEWAYS,), received, THERE, HERE, seen=sender.address == HERE.address) is nat


def test_while_an_ike_sa_is_rekeyed_either_end_may_use_the_spis_of_either() -> None:
    older, newer = GATEWAYS, replace(GATEWAYS, unique_id=2, initiator_spi=0x33, responder_spi=0x44)
    for sa in (older, newer):
        received = natd.payloads(sa, HERE, THERE)
        assert natd.judge((newer, older), received, THERE, HERE, seen=False) is Nat.NONE


def test_hashes_of_an_ike_sa_that_only_the_other_end_has_tell_nothing_of_a_terminal_that_is_seen_where_it_is() -> None:
    stranger = natd.payloads(replace(GATEWAYS, initiator_spi=0x55), HERE, THERE)
    assert natd.judge((GATEWAYS,), stranger, THERE, HERE, seen=True) is Nat.NONE
    assert natd.judge((GATEWAYS,), stranger, THERE, HERE, seen=False) is Nat.BOTH


# Which way


def tunnel(sa: IkeSa, translated: frozenset[IPAddress] = frozenset()) -> Tunnel:
    return Tunnel(
        key=KEY,
        role=Role.TERMINAL,
        sas=(sa,),
        path=sa.path,
        capability=Capability.NEGOTIATED,
        translated=translated,
    )


@pytest.mark.parametrize(
    ("source", "remote", "surely"),
    [
        ("192.168.1.7", "203.0.113.1", True),
        ("10.0.0.1", "203.0.113.1", True),
        ("172.31.255.255", "203.0.113.1", True),
        ("100.64.0.1", "203.0.113.1", True),
        ("100.128.0.1", "203.0.113.1", False),
        ("172.32.0.1", "203.0.113.1", False),
        ("192.0.2.10", "203.0.113.1", False),
        ("10.0.0.1", "10.255.0.1", False),
        ("192.168.1.7", "10.0.0.1", False),
        ("192.0.2.10", "10.0.0.1", False),
    ],
)
def test_a_private_source_needs_a_nat_to_reach_a_public_gateway(source: str, remote: str, surely: bool) -> None:
    assert encapsulation.translated_surely(IPv4Address(source), IPv4Address(remote)) is surely


def test_the_way_from_a_source_that_was_never_used_is_plain() -> None:
    assert encapsulation.way(tunnel(TERMINALS), B) == path(Role.TERMINAL, B)


@pytest.mark.parametrize("source", [PRIVATE, IPv4Address("100.64.7.7")])
def test_the_way_from_a_private_source_and_through_a_carriers_nat_is_in_udp(source: IPv4Address) -> None:
    expected = Path(Endpoint(source, 4500), Endpoint(GATEWAY, 4500), encap=True)
    assert encapsulation.way(tunnel(TERMINALS), source) == expected


def test_the_way_from_where_a_nat_was_found_before_is_in_udp() -> None:
    remembered = tunnel(TERMINALS, frozenset({B}))
    assert encapsulation.way(remembered, B) == UDP_AT_B
    assert not encapsulation.way(remembered, A).encap


def test_a_tunnel_that_was_set_up_in_udp_goes_in_udp_to_the_port_that_it_has() -> None:
    native = in_udp(TERMINALS)
    native = replace(native, remote=Endpoint(GATEWAY, 41000))
    expected = Path(Endpoint(B, 4500), Endpoint(GATEWAY, 41000), encap=True)
    assert encapsulation.way(tunnel(native), B) == expected


# The terminal


def unanswered() -> tuple[Desk, MoveStates]:
    """A terminal that went to B, where nobody acknowledges, and its switch to UDP when that is no accident any more."""
    desk = negotiated(Role.TERMINAL)
    desk.moved(one(MoveStates, desk.roam(B)))
    for _ in range(PLAIN_ATTEMPTS - 1):
        effects = desk.expired(TimerKind.UPDATE)
        assert (len(messages(effects)), some(MoveStates, effects)) == (1, [])
    return desk, one(MoveStates, desk.expired(TimerKind.UPDATE))


def switched() -> Desk:
    """A terminal that went to B, where nobody acknowledged until it went in UDP."""
    desk, switch = unanswered()
    desk.moved(switch)
    return desk


def from_gateway(observed: Endpoint, terminal: Endpoint) -> UpdateAck:
    """What a gateway that has the terminal at `observed` answers; `terminal` is how it knows that."""
    return UpdateAck(sequence=1, observed=observed, natd=natd.payloads(GATEWAYS, THERE, terminal))


def test_an_acknowledgement_of_what_went_before_the_tunnel_was_in_udp_is_no_sign_of_a_nat() -> None:
    desk, plain = switched(), path(Role.TERMINAL, B)
    hashes = natd.payloads(GATEWAYS, plain.remote, plain.local)
    desk.message(UpdateAck(sequence=1, observed=plain.local, natd=hashes))
    assert desk.tunnel.nat is Nat.NONE
    assert desk.tunnel.translated == frozenset()


def test_three_updates_that_nobody_acknowledges_take_the_tunnel_in_udp_on_the_same_address() -> None:
    desk, switch = unanswered()
    assert (switch.trigger, switch.old, switch.new) == (Trigger.NAT, path(Role.TERMINAL, B), UDP_AT_B)
    effects = desk.moved(switch)
    assert one(Watch, effects).ike == (TERMINALS.initiator_spi,), "IKE goes that way too, from now on"
    (told,) = messages(effects)
    assert told == Update(sequence=1, claimed=UDP_AT_B.local, natd=natd.payloads(TERMINALS, *ends(UDP_AT_B)))
    assert desk.tunnel.moves == 1


def ends(where: Path) -> tuple[Endpoint, Endpoint]:
    return where.local, where.remote


def test_a_switch_that_is_refused_lets_the_update_be_sent_again_as_it_was() -> None:
    desk, switch = unanswered()
    effects = desk.refused(switch)
    assert len(messages(effects)) == 1
    assert timers(effects, TimerKind.UPDATE)
    assert not desk.tunnel.path.encap


def test_while_a_tunnel_moves_neither_a_timer_nor_an_acknowledgement_moves_it_once_more() -> None:
    desk, switch = unanswered()
    again = desk.expired(TimerKind.UPDATE)
    assert (some(MoveStates, again), len(timers(again, TimerKind.UPDATE))) == ([], 1)
    assert desk.message(from_gateway(SEEN, SEEN)) == ()
    assert desk.moved(switch)
    assert desk.tunnel.path == UDP_AT_B


def test_a_switch_that_is_done_when_the_agreement_is_gone_is_followed_by_no_other() -> None:
    desk = switched()
    plain = one(MoveStates, desk.expired(TimerKind.UPDATE))
    desk.core.reconfigure(settings(Role.TERMINAL, Agreement.OFF))
    assert some(MoveStates, desk.moved(plain)) == []


def test_a_nat_that_was_found_at_an_address_is_remembered_and_forgotten_when_it_is_gone() -> None:
    desk = switched()
    desk.message(from_gateway(SEEN, SEEN))
    assert (desk.tunnel.nat, desk.tunnel.translated) == (Nat.LOCAL, frozenset({B}))
    desk.moved(one(MoveStates, desk.roam(A)))
    move = one(MoveStates, desk.roam(B))
    assert move.new == UDP_AT_B
    desk.moved(move)
    ack = from_gateway(UDP_AT_B.local, UDP_AT_B.local)
    desk.message(replace(ack, sequence=3))
    assert (desk.tunnel.nat, desk.tunnel.translated) == (Nat.NONE, frozenset())


def test_on_a_path_in_udp_charon_is_looked_after_and_the_states_are_aligned_when_it_has_followed() -> None:
    desk = switched()
    effects = desk.message(from_gateway(SEEN, SEEN))
    informed = one(InformCharon, effects)
    assert informed.silent
    assert timers(effects, TimerKind.FOLLOW) == [LOOK_S]
    looked = desk.expired(TimerKind.FOLLOW)
    assert some(ListIkeSas, looked) == [ListIkeSas((1,))]
    assert some(AlignStates, desk.listed(TERMINALS, at={SPI_DOWN: UDP_AT_B})) == []
    followed = ike_sa(Role.TERMINAL, outer=B)
    # charon took the encapsulation away meanwhile; that is not where the tunnel is.
    effects = desk.listed(followed, at={SPI_DOWN: path(Role.TERMINAL, B)})
    aligned = one(AlignStates, effects)
    assert (aligned.path, aligned.children) == (UDP_AT_B, desk.tunnel.children)
    assert desk.tunnel.path == UDP_AT_B
    assert desk.expired(TimerKind.FOLLOW) == ()


def test_the_states_are_aligned_also_when_charon_does_not_follow_in_time() -> None:
    desk = switched()
    desk.message(from_gateway(SEEN, SEEN))
    looks = 1
    while not some(AlignStates, effects := desk.expired(TimerKind.FOLLOW)):
        looks += 1
    assert one(AlignStates, effects).path == UDP_AT_B
    assert looks == round(DEADLINE_S / LOOK_S)


def test_the_states_are_aligned_as_soon_as_charon_has_done_with_them_and_looked_at_again_when_it_has_followed() -> None:
    desk = switched()
    desk.message(from_gateway(SEEN, SEEN))
    effects = desk.installed(UDP_AT_B)
    assert (one(AlignStates, effects).path, desk.tunnel.path) == (UDP_AT_B, UDP_AT_B)
    assert some(ListIkeSas, desk.expired(TimerKind.FOLLOW)) == [ListIkeSas((1,))]
    effects = desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: UDP_AT_B})
    assert one(AlignStates, effects).path == UDP_AT_B


def test_on_a_plain_path_nothing_waits_for_charon_on_a_terminal() -> None:
    desk = negotiated(Role.TERMINAL)
    desk.moved(one(MoveStates, desk.roam(B)))
    plain = path(Role.GATEWAY, B)
    found = natd.payloads(GATEWAYS, plain.local, plain.remote)
    effects = desk.message(UpdateAck(sequence=1, observed=plain.remote, natd=found))
    assert one(InformCharon, effects).silent is False
    assert timers(effects, TimerKind.FOLLOW) == []


def test_a_child_sa_that_was_rekeyed_while_charon_knows_of_no_nat_gets_its_encapsulation_at_once() -> None:
    desk = switched()
    desk.message(from_gateway(SEEN, SEEN))
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: UDP_AT_B})
    desk.later(1.0)
    rekeyed = with_spis(ike_sa(Role.TERMINAL, outer=B), (SPI_UP, SPI_DOWN), (0xC2, 0xD2))
    plain = path(Role.TERMINAL, B)
    effects = desk.listed(rekeyed, complete=False, at={SPI_DOWN: UDP_AT_B, 0xD2: plain})
    aligned = one(AlignStates, effects)
    assert [each.spi_in for each in aligned.children] == [0xD2]
    assert (aligned.old, aligned.path, desk.tunnel.path) == (plain, UDP_AT_B, UDP_AT_B)


def test_a_mapping_that_charon_does_not_know_of_is_kept_alive_by_a_dummy() -> None:
    desk = switched()
    desk.message(from_gateway(SEEN, SEEN))
    effects = desk.expired(TimerKind.KEEPALIVE)
    assert one(SendDummy, effects) == SendDummy(key=KEY, source=INNER, destination=FIRST_SERVER)
    assert timers(effects, TimerKind.KEEPALIVE) == [KEEPALIVE_S]
    desk.later(KEEPALIVE_S)
    assert some(SendDummy, desk.expired(TimerKind.KEEPALIVE))


def test_a_daemon_that_was_killed_before_the_gateway_acknowledged_goes_on_in_udp_when_it_is_back() -> None:
    before = negotiated(Role.TERMINAL)
    before.moved(one(MoveStates, before.roam(B)))
    desk = Desk(Role.TERMINAL)
    desk.later(1.0)
    desk.roam(B)
    desk.core.remember([(replace(before.tunnel, phase=Phase.STEADY), frozenset({SPI_DOWN}))])
    effects = desk.listed(ike_sa(Role.TERMINAL), at={SPI_DOWN: path(Role.TERMINAL, B)})
    assert [type(message) for message in messages(effects)] == [Hello, Update]
    for _ in range(PLAIN_ATTEMPTS - 1):
        assert some(MoveStates, desk.expired(TimerKind.UPDATE)) == []
    assert one(MoveStates, desk.expired(TimerKind.UPDATE)).new == UDP_AT_B


def test_a_mapping_that_charon_does_not_know_of_is_kept_alive_after_a_restart_of_the_daemon_too() -> None:
    before = switched()
    before.message(from_gateway(SEEN, SEEN))
    desk = Desk(Role.TERMINAL)
    desk.core.remember([(replace(before.tunnel, nat=Nat.UNKNOWN, phase=Phase.STEADY), frozenset({SPI_DOWN}))])
    desk.later(KEEPALIVE_S)
    effects = desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: UDP_AT_B})
    assert timers(effects, TimerKind.KEEPALIVE) == [KEEPALIVE_S]
    assert some(SendDummy, desk.expired(TimerKind.KEEPALIVE))


# Tunnels that were set up in UDP: charon and kernel go on with the address that they had


def native(capability: Capability = Capability.NEGOTIATED, agreement: Agreement = Agreement.NEGOTIATE) -> Desk:
    desk = Desk(Role.TERMINAL, agreement)
    desk.core.reconfigure(settings(Role.TERMINAL, agreement, mobike=False))
    desk.listed(in_udp(TERMINALS))
    if capability is Capability.NEGOTIATED:
        desk.greeted()
    while desk.tunnel.capability is not capability:
        desk.expired(TimerKind.HELLO)
    return desk


@pytest.mark.parametrize("capability", [Capability.NEGOTIATED, Capability.NONE])
def test_a_native_tunnel_keeps_its_address_whether_the_gateway_takes_part_or_not(capability: Capability) -> None:
    desk = native(capability)
    effects = desk.roam(B)
    keep = one(KeepAddress, effects)
    assert some(MoveStates, effects) == []
    assert (keep.kept, keep.old.local.address, keep.new.local.address) == (A, A, B)


# The gateway


def udp_held(desk: Desk, packet_id: int, reason: Reason | None = None, sequence: int = 10) -> list[MoveStates]:
    assert one(VerifyPacket, desk.held(SEEN.address, packet_id=packet_id, port=SEEN.port)).spi == SPI_UP
    return some(MoveStates, desk.verified(packet_id, sequence, reason))


def test_a_verified_packet_in_udp_takes_the_tunnel_in_udp_to_its_address_and_port() -> None:
    desk = negotiated(Role.GATEWAY)
    (move,) = udp_held(desk, 1)
    assert (move.old, move.new) == (path(Role.GATEWAY), UDP_FROM_B)
    watch = one(Watch, desk.moved(move))
    assert (watch.sources, watch.leaving) == ((SEEN,), (A,))


def test_another_port_of_the_same_nat_is_another_origin() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.moved(*udp_held(desk, 1))
    assert desk.held(SEEN.address, packet_id=2, port=SEEN.port) == (GiveVerdict(packet_id=2),)
    desk.held(SEEN.address, packet_id=3, port=SEEN.port + 1)
    move = one(MoveStates, desk.verified(3, 11))
    assert move.new.remote == Endpoint(SEEN.address, SEEN.port + 1)


@pytest.mark.parametrize("reason", [Reason.BAD_ICV, Reason.REPLAYED])
def test_a_packet_in_udp_that_is_forged_or_sent_again_moves_nothing_and_is_counted(reason: Reason) -> None:
    desk = negotiated(Role.GATEWAY)
    assert udp_held(desk, 1, reason) == []
    assert desk.tunnel.rejected == {reason: 1}
    assert desk.tunnel.path == path(Role.GATEWAY)


def test_an_old_packet_in_udp_moves_nothing() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.moved(*udp_held(desk, 1))
    desk.held(NAT_A, packet_id=2, port=30000)
    effects = desk.verified(2, 10)
    assert one(PacketRejected, effects).reason is Reason.OLD_SEQUENCE


def validated() -> tuple[Desk, tuple[object, ...]]:
    desk = negotiated(Role.GATEWAY)
    (challenge,) = messages(desk.moved(*udp_held(desk, 1)))
    assert isinstance(challenge, PathChallenge)
    return desk, desk.message(PathResponse(nonce=challenge.nonce))


def test_an_update_that_claims_another_address_than_the_packets_show_is_a_nat_and_never_a_redirect() -> None:
    desk, _ = validated()
    private = Endpoint(PRIVATE, 4500)
    lies = [
        Update(sequence=1, claimed=private, natd=natd.payloads(TERMINALS, private, THERE)),
        Update(sequence=2, claimed=private),
        Update(sequence=3, claimed=Endpoint(B, 4500), natd=natd.payloads(TERMINALS, private, THERE)),
    ]
    for lie in lies:
        effects = desk.message(lie)
        assert some(MoveStates, effects) == []
        (answer,) = messages(effects)
        assert isinstance(answer, UpdateAck)
        assert answer.observed == SEEN
        assert (desk.tunnel.nat, desk.tunnel.path) == (Nat.REMOTE, UDP_FROM_B)


def test_a_hash_of_nonsense_is_a_nat_at_most() -> None:
    desk, _ = validated()
    effects = desk.message(
        Update(sequence=1, claimed=Endpoint(PRIVATE, 4500), natd=NatD(source=bytes(20), destination=bytes(20)))
    )
    assert some(MoveStates, effects) == []
    assert (desk.tunnel.nat, desk.tunnel.path) == (Nat.BOTH, UDP_FROM_B)


def native_gateway() -> Desk:
    desk = Desk(Role.GATEWAY)
    desk.core.reconfigure(settings(Role.GATEWAY, mobike=False))
    desk.listed(in_udp(GATEWAYS, seen=Endpoint(NAT_A, 30000)))
    desk.message(Hello(nonce=bytes(16), features=Feature.UPDATE | Feature.PATH_CHALLENGE))
    return desk


def reminded() -> Desk:
    desk = native_gateway()
    (challenge,) = messages(desk.moved(*udp_held(desk, 1)))
    assert isinstance(challenge, PathChallenge)
    desk.message(PathResponse(nonce=challenge.nonce))
    effects = desk.expired(TimerKind.INFORM)
    assert one(RemindCharon, effects).path == UDP_FROM_B
    assert some(InformCharon, effects) == []
    assert (one(Watch, effects).sources, one(Watch, effects).waiting) == ((), (SEEN,))
    return desk


def test_where_charon_is_to_hear_of_the_next_packet_exactly_one_passes_and_the_rest_waits() -> None:
    desk = reminded()
    assert desk.held(SEEN.address, packet_id=2, port=SEEN.port) == (GiveVerdict(packet_id=2),)
    assert desk.held(SEEN.address, packet_id=3, port=SEEN.port) == ()
    assert desk.held(SEEN.address, packet_id=4, port=SEEN.port) == ()
    effects = desk.listed(in_udp(GATEWAYS, seen=SEEN), at={SPI_UP: UDP_FROM_B})
    assert [each.packet_id for each in some(GiveVerdict, effects)] == [3, 4]
    assert one(Watch, effects).sources == (SEEN,)


def test_a_port_that_a_state_was_made_to_forget_is_not_taken_for_that_of_the_terminal() -> None:
    desk = reminded()
    forgot = replace(UDP_FROM_B, remote=Endpoint(SEEN.address, FORGOTTEN_PORT))
    desk.listed(in_udp(GATEWAYS, seen=Endpoint(NAT_A, 30000)), at={SPI_UP: forgot})
    assert desk.tunnel.path == UDP_FROM_B
    assert desk.held(SEEN.address, packet_id=2, port=SEEN.port) == (GiveVerdict(packet_id=2),)


def test_a_port_that_charon_had_no_reason_to_restore_is_restored_when_charon_is_where_the_tunnel_is() -> None:
    desk = reminded()
    forgot = replace(UDP_FROM_B, remote=Endpoint(SEEN.address, FORGOTTEN_PORT))
    followed = in_udp(GATEWAYS, seen=SEEN)
    align = one(AlignStates, desk.listed(followed, at={SPI_UP: forgot}))
    assert (align.children, align.old, align.path) == (desk.tunnel.children, UDP_FROM_B, UDP_FROM_B)
    assert some(AlignStates, desk.listed(followed, at={SPI_UP: UDP_FROM_B})) == []

    restarted = Desk(Role.GATEWAY)
    restarted.listed(followed, at={SPI_UP: forgot})
    assert one(AlignStates, restarted.listed(followed, at={SPI_UP: forgot})).path == UDP_FROM_B


def test_ike_of_a_tunnel_in_udp_is_carried_only_where_charon_knows_of_no_nat() -> None:
    desk, _ = validated()
    assert desk.tunnel.carries_ike
    assert one(Watch, desk.listed(GATEWAYS, at={SPI_UP: UDP_FROM_B})).ike == (GATEWAYS.initiator_spi,)
    other = native_gateway()
    assert not other.tunnel.carries_ike
    assert one(Watch, other.expired(TimerKind.LEAVING)).ike == ()
    plain = negotiated(Role.GATEWAY)
    assert one(Watch, plain.expired(TimerKind.LEAVING)).ike == ()


def test_the_last_messages_of_ike_are_carried_for_a_while_when_the_tunnel_has_ended() -> None:
    desk, _ = validated()
    effects = desk.listed(replace(GATEWAYS, state="DELETING"))
    parting = one(Watch, effects)
    assert (parting.ike, parting.carrying, parting.spis) == ((GATEWAYS.initiator_spi,), UDP_FROM_B, ())
    assert timers(effects, TimerKind.PARTING) == [PARTING_S]
    assert not some(Unwatch, effects)
    assert KEY in desk.core.parting
    assert desk.expired(TimerKind.PARTING) == (Unwatch(KEY),)
    assert KEY not in desk.core.parting
    plain = negotiated(Role.GATEWAY)
    effects = plain.listed()
    assert (some(Watch, effects), some(Unwatch, effects)) == ([], [Unwatch(KEY)])


def test_a_tunnel_that_is_set_up_again_is_watched_whatever_is_left_of_the_one_before() -> None:
    desk, _ = validated()
    desk.listed()
    desk.listed(replace(GATEWAYS, unique_id=2, initiator_spi=7))
    assert desk.expired(TimerKind.PARTING) == ()
    assert KEY not in desk.core.parting


def test_when_a_kept_tunnel_ends_nothing_is_rewritten_for_it_any_longer() -> None:
    desk = native()
    keep = one(KeepAddress, desk.roam(B))
    desk.moved(MoveStates(key=KEY, children=(), old=keep.old, new=keep.new, trigger=keep.trigger))
    assert desk.tunnel.here == B
    assert desk.tunnel.path.local.address == A
    assert timers(desk.listed(), TimerKind.PARTING) == [KEPT_S], "charon may still have something to say from it"
    assert desk.expired(TimerKind.PARTING) == (DropAddress(KEY), Unwatch(KEY))


def test_the_address_of_a_tunnel_that_is_built_anew_is_not_kept_for_its_last_messages() -> None:
    desk = native()
    keep = one(KeepAddress, desk.roam(B))
    desk.moved(MoveStates(key=KEY, children=(), old=keep.old, new=keep.new, trigger=keep.trigger))
    desk.core.table.put(replace(desk.tunnel, phase=Phase.ABANDONED))
    assert DropAddress(KEY) in desk.listed()


def test_an_address_that_was_kept_for_the_last_messages_of_a_tunnel_is_given_up_for_the_next_one_or_the_end() -> None:
    for ends in (True, False):
        desk = native()
        keep = one(KeepAddress, desk.roam(B))
        desk.moved(MoveStates(key=KEY, children=(), old=keep.old, new=keep.new, trigger=keep.trigger))
        desk.listed()
        fresh = in_udp(replace(TERMINALS, unique_id=2, initiator_spi=7, local=Endpoint(B, 4500)))
        assert DropAddress(KEY) in (desk.core.leave() if ends else desk.listed(fresh))


# The daemon ends


def test_a_terminal_has_charon_build_anew_what_goes_on_only_with_its_daemon() -> None:
    carried, kept, plain, at_home = switched(), native(), negotiated(Role.TERMINAL), native()
    keep = one(KeepAddress, kept.roam(B))
    kept.moved(MoveStates(key=KEY, children=(), old=keep.old, new=keep.new, trigger=keep.trigger))
    for desk in (carried, kept):
        effects = desk.core.leave()
        assert [type(effect) for effect in effects] == [DropAddress, Reestablish]
        assert one(Reestablish, effects).unique_ids == (1,)
    for desk in (plain, at_home):
        assert not some(Reestablish, desk.core.leave())


def test_a_gateway_says_goodbye_to_the_terminals_whose_ike_it_carries() -> None:
    carried, _ = validated()
    assert messages(carried.core.leave()) == [Goodbye()]
    assert negotiated(Role.GATEWAY).core.leave() == ()
    assert native_gateway().core.leave() == ()


def test_a_gateway_that_is_switched_off_says_so_and_goodbye_to_the_terminals_whose_ike_it_carries() -> None:
    carried, _ = validated()
    off = settings(Role.GATEWAY, Agreement.OFF)
    assert messages(carried.core.reconfigure(off)) == [Goodbye()]
    assert [type(message) for message in messages(negotiated(Role.GATEWAY).core.reconfigure(off))] == [Refuse]


def test_at_a_goodbye_the_tunnel_is_built_anew_and_ike_goes_its_own_way() -> None:
    desk = switched()
    effects = desk.message(Goodbye())
    assert one(Reestablish, effects).key == KEY
    assert one(CapabilityChanged, effects).capability is Capability.NONE
    assert [watch.ike for watch in some(Watch, effects)][-1] == ()
    assert timers(effects, TimerKind.REESTABLISH), "it is asked again when that fails"
    assert desk.message(Goodbye()) == ()
    plain = negotiated(Role.TERMINAL)
    assert plain.message(Goodbye()) == ()
    gateway, _ = validated()
    assert one(PacketRejected, gateway.message(Goodbye())).reason is Reason.BAD_MESSAGE


def test_a_tunnel_that_lost_its_encapsulation_while_no_daemon_ran_gets_it_again() -> None:
    desk = switched()
    desk.message(from_gateway(SEEN, SEEN))
    desk.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: UDP_AT_B})
    last = desk.tunnel.last_move
    assert last is not None
    for was, wanted in ((UDP_AT_B, [UDP_AT_B]), (path(Role.TERMINAL, B), [])):
        remembered = replace(desk.tunnel, last_move=replace(last, new=was))
        restarted = Desk(Role.TERMINAL)
        restarted.core.remember([(remembered, frozenset(remembered.spis))])
        restarted.roam(B)
        effects = restarted.listed(ike_sa(Role.TERMINAL, outer=B), at={SPI_DOWN: path(Role.TERMINAL, B)})
        assert [move.new for move in some(MoveStates, effects)] == wanted
