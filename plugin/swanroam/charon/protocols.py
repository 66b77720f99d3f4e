"""What the rest of swanroam relies on from charon: the events it is told and the commands it can give."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from swanroam.model.tunnel import IkeSa

__all__ = ["CharonEvent", "Commands", "EventKind", "Events"]


class EventKind(StrEnum):
    """What charon told, or what became of the connection on which it tells; the values are vici's names."""

    CONNECTED = "connected"
    """All events are registered: what was missed before is found by list_sas now."""
    LOST = "lost"
    """The connection ended; CONNECTED follows when charon is back."""
    IKE_UPDOWN = "ike-updown"
    IKE_REKEY = "ike-rekey"
    IKE_UPDATE = "ike-update"
    CHILD_UPDOWN = "child-updown"
    CHILD_REKEY = "child-rekey"


@dataclass(frozen=True, slots=True, kw_only=True)
class CharonEvent:
    """One event of charon. `sa` is the IKE_SA after it, `former` the IKE_SA before it where charon tells both.

    ike-updown: `sa` without CHILD_SAs. ike-rekey: `former` and `sa` have different ids. ike-update: `former` has the
    old endpoints. child-updown: `sa` has the one CHILD_SA meant. child-rekey: `former` has the old one, `sa` the new.
    """

    kind: EventKind
    at_s: float
    """Monotonic seconds at which the event was read."""
    up: bool = False
    """For the updown events: came up; false: went down."""
    sa: IkeSa | None = None
    """None for CONNECTED and LOST, and for an event that cannot be read: then list all IKE_SAs."""
    former: IkeSa | None = None


class Events(Protocol):
    """A source of CharonEvent; hands them to a callback on the event loop."""

    def start(self) -> None:
        """Begin; reports CONNECTED once charon is there."""

    def stop(self) -> None:
        """End within a second; no event is handed over afterwards."""


class Commands(Protocol):
    """Commands to charon. Each raises CharonGone (absent, stalled, busy) or CharonRefused (charon said no)."""

    def start(self) -> None:
        """Begin to take commands."""

    def stop(self) -> None:
        """End within a second; commands under way raise CharonGone."""

    async def version(self) -> str:
        """The version of strongSwan, as "5.9.8"."""

    async def list_sas(self, ike_id: int | None = None) -> tuple[IkeSa, ...]:
        """All IKE_SAs, or the one with this unique id (empty when there is none)."""

    async def rekey_ike(self, ike_id: int, *, reauth: bool = False) -> None:
        """Have an IKE_SA rekeyed, or built anew with authentication; returns once charon has queued it."""

    async def initiate(self, child: str, ike: str) -> None:
        """Have a CHILD_SA initiated by its configuration name; returns at once, the result comes as events."""

    async def terminate(self, ike_id: int, *, force: bool = False) -> None:
        """Have an IKE_SA deleted; with `force` without waiting for the peer's answer. Returns at once."""
