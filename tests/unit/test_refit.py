"""States that are installed anew: what changes, and what must not."""

import errno
import socket
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from swanroam.errors import KernelRefused
from swanroam.kernel.refit import Refits, fits, refit, refitted
from swanroam.kernel.sequences import HEALED
from swanroam.kernel.transactions import Answer, Request, Transactions
from swanroam.model.path import Endpoint, Path
from swanroam.wire.netlink import NetlinkMessage, unpack_attributes
from swanroam.wire.xfrm.algorithms import Algorithm, Key
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.states import USERSA_INFO_SIZE, Encap, SaId, SaState
from swanroam.wire.xfrm.structs import Attr, Current, Limits, Mark, Msg, StateFlag, XfrmSelector

HERE, NAT, GATEWAY = (IPv4Address(text) for text in ("192.0.2.10", "198.51.100.1", "203.0.113.1"))
PLAIN = Path(Endpoint(GATEWAY, 500), Endpoint(HERE, 500))
IN_UDP = Path(Endpoint(GATEWAY, 4500), Endpoint(NAT, 31000), encap=True)
ANY = IPv4Address(0)
SELECTOR = XfrmSelector(family=socket.AF_INET, source=ANY, destination=ANY)
USED = Current(octets=9000, packets=90, added_s=1_700_000_000, used_s=1_700_000_100)
STATE = SaState(
    source=GATEWAY,
    destination=HERE,
    spi=0xC0000001,
    selector=SELECTOR,
    reqid=7,
    flags=StateFlag.AF_UNSPEC,
    replay_window=32,
    limits=Limits(soft_packets=1000, hard_packets=2000),
    current=USED,
    aead=Algorithm(name="rfc4106(gcm(aes))", key=Key(bytes(20)), icv_bits=128),
    mark=Mark(1, 0xFF),
    if_id=3,
    replay=Replay(sent=90, received=80, bitmap=0xFF),
    key_manager_sequence=5,
    last_used_s=1_700_000_100,
    others=((99, b"what nobody knows"),),
)


def again(payload: bytes) -> SaState:
    """What a kernel that took this payload would tell."""
    found = SaState.unpack(payload)
    lifetimes = [value for type_, value in unpack_attributes(payload, USERSA_INFO_SIZE) if type_ == Attr.LTIME_VAL]
    assert [Current.unpack(value) for value in lifetimes] == [found.current]
    return replace(found, others=tuple(other for other in found.others if other[0] != Attr.LTIME_VAL))


def test_a_state_that_goes_in_udp_keeps_all_but_its_ends_and_encapsulation() -> None:
    moved = again(refitted(STATE, IN_UDP, out=True))
    assert (moved.source, moved.destination) == (GATEWAY, NAT)
    assert moved.encap == Encap(source_port=4500, destination_port=31000)
    assert moved == replace(STATE, destination=NAT, encap=moved.encap, key_manager_sequence=0, last_used_s=None)


def test_there_and_back_again_a_state_is_what_it_was() -> None:
    there = again(refitted(STATE, IN_UDP, out=True))
    back = again(refitted(there, PLAIN, out=True))
    assert back == replace(STATE, key_manager_sequence=0, last_used_s=None)


def test_the_ports_of_an_inbound_state_are_those_of_the_packets_that_come_in() -> None:
    inbound = replace(STATE, source=HERE, destination=GATEWAY)
    moved = again(refitted(inbound, IN_UDP, out=False))
    assert (moved.source, moved.destination) == (NAT, GATEWAY)
    assert moved.encap == Encap(source_port=31000, destination_port=4500)


@pytest.mark.parametrize(
    ("before", "sent"),
    [
        (STATE, 12345),
        (replace(STATE, replay=None), 12345),
        (replace(STATE, replay=None, esn_replay=EsnReplay(sent=9, received=7, window=64, bitmap=(3, 4))), 2**32 + 5),
    ],
)
def test_a_state_goes_on_with_the_number_after_the_last_that_it_sent(before: SaState, sent: int) -> None:
    moved = again(refitted(before, IN_UDP, out=True, sent=sent))
    assert moved.sent == sent
    assert moved.received == before.received
    assert moved.window == before.window
    if before.esn_replay:
        assert moved.esn_replay == replace(before.esn_replay, sent=sent)
        assert moved.replay is None
    else:
        assert moved.replay == Replay(sent=sent, received=before.received, bitmap=(before.replay or Replay()).bitmap)


def test_a_state_fits_where_its_ends_and_its_encapsulation_are_those_of_the_path() -> None:
    assert fits(STATE, PLAIN, out=True)
    assert not fits(STATE, PLAIN, out=False)
    assert not fits(STATE, IN_UDP, out=True)
    moved = again(refitted(STATE, IN_UDP, out=True))
    assert fits(moved, IN_UDP, out=True)
    other_port = replace(IN_UDP, remote=Endpoint(NAT, 31001))
    assert not fits(moved, other_port, out=True)
    assert not fits(replace(STATE, encap=Encap()), PLAIN, out=True), "charon gave it encapsulation"


class FakeTransactions(Transactions):
    """Notes requests by type, and answers with what it was told to, else with no error."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def transact(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer."""
        self.requests += requests
        return [self.answers.pop(0) if self.answers else Answer() for _ in requests]


OUT = SaId(destination=HERE, spi=STATE.spi)
MOVED = replace(OUT, destination=NAT)


def test_a_state_is_taken_out_wherever_it_is_by_then_and_installed_anew() -> None:
    anew = refit({OUT: STATE}, OUT, IN_UDP, sent=7, there=MOVED)
    assert [request.type for request in anew] == [Msg.DELSA, Msg.DELSA, Msg.NEWSA]
    assert [request.payload for request in anew[:2]] == [MOVED.request(), OUT.request()]
    assert again(anew[2].payload).sent == 7
    assert [request.type for request in refit({OUT: STATE}, OUT, IN_UDP, sent=7)] == [Msg.DELSA, Msg.NEWSA]
    assert refit({}, OUT, IN_UDP, sent=7) == []
    assert refit({OUT: STATE}, OUT, PLAIN, sent=7) == [], "it is as it should be"


def test_an_inbound_state_is_given_other_ports_where_it_is() -> None:
    inbound = Path(IN_UDP.remote, IN_UDP.local, encap=True)
    there = replace(STATE, source=GATEWAY, destination=NAT, encap=Encap(source_port=0, destination_port=31000))
    (update,) = refit({MOVED: there}, MOVED, inbound)
    ports = Encap(source_port=4500, destination_port=31000)
    assert (update.type, SaState.unpack(update.payload)) == (Msg.UPDSA, replace(there, encap=ports))


def test_states_are_read_at_once_and_those_that_are_not_there_are_left_out() -> None:
    message = NetlinkMessage(Msg.NEWSA, 0, 0, 0, STATE.pack())
    transactions = FakeTransactions(Answer(messages=[message]), Answer(code=errno.ESRCH))
    assert Refits(transactions).read([OUT, MOVED]) == {OUT: SaState.unpack(STATE.pack())}
    larval = replace(message, payload=replace(STATE, aead=None).pack())
    assert Refits(FakeTransactions(Answer(messages=[larval]))).read([OUT]) == {}
    for answer in (Answer(code=errno.EPERM), Answer(messages=[replace(message, payload=b"short")])):
        with pytest.raises(KernelRefused):
            Refits(FakeTransactions(answer)).read([OUT])


def test_a_larval_state_is_replaced_and_what_is_gone_already_need_not_be_deleted() -> None:
    anew = refit({OUT: STATE}, OUT, IN_UDP, sent=7)
    transactions = FakeTransactions()
    Refits(transactions).see_to(anew, [Answer(code=errno.ESRCH), Answer(code=errno.EEXIST)])
    assert [(request.type, request.payload) for request in transactions.requests] == [(Msg.UPDSA, anew[1].payload)]
    for codes in ((errno.EPERM, 0), (0, errno.ENOMEM), (0, errno.ESRCH)):
        with pytest.raises(KernelRefused):
            Refits(FakeTransactions()).see_to(anew, [Answer(code=code) for code in codes])
    with pytest.raises(KernelRefused):
        Refits(FakeTransactions(Answer(code=errno.EPERM))).see_to(anew[1:], [Answer(code=errno.EEXIST)])


def test_what_is_put_back_is_where_it_was_with_the_number_that_it_had() -> None:
    transactions = FakeTransactions()
    in_udp = again(refitted(STATE, IN_UDP, out=True))
    Refits(transactions).put_back({MOVED: in_udp}, {MOVED: 9}, IN_UDP, PLAIN)
    *deletions, addition = transactions.requests
    assert [request.payload for request in deletions] == [OUT.request(), MOVED.request()]
    back = again(addition.payload)
    assert (back.destination, back.encap, back.sent) == (NAT, in_udp.encap, 9 + HEALED)


@pytest.mark.parametrize("there", [None, replace(STATE, aead=None)])
def test_a_larval_state_is_removed_and_with_it_the_place_is_vacant(there: SaState | None) -> None:
    transactions = FakeTransactions(told(there))
    assert Refits(transactions).vacate(OUT)
    assert [request.type for request in transactions.requests] == [Msg.GETSA, Msg.DELSA]


@pytest.mark.parametrize(
    ("before", "sent"),
    [
        (STATE, 90 + HEALED),
        (replace(STATE, replay=None, esn_replay=EsnReplay(sent=7, received=0, window=32, bitmap=(0,))), 7 + HEALED),
        (replace(STATE, replay=Replay(sent=0xFFFF_FFFF)), 0xFFFF_FFFF),
        (replace(STATE, replay=Replay(sent=0xFFFF_FFF0)), 0xFFFF_FFF0),
        (replace(STATE, replay=Replay(received=80)), 0),
    ],
)
def test_what_took_the_place_of_a_larval_state_is_added_again_beyond_its_number(before: SaState, sent: int) -> None:
    transactions = FakeTransactions(told(before))
    assert not Refits(transactions).vacate(OUT)
    back = again(transactions.requests[-1].payload)
    assert (transactions.requests[-1].type, back.sent) == (Msg.NEWSA, sent)
    assert (back.source, back.destination, back.aead) == (before.source, before.destination, before.aead)


def told(state: SaState | None) -> Answer:
    """What the kernel says of a state."""
    if state is None:
        return Answer(code=errno.ESRCH)
    return Answer(messages=[NetlinkMessage(Msg.NEWSA, 0, 0, 0, state.pack())])
