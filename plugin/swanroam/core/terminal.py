"""The terminal's decisions (patent FIG. 5): when to move, whom to tell, and when to give up.

When the present source is gone or a better one is there, all CHILD_SAs move at once; then the gateway is told. The
first data packet does that as well as any message, but an UPDATE goes out anyway where the capability was negotiated:
it is acknowledged, so it can be repeated, and its loss is noticed. Where there is nobody to acknowledge, a dummy does.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from swanroam.core import encapsulation, mobike, natd, seeking, silence, watching
from swanroam.core.flights import Flight
from swanroam.core.inner import message_addresses
from swanroam.core.listed import followed
from swanroam.core.reach import choose
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance
from swanroam.model.effects import (
    CapabilityChanged,
    DropAddress,
    Effect,
    KeepAddress,
    PacketRejected,
    Persist,
    SendDummy,
    SendMessage,
    StartTimer,
    StopTimer,
    Trigger,
    TunnelMoved,
)
from swanroam.model.events import MoveFinished, MoveRefused, Reason, TimerId, TimerKind
from swanroam.model.messages import PathChallenge, PathResponse, Update, UpdateAck
from swanroam.model.path import IKE_PORT, Endpoint, IPAddress, Repository
from swanroam.model.tunnel import Capability, Nat, Role

__all__ = [
    "DUMMY_DELAYS_S",
    "INFORM_S",
    "KEEPALIVE_S",
    "LATE_S",
    "PLAIN_ATTEMPTS",
    "REMIND_S",
    "SETTLE_S",
    "UPDATE_DELAYS_S",
    "consider",
    "inform",
    "keep_alive",
    "on_ack",
    "on_challenge",
    "on_goodbye",
    "on_keepalive_timer",
    "on_move_finished",
    "on_move_refused",
    "on_silence_timer",
    "on_update_timer",
    "tell",
    "tell_again",
]

UPDATE_DELAYS_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""After each of which an unacknowledged UPDATE is sent again; after the last one the tunnel is built anew."""
PLAIN_ATTEMPTS: Final = 3
"""How often an UPDATE is sent without UDP where no NAT is likely: a lost packet or two are no sign of one."""
DUMMY_DELAYS_S: Final = (0.2, 0.8)
"""A dummy is not acknowledged: it is sent again these few times in case the first was lost."""
MOVE_RETRY_S: Final = 0.2
SETTLE_S: Final = 1.0
"""How long charon is given to follow a move before it is asked whether it did."""
INFORM_S: Final = 0.05
"""charon is told when the gateway has acknowledged, and after this if it has not: when it follows, nothing can be sent
for a moment (child_sa.c, update: a policy that drops), and the update had better be on its way by then. Not later: with
roam events it builds a tunnel anew 100 ms after its path went (ike_sa.c, roam)."""

LATE_S: Final = 2.0
"""How long a working address that was left is looked at: a gateway that misses three UPDATEs sends there so long."""
KEEPALIVE_S: Final = 20.0
"""As charon's default: many NATs forget after 30 s."""
REMIND_S: Final = 6.0
"""How long after a move an idle tunnel, too, sends a dummy. A gateway that acknowledged, and whose challenges were lost
all the same, returned after 3 s and takes no packet from there for 2 s (core/gateway.py, core/distrust.py)."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def consider(
    tunnel: Tunnel,
    repository: Repository,
    inner: Collection[IPAddress],
    gateways: Collection[IPAddress] = (),
) -> Step:
    """Move the tunnel if another source than the present one is best for it, or none is left: core/reach.py."""
    if not (tunnel.capability.allows_moves or tunnel.alone) or not tunnel.children:
        return tunnel, ()
    way = choose(tunnel, repository, inner, gateways)
    if way is None:
        # charon, which knows of no NAT here, took the encapsulation away: while no daemon ran, or by itself.
        lost = tunnel.here in tunnel.translated and not tunnel.path.encap and not tunnel.native and not tunnel.mobike
        works = any(each.usable and each.address == tunnel.here for each in repository.addresses)
        if lost and works and tunnel.phase is Phase.STEADY and tunnel.capability.allows_moves:
            return tunnel, (watching.move(tunnel, encapsulation.in_udp(tunnel, tunnel.here), Trigger.NAT),)
        return tunnel, ()
    source, remote = way
    if tunnel.native and not tunnel.mobike:
        kept = tunnel.path.local
        old, new = (replace(tunnel.path, local=Endpoint(address, kept.port)) for address in (tunnel.here, source))
        trigger = Trigger.ADDRESS
        return tunnel, (KeepAddress(key=tunnel.key, kept=kept.address, old=old, new=new, trigger=trigger),)
    move = watching.move(tunnel, encapsulation.way(tunnel, source, remote), Trigger.ADDRESS)
    if tunnel.path.encap or tunnel.here not in repository.working:
        return tunnel, (move,)
    # What the gateway sends until it has followed comes to the old address, where the kernel will have no state.
    tunnel = replace(tunnel, leaving=(tunnel.here,))
    leaving = StartTimer(timer=TimerId(tunnel.key, TimerKind.LEAVING), delay_s=LATE_S)
    return tunnel, (watching.watch(tunnel), leaving, move)


def on_move_finished(tunnel: Tunnel, event: MoveFinished, flight: Flight, port: int) -> Step:
    """The kernel moved: tell the gateway, then everybody else, and charon when the gateway knows."""
    if flight.trigger is Trigger.NAT:
        tunnel, told = tell(replace(tunnel, path=event.new, untold=not tunnel.mobike), port)
        if event.new.encap or tunnel.capability is not Capability.NEGOTIATED:
            return tunnel, (*told, watching.watch(tunnel))
        return tunnel, (
            *told,
            watching.watch(tunnel),
            watching.move(tunnel, encapsulation.in_udp(tunnel, event.new.local.address), Trigger.NAT),
        )
    path, left = tunnel.path, tunnel.actual is not None and flight.kept is None
    tunnel = tunnel.moved(event.at_s, event.new, flight.trigger, event.duration_s)
    tunnel = replace(tunnel, update_sequence=tunnel.update_sequence + 1, nat=Nat.UNKNOWN)
    acknowledged: tuple[Effect, ...] = ()
    listening: tuple[Effect, ...] = ()
    if flight.trigger is Trigger.GATEWAY:
        acknowledged = seeking.acknowledgement(tunnel, message_addresses(tunnel, port))
    else:
        tunnel = replace(tunnel, sought=(), asking=False)
    if flight.kept is None:
        tunnel = replace(tunnel, untold=not tunnel.mobike, actual=None, listening=None)
    else:
        here = event.new.local.address
        tunnel, listening = silence.begin(replace(tunnel, path=path, actual=None if here == flight.kept else here))
    tunnel, told = tell(advance(tunnel, Signal.MOVED), port)
    informing = StartTimer(timer=TimerId(tunnel.key, TimerKind.INFORM), delay_s=INFORM_S)
    settling = StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=SETTLE_S)
    return tunnel, (
        *acknowledged,
        *told,
        watching.watch(tunnel),
        *((DropAddress(tunnel.key),) if left else ()),
        *((informing, settling) if flight.kept is None else ()),
        *listening,
        *mobike.hold(tunnel),
        TunnelMoved(key=tunnel.key, old=event.old, new=event.new, trigger=flight.trigger, duration_s=event.duration_s),
        StartTimer(timer=TimerId(tunnel.key, TimerKind.KEEPALIVE), delay_s=REMIND_S),
        Persist(tunnel.key),
    )


def on_keepalive_timer(tunnel: Tunnel, at_s: float, port: int) -> Step:
    """Charon keeps the mappings of NATs alive that it knows of (RFC 3948 section 4); a dummy does for the others.

    So it does where ESP is in UDP though no NAT was found: something lets nothing else through there. Soon after a move
    there is one anyway: it is the update of a gateway that had to return.
    """
    addresses = message_addresses(tunnel, port)
    unknown = not tunnel.sas[0].nat_local and (tunnel.carries_ike or tunnel.actual is not None)
    moved = tunnel.last_move is not None and at_s - tunnel.last_move.at_s < KEEPALIVE_S
    if not (unknown or moved) or addresses is None:
        return tunnel, ()
    source, destination = addresses
    return tunnel, (SendDummy(key=tunnel.key, source=source, destination=destination), keep_alive(tunnel))


def keep_alive(tunnel: Tunnel) -> StartTimer:
    """When it is next to be seen whether a NAT needs a dummy."""
    return StartTimer(timer=TimerId(tunnel.key, TimerKind.KEEPALIVE), delay_s=KEEPALIVE_S)


def on_move_refused(tunnel: Tunnel, event: MoveRefused, flight: Flight, port: int) -> Step:
    """A veto stands until the addresses change; what the kernel refused is tried again, the states may have changed."""
    tunnel = tunnel.count(event.reason)
    told = PacketRejected(key=tunnel.key, reason=event.reason, source=event.new.local.address, detail=event.detail)
    if flight.trigger is Trigger.GATEWAY:
        tunnel = seeking.refused(tunnel)
    if flight.trigger is Trigger.NAT or (flight.trigger is Trigger.GATEWAY and tunnel.phase is Phase.UPDATING):
        tunnel, again = tell(tunnel, port)
        return tunnel, (told, *again)
    effects: tuple[Effect, ...] = (told,)
    if tunnel.leaving:
        tunnel = replace(tunnel, leaving=())
        effects = (told, watching.watch(tunnel))
    if event.reason is Reason.VETOED:
        return tunnel, effects
    return tunnel, (*effects, StartTimer(timer=TimerId(tunnel.key, TimerKind.MOVE), delay_s=MOVE_RETRY_S))


def on_update_timer(tunnel: Tunnel, port: int) -> Step:
    """No acknowledgement yet: send again, or give up."""
    if tunnel.phase is not Phase.UPDATING:
        return tunnel, ()
    if tunnel.asking and tunnel.attempt + 1 >= seeking.ATTEMPTS:
        # Nobody answers at any of its addresses: what a terminal that has not moved cannot mend.
        return advance(replace(tunnel, asking=False, sought=()), Signal.ASSUMED), ()
    acknowledged = tunnel.capability is Capability.NEGOTIATED
    delays = UPDATE_DELAYS_S if acknowledged else DUMMY_DELAYS_S
    if tunnel.attempt + 1 < len(delays):
        tunnel = replace(tunnel, attempt=tunnel.attempt + 1)
        source = tunnel.path.local.address
        if tunnel.attempt < PLAIN_ATTEMPTS:
            return tell(tunnel, port)
        if tunnel.mobike:
            return tell(tunnel, port)  # charon finds NATs by itself
        if acknowledged and not tunnel.path.encap:
            # Most NATs let nothing through but UDP and TCP; where there is none, UDP is as good.
            return tunnel, (watching.move(tunnel, encapsulation.in_udp(tunnel, source), Trigger.NAT),)
        if acknowledged and not encapsulation.way(tunnel, source).encap:
            # A gateway that was restarted and forgot the agreement holds nothing, and its states take no UDP: without
            # it one more is sent, that it can hear, and then in UDP again.
            plain = encapsulation.plain(source, tunnel.path.remote.address)
            return tunnel, (watching.move(tunnel, plain, Trigger.NAT),)
        return tell(tunnel, port)
    if not acknowledged:
        return advance(tunnel, Signal.ASSUMED), ()
    if tunnel.mobike:
        return advance(tunnel.validated(value=False), Signal.ASSUMED), (Persist(tunnel.key),)
    return advance(tunnel.validated(value=False), Signal.GAVE_UP), (watching.reestablish(tunnel), Persist(tunnel.key))


def on_silence_timer(tunnel: Tunnel) -> Step:
    """Give up where a gateway that was to follow by itself is not heard of."""
    looked = silence.look(tunnel)
    if looked is not None:
        return looked
    tunnel = advance(replace(tunnel, listening=None).validated(value=False), Signal.GAVE_UP)
    return tunnel, (watching.reestablish(tunnel), Persist(tunnel.key))


def on_ack(tunnel: Tunnel, ack: UpdateAck) -> Step:
    """The gateway has the new address; acknowledgements of earlier moves say nothing about the last one."""
    if ack.sequence != tunnel.update_sequence or tunnel.phase not in (Phase.UPDATING, Phase.ABANDONED):
        return tunnel, ()
    path = tunnel.path
    if path.encap and ack.observed.port == IKE_PORT:
        # It heard what went before the tunnel was put in UDP, and knew the ports of then.
        path = encapsulation.plain(path.local.address, path.remote.address)
    here = Endpoint(tunnel.here, path.local.port)
    seen = ack.observed.address == here.address
    if ack.natd is not None:
        nat = natd.judge(tunnel.sas, ack.natd, here, path.remote, seen=seen)
    else:
        nat = Nat.NONE if seen else Nat.LOCAL
    own = {here.address} if nat.found else set()
    translated = tunnel.translated - {here.address} | own
    tunnel = replace(tunnel, attempt=0, sought=(), asking=False, nat=nat, translated=translated)
    if nat.found and not tunnel.path.encap and tunnel.capability.allows_moves and not tunnel.mobike:
        # It let this through, but takes ESP for one host at a time and remembers it for as long as it likes.
        return tunnel, (watching.move(tunnel, encapsulation.in_udp(tunnel, here.address), Trigger.NAT),)
    tunnel, informed = inform(advance(tunnel.validated(value=True), Signal.ACKNOWLEDGED))
    return tunnel, (StopTimer(TimerId(tunnel.key, TimerKind.UPDATE)), *informed, Persist(tunnel.key))


def inform(tunnel: Tunnel) -> Step:
    """Have charon follow the last move, if it was not told yet."""
    if not tunnel.untold:
        return tunnel, ()
    # What charon believes of the addresses is as old as the last listing; the kernel minds no older one.
    told = watching.inform(tunnel, tunnel.sas[0].path)
    return replace(tunnel, untold=False), (StopTimer(TimerId(tunnel.key, TimerKind.INFORM)), *told)


def on_goodbye(tunnel: Tunnel) -> Step:
    """The gateway carries IKE no longer through a NAT that charon does not know of: built anew, it knows of it."""
    if not tunnel.carries_ike:
        return tunnel, ()
    because = "the gateway's daemon ends"
    tunnel = replace(tunnel, capability=Capability.NONE, because=because)
    told = CapabilityChanged(key=tunnel.key, capability=Capability.NONE, detail=because)
    return tunnel, (watching.watch(tunnel), Persist(tunnel.key), told, watching.reestablish(tunnel))


def on_challenge(tunnel: Tunnel, challenge: PathChallenge, own: IPAddress, peer: IPAddress) -> Step:
    """Prove that this terminal is where the gateway now sends to.

    A gateway that asks is there, and can hear: it is told again what it missed, on the way that it heard something by.
    """
    told: list[PathResponse | Update] = [PathResponse(nonce=challenge.nonce)]
    if tunnel.phase is Phase.UPDATING and tunnel.attempt and tunnel.capability is Capability.NEGOTIATED:
        told.append(_update(tunnel))
    sent = (SendMessage(key=tunnel.key, source=own, destination=peer, message=message) for message in told)
    return tunnel, tuple(sent)


def tell(tunnel: Tunnel, port: int) -> Step:
    """Send the update message of the current attempt, and start the timer for the next.

    While nothing can be sent an attempt is none: that nobody answers says nothing of the path then.
    """
    negotiated = tunnel.capability is Capability.NEGOTIATED
    delays = UPDATE_DELAYS_S if negotiated else DUMMY_DELAYS_S
    timer = StartTimer(
        timer=TimerId(tunnel.key, TimerKind.UPDATE), delay_s=delays[min(tunnel.attempt, len(delays) - 1)]
    )
    addresses = message_addresses(tunnel, port)
    if addresses is None:
        return tunnel, (timer,)  # no selector lets a message through: data will have to be the update
    source, destination = addresses
    send: SendMessage | SendDummy = SendDummy(key=tunnel.key, source=source, destination=destination)
    if negotiated:
        send = SendMessage(key=tunnel.key, source=source, destination=destination, message=_update(tunnel))
    return tunnel, (send, timer)


def tell_again(tunnel: Tunnel, port: int) -> Step:
    """After a restart: tell of a move, where the last daemon ended before the gateway had acknowledged it.

    Of one that it did not even store, the kernel tells. What is kept at an address will be moved there anew.
    """
    if tunnel.role is not Role.TERMINAL or tunnel.capability is not Capability.NEGOTIATED or tunnel.native:
        return tunnel, ()
    last = tunnel.last_move
    if followed(tunnel) if last is None else last.validated and last.new.addresses == tunnel.path.addresses:
        return tunnel, ()
    return tell(replace(advance(tunnel, Signal.MOVED), update_sequence=tunnel.update_sequence + 1), port)


def _update(tunnel: Tunnel) -> Update:
    here = Endpoint(tunnel.here, tunnel.path.local.port)
    discovery = natd.payloads(tunnel.sas[0], here, tunnel.path.remote)
    return Update(sequence=tunnel.update_sequence, claimed=here, natd=discovery)
