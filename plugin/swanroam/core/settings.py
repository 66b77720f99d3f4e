"""What the operator decided, as far as decisions depend on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from swanroam.model.path import IPAddress, IPNetwork
from swanroam.model.tunnel import IkeSa, Role

__all__ = ["Agreement", "Settings", "TunnelSettings"]


class Agreement(StrEnum):
    """How both ends come to know that the other takes part (patent page 7)."""

    NEGOTIATE = "negotiate"
    """By HELLO and HELLO-ACK through the tunnel."""
    CONFIGURED = "configured"
    """By fixed configuration: nothing is sent to find out, and updates are data or dummies."""
    OFF = "off"
    """It does not: the tunnel is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """Settings of the tunnels of one connection."""

    agreement: Agreement = Agreement.NEGOTIATE
    path_validation: bool = True
    """Gateway: challenge the terminal on its new path, and return to the old one if it does not answer."""
    mobike: bool | None = None
    """Whether charon moves the tunnels of this connection with MOBIKE; None: as far as can be told."""
    allow: tuple[IPNetwork, ...] = ()
    """Gateway: where the terminal's outer address may be; empty for anywhere."""
    gateways: tuple[IPAddress, ...] = ()
    """Addresses of the gateway, of either IP version.

    Terminal: besides that to which a tunnel was set up, and those that it is told. Gateway: those of its own that
    terminals are told; empty for those on the tunnel's interface.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings by swanctl connection name."""

    role: Role
    tunnels: Mapping[str, TunnelSettings] = field(default_factory=dict)
    """By connection name; "*" stands for all that are not named."""
    learned: dict[tuple[str, tuple[IPAddress, ...]], bool] = field(default_factory=dict, compare=False)
    """Whether a tunnel had MOBIKE when last that could be told: by connection, and on a gateway by inner addresses."""

    def of(self, connection: str) -> TunnelSettings:
        """The settings for a connection: by its name, by "*", or the default."""
        return self.tunnels.get(connection) or self.tunnels.get("*") or TunnelSettings()

    def mobike(self, sa: IkeSa) -> bool | None:
        """Whether charon moves an IKE_SA itself: as configured, as it tells, or as it was; None where nobody knows."""
        if sa.version == 1:
            return False
        tunnel = sa.name, sa.remote_vips
        if sa.mobike is not None:
            self.learned[tunnel] = sa.mobike
        configured = self.of(sa.name).mobike
        return configured if configured is not None else self.learned.get(tunnel)
