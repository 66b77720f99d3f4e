"""Tunnels without MOBIKE that charon took elsewhere by itself.

charon goes where a message of IKE comes from: in IKEv1 to the source of any that it can read (task_manager_v1.c,
process_message), in IKEv2, behind a NAT, to that of a new one. Nothing in IKEv1 tells a message that somebody kept from
a new one (RFC 2408 has no counter), so that is no proof of where the other end is.

A gateway takes it for a move that is to be proven, as after a packet: the terminal is challenged there, and the tunnel
returns at once from where it may not go now. The terminal's next packet takes it back, too.

A terminal goes back at once from what is no address of its gateway, where it is IKEv1 that took it there.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from swanroam.core import gateway, watching
from swanroam.core.distrust import distrusts
from swanroam.core.guard import unwelcome
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import Effect, PacketRejected, Trigger, TunnelMoved
from swanroam.model.events import Reason
from swanroam.model.path import IPAddress, IPNetwork, Path
from swanroam.model.tunnel import Capability

__all__ = ["away", "back_to_the_gateway", "to_be_proven"]

IKEV1: Final = 1
BECAUSE: Final = "charon followed a message of IKE"

Step = tuple[Tunnel, tuple[Effect, ...]]


def away(tunnel: Tunnel, before: Path) -> bool:
    """Whether a tunnel, without MOBIKE, is at another place of the other end than `before`."""
    if not tunnel.capability.allows_moves or tunnel.mobike or tunnel.shares:
        return False
    now, then = tunnel.path.remote, before.remote
    ports = tunnel.path.encap and before.encap and not before.port_forgotten
    return now.address != then.address or (ports and now.port != then.port)


def to_be_proven(
    tunnel: Tunnel, before: Path, at_s: float, nonce: bytes, port: int, *, allow: Collection[IPNetwork], validate: bool
) -> Step:
    """Gateway: have the terminal prove that it is where charon took the tunnel, or return at once."""
    there, source = tunnel.path, tunnel.path.remote.address
    was = replace(tunnel, path=before)
    # Somebody else may be who led it: that wears out nothing that the terminal needs.
    attempt = tunnel.attempt if tunnel.phase is Phase.VALIDATING else 0
    tunnel = replace(was.moved(at_s, there, Trigger.CHARON, 0.0), attempt=attempt, leaving=())
    told = TunnelMoved(key=tunnel.key, old=before, new=there, trigger=Trigger.CHARON, duration_s=0.0)
    reason = unwelcome(was, source, at_s, allow)
    if reason is None and distrusts(tunnel.misled, source, at_s):
        reason = Reason.NOT_VALIDATED
    if reason is None and not (validate and tunnel.capability is Capability.NEGOTIATED):
        return replace(tunnel, validated_path=there), (told,)
    tunnel, challenge = gateway.validate_path(tunnel, before, nonce, port)
    back = tunnel.validated_path
    if reason is None or back is None or back == there:
        return tunnel, (told, *challenge)
    rejected = PacketRejected(key=tunnel.key, reason=reason, source=source, detail=BECAUSE)
    return replace(tunnel.count(reason), nonce=b""), (told, rejected, watching.move(tunnel, back, Trigger.REVERT))


def back_to_the_gateway(tunnel: Tunnel, before: Path, known: Collection[IPAddress]) -> Step:
    """Terminal: stay where charon took the tunnel only if that is one of the `known` addresses of the gateway."""
    source, proven = tunnel.path.remote.address, tunnel.sas[0].version != IKEV1
    if proven or source in known or tunnel.capability is not Capability.NEGOTIATED:
        return tunnel, ()
    reason = Reason.SOURCE_NOT_ALLOWED
    rejected = PacketRejected(key=tunnel.key, reason=reason, source=source, detail=BECAUSE)
    # Whatever becomes of the move: it is there that the tunnel is to be.
    return replace(tunnel.count(reason), path=before), (rejected, watching.move(tunnel, before, Trigger.REVERT))
