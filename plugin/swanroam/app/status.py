"""The answer of `swanroam status`, as JSON has it; others rely on these names."""

from typing import TypedDict

__all__ = ["CharonStatus", "ChildStatus", "EndpointStatus", "LeftAloneStatus", "MoveStatus", "Status", "TunnelStatus"]


class EndpointStatus(TypedDict):
    """One end of a path."""

    address: str
    port: int


class ChildStatus(TypedDict):
    """A CHILD_SA; SPIs have eight hexadecimal digits, as in `ip xfrm state`."""

    name: str
    spi_in: str
    spi_out: str
    reqid: int


MoveStatus = TypedDict(
    "MoveStatus",
    {"at": str, "from": str, "to": str, "trigger": str, "duration_ms": float, "validated": bool | None},
)
"""The last move: UTC time in ISO 8601, addresses of the end that moved, and whether the other end agreed, if known."""


class TunnelStatus(TypedDict):
    """A tunnel."""

    name: str
    inner: list[str]
    local: EndpointStatus
    remote: EndpointStatus
    encap: bool
    mobike: bool | None
    """None when it cannot be told."""
    ike_version: int
    nat: str
    """none, local, remote, both or unknown."""
    capability: str
    """negotiated, configured, none or pending."""
    children: list[ChildStatus]
    moves: int
    last_move: MoveStatus | None
    rejected: dict[str, int]
    """Number of refusals by reason."""


class CharonStatus(TypedDict):
    """charon, as far as the daemon knows."""

    version: str
    connected: bool


class LeftAloneStatus(TypedDict):
    """What swanroam does nothing about; a tunnel of this kind is among the tunnels, too."""

    name: str
    """The connection."""
    inner: list[str]
    """Virtual IPs; mostly none."""
    reason: str


class Status(TypedDict):
    """All of it."""

    role: str
    charon: CharonStatus
    tunnels: list[TunnelStatus]
    rejected: dict[str, int]
    """Number of refusals by reason that belong to no tunnel, those of the packet filter among them."""
    left_alone: list[LeftAloneStatus]
