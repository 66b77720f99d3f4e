"""Terminals whose daemon is gone without a word, while their gateway still holds them to the agreement.

Where a daemon was killed, or taken away, nobody answers challenges: each packet from a new source moves the tunnel, and
it returns to where nobody is. strongSwan alone would follow (a NAT's other port), or build the tunnel anew. So where
two validations in a row fail, and nothing was heard of that daemon meanwhile, the agreement is over until it is asked
for anew, and the tunnel is strongSwan's.

That is not to be had by sending packets on from elsewhere. When the tunnel returns after the first failure, the
terminal is asked (HELLO) where it was proven to be, too: a daemon that is there answers at the one place or the other,
and anything that it says counts, wherever it comes from. Who keeps just that from the gateway, of all that the terminal
sends, leaves it what strongSwan alone does, until the daemon is heard.

A tunnel whose IKE is carried is the terminal's as long as it is there: without the agreement it could only end.

An IKE_SA that was set up anew from elsewhere proves by itself where the terminal is, and that its daemon did not move
the tunnel there: that is asked then, too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from swanroam.core import capability
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance
from swanroam.core.watching import watch
from swanroam.model.effects import Effect, StartTimer, StopTimer
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.path import Path
from swanroam.model.tunnel import Capability

__all__ = ["ASK_S", "FAILURES", "ask", "failed", "heard", "reauthenticated"]

FAILURES: Final = 2
"""Validations in a row that fail before a daemon that says nothing is taken to be gone."""
ASK_S: Final = 1.0
"""When it is asked for the agreement anew, unless the tunnel returns first."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def heard(tunnel: Tunnel) -> Tunnel:
    """The terminal's daemon said something."""
    return replace(tunnel, unheard=0) if tunnel.unheard else tunnel


def failed(tunnel: Tunnel) -> Step:
    """Nobody answered the challenges on one more path."""
    tunnel = replace(tunnel, unheard=tunnel.unheard + 1)
    if tunnel.unheard < FAILURES or not _held_to_it(tunnel):
        return tunnel, ()
    tunnel, asked = capability.ask_anew(tunnel, "the terminal's daemon is not heard")
    return tunnel, (*asked, watch(tunnel), StartTimer(timer=TimerId(tunnel.key, TimerKind.HELLO), delay_s=ASK_S))


def ask(tunnel: Tunnel, nonce: bytes, port: int) -> Step:
    """After a return: ask the terminal where it was proven to be, if it was not heard since the last failure."""
    return capability.send_hello(replace(tunnel, hello_attempt=0), nonce, port) if tunnel.unheard else (tunnel, ())


def reauthenticated(known: Tunnel, tunnel: Tunnel, at: Mapping[int, Path]) -> Step:
    """The tunnel, where its newest IKE_SA ends, if that was set up anew from elsewhere: there is nothing to be proven.

    It has CHILD_SAs now, all of its own; a rekeyed one has those of its predecessor. `at`: where the kernel has the
    inbound SPIs.
    """
    newest = tunnel.sas[0]
    before = [sa for sa in known.sas if sa.initiator_spi == newest.initiator_spi]
    own = {child.spi_in for child in newest.children} - {0}
    there = next((at[spi] for spi in own if spi in at), newest.path)
    anew = bool(own) and not own & set(known.spis) and not any(sa.children for sa in before)
    proven = there == known.path and tunnel.phase is not Phase.VALIDATING
    if not anew or proven or tunnel.mobike or not _held_to_it(tunnel):
        return tunnel, ()
    settled: tuple[Effect, ...] = ()
    if tunnel.phase is Phase.VALIDATING:
        tunnel = replace(advance(tunnel, Signal.RETURNED), nonce=b"")
        settled = (StopTimer(TimerId(tunnel.key, TimerKind.VALIDATION)),)
    tunnel, asked = capability.ask_anew(replace(tunnel, path=there, untold=False), "reauthentication")
    return tunnel, (*settled, *asked)


def _held_to_it(tunnel: Tunnel) -> bool:
    return tunnel.guarded and tunnel.capability is Capability.NEGOTIATED and not tunnel.carries_ike
