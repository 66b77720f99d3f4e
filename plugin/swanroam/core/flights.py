"""What is under way: packets that wait for their verdict, and the one move at a time that a tunnel may be in.

A second move would start from a path that the first is just leaving, so whatever wants one waits until the first is
done and is judged by what is true then. Moves of one tunnel are answered in the order in which they were asked for; the
answer for a tunnel that ended meanwhile is not taken for that of its successor.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from swanroam.model.effects import Effect, GiveVerdict, KeepAddress, MoveStates, Trigger
from swanroam.model.events import PacketHeld, PacketVerified
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import TunnelKey

__all__ = ["Flight", "Flights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A move that the kernel has not answered yet."""

    trigger: Trigger
    kept: IPAddress | None
    """The address that charon and the kernel go on with, where it is not they that move."""
    packet_id: int | None
    """The held packet that made the tunnel move."""
    waiting: tuple[PacketVerified, ...] = ()
    """Held packets of the tunnel that were verified meanwhile."""


class Flights:
    """Held packets by their number in the queue, and moves under way by tunnel."""

    def __init__(self) -> None:
        self.held: dict[int, PacketHeld] = {}
        self._moving: dict[TunnelKey, Flight] = {}
        self._abandoned: dict[TunnelKey, int] = {}

    def __contains__(self, key: TunnelKey) -> bool:
        """Whether this tunnel is being moved."""
        return key in self._moving

    def answers_due(self, key: TunnelKey) -> int:
        """How many moves of tunnels with this key were asked for and not answered."""
        return self._abandoned.get(key, 0) + (key in self._moving)

    def note(self, effects: Iterable[Effect], packet_id: int | None = None) -> None:
        """Take note of what effects begin and end: moves (for the sake of `packet_id`) and verdicts."""
        for effect in effects:
            if isinstance(effect, MoveStates | KeepAddress):
                kept = effect.kept if isinstance(effect, KeepAddress) else None
                self._moving[effect.key] = Flight(trigger=effect.trigger, kept=kept, packet_id=packet_id)
            elif isinstance(effect, GiveVerdict):
                self.held.pop(effect.packet_id, None)

    def wait(self, key: TunnelKey, packet: PacketVerified) -> None:
        """Judge a verified packet when the move of its tunnel, which is under way, is done."""
        flight = self._moving[key]
        self._moving[key] = replace(flight, waiting=(*flight.waiting, packet))

    def finish(self, key: TunnelKey) -> Flight | None:
        """A move was answered; None when its tunnel ended meanwhile."""
        abandoned = self._abandoned.pop(key, 0)
        if abandoned > 1:
            self._abandoned[key] = abandoned - 1
        return None if abandoned else self._moving.pop(key, None)

    def abandon(self, key: TunnelKey) -> tuple[GiveVerdict, ...]:
        """Forget the move of a tunnel that is no more; the packets that waited for it are the kernel's to judge."""
        flight = self._moving.pop(key, None)
        if flight is None:
            return ()
        self._abandoned[key] = self._abandoned.get(key, 0) + 1
        ids = [packet.packet_id for packet in flight.waiting]
        if flight.packet_id is not None:
            ids.insert(0, flight.packet_id)
        verdicts = tuple(GiveVerdict(packet_id=packet_id) for packet_id in ids)
        self.note(verdicts)
        return verdicts
