"""Where an IKE message goes that travels with a tunnel's ESP in UDP; see wire/ike.py."""

from typing import Final

from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.ike import IkePacket

__all__ = ["Carrier"]

BEGUN_MAX: Final = 256
"""IKE_SAs that were begun and are not established yet; anybody can begin one, so the oldest is forgotten."""


class Carrier:
    """Carries the IKE messages of the tunnels in a table.

    Whether a message is authentic is charon's to find out, as of any; where it answers to does not depend on the packet
    but on the tunnel's path, which only ESP moves.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._begun: dict[int, TunnelKey] = {}

    def carried(self, packet: IkePacket) -> bytes | None:
        """What takes the place of a message from or to this machine's charon; None where it goes on as it is."""
        tunnel = self._table.by_ike_spi(packet.initiator_spi)
        if tunnel is not None:
            self._begun.pop(packet.initiator_spi, None)
        else:
            tunnel = self._of_begun(packet)
        if tunnel is None or not tunnel.carries_ike:
            return None
        sa = next((sa for sa in tunnel.sas if sa.initiator_spi == packet.initiator_spi), tunnel.sas[0])
        if sa.knows_nat:
            return None  # set up while nothing was carried: it goes on the port of ESP in UDP by itself
        if not packet.marked:
            return packet.marked_from(tunnel.path.local, tunnel.path.remote)
        return packet.bare_from(sa.remote, sa.local)

    def _of_begun(self, packet: IkePacket) -> Tunnel | None:
        """The tunnel whose IKE_SA is about to get a successor of which charon does not tell yet."""
        if key := self._begun.get(packet.initiator_spi):
            return self._table.get(key)
        if not packet.begins_main_mode:
            return None
        found = [tunnel for tunnel in self._table if tunnel.carries_ike and _between(tunnel, packet)]
        if len(found) != 1:
            return None  # of two terminals behind one NAT nothing tells which one is meant
        while len(self._begun) >= BEGUN_MAX:
            del self._begun[next(iter(self._begun))]
        self._begun[packet.initiator_spi] = found[0].key
        return found[0]


def _between(tunnel: Tunnel, packet: IkePacket) -> bool:
    path = tunnel.path
    if packet.marked:
        return (packet.source, packet.destination) == (path.remote, path.local)
    return (packet.source.address, packet.destination.address) == path.addresses
