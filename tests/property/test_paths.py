"""Properties of the ranking: total, deterministic, and faithful to what is excluded."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from swanroam.core.paths import best, candidates
from swanroam.model.path import Candidate, IPAddress, LocalAddress, Repository, Route

REMOTES: Sequence[IPAddress] = (IPv4Address("10.0.0.7"), IPv6Address("fd00::7"))
INTERFACES = st.sampled_from(["a", "b", "c"])
# Few values, so that addresses, gateways and remotes meet.
NUMBERS = st.integers(min_value=0, max_value=15)


def addresses(version: int) -> st.SearchStrategy[IPAddress]:
    base = REMOTES[version == 6]
    return NUMBERS.map(lambda number: type(base)(int(base) + number))


@st.composite
def local_addresses(draw: st.DrawFn) -> LocalAddress:
    version = draw(st.sampled_from([4, 6]))
    return LocalAddress(
        address=draw(addresses(version)),
        prefix_length=draw(st.integers(min_value=24, max_value=32)),
        interface=draw(INTERFACES),
        usable=draw(st.booleans()),
        preference=draw(st.integers(min_value=-1, max_value=1)),
    )


@st.composite
def routes(draw: st.DrawFn) -> Route:
    version = draw(st.sampled_from([4, 6]))
    length = draw(st.sampled_from([0, 8, 28]))
    kind = IPv4Network if version == 4 else IPv6Network
    return Route(
        destination=kind((int(draw(addresses(version))), length), strict=False),
        interface=draw(INTERFACES),
        metric=draw(st.integers(min_value=0, max_value=2)),
        gateway=draw(st.none() | addresses(version)),
        preferred_source=draw(st.none() | addresses(version)),
    )


REPOSITORIES = st.builds(
    lambda own, ways: Repository(addresses=tuple(own), routes=tuple(ways)),
    st.lists(local_addresses(), max_size=8, unique_by=lambda own: (own.address, own.interface)),
    st.lists(routes(), max_size=8),
)
ANY_REMOTE = st.sampled_from(REMOTES)
RANKED = st.lists(
    st.builds(
        Candidate,
        address=addresses(4),
        interface=INTERFACES,
        preference=st.integers(min_value=-1, max_value=1),
        route_prefix_length=st.sampled_from([0, 24]),
        metric=st.integers(min_value=0, max_value=2),
        address_order=st.integers(min_value=0, max_value=2),
    ),
    max_size=6,
)


@given(REPOSITORIES, ANY_REMOTE, st.sets(addresses(4) | addresses(6), max_size=4))
def test_only_usable_addresses_that_are_not_excluded_are_candidates(
    repository: Repository, remote: IPAddress, exclude: set[IPAddress]
) -> None:
    found = candidates(repository, remote, exclude)
    usable = {own.address for own in repository.addresses if own.usable}
    assert {candidate.address for candidate in found} <= usable - exclude
    assert all(candidate.address.version == remote.version for candidate in found)
    assert len({candidate.address for candidate in found}) == len(found)


@given(REPOSITORIES, ANY_REMOTE, st.randoms(use_true_random=False))
def test_the_order_of_routes_and_of_interfaces_does_not_matter(
    repository: Repository, remote: IPAddress, random: Random
) -> None:
    shuffled_routes = random.sample(repository.routes, len(repository.routes))
    # The kernel chooses the first address of an interface: that order has a meaning and is kept.
    names = random.sample(["a", "b", "c"], 3)
    by_interface = sorted(repository.addresses, key=lambda own: names.index(own.interface))
    other = Repository(addresses=tuple(by_interface), routes=tuple(shuffled_routes))
    assert {key(one) for one in candidates(repository, remote, ())} == {
        key(one) for one in candidates(other, remote, ())
    }


def key(candidate: Candidate) -> tuple[IPAddress, int, int, int]:
    return candidate.address, candidate.preference, candidate.route_prefix_length, candidate.metric


@given(REPOSITORIES, ANY_REMOTE)
def test_each_address_of_an_interface_with_a_route_is_a_candidate(repository: Repository, remote: IPAddress) -> None:
    reached = {way.interface for way in repository.routes if remote in way.destination}
    expected = {
        own.address
        for own in repository.addresses
        if own.usable and own.interface in reached and own.address.version == remote.version
    }
    assert expected <= {candidate.address for candidate in candidates(repository, remote, ())}


@given(REPOSITORIES, ANY_REMOTE)
def test_the_first_candidate_is_the_best(repository: Repository, remote: IPAddress) -> None:
    found = candidates(repository, remote, ())
    assert best(found, None) == (found[0] if found else None)
    merits = [(-one.preference, -one.route_prefix_length, one.metric) for one in found]
    assert merits == sorted(merits)


@given(RANKED, st.none() | addresses(4), st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(
    ranked: list[Candidate], current: IPAddress | None, random: Random
) -> None:
    assert best(ranked, current) == best(random.sample(ranked, len(ranked)), current)


@given(RANKED, addresses(4))
def test_the_present_source_is_left_only_for_a_better_way(ranked: list[Candidate], current: IPAddress) -> None:
    def merit(one: Candidate) -> tuple[int, int, int]:
        return one.preference, one.route_prefix_length, -one.metric

    choice = best(ranked, current)
    present = [one for one in ranked if one.address == current]
    if choice is None:
        assert not ranked
    elif present:
        top, held = max(map(merit, ranked)), max(map(merit, present))
        assert merit(choice) == top
        assert (choice.address == current) == (held == top)


@given(RANKED, addresses(4))
def test_a_choice_once_made_is_kept(ranked: list[Candidate], current: IPAddress) -> None:
    choice = best(ranked, current)
    if choice:
        assert best(ranked, choice.address) == choice
