"""Tunnels that charon moves, too, with MOBIKE (RFC 4555).

Who moves what, and when, so that no two movers fight:

    capability     data: the kernel's states and policies         charon, and IKE
    both ends      at once: the terminal's swanroam when its      charon, by its own exchange, 100 ms and some round
                   address goes, the gateway's at the first       trips later; swanroam tells it nothing (no
                   packet, as without MOBIKE                      XFRMA_KMADDRESS)
    both ends,     as above                                       after GRACE_S swanroam tells it, if the other end
    charon silent                                                 has proved the path; where that is in UDP the
                                                                  terminal has it build the tunnel anew
    one or none    charon                                         charon; swanroam tells people of the move

charon has the last word. It moves a tunnel only when its address is gone, so swanroam does not move one for a better
path either, and chooses by routes alone, as charon does, whatever is preferred. Where charon went elsewhere, or found a
NAT, or none, the states are made to agree with it. A path that it has taken is validated, and an UPDATE that nobody
acknowledges is no reason to build the tunnel anew: charon tries longer, and decides.

When charon follows it reads each state at the old address, deletes it and adds it at the new one
(kernel_netlink_ipsec.c, update_sa). The state whose destination changed is not there any more; charon says so in its
log ("unable to update SAD entry") and goes on, with its policies too (child_sa.c, update). The other one it finds.

charon does not say whether MOBIKE is in use. An initiator that offers it leaves port 500 (IkeSa.mobike); where the
other end refuses it, charon never follows, which is the row of a silent charon.
"""

from dataclasses import replace
from typing import Final

from swanroam.core import encapsulation, watching
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance
from swanroam.model.effects import AlignStates, Effect, HoldInner, Persist, StartTimer, StopTimer, Trigger, TunnelMoved
from swanroam.model.events import MoveFinished, TimerId, TimerKind
from swanroam.model.path import Path
from swanroam.model.tunnel import IkeSa, Role, TunnelKey

__all__ = ["APART_S", "GRACE_S", "LOOK_S", "UNAWARE_S", "brought", "charons", "hold", "listed", "look", "overdue"]

GRACE_S: Final = 2.5
"""How long charon is given to follow by itself. It looks for paths 100 ms after its address went, and again 2.5 s after
that (task_manager.h, ROUTEABILITY_CHECK_INTERVAL). Policies that wait for charon are covered for 3 s."""
LOOK_S: Final = 0.1
"""How soon charon is asked again that was in the middle of it."""
UNAWARE_S: Final = 30.0
"""How long a terminal's charon is given to find a NAT that it cannot be told of; it repeats a message after 4, 7 and
13 s. Until its next message, which would go to where it was, data goes on."""
APART_S: Final = 1.0
"""How long states may be elsewhere than charon has them, where swanroam did not bring them there."""
TOLD_S: Final = 0.5
"""How soon it is asked that was told: it raises no event for that."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def charons(sa: IkeSa) -> Path:
    """Where charon has the states of an IKE_SA; without UDP encapsulation the ports of IKE say nothing about them."""
    if any(child.encap for child in sa.children):
        return Path(sa.local, sa.remote, encap=True)
    return encapsulation.plain(sa.local.address, sa.remote.address)


def hold(tunnel: Tunnel) -> tuple[Effect, ...]:
    """A terminal's charon will soon take the inner addresses to another interface."""
    return (HoldInner(tunnel.key.inner),) if tunnel.mobike else ()


def listed(tunnel: Tunnel, before: Path, at_s: float) -> Step:
    """Compare where charon has the tunnel with where it had it; `before` is where swanroam had it until now."""
    if not tunnel.mobike or tunnel.shares:
        return tunnel, ()
    if any(child.state == "UPDATING" for child in tunnel.children):
        # Encapsulation is not told in this state, nor is it clear which of the states were updated.
        return tunnel, (StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=LOOK_S),)
    there, known = charons(tunnel.sas[0]), tunnel.charon
    tunnel = replace(tunnel, charon=there)
    here = there.addresses == before.addresses
    on_its_way = not here and any(there.addresses == each.addresses for each in tunnel.passed)
    if on_its_way:
        # Of each pair of states it found one only (update_sa), and that is where it tells the kernel's path by.
        tunnel = replace(tunnel, path=before)
    if known is None or there == known or on_its_way:
        return _join(replace(tunnel, passed=()) if here else tunnel, there, at_s)
    return _follow(tunnel, before, there, at_s)


def look(key: TunnelKey) -> StartTimer:
    """A daemon that begins finds kernel and charon apart: whoever is on the way is there after this."""
    return StartTimer(timer=TimerId(key, TimerKind.SETTLE), delay_s=APART_S)


def brought(tunnel: Tunnel, event: MoveFinished) -> Step:
    """The states are where charon has them; nobody is to be told."""
    tunnel = replace(tunnel, path=event.new, passed=(), apart_since_s=None)
    return tunnel, (watching.watch(tunnel), Persist(tunnel.key))


def overdue(tunnel: Tunnel, at_s: float) -> tuple[Effect, ...]:
    """What is to be done about a charon that has not followed: wait, tell it, or nothing where the path is unproven.

    It is not told of a path in UDP: it would lose the ports. Built anew, the tunnel is one that it knows of.
    """
    last = tunnel.last_move
    if last is None or not last.validated or (tunnel.path.encap and tunnel.role is Role.GATEWAY):
        return ()
    left_s = last.at_s + (UNAWARE_S if tunnel.path.encap else GRACE_S) - at_s
    if left_s > 0:
        return (StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=left_s),)
    if tunnel.path.encap:
        return (watching.reestablish(tunnel),)
    again = StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=TOLD_S)
    return (*watching.told(tunnel, tunnel.sas[0].path), again)


def _join(tunnel: Tunnel, there: Path, at_s: float) -> Step:
    """Without the capability the states are brought to where charon has them: an earlier daemon left them elsewhere.

    Not at once: charon may be moving just now, and was asked before the kernel.
    """
    if tunnel.capability.allows_moves or tunnel.path.addresses == there.addresses:
        return replace(tunnel, apart_since_s=None), ()
    if tunnel.apart_since_s is None:
        return replace(tunnel, apart_since_s=at_s), (look(tunnel.key),)
    if at_s - tunnel.apart_since_s < APART_S:
        return tunnel, ()
    return replace(tunnel, apart_since_s=at_s), (look(tunnel.key), watching.move(tunnel, there, Trigger.MOBIKE))


def _follow(tunnel: Tunnel, before: Path, there: Path, at_s: float) -> Step:
    effects: list[Effect] = []
    if tunnel.capability.allows_moves or tunnel.path != there:
        effects.append(AlignStates(key=tunnel.key, children=tunnel.children, old=before, path=there))
    if before.addresses != there.addresses:
        tunnel = replace(tunnel, path=before).moved(at_s, there, Trigger.MOBIKE, 0.0)
        told = TunnelMoved(key=tunnel.key, old=before, new=there, trigger=Trigger.MOBIKE, duration_s=0.0)
        effects.append(told)
    tunnel = replace(tunnel, path=there, nat=tunnel.sas[0].nat, passed=(), apart_since_s=None).validated(value=True)
    if tunnel.role is Role.GATEWAY:
        tunnel = replace(tunnel, validated_path=there)
    if tunnel.phase is Phase.VALIDATING:
        tunnel = replace(advance(tunnel, Signal.VALIDATED), nonce=b"", attempt=0)
        effects.append(StopTimer(TimerId(tunnel.key, TimerKind.VALIDATION)))
    return tunnel, tuple(effects)
