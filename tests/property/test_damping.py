"""Flap damping: whatever wants to move, there is a bound; and whoever comes to rest is followed."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from swanroam.core.damping import LONGEST_S, MOVES_PER_MINUTE, REUSE, SUPPRESS, Damping

# What wants to move the tunnel: pauses between one wish and the next, and whether it is a way back.
WISHES = st.lists(st.tuples(st.sampled_from((0.0, 0.001, 0.01, 0.1, 0.5, 2.0, 30.0)), st.booleans()), max_size=400)


def moves(wishes: list[tuple[float, bool]]) -> tuple[Damping, list[float]]:
    """The damping after all of them, and when the tunnel moved. A way back is possible once after each other move."""
    damping, moved, away, at_s = Damping(), [], False, 1000.0
    for pause_s, back in wishes:
        at_s += pause_s
        if (back and away) or not damping.suppresses(at_s):
            away = not (back and away)
            damping = damping.moved(at_s)
            moved.append(at_s)
    return damping, moved


def most_in_a_minute(moved: list[float]) -> int:
    return max((sum(first <= at_s < first + 60.0 for at_s in moved) for first in moved), default=0)


@given(WISHES)
def test_no_minute_has_more_moves_than_the_bound(wishes: list[tuple[float, bool]]) -> None:
    _, moved = moves(wishes)
    assert most_in_a_minute(moved) <= MOVES_PER_MINUTE


def test_one_that_wants_to_move_all_the_time_comes_close_to_the_bound_and_not_over_it() -> None:
    for step_s in (0.001, 0.013, 0.2):
        for back in (False, True):
            _, moved = moves([(step_s, back and number % 2 == 1) for number in range(round(300 / step_s))])
            assert MOVES_PER_MINUTE * 0.7 < most_in_a_minute(moved) <= MOVES_PER_MINUTE


@given(WISHES)
def test_whatever_was_before_the_longest_wait_is_enough(wishes: list[tuple[float, bool]]) -> None:
    damping, _ = moves(wishes)
    assert not damping.suppresses(damping.at_s + LONGEST_S)


@given(st.lists(st.floats(0.0, 5.0), max_size=int(SUPPRESS)))
def test_ten_moves_in_a_row_are_never_held_up(pauses: list[float]) -> None:
    damping = Damping()
    for at_s in accumulate(pauses, initial=1000.0):
        assert not damping.suppresses(at_s) or len(pauses) >= SUPPRESS
        damping = damping.moved(at_s)


def test_the_wait_grows_and_a_damped_tunnel_stays_so_until_it_was_quiet_for_long() -> None:
    damping, waits = Damping(), []
    for _ in range(40):
        at_s = damping.at_s
        while damping.suppresses(at_s):
            at_s += 0.01
        waits.append(at_s - damping.at_s)
        damping = damping.moved(at_s)
    assert waits == sorted(waits)
    assert waits[9] == 0.0
    assert waits[-1] > 1.0
    quiet_s = next(delay for delay in range(100) if damping._left(damping.at_s + delay) <= REUSE)
    assert damping.moved(damping.at_s + quiet_s / 2).suppresses(damping.at_s + quiet_s / 2)
    assert not damping.moved(damping.at_s + quiet_s).suppresses(damping.at_s + quiet_s)
