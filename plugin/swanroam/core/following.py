"""Uplink packets wait while the gateway's charon follows a move.

charon removes the inbound state and adds it again with the replay window it had (kernel_netlink_ipsec.c, update_sa: its
destination did not change, so charon finds it). A packet that comes in between finds no state and is lost. So the
packet filter holds what comes on the tunnel's SPIs from before charon is told until it has followed, which is a matter
of milliseconds, and not for longer than DEADLINE_S.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from swanroam.core import gateway
from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import Effect, GiveVerdict, InformCharon, ListIkeSas, StartTimer, StopTimer, Watch
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.path import Path
from swanroam.model.tunnel import TunnelKey

__all__ = ["DEADLINE_S", "LOOK_S", "Following"]

LOOK_S: Final = 0.03
"""How often charon is asked whether it has followed."""
DEADLINE_S: Final = 0.6


class Following:
    """The tunnels whose charon is following, each with the packets that wait for that, in their order."""

    def __init__(self) -> None:
        self._packets: dict[TunnelKey, list[int]] = {}
        self._looks: dict[TunnelKey, int] = {}

    def __contains__(self, key: TunnelKey) -> bool:
        """Whether packets of this tunnel wait."""
        return key in self._packets

    def begin(self, tunnel: Tunnel, effects: Iterable[Effect]) -> tuple[Effect, ...]:
        """These effects; where they tell charon of a move of a guarded tunnel, with its packets held from then on."""
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, InformCharon) and tunnel.guarded:
                self._packets.setdefault(tunnel.key, [])
                self._looks[tunnel.key] = round(DEADLINE_S / LOOK_S)
                timer = StartTimer(timer=TimerId(tunnel.key, TimerKind.FOLLOW), delay_s=LOOK_S)
                done += [self.held(gateway.watch(tunnel)), effect, timer]
            else:
                done.append(effect)
        return tuple(done)

    def __len__(self) -> int:
        return len(self._packets)

    def held(self, effect: Effect) -> Effect:
        """The effect; where it would let packets of a tunnel pass that are to wait, with these held."""
        if isinstance(effect, Watch) and effect.key in self and effect.sources:
            return replace(effect, sources=(), leaving=(), waiting=effect.sources, unproven=())
        return effect

    def park(self, key: TunnelKey, packet_id: int) -> None:
        """Have a packet wait."""
        self._packets[key].append(packet_id)

    def look(self, timer: TimerId, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Ask charon where it is, or stop waiting for it."""
        if timer.key not in self._packets:
            return ()
        self._looks[timer.key] -= 1
        if self._looks[timer.key] <= 0:
            return self.end(tunnel)
        return (ListIkeSas(), StartTimer(timer=timer, delay_s=LOOK_S))

    def listed(self, tunnel: Tunnel, believed: Path) -> tuple[Effect, ...]:
        """Take note of where charon believes the tunnel to be."""
        here, there = tunnel.path, believed
        if tunnel.key not in self or (here.local.address, here.remote.address) != (
            there.local.address,
            there.remote.address,
        ):
            return ()
        return self.end(tunnel)

    def end(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Nothing waits any longer; new packets pass unseen again."""
        if tunnel.key not in self:
            return ()
        return (*self.abandon(tunnel.key), gateway.watch(tunnel))

    def abandon(self, key: TunnelKey) -> tuple[Effect, ...]:
        """Nothing waits any longer, for a tunnel that is no more."""
        packets = self._packets.pop(key, None)
        if packets is None:
            return ()
        del self._looks[key]
        verdicts = tuple(GiveVerdict(packet_id=packet_id) for packet_id in packets)
        return (*verdicts, StopTimer(TimerId(key, TimerKind.FOLLOW)))
