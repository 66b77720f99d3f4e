"""Links, addresses and routes of this machine, as told message by message, and the repository that they make up."""

from dataclasses import replace
from typing import Final

from swanroam.model.path import IPAddress, IPNetwork, LocalAddress, Repository, Route
from swanroam.wire.rtnetlink import AddressFact, Change, Fact, LinkFact, RouteFact

__all__ = ["Tables"]

RouteKey = tuple[int, IPNetwork, int, int]


class Tables:
    """What the kernel has told so far. Addresses keep the kernel's order, by which it chooses sources."""

    def __init__(self) -> None:
        self._links: dict[int, LinkFact] = {}
        self._addresses: dict[tuple[int, IPAddress, int], AddressFact] = {}
        self._routes: dict[RouteKey, list[RouteFact]] = {}

    def load(self, fact: Fact) -> None:
        """Take in a part of a dump."""
        match fact:
            case LinkFact():
                self._links[fact.index] = fact
            case AddressFact():
                self._addresses[_address_key(fact)] = fact
            case RouteFact():
                same = self._routes.setdefault(fact.key, [])
                if fact not in same:
                    same.append(fact)

    def adopt(self, dumped: "Tables", *, complete: bool) -> None:
        """Replace what is known by a finished dump: everything, or only the routes."""
        self._routes = dumped._routes
        if complete:
            self._links, self._addresses = dumped._links, dumped._addresses

    def apply(self, change: Change) -> None:
        """Take in an event."""
        fact = change.fact
        match fact:
            case RouteFact() if change.gone:
                self._remove_route(fact)
            case RouteFact():
                self._add_route(fact, replaces=change.replaces)
            case LinkFact() if change.gone:
                self._links.pop(fact.index, None)
            case AddressFact() if change.gone:
                self._addresses.pop(_address_key(fact), None)
            case _:
                self.load(fact)

    def drop_silently(self, change: Change) -> bool:
        """Drop the IPv4 routes that the kernel drops on this event without a word, and what a lost interface had.

        True when there may be more to it than these rules, so that the routes should be read anew.
        """
        fact = change.fact
        match fact:
            case LinkFact() if change.gone or not fact.up:
                if change.gone:
                    self._addresses = {key: kept for key, kept in self._addresses.items() if kept.index != fact.index}
                self._drop_hops(fact.index, (4, 6) if change.gone else (4,))
                return True
            case AddressFact() if change.gone:
                left = [other for other in self._addresses.values() if other.address.version == fact.address.version]
                if fact.address.version == 4 and all(other.index != fact.index for other in left):
                    self._drop_hops(fact.index, (4,))
                if all(other.address != fact.address for other in left):
                    self._drop_source(fact.address)
                return True
            case RouteFact(destination=destination):
                # Siblings of IPv6 multipath routes are told one by one or all together, depending on the kernel.
                return destination.version == 6 and (len(fact.hops) > 1 or change.gone)
            case _:
                return False

    def repository(self) -> Repository:
        """The repository that all this makes up."""
        links = self._links
        addresses = tuple(
            LocalAddress(
                address=fact.address,
                prefix_length=fact.prefix_length,
                interface=links[fact.index].name,
                usable=fact.usable and links[fact.index].working,
                temporary=fact.temporary,
                deprecated=fact.deprecated and links[fact.index].working,
            )
            for fact in self._addresses.values()
            if fact.index in links
        )
        routes = (
            Route(
                destination=fact.destination,
                interface=links[hop.index].name,
                metric=fact.metric,
                gateway=hop.gateway,
                preferred_source=fact.preferred_source,
            )
            for same in self._routes.values()
            for fact in same
            for hop in fact.hops
            if hop.index in links
        )
        return Repository(addresses=addresses, routes=tuple(dict.fromkeys(routes)))

    def _add_route(self, fact: RouteFact, *, replaces: bool) -> None:
        same = self._routes.setdefault(fact.key, [])
        if fact in same:
            same.remove(fact)
        if same and (replaces or fact.destination.version == 6):
            same[0] = fact
        else:
            same.append(fact)

    def _remove_route(self, fact: RouteFact) -> None:
        same = self._routes.get(fact.key, [])
        if fact in same:
            same.remove(fact)
            return
        # An IPv6 next hop may be told as part of a route of several when it comes, and alone when it goes.
        kept = ((other, tuple(hop for hop in other.hops if hop not in fact.hops)) for other in same)
        self._routes[fact.key] = [replace(other, hops=hops) for other, hops in kept if hops]

    def _drop_hops(self, index: int, versions: tuple[int, ...]) -> None:
        for key, same in self._routes.items():
            if key[DESTINATION].version in versions and any(hop.index == index for fact in same for hop in fact.hops):
                kept = ((fact, tuple(hop for hop in fact.hops if hop.index != index)) for fact in same)
                self._routes[key] = [replace(fact, hops=hops) for fact, hops in kept if hops]

    def _drop_source(self, source: IPAddress) -> None:
        for key, same in self._routes.items():
            if any(fact.preferred_source == source for fact in same):
                kept = [fact for fact in same if fact.preferred_source != source]
                # IPv6 keeps the route and forgets the source (ip6_route.c, rt6_remove_prefsrc).
                bare = [replace(fact, preferred_source=None) for fact in same if fact.preferred_source == source]
                self._routes[key] = kept + (bare if source.version == 6 else [])


DESTINATION: Final = 1


def _address_key(fact: AddressFact) -> tuple[int, IPAddress, int]:
    return fact.index, fact.address, fact.prefix_length
