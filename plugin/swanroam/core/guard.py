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

__all__ = ["OF_THE_PACKET", "OF_THE_SOURCE", "judge", "unwelcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A packet that was found authentic, and the tunnel that it could move."""

    tunnel: Tunnel
    spi: int
    packet: PacketVerified


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tunnel could go, and when."""

    tunnel: Tunnel
    source: IPAddress
    at_s: float
    allow: Collection[IPNetwork]
    """Networks, empty for any."""


def judge(
    tunnel: Tunnel, spi: int, source: IPAddress, packet: PacketVerified, allow: Collection[IPNetwork] = ()
) -> Reason | None:
    """Why this packet may not move the tunnel to its source; None when it may. `allow`: networks, empty for any."""
    if packet.reason is not None:
        return packet.reason
    candidate = Candidate(tunnel=tunnel, spi=spi, packet=packet)
    of_the_packet = next((reason for reason, applies in OF_THE_PACKET if applies(candidate)), None)
    return of_the_packet or unwelcome(tunnel, source, packet.at_s, allow)


def unwelcome(tunnel: Tunnel, source: IPAddress, at_s: float, allow: Collection[IPNetwork] = ()) -> Reason | None:
    """Why the tunnel is not to go to a source now, whatever comes from there; None when it may."""
    place = Place(tunnel=tunnel, source=source, at_s=at_s, allow=allow)
    return next((reason for reason, applies in OF_THE_SOURCE if applies(place)), None)


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


def _unwanted(place: Place) -> bool:
    return not may_be_outer(place.tunnel, place.source, place.allow)


def _distrusted(place: Place) -> bool:
    return distrusts(place.tunnel.distrusted, place.source, place.at_s)


def _flapping(place: Place) -> bool:
    back = place.tunnel.validated_path if place.tunnel.phase is Phase.VALIDATING else None
    returns = back is not None and place.source == back.remote.address
    return not returns and place.tunnel.damping.suppresses(place.at_s)


OF_THE_PACKET: Final[tuple[tuple[Reason, Callable[[Candidate], bool]], ...]] = (
    (Reason.OLD_SEQUENCE, _old),
    (Reason.INNER_SOURCE, _foreign),
    (Reason.NO_CAPABILITY, _unagreed),
)
OF_THE_SOURCE: Final[tuple[tuple[Reason, Callable[[Place], bool]], ...]] = (
    (Reason.SOURCE_NOT_ALLOWED, _unwanted),
    (Reason.NOT_VALIDATED, _distrusted),
    (Reason.FLAPPING, _flapping),
)
"""In this order, first those of the packet; the reason is that of the first that applies."""
