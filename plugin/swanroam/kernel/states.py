"""The kernel's IPsec states and policies: read states, follow policies, move tunnels to new outer addresses."""

import errno
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.migration import Step, Steps
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.kernel.policies import MirroredPolicy, PolicyMirror
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import ChildSa
from swanroam.wire.netlink import NLMSG_ERROR, Flag, NetlinkMessage, pack_message
from swanroam.wire.xfrm.aevents import AeState, pack_sent
from swanroam.wire.xfrm.events import XfrmEvent, decode_event
from swanroam.wire.xfrm.policies import Policy, PolicyId
from swanroam.wire.xfrm.states import ESP, SaHead, SaId, SaState, dump_states_request
from swanroam.wire.xfrm.structs import Direction, Group, Mark, Msg

__all__ = ["KernelStates"]

log = logging.getLogger(__name__)

NETLINK_XFRM: Final = 6
IKE_PORT: Final = 500
STALE: Final = (errno.ENOENT, errno.ENODATA, errno.ESRCH)
REQUEST: Final = Flag.REQUEST.value
REQUEST_ACK: Final = (Flag.REQUEST | Flag.ACK).value
REPLACE: Final = Flag.REPLACE.value
BLOCKED: Final = 0xFFFF_FFFF
"""A last sequence number after which the kernel sends nothing: it refuses to count round (EOVERFLOW)."""
HEALED: Final = 1024
"""Added to the packets a state has sent, where the sequence number that they had is not known any more."""


@dataclass(frozen=True, slots=True)
class _Request:
    operation: str
    type: int
    payload: bytes
    flags: int = 0


@dataclass(slots=True)
class _Answer:
    code: int = 0
    messages: list[NetlinkMessage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Covers:
    """The covers of one tunnel, which is told by its reqids."""

    reqids: tuple[int, ...]
    policies: Sequence[Policy]


class KernelStates:
    """The kernel's states and policies, over one socket for requests and one for events. Not for several threads.

    `last` is the direction of the policies that `move` leaves for `inform`: the one that data does not need, "fwd" on
    a terminal and "in" on a gateway. Every method but process_events may raise KernelRefused.
    """

    def __init__(self, *, last: Literal["in", "fwd"]) -> None:
        self._last = Direction.IN if last == "in" else Direction.FWD
        self._mirror = PolicyMirror()
        self._early: list[XfrmEvent] = []
        self._stale = False
        self._covers: dict[tuple[int, ...], tuple[PolicyId, ...]] = {}
        self._sequence = itertools.count(1 << 31)
        self.ignored = 0
        """Messages that were not understood."""
        # Events first: what changes while policies are read is an event then.
        self._events = NetlinkSocket(NETLINK_XFRM, (Group.POLICY, Group.EXPIRE, Group.MIGRATE, Group.MAPPING))
        try:
            self._requests = NetlinkSocket(NETLINK_XFRM)
        except KernelRefused:
            self._events.close()
            raise
        try:
            self._load()
        except KernelRefused:
            self.close()
            raise

    def close(self) -> None:
        """Close both sockets; nothing in the kernel changes."""
        self._requests.close()
        self._events.close()

    def fileno(self) -> int:
        """The file descriptor that is readable when process_events has something to do."""
        return self._events.fileno()

    def process_events(self) -> list[XfrmEvent]:
        """Follow the policies, and return the other events, in order. Raises nothing; strange input is counted."""
        self._pump()
        events, self._early = self._early, []
        return events

    def state(self, destination: IPAddress, spi: int, protocol: int = ESP, mark: Mark | None = None) -> SaState | None:
        """A state with its keys and its sequence numbers as they are now; None when there is none."""
        named = SaId(destination=destination, spi=spi, protocol=protocol, mark=mark)
        try:
            answers = self._requests.request(f"state {spi:08x}", Msg.GETSA, named.request())
        except KernelRefused as error:
            if error.code == errno.ESRCH:
                return None
            raise
        try:
            return SaState.unpack(answers[0].payload) if answers else None
        except WireError as error:
            raise KernelRefused(f"state {spi:08x} ({error})", errno.EBADMSG) from error

    def paths(self, spis: Iterable[int]) -> tuple[tuple[int, Path], ...]:
        """(SPI, path) of the inbound ESP states among `spis`; this machine is the destination of each.

        An SPI that two states have (with different destinations) comes twice, one that no state has does not come.
        """
        wanted = frozenset(spis)
        if not wanted:
            return ()
        found: list[tuple[int, Path]] = []
        for message in self._requests.request("states", Msg.GETSA, dump_states_request(), Flag.DUMP):
            try:
                head = SaHead.unpack(message.payload)
            except WireError:
                self.ignored += 1
                continue
            if head.spi in wanted:
                found.append((head.spi, _path(head)))
        return tuple(found)

    def delete(self, destination: IPAddress, spi: int, protocol: int = ESP, mark: Mark | None = None) -> bool:
        """Delete a state; False when there was none."""
        named = SaId(destination=destination, spi=spi, protocol=protocol, mark=mark)
        try:
            self._requests.request(f"delete state {spi:08x}", Msg.DELSA, named.request())
        except KernelRefused as error:
            if error.code == errno.ESRCH:
                return False
            raise
        return True

    def move(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        """Move the states of CHILD_SAs, and their policies but those of direction `last`; outbound first.

        What those let in is let in for some seconds all the same. What is at `new` already stays as it is, so a move
        may be repeated. Where the kernel refuses a part, the other parts are moved back before KernelRefused is raised.
        """
        self._pump()
        failure = self._move(children, old, new)
        if failure and failure.code in STALE:
            self._load()
            failure = self._move(children, old, new)
        if failure:
            self._move_back(children, old, new)
            raise failure

    def inform(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        """Move what `move` left, telling charon, which follows: XFRMA_KMADDRESS in the last message for each reqid.

        When nothing is left (the daemon was killed in between) the same address is given again: the kernel takes that,
        and clones an inbound state in place. Outbound states are never cloned in place.
        """
        self._pump()
        failure = self._inform(children, old, new)
        if failure and failure.code in STALE:
            self._load()
            failure = self._inform(children, old, new)
        if failure:
            raise failure

    def recover(self, children: Sequence[ChildSa], path: Path) -> int:
        """Let outbound states send again that a killed process left silent in the middle of a move; how many.

        For every tunnel once when the daemon starts; costs one system call where there is nothing to do.
        """
        named = [(child.reqid, child.spi_out, Direction.OUT, path.remote.address) for child in children]
        silent = [(ae, _next_sent(ae)) for ae in self._sequences(named) if _next_sent(ae) != ae.sent]
        self._transact(_go(silent, path))
        return len(silent)

    def _move(self, children: Sequence[ChildSa], old: Path, new: Path) -> KernelRefused | None:
        outbound = self._outbound(children, old, new)
        plan = Steps(old, new)
        reqids = _reqids(children)
        every = [(policy, reqid) for reqid in reqids for policy in self._mirror.of_reqid(reqid)]
        if missing := set(reqids) - {reqid for _, reqid in every}:
            return KernelRefused(f"policies of reqid {min(missing)}", errno.ENOENT)
        left = [one for one in every if one[0].direction != self._last and not plan.done(*one)]
        # What sends goes first, in a system call of its own: data leaves while the rest is made ready. Each message
        # moves one state of each direction; where there are more states than that, everything is first.
        first = [one for one in left if one[0].direction == Direction.OUT]
        messages = Counter(reqid for _, reqid in first)
        if any(count > messages[reqid] for reqid, count in Counter(ae.reqid for ae in outbound).items()):
            first = sorted(left, key=lambda one: _outbound_first(one[0]))
        failure = self._perform([plan.step(*one) for one in first], outbound, new)
        if failure:
            return failure
        covers = [plan.cover(*one) for one in every if one[0].direction == self._last]
        rest = [plan.step(*one) for one in left if one not in first]
        return self._perform(rest, (), new, _Covers(tuple(reqids), covers))

    def _move_back(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        try:
            failure = self._move(children, new, old)
        except KernelRefused as error:
            failure = error
        if failure:
            log.error("half of a move from %s to %s could not be undone: %s", old, new, failure)

    def _inform(self, children: Sequence[ChildSa], old: Path, new: Path) -> KernelRefused | None:
        outbound, inbound = self._outbound(children, old, new), self._inbound(children, old, new)
        plan = Steps(old, new)
        steps: list[Step] = []
        covers: list[Policy] = []
        reqids = _reqids(children)
        for reqid in reqids:
            policies = self._mirror.of_reqid(reqid)
            covers += [plan.cover(policy, reqid) for policy in policies if policy.direction != Direction.OUT]
            carrier = max(
                (policy for policy in policies if policy.direction != Direction.OUT),
                key=lambda policy: (not plan.done(policy, reqid), policy.direction == self._last),
                default=None,
            )
            if carrier is None:
                return KernelRefused(f"inbound policies of reqid {reqid}", errno.ENOENT)
            rest = [p for p in policies if p is not carrier and not plan.done(p, reqid)]
            steps += [plan.step(policy, reqid) for policy in sorted(rest, key=_outbound_first)]
            # Each message moves one state of each direction. For more than these, the carrier goes several times.
            left = max(sum(ae.reqid == reqid for ae in states) for states in (outbound, inbound))
            for _ in range(left - len(rest) - 1):
                steps.append(plan.step(carrier, reqid))
                carrier = carrier.at(steps[-1].ends)
            steps.append(plan.step(carrier, reqid, inform=True))
        return self._perform(steps, outbound, new, _Covers(tuple(reqids), covers))

    def _perform(
        self, steps: Sequence[Step], outbound: Sequence[AeState], new: Path, covers: _Covers | None = None
    ) -> KernelRefused | None:
        """Send all MIGRATE messages in one system call; outbound states send nothing from just before it to its end.

        The kernel clones a state before it deletes the old one, and another CPU may send with the old one meanwhile:
        the clone would use these sequence numbers again, and with them the nonces of AES-GCM. So the old state is first
        brought to the end of its numbers, where the kernel sends nothing (RFC 4303 section 3.3.3), a sender gets
        EOVERFLOW, and the clone goes on with the number after the last that was used. A process killed in between
        leaves the state silent: `recover` is for that.

        `covers` are there before charon is told, and for the policies that are left where they are. Those of an earlier
        move of the same tunnel, which may still be there, lead elsewhere.
        """
        before: list[_Request] = []
        uncover: list[_Request] = []
        if covers:
            before = _uncover(self._covers.pop(covers.reqids, ()))
            before += [_Request("cover", Msg.UPDPOLICY, cover.pack()) for cover in covers.policies]
            self._covers[covers.reqids] = ids = tuple(cover.id for cover in covers.policies)
            uncover = _uncover(ids)
        if not steps and not before:
            return None
        stopped: list[tuple[AeState, int]] = []
        try:
            stopped = self._stop(outbound)
            requests = before + [_Request("migrate", Msg.MIGRATE, one.payload) for one in steps]
            answers = self._transact(requests + _go(stopped, new))[len(before) :]
        except KernelRefused:
            # Nobody knows what was done; what was stopped must not stay so.
            silent = stopped or [(ae, _next_sent(ae) + HEALED) for ae in outbound]
            self._transact(_go(silent, new) + uncover)
            raise
        failure = None
        for one, answer in zip(steps, answers, strict=False):
            if answer.code == 0:
                self._mirror.moved(one.policy.policy.index, one.ends)
            else:
                failure = failure or KernelRefused(str(one), answer.code)
        if failure:
            self._transact(uncover)
        return failure

    def _stop(self, outbound: Sequence[AeState]) -> list[tuple[AeState, int]]:
        """Make outbound states send nothing; each with the last sequence number that it did send."""
        requests = [_Request("stop", Msg.NEWAE, _stopped(ae), REPLACE) for ae in outbound]
        requests += [_Request("sequence", Msg.GETAE, AeState(id=ae.id).pack()) for ae in outbound]
        answers = self._transact(requests)
        stopped: list[tuple[AeState, int]] = []
        for ae, stop, answer in zip(outbound, answers, answers[len(outbound) :], strict=False):
            then = next(filter(None, map(self._sequence_report, answer.messages)), None)
            if stop.code == 0 and then and then.current and ae.current:
                # Both are counted under one lock, a number for each packet.
                stopped.append((ae, _next_sent(ae) + then.current.packets - ae.current.packets))
        return stopped

    def _outbound(self, children: Sequence[ChildSa], old: Path, new: Path) -> list[AeState]:
        """Outbound states that are not at `new` yet. Raises EEXIST when the new address has the same SPI already."""
        ends = new.local.address, new.remote.address
        places = dict.fromkeys((old.remote.address, new.remote.address))
        named = [(child.reqid, child.spi_out, Direction.OUT, place) for child in children for place in places]
        found = self._sequences(named)
        left = [ae for ae in found if (ae.source, ae.id.destination) != ends]
        for spi, count in Counter(ae.id.spi for ae in found).items():
            # The kernel would refuse to move the state, and we must not touch the sequence numbers of the other one.
            if count > 1 and any(ae.id.spi == spi for ae in left):
                raise KernelRefused(f"outbound state {spi:08x} towards {new.remote.address}", errno.EEXIST)
        return left

    def _inbound(self, children: Sequence[ChildSa], old: Path, new: Path) -> list[AeState]:
        """Inbound states that are not at `new` yet."""
        ends = new.remote.address, new.local.address
        named = [(child.reqid, child.spi_in, Direction.IN, old.local.address) for child in children]
        return [ae for ae in self._sequences(named) if (ae.source, ae.id.destination) != ends]

    def _sequences(self, named: Iterable[tuple[int, int, int, IPAddress]]) -> list[AeState]:
        requests: list[_Request] = []
        for reqid, spi, direction, destination in dict.fromkeys(named):
            marks = (p.mark for p in self._mirror.of_reqid(reqid) if p.direction == direction)
            ident = SaId(destination=destination, spi=spi, mark=next(marks, None))
            requests.append(_Request("sequence", Msg.GETAE, AeState(id=ident).pack()))
        reports = (map(self._sequence_report, answer.messages) for answer in self._transact(requests))
        return [ae for ae in itertools.chain.from_iterable(reports) if ae]

    def _sequence_report(self, message: NetlinkMessage) -> AeState | None:
        try:
            return AeState.unpack(message.payload)
        except WireError:
            self.ignored += 1
            return None

    def _transact(self, requests: Sequence[_Request]) -> list[_Answer]:
        """Send requests in one system call and collect what the kernel says to each.

        Only the last is acknowledged; the kernel goes through them in order, and tells of each that failed.
        """
        answers = [_Answer() for _ in requests]
        if not requests:
            return answers
        data: list[bytes] = []
        indexes: dict[int, int] = {}
        for index, request in enumerate(requests):
            sequence = next(self._sequence) & 0xFFFFFFFF
            indexes[sequence] = index
            flags = request.flags | (REQUEST_ACK if index == len(requests) - 1 else REQUEST)
            data.append(pack_message(request.type, flags, sequence, request.payload))
        operation = requests[-1].operation
        self._requests.send(operation, b"".join(data))
        while True:
            for message in self._requests.receive(operation):
                index = indexes.get(message.sequence, -1)
                if index < 0:
                    continue
                if message.type != NLMSG_ERROR:
                    answers[index].messages.append(message)
                    continue
                answers[index].code = message.error
                if index == len(requests) - 1:
                    return answers

    def _pump(self) -> None:
        while True:
            try:
                messages = self._events.receive("events", block=False)
            except KernelRefused as error:
                # ENOBUFS: events were lost. Anything else is as bad: what the kernel said is not known.
                self._stale = True
                if error.code != errno.ENOBUFS:
                    self.ignored += 1
                    log.warning("%s", error)
                    break
                continue
            if not messages:
                break
            for message in messages:
                self._follow(message)
        if self._stale:
            try:
                self._load()
            except KernelRefused as error:
                log.warning("%s", error)

    def _follow(self, message: NetlinkMessage) -> None:
        try:
            event = decode_event(message)
        except WireError as error:
            self.ignored += 1
            log.debug("event of type %d: %s", message.type, error)
            return
        if event is not None and not self._mirror.apply(event, message):
            self._early.append(event)

    def _load(self) -> None:
        dump = self._requests.request("policies", Msg.GETPOLICY, b"", Flag.DUMP)
        self.ignored += self._mirror.load(dump)
        self._stale = False


def _uncover(covers: Iterable[PolicyId]) -> list[_Request]:
    return [_Request("uncover", Msg.DELPOLICY, cover.pack()) for cover in covers]


def _reqids(children: Iterable[ChildSa]) -> list[int]:
    return list(dict.fromkeys(child.reqid for child in children))


def _outbound_first(policy: MirroredPolicy) -> bool:
    return policy.direction != Direction.OUT


def _stopped(ae: AeState) -> bytes:
    # In the longer form a state has numbers of 64 bits, or such of 32 where the upper half is not looked at.
    return pack_sent(ae, BLOCKED << 32 | BLOCKED if ae.esn_replay else BLOCKED, ae.id.destination)


def _next_sent(ae: AeState) -> int:
    """The last sequence number sent; a cautious guess for a state that was left silent."""
    packets = ae.current.packets if ae.current else BLOCKED
    if ae.sent in (BLOCKED, BLOCKED << 32 | BLOCKED) and packets + HEALED < BLOCKED:
        return packets + HEALED
    return ae.sent


def _go(stopped: Iterable[tuple[AeState, int]], new: Path) -> list[_Request]:
    # A state is at one of two places; where, depends on whether the kernel refused to move it.
    return [
        _Request("go on", Msg.NEWAE, pack_sent(ae, sent, place), REPLACE)
        for ae, sent in stopped
        for place in dict.fromkeys((ae.id.destination, new.remote.address))
    ]


def _path(head: SaHead) -> Path:
    remote, local = (head.encap.source_port, head.encap.destination_port) if head.encap else (IKE_PORT, IKE_PORT)
    return Path(Endpoint(head.destination, local), Endpoint(head.source, remote), head.encap is not None)
