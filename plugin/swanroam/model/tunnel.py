"""Tunnels as charon and the kernel describe them: IKE_SA, CHILD_SA, selectors, and what swanroam knows besides."""

from dataclasses import dataclass, field
from enum import StrEnum

from swanroam.model.path import Endpoint, IPAddress, IPNetwork, Path

__all__ = ["Capability", "ChildSa", "IkeSa", "Mode", "Nat", "Role", "Selector", "TunnelKey"]


class Role(StrEnum):
    """Which end of the tunnel this machine is."""

    TERMINAL = "terminal"
    """The roaming end (patent 105): initiator with virtual addresses of its own."""
    GATEWAY = "gateway"
    """The fixed end (patent 100): responder that gave the virtual addresses out."""


class Capability(StrEnum):
    """Whether the other end is known to take part (patent page 7: the terminal must be known to tell of its moves)."""

    NEGOTIATED = "negotiated"
    CONFIGURED = "configured"
    NONE = "none"
    PENDING = "pending"

    @property
    def allows_moves(self) -> bool:
        """Whether tunnels with this capability may be moved at all."""
        return self in (Capability.NEGOTIATED, Capability.CONFIGURED)


class Nat(StrEnum):
    """Who is behind a network address translator, as far as this end knows."""

    NONE = "none"
    LOCAL = "local"
    REMOTE = "remote"
    BOTH = "both"
    UNKNOWN = "unknown"

    @property
    def found(self) -> bool:
        """Whether there is one."""
        return self in (Nat.LOCAL, Nat.REMOTE, Nat.BOTH)


class Mode(StrEnum):
    """Encapsulation mode of a CHILD_SA (RFC 4301 section 3.2; BEET as strongSwan has it)."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"
    BEET = "beet"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Selector:
    """A traffic selector (RFC 4301 section 4.4.1.1): network, protocol (0 any), inclusive port range."""

    network: IPNetwork
    protocol: int = 0
    first_port: int = 0
    last_port: int = 65535

    def __str__(self) -> str:
        if self.protocol == 0 and (self.first_port, self.last_port) == (0, 65535):
            return str(self.network)
        return f"{self.network}[{self.protocol}/{self.first_port}-{self.last_port}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSa:
    """A CHILD_SA as `list-sas` reports it. SPIs are host-order integers; inbound is what this machine receives.

    They are 0 where charon does not tell: before the CHILD_SA is installed, and while it is moved.
    """

    name: str
    unique_id: int
    reqid: int
    spi_in: int
    spi_out: int
    mode: Mode = Mode.TUNNEL
    protocol: str = "ESP"
    state: str = "INSTALLED"
    encap: bool = False
    encryption: str = ""
    """charon's word, as "AES_GCM_16"; empty while it does not tell."""
    ipcomp: bool = False
    """Whether packets are compressed (RFC 3173): there is a second state, of IPComp, for each ESP state."""
    local_selectors: tuple[Selector, ...] = ()
    remote_selectors: tuple[Selector, ...] = ()
    packets_in: int = field(default=0, compare=False)
    """Packets that the kernel took in when charon was asked; they make no other CHILD_SA of it."""
    packets_out: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSa:
    """An IKE_SA as `list-sas` reports it, with its CHILD_SAs."""

    name: str
    """The swanctl connection name."""
    unique_id: int
    version: int
    """1 or 2."""
    state: str
    """charon's word: CREATED, CONNECTING, ESTABLISHED, REKEYING, REKEYED, DELETING, DESTROYING, PASSIVE."""
    initiator: bool
    """Whether this machine began the IKE_SA."""
    initiator_spi: int
    responder_spi: int
    local: Endpoint
    remote: Endpoint
    local_vips: tuple[IPAddress, ...] = ()
    """Virtual IPs this machine was given."""
    remote_vips: tuple[IPAddress, ...] = ()
    """Virtual IPs this machine gave out."""
    nat_local: bool = False
    nat_remote: bool = False
    nat_fake: bool = False
    """This end pretends to be behind a NAT (`encap = yes`)."""
    children: tuple[ChildSa, ...] = ()

    @property
    def established(self) -> bool:
        """Whether CHILD_SAs of this IKE_SA carry data now."""
        return self.state in ("ESTABLISHED", "REKEYING")

    @property
    def connecting(self) -> bool:
        """Whether charon is still setting it up."""
        return self.state in ("CREATED", "CONNECTING")

    @property
    def mobike(self) -> bool | None:
        """Whether charon moves this IKE_SA itself (RFC 4555); None when that cannot be told.

        A strongSwan initiator that offers MOBIKE leaves port 500 with IKE_AUTH, also where no NAT was found, and one
        with `mobike = no` stays (RFC 4555 section 3.3). Behind a NAT, also a pretended one, both are on 4500, and
        nothing tells them apart.
        """
        if self.version == 1:
            return False
        if self.knows_nat:
            return None
        return self.local.port != 500 or self.remote.port != 500

    @property
    def knows_nat(self) -> bool:
        """Whether charon found a NAT, or pretends to be behind one, and sends on the port of ESP in UDP."""
        return self.nat_local or self.nat_remote or self.nat_fake

    @property
    def nat(self) -> Nat:
        """Who is behind a NAT, as charon found when it set the IKE_SA up."""
        if self.nat_local:
            return Nat.BOTH if self.nat_remote else Nat.LOCAL
        return Nat.REMOTE if self.nat_remote else Nat.NONE

    @property
    def path(self) -> Path:
        """The path as charon believes it."""
        return Path(self.local, self.remote, any(child.encap for child in self.children))


@dataclass(frozen=True, slots=True)
class TunnelKey:
    """What names a tunnel through rekeys, reauthentications and moves: connection name and inner addresses."""

    name: str
    inner: tuple[IPAddress, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.name}[{','.join(str(address) for address in self.inner)}]"
