"""The gateway's decisions (patent FIG. 5, steps 304 and 305): whom to follow, and whether the terminal is there.

A held packet that passes the guard moves the tunnel to its source; then it goes on as any other, so it is not lost.
Then the terminal is challenged on the new path: somebody on the path could have sent its packet on from elsewhere.
Without an answer the tunnel returns to the last path that was validated, and that source is distrusted for a while.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from swanroam.core import encapsulation, natd, unheard
from swanroam.core.distrust import after_failure, without
from swanroam.core.flights import Flight
from swanroam.core.guard import judge, unwelcome
from swanroam.core.inner import message_addresses
from swanroam.core.listed import followed
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance
from swanroam.core.watching import inform, move, watch
from swanroam.model.effects import (
    Effect,
    GiveVerdict,
    PacketRejected,
    Persist,
    SendMessage,
    StartTimer,
    StopTimer,
    Trigger,
    TunnelMoved,
    VerifyPacket,
)
from swanroam.model.events import (
    MoveFinished,
    MoveRefused,
    PacketHeld,
    PacketVerified,
    Reason,
    TimerId,
    TimerKind,
)
from swanroam.model.messages import PathChallenge, PathResponse, Update, UpdateAck
from swanroam.model.path import NATT_PORT, Endpoint, IPAddress, IPNetwork, Path
from swanroam.model.tunnel import Capability, Nat

__all__ = [
    "CHALLENGE_DELAYS_S",
    "INFORM_S",
    "LEAVING_S",
    "SETTLE_S",
    "challenge_again",
    "inform_charon",
    "informing",
    "on_held",
    "on_leaving_timer",
    "on_move_finished",
    "on_move_refused",
    "on_response",
    "on_update",
    "on_validation_timer",
    "on_verified",
    "validate_path",
]

CHALLENGE_DELAYS_S: Final = (0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5)
"""After each of which an unanswered challenge is sent again; after the last one, 3 s in all, the tunnel returns. Seven
of them: where 30 % are lost in each direction, one move in a hundred finds no answer."""
LEAVING_S: Final = 0.5
"""How long packets from the previous source are let through unseen: late ones of the old path, which are many at the
moment of a move. Longer than that they are better held, as the terminal may come back to where it just was."""
SETTLE_S: Final = 1.0
MOVE_RETRY_S: Final = 0.2
INFORM_S: Final = 0.3
"""How long after the path was validated charon is told: it holds the downlink up for a moment when it follows
(child_sa.c, update: a policy that drops), and what waited for the terminal to be there is to get through first."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def on_held(tunnel: Tunnel, event: PacketHeld) -> Step:
    """A packet from an unknown source: verify it, whatever the source is: what is forged says nothing about it."""
    if _known(tunnel, event):
        # It queued up behind the packet that moved the tunnel.
        return tunnel, (GiveVerdict(packet_id=event.packet_id),)
    if not tunnel.capability.allows_moves:
        # It is held no more, but for one that was on its way when that changed; this is no work for the verifier.
        return _refuse(tunnel, event.packet_id, event.source, Reason.NO_CAPABILITY)
    return tunnel, (VerifyPacket(packet_id=event.packet_id, destination=tunnel.path.local.address, spi=event.spi),)


def on_verified(tunnel: Tunnel, held: PacketHeld, event: PacketVerified, allow: Collection[IPNetwork] = ()) -> Step:
    """Follow the terminal to where this packet came from, or leave the packet to the kernel."""
    if _known(tunnel, held):
        # Another packet moved the tunnel while this one was verified.
        return tunnel, (GiveVerdict(packet_id=held.packet_id),)
    if reason := judge(tunnel, held.spi, held.source, event, allow):
        return _refuse(tunnel, held.packet_id, held.source, reason)
    own = held.destination  # another one of ours, where the terminal tries that, or the IP version changed
    new = encapsulation.plain(own, held.source)
    if held.port is not None:
        new = Path(Endpoint(own, NATT_PORT), Endpoint(held.source, held.port), encap=True)
    tunnel = replace(tunnel, highest={**tunnel.highest, held.spi: event.sequence})
    return tunnel, (move(tunnel, new, Trigger.PACKET),)


def on_move_finished(
    tunnel: Tunnel, event: MoveFinished, flight: Flight, nonce: bytes, port: int, *, validate: bool
) -> Step:
    """The kernel moved the tunnel to where a held packet came from, or back to a path that it had."""
    trigger, packet_id = flight.trigger, flight.packet_id
    tunnel = replace(
        tunnel.moved(event.at_s, event.new, trigger, event.duration_s),
        # The terminal may have gone to another address of ours only.
        leaving=(event.old.origin,) if event.old.origin != event.new.origin else (),
        damping=tunnel.damping if _undoes(tunnel, event.new) else tunnel.damping.moved(event.at_s),
    )
    effects: list[Effect] = []
    if trigger is Trigger.UPDATE and (addresses := message_addresses(tunnel, port)):
        source, destination = addresses
        effects.append(SendMessage(key=tunnel.key, source=source, destination=destination, message=_ack(tunnel)))
    if trigger is Trigger.REVERT:
        tunnel = advance(tunnel.validated(value=True), Signal.RETURNED)
        tunnel, asked = unheard.ask(tunnel, nonce, port)
        effects += (StopTimer(TimerId(tunnel.key, TimerKind.VALIDATION)), *asked)
    elif validate and tunnel.capability is Capability.NEGOTIATED:
        tunnel, challenge = validate_path(tunnel, event.old, nonce, port)
        effects.extend(challenge)
    else:
        tunnel = replace(tunnel, validated_path=event.new, untold=True)
        effects.append(informing(tunnel))
    verdict = () if packet_id is None else (GiveVerdict(packet_id=packet_id),)
    return tunnel, (
        *verdict,
        watch(tunnel),
        *effects,
        TunnelMoved(key=tunnel.key, old=event.old, new=event.new, trigger=trigger, duration_s=event.duration_s),
        StartTimer(timer=TimerId(tunnel.key, TimerKind.LEAVING), delay_s=LEAVING_S),
        StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=SETTLE_S),
        Persist(tunnel.key),
    )


def on_move_refused(tunnel: Tunnel, event: MoveRefused, flight: Flight) -> Step:
    """The tunnel stays; the packet is the kernel's to judge."""
    tunnel = tunnel.count(event.reason)
    told = PacketRejected(key=tunnel.key, reason=event.reason, source=event.new.remote.address, detail=event.detail)
    if flight.trigger is Trigger.REVERT:
        # Nobody has proven the path that it is on, so it goes on being no more than that until it can return.
        return tunnel, (told, StartTimer(timer=TimerId(tunnel.key, TimerKind.VALIDATION), delay_s=MOVE_RETRY_S))
    if flight.trigger is Trigger.GATEWAY and event.reason is not Reason.VETOED:
        return tunnel, (told, StartTimer(timer=TimerId(tunnel.key, TimerKind.MOVE), delay_s=MOVE_RETRY_S))
    return tunnel, (told,) if flight.packet_id is None else (GiveVerdict(packet_id=flight.packet_id), told)


def on_update(
    tunnel: Tunnel,
    update: Update,
    own: IPAddress,
    peer: IPAddress,
    at_s: float,
    allow: Collection[IPNetwork] = (),
) -> Step:
    """Acknowledge with the address that the packets came from. What the terminal claims only tells of a NAT."""
    if update.sequence < tunnel.update_sequence:
        return tunnel, ()
    # The same UPDATE sent again, plain or in UDP, tells of no other move; a late one must not pull the tunnel back.
    back = _left(tunnel, update.claimed) if update.sequence > tunnel.update_sequence else None
    if back is not None:
        # It is back where it just came from. Packets from there are let through unseen, so none of them can move the
        # tunnel; but from anywhere else this one would have been held, so it did come from there, or from the present
        # path, where the terminal itself says that it has left it.
        tunnel = replace(tunnel, leaving=(), update_sequence=update.sequence)
        if unwelcome(tunnel, back.remote.address, at_s, allow):
            # Its packets are held again, and the guard has the word.
            return tunnel, (watch(tunnel),)
        return tunnel, (move(tunnel, back, Trigger.UPDATE),)
    seen = update.claimed.address == tunnel.path.remote.address
    if update.natd is not None:
        nat = natd.judge(tunnel.sas, update.natd, tunnel.path.local, tunnel.path.remote, seen=seen)
    else:
        nat = Nat.NONE if seen else Nat.REMOTE
    tunnel = replace(tunnel, update_sequence=update.sequence, nat=nat)
    return tunnel, (SendMessage(key=tunnel.key, source=own, destination=peer, message=_ack(tunnel)),)


def on_response(tunnel: Tunnel, response: PathResponse) -> Step:
    """The terminal is on the new path, if it answers the last challenge; soon charon follows too.

    A path that is not validated is none of its business.
    """
    if tunnel.phase is not Phase.VALIDATING or response.nonce != tunnel.nonce:
        return tunnel, ()
    new = tunnel.path
    tunnel = advance(tunnel.validated(value=True), Signal.VALIDATED)
    distrusted, misled = (without(known, new.remote.address) for known in (tunnel.distrusted, tunnel.misled))
    tunnel = replace(tunnel, validated_path=new, nonce=b"", attempt=0, untold=True)
    tunnel = replace(tunnel, distrusted=distrusted, misled=misled)
    return tunnel, (
        watch(tunnel),
        StopTimer(TimerId(tunnel.key, TimerKind.VALIDATION)),
        informing(tunnel),
        StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=SETTLE_S),
        Persist(tunnel.key),
    )


def inform_charon(tunnel: Tunnel) -> Step:
    """Have charon follow to the path that was validated last, unless the tunnel has gone on since."""
    if not tunnel.untold or tunnel.phase is Phase.VALIDATING:
        return tunnel, ()
    if _by_charon(tunnel) and followed(tunnel):
        return replace(tunnel, untold=False), ()  # it was there before
    # What charon believes of the addresses is as old as the last listing; the kernel minds no older one.
    return replace(tunnel, untold=False), inform(tunnel, tunnel.sas[0].path)


def on_validation_timer(tunnel: Tunnel, at_s: float, port: int) -> Step:
    """No answer yet: challenge again, or return to the last validated path."""
    if tunnel.phase is not Phase.VALIDATING:
        return tunnel, ()
    if not tunnel.nonce and tunnel.validated_path:
        return tunnel, (move(tunnel, tunnel.validated_path, Trigger.REVERT),)  # it was refused to return
    if tunnel.attempt + 1 < len(CHALLENGE_DELAYS_S):
        return _challenge(replace(tunnel, attempt=tunnel.attempt + 1), port)
    failed, back = tunnel.path.remote.address, tunnel.validated_path
    if back is not None and back != tunnel.path:
        tunnel = _distrusting(tunnel, failed, at_s)
    tunnel, asked = unheard.failed(replace(tunnel.validated(value=False), nonce=b"").count(Reason.NOT_VALIDATED))
    told = PacketRejected(
        key=tunnel.key, reason=Reason.NOT_VALIDATED, source=failed, detail="no answer on the new path"
    )
    if asked and tunnel.native:
        # From now on it is where charon, which hears from the kernel of where packets come from, believes it to be.
        back = tunnel.sas[0].path
    if back is None or back == tunnel.path:
        tunnel = advance(tunnel, Signal.RETURNED)
        return tunnel, (*asked, watch(tunnel), told)
    return tunnel, (*asked, told, move(tunnel, back, Trigger.REVERT))


def validate_path(tunnel: Tunnel, old: Path, nonce: bytes, port: int) -> Step:
    """Challenge the terminal on the present path; the one to return to is `old`, unless that was not validated."""
    validated = tunnel.validated_path if tunnel.phase is Phase.VALIDATING else None
    return _challenge(replace(advance(tunnel, Signal.FOLLOWED), validated_path=validated or old, nonce=nonce), port)


def _by_charon(tunnel: Tunnel) -> bool:
    return tunnel.last_move is not None and tunnel.last_move.trigger is Trigger.CHARON


def _undoes(tunnel: Tunnel, new: Path) -> bool:
    """Whether a tunnel is back from where charon had taken it: it has not moved then."""
    return _by_charon(tunnel) and new == tunnel.validated_path


def _distrusting(tunnel: Tunnel, source: IPAddress, at_s: float) -> Tunnel:
    if _by_charon(tunnel):
        return replace(tunnel, misled=after_failure(tunnel.misled, source, at_s))
    return replace(tunnel, distrusted=after_failure(tunnel.distrusted, source, at_s))


def challenge_again(tunnel: Tunnel, nonce: bytes, port: int) -> Step:
    """Of a tunnel whose terminal had not answered when the last daemon ended."""
    return _challenge(replace(tunnel, nonce=nonce), port) if tunnel.phase is Phase.VALIDATING else (tunnel, ())


def on_leaving_timer(tunnel: Tunnel) -> Step:
    """Packets from the previous source are held again."""
    tunnel = replace(tunnel, leaving=())
    return tunnel, (watch(tunnel),)


def _known(tunnel: Tunnel, held: PacketHeld) -> bool:
    return held.origin in (*tunnel.origins, *tunnel.leaving) and held.destination in tunnel.own


def _left(tunnel: Tunnel, claimed: Endpoint) -> Path | None:
    """The path at this address that the tunnel has just left, if it has."""
    own = tunnel.path.local.address
    for origin in tunnel.leaving if claimed.address.version == own.version else ():
        if origin == claimed.address and claimed.port != NATT_PORT:
            return encapsulation.plain(own, claimed.address)
        if origin == claimed:
            return Path(Endpoint(own, NATT_PORT), claimed, encap=True)
    return None


def informing(tunnel: Tunnel) -> StartTimer:
    """When charon is told: at once where it is at another address of ours.

    What it sends from there, as dead peer detection does, has the terminal's charon take the tunnel back.
    """
    here = tunnel.path.local.address == tunnel.sas[0].path.local.address
    return StartTimer(timer=TimerId(tunnel.key, TimerKind.INFORM), delay_s=INFORM_S if here else 0.0)


def _ack(tunnel: Tunnel) -> UpdateAck:
    discovery = natd.payloads(tunnel.sas[0], tunnel.path.local, tunnel.path.remote)
    return UpdateAck(sequence=tunnel.update_sequence, observed=tunnel.path.remote, natd=discovery)


def _challenge(tunnel: Tunnel, port: int) -> Step:
    timer = StartTimer(timer=TimerId(tunnel.key, TimerKind.VALIDATION), delay_s=CHALLENGE_DELAYS_S[tunnel.attempt])
    addresses = message_addresses(tunnel, port)
    if addresses is None:
        return tunnel, (timer,)
    source, destination = addresses
    challenge = PathChallenge(nonce=tunnel.nonce)
    return tunnel, (SendMessage(key=tunnel.key, source=source, destination=destination, message=challenge), timer)


def _refuse(tunnel: Tunnel, packet_id: int, source: IPAddress, reason: Reason) -> Step:
    return tunnel.count(reason), (
        GiveVerdict(packet_id=packet_id),
        PacketRejected(key=tunnel.key, reason=reason, source=source),
    )
