"""From where, and to which of the gateway's addresses, a terminal's tunnel goes.

The gateway has the address that the tunnel was set up to, those in the configuration (`gateway_addresses`), and those
that it told, of either IP version. Another one is taken where no route leads to the present one from any usable source:
as long as one does, nothing is gained, and late packets would be lost, as the kernel looks states up by their
destination; and where the gateway is silent, or says so (core/seeking.py).
"""

from collections.abc import Collection
from dataclasses import replace

from swanroam.core.paths import best, candidates
from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress, Repository

__all__ = ["choose"]


def choose(
    tunnel: Tunnel, repository: Repository, inner: Collection[IPAddress], gateways: Collection[IPAddress]
) -> tuple[IPAddress, IPAddress] | None:
    """(source, address of the gateway) to move to; None where the tunnel stays. `inner` are no outer addresses."""
    present = tunnel.path.remote.address
    fading = {each.interface for each in repository.addresses if each.deprecated and each.address == tunnel.here}
    fades = any(route.interface in fading and present in route.destination for route in repository.routes)
    for remote in (present,) if tunnel.native or tunnel.mobike else dict.fromkeys((present, *gateways)):
        ways = candidates(repository, remote, inner)
        if tunnel.mobike:
            # As charon does: by routes, and not before the present address is gone.
            ways = tuple(replace(way, preference=0) for way in ways)
        way = best(ways, tunnel.here)
        if fades and (way is None or tunnel.mobike):
            return None  # a deprecated address still works: charon's own choice, or there is no other of its IP version
        if way is None:
            continue
        works = any(each.address == tunnel.here for each in ways)
        stays = remote == present and (way.address == tunnel.here or (tunnel.mobike and works))
        return None if stays else (way.address, remote)
    return None
