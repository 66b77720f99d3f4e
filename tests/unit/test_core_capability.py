"""HELLO and its answers: how both ends come to know that the other takes part."""

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from swanroam.core.capability import HELLO_DELAYS_S, unserved
from swanroam.core.settings import Agreement, Settings, TunnelSettings
from swanroam.core.tunnel import Phase
from swanroam.model.effects import CapabilityChanged, MoveStates, Persist, SendMessage, StopTimer, Watch
from swanroam.model.events import Reason, TimerId, TimerKind
from swanroam.model.messages import Feature, Hello, HelloAck, Message, Refusal, Refuse, Update
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, IkeSa, Role, Selector
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    KEY,
    OTHER_INNER,
    SERVERS,
    SPI_UP,
    A,
    B,
    Desk,
    ike_sa,
    messages,
    negotiated,
    one,
    settings,
    some,
    timers,
)

BOTH = Feature.UPDATE | Feature.PATH_CHALLENGE
ROLES = pytest.mark.parametrize("role", list(Role))


def hello_of(effects: list[Message]) -> Hello:
    (hello,) = effects
    assert isinstance(hello, Hello)
    return hello


@ROLES
def test_a_new_tunnel_is_offered_the_capability_through_the_tunnel(role: Role) -> None:
    effects = Desk(role).listed(ike_sa(role))
    sent = one(SendMessage, effects)
    hello = hello_of([sent.message])
    assert (hello.features, hello.critical, hello.version) == (BOTH, 0, 1)
    addresses = (INNER, FIRST_SERVER) if role is Role.TERMINAL else (FIRST_SERVER, INNER)
    assert (sent.source, sent.destination) == addresses


@ROLES
def test_an_unanswered_hello_is_sent_again_with_the_same_nonce_and_growing_intervals_then_no_more(role: Role) -> None:
    desk = Desk(role)
    effects = desk.listed(ike_sa(role))
    first, delays = hello_of(messages(effects)), timers(effects, TimerKind.HELLO)
    while messages(effects := desk.expired(TimerKind.HELLO)):
        assert hello_of(messages(effects)) == first
        delays += timers(effects, TimerKind.HELLO)
    assert tuple(delays) == HELLO_DELAYS_S[role]
    assert desk.tunnel.capability is Capability.NONE
    assert one(CapabilityChanged, effects).detail == "no answer to HELLO"


@ROLES
def test_an_acknowledged_hello_is_an_agreement_and_ends_the_asking(role: Role) -> None:
    desk = Desk(role)
    hello = hello_of(messages(desk.listed(ike_sa(role))))
    effects = desk.message(HelloAck(nonce=hello.nonce, features=BOTH))
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert StopTimer(TimerId(KEY, TimerKind.HELLO)) in effects
    assert Persist(KEY) in effects
    assert one(CapabilityChanged, effects).capability is Capability.NEGOTIATED


def test_the_terminal_is_greeted_and_considered_at_once_and_still_knows_its_hello() -> None:
    desk = Desk(Role.TERMINAL)
    desk.roam(B)
    hello = hello_of(messages(desk.listed(ike_sa(Role.TERMINAL))))
    effects = desk.message(HelloAck(nonce=hello.nonce, features=BOTH))
    assert one(MoveStates, effects).new.local.address == B


def test_an_agreement_lets_the_gateway_hold_packets() -> None:
    desk = Desk(Role.GATEWAY)
    assert one(Watch, desk.listed(ike_sa(Role.GATEWAY))).sources == ()
    effects = desk.message(Hello(nonce=bytes(16), features=BOTH))
    assert one(Watch, effects) == Watch(key=KEY, inner=(INNER,), spis=(SPI_UP,), own=(GATEWAY,), sources=(A,))


@ROLES
def test_answers_to_another_hello_are_ignored(role: Role) -> None:
    desk = Desk(role)
    desk.listed(ike_sa(role))
    before = desk.tunnel
    assert desk.message(HelloAck(nonce=b"another nonce 16", features=BOTH)) == ()
    assert desk.message(Refuse(nonce=b"another nonce 16", reason=Refusal.POLICY)) == ()
    assert desk.tunnel == before


@ROLES
def test_an_answer_that_comes_after_the_end_of_asking_is_ignored(role: Role) -> None:
    desk = Desk(role)
    hello = hello_of(messages(desk.listed(ike_sa(role))))
    while desk.tunnel.capability is Capability.PENDING:
        desk.expired(TimerKind.HELLO)
    desk.message(HelloAck(nonce=hello.nonce, features=BOTH))
    assert desk.tunnel.capability is Capability.NONE


@ROLES
def test_a_refused_hello_leaves_the_tunnel_alone(role: Role) -> None:
    desk = Desk(role)
    hello = hello_of(messages(desk.listed(ike_sa(role))))
    effects = desk.message(Refuse(nonce=hello.nonce, reason=Refusal.VERSION))
    assert desk.tunnel.capability is Capability.NONE
    assert one(CapabilityChanged, effects).detail == "refused: version"
    assert messages(desk.expired(TimerKind.HELLO)) == []


@ROLES
def test_a_hello_is_acknowledged_with_its_nonce_as_often_as_it_comes(role: Role) -> None:
    desk = Desk(role)
    desk.listed(ike_sa(role))
    hello = Hello(nonce=b"nonce of 16 byte", features=BOTH)
    first, second = desk.message(hello), desk.message(hello)
    assert messages(first) == messages(second) == [HelloAck(nonce=hello.nonce, features=BOTH)]
    assert len(some(CapabilityChanged, first)) == 1
    assert some(CapabilityChanged, second) == []
    sent = one(SendMessage, second)
    addresses = (INNER, FIRST_SERVER) if role is Role.TERMINAL else (FIRST_SERVER, INNER)
    assert (sent.source, sent.destination) == addresses


@ROLES
@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(nonce=bytes(16), features=BOTH, version=2), Refusal.VERSION),
        (Hello(nonce=bytes(16), features=BOTH, critical=4), Refusal.FEATURE),
        (Hello(nonce=bytes(16), features=BOTH, critical=2**31 | 1), Refusal.FEATURE),
    ],
)
def test_an_offer_that_asks_for_too_much_is_refused_with_the_reason(role: Role, hello: Hello, reason: Refusal) -> None:
    desk = Desk(role)
    desk.listed(ike_sa(role))
    assert messages(desk.message(hello)) == [Refuse(nonce=hello.nonce, reason=reason)]
    assert desk.tunnel.capability is Capability.PENDING


@ROLES
def test_critical_features_that_are_known_are_accepted(role: Role) -> None:
    desk = Desk(role)
    desk.listed(ike_sa(role))
    desk.message(Hello(nonce=bytes(16), features=BOTH, critical=int(BOTH)))
    assert desk.tunnel.capability is Capability.NEGOTIATED


@ROLES
def test_what_is_off_says_nothing_and_refuses_by_policy(role: Role) -> None:
    desk = Desk(role, Agreement.OFF)
    effects = desk.listed(ike_sa(role))
    assert messages(effects) == []
    assert one(CapabilityChanged, effects).detail == "off by configuration"
    answer = desk.message(Hello(nonce=bytes(16), features=BOTH))
    assert messages(answer) == [Refuse(nonce=bytes(16), reason=Refusal.POLICY)]
    assert desk.tunnel.capability is Capability.NONE


@ROLES
def test_what_is_configured_asks_nobody(role: Role) -> None:
    desk = Desk(role, Agreement.CONFIGURED)
    effects = desk.listed(ike_sa(role))
    assert messages(effects) == []
    assert timers(effects, TimerKind.HELLO) == []
    assert desk.tunnel.capability is Capability.CONFIGURED


@ROLES
def test_a_tunnel_whose_selectors_let_no_message_through_is_left_alone(role: Role) -> None:
    sa = ike_sa(role)
    child = sa.children[0]
    narrow = (Selector(SERVERS, 6),)
    terminal = role is Role.TERMINAL
    other = replace(child, remote_selectors=narrow) if terminal else replace(child, local_selectors=narrow)
    desk = Desk(role)
    effects = desk.listed(replace(sa, children=(other,)))
    assert desk.tunnel.capability is Capability.NONE
    assert one(CapabilityChanged, effects).detail == "no selector lets UDP port 4555 through"


TERMINALS = ike_sa(Role.TERMINAL)
NATTED = Path(Endpoint(A, 4500), Endpoint(GATEWAY, 4500))
NO_WORD = "behind a NAT charon may move it with MOBIKE, and does not tell: say mobike = false where it does not"
SIX = Endpoint(IPv6Address("2001:db8::1"), 500)


def in_udp(**natted: bool) -> IkeSa:
    children = tuple(replace(child, encap=True) for child in TERMINALS.children)
    return replace(TERMINALS, local=NATTED.local, remote=NATTED.remote, children=children, **natted)


@pytest.mark.parametrize(
    ("sa", "why"),
    [
        (replace(TERMINALS, nat_remote=True), NO_WORD),
        (replace(TERMINALS, nat_local=True, local=NATTED.local, remote=NATTED.remote), NO_WORD),
        (replace(TERMINALS, nat_fake=True, local=NATTED.local, remote=NATTED.remote), NO_WORD),
        (
            replace(TERMINALS, children=(replace(TERMINALS.children[0], encryption="AES_CTR"),)),
            "the kernel cannot move AES-CTR with a separate integrity algorithm",
        ),
    ],
)
def test_kinds_that_are_not_served_are_left_alone_with_the_reason(sa: IkeSa, why: str) -> None:
    assert unserved(sa, settings(Role.TERMINAL)) == why
    for agreement in (Agreement.NEGOTIATE, Agreement.CONFIGURED):
        desk = Desk(Role.TERMINAL, agreement)
        effects = desk.listed(sa)
        assert one(CapabilityChanged, effects).detail == why
        assert messages(effects) == []
        assert some(MoveStates, desk.roam(B)) == []
        answer = desk.message(Hello(nonce=bytes(16), features=BOTH))
        assert messages(answer) == [Refuse(nonce=bytes(16), reason=Refusal.POLICY)]


@pytest.mark.parametrize("version", [1, 2])
def test_the_tunnel_of_the_tests_is_served(version: int) -> None:
    assert unserved(replace(TERMINALS, version=version), settings(Role.TERMINAL)) is None


@pytest.mark.parametrize("natted", [{"nat_local": True}, {"nat_remote": True}, {"nat_fake": True}])
def test_esp_in_udp_is_served_where_the_operator_says_that_there_is_no_mobike(natted: dict[str, bool]) -> None:
    said = Settings(role=Role.TERMINAL, tunnels={"home": TunnelSettings(mobike=False)})
    assert unserved(in_udp(**natted), said) is None


def test_esp_in_udp_is_served_where_the_connection_had_no_mobike_when_that_could_be_told() -> None:
    known = settings(Role.TERMINAL)
    assert unserved(in_udp(nat_local=True), known) == NO_WORD
    assert unserved(TERMINALS, known) is None
    assert unserved(in_udp(nat_local=True), known) is None
    assert unserved(replace(in_udp(nat_local=True), name="other"), known) == NO_WORD


def test_esp_in_udp_is_moved_together_with_charon_where_the_connection_had_mobike() -> None:
    known = settings(Role.TERMINAL)
    unserved(replace(TERMINALS, local=NATTED.local, remote=NATTED.remote), known)
    assert unserved(in_udp(nat_local=True), known) is None
    assert known.mobike(in_udp(nat_local=True)) is True


def test_what_the_operator_says_of_mobike_counts_more_than_what_charon_seems_to_tell() -> None:
    for said in (True, False):
        told = Settings(role=Role.TERMINAL, tunnels={"*": TunnelSettings(mobike=said)})
        for sa in (TERMINALS, replace(TERMINALS, local=NATTED.local, remote=NATTED.remote), in_udp(nat_local=True)):
            assert unserved(sa, told) is None
            assert told.mobike(sa) is said


def test_over_ipv6_a_tunnel_is_served_in_udp_or_not() -> None:
    said = settings(Role.TERMINAL, mobike=False)
    for sa in (TERMINALS, in_udp(nat_fake=True)):
        assert unserved(replace(sa, local=SIX, remote=SIX), said) is None


def test_what_was_learned_of_mobike_outlives_new_settings() -> None:
    desk = Desk(Role.TERMINAL)
    desk.listed(TERMINALS)
    desk.core.reconfigure(settings(Role.TERMINAL))
    assert unserved(in_udp(nat_local=True), desk.core.settings) is None


def test_what_is_learned_of_mobike_is_of_one_terminal_and_not_of_ikev1() -> None:
    said = Settings(role=Role.GATEWAY)
    plain, leaving = ike_sa(Role.GATEWAY), replace(ike_sa(Role.GATEWAY), local=Endpoint(GATEWAY, 4500))
    assert (said.mobike(plain), said.mobike(replace(leaving, remote_vips=(OTHER_INNER,)))) == (False, True)
    natted = replace(plain, nat_remote=True)
    assert said.mobike(replace(natted, version=1)) is said.mobike(natted) is False
    assert said.mobike(replace(natted, remote_vips=(OTHER_INNER,))) is True
    assert said.mobike(replace(natted, remote_vips=(FIRST_SERVER,))) is None


@ROLES
def test_a_restarted_other_end_finds_the_agreement_as_it_was(role: Role) -> None:
    desk = negotiated(role)
    effects = desk.message(Hello(nonce=b"after its restart", features=BOTH))
    assert [type(message) for message in messages(effects)] == [HelloAck]
    assert desk.tunnel.capability is Capability.NEGOTIATED


def test_a_restarted_terminal_may_count_its_moves_from_the_start() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.message(Update(sequence=7, claimed=Endpoint(A, 500)))
    assert messages(desk.message(Update(sequence=1, claimed=Endpoint(A, 500)))) == []
    hello = Hello(nonce=bytes(16), features=BOTH)
    assert Persist(KEY) in desk.message(hello), "the next daemon is to know, too"
    assert len(messages(desk.message(Update(sequence=1, claimed=Endpoint(A, 500))))) == 1


def test_the_hello_of_a_restarted_gateway_does_not_change_the_terminals_own_count() -> None:
    desk = negotiated(Role.TERMINAL)
    desk.moved(one(MoveStates, desk.roam(B)))
    desk.greeted()
    assert desk.tunnel.update_sequence == 1


@ROLES
def test_an_end_that_is_switched_off_says_so_and_the_other_one_leaves_the_tunnel_alone(role: Role) -> None:
    (word,) = messages(negotiated(role).core.reconfigure(settings(role, Agreement.OFF)))
    (other,) = (negotiated(each) for each in Role if each is not role)
    other.message(word)
    assert other.tunnel.capability is Capability.NONE
    other.greeted()
    assert other.tunnel.capability is Capability.NEGOTIATED, "switched on again"


def test_a_terminal_whose_daemon_ends_says_so_and_its_gateway_holds_nothing_until_it_is_back() -> None:
    terminal, gateway = negotiated(Role.TERMINAL), negotiated(Role.GATEWAY)
    (word,) = messages(terminal.core.leave())
    effects = gateway.message(word)
    assert one(CapabilityChanged, effects).capability is Capability.NONE
    assert one(Watch, effects).sources == ()
    gateway.greeted()
    assert gateway.tunnel.guarded


def test_a_terminal_without_an_agreement_ends_without_a_word() -> None:
    desk = Desk(Role.TERMINAL)
    desk.listed(ike_sa(Role.TERMINAL))
    assert desk.core.leave() == ()


@pytest.mark.parametrize("when", ["during the move", "before the answer"])
def test_such_a_word_makes_no_proven_path_of_one_that_is_none_yet(when: str) -> None:
    desk = negotiated(Role.GATEWAY)
    (word,) = messages(negotiated(Role.TERMINAL).core.leave())
    desk.held(B, packet_id=1)
    move = one(MoveStates, desk.verified(1, 1))
    for now in ("during the move", "before the answer"):
        if when == now:
            desk.message(word)
        if now == "during the move":
            desk.moved(move)
    assert (desk.tunnel.capability, desk.tunnel.phase) == (Capability.NEGOTIATED, Phase.VALIDATING)


@ROLES
def test_a_hello_timer_that_comes_late_does_not_overrule_the_settings(role: Role) -> None:
    for agreement, capability in ((Agreement.OFF, Capability.NONE), (Agreement.CONFIGURED, Capability.CONFIGURED)):
        desk = Desk(role)
        hello = hello_of(messages(desk.listed(ike_sa(role))))
        desk.core.reconfigure(settings(role, agreement))
        assert desk.expired(TimerKind.HELLO) == ()
        assert desk.message(HelloAck(nonce=hello.nonce, features=BOTH)) == ()
        assert desk.tunnel.capability is capability


@ROLES
def test_messages_for_no_tunnel_are_refused(role: Role) -> None:
    desk = Desk(role)
    effects = desk.message(Hello(nonce=bytes(16), features=BOTH))
    assert [getattr(effect, "reason", None) for effect in effects] == [Reason.WRONG_TUNNEL]
