"""Messages that the two swanroam daemons exchange through the tunnel, UDP between inner addresses, protected by ESP."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from swanroam.model.path import Endpoint, IPAddress

__all__ = [
    "ADDRESSES_MOST",
    "Feature",
    "GatewayMoved",
    "GatewayMovedAck",
    "Goodbye",
    "Hello",
    "HelloAck",
    "Message",
    "NatD",
    "PathChallenge",
    "PathResponse",
    "Refusal",
    "Refuse",
    "Update",
    "UpdateAck",
]


ADDRESSES_MOST: Final = 8
"""Addresses of a gateway that are told."""


class Feature(IntFlag):
    """What an end can do, exchanged in HELLO and HELLO-ACK; bits that are not named here are unknown."""

    UPDATE = 1
    """Sends UPDATE after a move (terminal), or acknowledges it (gateway)."""
    PATH_CHALLENGE = 2
    """Sends or answers path challenges."""


class Refusal(IntEnum):
    """Why a HELLO was refused."""

    VERSION = 1
    FEATURE = 2
    POLICY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The offer of the capability (patent page 7)."""

    nonce: bytes
    """16 bytes, echoed by the answer, so that an old answer is not taken for a new one."""
    features: Feature
    critical: int = 0
    """Feature bits without which the sender will not go on; may hold bits unknown to this side."""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAck:
    """The acceptance of the capability; `features` are those of the sender."""

    nonce: bytes
    features: Feature
    addresses: tuple[IPAddress, ...] = ()
    """Of a gateway: outer addresses that the terminal may move the tunnel to, the preferred one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The refusal of the capability, with the reason."""

    nonce: bytes
    reason: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class NatD:
    """NAT discovery: hashes of the endpoints as the sender knows them (RFC 3947 section 3.2), 20 bytes each."""

    source: bytes
    """Of the sender itself."""
    destination: bytes
    """Of the receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The terminal's new outer address (patent 303). The gateway believes the outer header, never `claimed`."""

    sequence: int
    """64 bits, grows with each move of the tunnel; retransmissions repeat it."""
    claimed: Endpoint
    natd: NatD | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateAck:
    """The gateway's acknowledgement of an UPDATE."""

    sequence: int
    observed: Endpoint
    """The terminal's outer address as the gateway has it now."""
    natd: NatD | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChallenge:
    """Sent to the terminal on its new path; the answer proves that it is there (as RFC 9000 section 8.2)."""

    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PathResponse:
    """The answer to a path challenge, with its nonce."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The gateway's daemon ends, and can no longer do for this tunnel what its charon does not know of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayMoved:
    """The gateway has other addresses now; a terminal whose tunnel goes to none of them moves it to one."""

    sequence: int
    """64 bits, grows with each change; retransmissions repeat it."""
    addresses: tuple[IPAddress, ...]
    """All of them, the preferred one first; at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayMovedAck:
    """The terminal's tunnel goes to one of the addresses of a GATEWAY-MOVED."""

    sequence: int


Message = (
    GatewayMoved
    | GatewayMovedAck
    | Goodbye
    | Hello
    | HelloAck
    | Refuse
    | Update
    | UpdateAck
    | PathChallenge
    | PathResponse
)
