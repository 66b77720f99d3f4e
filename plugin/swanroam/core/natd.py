"""NAT discovery (patent FIG. 6): hashes of what each end knows of both endpoints, and what follows where they differ.

The hash is that of IKE's NAT-D payloads (RFC 3947 section 3.2) and NAT_DETECTION notifies (RFC 7296 section 2.23):
SHA-1 over the SPIs of initiator and responder, address and port. It is not keyed and need not be: it travels in ESP.
"""

import hashlib
from collections.abc import Collection

from swanroam.model.messages import NatD
from swanroam.model.path import Endpoint
from swanroam.model.tunnel import IkeSa, Nat

__all__ = ["digest", "judge", "payloads"]


def digest(sa: IkeSa, endpoint: Endpoint) -> bytes:
    """20 bytes."""
    spis = sa.initiator_spi.to_bytes(8) + sa.responder_spi.to_bytes(8)
    data = spis + endpoint.address.packed + endpoint.port.to_bytes(2)
    return hashlib.sha1(data, usedforsecurity=False).digest()


def payloads(sa: IkeSa, own: Endpoint, peer: Endpoint) -> NatD:
    """What an end sends, that knows itself and the other end by these endpoints."""
    return NatD(source=digest(sa, own), destination=digest(sa, peer))


def judge(sas: Collection[IkeSa], received: NatD, own: Endpoint, peer: Endpoint, *, seen: bool) -> Nat:
    """Who is behind a NAT, for the end that knows itself and the sender by these endpoints.

    Of several IKE_SAs the sender may have taken another than we would: one is being rekeyed. It may even be one that
    this end has no more, or not yet. `seen`: by the addresses in the same message the terminal is seen where it is, and
    then hashes of which none fits tell nothing.
    """
    peer_translated = all(received.source != digest(sa, peer) for sa in sas)
    own_translated = all(received.destination != digest(sa, own) for sa in sas)
    if seen and peer_translated and own_translated:
        return Nat.NONE
    if peer_translated:
        return Nat.BOTH if own_translated else Nat.REMOTE
    return Nat.LOCAL if own_translated else Nat.NONE
