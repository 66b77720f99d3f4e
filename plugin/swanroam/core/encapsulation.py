"""Whether a tunnel goes in UDP (RFC 3948) on a path, as far as that can be known before anybody has answered on it.

    the tunnel was set up in UDP                                    in UDP: its peer expects it
    the source is private and the gateway is not                    in UDP: there is a NAT, whatever else there is
    a NAT was found before when the terminal had this address       in UDP
    otherwise                                                       plain, and in UDP when nobody acknowledged three
                                                                    UPDATEs (terminal.on_update_timer)

In UDP first costs nothing where there is a NAT: the first data packet is the update. Plain first would lose all that
is sent until an acknowledgement is missed, as most NATs drop ESP or take it for one host only: in the lab (test_nat, a
packet each 10 ms) a gap of 1,500 ms and 149 packets down, beside 80 ms and 4. Where there is none, in
UDP first would mean a second change, back to plain, in each move.
"""

from ipaddress import IPv4Network
from typing import Final

from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IKE_PORT, NATT_PORT, Endpoint, IPAddress, Path

__all__ = ["in_udp", "plain", "translated_surely", "way"]

PRIVATE: Final = tuple(
    map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)  # RFC 1918 section 3, RFC 6598 section 7


def translated_surely(source: IPAddress, remote: IPAddress) -> bool:
    """Whether packets of this source cannot reach that address but through a NAT."""
    return source.version == 4 and _private(source) and not _private(remote)


def way(tunnel: Tunnel, source: IPAddress, remote: IPAddress | None = None) -> Path:
    """The path that the terminal takes when its source is this one, to `remote`, or the gateway's present address."""
    remote = remote or tunnel.path.remote.address
    if tunnel.native or translated_surely(source, remote) or source in tunnel.translated:
        return in_udp(tunnel, source, remote)
    return plain(source, remote)


def in_udp(tunnel: Tunnel, source: IPAddress, remote: IPAddress | None = None) -> Path:
    """The path in UDP; the gateway's port may be another where it is behind a NAT itself."""
    present = tunnel.path.remote
    remote = remote or present.address
    port = present.port if tunnel.path.encap and remote == present.address else NATT_PORT
    return Path(Endpoint(source, NATT_PORT), Endpoint(remote, port), encap=True)


def plain(local: IPAddress, remote: IPAddress) -> Path:
    """The path without UDP."""
    return Path(Endpoint(local, IKE_PORT), Endpoint(remote, IKE_PORT))


def _private(address: IPAddress) -> bool:
    return any(address in network for network in PRIVATE)
