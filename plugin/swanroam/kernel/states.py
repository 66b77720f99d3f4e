"""The kernel's IPsec states and policies: read states, follow policies, move tunnels to new outer addresses."""

import errno
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Final, Literal

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.migration import Step, Steps, blocks
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.kernel.policies import COVER_USER, Ends, MirroredPolicy, PolicyMirror, place_of
from swanroam.kernel.refit import Refits, fits, refit, vacating
from swanroam.kernel.sequences import Sequences, Stopped
from swanroam.kernel.transactions import Request, Transactions
from swanroam.model.path import FORGOTTEN_PORT, IKE_PORT, Endpoint, IPAddress, Path
from swanroam.model.tunnel import ChildSa
from swanroam.wire.netlink import Flag, NetlinkMessage
from swanroam.wire.xfrm.aevents import AeState
from swanroam.wire.xfrm.events import PolicySet, XfrmEvent, decode_event
from swanroam.wire.xfrm.policies import Policy, PolicyId
from swanroam.wire.xfrm.states import ESP, SaHead, SaId, SaState, dump_states_request
from swanroam.wire.xfrm.structs import Direction, Group, Mark, Msg

__all__ = ["KernelStates"]

log = logging.getLogger(__name__)

NETLINK_XFRM: Final = 6
GROUPS: Final = (Group.ACQUIRE, Group.POLICY, Group.EXPIRE, Group.MIGRATE, Group.MAPPING)
CREATE: Final = (Flag.CREATE | Flag.EXCL).value
STALE: Final = (errno.ENOENT, errno.ENODATA, errno.ESRCH)
UNFOUND: Final = (errno.ENOENT, errno.ENODATA)
"""What the kernel says where MIGRATE does not find the policy that it means, but none or another one."""


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
        # Those that let nothing out, of a reqid.
        self._blocks: dict[int, tuple[PolicyId, ...]] = {}
        self.ignored = 0
        """Messages that were not understood."""
        # Events first: what changes while policies are read is an event then.
        self._events = NetlinkSocket(NETLINK_XFRM, GROUPS)
        try:
            self._requests = NetlinkSocket(NETLINK_XFRM)
        except KernelRefused:
            self._events.close()
            raise
        self._transactions = Transactions(self._requests)
        self._sequences = Sequences(self._transactions)
        self._refits = Refits(self._transactions)
        # By SPI: a state that has a mark is not found without it (xfrm_state.c, __xfrm_state_lookup).
        self._marks: dict[int, Mark] = {}
        # How many states each has beside those of CHILD_SAs: a charon that was killed leaves its own, and the next one
        # takes the same reqid again.
        self._surplus: Counter[int] = Counter()
        # Reqids of the policies that this kernel did not find.
        self._carried: set[int] = set()
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
        """Follow the policies, and return the events but those of policies that went, in order.

        Covers are none of them. Raises nothing; strange input is counted.
        """
        self._pump()
        events, self._early = self._early, []
        return events

    def state(self, destination: IPAddress, spi: int, protocol: int = ESP, mark: Mark | None = None) -> SaState | None:
        """A state with its keys and its sequence numbers as they are now; None when there is none.

        Without `mark` it is that of the state with this SPI which `paths` saw last.
        """
        named = SaId(destination=destination, spi=spi, protocol=protocol, mark=mark or self._marks.get(spi))
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

    def paths(self, spis: Iterable[int], own: Collection[IPAddress] = ()) -> tuple[tuple[int, Path], ...]:
        """(SPI, path) of the inbound ESP states among `spis`; this machine is the destination of each.

        An SPI that two states have (with different destinations) comes twice, one that no state has does not come. One
        that charon took before a move, for a CHILD_SA that it set up after it, is still taken at the old address.

        Without `own`, `spis` are those of all CHILD_SAs. Those of some are looked for at these addresses of this
        machine, which takes as long for some of many states as for some of few; and among all where one is not there.
        """
        wanted = frozenset(spis)
        if not wanted:
            return ()
        requests = [
            Request("state", Msg.GETSA, SaId(destination=place, spi=spi, mark=self._marks.get(spi)).request())
            for spi in wanted
            for place in own
        ]
        heads = self._heads(message for answer in self._transactions.transact(requests) for message in answer.messages)
        if {head.spi for head in heads} != wanted or any(self._surplus[head.reqid] for head in heads):
            heads = self._look_around(wanted, complete=not own)
        return tuple((head.spi, _path(head)) for head in heads)

    def _look_around(self, wanted: Collection[int], *, complete: bool) -> list[SaHead]:
        """Those of these inbound SPIs among all states, and take note of the others."""
        every = self._heads(self._requests.request("states", Msg.GETSA, dump_states_request(), Flag.DUMP))
        found = [head for head in every if head.spi in wanted]
        self._marks = {head.spi: head.mark for head in every if head.mark}
        counts, named = Counter(head.reqid for head in every), Counter(head.reqid for head in found)
        if complete:
            self._surplus.clear()
        for reqid in counts if complete else named:
            # There is an outbound one with each inbound one.
            self._surplus[reqid] = max(counts[reqid] - 2 * named[reqid], 0)
        return found

    def _heads(self, messages: Iterable[NetlinkMessage]) -> list[SaHead]:
        """What the kernel says of ESP states, but of larval ones."""
        heads: list[SaHead] = []
        for message in messages:
            try:
                head = SaHead.unpack(message.payload)
            except WireError:
                self.ignored += 1
                continue
            if head.protocol == ESP and not head.larval:
                heads.append(head)
        return heads

    def places(self, reqids: Iterable[int]) -> tuple[tuple[int, Ends], ...]:
        """(reqid, outer addresses: of this end, of the other) of the policies, each once.

        Only where those of a direction are at one place: an operator may have given several tunnels the same reqid.
        """
        self._pump()
        found: dict[tuple[int, Ends], None] = {}
        for reqid in dict.fromkeys(reqids):
            for direction in Direction:
                every = (policy for policy in self._mirror.of_reqid(reqid) if policy.direction == direction)
                places = {place_of(direction, policy.ends[0]) for policy in every}
                if len(places) == 1:
                    found[reqid, places.pop()] = None
        return tuple(found)

    def mark(self, source: IPAddress, destination: IPAddress) -> int:
        """The mark by which what goes from one inner address to another finds its policy; 0 where it needs none."""
        self._pump()
        return self._mirror.mark(source, destination)

    def delete(self, destination: IPAddress, spi: int, protocol: int = ESP, mark: Mark | None = None) -> bool:
        """Delete a state; False when there was none. `mark` as for `state`."""
        named = SaId(destination=destination, spi=spi, protocol=protocol, mark=mark or self._marks.get(spi))
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
        Nothing is touched while there are no policies (ENOENT): charon, which follows an earlier move, has taken them
        out, and its states may be out as well.
        """
        self._pump()
        if bare := self._bare(children):
            raise bare
        failure = self._first_move(children, old, new)
        if failure and failure.code in (*STALE, errno.EEXIST):
            self._load()
            self._make_room(self._inbound(children, new.local.address))
            for place in dict.fromkeys((new.remote.address, *self._destinations(children))):
                self._make_room(self._outbound(children, place))
            failure = self._move(children, old, new)
            if failure and failure.code in UNFOUND and self._carry(children):
                failure = self._move(children, old, new)
        if failure:
            self._move_back(children, old, new)
            self._carried.difference_update(_reqids(children))
            raise failure

    def inform(
        self, children: Sequence[ChildSa], old: Path, new: Path, *, silent: bool = False, returning: bool = False
    ) -> None:
        """Move what `move` left, telling charon, which follows: XFRMA_KMADDRESS in the last message for each reqid.

        When nothing is left (the daemon was killed in between) the same address is given again: the kernel takes that,
        and clones an inbound state in place. Outbound states are never cloned in place.

        With `silent` nothing is sent until `align`: charon, which knows of no NAT, installs states anew that are not in
        UDP, and what went out like that would pull the tunnel out of it. Of a CHILD_SA that has gone nothing can be
        told: that is refused when the others have been.

        With `returning` states are put back to `old` in the same system call, for charon to find, which moves them
        itself (strongSwan 6.1); `align` afterwards. Where policies have to be read anew it is told without that.
        """
        self._pump()
        if self._gone(children):
            self._load()
        failure = self._inform(children, old, new, silent=silent, returning=returning)
        if failure and failure.code in STALE:
            self._load()
            failure = self._inform(children, old, new, silent=silent)
            if failure and failure.code in UNFOUND and self._carry(children):
                failure = self._inform(children, old, new, silent=silent)
        if failure:
            raise failure
        if gone := self._gone(children):
            raise KernelRefused(f"inbound policies of reqid {gone[0]}", errno.ENOENT)

    def recover(self, children: Sequence[ChildSa], path: Path) -> int:
        """Let outbound states send again that a killed process left silent in the middle of a move; how many.

        For every CHILD_SA once; costs one system call where there is nothing to do.
        """
        return self._sequences.recover(self._outbound(children, path.remote.address))

    def align(self, children: Sequence[ChildSa], old: Path, path: Path) -> None:
        """Have the states of CHILD_SAs that are at `old` be just as `path` says, encapsulation too, and send.

        What differs is installed anew with its replay state: there is no other way to take encapsulation away, nor to
        reach the older of two states. The policies stay, so nothing is sent outside of the tunnel meanwhile.
        """
        self._pump()
        self._align(children, old, path)

    def lost(self, children: Sequence[ChildSa], places: Sequence[IPAddress]) -> tuple[int, ...]:
        """Outbound SPIs of CHILD_SAs that have no state towards any of these addresses.

        Larval ones there, which would be in the way, are removed.
        """
        self._pump()
        idents = [ident for place in places for ident in self._outbound(children, place)]
        found = {ident.spi for ident in idents if not self._is_lost(ident)}
        return tuple(dict.fromkeys(ident.spi for ident in idents if ident.spi not in found))

    def forget(self, children: Sequence[ChildSa], inbound: Sequence[IPAddress], outbound: Sequence[IPAddress]) -> None:
        """Delete the states of CHILD_SAs to these addresses, of this end and of the other, where there are any."""
        self._pump()
        idents = chain(
            *(self._inbound(children, place) for place in inbound),
            *(self._outbound(children, place) for place in outbound),
        )
        for ident in idents:
            self.delete(ident.destination, ident.spi, mark=ident.mark)

    def remind(self, children: Sequence[ChildSa], path: Path) -> None:
        """Have the kernel report the source of the next packet on each inbound state (XFRM_MSG_MAPPING).

        It does so where address or port are not those of the state (esp4.c, esp_input_done2); so the port is forgotten.
        charon follows as it does when it is told otherwise, so its policies are covered.
        """
        self._pump()
        plan = Steps(path, path)
        reqids = _reqids(children)
        every = [(policy, reqid) for reqid in reqids for policy in self._mirror.of_reqid(reqid)]
        covers = [plan.cover(*one) for one in every if one[0].direction != Direction.OUT]
        self._perform((), (), path, _Covers(tuple(reqids), covers))
        for ident in self._inbound(children, path.local.address):
            state = self.state(ident.destination, ident.spi, mark=ident.mark)
            if state is not None and state.encap is not None:
                stale = replace(state, encap=replace(state.encap, source_port=FORGOTTEN_PORT))
                self._requests.request(f"state {ident.spi:08x}", Msg.UPDSA, stale.pack())

    def _carry(self, children: Iterable[ChildSa]) -> bool:
        """Have the policies of CHILD_SAs carried from now on; False where they are already."""
        anew = set(_reqids(children)) - self._carried
        self._carried |= anew
        return bool(anew)

    def _bare(self, children: Iterable[ChildSa]) -> KernelRefused | None:
        """That there are no policies of a reqid; None where there are some of each."""
        missing = [reqid for reqid in _reqids(children) if not self._mirror.of_reqid(reqid)]
        return KernelRefused(f"policies of reqid {missing[0]}", errno.ENOENT) if missing else None

    def _gone(self, children: Iterable[ChildSa]) -> list[int]:
        """Reqids that have no inbound policies, of which charon cannot be told."""
        every = ((reqid, self._mirror.of_reqid(reqid)) for reqid in _reqids(children))
        return [reqid for reqid, policies in every if all(each.direction == Direction.OUT for each in policies)]

    def _first_move(self, children: Sequence[ChildSa], old: Path, new: Path) -> KernelRefused | None:
        try:
            return self._move(children, old, new)
        except KernelRefused as refused:
            if refused.code != errno.EEXIST:
                raise
            return refused

    def _move(self, children: Sequence[ChildSa], old: Path, new: Path) -> KernelRefused | None:
        plan = Steps(old, new, self._carried)
        if bare := self._bare(children):
            return bare
        reqids = _reqids(children)
        every = [(policy, reqid) for reqid in reqids for policy in self._mirror.of_reqid(reqid)]
        left = [one for one in every if one[0].direction != self._last and not plan.done(*one)]
        # What sends goes first, in a system call of its own: data leaves while the rest is made ready. Each message
        # moves one state of each direction; where there are more states than that, everything is first. In UDP, and
        # where the directions have interface ids of their own, it moves only that of the policy's direction.
        first = [one for one in left if one[0].direction == Direction.OUT]
        messages, pairs = Counter(reqid for _, reqid in first), Counter(child.reqid for child in children)
        left_over = any(self._surplus[reqid] for reqid in pairs)
        crowded = left_over or any(count > messages[reqid] for reqid, count in pairs.items())
        one_way = new.encap or len({(reqid, policy.policy.if_id) for policy, reqid in every}) > len(reqids)
        if crowded and not one_way:
            first = sorted(left, key=lambda one: _outbound_first(one[0]))
        # Nothing is worked out while nothing is sent.
        steps = [plan.step(*one) for one in first]
        stopped = self._silence(children, old, new) if first else []
        leaves_udp = old.encap and not new.encap and bool(stopped)
        failure = None if leaves_udp else self._perform(steps, stopped, new, behind=self._unblock(children))
        if failure:
            return failure
        steps += [plan.step(*one) for one in left if one not in first]
        covers = _Covers(tuple(reqids), [plan.cover(*one) for one in every if one[0].direction == self._last])
        if leaves_udp:
            return self._leave_udp(children, old, new, stopped, steps, covers)
        failure = self._perform(steps[len(first) :], (), new, covers)
        same = new.addresses == old.addresses
        unreached = same or left_over or (crowded and one_way) or (old.encap and not new.encap)
        if not failure and unreached:
            self._align(children, old, new)
        return failure

    def _leave_udp(
        self,
        children: Sequence[ChildSa],
        old: Path,
        new: Path,
        silent: Sequence[Stopped],
        steps: Sequence[Step],
        covers: _Covers,
    ) -> KernelRefused | None:
        """Move everything in one system call, with the states installed anew: until then nothing is sent.

        MIGRATE would make the inbound ones once more, to be deleted at once, so they are taken out before. Of outbound
        ones that would leave a moment in which a packet has the kernel put a larval state where the tunnel was.
        """
        try:
            inbound = self._inbound(children, old.local.address)
            states = self._refits.read([*(one.ae.id for one in silent), *inbound])
        except KernelRefused:
            self._go_on(children, silent)
            raise
        before: list[Request] = []
        behind: list[Request] = []
        stay: list[Stopped] = []
        for one in silent:
            there = replace(one.ae.id, destination=new.remote.address)
            anew = refit(states, one.ae.id, new, sent=one.sent, there=there)
            behind += anew
            stay += [] if anew else [one]
        for ident in inbound:
            anew = refit(states, ident, new)
            before += anew[:1]
            behind += anew[1:]
        behind += self._unblock(children)
        failure = self._perform(steps, stay, new, covers, before=before, behind=behind)
        if failure:
            try:
                self._refits.put_back(states, {one.ae.id: one.sent for one in silent}, old, new)
            except KernelRefused as refused:
                log.error("states could not be put back on %s: %s", old, refused)  # noqa: TRY400 - the failure is told
        return failure

    def _stop(self, ids: Sequence[SaId], beside: Sequence[SaId] = ()) -> tuple[list[Stopped], list[AeState]]:
        """As Sequences.stop, where a larval state may be in front of one that is to be stopped (EINVAL)."""
        try:
            return self._sequences.stop(ids, beside)
        except KernelRefused as refused:
            if refused.code != errno.EINVAL:
                raise
        self._make_room(ids)
        return self._sequences.stop(ids, beside)

    def _make_room(self, ids: Iterable[SaId]) -> None:
        """Remove larval states that would be in the way of those of a tunnel.

        A packet that looked the policy up before a move, and for its state after it, makes the kernel put one in the
        place that was just left, with the SPI that the policy names (xfrm_state.c, xfrm_state_find). And charon, which
        rekeys a CHILD_SA while the tunnel moves, leaves the SPI that it took there before (child_sa.c, alloc_spi).
        They stay for minutes, and a tunnel that comes back could not be cloned there: ENODATA, at every second move.
        """
        for ident in ids:
            self._is_lost(ident)

    def _destinations(self, children: Iterable[ChildSa]) -> list[IPAddress]:
        """Where outbound policies lead. If the tunnel is elsewhere, MIGRATE takes a state along that is there."""
        policies = (policy for reqid in _reqids(children) for policy in self._mirror.of_reqid(reqid))
        return [ends[1] for policy in policies if policy.direction == Direction.OUT for ends in policy.ends]

    def _is_lost(self, ident: SaId) -> bool:
        """Whether there is no state but a larval one, which is removed. It may hide one that comes behind it."""
        return self._is_vacant(ident) and self._refits.vacate(ident) and self._is_vacant(ident)

    def _is_vacant(self, ident: SaId) -> bool:
        """Whether there is no state, or a larval one."""
        there = self.state(ident.destination, ident.spi, mark=ident.mark)
        return there is None or (there.aead is None and there.crypt is None and there.auth is None)

    def _move_back(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        # charon may just have taken out the policies of some.
        there = [child for child in children if not self._bare([child])]
        try:
            failure = self._move(there, new, old)
        except KernelRefused as error:
            failure = error
        if failure:
            log.error("half of a move from %s to %s could not be undone: %s", old, new, failure)

    def _inform(
        self, children: Sequence[ChildSa], old: Path, new: Path, *, silent: bool, returning: bool = False
    ) -> KernelRefused | None:
        ends = new.local.address, new.remote.address
        places = dict.fromkeys((old.remote.address, new.remote.address))
        before = self._outbound(children, old.remote.address) if len(places) > 1 else []
        vacant = [ident for ident in before if self._is_vacant(ident)]
        named = [ident for place in places for ident in self._outbound(children, place) if ident not in vacant]
        outbound = [ae for ae in self._sequences.read(named) if (ae.source, ae.id.destination) != ends]
        named = self._inbound(children, old.local.address)
        inbound = [ae for ae in self._sequences.read(named) if (ae.id.destination, ae.source) != ends]
        plan = Steps(old, new, self._carried)
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
                continue
            rest = [p for p in policies if p is not carrier and not plan.done(p, reqid)]
            steps += [plan.step(policy, reqid) for policy in sorted(rest, key=_outbound_first)]
            # Each message moves one state of each direction. For more than these, the carrier goes several times.
            left = max(sum(ae.reqid == reqid for ae in states) for states in (outbound, inbound))
            for _ in range(left - len(rest) - 1):
                steps.append(plan.step(carrier, reqid))
                carrier = carrier.at(steps[-1].ends)
            steps.append(plan.step(carrier, reqid, inform=True))
        back: list[Step] = []
        if returning and not inbound and old.local.address != new.local.address:
            back += self._return(children, Direction.IN, old, new, steps)
        if returning and not outbound and old.remote.address != new.remote.address:
            back += self._return(children, Direction.OUT, old, new, steps)
        stopped, there = self._silence(children, old, new) if outbound else [], new
        if any(step.policy.direction == Direction.OUT for step in back):
            stopped, _ = self._stop(self._outbound(children, new.remote.address))
            there, silent = old, True
        if silent:
            self._block(children)
        behind = () if silent else self._unblock(children)
        told = _Covers(tuple(reqids), covers)
        failure = self._perform([*steps, *back], stopped, there, told, vacant, behind=behind)
        if failure:
            self._transactions.transact(self._unblock(children))
        return failure

    def _return(
        self, children: Sequence[ChildSa], direction: Direction, old: Path, new: Path, steps: Sequence[Step]
    ) -> list[Step]:
        """What puts the states of a direction back from `new` to `old` after `steps`, for charon to find.

        With their policies: a packet that found one of these and no state would have the kernel put a larval state
        there. Of several CHILD_SAs of a reqid charon has the first follow (migrate_job.c), which was rekeyed and sends
        no more; MIGRATE cannot tell which state is whose, so the inbound ones of all are put back.
        """
        plan = Steps(new, old, self._carried)
        ends = {step.policy.policy.index: step.ends for step in steps}
        back: list[Step] = []
        for reqid, count in Counter(child.reqid for child in children).items():
            if direction == Direction.OUT and count > 1:
                continue
            policies = [policy for policy in self._mirror.of_reqid(reqid) if policy.direction == direction]
            # Each message moves one state. For more than these, the last goes several times.
            for policy in (*policies, *policies[-1:] * (count - len(policies))):
                index = policy.policy.index
                back.append(plan.step(policy.at(ends.get(index, policy.ends)), reqid, alone=True))
                ends[index] = back[-1].ends
        return back

    def _perform(
        self,
        steps: Sequence[Step],
        stopped: Sequence[Stopped],
        new: Path,
        covers: _Covers | None = None,
        vacant: Sequence[SaId] = (),
        *,
        before: Sequence[Request] = (),
        behind: Sequence[Request] = (),
    ) -> KernelRefused | None:
        """Send all MIGRATE messages in one system call; those outbound states that were stopped go on at its end.

        A process that is killed before it leaves them silent: `recover` is for that. With more requests before and
        behind, all in the same call.

        `covers` are there before charon is told, and for the policies that are left where they are. Those of an earlier
        move of the same tunnel, which may still be there, lead elsewhere.

        At `vacant` places there may be larval states, which the kernel would take for what is to be moved; each packet
        that finds a policy which leads there makes one again.
        """
        first = [request for ident in vacant for request in vacating(ident)]
        uncover: list[Request] = []
        if covers:
            first += _remove(self._covers.pop(covers.reqids, ()))
            first += [Request("cover", Msg.UPDPOLICY, policy.pack()) for policy in covers.policies]
            self._covers[covers.reqids] = ids = tuple(policy.id for policy in covers.policies)
            uncover = _remove(ids)
        # A state is at one of two places; where, depends on whether the kernel refused to move it.
        go = [request for one in stopped for request in one.go(one.ae.id.destination, new.remote.address)]
        migrate = [request for one in steps for request in one.requests]
        try:
            answers = self._transactions.transact([*first, *before, *migrate, *behind, *go])
        except KernelRefused:
            # Nobody knows what was done; what was stopped must not stay so.
            self._transactions.transact(go + uncover)
            raise
        failure = None
        undo: list[Request] = []
        told = iter(answers[len(first) + len(before) :])
        for one in steps:
            codes = [answer.code for answer in islice(told, len(one.requests))]
            if any(codes):
                failure = failure or KernelRefused(str(one), next(filter(None, codes)))
                undo += one.undo
            else:
                self._mirror.moved(one.policy.policy.index, one.ends)
        if failure:
            self._transactions.transact([*undo, *uncover])
        for number, ident in enumerate(vacant):
            try:
                self._refits.vacated(ident, answers[2 * number : 2 * number + 2])
            except KernelRefused as refused:
                log.error("a state that was no larval one could not be added again: %s", refused)  # noqa: TRY400
        if not failure:
            self._refits.see_to(behind, list(islice(told, len(behind))))
        return failure

    def _silence(self, children: Sequence[ChildSa], old: Path, new: Path) -> list[Stopped]:
        """Stop the outbound states towards the old address. Raises EEXIST when the new one has the same SPI already."""
        beside = self._outbound(children, new.remote.address) if old.remote.address != new.remote.address else []
        if old.encap and not new.encap:
            self._block(children)  # they are to be installed anew
        try:
            stopped, there = self._stop(self._outbound(children, old.remote.address), beside)
        except KernelRefused:
            self._transactions.transact(self._unblock(children))
            raise
        taken = {ae.id.spi for ae in there} & {one.ae.id.spi for one in stopped}
        if taken:
            # The kernel would refuse to move the state, and we must not touch the sequence numbers of the other one.
            self._go_on(children, stopped)
            raise KernelRefused(f"outbound state {min(taken):08x} towards {new.remote.address}", errno.EEXIST)
        return stopped

    def _align(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        """Install states anew that are at either path and not as `new` has them; then everything may be sent again."""
        places = (new.remote.address, old.remote.address), (new.local.address, old.local.address)
        outbound = [ident for place in dict.fromkeys(places[0]) for ident in self._outbound(children, place)]
        inbound = [ident for place in dict.fromkeys(places[1]) for ident in self._inbound(children, place)]
        misfits = self._misfits(outbound, new)
        if misfits:
            self._block(children)
        stopped: list[Stopped] = []
        try:
            stopped, _ = self._stop(misfits)
            states = self._refits.read([*(one.ae.id for one in stopped), *inbound])
        except KernelRefused:
            self._go_on(children, stopped)
            raise
        requests: list[Request] = []
        for one in stopped:
            requests += refit(states, one.ae.id, new, sent=one.sent) or one.go(one.ae.id.destination)
        for ident in inbound:
            requests += refit(states, ident, new)
        requests += self._unblock(children)
        self._refits.see_to(requests, self._transactions.transact(requests))

    def _misfits(self, outbound: Sequence[SaId], path: Path) -> list[SaId]:
        """Those of outbound states that are not as the path has them."""
        known = self._refits.read(outbound)
        return [ident for ident in outbound if ident in known and not fits(known[ident], path, out=True)]

    def _block(self, children: Iterable[ChildSa]) -> None:
        """Have nothing of these CHILD_SAs sent until `_unblock`, or for some seconds.

        In a system call of its own: what another CPU is about to send finds its state before that is changed. Not on a
        gateway: what it forwards is lost either way.
        """
        if self._last is Direction.IN:
            return
        requests: list[Request] = []
        for reqid in _reqids(children):
            policies = (policy for policy in self._mirror.of_reqid(reqid) if policy.direction == Direction.OUT)
            ours = [one for policy in policies for one in blocks(policy)]
            self._blocks[reqid] = tuple(dict.fromkeys((*self._blocks.get(reqid, ()), *(one.id for one in ours))))
            requests += [Request("block", Msg.UPDPOLICY, one.pack()) for one in ours]
        self._transactions.transact(requests)

    def _go_on(self, children: Iterable[ChildSa], stopped: Iterable[Stopped]) -> None:
        """Let everything be sent again, by states that are where they were."""
        going = [request for one in stopped for request in one.go(one.ae.id.destination)]
        self._transactions.transact(going + self._unblock(children))

    def _unblock(self, children: Iterable[ChildSa]) -> list[Request]:
        return _remove(ident for reqid in _reqids(children) for ident in self._blocks.pop(reqid, ()))

    def _outbound(self, children: Iterable[ChildSa], place: IPAddress) -> list[SaId]:
        return self._ids(((child.reqid, child.spi_out) for child in children), Direction.OUT, place)

    def _inbound(self, children: Iterable[ChildSa], place: IPAddress) -> list[SaId]:
        return self._ids(((child.reqid, child.spi_in) for child in children), Direction.IN, place)

    def _ids(self, named: Iterable[tuple[int, int]], direction: Direction, place: IPAddress) -> list[SaId]:
        ids: list[SaId] = []
        for reqid, spi in dict.fromkeys(named):
            marks = (p.mark for p in self._mirror.of_reqid(reqid) if p.direction == direction)
            ids.append(SaId(destination=place, spi=spi, mark=next(marks, None)))
        return ids

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
        if event is None:
            return
        ours = Transactions.caused(message)
        foreign = isinstance(event, PolicySet) and event.policy.selector.user != COVER_USER and not ours
        if not self._mirror.apply(event, message) or foreign:
            self._early.append(event)

    def _load(self) -> None:
        dump = self._requests.request("policies", Msg.GETPOLICY, b"", Flag.DUMP)
        self.ignored += self._mirror.load(dump)
        self._stale = False


def _remove(policies: Iterable[PolicyId]) -> list[Request]:
    return [Request("remove policy", Msg.DELPOLICY, policy.pack()) for policy in policies]


def _reqids(children: Iterable[ChildSa]) -> list[int]:
    return list(dict.fromkeys(child.reqid for child in children))


def _outbound_first(policy: MirroredPolicy) -> bool:
    return policy.direction != Direction.OUT


def _path(head: SaHead) -> Path:
    remote, local = (head.encap.source_port, head.encap.destination_port) if head.encap else (IKE_PORT, IKE_PORT)
    return Path(Endpoint(head.destination, local), Endpoint(head.source, remote), head.encap is not None)
