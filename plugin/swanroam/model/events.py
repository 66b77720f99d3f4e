"""Events: what happened, as frozen facts in the past tense. Sources stamp `at_s` with monotonic seconds."""

from dataclasses import dataclass
from enum import StrEnum

from swanroam.model.messages import Message
from swanroam.model.path import Endpoint, IPAddress, Origin, Path, Repository
from swanroam.model.tunnel import IkeSa, TunnelKey

__all__ = [
    "CharonLost",
    "ConnectionUnknown",
    "Event",
    "IkeSaEnded",
    "IkeSasListed",
    "MessageMalformed",
    "MessageReceived",
    "MoveFinished",
    "MoveRefused",
    "PacketHeld",
    "PacketVerified",
    "PolicyInstalled",
    "Reason",
    "RepositoryChanged",
    "StateMissed",
    "StatesLookedFor",
    "TimerExpired",
    "TimerId",
    "TimerKind",
]


class Reason(StrEnum):
    """Why something was not done; each is counted for its tunnel, and shown by `swanroam status`."""

    UNKNOWN_SPI = "unknown-spi"
    MALFORMED = "malformed"
    UNSUPPORTED_ALGORITHM = "unsupported-algorithm"
    BAD_ICV = "bad-icv"
    REPLAYED = "replayed"
    OLD_SEQUENCE = "old-sequence"
    INNER_SOURCE = "inner-source"
    NO_CAPABILITY = "no-capability"
    SOURCE_NOT_ALLOWED = "source-not-allowed"
    VETOED = "vetoed"
    KERNEL_REFUSED = "kernel-refused"
    NOT_VALIDATED = "not-validated"
    FLAPPING = "flapping"
    RATE_LIMITED = "rate-limited"
    WRONG_TUNNEL = "wrong-tunnel"
    BAD_MESSAGE = "bad-message"


class TimerKind(StrEnum):
    """What a timer of a tunnel is for."""

    HELLO = "hello"
    UPDATE = "update"
    VALIDATION = "validation"
    MOVE = "move"
    """To try a move again that the kernel refused."""
    SETTLE = "settle"
    """To see whether charon followed a move."""
    INFORM = "inform"
    """To tell charon of a move that the gateway has not acknowledged."""
    FOLLOW = "follow"
    """To see whether charon has followed, while packets wait for that."""
    KEEPALIVE = "keepalive"
    """To keep a NAT from forgetting a tunnel that charon does not know to be behind one."""
    LINGERING = "lingering"
    """To see whether a CHILD_SA that was replaced is gone: charon tells nothing of that."""
    SILENCE = "silence"
    """To see whether a gateway that acknowledges nothing is heard of after a move."""
    LOOKOUT = "lookout"
    """To see whether a gateway of several addresses has fallen silent."""
    LEAVING = "leaving"
    """To stop letting packets from the previous source through."""
    ANNOUNCE = "announce"
    """To tell a terminal again of the gateway's addresses."""
    REESTABLISH = "reestablish"
    """To ask charon again for a tunnel that nobody answered on."""
    MISSING = "missing"
    """To look for outbound states that a packet did not find."""
    NEWCOMERS = "newcomers"
    """To see what IKE_SAs of a connection have become of which nothing could be said."""
    PARTING = "parting"
    """To stop carrying IKE messages of a tunnel that has ended, or keeping its address for them."""


@dataclass(frozen=True, slots=True)
class TimerId:
    """A timer: at most one of each kind runs for a tunnel; starting it again replaces it."""

    key: TunnelKey
    kind: TimerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSasListed:
    """charon listed IKE_SAs: all of them when `complete`, those that the core `asked` for, or one that has changed.

    `at_s` is after both were read: a path that was read before a move began must not be stamped later than its end.
    """

    at_s: float
    sas: tuple[IkeSa, ...]
    complete: bool
    asked: tuple[int, ...] = ()
    """Unique ids: what is not among `sas` of these, or of all when `complete`, is no more."""
    kernel_paths: tuple[tuple[int, Path], ...] = ()
    """(inbound SPI, path) of the kernel states behind the CHILD_SAs; where charon differs the kernel is right."""
    policy_places: tuple[tuple[int, tuple[IPAddress, IPAddress]], ...] = ()
    """(reqid, outer addresses: of this end, of the other) of the kernel's policies, each once."""

    @property
    def wanted(self) -> bool:
        """Whether the core asked for it; an event of charon's tells of what charon may be in the middle of."""
        return self.complete or bool(self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSaEnded:
    """charon said that an IKE_SA is down."""

    at_s: float
    unique_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CharonLost:
    """The vici connection ended: nothing is known of charon until it has listed its IKE_SAs again."""

    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionUnknown:
    """charon has no connection of this name to build a tunnel of: it was unloaded."""

    at_s: float
    connection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryChanged:
    """Addresses, links or routes of this machine changed; `repository` is all that there is now."""

    at_s: float
    repository: Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketHeld:
    """The packet filter held an ESP packet of a roaming SPI that came from an unknown source."""

    at_s: float
    packet_id: int
    """The kernel's number in the queue; a verdict must be given for each."""
    source: IPAddress
    destination: IPAddress
    spi: int
    port: int | None = None
    """UDP source port of an encapsulated packet (RFC 3948)."""

    @property
    def origin(self) -> Origin:
        """Where the packet came from."""
        return self.source if self.port is None else Endpoint(self.source, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketVerified:
    """A held packet was verified against the kernel's state."""

    at_s: float
    packet_id: int
    reason: Reason | None
    """None when the integrity value was right and the sequence number not in the replay window."""
    sequence: int = 0
    """Sequence number, 64 bits with ESN."""
    kernel_highest: int = 0
    """The highest sequence number that the kernel's state has received, before this packet."""
    inner_source: IPAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFinished:
    """The kernel moved all states and policies of a tunnel."""

    at_s: float
    key: TunnelKey
    old: Path
    new: Path
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRefused:
    """A move was not made: vetoed by a hook, or refused by the kernel."""

    at_s: float
    key: TunnelKey
    old: Path
    new: Path
    reason: Reason
    detail: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A message came out of the tunnel, from an IPsec state that the packet filter bound to the inner address."""

    at_s: float
    inner: IPAddress
    """The inner address of the terminal: the source on the gateway, the destination on the terminal."""
    peer: IPAddress
    """The other address of the packet, to answer to."""
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageMalformed:
    """A message came as MessageReceived and cannot be read: it is from no version of swanroam."""

    at_s: float
    inner: IPAddress
    peer: IPAddress
    problem: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInstalled:
    """Somebody else, which is charon, installed a policy of a CHILD_SA, or changed it.

    When it follows a move that is what it does right after it has installed states anew (child_sa.c, update).
    """

    at_s: float
    reqid: int
    place: tuple[IPAddress, IPAddress]
    """Outer addresses: of this end, of the other."""
    outbound: bool
    """Whether it is for what goes out, which is the last of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMissed:
    """A packet was to be sent on a state that is not there."""

    at_s: float
    spi: int
    """Outbound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesLookedFor:
    """The outbound states of a tunnel were looked for."""

    at_s: float
    key: TunnelKey
    lost: tuple[int, ...]
    """SPIs of those that are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerExpired:
    """A timer that the core had started ran out."""

    at_s: float
    timer: TimerId


Event = (
    IkeSasListed
    | IkeSaEnded
    | CharonLost
    | ConnectionUnknown
    | RepositoryChanged
    | PacketHeld
    | PacketVerified
    | MoveFinished
    | MoveRefused
    | MessageReceived
    | MessageMalformed
    | PolicyInstalled
    | StateMissed
    | StatesLookedFor
    | TimerExpired
)
