"""Where a tunnel runs: endpoints, paths, and the terminal's address repository (patent page 12, item 810)."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

__all__ = [
    "FORGOTTEN_PORT",
    "IKE_PORT",
    "NATT_PORT",
    "Candidate",
    "Endpoint",
    "IPAddress",
    "IPNetwork",
    "LocalAddress",
    "Origin",
    "Path",
    "Repository",
    "Route",
]

IKE_PORT: Final = 500
NATT_PORT: Final = 4500
"""Where ESP in UDP, and IKE with it, arrives (RFC 3948 section 2.1)."""

FORGOTTEN_PORT: Final = 1
"""What nobody sends ESP from: of a state that is to have the kernel report the source of the next packet. Not 0, which
charon takes for a CHILD_SA of a single CPU and ignores (strongSwan 6.1, kernel_netlink_ipsec.c, process_mapping)."""

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a path: an outer address and the UDP port of IKE or of ESP in UDP."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


Origin = IPAddress | Endpoint
"""Where ESP comes from: an address; with encapsulation in UDP an address and a port."""


@dataclass(frozen=True, slots=True)
class Path:
    """The outer addresses and ports that a tunnel uses now, and whether its ESP is encapsulated in UDP (RFC 3948)."""

    local: Endpoint
    remote: Endpoint
    encap: bool = False

    def __str__(self) -> str:
        if self.encap:
            return f"{self.local}...{self.remote} in UDP"
        return f"{self.local.address}...{self.remote.address}"

    @property
    def addresses(self) -> tuple[IPAddress, IPAddress]:
        """Outer addresses: of this end, of the other."""
        return self.local.address, self.remote.address

    @property
    def port_forgotten(self) -> bool:
        """Whether it is of a state that was made to forget the port of the other end."""
        return self.encap and self.remote.port == FORGOTTEN_PORT

    @property
    def origin(self) -> Origin:
        """Where ESP on this path comes from, as this end sees it."""
        return self.remote if self.encap else self.remote.address


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAddress:
    """An address the kernel reports on an interface of this machine."""

    address: IPAddress
    prefix_length: int
    interface: str
    usable: bool
    """The interface is up with carrier, and the address is neither tentative, deprecated, duplicate nor link-local."""
    preference: int = 0
    """What configuration and hooks add to this source; higher is better."""
    temporary: bool = False
    """A privacy address of IPv6 (RFC 8981), which the kernel makes only where it is to be preferred."""
    deprecated: bool = False
    """It still works, but nothing new is to use it (RFC 4862 section 5.5.4): it will be gone soon."""

    @property
    def works(self) -> bool:
        """Whether packets come to it."""
        return self.usable or self.deprecated


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A unicast route of the main or default routing table; routes that charon installs are not among them."""

    destination: IPNetwork
    interface: str
    metric: int
    """Kernel priority; lower is better."""
    gateway: IPAddress | None = None
    preferred_source: IPAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The terminal's outer addresses and routes at one moment."""

    addresses: tuple[LocalAddress, ...] = ()
    routes: tuple[Route, ...] = ()

    @property
    def working(self) -> frozenset[IPAddress]:
        """The addresses that packets come to."""
        return frozenset(each.address for each in self.addresses if each.works)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A local address from which a remote address can be reached, and how good that way is."""

    address: IPAddress
    interface: str
    preference: int
    route_prefix_length: int
    metric: int
    address_order: int = field(default=0)
    """Position among the addresses of the interface: the kernel's own choice comes first."""
