"""What the operator decided, as far as decisions depend on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from swanroam.model.path import IPNetwork
from swanroam.model.tunnel import Role

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
    allow: tuple[IPNetwork, ...] = ()
    """Gateway: where the terminal's outer address may be; empty for anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings by swanctl connection name."""

    role: Role
    tunnels: Mapping[str, TunnelSettings] = field(default_factory=dict)
    """By connection name; "*" stands for all that are not named."""

    def of(self, connection: str) -> TunnelSettings:
        """The settings for a connection: by its name, by "*", or the default."""
        return self.tunnels.get(connection) or self.tunnels.get("*") or TunnelSettings()
