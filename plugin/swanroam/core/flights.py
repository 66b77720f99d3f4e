"""What is under way: packets that wait for their verdict, and the one move at a time that a tunnel may be in.

A second move would start from a path that the first is just leaving, so whatever wants one waits until the first is
done and is judged by what is true then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from swanroam.model.effects import Effect, GiveVerdict, MoveStates
from swanroam.model.events import PacketHeld, PacketVerified
from swanroam.model.path import Path
from swanroam.model.tunnel import TunnelKey

__all__ = ["Flight", "Flights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A move that the kernel has not answered yet."""

    new: Path
    packet_id: int | None
    """The held packet that made the tunnel move."""
    waiting: tuple[PacketVerified, ...] = ()
    """Held packets of the tunnel that were verified meanwhile."""


class Flights:
    """Held packets by their number in the queue, and moves under way by tunnel."""

    def __init__(self) -> None:
        self.held: dict[int, PacketHeld] = {}
        self._moving: dict[TunnelKey, Flight] = {}

    def __contains__(self, key: TunnelKey) -> bool:
        """Whether this tunnel is being moved."""
        return key in self._moving

    def note(self, effects: Iterable[Effect], packet_id: int | None = None) -> None:
        """Take note of what effects begin and end: moves (for the sake of `packet_id`) and verdicts."""
        for effect in effects:
            if isinstance(effect, MoveStates):
                self._moving[effect.key] = Flight(new=effect.new, packet_id=packet_id)
            elif isinstance(effect, GiveVerdict):
                self.held.pop(effect.packet_id, None)

    def wait(self, key: TunnelKey, packet: PacketVerified) -> None:
        """Judge a verified packet when the move of its tunnel, which is under way, is done."""
        flight = self._moving[key]
        self._moving[key] = replace(flight, waiting=(*flight.waiting, packet))

    def finish(self, key: TunnelKey, new: Path) -> Flight | None:
        """The move to this path was answered; None when no such move is known, as its tunnel ended meanwhile."""
        flight = self._moving.get(key)
        if flight is None or flight.new != new:
            return None
        return self._moving.pop(key)

    def abandon(self, key: TunnelKey) -> tuple[GiveVerdict, ...]:
        """Forget the move of a tunnel that is no more; the packets that waited for it are the kernel's to judge."""
        flight = self._moving.pop(key, None)
        if flight is None:
            return ()
        ids = [packet.packet_id for packet in flight.waiting]
        if flight.packet_id is not None:
            ids.insert(0, flight.packet_id)
        verdicts = tuple(GiveVerdict(packet_id=packet_id) for packet_id in ids)
        self.note(verdicts)
        return verdicts
