"""A tunnel as decisions see it, and the phases it goes through.

Terminal: a move takes a tunnel to UPDATING; the gateway's acknowledgement brings it back to STEADY. When there is
nobody to acknowledge (capability `configured`) the last dummy ASSUMES so. When the gateway does not answer, or is
silent later, the tunnel is ABANDONED and charon builds it anew; that, a late answer or another move takes it back.

Gateway: following a packet takes a tunnel to VALIDATING, also from VALIDATING: a terminal may move on before it
answered. The answer, or the deadline, brings it to STEADY, on the new path or back on the last validated one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from swanroam.core.damping import Damping
from swanroam.core.distrust import Distrust
from swanroam.model.effects import Trigger
from swanroam.model.events import Reason
from swanroam.model.path import IPAddress, Origin, Path
from swanroam.model.tunnel import Capability, ChildSa, IkeSa, Mode, Nat, Role, TunnelKey

__all__ = [
    "CARRYING",
    "LINGERING",
    "REKEYED",
    "TRANSITIONS",
    "Counted",
    "LastMove",
    "Listening",
    "Phase",
    "Signal",
    "Tunnel",
    "advance",
    "inner_addresses",
]


class Phase(StrEnum):
    """What a tunnel is waiting for."""

    STEADY = "steady"
    UPDATING = "updating"
    VALIDATING = "validating"
    ABANDONED = "abandoned"


class Signal(StrEnum):
    """What takes a tunnel from one phase to another."""

    MOVED = "moved"
    ACKNOWLEDGED = "acknowledged"
    ASSUMED = "assumed"
    GAVE_UP = "gave-up"
    FOLLOWED = "followed"
    VALIDATED = "validated"
    RETURNED = "returned"
    REBUILT = "rebuilt"


TRANSITIONS: Final[Mapping[tuple[Phase, Signal], Phase]] = {
    (Phase.STEADY, Signal.MOVED): Phase.UPDATING,
    (Phase.UPDATING, Signal.MOVED): Phase.UPDATING,
    (Phase.ABANDONED, Signal.MOVED): Phase.UPDATING,
    (Phase.UPDATING, Signal.ACKNOWLEDGED): Phase.STEADY,
    (Phase.ABANDONED, Signal.ACKNOWLEDGED): Phase.STEADY,
    (Phase.ABANDONED, Signal.REBUILT): Phase.STEADY,
    (Phase.UPDATING, Signal.ASSUMED): Phase.STEADY,
    (Phase.UPDATING, Signal.GAVE_UP): Phase.ABANDONED,
    (Phase.STEADY, Signal.GAVE_UP): Phase.ABANDONED,
    (Phase.STEADY, Signal.FOLLOWED): Phase.VALIDATING,
    (Phase.VALIDATING, Signal.FOLLOWED): Phase.VALIDATING,
    (Phase.VALIDATING, Signal.VALIDATED): Phase.STEADY,
    (Phase.VALIDATING, Signal.RETURNED): Phase.STEADY,
}

CARRYING: Final = frozenset({"INSTALLED", "UPDATING", "REKEYING", "REKEYED", "DELETING", "DELETED"})
"""charon's words for a CHILD_SA with an inbound state in the kernel; a rekeyed one still receives for a while."""


LINGERING: Final = frozenset({"REKEYED", "DELETING", "DELETED"})
"""Of these, those of a CHILD_SA that is on its way out."""

REKEYED: Final = frozenset({"REKEYED", "DELETED"})
"""Of these, those of a CHILD_SA that was rekeyed: one that is closed is DELETING, and then gone."""

PASSED_MOST: Final = 8
"""Moves after which charon is not believed to be on its way any more."""


Counted = Mapping[int, tuple[int, int]]
"""Packets received and sent, by inbound SPI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastMove:
    """The last move of a tunnel, for people and for `status`."""

    at_s: float
    old: Path
    new: Path
    trigger: Trigger
    duration_s: float
    validated: bool | None
    """Acknowledged (terminal) or answered the challenge (gateway); None while, or where, nobody can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """What is known of whether the gateway has followed a move that nobody acknowledges (core/silence.py)."""

    looks: int = 0
    """How often that was looked at."""
    before: Counted | None = None
    """Until the last look; None until there is a look after the move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One tunnel: what charon says of it, where the kernel has it, and what swanroam knows besides."""

    key: TunnelKey
    role: Role
    sas: tuple[IkeSa, ...]
    """IKE_SAs with this name and these inner addresses, newest first: several while a reauthentication overlaps."""
    path: Path
    """Where the kernel's states are."""
    capability: Capability
    because: str = ""
    """Why it has no capability; empty where it has one, or it is not known yet."""
    shares: str = ""
    """What another tunnel has in common with it, so that it is left alone (core/bystanders.py); empty for nothing."""
    phase: Phase = Phase.STEADY
    attempt: int = 0
    """How often the message of this phase was sent again."""
    hello_attempt: int = 0
    hello_nonce: bytes = b""
    """Of the HELLO that waits for its answer."""
    nonce: bytes = b""
    """Gateway: of the challenge that waits for its answer."""
    update_sequence: int = 0
    """Of the last UPDATE sent (terminal) or received (gateway)."""
    highest: Mapping[int, int] = field(default_factory=dict)
    """Highest sequence number that moved the tunnel, by inbound SPI."""
    validated_path: Path | None = None
    """Gateway: the path to return to."""
    unheard: int = 0
    """Gateway: validations that failed since the terminal's daemon was heard last (core/unheard.py)."""
    distrusted: tuple[Distrust, ...] = ()
    """Gateway: sources that did not answer a challenge."""
    misled: tuple[Distrust, ...] = ()
    """Gateway: those that did not where it was charon that went there. Anybody may have led it, with any source, so
    packets of the terminal's may still move the tunnel there."""
    damping: Damping = field(default_factory=Damping)
    """Gateway: how much it moved of late."""
    leaving: tuple[Origin, ...] = ()
    """Gateway: the previous source, from which late packets may come. Terminal: the previous address that still works,
    to which they may come."""
    untold: bool = False
    """charon does not know of the last move yet."""
    astray: Path | None = None
    """Where charon has a CHILD_SA that takes over from another; of the two it had the other one follow."""
    bare_since_s: float | None = None
    """Since when charon lists no CHILD_SA: for a moment while an IKE_SA is rekeyed, as they go over to the new one."""
    nat: Nat = Nat.UNKNOWN
    """As the last NAT discovery exchange found."""
    translated: frozenset[IPAddress] = frozenset()
    """Terminal: own addresses of plain tunnels at which there was a NAT."""
    actual: IPAddress | None = None
    """Terminal: where it really is, where charon and the kernel go on with the address that it had."""
    alone: bool = False
    """Terminal: the gateway follows by itself, so moves need no agreement."""
    listening: Listening | None = None
    """Terminal: since a move that nobody acknowledges, until the gateway was heard of."""
    heard: Counted | None = None
    """Terminal: until the last look whether the gateway is silent (core/lookout.py); None where there was none."""
    asking: bool = False
    """Terminal: the UPDATE that waits for its answer only asks whether the gateway is there."""
    mobike: bool | None = None
    """Whether charon moves it, too, and has the last word (core/mobike.py); None where that cannot be told."""
    charon: Path | None = None
    """Where charon had the states of a tunnel with MOBIKE when last it was asked."""
    passed: tuple[Path, ...] = ()
    """Where swanroam had the tunnel since charon was where it is: charon may still be on its way there."""
    apart_since_s: float | None = None
    """Since when charon has a tunnel elsewhere that swanroam may not move."""
    also: tuple[Path, ...] = ()
    """Gateway: where CHILD_SAs of the tunnel are besides `path`: one takes over from another."""
    gateways: tuple[IPAddress, ...] = ()
    """Addresses of the gateway, the preferred one first: told by it (terminal), or to the terminal (gateway)."""
    gateway_sequence: int = 0
    """Of the last GATEWAY-MOVED sent (gateway) or taken (terminal)."""
    announcements: int = 0
    """Gateway: how often a GATEWAY-MOVED was sent that nobody has acknowledged yet."""
    sought: tuple[IPAddress, ...] = ()
    """Terminal: addresses of the gateway that were tried since nobody answered, the one to fall back to first."""
    moves: int = 0
    last_move: LastMove | None = None
    rejected: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def children(self) -> tuple[ChildSa, ...]:
        """The CHILD_SAs in tunnel mode that have states in the kernel, of the newest IKE_SA first."""
        return tuple(
            child
            for sa in self.sas
            for child in sa.children
            if child.mode is Mode.TUNNEL and child.protocol == "ESP" and child.spi_in and child.state in CARRYING
        )

    @property
    def here(self) -> IPAddress:
        """Outer address of this end."""
        return self.actual or self.path.local.address

    @property
    def native(self) -> bool:
        """Whether charon itself set the newest IKE_SA's CHILD_SAs up in UDP."""
        return any(child.encap for child in self.children[:1])

    @property
    def carries_ike(self) -> bool:
        """Whether IKE goes with ESP in UDP, through a NAT that charon does not know of."""
        return self.path.encap and not self.native and self.capability.allows_moves and not self.mobike

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Gateway: where the terminal may be heard from without being noticed."""
        return tuple(dict.fromkeys(path.origin for path in (self.path, *self.also)))

    @property
    def own(self) -> tuple[IPAddress, ...]:
        """Addresses of this machine that the tunnel is received at."""
        return tuple(dict.fromkeys(path.local.address for path in (self.path, *self.also)))

    @property
    def places(self) -> tuple[Path, ...]:
        """Where charon and the kernel have its states, or may have left some."""
        last = (self.last_move.old,) if self.last_move else ()
        return tuple(dict.fromkeys((self.path, *self.also, *(sa.path for sa in self.sas), *last, *self.passed)))

    @property
    def spis(self) -> tuple[int, ...]:
        """Inbound SPIs."""
        return tuple(child.spi_in for child in self.children)

    @property
    def lingering(self) -> bool:
        """Whether there is a CHILD_SA that will be gone soon (charon.delete_rekeyed_delay, 5 s by default)."""
        return any(child.state in LINGERING for child in self.children)

    @property
    def overlapping(self) -> bool:
        """Whether a CHILD_SA takes over from another one of the same policies."""
        return len({child.reqid for child in self.children}) < len(self.children)

    @property
    def guarded(self) -> bool:
        """Whether a packet from an unknown source may move this tunnel."""
        return self.role is Role.GATEWAY and self.capability.allows_moves

    def count(self, reason: Reason) -> "Tunnel":
        """The tunnel with one more refusal for this reason."""
        return replace(self, rejected={**self.rejected, reason: self.rejected.get(reason, 0) + 1})

    def moved(self, at_s: float, new: Path, trigger: Trigger, duration_s: float) -> "Tunnel":
        """The tunnel on its new path; whether the other end agrees is not known yet."""
        last = LastMove(at_s=at_s, old=self.path, new=new, trigger=trigger, duration_s=duration_s, validated=None)
        passed = () if trigger is Trigger.REVERT else (*self.passed[1 - PASSED_MOST :], self.path)
        # In IKEv2 it is seen by its policies (core/watching.py); in IKEv1 they are those of both, and follow.
        astray = self.path if self.overlapping and self.sas[0].version == 1 else self.astray
        return replace(self, path=new, moves=self.moves + 1, last_move=last, attempt=0, passed=passed, astray=astray)

    def validated(self, value: bool) -> "Tunnel":
        """The tunnel, with the word of the other end on its last move."""
        return replace(self, last_move=replace(self.last_move, validated=value) if self.last_move else None)


def advance(tunnel: Tunnel, signal: Signal) -> Tunnel:
    """The tunnel in its next phase. An absent pair is a defect of the caller: KeyError."""
    return replace(tunnel, phase=TRANSITIONS[tunnel.phase, signal])


def inner_addresses(role: Role, sa: IkeSa) -> tuple[IPAddress, ...]:
    """The terminal's inner addresses of an IKE_SA; empty when this machine has not that role in it.

    Who asks charon for two addresses of one pool is given the same one twice.
    """
    addresses = frozenset(sa.local_vips if role is Role.TERMINAL else sa.remote_vips)
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))
