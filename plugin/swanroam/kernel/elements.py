"""Which elements the sets of the packet filter should have, and what changes when a tunnel does."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from swanroam.model.effects import Watch
from swanroam.model.path import Endpoint, IPAddress, Origin
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.nftables import Element, ElementChange, set_key

__all__ = ["WantedElements"]

FORMS: Final = ("", "6", "_udp", "_udp6")
"""How sets are named for IPv4, IPv6, and ESP in UDP over each."""
LEAVING: Final = frozenset(f"leaving{form}" for form in FORMS)
UNPROVEN: Final = frozenset(f"unproven{form}" for form in FORMS)
UNPROVEN_MS: Final = 10_000
"""A daemon that was killed must not leave a tunnel limited: longer than any validation takes, and no longer."""
# Known sources come before what is held, so that no packet of a known source is held meanwhile.
NAMES: Final = (
    *("away", "home", "leaving", "known", "waiting", "unproven", "down", "late", "bound"),
    *("carried", "arriving", "departing", "roaming"),
)
ORDER: Final = tuple(f"{name}{form}" for name in NAMES for form in FORMS)
MAPS: Final = frozenset(f"{name}{form}" for name in ("away", "home") for form in ("", "6"))


class WantedElements:
    """The elements of all watched tunnels. `holds`: whether ESP is held here, as on a gateway.

    Changes are to be made as returned, in one transaction: additions first, but for maps, where a key has one value.
    """

    def __init__(self, *, holds: bool, leaving_ms: int) -> None:
        self._holds, self._leaving_ms = holds, leaving_ms
        self._watched: dict[TunnelKey | tuple[str, TunnelKey], frozenset[Element]] = {}
        # Two keys may want the same element while one tunnel takes over from another.
        self._users: Counter[Element] = Counter()

    def watch(self, watch: Watch) -> list[ElementChange]:
        """What changes when a tunnel is watched as said from now on."""
        return self._replace(watch.key, frozenset(self._elements(watch)))

    def unwatch(self, key: TunnelKey) -> list[ElementChange]:
        """What changes when a tunnel is forgotten; nothing when it was not watched."""
        return self._replace(key, frozenset())

    def hold_down(self, key: TunnelKey) -> list[ElementChange]:
        """What changes when packets for a terminal wait, whatever it is watched for; nothing on a terminal."""
        waiting = (_element("down", address, address) for address in key.inner if self._holds)
        return self._replace(("down", key), frozenset(waiting))

    def let_down(self, key: TunnelKey) -> list[ElementChange]:
        """What changes when they wait no longer, but for what it is watched for."""
        return self._replace(("down", key), frozenset())

    def translate(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> list[ElementChange]:
        """What changes when a tunnel goes on with an address that the terminal has left."""
        away = _element("away", kept, kept, remote, data=actual.packed)
        home = _element("home", kept, actual, remote, data=kept.packed)
        return self._replace(("kept", key), frozenset((away, home)))

    def untranslate(self, key: TunnelKey) -> list[ElementChange]:
        """What changes when a tunnel has its address again, or is no more; nothing where none was translated."""
        return self._replace(("kept", key), frozenset())

    def everything(self) -> list[ElementChange]:
        """What fills empty sets."""
        return sorted(map(self._addition, self._users), key=_order)

    def _elements(self, watch: Watch) -> Iterator[Element]:
        for ike in watch.ike:
            yield Element("carried", ike.to_bytes(8))
        if (path := watch.carrying) is not None:
            yield _element("arriving", path.remote.address, path.remote)
            yield _element("departing", path.remote.address, *path.addresses)
        for spi in watch.spis:
            for inner in watch.inner:
                yield _element("bound", inner, spi, inner)
            for address in (*watch.late, *watch.vacant) if not self._holds else ():
                yield _element("late", address, address, spi)
            # Without a source that is known every packet would be held, of a tunnel that may not move.
            if not self._holds or not (watch.sources or watch.waiting):
                continue
            yield Element("roaming", set_key(spi))
            yield Element("roaming_udp", set_key(spi))
            for name, sources in (("known", watch.sources), ("leaving", watch.leaving), ("waiting", watch.waiting)):
                for source in sources:
                    for own in watch.own:
                        yield from _arriving(name, source, own, spi)
        for address in watch.inner if self._holds and watch.waiting else ():
            yield _element("down", address, address)
        for spi in watch.unproven if self._holds else ():
            for source in watch.sources:
                yield _origin("unproven", source, spi)

    def _replace(self, key: TunnelKey | tuple[str, TunnelKey], wanted: frozenset[Element]) -> list[ElementChange]:
        had = self._watched.pop(key, frozenset())
        new = [element for element in wanted - had if not self._users[element]]
        self._users.update(wanted)
        self._users.subtract(had)
        gone = [element for element in had if not self._users[element]]
        for element in gone:
            del self._users[element]
        if wanted:
            self._watched[key] = wanted
        changes = [self._addition(element) for element in new]
        # The kernel may have forgotten these already, and refuses to remove what is not there.
        changes += [self._addition(element) for element in gone if element.set_name in LEAVING | UNPROVEN]
        changes += [ElementChange(element, add=False) for element in gone]
        return sorted(changes, key=_order)

    def _addition(self, element: Element) -> ElementChange:
        timeout_ms = self._leaving_ms if element.set_name in LEAVING else None
        return ElementChange(element, add=True, timeout_ms=UNPROVEN_MS if element.set_name in UNPROVEN else timeout_ms)


def _element(name: str, address: IPAddress, *fields: Origin | int, data: bytes = b"") -> Element:
    return Element(name if address.version == 4 else f"{name}6", set_key(*fields), data)


def _arriving(name: str, origin: Origin, own: IPAddress, spi: int) -> Iterator[Element]:
    """What comes from there to an address of this machine; nothing does to one of the other IP version."""
    form, address = ("_udp", origin.address) if isinstance(origin, Endpoint) else ("", origin)
    if address.version == own.version:
        yield _element(f"{name}{form}", address, origin, own, spi)


def _origin(name: str, origin: Origin, spi: int) -> Element:
    if isinstance(origin, Endpoint):
        return _element(f"{name}_udp", origin.address, origin, spi)
    return _element(name, origin, origin, spi)


def _order(change: ElementChange) -> tuple[bool, bool, int]:
    name = change.element.set_name
    return name not in MAPS, not change.add if name not in MAPS else change.add, ORDER.index(name)
