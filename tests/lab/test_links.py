"""Several links at once: a better one is taken while the one in use still works, and nothing that is late is lost."""

from collections.abc import Iterator

import pytest

from tests.lab.agreement import agrees
from tests.lab.figures import measured, medians, moved_stream
from tests.lab.stories import settled
from tests.lab.world import World

BEST, BETTER, NO_BETTER, WORSE = 20, 50, 60, 100
MOVES = 4


def without_state(world: World) -> int:
    """Packets that the terminal's kernel had no state for, ever."""
    counted = dict(line.split() for line in world.terminal.show("cat /proc/net/xfrm_stat").splitlines())
    return int(counted["XfrmInNoStates"])


@pytest.fixture(autouse=True)
def _one_link_in_the_end(world: World) -> Iterator[None]:
    yield
    world.terminal.gather()
    agrees(world, world.terminal)


def test_a_better_link_is_taken_while_the_other_works_and_nothing_late_is_lost(world: World) -> None:
    terminal, moves = world.terminal, []
    terminal.spread(here=WORSE, other=WORSE + 1)
    metric = WORSE - 1
    for _ in range(MOVES):
        before, missed = terminal.sa.identity, without_state(world)
        with world.both_ways() as (up, down):
            move = terminal.prefer_other(metric)
            settled(world, move)
            for stream in (up, down):
                stream.flows(packets=10)
        metric -= 1
        moves.append(moved_stream(move, up, down, world.capture, same_keys=terminal.sa.identity == before))
        assert moves[-1].same_keys
        assert up.outcome(move.began_ns).lost == ()
        # What the gateway loses of the downlink while it moves, and while its charon follows, is not late.
        assert world.capture.esp_to(move.old, move.usable_ns), "the gateway followed before anything came late"
        assert without_state(world) == missed
    measured.append(medians("a better link while the other works, swanroam", moves))


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
