"""A terminal and a gateway in memory, through any story: they end in agreement."""

from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from swanroam.core.tunnel import Phase
from swanroam.model.path import IPAddress
from tests.support.peers import World
from tests.support.values import GATEWAY, NAT_A, NAT_B, NAT_C, NAT_PRIVATE, PRIVATE, SECOND, A, B, C

ADDRESSES = st.one_of(
    st.permutations((A, B, C, PRIVATE)).map(lambda each: (each[0],)),
    st.permutations((A, B, C, PRIVATE)).map(lambda each: (each[0], each[1])),
    st.just(()),
)
PUBLIC = {A: NAT_A, B: NAT_B, C: NAT_C, PRIVATE: NAT_PRIVATE}
NATS = st.frozensets(st.sampled_from((A, B, C))).map(
    lambda natted: {inside: PUBLIC[inside] for inside in (*sorted(natted), PRIVATE)}
)
STORY = st.lists(
    st.one_of(
        st.tuples(st.just("roam"), ADDRESSES),
        st.tuples(st.just("roam"), ADDRESSES),
        st.tuples(st.just("wait"), st.sampled_from((0.001, 0.02, 0.3, 2.0, 6.0))),
        st.tuples(st.just("restart"), st.tuples(st.booleans(), st.booleans(), st.sampled_from((0.01, 1.0, 5.0)))),
        st.tuples(st.just("lose"), st.sampled_from((0.0, 0.2, 1.0))),
        st.tuples(st.just("rekey"), st.none()),
        st.tuples(st.just("forget"), st.none()),
        st.tuples(st.just("replay"), st.tuples(st.sampled_from((A, B, C, NAT_B)), st.integers(1, 5))),
    ),
    max_size=15,
)
HOMES = (GATEWAY, SECOND)
STORY_OF_GATEWAYS = st.lists(
    st.one_of(
        st.tuples(st.just("roam"), st.permutations((A, B, C)).map(lambda each: (each[0],))),
        st.tuples(st.just("renumber"), st.sampled_from(((GATEWAY,), HOMES, (SECOND, GATEWAY), (SECOND,)))),
        st.tuples(st.just("silence"), st.sampled_from((frozenset(), frozenset({GATEWAY}), frozenset({SECOND})))),
        st.tuples(st.just("wait"), st.sampled_from((0.001, 0.02, 0.3, 2.0, 6.0))),
        st.tuples(st.just("restart"), st.tuples(st.booleans(), st.just(True), st.sampled_from((0.01, 1.0)))),
        st.tuples(st.just("lose"), st.sampled_from((0.0, 0.2))),
        st.tuples(st.just("rekey"), st.none()),
        st.tuples(st.just("replay"), st.tuples(st.sampled_from((A, B, C)), st.integers(1, 5))),
    ),
    max_size=12,
)


def tell(world: World, story: list[tuple[str, object]]) -> None:
    for what, how in story:
        match what, how:
            case "roam", tuple(addresses):
                world.roam(*addresses)
            case "wait", float(duration_s):
                world.run(duration_s)
            case "restart", (bool(terminal), bool(remember), float(down_s)):
                host = world.terminal if terminal else world.gateway
                if host.running:
                    world.restart(host, down_s, remember=remember)
            case "renumber", tuple(addresses):
                world.renumber(*addresses)
            case "silence", frozenset() as silent:
                world.silent = silent
            case "lose", float(loss):
                world.loss = loss
            case "rekey", None:
                world.rekey()
            case "forget", None:
                world.network.forget()
            case "replay", (IPv4Address() as source, int(position)):
                replay(world, source, position)
            case _:
                raise AssertionError(what)


def replay(world: World, source: IPAddress, position: int) -> None:
    """Somebody on the path sends one of the last packets on from one of the terminal's addresses, or from elsewhere."""
    seen = [packet for packet in world.sent if packet.destination in HOMES]
    if len(seen) >= position:
        world.gateway.receive(replace(seen[-position], source=source))


@given(STORY, st.integers(0, 2**16), st.sampled_from((0.0, 0.03)), st.sampled_from((0.005, 0.15)), NATS)
@profile(max_examples=300, deadline=None)
def test_whatever_happens_both_ends_agree_in_the_end(
    story: list[tuple[str, object]], seed: int, jitter_s: float, delay_s: float, nats: dict[IPAddress, IPAddress]
) -> None:
    world = World(seed=seed, jitter_s=jitter_s, delay_s=delay_s, nats=nats)
    world.stream((world.terminal, world.gateway), 0.5, 60.0)
    tell(world, story)
    world.loss = 0.0
    ends_in_agreement(world)


@given(STORY_OF_GATEWAYS, st.integers(0, 2**16), st.sampled_from((0.0, 0.03)), st.sampled_from((0.005, 0.15)))
@profile(max_examples=300, deadline=None)
def test_whatever_becomes_of_the_gateways_addresses_both_ends_agree_in_the_end(
    story: list[tuple[str, object]], seed: int, jitter_s: float, delay_s: float
) -> None:
    world = World(seed=seed, jitter_s=jitter_s, delay_s=delay_s, gateways=HOMES)
    world.stream((world.terminal, world.gateway), 0.5, 60.0)
    tell(world, story)
    world.loss, world.silent = 0.0, frozenset()
    world.renumber(*HOMES)
    ends_in_agreement(world)


def ends_in_agreement(world: World) -> None:
    """After two more moves, in peace."""
    world.roam(B)
    world.run(20.0)
    world.roam(A)
    world.run(90.0)
    assert world.agreed()
    assert world.charons_reach_each_other()
    assert world.terminal.tunnel.phase is world.gateway.tunnel.phase is Phase.STEADY
    for host in (world.terminal, world.gateway):
        before = len(host.data)
        other = world.gateway if host is world.terminal else world.terminal
        other.say()
        world.run(1.0)
        assert len(host.data) == before + 1
        assert host.held == {}
