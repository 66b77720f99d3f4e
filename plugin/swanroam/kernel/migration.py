"""Which MIGRATE messages move the policies and states of a CHILD_SA, worked out from mirrored policies; no I/O.

What the kernel does with one message (net/xfrm/xfrm_policy.c xfrm_migrate, Linux 6.1 and 6.12): it finds one policy by
selector, direction, type and interface id; for each entry it finds at most one state with the old addresses, reqid,
mode and protocol, the one inserted last, and clones it to the new addresses with counters and replay state; it changes
the templates that match an entry, and refuses with ENODATA when none does; then it deletes the old states. An entry for
which there is no state is no error, and a state is moved whether or not the policy has a template for it.

So each message carries entries for both directions: of two outbound and two inbound states with one reqid (a rekey is
under way) the first message moves the newer ones, the second the older. No state needs to be read with its keys,
deleted and installed again. Old and new addresses may be equal: states are then cloned in place.

XFRMA_ENCAP gives all states of a message the same encapsulation, whose ports are those of one direction. So where ESP
goes in UDP each message carries entries for its own direction only. It cannot take encapsulation away.

Linux 6.12 finds the policy as for a packet between the first addresses of the selector, of its protocol and without a
mark (xfrm_migrate_policy_find): not a policy for marked packets, and not one that comes behind another for that packet.
It says ENOENT, or ENODATA. Such policies are carried: a policy of our own, for packets of a protocol that nobody sends,
is what the message finds, so the states move, and the policy itself is set anew.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from socket import AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from typing import Final

from swanroam.kernel.policies import COVER_USER, Ends, MirroredPolicy
from swanroam.kernel.transactions import Request
from swanroam.model.path import Path
from swanroam.wire.xfrm.migrate import ENTRIES_MAX, KmAddress, MigrateEntry, pack_migrate
from swanroam.wire.xfrm.policies import Policy, Template
from swanroam.wire.xfrm.states import Encap
from swanroam.wire.xfrm.structs import Current, Direction, Limits, Mode, Msg

__all__ = ["Step", "Steps", "blocks", "encapsulation"]

BLOCK: Final = 1
"""XFRM_POLICY_BLOCK."""
COVER_S: Final = 3
"""How long a policy of ours lasts; charon takes a few milliseconds, and is told again where it did not follow."""

EXPERIMENTAL: Final = 253
"""An IP protocol for experiments (RFC 3692)."""

_TRANSPORTS: Final = (IPPROTO_TCP, IPPROTO_UDP)
_ADDRESSED: Final = (Mode.TUNNEL.value, Mode.BEET.value)
_OUT: Final = Direction.OUT.value


@dataclass(frozen=True, slots=True)
class Step:
    """One MIGRATE message, and where the policy's templates are when it succeeded."""

    policy: MirroredPolicy
    reqid: int
    payload: bytes
    ends: tuple[Ends, ...]
    carrier: Policy | None = None
    """A policy of our own that the message finds in place of the policy."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """What is sent to the kernel, in order; all of it has to succeed."""
        migrate = Request("migrate", Msg.MIGRATE, self.payload)
        if self.carrier is None:
            return (migrate,)
        return (
            Request("carrier", Msg.UPDPOLICY, self.carrier.pack()),
            migrate,
            _set(self.policy, self.ends),
            Request("remove carrier", Msg.DELPOLICY, self.carrier.id.pack()),
        )

    @property
    def undo(self) -> tuple[Request, ...]:
        """What has the policy where it was, when the message was refused: one that is carried was set all the same."""
        return (_set(self.policy, self.policy.ends),) if self.carrier else ()

    def __str__(self) -> str:
        policy = self.policy.policy
        selector, direction = policy.selector, Direction(policy.direction).name.lower()
        between = f"{selector.source}/{selector.source_length} {selector.destination}/{selector.destination_length}"
        return f"migrate {direction} policy {between} of reqid {self.reqid}"


class Steps:
    """Makes the messages of one move, from `old` to `new`; policies of the reqids `carried` are carried."""

    def __init__(self, old: Path, new: Path, carried: Collection[int] = ()) -> None:
        self._path = new
        self._carried = carried
        self._states_move = old.local.address != new.local.address or old.remote.address != new.remote.address
        self._old = _both_ends(old)
        self._new = _both_ends(new)
        self._kmaddress = KmAddress(new.local.address, new.remote.address)
        self._packed: dict[tuple[Ends, Ends, int, int, int], bytes] = {}

    def done(self, policy: MirroredPolicy, reqid: int) -> bool:
        """Whether the policy's templates of this reqid have the new addresses."""
        new = self._new[policy.direction == _OUT]
        templates = policy.policy.templates
        return all(
            ends == new
            for template, ends in zip(templates, policy.ends, strict=True)
            if template.reqid == reqid and template.mode in _ADDRESSED
        )

    def step(self, policy: MirroredPolicy, reqid: int, *, inform: bool = False, alone: bool = False) -> Step:
        """The message that moves a policy from where it is, and one state of each direction from the old addresses.

        With `inform` the kernel tells key managers the new addresses; `alone` moves no state of the other direction.
        """
        out = policy.direction == _OUT
        new = self._new[out]
        # One entry for each old place: the kernel refuses two for the same addresses, protocol, mode and reqid.
        entries: dict[tuple[Ends, int, int], bytes] = {}
        ends: list[Ends] = []
        for template, place in zip(policy.policy.templates, policy.ends, strict=True):
            moves = template.reqid == reqid and template.mode in _ADDRESSED
            ends.append(new if moves else place)
            if moves:
                entries[place, template.protocol, template.mode] = self._entry(template, place, new)
        directions = (out,) if alone or self._path.encap else (out, not out)
        for direction in directions if self._states_move else ():
            for template in policy.policy.templates:
                key = self._old[direction], template.protocol, template.mode
                if template.reqid == reqid and key not in entries:
                    entries[key] = self._entry(template, self._old[direction], self._new[direction])
        carrier = _carrier(policy) if reqid in self._carried else None
        payload = pack_migrate(
            carrier.selector.pack() if carrier else policy.raw_selector,
            policy.direction,
            b"".join(list(entries.values())[:ENTRIES_MAX]),
            type_=policy.policy.type,
            if_id=policy.policy.if_id,
            kmaddress=self._kmaddress if inform else None,
            encap=encapsulation(self._path, out=out),
        )
        return Step(policy, reqid, payload, tuple(ends), carrier)

    def cover(self, policy: MirroredPolicy, reqid: int) -> Policy:
        """A policy of our own that lets in what this one lets in, for the moment in which charon takes it out.

        charon follows a move by removing its policies and installing them anew (child_sa.c, update); what comes out of
        the tunnel meanwhile would be dropped. The cover has the same selector but for a field that the kernel keeps and
        does not look at, so that neither takes the place of the other, and comes behind charon's. It ends by itself.
        On the way out there is none, and what goes in meanwhile is dropped by a policy of charon's: charon removes and
        adds states as well, a rekey does, and a packet that found no state would have the kernel put a larval one in
        their place, as the policy names the SPI.
        """
        new = self._new[False]
        ends = tuple(
            new if template.reqid == reqid and template.mode in _ADDRESSED else place
            for template, place in zip(policy.policy.templates, policy.ends, strict=True)
        )
        return replace(_beside(policy.policy), priority=policy.policy.priority + 1, templates=_at(policy, ends))

    def _entry(self, template: Template, old: Ends, new: Ends) -> bytes:
        key = old, new, template.protocol, template.mode, template.reqid
        if key not in self._packed:
            self._packed[key] = MigrateEntry(
                old_source=old[0],
                old_destination=old[1],
                new_source=new[0],
                new_destination=new[1],
                reqid=template.reqid,
                protocol=template.protocol,
                mode=template.mode,
            ).pack()
        return self._packed[key]


def blocks(policy: MirroredPolicy) -> list[Policy]:
    """Policies of our own that let nothing out which this one would, while states are made anew: one for each protocol.

    A sender gets EPERM and keeps its packet. Without them, where there is the policy and no state, the kernel takes
    the packet, drops it, and puts a larval state in the place of the other, as the policy names the SPI (xfrm_state.c,
    xfrm_state_find). They come before charon's, but not for MIGRATE, which looks for a policy as if for a packet of no
    protocol (Linux 6.12, xfrm_migrate_policy_find). They end by themselves, too.
    """
    if policy.policy.selector.protocol:
        return []
    ours = _beside(policy.policy)
    protocols = (*_TRANSPORTS, IPPROTO_ICMPV6 if ours.selector.family == AF_INET6 else IPPROTO_ICMP)
    return [
        replace(
            ours,
            selector=replace(ours.selector, protocol=protocol),
            priority=max(ours.priority - 1, 0),
            action=BLOCK,
            templates=(),
        )
        for protocol in protocols
    ]


def _carrier(policy: MirroredPolicy) -> Policy:
    ours = _beside(policy.policy)
    selector = replace(
        ours.selector,
        protocol=EXPERIMENTAL,
        source_port=0,
        source_port_mask=0,
        destination_port=0,
        destination_port_mask=0,
    )
    return replace(ours, selector=selector, priority=0, mark=None, templates=_at(policy, policy.ends))


def _set(policy: MirroredPolicy, ends: tuple[Ends, ...]) -> Request:
    return Request("policy", Msg.UPDPOLICY, replace(policy.policy, templates=_at(policy, ends)).pack())


def _at(policy: MirroredPolicy, ends: tuple[Ends, ...]) -> tuple[Template, ...]:
    pairs = zip(policy.policy.templates, ends, strict=True)
    return tuple(replace(template, source=source, destination=destination) for template, (source, destination) in pairs)


def _beside(policy: Policy) -> Policy:
    return replace(
        policy,
        selector=replace(policy.selector, user=COVER_USER),
        index=0,
        limits=Limits(hard_add_s=COVER_S),
        current=Current(),
    )


def encapsulation(path: Path, *, out: bool) -> Encap | None:
    """What a state of this direction has for encapsulation on a path: ports as in the packets that it is for."""
    if not path.encap:
        return None
    source, destination = (path.local, path.remote) if out else (path.remote, path.local)
    return Encap(source_port=source.port, destination_port=destination.port)


def _both_ends(path: Path) -> tuple[Ends, Ends]:
    """Source and destination of what comes in, and of what goes out."""
    local, remote = path.local.address, path.remote.address
    return (remote, local), (local, remote)
