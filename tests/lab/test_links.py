"""Several links at once: a better one is taken while the one in use still works, and nothing that is late is lost."""

from collections.abc import Iterator

import pytest

from tests.lab.agreement import agrees
from tests.lab.figures import measured, medians, moved_stream
from tests.lab.stories import settled
from tests.lab.streams import Stream
from tests.lab.world import Move, World

BETTER, WORSE, BEST = 50, 100, 20
MOVES = 4
SURELY_NS = 5_000_000
"""A packet that was sent this long before the gateway changed its path went the old one."""


@pytest.fixture(autouse=True)
def _one_link_in_the_end(world: World) -> Iterator[None]:
    yield
    world.terminal.gather()
    agrees(world, world.terminal)


def nothing_late_is_lost(world: World, move: Move, down: Stream) -> None:
    """What the gateway sent to the address that was left has arrived: only charon's following loses anything."""
    followed_ns = world.capture.esp_to(move.new, move.began_ns)[0].at_ns
    assert world.capture.esp_to(move.old, move.usable_ns), "the gateway followed before anything came late"
    lost = set(down.outcome(move.began_ns).lost)
    lost_on_the_old_path = [
        packet.number for packet in down.sent() if packet.number in lost and packet.sent_ns < followed_ns - SURELY_NS
    ]
    assert lost_on_the_old_path == []


def test_a_better_link_is_taken_while_the_other_works_and_nothing_late_is_lost(world: World) -> None:
    terminal, moves = world.terminal, []
    terminal.spread(here=WORSE, other=WORSE + 1)
    metric = WORSE - 1
    for _ in range(MOVES):
        before = terminal.sa.identity
        with world.both_ways() as (up, down):
            move = terminal.prefer_other(metric)
            settled(world, move)
            for stream in (up, down):
                stream.flows(packets=10)
        metric -= 1
        moves.append(moved_stream(move, up, down, world.capture, same_keys=terminal.sa.identity == before))
        assert moves[-1].same_keys
        assert up.outcome(move.began_ns).lost == ()
        nothing_late_is_lost(world, move, down)
    measured.append(medians("a better link while the other works, swanroam", moves))


def test_a_link_that_is_no_better_is_not_taken_and_one_that_was_left_is_not_missed(world: World) -> None:
    terminal = world.terminal
    moves = terminal.swanroam.tunnel(terminal.inner)["moves"]
    terminal.spread(here=BETTER, other=WORSE)
    with world.both_ways() as (up, down):
        terminal.links.apply([terminal.links.default_route(terminal.other.link, terminal.other.router, BETTER)])
        for stream in (up, down):
            stream.flows(packets=20)
        terminal.links.apply([terminal.links.remove_address(terminal.other.link, terminal.other.address(1))])
        for stream in (up, down):
            stream.flows(packets=20)
    assert up.outcome().lost == down.outcome().lost == ()
    assert terminal.swanroam.tunnel(terminal.inner)["moves"] == moves
    terminal.links.apply(terminal.arriving(terminal.other, WORSE))


def test_when_both_links_flap_the_tunnel_ends_where_the_routes_say(world: World) -> None:
    terminal = world.terminal
    before = terminal.sa.identity
    terminal.spread(here=WORSE, other=WORSE)
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
