"""A gateway of several addresses that falls silent while the terminal stands still.

Nothing tells of that but that packets go out and none comes in, as charon's counters say. Then the gateway is asked, by
an UPDATE; where nobody acknowledges it the tunnel goes on to its other addresses, as after a move (core/seeking.py).
When all are silent the network is, and the tunnel goes on where it was: nothing is negotiated for that.

It is looked at only where there are other addresses to go to, and costs a listing each time.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from swanroam.core import seeking, silence, terminal, watching
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance
from swanroam.model.effects import Effect, StartTimer
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Role

__all__ = ["LOOK_S", "PAUSE_S", "begin", "look"]

LOOK_S: Final = 5.0
PAUSE_S: Final = 30.0
"""Between two questions: after one, nothing is looked at for so long."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def begin(tunnel: Tunnel, known: Collection[IPAddress]) -> tuple[Effect, ...]:
    """Look out for the gateway, if it has other addresses than the present one; `known` are those configured."""
    return (_timer(tunnel, LOOK_S),) if _elsewhere(tunnel, known) else ()


def look(tunnel: Tunnel, known: Collection[IPAddress], port: int) -> Step:
    """Ask the gateway where charon's last two listings say that it is silent; have charon list again."""
    if not _elsewhere(tunnel, known):
        return replace(tunnel, heard=None), ()
    before, now = tunnel.heard, silence.counted(tunnel)
    tunnel = replace(tunnel, heard=now)
    if before is None or tunnel.phase is not Phase.STEADY or not silence.unanswered(before, now):
        return tunnel, (watching.list_again(tunnel), _timer(tunnel, LOOK_S))
    asking = replace(tunnel, heard=None, asking=True, attempt=0, update_sequence=tunnel.update_sequence + 1)
    asking, told = terminal.tell(advance(asking, Signal.MOVED), port)
    return asking, (*told, _timer(tunnel, PAUSE_S))


def _elsewhere(tunnel: Tunnel, known: Collection[IPAddress]) -> bool:
    others = {*known, *tunnel.gateways} - {tunnel.path.remote.address}
    return tunnel.role is Role.TERMINAL and seeking.may_follow(tunnel) and bool(others)


def _timer(tunnel: Tunnel, delay_s: float) -> StartTimer:
    return StartTimer(timer=TimerId(tunnel.key, TimerKind.LOOKOUT), delay_s=delay_s)
