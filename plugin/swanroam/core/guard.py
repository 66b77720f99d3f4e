"""What a gateway believes before it moves a tunnel: one decision, made of checks in a fixed order.

    refused as              because
    (packet filter)         the SPI is not that of a tunnel that may roam: the packet is not even held
    rate-limited            its SPI or its source has had its share of verifications (counted by the kernel)
    unknown-spi             no tunnel has this SPI any more
    malformed, bad-icv      it is not authentic, in the words of the verifier
    unsupported-algorithm   that cannot be told, nor where its state cannot be read: kernel-refused
    replayed, old-sequence  a newer packet was there already: this one is late, or somebody kept it
    inner-source            what is in it is not from an address of this tunnel
    no-capability           the terminal did not agree to this, and nobody configured it
    source-not-allowed      a tunnel cannot end there, or the operator does not want it to
    not-validated           the source lately failed to answer a challenge
    flapping                the tunnel moved too often just now

The order is that of what somebody has to have for it. An SPI is seen by anybody on the path; a valid integrity value is
made by the terminal only; a new sequence number was not used before; the inner source is the terminal's own. So a count
of `source-not-allowed` is the terminal itself in a place where it is not wanted, or a packet of its own that somebody
there sent on; a forged packet never comes so far. The kernel's limit comes first in time, before Python.

A packet that may not move the tunnel is still the kernel's to judge: a late one from the old path is legitimate data.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from swanroam.core.allow import may_be_outer
from swanroam.core.distrust import distrusts
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.events import PacketVerified, Reason
from swanroam.model.path import IPAddress, IPNetwork

__all__ = ["CHECKS", "Candidate", "judge", "may_return"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A packet that was found authentic, and the tunnel that it could move."""

    tunnel: Tunnel
    spi: int
    source: IPAddress
    packet: PacketVerified
    allow: Collection[IPNetwork]


def judge(
    tunnel: Tunnel, spi: int, source: IPAddress, packet: PacketVerified, allow: Collection[IPNetwork] = ()
) -> Reason | None:
    """Why this packet may not move the tunnel to its source; None when it may. `allow`: networks, empty for any."""
    if packet.reason is not None:
        return packet.reason
    candidate = Candidate(tunnel=tunnel, spi=spi, source=source, packet=packet, allow=allow)
    return next((reason for reason, applies in CHECKS if applies(candidate)), None)


def may_return(tunnel: Tunnel, source: IPAddress, at_s: float, allow: Collection[IPNetwork] = ()) -> bool:
    """Whether the terminal's word is enough for a tunnel to go back to a source that it has just left."""
    return may_be_outer(tunnel, source, allow) and not _must_wait(tunnel, source, at_s)


def _must_wait(tunnel: Tunnel, source: IPAddress, at_s: float) -> bool:
    # It is too early for this source, whatever comes from there: not validated lately, or flapping.
    if distrusts(tunnel.distrusted, source, at_s):
        return True
    back = tunnel.validated_path if tunnel.phase is Phase.VALIDATING else None
    return (back is None or source != back.remote.address) and tunnel.damping.suppresses(at_s)


def _old(candidate: Candidate) -> bool:
    # Only a sequence newer than all before may move the tunnel: a delayed packet from the old path must not pull it
    # back, and neither may one that was captured there and sent again from elsewhere.
    newest = max(candidate.packet.kernel_highest, candidate.tunnel.highest.get(candidate.spi, 0))
    return candidate.packet.sequence <= newest


def _foreign(candidate: Candidate) -> bool:
    inner = candidate.packet.inner_source
    children = [child for child in candidate.tunnel.children if child.spi_in == candidate.spi]
    selectors = [selector for child in children for selector in child.remote_selectors]
    return inner is None or not any(inner in selector.network for selector in selectors)


def _unagreed(candidate: Candidate) -> bool:
    return not candidate.tunnel.capability.allows_moves


def _unwanted(candidate: Candidate) -> bool:
    return not may_be_outer(candidate.tunnel, candidate.source, candidate.allow)


def _distrusted(candidate: Candidate) -> bool:
    return distrusts(candidate.tunnel.distrusted, candidate.source, candidate.packet.at_s)


def _flapping(candidate: Candidate) -> bool:
    return _must_wait(candidate.tunnel, candidate.source, candidate.packet.at_s)


CHECKS: Final[tuple[tuple[Reason, Callable[[Candidate], bool]], ...]] = (
    (Reason.OLD_SEQUENCE, _old),
    (Reason.INNER_SOURCE, _foreign),
    (Reason.NO_CAPABILITY, _unagreed),
    (Reason.SOURCE_NOT_ALLOWED, _unwanted),
    (Reason.NOT_VALIDATED, _distrusted),
    (Reason.FLAPPING, _flapping),
)
"""In this order; the reason is that of the first that applies."""
