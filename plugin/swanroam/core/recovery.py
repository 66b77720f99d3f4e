"""Tunnels that nobody answered on: charon is asked to build them anew, again and again until they are there.

However long the network is away, the tunnel comes back with it. An operator ends that by unloading the connection, or
by switching it off here. `swanctl --terminate` cannot: charon tells nothing of an IKE_SA that ends before it was
established (ike_sa.c, delete_), and there may be none between two attempts.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from swanroam.core import watching
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import Effect, Reestablish, StartTimer, StopTimer
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.tunnel import TunnelKey

__all__ = ["DELAYS_S", "SOON_S", "Recovery"]

DELAYS_S: Final = (10.0, 20.0, 40.0, 60.0)
SOON_S: Final = 0.5
"""How soon it is asked from a new address, whose routes come a little later."""


class Recovery:
    """What charon was asked for, and how often it was asked again."""

    def __init__(self) -> None:
        self._wanted: dict[TunnelKey, tuple[Reestablish, int]] = {}

    def begin(self, effects: Iterable[Effect]) -> tuple[Effect, ...]:
        """Where charon is asked to build a tunnel anew by these effects, see to it that it is asked again."""
        timers: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Reestablish):
                self._wanted[effect.key] = (effect, 0)
                timers.append(StartTimer(timer=TimerId(effect.key, TimerKind.REESTABLISH), delay_s=DELAYS_S[0]))
        return tuple(timers)

    def again(self, timer: TimerId, tunnel: Tunnel | None, *, off: bool) -> tuple[Effect, ...]:
        """Ask again, unless the tunnel is answered on by now, or `off`. Its inner addresses may be others by then."""
        wanted, attempt = self._wanted.get(timer.key, (None, 0))
        if wanted is None or off or (tunnel is not None and tunnel.phase is not Phase.ABANDONED):
            self._wanted.pop(timer.key, None)
            return ()
        self._wanted[timer.key] = (wanted, attempt + 1)
        delay_s = DELAYS_S[min(attempt + 1, len(DELAYS_S) - 1)]
        asked = watching.reestablish(tunnel) if tunnel else replace(wanted, unique_ids=())
        return (asked, StartTimer(timer=timer, delay_s=delay_s))

    def hasten(self) -> tuple[Effect, ...]:
        """Ask soon: this machine has an address that it had not, and what failed without that may not fail any more."""
        self._wanted = {key: (wanted, 0) for key, (wanted, _) in self._wanted.items()}
        return tuple(StartTimer(timer=TimerId(key, TimerKind.REESTABLISH), delay_s=SOON_S) for key in self._wanted)

    def end(self, connection: str) -> tuple[Effect, ...]:
        """The connection has a tunnel again, whatever its inner addresses are, or is not to have one any more."""
        done = [key for key in self._wanted if key.name == connection]
        for key in done:
            del self._wanted[key]
        return tuple(StopTimer(TimerId(key, TimerKind.REESTABLISH)) for key in done)
