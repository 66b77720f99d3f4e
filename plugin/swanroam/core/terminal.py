"""The terminal's decisions (patent FIG. 5): when to move, whom to tell, and when to give up.

When the present source is gone or a better one is there, all CHILD_SAs move at once; then the gateway is told. The
first data packet does that as well as any message, but an UPDATE goes out anyway where the capability was negotiated:
it is acknowledged, so it can be repeated, and its loss is noticed. Where there is nobody to acknowledge, a dummy does.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from swanroam.core.inner import message_addresses
from swanroam.core.paths import best, candidates
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance
from swanroam.model.effects import (
    Effect,
    InformCharon,
    MoveStates,
    PacketRejected,
    Persist,
    Reestablish,
    SendDummy,
    SendMessage,
    StartTimer,
    StopTimer,
    Trigger,
    TunnelMoved,
)
from swanroam.model.events import MoveFinished, MoveRefused, Reason, TimerId, TimerKind
from swanroam.model.messages import PathChallenge, PathResponse, Update, UpdateAck
from swanroam.model.path import Endpoint, IPAddress, Repository
from swanroam.model.tunnel import Capability, Nat

__all__ = [
    "DUMMY_DELAYS_S",
    "INFORM_S",
    "SETTLE_S",
    "UPDATE_DELAYS_S",
    "consider",
    "inform",
    "on_ack",
    "on_challenge",
    "on_move_finished",
    "on_move_refused",
    "on_update_timer",
    "reestablish",
]

UPDATE_DELAYS_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""After each of which an unacknowledged UPDATE is sent again; after the last one the tunnel is built anew."""
DUMMY_DELAYS_S: Final = (0.2, 0.8)
"""A dummy is not acknowledged: it is sent again these few times in case the first was lost."""
MOVE_RETRY_S: Final = 0.2
SETTLE_S: Final = 1.0
"""How long charon is given to follow a move before it is asked whether it did."""
INFORM_S: Final = 0.05
"""charon is told when the gateway has acknowledged, and after this if it has not: when it follows, nothing can be sent
for a moment (child_sa.c, update: a policy that drops), and the update had better be on its way by then. Not later: with
roam events it builds a tunnel anew 100 ms after its path went (ike_sa.c, roam)."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def consider(tunnel: Tunnel, repository: Repository, inner: Collection[IPAddress]) -> Step:
    """Move the tunnel if another source than the present one is best for it. `inner` are no outer addresses."""
    if not tunnel.capability.allows_moves or not tunnel.children:
        return tunnel, ()
    ways = candidates(repository, tunnel.path.remote.address, inner)
    way = best(ways, tunnel.path.local.address)
    if way is None or way.address == tunnel.path.local.address:
        return tunnel, ()
    new = replace(tunnel.path, local=Endpoint(way.address, tunnel.path.local.port))
    move = MoveStates(key=tunnel.key, children=tunnel.children, old=tunnel.path, new=new, trigger=Trigger.ADDRESS)
    return tunnel, (move,)


def on_move_finished(tunnel: Tunnel, event: MoveFinished, port: int) -> Step:
    """The kernel moved: tell the gateway, then everybody else, and charon when the gateway knows."""
    tunnel = tunnel.moved(event.at_s, event.new, Trigger.ADDRESS, event.duration_s)
    tunnel = replace(tunnel, update_sequence=tunnel.update_sequence + 1, untold=True)
    tunnel, told = _tell(advance(tunnel, Signal.MOVED), port)
    return tunnel, (
        *told,
        StartTimer(timer=TimerId(tunnel.key, TimerKind.INFORM), delay_s=INFORM_S),
        TunnelMoved(key=tunnel.key, old=event.old, new=event.new, trigger=Trigger.ADDRESS, duration_s=event.duration_s),
        StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=SETTLE_S),
        Persist(tunnel.key),
    )


def on_move_refused(tunnel: Tunnel, event: MoveRefused) -> Step:
    """A veto stands until the addresses change; what the kernel refused is tried again, the states may have changed."""
    tunnel = tunnel.count(event.reason)
    told = PacketRejected(key=tunnel.key, reason=event.reason, source=event.new.local.address, detail=event.detail)
    if event.reason is Reason.VETOED:
        return tunnel, (told,)
    return tunnel, (told, StartTimer(timer=TimerId(tunnel.key, TimerKind.MOVE), delay_s=MOVE_RETRY_S))


def on_update_timer(tunnel: Tunnel, port: int) -> Step:
    """No acknowledgement yet: send again, or give up."""
    if tunnel.phase is not Phase.UPDATING:
        return tunnel, ()
    acknowledged = tunnel.capability is Capability.NEGOTIATED
    delays = UPDATE_DELAYS_S if acknowledged else DUMMY_DELAYS_S
    if tunnel.attempt + 1 < len(delays):
        return _tell(replace(tunnel, attempt=tunnel.attempt + 1), port)
    if not acknowledged:
        return advance(tunnel, Signal.ASSUMED), ()
    return advance(tunnel.validated(value=False), Signal.GAVE_UP), (reestablish(tunnel), Persist(tunnel.key))


def reestablish(tunnel: Tunnel) -> Reestablish:
    """Have charon build the tunnel anew."""
    return Reestablish(
        key=tunnel.key,
        connection=tunnel.key.name,
        unique_ids=tuple(sa.unique_id for sa in tunnel.sas),
        child=tunnel.children[0].name if tunnel.children else "",
    )


def on_ack(tunnel: Tunnel, ack: UpdateAck) -> Step:
    """The gateway has the new address; acknowledgements of earlier moves say nothing about the last one."""
    if ack.sequence != tunnel.update_sequence or tunnel.phase not in (Phase.UPDATING, Phase.ABANDONED):
        return tunnel, ()
    tunnel = advance(tunnel.validated(value=True), Signal.ACKNOWLEDGED)
    translated = ack.observed.address != tunnel.path.local.address
    tunnel = replace(tunnel, attempt=0, nat=Nat.LOCAL if translated else Nat.NONE)
    tunnel, informed = inform(tunnel)
    return tunnel, (StopTimer(TimerId(tunnel.key, TimerKind.UPDATE)), *informed, Persist(tunnel.key))


def inform(tunnel: Tunnel) -> Step:
    """Have charon follow the last move, if it was not told yet."""
    if not tunnel.untold:
        return tunnel, ()
    # What charon believes of the addresses is as old as the last listing; the kernel minds no older one.
    told = InformCharon(key=tunnel.key, children=tunnel.children, old=tunnel.sas[0].path, new=tunnel.path)
    return replace(tunnel, untold=False), (StopTimer(TimerId(tunnel.key, TimerKind.INFORM)), told)


def on_challenge(tunnel: Tunnel, challenge: PathChallenge, own: IPAddress, peer: IPAddress) -> Step:
    """Prove that this terminal is where the gateway now sends to."""
    answer = PathResponse(nonce=challenge.nonce)
    return tunnel, (SendMessage(key=tunnel.key, source=own, destination=peer, message=answer),)


def _tell(tunnel: Tunnel, port: int) -> Step:
    """Send the update message of the current attempt, and start the timer for the next."""
    negotiated = tunnel.capability is Capability.NEGOTIATED
    delays = UPDATE_DELAYS_S if negotiated else DUMMY_DELAYS_S
    timer = StartTimer(timer=TimerId(tunnel.key, TimerKind.UPDATE), delay_s=delays[tunnel.attempt])
    addresses = message_addresses(tunnel, port)
    if addresses is None:
        return tunnel, (timer,)  # no selector lets a message through: data will have to be the update
    source, destination = addresses
    send: SendMessage | SendDummy = SendDummy(key=tunnel.key, source=source, destination=destination)
    if negotiated:
        update = Update(sequence=tunnel.update_sequence, claimed=tunnel.path.local)
        send = SendMessage(key=tunnel.key, source=source, destination=destination, message=update)
    return tunnel, (send, timer)
