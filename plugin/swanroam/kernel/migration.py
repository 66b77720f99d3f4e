"""Which MIGRATE messages move the policies and states of a CHILD_SA, worked out from mirrored policies; no I/O.

What the kernel does with one message (net/xfrm/xfrm_policy.c xfrm_migrate, Linux 6.1 and 6.12): it finds one policy by
selector, direction, type and interface id; for each entry it finds at most one state with the old addresses, reqid,
mode and protocol, the one inserted last, and clones it to the new addresses with counters and replay state; it changes
the templates that match an entry, and refuses with ENODATA when none does; then it deletes the old states. An entry for
which there is no state is no error, and a state is moved whether or not the policy has a template for it.

So each message carries entries for both directions: of two outbound and two inbound states with one reqid (a rekey is
under way) the first message moves the newer ones, the second the older. No state needs to be read with its keys,
deleted and installed again. Old and new addresses may be equal: states are then cloned in place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from swanroam.kernel.policies import MirroredPolicy
from swanroam.model.path import IPAddress, Path
from swanroam.wire.xfrm.migrate import ENTRIES_MAX, KmAddress, MigrateEntry, pack_migrate
from swanroam.wire.xfrm.policies import Template
from swanroam.wire.xfrm.structs import Direction, Mode

__all__ = ["Step", "is_at", "step"]

_ADDRESSED = (Mode.TUNNEL, Mode.BEET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One MIGRATE message, and what the policy's templates are when it succeeded."""

    policy: MirroredPolicy
    reqid: int
    payload: bytes
    templates: tuple[Template, ...]

    @property
    def operation(self) -> str:
        """For people."""
        policy = self.policy.policy
        selector, direction = policy.selector, Direction(policy.direction).name.lower()
        ends = f"{selector.source}/{selector.source_length} {selector.destination}/{selector.destination_length}"
        return f"migrate {direction} policy {ends} of reqid {self.reqid}"


def is_at(policy: MirroredPolicy, reqid: int, path: Path) -> bool:
    """Whether the policy's templates of this reqid have the outer addresses of `path`."""
    ends = _ends(path, policy.direction)
    return all((template.source, template.destination) == ends for template in _addressed(policy, reqid))


def step(policy: MirroredPolicy, reqid: int, old: Path, new: Path, kmaddress: KmAddress | None = None) -> Step:
    """The message that moves a policy from where it is to `new`, and one state of each direction from `old`."""
    ends = _ends(new, policy.direction)
    templates = tuple(
        replace(template, source=ends[0], destination=ends[1])
        if template.reqid == reqid and template.mode in _ADDRESSED
        else template
        for template in policy.policy.templates
    )
    return Step(
        policy=policy,
        reqid=reqid,
        templates=templates,
        payload=pack_migrate(
            policy.raw_selector,
            policy.direction,
            _limited(_entries(policy, reqid, old, new)),
            type_=policy.policy.type,
            if_id=policy.policy.if_id,
            kmaddress=kmaddress,
        ),
    )


def _ends(path: Path, direction: int) -> tuple[IPAddress, IPAddress]:
    """(source, destination) of what a policy of this direction protects."""
    local, remote = path.local.address, path.remote.address
    return (local, remote) if direction == Direction.OUT else (remote, local)


def _addressed(policy: MirroredPolicy, reqid: int) -> list[Template]:
    return [t for t in policy.policy.templates if t.reqid == reqid and t.mode in _ADDRESSED]


def _entries(policy: MirroredPolicy, reqid: int, old: Path, new: Path) -> Iterator[MigrateEntry]:
    for template in _addressed(policy, reqid):
        yield _entry(template, (template.source, template.destination), _ends(new, policy.direction))
    opposite = Direction.IN if policy.direction == Direction.OUT else Direction.OUT
    for direction in (policy.direction, opposite):
        for template in policy.policy.templates:
            if template.reqid == reqid and old != new:
                yield _entry(template, _ends(old, direction), _ends(new, direction))


def _entry(template: Template, old: tuple[IPAddress, IPAddress], new: tuple[IPAddress, IPAddress]) -> MigrateEntry:
    return MigrateEntry(
        old_source=old[0],
        old_destination=old[1],
        new_source=new[0],
        new_destination=new[1],
        reqid=template.reqid,
        protocol=template.protocol,
        mode=template.mode,
    )


def _limited(entries: Iterable[MigrateEntry]) -> list[MigrateEntry]:
    # The kernel refuses two entries for the same old addresses, protocol, mode and reqid.
    unique = {(e.old_source, e.old_destination, e.protocol, e.mode): e for e in reversed(list(entries))}
    return list(reversed(unique.values()))[:ENTRIES_MAX]
