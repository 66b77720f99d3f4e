"""Keeps tunnels away from metered links, which are told by the names of their interfaces.

[hooks.metered]
interfaces = ["wwan*", "lte*"]  # shell patterns; without any the plugin has nothing to do
preference = -100               # added to the preference of their addresses
veto = false                    # true: never move a tunnel onto them, even when there is no other way
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from swanroam.hookspecs import hookimpl
from swanroam.model.path import IPAddress, LocalAddress, Path
from swanroam_hooks.options import Options

__all__ = ["Metered"]

REMEMBERED: Final = 1024


class Metered:
    """Lowers the preference of addresses on metered interfaces, and vetoes moves onto them when told to."""

    def __init__(self) -> None:
        self._patterns: tuple[str, ...] = ()
        self._preference = -100
        self._veto = False
        # A path has addresses only; their interfaces were seen when they were ranked. Both run on one thread.
        self._interfaces: dict[IPAddress, str] = {}

    @hookimpl
    def swanroam_configure(self, options: Mapping[str, object]) -> bool:
        """Read the options; False without patterns."""
        read = Options(options, ("interfaces", "preference", "veto"))
        self._patterns = read.strings("interfaces", ())
        self._preference = read.integer("preference", self._preference)
        self._veto = read.boolean("veto", self._veto)
        return bool(self._patterns)

    @hookimpl
    def swanroam_rank_path(self, address: LocalAddress) -> int | None:
        """Rank addresses on metered interfaces lower."""
        self._interfaces.pop(address.address, None)
        while len(self._interfaces) >= REMEMBERED:
            del self._interfaces[next(iter(self._interfaces))]
        self._interfaces[address.address] = address.interface
        return self._preference if self._metered(address.interface) else None

    @hookimpl
    def swanroam_veto_move(self, old: Path, new: Path) -> str | None:
        """Veto a move onto a metered interface, unless the tunnel is on one already: it would only be lost."""
        if not self._veto:
            return None
        interface = self._interfaces.get(new.local.address)
        before = self._interfaces.get(old.local.address)
        if interface is None or not self._metered(interface) or (before is not None and self._metered(before)):
            return None
        return f"{interface} is metered"

    def _metered(self, interface: str) -> bool:
        return any(fnmatchcase(interface, pattern) for pattern in self._patterns)
