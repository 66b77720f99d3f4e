"""Which outer addresses a tunnel may move to at all.

Never: multicast, broadcast, unspecified, reserved, loopback and link-local addresses, the gateway's own address of
this tunnel, and inner addresses. (Of the gateway's other addresses, and of broadcast addresses that only a netmask
tells, the packet filter knows; packets from these do not come so far.) The IP version may be another than before.

Beyond that `allow` decides, the networks in the configuration. Where there are none: any address outside of the inner
network, which is what the tunnel's own selectors name on both sides. A selector does not stand for an inner network
where it is too wide to be one (0.0.0.0/0, or the halves of it), or where an end of the tunnel is in it.
"""

from collections.abc import Collection, Iterator
from typing import Final

from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress, IPNetwork

__all__ = ["may_be_outer", "outside"]

WIDEST: Final = {4: 8, 6: 16}
"""Shortest prefix of a network that is taken for an inner one: 10.0.0.0/8 is the widest private one (RFC 1918)."""


def may_be_outer(tunnel: Tunnel, source: IPAddress, allow: Collection[IPNetwork]) -> bool:
    """Whether this tunnel may move to this address; `allow` is empty for any."""
    if not _unicast(source):
        return False
    if source == tunnel.path.local.address or source in tunnel.key.inner:
        return False
    if allow:
        return any(source in network for network in allow)
    return outside(tunnel, source)


def outside(tunnel: Tunnel, address: IPAddress) -> bool:
    """Whether an address is in no network that is reached through the tunnel only."""
    return not any(address in network for network in _inner_networks(tunnel))


def _unicast(address: IPAddress) -> bool:
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
    )


def _inner_networks(tunnel: Tunnel) -> Iterator[IPNetwork]:
    ends = tunnel.path.local.address, tunnel.path.remote.address
    for child in tunnel.children:
        for selector in (*child.local_selectors, *child.remote_selectors):
            network = selector.network
            if network.prefixlen >= WIDEST[network.version] and not any(end in network for end in ends):
                yield network
