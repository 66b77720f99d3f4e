"""The wires of the lab, as drawn in the package's docstring, and how they are laid."""

import subprocess
from dataclasses import dataclass, field

from tests.lab.netns import Namespace, batch

__all__ = ["ACCESS", "GATEWAY_LAN", "GATEWAY_WAN", "INNER_NETWORK", "INNER_POOL", "SERVER", "Access", "Topology", "lay"]

INNER_NETWORK = "10.1.0.0/24"
INNER_POOL = "10.9.0.0/24"
SERVER = "10.1.0.10"
GATEWAY_LAN = "10.1.0.1"
GATEWAY_WAN = "192.0.2.1"
ROUTER_WAN = "192.0.2.254"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An access network: the terminals' interface in it, the router's address, which is that of a bridge."""

    link: str
    network: str
    router: str
    router_hardware: str

    @property
    def bridge(self) -> str:
        """The router's interface."""
        return self.link.removesuffix("0")

    def address(self, number: int) -> str:
        """Address and length for the terminal of a number (from 1)."""
        return f"{self.network}.{10 + number}/24"


ACCESS = (
    Access(link="wlan0", network="198.51.100", router="198.51.100.1", router_hardware="02:00:00:00:01:01"),
    Access(link="lte0", network="203.0.113", router="203.0.113.1", router_hardware="02:00:00:00:02:01"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What may differ from one lab to the next."""

    terminals: int = 1
    delay_ms: float = 10.0
    """One way; the round trip takes twice that."""
    loss_percent: float = 0.0
    """Of packets, in each direction."""
    masquerade: tuple[str, ...] = ()
    """Access links behind a NAT of the router that chooses random ports."""
    drop_esp: tuple[str, ...] = ()
    """Access links on which the router drops ESP."""
    attacker: bool = False
    """A host of its own on the lte network, 203.0.113.66."""
    sysctl: dict[str, str] = field(default_factory=dict)
    """More settings for every host, below /proc/sys/net."""

    @property
    def terminal_names(self) -> tuple[str, ...]:
        """Names of the terminals, without prefix."""
        return tuple(f"terminal{number}" for number in range(1, self.terminals + 1))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts, without prefix."""
        return ("router", "gateway", "server", *self.terminal_names, *(("attacker",) if self.attacker else ()))


def lay(topology: Topology, prefix: str) -> dict[str, Namespace]:
    """Make the namespaces, wires, addresses, routes and delays; one `ip` process for each host and one `tc`."""
    lines = [f"netns add {prefix}{host}" for host in topology.hosts]
    router = f"{prefix}router"
    lines += [
        f"link add wan0 netns {prefix}gateway type veth peer name wan netns {router}",
        f"link add lan0 netns {prefix}gateway type veth peer name eth0 netns {prefix}server",
    ]
    ports = {access.bridge: [f"{access.bridge}-{name}" for name in topology.terminal_names] for access in ACCESS}
    for access in ACCESS:
        for name in topology.terminal_names:
            lines.append(
                f"link add {access.link} netns {prefix}{name} type veth peer name {access.bridge}-{name} netns {router}"
            )
    if topology.attacker:
        lines.append(f"link add eth0 netns {prefix}attacker type veth peer name lte-attacker netns {router}")
        ports["lte"].append("lte-attacker")
    batch("ip", lines)
    spaces = {host: Namespace(prefix + host) for host in topology.hosts}

    for name, space in spaces.items():
        space.sysctl(_settings(name) | topology.sysctl)
        inside = ["link set lo up", *_configuration(name, topology, ports)]
        space.call(lambda inside=inside: batch("ip", inside))  # type: ignore[misc]
    delays = [
        f"qdisc add dev {interface} root netem delay {topology.delay_ms}ms limit 20000"
        + (f" loss {topology.loss_percent}%" if topology.loss_percent else "")
        for interface in ("wan", "wlan", "lte")
    ]
    spaces["router"].call(lambda: batch("tc", delays))
    # The router believes an announcement at once, as after the DHCP exchange that it stands for.
    spaces["router"].sysctl({f"ipv4/neigh/{access.bridge}/locktime": "0" for access in ACCESS})
    if rules := _rules(topology):
        spaces["router"].call(lambda: subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True))
    return spaces


def _settings(host: str) -> dict[str, str]:
    settings = {
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        "ipv6/conf/all/disable_ipv6": "1",
        "ipv6/conf/default/disable_ipv6": "1",
    }
    if host in {"router", "gateway"}:
        settings |= {
            "ipv4/ip_forward": "1",
            "ipv4/conf/all/send_redirects": "0",
            "ipv4/conf/default/send_redirects": "0",
        }
    if host == "router":
        settings |= {"ipv4/conf/all/arp_accept": "1"}
    return settings


def _configuration(host: str, topology: Topology, ports: dict[str, list[str]]) -> list[str]:
    if host == "router":
        lines = ["link set wan up", f"addr add {ROUTER_WAN}/24 dev wan"]
        for access in ACCESS:
            lines.append(f"link add {access.bridge} address {access.router_hardware} type bridge forward_delay 0")
            lines += [f"link set {port} master {access.bridge} up" for port in ports[access.bridge]]
            lines += [f"link set {access.bridge} up", f"addr add {access.router}/24 dev {access.bridge}"]
        return lines
    if host == "gateway":
        return [
            "link set wan0 up",
            f"addr add {GATEWAY_WAN}/24 dev wan0",
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
    number = topology.terminal_names.index(host) + 1
    lines = [f"link set {access.link} up" for access in ACCESS]
    # Whoever is given an address by DHCP has talked to the router before: no ARP exchange delays the first packet.
    lines += [
        f"neigh replace {access.router} lladdr {access.router_hardware} dev {access.link} nud permanent"
        for access in ACCESS
    ]
    first = ACCESS[0]
    return [*lines, f"addr add {first.address(number)} dev {first.link}", f"route add default via {first.router}"]


def _rules(topology: Topology) -> str:
    rules = ""
    if topology.masquerade:
        lines = "".join(
            f'iifname "{link.removesuffix("0")}" oifname "wan" masquerade random\n' for link in topology.masquerade
        )
        rules += f"table ip nat {{\nchain out {{ type nat hook postrouting priority srcnat;\n{lines}}}\n}}\n"
    if topology.drop_esp:
        lines = "".join(f'iifname "{link.removesuffix("0")}" meta l4proto esp drop\n' for link in topology.drop_esp)
        rules += f"table ip drops {{\nchain pass {{ type filter hook forward priority filter;\n{lines}}}\n}}\n"
    return rules
