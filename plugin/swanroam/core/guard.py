"""What a gateway believes before it moves a tunnel: one decision, made of checks in a fixed order.

The order is that of cost and of what an attacker has to have for it: an SPI is seen by anybody on the path, a valid
integrity value is made by the terminal only, a new sequence number was not used before, the inner source is the
terminal's own. Each refusal has a reason of its own, which is counted. A packet that may not move the tunnel is still
the kernel's to judge, as a late one from the old path is legitimate data.
"""

from collections.abc import Collection

from swanroam.core.tunnel import Tunnel
from swanroam.model.events import PacketVerified, Reason
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Selector

__all__ = ["judge", "refuse_source"]


def refuse_source(tunnel: Tunnel, source: IPAddress, at_s: float) -> Reason | None:
    """Why no packet from this source may move this tunnel, whatever it holds; None when one may.

    Not multicast, broadcast, unspecified, reserved or loopback, not the gateway itself, not an inner address: a tunnel
    cannot end there. Not another family than the present path's. Not a source that lately failed its challenge.
    """
    if not tunnel.capability.allows_moves:
        return Reason.NO_CAPABILITY
    if source.version != tunnel.path.remote.address.version:
        return Reason.SOURCE_NOT_ALLOWED
    if source.is_multicast or source.is_unspecified or source.is_reserved or source.is_loopback or source.is_link_local:
        return Reason.SOURCE_NOT_ALLOWED
    if source == tunnel.path.local.address or source in tunnel.key.inner:
        return Reason.SOURCE_NOT_ALLOWED
    if any(source == address and at_s < until_s for address, until_s in tunnel.distrusted):
        return Reason.NOT_VALIDATED
    return None


def judge(tunnel: Tunnel, spi: int, source: IPAddress, packet: PacketVerified) -> Reason | None:
    """Why this packet may not move the tunnel to its source; None when it may."""
    if packet.reason is not None:
        return packet.reason
    # Only a sequence newer than all before may move the tunnel: a delayed packet from the old path must not pull it
    # back, and neither may one that was captured there and sent again from elsewhere.
    if packet.sequence <= max(packet.kernel_highest, tunnel.highest.get(spi, 0)):
        return Reason.OLD_SEQUENCE
    selectors = [selector for child in tunnel.children if child.spi_in == spi for selector in child.remote_selectors]
    if packet.inner_source is None or not _covers(selectors, packet.inner_source):
        return Reason.INNER_SOURCE
    return refuse_source(tunnel, source, packet.at_s)


def _covers(selectors: Collection[Selector], address: IPAddress) -> bool:
    return any(address in selector.network for selector in selectors)
