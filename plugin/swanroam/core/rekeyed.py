"""CHILD_SAs of IKEv1 that others have taken over from: a terminal has charon delete them.

charon keeps them until their lifetime ends. Told of a move it has one CHILD_SA of the reqid follow, the oldest
(migrate_job.c). The one in use it goes on believing where that began; it knows an inbound SPI by that address
(child_sa_manager.c), and does not find it when it is to be rekeyed. A gateway's own address stays.
"""

from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import DeleteChild
from swanroam.model.tunnel import Role

__all__ = ["deletions"]


def deletions(tunnel: Tunnel) -> tuple[DeleteChild, ...]:
    """What to have deleted, once nothing is on its way by it any more."""
    if tunnel.role is Role.GATEWAY or tunnel.native or not tunnel.capability.allows_moves:
        return ()
    every = [child for sa in tunnel.sas if sa.version == 1 for child in sa.children]
    successors = {child.reqid for child in every if child.state == "INSTALLED"}
    rekeyed = (child for child in every if child.state == "REKEYED" and child.reqid in successors)
    return tuple(DeleteChild(key=tunnel.key, unique_id=child.unique_id) for child in rekeyed)
