"""Packets that go on as others: IKE that travels with a tunnel's ESP in UDP (wire/ike.py), and late ESP."""

from swanroam.core.table import Table
from swanroam.wire.ike import IkePacket
from swanroam.wire.inner import parse_ip, readdressed

__all__ = ["carried", "sent_on"]


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


def sent_on(table: Table, spi: int, packet: bytes) -> bytes | None:
    """What takes the place of an ESP packet that came to an address which its tunnel has left; None: as it is."""
    tunnel = table.by_spi(spi)
    before, here = parse_ip(packet).destination, tunnel.path.local.address if tunnel else None
    if here is None or here == before or here.version != before.version:
        return None
    return readdressed(packet, here)
