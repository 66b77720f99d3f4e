"""ESP that came to an address which its tunnel has left, and which still works."""

from swanroam.core.table import Table
from swanroam.wire.inner import parse_ip, readdressed

__all__ = ["sent_on"]


def sent_on(table: Table, spi: int, packet: bytes) -> bytes | None:
    """What takes the place of an ESP packet that came to an address which its tunnel has left; None: as it is."""
    tunnel = table.by_spi(spi)
    before, here = parse_ip(packet).destination, tunnel.path.local.address if tunnel else None
    if here is None or here == before or here.version != before.version:
        return None
    return readdressed(packet, here)
