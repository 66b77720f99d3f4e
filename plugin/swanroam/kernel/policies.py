"""A mirror of the kernel's policies by reqid, so that a move need not ask for them."""

from dataclasses import dataclass, field, replace

from swanroam.errors import WireError
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
from swanroam.wire.xfrm.structs import Direction, XfrmSelector

__all__ = ["MirroredPolicy", "PolicyMirror"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredPolicy:
    """A policy with templates, as far as a move needs it."""

    policy: Policy
    raw_selector: bytes = field(repr=False)
    """Struct xfrm_selector as the kernel gave it, padding included."""

    @property
    def direction(self) -> int:
        """One of Direction."""
        return self.policy.direction


class PolicyMirror:
    """The kernel's policies that have templates with a reqid. No I/O: it is fed with messages."""

    def __init__(self) -> None:
        self._by_index: dict[int, MirroredPolicy] = {}
        self._indexes: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._by_index)

    def of_reqid(self, reqid: int) -> list[MirroredPolicy]:
        """The policies that have a template of this CHILD_SA, in the order the kernel numbered them."""
        return [self._by_index[index] for index in sorted(self._indexes.get(reqid, ()))]

    def load(self, dump: list[NetlinkMessage]) -> int:
        """Replace all that is known by a dump; the number of messages that were not understood."""
        self._by_index.clear()
        self._indexes.clear()
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

    def moved(self, index: int, templates: tuple[Template, ...]) -> None:
        """A policy has other templates: the answer to a MIGRATE of our own."""
        if known := self._by_index.get(index):
            self._by_index[index] = replace(known, policy=replace(known.policy, templates=templates))

    def _set(self, policy: Policy, payload: bytes) -> None:
        self._remove(policy.index)
        reqids = {template.reqid for template in policy.templates if template.reqid}
        if not reqids or policy.direction not in tuple(Direction):
            return
        raw_selector = payload[: XfrmSelector.LAYOUT.size]
        self._by_index[policy.index] = MirroredPolicy(policy=policy, raw_selector=raw_selector)
        for reqid in reqids:
            self._indexes.setdefault(reqid, set()).add(policy.index)

    def _remove(self, index: int) -> None:
        known = self._by_index.pop(index, None)
        for template in known.policy.templates if known else ():
            indexes = self._indexes.get(template.reqid, set())
            indexes.discard(index)
            if not indexes:
                self._indexes.pop(template.reqid, None)

    def _follow(self, migrate: Migrate) -> None:
        # The event has no index and no mark; a policy that it does not mean has other selectors or other templates.
        reqids = {entry.reqid for entry in migrate.entries}
        for index in sorted(set().union(*(self._indexes.get(reqid, set()) for reqid in reqids))):
            policy = self._by_index[index].policy
            if (policy.selector, policy.direction, policy.type) == (migrate.selector, migrate.direction, migrate.type):
                self.moved(index, tuple(_migrated(template, migrate) for template in policy.templates))


def _migrated(template: Template, migrate: Migrate) -> Template:
    for entry in migrate.entries:
        if (entry.old_source, entry.old_destination, entry.protocol, entry.mode, entry.reqid) == (
            template.source,
            template.destination,
            template.protocol,
            template.mode,
            template.reqid,
        ):
            return replace(template, source=entry.new_source, destination=entry.new_destination)
    return template
