"""Which local address a tunnel should use: a pure ranking of the address repository (patent page 12, item 810).

Order of candidates, best first:

1. higher preference: what configuration and hooks say counts most;
2. longer route prefix, then lower metric: what the kernel itself goes by when it routes the outer packets. Where the
   two disagree the kernel would send packets with the source of one link out of another;
3. the kernel's own choice of source among the addresses of an interface (`address_order`);
4. interface name and address, so that the order is total and does not depend on that of the kernel's messages.

Hysteresis (`best`): a tunnel leaves a source that still works only for one that is better by 1 or 2. Steps 3 and 4 are
mere tie-breaks, not worth a move: a second address on the interface, or a twin link, does not pull a tunnel over. When
the present source is gone there is nothing to wait for, and the best candidate is taken at once.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_network

from swanroam.model.path import Candidate, IPAddress, LocalAddress, Repository, Route

__all__ = ["best", "candidates"]


def candidates(repository: Repository, remote: IPAddress, exclude: Collection[IPAddress]) -> tuple[Candidate, ...]:
    """The usable local addresses from which `remote` can be reached, best first; each address at most once.

    `exclude` holds addresses that are never outer addresses: the virtual IPs of tunnels.
    """
    usable = [
        address
        for address in repository.addresses
        if address.usable and address.address.version == remote.version and address.address not in exclude
    ]
    found: dict[IPAddress, Candidate] = {}
    ranked = (
        candidate
        for route in _best_route_of_each_interface(repository.routes, remote)
        for candidate in _of_interface(route, usable, remote)
    )
    for candidate in sorted(ranked, key=_order):
        found.setdefault(candidate.address, candidate)
    return tuple(found.values())


def best(ranked: Collection[Candidate], current: IPAddress | None) -> Candidate | None:
    """The candidate to use, given the source in use; None when there is no candidate. `ranked` in any order."""
    top = min(ranked, key=_order, default=None)
    present = min((candidate for candidate in ranked if candidate.address == current), key=_order, default=None)
    if top is None or present is None:
        return top
    return top if _merit(top) < _merit(present) else present


def _merit(candidate: Candidate) -> tuple[int, int, int]:
    """What is worth a move; lower is better."""
    return -candidate.preference, -candidate.route_prefix_length, candidate.metric


def _order(candidate: Candidate) -> tuple[tuple[int, int, int], int, str, bytes]:
    return _merit(candidate), candidate.address_order, candidate.interface, candidate.address.packed


def _best_route_of_each_interface(routes: Iterable[Route], remote: IPAddress) -> Iterable[Route]:
    chosen: dict[str, Route] = {}
    for route in routes:
        if route.destination.version != remote.version or remote not in route.destination:
            continue
        other = chosen.get(route.interface)
        if other is None or _route_order(route) < _route_order(other):
            chosen[route.interface] = route
    return chosen.values()


def _route_order(route: Route) -> tuple[int, int, bool, bytes, bytes]:
    gateway = route.gateway.packed if route.gateway else b""
    source = route.preferred_source.packed if route.preferred_source else b""
    # Two routes that differ in their preferred source only: one that has it says more.
    return -route.destination.prefixlen, route.metric, not source, gateway, source


def _of_interface(route: Route, usable: list[LocalAddress], remote: IPAddress) -> Iterable[Candidate]:
    """The addresses of a route's interface, and its preferred source wherever that is, the kernel's choice first.

    IPv4 (Linux devinet.c, inet_select_addr): the preferred source, else the first address whose subnet holds the
    gateway, else the first. IPv6 (RFC 6724 section 5, rules 7 and 8): temporary addresses, which exist where privacy is
    wanted, then the address with the longest prefix in common. Deprecated ones (rule 3) are no candidates at all.
    """
    own = [address for address in usable if address.interface == route.interface]
    named = [address for address in usable if address.address == route.preferred_source]
    named = sorted(named, key=lambda address: (address.interface != route.interface, address.interface))[:1]
    others = sorted(
        enumerate(own), key=lambda pair: (not pair[1].temporary, _distance(pair[1], route, remote), pair[0])
    )
    order = named + [address for _, address in others if address.address != route.preferred_source]
    for position, address in enumerate(order):
        yield Candidate(
            address=address.address,
            interface=route.interface,
            preference=address.preference,
            route_prefix_length=route.destination.prefixlen,
            metric=route.metric,
            address_order=position,
        )


def _distance(address: LocalAddress, route: Route, remote: IPAddress) -> int:
    """How far an address is from being the kernel's choice on this route; 0 is nearest."""
    if isinstance(address.address, IPv6Address):
        return (int(address.address) ^ int(remote)).bit_length()
    if route.gateway is None:
        return 0
    return 0 if route.gateway in ip_network((address.address, address.prefix_length), strict=False) else 1
