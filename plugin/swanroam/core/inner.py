"""Which addresses in-tunnel messages are sent from and to."""

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress, IPNetwork
from swanroam.model.tunnel import ChildSa, Role, Selector

__all__ = ["message_addresses"]

UDP: Final = 17
WIDE_PREFIX: Final = 4


def message_addresses(tunnel: Tunnel, port: int) -> tuple[IPAddress, IPAddress] | None:
    """(source, destination) for messages on `port`: the terminal's inner address, and any one of the gateway's side.

    The gateway takes messages out of the tunnel before it routes them, so the address on its side need not exist: it
    is the first of the network in the selector, and the gateway's outer address where the selector takes in
    everything. None when no CHILD_SA's selectors let UDP on this port through.
    """
    for child in tunnel.children:
        terminal_side, gateway_side = _sides(tunnel.role, child)
        for address in tunnel.key.inner:
            if not any(_admits(selector, port) and address in selector.network for selector in terminal_side):
                continue
            for selector in gateway_side:
                if _admits(selector, port) and selector.network.version == address.version:
                    other = _some_host(selector.network, tunnel)
                    return (address, other) if tunnel.role is Role.TERMINAL else (other, address)
    return None


def _sides(role: Role, child: ChildSa) -> tuple[tuple[Selector, ...], tuple[Selector, ...]]:
    sides = (child.local_selectors, child.remote_selectors)
    return sides if role is Role.TERMINAL else (sides[1], sides[0])


def _admits(selector: Selector, port: int) -> bool:
    return selector.protocol in (0, UDP) and selector.first_port <= port <= selector.last_port


def _some_host(network: IPNetwork, tunnel: Tunnel) -> IPAddress:
    if network.prefixlen < WIDE_PREFIX:
        return tunnel.path.remote.address if tunnel.role is Role.TERMINAL else tunnel.path.local.address
    if network.prefixlen >= network.max_prefixlen - 1:
        return network.network_address
    first: IPv4Address | IPv6Address = network.network_address + 1
    return first
