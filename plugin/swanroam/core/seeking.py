"""How a terminal finds the gateway at another of its addresses, and which these may be.

They are those in the configuration (`gateway_addresses`), and those that the gateway told through the tunnel, in
HELLO-ACK or GATEWAY-MOVED. No other address is ever tried.

Silence is what an UPDATE finds that nobody acknowledges, so it costs nothing where all is well: after ATTEMPTS of them
the tunnel goes to the next address, and is told there as after any move. The gateway follows the packet to where it
came. When all have been tried it goes back to the first, where the UPDATEs end as they do without other addresses: in
UDP, and then charon builds the tunnel anew. That a gateway is silent for a terminal that stands still core/lookout.py
notices.

GATEWAY-MOVED moves the tunnel in the same way, where its present address is not among those told: to the first that can
be reached, and, where nobody acknowledges it there, on to others and back.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Final

from swanroam.core import encapsulation, watching
from swanroam.core.allow import may_be_outer
from swanroam.core.paths import best, candidates
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import Effect, MoveStates, PacketRejected, SendMessage, Trigger
from swanroam.model.events import Reason
from swanroam.model.messages import GatewayMoved, GatewayMovedAck
from swanroam.model.path import IPAddress, Repository
from swanroam.model.tunnel import Capability

__all__ = ["ATTEMPTS", "acknowledgement", "learn", "may_follow", "on_gateway_moved", "refused", "seek"]

ATTEMPTS: Final = 2
"""UPDATEs that nobody acknowledged at one address, 0.6 s: a gateway that was only slow follows to another, too."""

Step = tuple[Tunnel, tuple[Effect, ...]]


def learn(tunnel: Tunnel, addresses: Iterable[IPAddress]) -> Tunnel:
    """The tunnel with the addresses of the gateway that it told, but for those that can be none."""
    return replace(tunnel, gateways=tuple(each for each in addresses if may_be_outer(tunnel, each, ())))


def may_follow(tunnel: Tunnel) -> bool:
    """Whether it may go to another address of the gateway: not where charon moves it, or set it up in UDP."""
    return tunnel.capability is Capability.NEGOTIATED and not tunnel.mobike and not tunnel.native


def on_gateway_moved(
    tunnel: Tunnel,
    moved: GatewayMoved,
    own: IPAddress,
    peer: IPAddress,
    repository: Repository,
    inner: Collection[IPAddress],
) -> Step:
    """Acknowledge where the tunnel goes to one of the addresses; else move it to one, if this is the newest word."""
    present = tunnel.path.remote.address
    if moved.sequence < tunnel.gateway_sequence:
        told = PacketRejected(key=tunnel.key, reason=Reason.OLD_SEQUENCE, source=peer, detail="GATEWAY-MOVED")
        return tunnel.count(Reason.OLD_SEQUENCE), (told,)
    newer = moved.sequence > tunnel.gateway_sequence
    tunnel = replace(learn(tunnel, moved.addresses), gateway_sequence=moved.sequence)
    if present in moved.addresses:
        acknowledged = GatewayMovedAck(sequence=moved.sequence)
        return tunnel, (SendMessage(key=tunnel.key, source=own, destination=peer, message=acknowledged),)
    if not newer:
        return tunnel, ()  # it is on its way, or came back from there
    way = next(_ways(tunnel, tunnel.gateways, repository, inner), None)
    if way is None:
        return tunnel, ()
    return replace(tunnel, sought=(present, way.new.remote.address)), (way,)


def acknowledgement(tunnel: Tunnel, ends: tuple[IPAddress, IPAddress] | None) -> tuple[Effect, ...]:
    """For the gateway, of a tunnel that has moved to an address that it told."""
    if ends is None or not tunnel.gateway_sequence or tunnel.path.remote.address not in tunnel.gateways:
        return ()
    message = GatewayMovedAck(sequence=tunnel.gateway_sequence)
    return (SendMessage(key=tunnel.key, source=ends[0], destination=ends[1], message=message),)


def seek(
    tunnel: Tunnel, known: Collection[IPAddress], repository: Repository | None, inner: Collection[IPAddress]
) -> Step | None:
    """Go on to the next address of the gateway, where it is time for that; None where there is none, or it is not."""
    silent = tunnel.phase is Phase.UPDATING and tunnel.attempt + 1 == ATTEMPTS
    if not silent or not may_follow(tunnel) or repository is None:
        return None
    present = tunnel.path.remote.address
    sought = tunnel.sought or (present,)
    others = [each for each in dict.fromkeys((*known, *tunnel.gateways)) if each not in sought]
    way = next(_ways(tunnel, others, repository, inner), None)
    if way is not None:
        return replace(tunnel, sought=(*sought, way.new.remote.address)), (way,)
    back = next(_ways(tunnel, sought[:1], repository, inner), None) if present != sought[0] else None
    return None if back is None else (tunnel, (back,))


def refused(tunnel: Tunnel) -> Tunnel:
    """It could not be moved there: UPDATEs go on where it is, and a repeated GATEWAY-MOVED is taken once more."""
    return replace(tunnel, attempt=ATTEMPTS, gateway_sequence=max(0, tunnel.gateway_sequence - 1))


def _ways(
    tunnel: Tunnel, gateways: Iterable[IPAddress], repository: Repository, inner: Collection[IPAddress]
) -> Iterator[MoveStates]:
    """Moves to those of these addresses that can be reached, from the best source each."""
    for remote in gateways:
        source = best(candidates(repository, remote, inner), tunnel.here)
        if source is not None:
            yield watching.move(tunnel, encapsulation.way(tunnel, source.address, remote), Trigger.GATEWAY)
