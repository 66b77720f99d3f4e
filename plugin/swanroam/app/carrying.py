"""Where an IKE message goes that travels with a tunnel's ESP in UDP; see wire/ike.py."""

from typing import Final

from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.ike import IkePacket

__all__ = ["UNLISTED_MAX", "Carrier"]

UNLISTED_MAX: Final = 1024
"""IKE_SAs remembered that charon does not list; anybody may begin one, so the oldest is forgotten."""


class Carrier:
    """Carries the IKE messages of the tunnels in a table.

    Whether a message is authentic is charon's to find out, as of any; where it answers to does not depend on the packet
    but on the tunnel's path, which only ESP moves.

    Also those of IKE_SAs that the table does not know: one that was rekeyed is not listed any more when its deletion is
    answered, in IKEv1 ten seconds later, and there a main mode succeeds it before charon tells of that. And those of
    tunnels that ended, while they are among the `parting` ones.
    """

    def __init__(self, table: Table, parting: Table) -> None:
        self._table, self._parting = table, parting
        self._unlisted: dict[int, TunnelKey] = {}

    def carried(self, packet: IkePacket) -> bytes | None:
        """What takes the place of a message from or to this machine's charon; None where it goes on as it is."""
        spi = packet.initiator_spi
        tunnel = self._table.by_ike_spi(spi) or self._parting.by_ike_spi(spi) or self._of_unlisted(packet)
        if tunnel is None or not tunnel.carries_ike:
            return None
        self._note(tunnel, spi)
        sa = next((sa for sa in tunnel.sas if sa.initiator_spi == spi), tunnel.sas[0])
        if sa.knows_nat:
            return None  # set up while nothing was carried: it goes on the port of ESP in UDP by itself
        if not packet.marked:
            return packet.marked_from(tunnel.path.local, tunnel.path.remote)
        return packet.bare_from(sa.remote, sa.local)

    def _of_unlisted(self, packet: IkePacket) -> Tunnel | None:
        if key := self._unlisted.get(packet.initiator_spi):
            return self._table.get(key) or self._parting.get(key)
        if not packet.begins_main_mode:
            return None
        found = [tunnel for tunnel in self._table if tunnel.carries_ike and _between(tunnel, packet)]
        # Of two terminals behind one NAT nothing tells which one is meant.
        return found[0] if len(found) == 1 else None

    def _note(self, tunnel: Tunnel, initiator_spi: int) -> None:
        for spi in (*(sa.initiator_spi for sa in tunnel.sas), initiator_spi):
            if spi not in self._unlisted:
                while len(self._unlisted) >= UNLISTED_MAX:
                    del self._unlisted[next(iter(self._unlisted))]
                self._unlisted[spi] = tunnel.key


def _between(tunnel: Tunnel, packet: IkePacket) -> bool:
    path = tunnel.path
    if packet.marked:
        return (packet.source, packet.destination) == (path.remote, path.local)
    return (packet.source.address, packet.destination.address) == path.addresses
