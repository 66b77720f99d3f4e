"""Outbound states that are gone while charon believes in them: charon is asked for others.

charon, which follows a move, takes a state out and installs it anew (kernel_netlink_ipsec.c, update_sa). A packet that
comes in between has the kernel put a larval state there, as the policy names the SPI (xfrm_state.c, xfrm_state_find).
Then charon cannot add what it took out; or, when it follows the next move, it takes the larval one for its own and
deletes the other. Nothing is sent any more, and nobody would notice: so for a moment after each such packet, which the
kernel reports (XFRM_MSG_ACQUIRE), the states are looked after. Larval ones are removed, and for a CHILD_SA whose state
stays away charon negotiates another one, which takes a round trip.
"""

from dataclasses import dataclass
from typing import Final

from swanroam.core import watching
from swanroam.core.tunnel import LINGERING, Tunnel
from swanroam.model.effects import Effect, LookForStates, RekeyChild, StartTimer, StopTimer
from swanroam.model.events import StatesLookedFor, TimerId, TimerKind
from swanroam.model.tunnel import ChildSa, Role, TunnelKey

__all__ = ["LOOK_S", "PATIENCE", "Missing"]

LOOK_S: Final = 0.05
PATIENCE: Final = 20
"""Looks in a row that do not find a state, before charon is asked for another one. It takes milliseconds to follow, and
some tenths of a second where it has to be told again."""
REFUSED: Final = 60
"""Looks in a row after which charon will not help."""
QUIET: Final = 4
"""Looks in a row that find all states, after which nothing is looked for any more."""


@dataclass(slots=True)
class _Search:
    lost: int = 0
    found: int = 0


class Missing:
    """The tunnels whose outbound states are looked for."""

    def __init__(self) -> None:
        self._searches: dict[TunnelKey, _Search] = {}

    def mute(self, key: TunnelKey) -> bool:
        """Whether the last look found that a tunnel can send nothing, or not all."""
        search = self._searches.get(key)
        return search is not None and search.lost > 0

    def missed(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """A packet found no state."""
        if tunnel.key in self._searches or not (tunnel.capability.allows_moves or tunnel.alone):
            return ()
        self._searches[tunnel.key] = _Search()
        return self.look(tunnel)

    def look(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Look now, and again in a moment."""
        timer = TimerId(tunnel.key, TimerKind.MISSING)
        places = tuple(dict.fromkeys(path.remote.address for path in tunnel.places))
        return (
            LookForStates(key=tunnel.key, children=_sending(tunnel), places=places),
            StartTimer(timer=timer, delay_s=LOOK_S),
        )

    def looked(self, tunnel: Tunnel, event: StatesLookedFor) -> tuple[Effect, ...]:
        """What to do about states that are not there."""
        search = self._searches.get(tunnel.key)
        if search is None:
            return ()
        search.lost, search.found = (search.lost + 1, 0) if event.lost else (0, search.found + 1)
        if search.found == QUIET:
            return self.end(tunnel.key)
        if search.lost == REFUSED:
            ended = self.end(tunnel.key)
            return (*ended, watching.reestablish(tunnel)) if tunnel.role is Role.TERMINAL else ended
        if search.lost != PATIENCE:
            return ()
        lost = (child for child in _sending(tunnel) if child.spi_out in event.lost)
        return tuple(RekeyChild(key=tunnel.key, unique_id=child.unique_id) for child in lost)

    def end(self, key: TunnelKey) -> tuple[Effect, ...]:
        """Nothing is looked for any more."""
        if self._searches.pop(key, None) is None:
            return ()
        return (StopTimer(TimerId(key, TimerKind.MISSING)),)


def _sending(tunnel: Tunnel) -> tuple[ChildSa, ...]:
    """Those that have an outbound state: charon takes that of one away which another has taken over from."""
    return tuple(child for child in tunnel.children if child.state not in LINGERING)
