"""A mirror of the kernel's policies by reqid, so that a move need not ask for them."""

from dataclasses import dataclass, field
from typing import Final

from swanroam.errors import WireError
from swanroam.model.path import IPAddress
from swanroam.wire.netlink import NetlinkMessage
from swanroam.wire.xfrm.events import (
    Migrated,
    PoliciesFlushed,
    PolicyDeleted,
    PolicyExpired,
    PolicySet,
    XfrmEvent,
)
from swanroam.wire.xfrm.migrate import Migrate
from swanroam.wire.xfrm.policies import Policy, Template
from swanroam.wire.xfrm.structs import Direction, Mark, XfrmSelector

__all__ = ["COVER_USER", "Ends", "MirroredPolicy", "PolicyMirror", "place_of"]

COVER_USER: Final = 0x73776E72
"""`user` of the selectors of covers, "swnr": the kernel compares it between policies, and to nothing in a packet."""


Ends = tuple[IPAddress, IPAddress]
"""Outer source and destination."""


def place_of(direction: int, ends: Ends) -> Ends:
    """Where a policy of this direction has the tunnel: the outer address of this end, and of the other."""
    return ends if direction == Direction.OUT else (ends[1], ends[0])


@dataclass(frozen=True, slots=True)
class MirroredPolicy:
    """A policy with templates, as far as a move needs it."""

    policy: Policy
    raw_selector: bytes = field(repr=False)
    """Struct xfrm_selector as the kernel gave it, padding included."""
    ends: tuple[Ends, ...]
    """Where each of the policy's templates is now: MIGRATE changes that, and nothing else of a policy."""

    @property
    def direction(self) -> int:
        """One of Direction."""
        return self.policy.direction

    @property
    def mark(self) -> Mark | None:
        """The mark of packets that it is for."""
        return self.policy.mark

    def at(self, ends: tuple[Ends, ...]) -> "MirroredPolicy":
        """The same with other ends of its templates."""
        return MirroredPolicy(self.policy, self.raw_selector, ends)


class PolicyMirror:
    """The kernel's policies that have templates with a reqid, but for covers. No I/O: it is fed with messages."""

    def __init__(self) -> None:
        self._by_index: dict[int, MirroredPolicy] = {}
        self._indexes: dict[int, set[int]] = {}
        self._marked: set[int] = set()

    def __len__(self) -> int:
        return len(self._by_index)

    def of_reqid(self, reqid: int) -> list[MirroredPolicy]:
        """The policies that have a template of this CHILD_SA, in the order the kernel numbered them."""
        return [self._by_index[index] for index in sorted(self._indexes.get(reqid, ()))]

    def mark(self, source: IPAddress, destination: IPAddress) -> int:
        """The mark by which what goes from one inner address to another finds its policy; 0 where it needs none."""
        marked = (self._by_index[index].policy for index in self._marked)
        return next((p.mark.value for p in marked if p.mark and p.selector.covers(source, destination)), 0)

    def load(self, dump: list[NetlinkMessage]) -> int:
        """Replace all that is known by a dump; the number of messages that were not understood."""
        self._by_index.clear()
        self._indexes.clear()
        self._marked.clear()
        failures = 0
        for message in dump:
            try:
                self._set(Policy.unpack(message.payload), message.payload)
            except WireError:
                failures += 1
        return failures

    def apply(self, event: XfrmEvent, message: NetlinkMessage) -> bool:
        """Follow an event, decoded from `message`; False when it is not about policies."""
        match event:
            case PolicySet(policy):
                self._set(policy, message.payload)
            case PolicyDeleted(policy):
                self._remove(policy.index)
            case PolicyExpired(policy=policy, hard=hard):
                if hard:
                    self._remove(policy.index)
            case PoliciesFlushed(type_):
                for index in [n for n, known in self._by_index.items() if known.policy.type == type_]:
                    self._remove(index)
            case Migrated(migrate):
                self._follow(migrate)
                return False
            case _:
                return False
        return True

    def moved(self, index: int, ends: tuple[Ends, ...]) -> None:
        """A policy's templates are elsewhere: the answer to a MIGRATE of our own."""
        if known := self._by_index.get(index):
            self._by_index[index] = known.at(ends)

    def _set(self, policy: Policy, payload: bytes) -> None:
        self._remove(policy.index)
        reqids = {template.reqid for template in policy.templates if template.reqid}
        if not reqids or policy.direction not in tuple(Direction) or policy.selector.user == COVER_USER:
            return
        ends = tuple((template.source, template.destination) for template in policy.templates)
        self._by_index[policy.index] = MirroredPolicy(policy, payload[: XfrmSelector.LAYOUT.size], ends)
        for reqid in reqids:
            self._indexes.setdefault(reqid, set()).add(policy.index)
        if policy.mark and policy.direction == Direction.OUT:
            self._marked.add(policy.index)

    def _remove(self, index: int) -> None:
        known = self._by_index.pop(index, None)
        self._marked.discard(index)
        for template in known.policy.templates if known else ():
            indexes = self._indexes.get(template.reqid, set())
            indexes.discard(index)
            if not indexes:
                self._indexes.pop(template.reqid, None)

    def _follow(self, migrate: Migrate) -> None:
        # The event has no index and no mark; a policy that it does not mean has other selectors or other templates.
        reqids = {entry.reqid for entry in migrate.entries}
        for index in sorted(set().union(*(self._indexes.get(reqid, set()) for reqid in reqids))):
            known = self._by_index[index]
            policy = known.policy
            if (policy.selector, policy.direction, policy.type) == (migrate.selector, migrate.direction, migrate.type):
                pairs = zip(policy.templates, known.ends, strict=True)
                self.moved(index, tuple(_migrated(template, ends, migrate) for template, ends in pairs))


def _migrated(template: Template, ends: Ends, migrate: Migrate) -> Ends:
    for entry in migrate.entries:
        same = (entry.protocol, entry.mode, entry.reqid) == (template.protocol, template.mode, template.reqid)
        if same and (entry.old_source, entry.old_destination) == ends:
            return entry.new_source, entry.new_destination
    return ends
