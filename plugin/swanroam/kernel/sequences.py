"""Sequence numbers of outbound states, over a moment in which the state must not send.

The kernel clones a state before it deletes the old one, and another CPU may send with the old one meanwhile: the clone
would use these sequence numbers again, and with them the nonces of AES-GCM. So the old state is first brought to the
end of its numbers, where the kernel sends nothing (RFC 4303 section 3.3.3) and a sender gets EOVERFLOW; whatever takes
its place goes on with the number after the last that was used.
"""

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.transactions import REPLACE, Answer, Request, Transactions
from swanroam.model.path import IPAddress
from swanroam.wire.xfrm.aevents import AeState, pack_sent
from swanroam.wire.xfrm.states import SaId
from swanroam.wire.xfrm.structs import Msg

__all__ = ["HEALED", "Sequences", "Stopped", "beyond"]

BLOCKED: Final = 0xFFFF_FFFF
"""A last sequence number after which the kernel sends nothing: it refuses to count round (EOVERFLOW)."""
HEALED: Final = 1024
"""Sequence numbers left out where it is not known which was the last."""
HALF: Final = 1 << 31
"""Where a state goes on whose last number is not known any more: beyond the packets that it counted, and those that it
may have sent before charon installed it anew, with counters of zero. The other end minds no number left out."""
SHAPES_MAX: Final = 65536


@dataclass(frozen=True, slots=True)
class Stopped:
    """An outbound state that sends nothing, and the last sequence number that it did send."""

    ae: AeState
    sent: int

    def go(self, *places: IPAddress) -> list[Request]:
        """Let it send again, wherever it is by now among the destinations given."""
        return [
            Request("go on", Msg.NEWAE, pack_sent(self.ae, self.sent, place), REPLACE)
            for place in dict.fromkeys(places)
        ]


class Sequences:
    """Reads, stops and mends sequence numbers. Methods raise KernelRefused."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        # What a state counts with (32 bits, or a ring of some size) never changes, and stopping it needs to know.
        self._shapes: dict[int, AeState] = {}
        self.ignored = 0
        """Messages that were not understood."""

    def read(self, ids: Iterable[SaId]) -> list[AeState]:
        """The sequence numbers and counters of those of these states that exist."""
        answers = self._transactions.transact([_read(ident) for ident in dict.fromkeys(ids)])
        return [ae for answer in answers if (ae := self._report(answer))]

    def stop(self, ids: Sequence[SaId], beside: Sequence[SaId] = ()) -> tuple[list[Stopped], list[AeState]]:
        """Make those of these states that exist send nothing; and what there is of those `beside`, in the same call."""
        if any(ident.spi not in self._shapes for ident in ids):
            self.read(ids)
        stopped, there, wrong = self._stop(ids, beside)
        if wrong:
            # Another state had this SPI before and counts otherwise; what this one counts with is known now.
            more, _, wrong = self._stop(wrong, ())
            stopped += more
        if wrong:
            self._transactions.transact([go for one in stopped for go in one.go(one.ae.id.destination)])
            raise KernelRefused(f"stop state {wrong[0].spi:08x}", errno.EINVAL)
        return stopped, there

    def _stop(self, ids: Sequence[SaId], beside: Sequence[SaId]) -> tuple[list[Stopped], list[AeState], list[SaId]]:
        known = [(ident, self._shapes[ident.spi]) for ident in dict.fromkeys(ids) if ident.spi in self._shapes]
        requests = [_read(ident) for ident in beside]
        for ident, shape in known:
            requests += [_read(ident), Request("stop", Msg.NEWAE, _stopped(shape, ident), REPLACE), _read(ident)]
        answers = self._transactions.transact(requests)
        stopped: list[Stopped] = []
        wrong: list[SaId] = []
        for number, (ident, _) in enumerate(known):
            before, stop, after = answers[len(beside) + 3 * number :][:3]
            was, now = self._report(before), self._report(after)
            if not (was and now and was.current and now.current):
                continue
            if stop.code:
                wrong.append(ident)
            else:
                # Both are counted under one lock, a number for each packet, but for one that is cut into several later.
                meanwhile = now.current.packets - was.current.packets
                sent = last_sent(was) + meanwhile
                stopped.append(Stopped(was, beyond(sent) if meanwhile else sent))
        return stopped, [ae for answer in answers[: len(beside)] if (ae := self._report(answer))], wrong

    def recover(self, ids: Iterable[SaId]) -> int:
        """Let states send again that a killed process left silent; how many. One system call where there is none."""
        silent = [Stopped(ae, last_sent(ae)) for ae in self.read(ids) if last_sent(ae) != ae.sent]
        self._transactions.transact([request for one in silent for request in one.go(one.ae.id.destination)])
        return len(silent)

    def _report(self, answer: Answer) -> AeState | None:
        for message in answer.messages:
            try:
                ae = AeState.unpack(message.payload)
            except WireError:
                self.ignored += 1
                continue
            if len(self._shapes) >= SHAPES_MAX:
                self._shapes.clear()
            self._shapes[ae.id.spi] = ae
            return ae
        return None


def beyond(sent: int) -> int:
    """A number that was surely not sent, where `sent` is about the last; near the end of all numbers it is that."""
    return sent + HEALED if (sent & BLOCKED) + HEALED < BLOCKED else sent


def last_sent(ae: AeState) -> int:
    """The last sequence number sent; a cautious guess for a state that was left silent."""
    packets = ae.current.packets if ae.current else BLOCKED
    if ae.sent in (BLOCKED, BLOCKED << 32 | BLOCKED) and packets + HEALED < BLOCKED:
        return max(packets + HEALED, HALF)
    return ae.sent


def _read(ident: SaId) -> Request:
    return Request("sequence", Msg.GETAE, AeState(id=ident).pack())


def _stopped(shape: AeState, ident: SaId) -> bytes:
    # In the longer form a state has numbers of 64 bits, or such of 32 where the upper half is not looked at.
    return pack_sent(shape, BLOCKED << 32 | BLOCKED if shape.esn_replay else BLOCKED, ident.destination)
