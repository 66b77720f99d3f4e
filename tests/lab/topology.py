"""The wires of the lab, as drawn in the package's docstring, and how they are laid."""

import subprocess
from dataclasses import dataclass, field, replace

from tests.lab import nats
from tests.lab.nats import Box, Nat
from tests.lab.netns import Namespace, batch

__all__ = [
    "ACCESS",
    "GATEWAY_LAN",
    "GATEWAY_WAN",
    "GATEWAY_WAN6",
    "GATEWAY_WAN_SECOND",
    "INNER_NETWORK",
    "INNER_NETWORK6",
    "INNER_POOL",
    "INNER_POOL6",
    "ROUTER_WAN",
    "ROUTER_WAN6",
    "SERVER",
    "SERVER6",
    "Access",
    "Topology",
    "lay",
]

INNER_NETWORK = "10.1.0.0/24"
INNER_POOL = "10.9.0.0/24"
SERVER = "10.1.0.10"
GATEWAY_LAN = "10.1.0.1"
GATEWAY_WAN = "192.0.2.1"
GATEWAY_WAN_SECOND = "192.0.2.2"
ROUTER_WAN = "192.0.2.254"

# Where a link has IPv6; all of it besides what there is of IPv4, but on the terminals.
INNER_NETWORK6 = "fd01::/64"
INNER_POOL6 = "fd09::/120"
SERVER6 = "fd01::10"
GATEWAY_LAN6 = "fd01::1"
GATEWAY_WAN6 = "2001:db8:99::1"
ROUTER_WAN6 = "2001:db8:99::fe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An access network: the terminals' interface in it, the router's address, which is that of a bridge."""

    link: str
    network: str
    router: str
    """The terminals' next hop: the router, or the NAT before it."""
    router_hardware: str

    @property
    def bridge(self) -> str:
        """The router's interface."""
        return self.link.removesuffix("0")

    @property
    def private(self) -> str:
        """The network behind a NAT on this link, unless a story wants another."""
        return f"192.168.{43 + [access.link for access in ACCESS].index(self.link)}"

    def address(self, number: int) -> str:
        """Address and length for the terminal of a number (from 1)."""
        if self.version == 6:
            return f"{self.network}:{10 + number:x}/64"
        return f"{self.network}.{10 + number}/24"

    @property
    def version(self) -> int:
        """IP version of the terminals' addresses on it."""
        return 6 if ":" in self.network else 4

    def over6(self) -> "Access":
        """The same network with IPv6."""
        network = f"2001:db8:{1 + [access.link for access in ACCESS].index(self.link)}:"
        return replace(self, network=network, router=f"{network}:1")

    def hardware(self, number: int) -> str:
        """MAC address of a terminal, where the router has to know it."""
        return f"02:00:00:01:{[access.link for access in ACCESS].index(self.link):02x}:{number:02x}"


ACCESS = (
    Access(link="wlan0", network="198.51.100", router="198.51.100.1", router_hardware="02:00:00:00:01:01"),
    Access(link="lte0", network="203.0.113", router="203.0.113.1", router_hardware="02:00:00:00:02:01"),
    Access(link="eth0", network="198.18.3", router="198.18.3.1", router_hardware="02:00:00:00:03:01"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What may differ from one lab to the next."""

    terminals: int = 1
    delay_ms: float = 10.0
    """One way; the round trip takes twice that."""
    loss_percent: float = 0.0
    """Of packets, in each direction."""
    nats: tuple[Nat, ...] = ()
    """Access links behind a NAT; on the others terminals have the public addresses drawn in the package's docstring."""
    outer: tuple[int, ...] = (4, 4)
    """IP version of the terminals' addresses on wlan0, on lte0 and, where there is a third, on eth0; a link with NAT
    has IPv4."""
    attacker: bool = False
    """A host of its own on the lte network, 203.0.113.66."""
    second_home: bool = False
    """A second address of the gateway, 192.0.2.2, beside the first."""
    sysctl: dict[str, str] = field(default_factory=dict)
    """More settings for every host, below /proc/sys/net."""

    @property
    def terminal_names(self) -> tuple[str, ...]:
        """Names of the terminals, without prefix."""
        return tuple(f"terminal{number}" for number in range(1, self.terminals + 1))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts, without prefix."""
        natted = (box.name for nat in self.nats for box in self.boxes(nat.link))
        return ("router", "gateway", "server", *self.terminal_names, *(("attacker",) if self.attacker else ()), *natted)

    @property
    def public(self) -> tuple[Access, ...]:
        """The access networks as the router sees them, but for their IP version."""
        return ACCESS[: len(self.outer)]

    @property
    def accesses(self) -> tuple[Access, ...]:
        """The access networks as the terminals see them: behind a NAT the private one."""
        pairs = zip(self.public, self.outer, strict=True)
        return tuple(access.over6() if version == 6 else self._inside(access) for access, version in pairs)

    @property
    def homes(self) -> tuple[str, ...]:
        """The gateway's outer addresses of IPv4."""
        return (GATEWAY_WAN, GATEWAY_WAN_SECOND) if self.second_home else (GATEWAY_WAN,)

    @property
    def six(self) -> bool:
        """Whether there is IPv6 anywhere."""
        return 6 in self.outer

    def _inside(self, access: Access) -> Access:
        if not (chain := self.boxes(access.link)):
            return access
        address, hardware = chain[0].inside.partition("/")[0], chain[0].inside_hardware
        return replace(access, network=address.rpartition(".")[0], router=address, router_hardware=hardware)

    def boxes(self, link: str) -> tuple[Box, ...]:
        """The NATs on a link, the terminals' own first."""
        (access,) = (access for access in ACCESS if access.link == link)
        return tuple(
            box
            for nat in self.nats
            if nat.link == link
            for box in nats.boxes(
                nat,
                network=nat.network or access.private,
                public=f"{access.network}.2/24",
                router=access.router,
                router_hardware=access.router_hardware,
            )
        )


def lay(topology: Topology, prefix: str) -> dict[str, Namespace]:
    """Make the namespaces, wires, addresses, routes and delays; one `ip` process for each host and one `tc`."""
    lines = [f"netns add {prefix}{host}" for host in topology.hosts]
    router = f"{prefix}router"
    lines += [
        f"link add wan0 netns {prefix}gateway type veth peer name wan netns {router}",
        f"link add lan0 netns {prefix}gateway type veth peer name eth0 netns {prefix}server",
    ]
    ports: dict[str, list[str]] = {}
    for access in topology.public:
        chain = topology.boxes(access.link)
        # What terminals and NATs are connected to, one after the other: host, device there, key of its ports.
        outwards = [*((box.name, "lan", box.name) for box in chain), ("router", access.bridge, access.bridge)]
        wires = [(name, access.link, name, outwards[0]) for name in topology.terminal_names]
        wires += [(box.name, "wan", "nat", outer) for box, outer in zip(chain, outwards[1:], strict=True)]
        for host, interface, word, (target, device, key) in wires:
            port = f"{device}-{word}"
            lines.append(f"link add {interface} netns {prefix}{host} type veth peer name {port} netns {prefix}{target}")
            ports.setdefault(key, []).append(port)
    if topology.attacker:
        lines.append(f"link add eth0 netns {prefix}attacker type veth peer name lte-attacker netns {router}")
        ports["lte"].append("lte-attacker")
    batch("ip", lines)
    spaces = {host: Namespace(prefix + host) for host in topology.hosts}

    for name, space in spaces.items():
        space.sysctl(_settings(name) | (_settings6(name) if topology.six else {}) | topology.sysctl)
        inside = ["link set lo up", *_configuration(name, topology, ports)]
        inside += _configuration6(name, topology) if topology.six else []
        space.call(lambda inside=inside: batch("ip", inside))  # type: ignore[misc]
    delays = [
        f"qdisc add dev {interface} root netem delay {topology.delay_ms}ms limit 20000"
        + (f" loss {topology.loss_percent}%" if topology.loss_percent else "")
        for interface in ("wan", *(access.bridge for access in topology.public))
    ]
    spaces["router"].call(lambda: batch("tc", delays))
    # The router believes an announcement at once, as after the DHCP exchange that it stands for.
    spaces["router"].sysctl({f"ipv4/neigh/{access.bridge}/locktime": "0" for access in topology.public})
    for box in (box for nat in topology.nats for box in topology.boxes(nat.link)):
        rules = nats.rules(box)
        spaces[box.name].call(
            lambda rules=rules: subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        )  # type: ignore[misc]
        spaces[box.name].sysctl(nats.settings(box))
    return spaces


def _settings(host: str) -> dict[str, str]:
    settings = {
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        "ipv6/conf/all/disable_ipv6": "1",
        "ipv6/conf/default/disable_ipv6": "1",
    }
    natted = host.startswith(("nat-", "carrier-"))
    if natted or host in {"router", "gateway"}:
        settings |= {
            "ipv4/ip_forward": "1",
            "ipv4/conf/all/send_redirects": "0",
            "ipv4/conf/default/send_redirects": "0",
        }
    if natted or host == "router":
        settings |= {"ipv4/conf/all/arp_accept": "1"}
    return settings


def _settings6(host: str) -> dict[str, str]:
    settings = {
        f"ipv6/conf/{which}/{key}": "0" for which in ("all", "default") for key in ("disable_ipv6", "accept_ra")
    }
    if host in {"router", "gateway"}:
        settings |= {"ipv6/conf/all/forwarding": "1"}
    return settings


def _configuration6(host: str, topology: Topology) -> list[str]:
    """What a host has besides, where there is IPv6; addresses are there at once, without detection of duplicates."""
    six = [access for access in topology.accesses if access.version == 6]
    if host == "router":
        lines = [f"addr add {ROUTER_WAN6}/64 dev wan nodad"]
        for access in six:
            lines.append(f"addr add {access.router}/64 dev {access.bridge} nodad")
            # As it has seen every terminal before: there are no announcements as for IPv4.
            for number in range(1, topology.terminals + 1):
                address = access.address(number).partition("/")[0]
                lines.append(nats.known(address, access.hardware(number), access.bridge))
        return lines
    if host == "gateway":
        return [
            f"addr add {GATEWAY_WAN6}/64 dev wan0 nodad",
            f"route add default via {ROUTER_WAN6} dev wan0",
            f"addr add {GATEWAY_LAN6}/64 dev lan0 nodad",
        ]
    if host == "server":
        return [f"addr add {SERVER6}/64 dev eth0 nodad", f"route add default via {GATEWAY_LAN6} dev eth0"]
    return []


def _configuration(host: str, topology: Topology, ports: dict[str, list[str]]) -> list[str]:
    if host == "router":
        lines = ["link set wan up", f"addr add {ROUTER_WAN}/24 dev wan"]
        for access in topology.public:
            lines.append(f"link add {access.bridge} address {access.router_hardware} type bridge forward_delay 0")
            lines += [f"link set {port} master {access.bridge} up" for port in ports[access.bridge]]
            lines += [f"link set {access.bridge} up", f"addr add {access.router}/24 dev {access.bridge}"]
            for last in topology.boxes(access.link)[-1:]:
                lines.append(nats.known(last.outside.partition("/")[0], last.outside_hardware, access.bridge))
        return lines
    if host == "gateway":
        return [
            "link set wan0 up",
            *(f"addr add {address}/24 dev wan0" for address in topology.homes),
            f"route add default via {ROUTER_WAN}",
            "link set lan0 up",
            f"addr add {GATEWAY_LAN}/24 dev lan0",
        ]
    if host == "server":
        return ["link set eth0 up", f"addr add {SERVER}/24 dev eth0", f"route add default via {GATEWAY_LAN}"]
    if host == "attacker":
        return [
            "link set eth0 up",
            f"addr add {ACCESS[1].network}.66/24 dev eth0",
            f"route add default via {ACCESS[1].router}",
        ]
    if host not in topology.terminal_names:
        chain = next(chain for nat in topology.nats for chain in [topology.boxes(nat.link)] if host in _names(chain))
        position = _names(chain).index(host)
        return nats.configuration(chain[position], ports[host], chain[max(0, position - 1) : position])
    number = topology.terminal_names.index(host) + 1
    lines = [
        f"link set {access.link} address {access.hardware(number)}" for access in topology.accesses if topology.six
    ]
    lines += [f"link set {access.link} up" for access in topology.accesses]
    # Whoever is given an address by DHCP has talked to the router before: no ARP exchange delays the first packet.
    lines += [nats.known(access.router, access.router_hardware, access.link) for access in topology.accesses]
    first = topology.accesses[0]
    nodad = " nodad" if first.version == 6 else ""
    return [
        *lines,
        f"addr add {first.address(number)} dev {first.link}{nodad}",
        f"route add default via {first.router} dev {first.link}",
    ]


def _names(chain: tuple[Box, ...]) -> list[str]:
    return [box.name for box in chain]
