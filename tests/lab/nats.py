"""NATs between terminals and the internet: how they are laid, and what they do while a story is told.

::

    terminals        nat-lte0                                 router
    +--------+       +---------------------------------+      +-----------------
    | lte0   +-------+ lan 192.168.44.1                |      |
    +--------+       |                 wan 203.0.113.2 +------+ lte 203.0.113.1
                     +---------------------------------+      +-----------------

With a carrier's NAT there is a second one, carrier-lte0, between: wan of nat-lte0 is 100.64.0.2 then, lan of
carrier-lte0 100.64.0.1, and its wan has the public address.
"""

import itertools
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LinkRefused
from tests.lab.hosts import Host
from tests.lab.links import hardware_bytes
from tests.lab.netns import Namespace

__all__ = ["Box", "Nat", "NatOfLink", "boxes", "configuration", "rules", "settings"]

CARRIER_NETWORK = "100.64.0"
NETLINK_NETFILTER = 12
# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE = 1, 2
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """A NAT on an access link; it masquerades with random ports."""

    link: str
    network: str = ""
    """Private network of the terminals, three bytes of it; empty for 192.168.43 (wlan0) or 192.168.44 (lte0)."""
    drop_esp: bool = True
    """Whether ESP without encapsulation gets lost in it, as in most."""
    idle_s: int | None = None
    """Seconds after which it forgets a UDP mapping that nobody uses; the kernel's 30 and 120 where None."""
    carrier: bool = False
    """Whether a second NAT is behind it, with 100.64.0.0/10 between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One NAT of the one or two on a link, as a host with an inside, `lan`, and an outside, `wan`."""

    name: str
    nat: Nat
    inside: str
    inside_hardware: str
    outside: str
    outside_hardware: str
    next_hop: str
    next_hardware: str


def boxes(nat: Nat, *, network: str, public: str, router: str, router_hardware: str) -> tuple[Box, ...]:
    """The NATs of a link, the terminals' own first; `network` and `public` are of its inside and outside."""
    # Unlike for each link: the router's differ in the last but one byte.
    home_hardware, carrier_hardware = (f"02:00:00:{router_hardware[12:14]}:{place}:" for place in ("01", "02"))
    carried = nat.carrier
    home = Box(
        name=f"nat-{nat.link}",
        nat=nat,
        inside=f"{network}.1/24",
        inside_hardware=f"{home_hardware}01",
        outside=f"{CARRIER_NETWORK}.2/10" if carried else public,
        outside_hardware=f"{home_hardware}02",
        next_hop=f"{CARRIER_NETWORK}.1" if carried else router,
        next_hardware=f"{carrier_hardware}01" if carried else router_hardware,
    )
    if not carried:
        return (home,)
    carrier = Box(
        name=f"carrier-{nat.link}",
        nat=nat,
        inside=f"{CARRIER_NETWORK}.1/10",
        inside_hardware=f"{carrier_hardware}01",
        outside=public,
        outside_hardware=f"{carrier_hardware}02",
        next_hop=router,
        next_hardware=router_hardware,
    )
    return home, carrier


def configuration(box: Box, ports: Sequence[str], neighbours: Sequence[Box] = ()) -> list[str]:
    """Commands for `ip`; `ports` are wires on the inside, `neighbours` NATs there: terminals announce themselves."""
    lines = [f"link add lan address {box.inside_hardware} type bridge forward_delay 0"]
    lines += [f"link set {port} master lan up" for port in ports]
    lines += ["link set lan up", f"addr add {box.inside} dev lan"]
    lines += [f"link set wan address {box.outside_hardware}", "link set wan up", f"addr add {box.outside} dev wan"]
    lines += [known(box.next_hop, box.next_hardware, "wan"), f"route add default via {box.next_hop}"]
    return lines + [known(_bare(inner.outside), inner.outside_hardware, "lan") for inner in neighbours]


def known(address: str, hardware: str, interface: str) -> str:
    """Command for `ip`: no ARP exchange delays the first packet to a neighbour."""
    return f"neigh replace {address} lladdr {hardware} dev {interface} nud permanent"


def rules(box: Box) -> str:
    """Rules for `nft`: what nobody inside asked for is dropped, and neither answered nor sent back out."""
    unasked = 'iifname "wan" ct state new drop\n'
    esp = "meta l4proto esp drop\n" if box.nat.drop_esp else ""
    return f"""table ip nat {{
chain out {{ type nat hook postrouting priority srcnat; oifname "wan" masquerade random; }}
}}
table ip filter {{
chain pass {{ type filter hook forward priority filter;
{unasked}{esp}}}
chain own {{ type filter hook input priority filter;
{unasked}}}
}}
"""


def settings(box: Box) -> dict[str, str]:
    """Settings below /proc/sys/net; those of conntrack are there once rules that use it are."""
    idle = box.nat.idle_s
    keys = ("netfilter/nf_conntrack_udp_timeout", "netfilter/nf_conntrack_udp_timeout_stream")
    return {"ipv4/neigh/lan/locktime": "0"} | ({} if idle is None else {key: str(idle) for key in keys})


class NatOfLink:
    """The NAT or NATs of an access link, while the lab runs."""

    def __init__(self, chain: Sequence[Box], spaces: dict[str, Namespace], folder: Path) -> None:
        self._boxes = chain
        self.hosts = [Host(box.name, spaces[box.name], folder / box.name) for box in chain]
        self._numbers = itertools.count(3)
        self.public = _bare(chain[-1].outside)
        """The address that the gateway sees."""

    def forget(self) -> None:
        """Forget every mapping: the next packet of each flow gets another port."""
        for host in self.hosts:
            _flush_conntrack(host)

    def change_address(self, router: Host, interface: str) -> None:
        """Get the next public address, known to the router at once, and forget every mapping."""
        outside, links = self._boxes[-1], self.hosts[-1].links
        length = outside.outside.partition("/")[2]
        old, new = self.public, f"{self.public.rpartition('.')[0]}.{next(self._numbers)}"
        router.links.apply([router.links.neighbour(interface, new, links.hardware("wan"))])
        links.apply(
            [
                links.remove_address("wan", f"{old}/{length}"),
                links.add_address("wan", f"{new}/{length}"),
                links.neighbour("wan", outside.next_hop, hardware_bytes(outside.next_hardware)),
                links.default_route("wan", outside.next_hop),
            ]
        )
        self.public = new
        self.forget()


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _flush_conntrack(host: Host) -> None:
    """IPCTNL_MSG_CT_DELETE without a tuple: all entries of the namespace."""
    with (
        host.namespace.entered(),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netfilter,
    ):
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
        family = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
        netfilter.send(struct.pack("=IHHII", 20, kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + family)
        (code,) = struct.unpack_from("=i", netfilter.recv(4096), 16)
    if code:
        raise LinkRefused(f"{host.name}: forgetting the mappings: {os.strerror(-code)}")
