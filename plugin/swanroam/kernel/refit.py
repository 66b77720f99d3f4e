"""States that are installed anew on another path, with all that they had: keys, counters, lifetimes, replay state.

What MIGRATE cannot do: take UDP encapsulation away, or reach a certain state where one policy has several.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.migration import encapsulation
from swanroam.kernel.sequences import beyond
from swanroam.kernel.transactions import Answer, Request, Transactions
from swanroam.model.path import IPAddress, Path
from swanroam.wire.netlink import Flag, attribute
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.states import SaId, SaState
from swanroam.wire.xfrm.structs import Attr, Msg

__all__ = ["Refits", "fits", "refit", "refitted", "vacating"]

CREATE: Final = (Flag.CREATE | Flag.EXCL).value
GONE: Final = ((Msg.DELSA, errno.ESRCH), (Msg.UPDSA, errno.ESRCH), (Msg.DELPOLICY, errno.ENOENT))
"""What the kernel says to a message about something which is not there."""


def fits(state: SaState, path: Path, *, out: bool) -> bool:
    """Whether a state is as it should be on a path."""
    return (state.source, state.destination, state.encap) == (*_ends(path, out=out), encapsulation(path, out=out))


def refitted(state: SaState, path: Path, *, out: bool, sent: int | None = None) -> bytes:
    """The payload of a NEWSA for a state on a path; `sent` is the last sequence number that it sent, where it is known.

    The counters go with it (XFRMA_LTIME_VAL): limits are counted from when the state was first installed.
    """
    source, destination = _ends(path, out=out)
    there = replace(state, source=source, destination=destination, encap=encapsulation(path, out=out))
    return _anew(there, sent)


def _anew(state: SaState, sent: int | None) -> bytes:
    ring, short = state.esn_replay, state.replay
    if sent is not None and ring:
        ring = EsnReplay(sent=sent, received=ring.received, window=ring.window, bitmap=ring.bitmap)
    elif sent is not None:
        before = short or Replay()
        short = Replay(sent=sent, received=before.received, bitmap=before.bitmap)
    added = replace(state, esn_replay=ring, replay=short, key_manager_sequence=0, last_used_s=None)
    return added.pack() + attribute(Attr.LTIME_VAL, state.current.pack())


def refit(
    states: Mapping[SaId, SaState], ident: SaId, path: Path, *, sent: int | None = None, there: SaId | None = None
) -> list[Request]:
    """What installs a state anew, deletions and an addition; nothing where there is none, or it is as it should be.

    `sent`: of outbound states. `there` is where it may be by then.
    """
    state, out = states.get(ident), sent is not None
    if state is None or fits(state, path, out=out):
        return []
    ports = encapsulation(path, out=out)
    if not out and state.encap and ports and fits(replace(state, encap=ports), path, out=False):
        # An update takes the ports over, and leaves all else (xfrm_state.c, xfrm_state_update).
        return [Request(f"state {ident.spi:08x}", Msg.UPDSA, replace(state, encap=ports).pack())]
    places = dict.fromkeys((there or ident, ident))
    return [
        *(Request(f"delete state {ident.spi:08x}", Msg.DELSA, place.request()) for place in places),
        Request(f"state {ident.spi:08x}", Msg.NEWSA, refitted(state, path, out=out, sent=sent), CREATE),
    ]


def vacating(ident: SaId) -> list[Request]:
    """What removes a larval state, read before in the same system call, which the kernel goes through under one lock.

    charon may have put another one in its place since it was seen (xfrm_user.c, xfrm_netlink_rcv): see `vacated`.
    """
    return [_read(ident), Request(f"delete state {ident.spi:08x}", Msg.DELSA, ident.request())]


class Refits:
    """Reads states and installs them anew, several in one system call. Methods raise KernelRefused."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def read(self, ids: Sequence[SaId]) -> dict[SaId, SaState]:
        """Those of these states that there are, in one system call; as `state`, but for larval ones."""
        answers = self._transactions.transact([_read(ident) for ident in ids])
        states = {ident: _state(ident, answer) for ident, answer in zip(ids, answers, strict=True)}
        return {ident: state for ident, state in states.items() if state}

    def vacate(self, ident: SaId) -> bool:
        """Remove a larval state; False where there is none but another one, which stays."""
        return self.vacated(ident, self._transactions.transact(vacating(ident)))

    def vacated(self, ident: SaId, answers: Sequence[Answer]) -> bool:
        """What came of the requests of `vacating`: a state that was no larval one is added again, and then it is False.

        What it sent, and counted, between the two messages is not known: it goes on some numbers later.
        """
        state = _state(ident, answers[0])
        if state is None:
            return True
        # One that came in never sent anything, and newer kernels want it to say so.
        sent = beyond(state.sent) if state.sent else None
        again = [Request(f"state {ident.spi:08x}", Msg.NEWSA, _anew(state, sent), CREATE)]
        self.see_to(again, self._transactions.transact(again))
        return False

    def see_to(self, requests: Sequence[Request], answers: Sequence[Answer]) -> None:
        """Make up for a state that could not be added because there was a larval one, and raise for other refusals.

        That there is nothing to delete is none. The requests may also be for policies. All are seen to before the first
        refusal is raised.
        """
        refused: KernelRefused | None = None
        for request, answer in zip(requests, answers, strict=True):
            if answer.code == errno.EEXIST and request.type == Msg.NEWSA:
                # A packet went out between the two messages: the kernel has a larval state in this place now, as the
                # policy names the SPI (xfrm_state.c, xfrm_state_find). An update takes its place (xfrm_state_update).
                (again,) = self._transactions.transact([Request(request.operation, Msg.UPDSA, request.payload)])
                code = again.code
            else:
                code = 0 if (request.type, answer.code) in GONE else answer.code
            if code:
                refused = refused or KernelRefused(request.operation, code)
        if refused:
            raise refused

    def put_back(self, states: Mapping[SaId, SaState], sent: Mapping[SaId, int], old: Path, new: Path) -> None:
        """Have these states be where they were, and send, whatever became of them; `sent` has the outbound ones.

        These may have sent since that was read, and go on some numbers later.
        """
        requests: list[Request] = []
        for ident, state in states.items():
            out = ident in sent
            there = replace(ident, destination=new.remote.address if out else new.local.address)
            again = refitted(state, old, out=out, sent=beyond(sent[ident]) if out else None)
            requests += [
                Request("delete state", Msg.DELSA, there.request()),
                Request("delete state", Msg.DELSA, ident.request()),
                Request("state", Msg.NEWSA, again, CREATE),
            ]
        self.see_to(requests, self._transactions.transact(requests))


def _ends(path: Path, *, out: bool) -> tuple[IPAddress, IPAddress]:
    local, remote = path.addresses
    return (local, remote) if out else (remote, local)


def _read(ident: SaId) -> Request:
    return Request(f"state {ident.spi:08x}", Msg.GETSA, ident.request())


def _state(ident: SaId, answer: Answer) -> SaState | None:
    """What the kernel says of a state; None where there is none but a larval one."""
    operation = f"state {ident.spi:08x}"
    if answer.code not in (0, errno.ESRCH):
        raise KernelRefused(operation, answer.code)
    try:
        states = [SaState.unpack(message.payload) for message in answer.messages]
    except WireError as error:
        raise KernelRefused(f"{operation} ({error})", errno.EBADMSG) from error
    return next((state for state in states if state.aead or state.crypt or state.auth), None)
