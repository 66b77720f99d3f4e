"""Sequence numbers of states that must not send for a moment, against transactions in memory."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import pytest

from swanroam.errors import KernelRefused
from swanroam.kernel.sequences import BLOCKED, HALF, HEALED, Sequences
from swanroam.kernel.transactions import Answer, Request
from swanroam.wire.netlink import NetlinkMessage
from swanroam.wire.xfrm.aevents import AeState
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.states import SaId
from swanroam.wire.xfrm.structs import Current, Msg

HERE, THERE = IPv4Address("192.0.2.10"), IPv4Address("203.0.113.1")
SPI = 0xC0000001
ID = SaId(destination=THERE, spi=SPI)
SHORT = AeState(id=ID, source=HERE, reqid=1, replay=Replay(sent=90, received=7, bitmap=5), current=Current(packets=90))
ESN = replace(
    SHORT,
    replay=None,
    esn_replay=EsnReplay(sent=2**32 + 90, received=7, window=64, bitmap=(1, 2)),
)
WIDE = replace(SHORT, replay=None, esn_replay=EsnReplay(sent=90, received=7, window=128, bitmap=(1, 2, 3, 4)))
"""With numbers of 32 bits, and a window that needs the longer form."""


@dataclass(slots=True)
class Kernel:
    """States by (destination, SPI), as far as GETAE and NEWAE see them; takes the place of Transactions."""

    states: dict[tuple[IPv4Address, int], AeState]
    calls: int = 0
    sends_s: int = 0
    """Packets that another CPU sends between each two requests."""

    def transact(self, requests: Sequence[Request]) -> list[Answer]:
        self.calls += bool(requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        asked = AeState.unpack(request.payload)
        key = (asked.id.destination, asked.id.spi)
        state = self.states.get(key)  # type: ignore[arg-type]
        if state is None:
            return Answer(errno.ESRCH)
        if request.type == Msg.GETAE:
            answer = Answer(0, [NetlinkMessage(Msg.NEWAE, 0, 0, 0, state.pack())])
            self._send(key)  # type: ignore[arg-type]
            return answer
        # xfrm_user.c, xfrm_replay_verify_len: the form must be that of the state.
        if bool(asked.esn_replay) != bool(state.esn_replay):
            return Answer(errno.EINVAL)
        if asked.esn_replay and state.esn_replay and len(asked.esn_replay.bitmap) != len(state.esn_replay.bitmap):
            return Answer(errno.EINVAL)
        self.states[key] = replace(state, replay=asked.replay, esn_replay=asked.esn_replay)  # type: ignore[index]
        return Answer()

    def _send(self, key: tuple[IPv4Address, int]) -> None:
        """Other CPUs send, where the state lets them."""
        state = self.states[key]
        assert state.current
        for _ in range(self.sends_s):
            state = self.states[key]
            if state.sent & BLOCKED == BLOCKED:
                return
            self.states[key] = with_sent(replace(state, current=replace(state.current, packets=packets(state) + 1)))

    def __getitem__(self, destination: IPv4Address) -> AeState:
        return self.states[destination, SPI]


def packets(state: AeState) -> int:
    assert state.current
    return state.current.packets


def with_sent(state: AeState) -> AeState:
    if state.esn_replay:
        return replace(state, esn_replay=replace(state.esn_replay, sent=state.sent + 1))
    assert state.replay
    return replace(state, replay=replace(state.replay, sent=state.sent + 1))


def machine(*states: AeState, sends: int = 0) -> tuple[Sequences, Kernel]:
    kernel = Kernel({(state.id.destination, state.id.spi): state for state in states}, sends_s=sends)  # type: ignore[misc]
    return Sequences(kernel), kernel  # type: ignore[arg-type]


SHAPES = pytest.mark.parametrize("state", [SHORT, ESN, WIDE], ids=["32 bits", "ESN", "wide window"])


@SHAPES
@pytest.mark.parametrize("sends", [0, 3])
def test_a_stopped_state_sends_nothing_and_goes_on_after_the_last_number_that_it_used(
    state: AeState, sends: int
) -> None:
    sequences, kernel = machine(state, sends=sends)
    (stopped,), there = sequences.stop([ID])
    assert there == []
    assert kernel[THERE].sent & BLOCKED == BLOCKED, "the kernel would not count round"
    used = packets(kernel[THERE]) - packets(state)
    # A packet that is cut into several later is one of those counted.
    beyond = state.sent + used + (HEALED if used else 0)
    assert stopped.sent == beyond, "no number is used twice"
    kernel.transact(stopped.go(THERE))
    assert kernel[THERE].sent == stopped.sent
    after = kernel[THERE]
    assert replace(after, replay=state.replay, esn_replay=state.esn_replay, current=state.current) == state
    assert (after.esn_replay or after.replay) is not None


def test_a_state_goes_on_wherever_it_was_moved_to_meanwhile() -> None:
    sequences, kernel = machine(SHORT)
    (stopped,), _ = sequences.stop([ID])
    silent = kernel.states.pop((THERE, SPI))
    kernel.states[HERE, SPI] = replace(silent, id=replace(silent.id, destination=HERE))
    answers = kernel.transact(stopped.go(THERE, HERE, THERE))
    assert [answer.code for answer in answers] == [errno.ESRCH, 0]
    assert kernel[HERE].sent == 90


def test_what_does_not_exist_is_neither_stopped_nor_an_error() -> None:
    sequences, _ = machine(SHORT)
    assert sequences.stop([SaId(destination=HERE, spi=SPI)]) == ([], [])
    assert sequences.read([SaId(destination=HERE, spi=SPI)]) == []


def test_states_beside_are_told_in_the_same_call() -> None:
    beside = replace(SHORT, id=replace(ID, destination=HERE), source=THERE)
    sequences, kernel = machine(SHORT, beside)
    sequences.read([ID])
    kernel.calls = 0
    stopped, there = sequences.stop([ID], [beside.id])
    assert (len(stopped), [each.id for each in there], kernel.calls) == (1, [beside.id], 1)
    assert kernel[HERE].sent == 90, "it was not touched"


@pytest.mark.parametrize(("first", "second"), [(SHORT, ESN), (ESN, SHORT), (ESN, WIDE), (WIDE, SHORT)])
def test_another_state_that_had_the_spi_before_is_no_obstacle(first: AeState, second: AeState) -> None:
    sequences, kernel = machine(first)
    sequences.read([ID])
    kernel.states[THERE, SPI] = second
    (stopped,), _ = sequences.stop([ID])
    assert stopped.sent == second.sent
    kernel.transact(stopped.go(THERE))
    assert kernel[THERE] == second


def test_where_a_state_cannot_be_stopped_the_others_go_on() -> None:
    other = replace(SHORT, id=replace(ID, spi=SPI + 1))
    sequences, kernel = machine(SHORT, other)
    refuse = kernel._answer

    def stubborn(request: Request) -> Answer:
        asked = AeState.unpack(request.payload)
        if request.type == Msg.NEWAE and asked.id.spi == SPI + 1:
            return Answer(errno.EINVAL)
        return refuse(request)

    class Stubborn(Kernel):
        def _answer(self, request: Request) -> Answer:
            return stubborn(request)

    sequences = Sequences(Stubborn(kernel.states))  # type: ignore[arg-type]
    with pytest.raises(KernelRefused, match=f"stop state {SPI + 1:08x}") as refused:
        sequences.stop([ID, other.id])
    assert refused.value.code == errno.EINVAL
    assert kernel[THERE].sent == 90


@SHAPES
def test_a_state_that_a_killed_process_left_silent_sends_again_beyond_all_that_it_may_have_sent(state: AeState) -> None:
    sequences, kernel = machine(state)
    sequences.stop([ID])
    assert sequences.recover([ID]) == 1
    assert kernel[THERE].sent == max(packets(state) + HEALED, HALF)
    assert sequences.recover([ID]) == 0


def test_where_no_state_is_silent_recovery_is_one_call_that_changes_nothing() -> None:
    sequences, kernel = machine(SHORT)
    assert sequences.recover([ID]) == 0
    assert (kernel.calls, kernel[THERE]) == (1, SHORT)


def test_an_answer_that_cannot_be_read_is_counted() -> None:
    class Strange(Kernel):
        def _answer(self, request: Request) -> Answer:
            del request
            return Answer(0, [NetlinkMessage(Msg.NEWAE, 0, 0, 0, b"?")])

    sequences = Sequences(Strange({}))  # type: ignore[arg-type]
    assert sequences.read([ID]) == []
    assert sequences.ignored == 1
