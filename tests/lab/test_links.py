"""Several links at once: a better one is taken while the one in use still works, and nothing that is late is lost."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.lab.agreement import USUAL, Wanted, agrees
from tests.lab.conditions import eventually
from tests.lab.figures import MovedStream, measured, medians, moved_stream
from tests.lab.topology import Topology
from tests.lab.world import Move, World

BEST, BETTER, NO_BETTER, WORSE = 20, 50, 60, 100
MOVES = 4
ALONE = Wanted(swanroam=())
RELOADED = "configuration reloaded"


def without_state(world: World) -> int:
    """Packets that the terminal's kernel had no state for, ever."""
    counted = dict(line.split() for line in world.terminal.show("cat /proc/net/xfrm_stat").splitlines())
    return int(counted["XfrmInNoStates"])


def taken(world: World, metric: int, wanted: Wanted = USUAL) -> tuple[Move, MovedStream]:
    """Have the other link become the better one, under streams in both directions, until all agree on it."""
    before = world.terminal.sa.identity
    with world.both_ways() as (up, down):
        move = world.terminal.prefer_other(metric)
        agrees(world, world.terminal, wanted)
        for stream in (up, down):
            stream.flows(packets=10)
    same = world.terminal.sa.identity == before
    return move, moved_stream(move, up, down, world.capture, same_keys=same)


@contextlib.contextmanager
def configured(world: World, **settings: object) -> Iterator[None]:
    """The terminal's swanroam has these settings, too, for a while."""
    swanroam = world.terminal.swanroam

    def now(**settings: object) -> None:
        before = swanroam.log.count(RELOADED)
        swanroam.configure(**settings)
        swanroam.reload()
        eventually(lambda: swanroam.log.count(RELOADED) > before, "it has read that")

    now(**settings)
    try:
        yield
    finally:
        now()


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """With a third link, which is there where a story says so."""
    world = make_world(Topology(outer=(4, 4, 4)))
    world.connect()
    world.roam()
    return world


@pytest.fixture(autouse=True)
def _one_link_in_the_end(world: World) -> Iterator[None]:
    yield
    world.terminal.gather()
    agrees(world, world.terminal, USUAL if world.terminal.swanroam.running else ALONE)


def test_a_better_link_is_taken_while_the_other_works_and_nothing_late_is_lost(world: World) -> None:
    terminal, moves = world.terminal, []
    terminal.spread(here=WORSE, other=WORSE + 1)
    late = 0
    for number in range(1, MOVES + 1):
        missed = without_state(world)
        move, moved = taken(world, WORSE - number)
        moves.append(moved)
        assert (moved.same_keys, moved.ike_packets, moved.up_lost, moved.down_lost) == (True, 0, 0, 0)
        assert not world.capture.cleartext(move.began_ns)
        late += len(world.capture.esp_to(move.old, move.began_ns))
        assert without_state(world) == missed
    assert late, "the gateway always followed before anything came late"
    measured.append(medians("a better link while the other works", moves))


def test_of_a_fast_download_nothing_is_lost_while_the_gateway_moves_its_state(world: World) -> None:
    terminal = world.terminal
    terminal.spread(here=WORSE, other=WORSE + 1)
    with world.downlink(interval_ms=1.0) as down:
        for number in range(1, MOVES + 1):
            down.flows(packets=100)
            terminal.prefer_other(WORSE - number)
            agrees(world, terminal)
        down.flows(packets=100)
    assert down.outcome().lost == ()


def test_a_link_that_is_no_better_is_not_taken_and_one_that_was_left_is_not_missed(world: World) -> None:
    terminal = world.terminal
    moves = terminal.swanroam.tunnel(terminal.inner)["moves"]
    terminal.spread(here=BETTER, other=WORSE)
    with world.both_ways() as (up, down):
        terminal.links.apply([terminal.links.default_route(terminal.other.link, terminal.other.router, NO_BETTER)])
        for stream in (up, down):
            stream.flows(packets=20)
        terminal.links.apply([terminal.links.remove_address(terminal.other.link, terminal.other.address(1))])
        for stream in (up, down):
            stream.flows(packets=20)
    assert up.outcome().lost == down.outcome().lost == ()
    assert terminal.swanroam.tunnel(terminal.inner)["moves"] == moves
    terminal.links.apply(terminal.arriving(terminal.other, WORSE))


def test_what_is_preferred_is_taken_though_the_routes_say_otherwise_and_nothing_is_lost(world: World) -> None:
    terminal = world.terminal
    terminal.spread(here=BETTER, other=WORSE)
    with configured(world, preference={f"{terminal.other.link[:3]}*": 20}):
        with world.both_ways() as (up, down):
            terminal.prefer_other(WORSE + 1)
            agrees(world, terminal)
            for stream in (up, down):
                stream.flows(packets=10)
        # So that it stays there when it is not preferred any more.
        terminal.links.apply([terminal.links.default_route(terminal.access.link, terminal.access.router, BEST)])
    assert up.outcome().lost == down.outcome().lost == ()


def test_a_metered_link_is_not_taken_while_a_hook_vetoes_it_whatever_the_routes_say(world: World) -> None:
    terminal = world.terminal

    def vetoed() -> int:
        return int(terminal.swanroam.tunnel(terminal.inner)["rejected"].get("vetoed", 0))

    terminal.spread(here=WORSE, other=WORSE + 1)
    before = vetoed()
    metered = {"metered": {"interfaces": [terminal.other.link], "preference": 0, "veto": True}}
    with world.both_ways() as (up, down):
        with configured(world, hooks=metered):
            terminal.links.apply([terminal.links.default_route(terminal.other.link, terminal.other.router, BETTER)])
            eventually(lambda: vetoed() > before, "the move is vetoed")
            agrees(world, terminal)
            for stream in (up, down):
                stream.flows(packets=20)
        terminal.prefer_other(BEST)
        agrees(world, terminal)
    assert up.outcome().lost == down.outcome().lost == ()


def test_the_link_in_use_dies_while_the_other_works_and_then_that_one(world: World) -> None:
    terminal = world.terminal
    before = terminal.sa.identity
    terminal.spread(here=WORSE, other=WORSE + 1)
    with world.both_ways() as (up, down):
        for metric in (BETTER, BEST):
            dead = terminal.access
            terminal.links.apply([terminal.links.turn(dead.link, up=False)])
            move = terminal.prefer_other(metric)
            agrees(world, terminal)
            for stream in (up, down):
                stream.flows(move.usable_ns, packets=10)
            terminal.links.apply([terminal.links.turn(dead.link, up=True), *terminal.arriving(dead, WORSE)])
    assert terminal.sa.identity == before


def test_of_three_links_the_best_that_works_is_in_use_and_nothing_is_lost_when_a_better_one_returns(
    world: World,
) -> None:
    terminal, (wlan, lte, eth) = world.terminal, world.terminal.accesses
    world.reconnect(world.tunnel, link=wlan.link)
    terminal.spread(here=BETTER, other=WORSE)
    before = terminal.sa.identity
    with configured(world, preference={"eth*": 30, "wlan*": 20}), world.both_ways() as (up, down):

        def in_use(move: Move) -> tuple[int, int]:
            agrees(world, terminal)
            settled_ns = time.monotonic_ns()
            for stream in (up, down):
                stream.flows(settled_ns)
            return move.began_ns, settled_ns

        gained = []
        for _ in range(2):
            gained.append(in_use(terminal.gain(eth, BEST)))
            for access in (wlan, lte):
                in_use(terminal.fall_back(access))
            gained.append(in_use(terminal.gain(wlan, BETTER)))
    assert [stream.outcome(*window).lost for window in gained for stream in (up, down)] == [()] * 2 * len(gained)
    assert terminal.sa.identity == before


def test_when_both_links_flap_the_tunnel_ends_where_the_routes_say(world: World) -> None:
    terminal = world.terminal
    before = terminal.sa.identity
    terminal.spread(here=WORSE, other=WORSE + 1)
    with world.both_ways() as (up, down):
        for metric in (BETTER, BEST):
            terminal.prefer_other(metric)
            terminal.links.apply([terminal.links.turn(terminal.other.link, up=False)])
            down.flows()
            terminal.links.apply(
                [
                    terminal.links.turn(terminal.other.link, up=True),
                    *terminal.arriving(terminal.other, WORSE),
                ]
            )
        agrees(world, terminal)
        for stream in (up, down):
            stream.flows(packets=10)
    assert terminal.sa.identity == before


def test_strongswan_alone_takes_a_better_link_with_mobike_for_comparison(world: World) -> None:
    alone = replace(world.tunnel, mobike=True, roam_events=True, charon={"prefer_best_path": "yes"})
    world.begin_without_swanroam(alone)
    world.terminal.spread(here=WORSE, other=WORSE + 1)
    moves = [taken(world, WORSE - number, ALONE)[1] for number in range(1, MOVES + 1)]
    measured.append(medians("a better link, MOBIKE, strongSwan alone", moves))
