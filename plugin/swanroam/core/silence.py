"""Gateways that do not follow by themselves, where nobody acknowledges a move: only the terminal runs swanroam.

A strongSwan gateway goes where its kernel says that authentic packets come from (XFRM_MSG_MAPPING). Libreswan does not
hear that: it takes in what the terminal sends, and sends to where the tunnel was for ever. So much is seen here:
packets go out, and none comes in. Then charon is to build the tunnel anew.

What came late from before the move says nothing. Nor does silence while little is sent, so it is looked at again. Who
sends and never gets an answer, as some loggers do, has the tunnel built anew once after such a move.
"""

from dataclasses import replace
from typing import Final

from swanroam.core import watching
from swanroam.core.tunnel import Counted, Listening, Tunnel
from swanroam.model.effects import Effect, StartTimer
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.tunnel import Capability

__all__ = ["LISTEN_S", "LONGEST_S", "UNANSWERED", "begin", "counted", "look", "unanswered"]

LISTEN_S: Final = 1.0
"""How soon it is looked at, and looked at again; longer than most round trips."""
LONGEST_S: Final = 8.0
"""The same while little is sent."""
UNANSWERED: Final = 5
"""Packets sent from one look to the next that nothing came in for. swanroam's own are fewer: HELLOs that nobody
answers, and a dummy each 20 s."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def begin(tunnel: Tunnel) -> Step:
    """The tunnel was moved, and nobody will acknowledge that: listen for the gateway."""
    if tunnel.capability is Capability.NEGOTIATED:
        return replace(tunnel, listening=None), ()
    return replace(tunnel, listening=Listening()), (_timer(tunnel, LISTEN_S),)


def look(tunnel: Tunnel) -> Step | None:
    """What charon listed last says whether the gateway is heard, and has it list again; None where it is silent."""
    listening = tunnel.listening
    if listening is None or tunnel.capability is Capability.NEGOTIATED:
        return replace(tunnel, listening=None), ()
    now = counted(tunnel)
    if listening.before is not None:
        if _since(listening.before, now)[0] > 0:
            return replace(tunnel, listening=None), ()
        if unanswered(listening.before, now):
            return None
    # What charon listed before the first look is from before the move.
    listening = Listening(looks=listening.looks + 1, before=now if listening.looks else None)
    delay_s = min(LISTEN_S * 2 ** max(0, listening.looks - 3), LONGEST_S)
    return replace(tunnel, listening=listening), (watching.list_again(tunnel), _timer(tunnel, delay_s))


def counted(tunnel: Tunnel) -> Counted:
    """Packets received and sent, by inbound SPI, as charon listed them last."""
    return {child.spi_in: (child.packets_in, child.packets_out) for child in tunnel.children}


def unanswered(before: Counted, now: Counted) -> bool:
    """Whether many packets were sent between two looks, and none received."""
    received, sent = _since(before, now)
    return received == 0 and sent >= UNANSWERED


def _since(before: Counted, now: Counted) -> tuple[int, int]:
    received, sent = (sum(now[spi][way] - before.get(spi, (0, 0))[way] for spi in now) for way in (0, 1))
    return received, sent


def _timer(tunnel: Tunnel, delay_s: float) -> StartTimer:
    return StartTimer(timer=TimerId(tunnel.key, TimerKind.SILENCE), delay_s=delay_s)
