"""Effects: what the core wants done. The shell carries them out in order and reports results as events."""

from dataclasses import dataclass
from enum import StrEnum

from swanroam.model.events import Reason, TimerId
from swanroam.model.messages import Message
from swanroam.model.path import IPAddress, Origin, Path
from swanroam.model.tunnel import Capability, ChildSa, TunnelKey

__all__ = [
    "AlignStates",
    "Announcement",
    "CapabilityChanged",
    "DeleteChild",
    "DeleteStates",
    "DropAddress",
    "Effect",
    "Forget",
    "GiveVerdict",
    "HoldInner",
    "InformCharon",
    "KeepAddress",
    "LeftAlone",
    "ListIkeSas",
    "LookForStates",
    "MoveStates",
    "PacketRejected",
    "Persist",
    "Reestablish",
    "RekeyChild",
    "ReleaseInner",
    "RemindCharon",
    "SendDummy",
    "SendMessage",
    "StartTimer",
    "StopTimer",
    "Trigger",
    "TunnelMoved",
    "Unwatch",
    "VerifyPacket",
    "Watch",
]


class Trigger(StrEnum):
    """What made a tunnel move."""

    ADDRESS = "address"
    """The terminal's own addresses or routes changed."""
    PACKET = "packet"
    """A verified packet came from a new source (patent 303)."""
    UPDATE = "update"
    """The terminal said that it is back where it just was."""
    NAT = "nat"
    """Nobody answered without UDP encapsulation (RFC 3948): the tunnel goes in UDP."""
    GATEWAY = "gateway"
    """The gateway has another address (told by it), or did not answer at the one before."""
    REVERT = "revert"
    """Back: the new path was not proven, or charon had gone to what is no address of the gateway."""
    CHARON = "charon"
    """charon followed a message of IKE by itself, without MOBIKE: of IKEv1 any that it can read, however old."""
    MOBIKE = "mobike"
    """charon moved the tunnel by itself (RFC 4555), and swanroam had not: it only tells of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Let the packet filter know a tunnel; replaces what it knew under this key. Absent tunnels are not filtered."""

    key: TunnelKey
    inner: tuple[IPAddress, ...]
    """Inner addresses of the terminal: in-tunnel messages are taken from (gateway) or to (terminal) these only."""
    spis: tuple[int, ...]
    """Inbound SPIs."""
    own: tuple[IPAddress, ...] = ()
    """Where the inbound states are: what comes to another address of this machine is from no known source."""
    sources: tuple[Origin, ...] = ()
    """Outer sources that may send on these SPIs without being held; empty on the terminal, where nothing is held."""
    leaving: tuple[Origin, ...] = ()
    """Former sources, let through for a few seconds more: late packets of the old path are legitimate."""
    ike: tuple[int, ...] = ()
    """Initiator SPIs of IKE_SAs whose messages go with the tunnel's ESP in UDP, as charon knows of no NAT."""
    carrying: Path | None = None
    """Where that is. There may be messages of IKE_SAs that are not listed yet, or not any more."""
    waiting: tuple[Origin, ...] = ()
    """Sources that are known, and are held all the same for a moment: there is nothing to verify about them."""
    late: tuple[IPAddress, ...] = ()
    """Terminal: own addresses that the tunnel has left and that still work: ESP that comes to them is sent on to it."""
    vacant: tuple[IPAddress, ...] = ()
    """Terminal: own addresses that the tunnel will be at again in a moment: ESP that comes to them waits for that."""
    unproven: tuple[int, ...] = ()
    """Outbound SPIs of a tunnel whose `sources` have not answered a challenge yet: what is sent there is limited."""


@dataclass(frozen=True, slots=True)
class Unwatch:
    """The packet filter forgets a tunnel."""

    key: TunnelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyPacket:
    """Verify a held packet with the key of the kernel's state; answered by PacketVerified."""

    packet_id: int
    destination: IPAddress
    """Where the state is, whatever address of this machine the packet came to."""
    spi: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveVerdict:
    """Let a held packet go on to the kernel, which judges it as any other, or drop it."""

    packet_id: int
    accept: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveStates:
    """Move states and policies of a tunnel in the kernel, outbound first; answered by MoveFinished or MoveRefused.

    The policy that the data does not need at once is left for InformCharon.
    """

    key: TunnelKey
    children: tuple[ChildSa, ...]
    old: Path
    new: Path
    trigger: Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAddress:
    """Have charon and the kernel's states go on with `kept`, and rewrite it on the way; answered as MoveStates.

    For a tunnel in UDP whose gateway follows by itself. Where the new path begins at `kept` again, nothing is rewritten
    any longer.
    """

    key: TunnelKey
    kept: IPAddress
    old: Path
    new: Path
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class DropAddress:
    """The tunnel is gone, or is moved by other means from now on: nothing is rewritten for it any longer."""

    key: TunnelKey


@dataclass(frozen=True, slots=True)
class HoldInner:
    """Have packets for these inner addresses delivered while charon moves them to another interface."""

    inner: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class ReleaseInner:
    """charon has moved these inner addresses, or they are gone."""

    inner: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InformCharon:
    """Move the policies that MoveStates left, so that the kernel tells charon, which follows (XFRMA_KMADDRESS).

    On a path in UDP charon takes the encapsulation away from the state that it installs anew, on a terminal the
    outbound one: with `silent` nothing is sent until AlignStates.

    With `returning` states are where charon had them (`old`) when it is told, and AlignStates is to come.
    """

    key: TunnelKey
    children: tuple[ChildSa, ...]
    old: Path
    new: Path
    silent: bool = False
    returning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemindCharon:
    """Have the kernel report the path of what comes in, which charon follows by itself (XFRM_MSG_MAPPING).

    For tunnels that charon set up in UDP with a NAT before the other end: XFRMA_KMADDRESS would lose it the ports.
    """

    key: TunnelKey
    children: tuple[ChildSa, ...]
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignStates:
    """Have the states of CHILD_SAs be just as the path says, encapsulation too, whatever charon made of them."""

    key: TunnelKey
    children: tuple[ChildSa, ...]
    old: Path
    """Where they may be now."""
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessage:
    """Send a message through the tunnel. While charon follows a move this may fail; it is tried again for a moment."""

    key: TunnelKey
    source: IPAddress
    destination: IPAddress
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class SendDummy:
    """Send an ICMP packet through the tunnel that says nothing but where it comes from (patent page 7)."""

    key: TunnelKey
    source: IPAddress
    destination: IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Start a timer, replacing one with the same id."""

    timer: TimerId
    delay_s: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Stop a timer; one that does not run is no error."""

    timer: TimerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Reestablish:
    """Have charon build the tunnel anew, unless it is at it: nobody answers, or it cannot go on as it is.

    ConnectionUnknown answers where charon does not know the connection any more.
    """

    key: TunnelKey
    connection: str
    unique_ids: tuple[int, ...]
    """IKE_SAs that are to be ended first."""
    children: tuple[str, ...]
    """Names of the CHILD_SAs that it had, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteStates:
    """Delete what is left of CHILD_SAs that are gone: charon may not have followed to where it is."""

    key: TunnelKey
    children: tuple[ChildSa, ...]
    inbound: tuple[IPAddress, ...]
    """Addresses of this end."""
    outbound: tuple[IPAddress, ...]
    """Addresses of the other end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookForStates:
    """See whether outbound states are there, and remove larval ones in their place; answered by StatesLookedFor."""

    key: TunnelKey
    children: tuple[ChildSa, ...]
    places: tuple[IPAddress, ...]
    """Addresses of the other end that they may lead to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RekeyChild:
    """Have charon negotiate another CHILD_SA in place of one whose state is gone."""

    key: TunnelKey
    unique_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteChild:
    """Have charon delete a CHILD_SA that another one has taken over from."""

    key: TunnelKey
    unique_id: int


@dataclass(frozen=True, slots=True)
class ListIkeSas:
    """Ask charon for IKE_SAs: what is known may be incomplete."""

    unique_ids: tuple[int, ...] = ()
    """Those of a tunnel; all where none are named."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Write what is known of a tunnel to the store."""

    key: TunnelKey


@dataclass(frozen=True, slots=True)
class Forget:
    """The tunnel is gone: remove it from the store."""

    key: TunnelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelMoved:
    """A tunnel moved; also told to hooks and to the log."""

    key: TunnelKey
    old: Path
    new: Path
    trigger: Trigger
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityChanged:
    """The other end of a tunnel offered, confirmed or refused the capability; also told to hooks and to the log."""

    key: TunnelKey
    capability: Capability
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketRejected:
    """A packet, message or move was refused; also told to hooks and to the log, which damps repetition."""

    key: TunnelKey | None
    """None when no tunnel is known for it."""
    reason: Reason
    source: IPAddress | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """Nothing is done about the IKE_SAs of a connection, and why; for people."""

    name: str
    """The swanctl connection name."""
    inner: tuple[IPAddress, ...]
    """Virtual IPs of either end; mostly none."""
    reason: str


Announcement = TunnelMoved | CapabilityChanged | PacketRejected

Effect = (
    Watch
    | Unwatch
    | VerifyPacket
    | GiveVerdict
    | MoveStates
    | KeepAddress
    | DropAddress
    | HoldInner
    | ReleaseInner
    | InformCharon
    | RemindCharon
    | AlignStates
    | DeleteStates
    | LookForStates
    | SendMessage
    | SendDummy
    | StartTimer
    | StopTimer
    | Reestablish
    | RekeyChild
    | DeleteChild
    | ListIkeSas
    | Persist
    | Forget
    | LeftAlone
    | Announcement
)
