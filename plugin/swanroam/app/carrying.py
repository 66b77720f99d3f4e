"""Where an IKE message goes that travels with a tunnel's ESP in UDP; see wire/ike.py."""

from swanroam.core.table import Table
from swanroam.wire.ike import IkePacket

__all__ = ["carried"]


def carried(table: Table, packet: IkePacket) -> bytes | None:
    """What takes the place of a message from or to this machine's charon; None where it goes on as it is.

    Whether a message is authentic is charon's to find out, as of any; where it answers to does not depend on the packet
    but on the tunnel's path, which only ESP moves.
    """
    tunnel = table.by_ike_spi(packet.initiator_spi)
    if tunnel is None or not tunnel.carries_ike:
        return None
    if not packet.marked:
        return packet.marked_from(tunnel.path.local, tunnel.path.remote)
    sa = next(sa for sa in tunnel.sas if sa.initiator_spi == packet.initiator_spi)
    return packet.bare_from(sa.remote, sa.local)
