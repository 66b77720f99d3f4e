"""A gateway's own outer addresses, and what its terminals are told of them.

Told with HELLO-ACK, and with GATEWAY-MOVED when they change: those in the configuration (`gateway_addresses`) that this
machine has, or, where there are none, all on the interface with the address that the tunnel uses.

    the address that the tunnel uses   this gateway
    is preferred, another one changes  tells the terminal
    is deprecated (RFC 4862 section    tells the terminal, which moves the tunnel while the old address still works;
    5.5.4), as for a renumbering       its first packet moves it here, as after any other move
    is gone, or its link is down       moves the tunnel to another one, and tells the terminal by that

The terminal moves the tunnel only where its present address is not among those told. Until it has acknowledged it is
told again; one that does not (of an earlier release) has lost nothing by it.

Tunnels with MOBIKE, and those that charon set up in UDP, are charon's: it knows of addresses, or NATs, what we do not.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from swanroam.core.allow import outside
from swanroam.core.gateway import SETTLE_S, informing
from swanroam.core.inner import message_addresses
from swanroam.core.tunnel import Tunnel
from swanroam.core.watching import move, watch
from swanroam.model.effects import Effect, Persist, SendMessage, StartTimer, StopTimer, Trigger, TunnelMoved
from swanroam.model.events import MoveFinished, TimerId, TimerKind
from swanroam.model.messages import ADDRESSES_MOST, GatewayMoved, GatewayMovedAck
from swanroam.model.path import Endpoint, IPAddress, LocalAddress, Repository
from swanroam.model.tunnel import Capability, Role

__all__ = ["ANNOUNCE_DELAYS_S", "OwnAddresses", "consider", "on_ack", "on_announce_timer", "on_moved", "resume"]

ANNOUNCE_DELAYS_S: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""After each of which an unacknowledged GATEWAY-MOVED is sent again, but for the last; as UPDATE."""

Step = tuple[Tunnel, tuple[Effect, ...]]


class OwnAddresses:
    """The addresses of this machine, and on which interfaces those were that are gone."""

    def __init__(self) -> None:
        self._now: tuple[LocalAddress, ...] = ()
        self._interfaces: dict[IPAddress, str] = {}

    def see(self, repository: Repository, used: Collection[IPAddress]) -> None:
        """These are there now; of those that are not, only `used` ones are remembered."""
        self._now = repository.addresses
        kept = {address: interface for address, interface in self._interfaces.items() if address in used}
        self._interfaces = kept | {each.address: each.interface for each in self._now}

    def lost(self, address: IPAddress) -> bool:
        """Whether an address that was there works no more; of one that never was, nothing is known."""
        works = any(each.address == address and each.works for each in self._now)
        return address in self._interfaces and not works

    def to_tell(self, tunnel: Tunnel, configured: Collection[IPAddress]) -> tuple[IPAddress, ...]:
        """The addresses for a tunnel, the preferred one first: that which it uses, if it is one of them."""
        if tunnel.role is not Role.GATEWAY or tunnel.mobike or tunnel.native:
            return ()
        present = tunnel.path.local.address
        found = dict.fromkeys(
            each
            for each in self._candidates(present, configured)
            if each not in tunnel.key.inner and outside(tunnel, each)
        )
        same = present.version
        return tuple(sorted(found, key=lambda each: (each != present, each.version != same)))[:ADDRESSES_MOST]

    def _candidates(self, present: IPAddress, configured: Collection[IPAddress]) -> Iterable[IPAddress]:
        usable = {each.address: each.interface for each in self._now if each.usable and not each.temporary}
        if configured:
            return [address for address in configured if address in usable]
        interface = self._interfaces.get(present)
        return [address for address, where in usable.items() if where == interface]


def consider(tunnel: Tunnel, own: OwnAddresses, configured: Collection[IPAddress], at_s: float, port: int) -> Step:
    """Move a tunnel whose address is gone; tell a terminal that was told of other addresses than there are now."""
    addresses = own.to_tell(tunnel, configured)
    if not addresses or not _agreed(tunnel):
        return tunnel, ()
    present = tunnel.path.local
    if own.lost(present.address):
        if addresses[0].version != present.address.version:
            return tunnel, ()  # the terminal is where it is
        new = replace(tunnel.path, local=Endpoint(addresses[0], present.port))
        return tunnel, (move(tunnel, new, Trigger.GATEWAY),)
    # Back where it is not to be, it was pulled: by its charon, which had not followed yet.
    pulled = present.address not in addresses and not tunnel.announcements
    if not tunnel.gateways or (set(addresses) == set(tunnel.gateways) and not pulled):
        return tunnel, ()
    return _announce(tunnel, addresses, at_s, port)


def on_moved(tunnel: Tunnel, event: MoveFinished, addresses: tuple[IPAddress, ...], port: int) -> Step:
    """The kernel has the tunnel at another address of ours; the other end is where it was."""
    validated = tunnel.validated_path and replace(tunnel.validated_path, local=event.new.local)
    attempt = tunnel.attempt
    tunnel = tunnel.moved(event.at_s, event.new, Trigger.GATEWAY, event.duration_s)
    tunnel = replace(tunnel, attempt=attempt, validated_path=validated, untold=True)
    tunnel, told = _announce(tunnel, addresses, event.at_s, port)
    moved = TunnelMoved(
        key=tunnel.key, old=event.old, new=event.new, trigger=Trigger.GATEWAY, duration_s=event.duration_s
    )
    settling = StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=SETTLE_S)
    return tunnel, (watch(tunnel), *told, moved, settling, Persist(tunnel.key))


def resume(tunnel: Tunnel, own: OwnAddresses, configured: Collection[IPAddress], at_s: float, port: int) -> Step:
    """Tell a terminal again after a restart, where the last daemon moved the tunnel and nobody acknowledged."""
    last, addresses = tunnel.last_move, own.to_tell(tunnel, configured)
    heard = last is None or last.trigger is not Trigger.GATEWAY or last.validated
    if heard or not addresses or not _agreed(tunnel):
        return tunnel, ()
    return _announce(tunnel, addresses, at_s, port)


def on_announce_timer(tunnel: Tunnel, port: int) -> Step:
    """Nobody has acknowledged: tell again, or give up."""
    if not 0 < tunnel.announcements < len(ANNOUNCE_DELAYS_S):
        return replace(tunnel, announcements=0), ()
    return _tell(tunnel, port)


def on_ack(tunnel: Tunnel, ack: GatewayMovedAck) -> Step:
    """The terminal has the addresses, and the tunnel goes to one of them; now charon may follow."""
    if not tunnel.announcements or ack.sequence != tunnel.gateway_sequence:
        return tunnel, ()
    stop = StopTimer(TimerId(tunnel.key, TimerKind.ANNOUNCE))
    tunnel = replace(tunnel, announcements=0)
    if not tunnel.untold or tunnel.last_move is None or tunnel.last_move.trigger is not Trigger.GATEWAY:
        return tunnel, (stop,)
    return tunnel.validated(value=True), (stop, informing(tunnel), Persist(tunnel.key))


def _agreed(tunnel: Tunnel) -> bool:
    return tunnel.role is Role.GATEWAY and tunnel.capability is Capability.NEGOTIATED and bool(tunnel.children)


def _announce(tunnel: Tunnel, addresses: tuple[IPAddress, ...], at_s: float, port: int) -> Step:
    # By the monotonic clock, in milliseconds: it grows over restarts of the daemon, and no tunnel survives one of the
    # machine.
    sequence = max(tunnel.gateway_sequence + 1, round(at_s * 1000))
    return _tell(replace(tunnel, gateways=addresses, gateway_sequence=sequence, announcements=0), port)


def _tell(tunnel: Tunnel, port: int) -> Step:
    delay_s = ANNOUNCE_DELAYS_S[tunnel.announcements]
    timer = StartTimer(timer=TimerId(tunnel.key, TimerKind.ANNOUNCE), delay_s=delay_s)
    tunnel = replace(tunnel, announcements=tunnel.announcements + 1)
    ends = message_addresses(tunnel, port)
    if ends is None:
        return tunnel, (timer,)
    message = GatewayMoved(sequence=tunnel.gateway_sequence, addresses=tunnel.gateways)
    return tunnel, (SendMessage(key=tunnel.key, source=ends[0], destination=ends[1], message=message), timer)
