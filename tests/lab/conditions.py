"""Waiting for a condition with a deadline: no story sleeps for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.lab.errors import Ended, LabError, NeverCame

__all__ = ["SLACK", "eventually", "stays"]

SLACK = 1.0
"""Deadlines are generous, because the guest's processor may be emulated; multiply by this on machines slower still."""

Value = TypeVar("Value")


def eventually(condition: Callable[[], Value], what: str, *, deadline_s: float = 30.0, every_s: float = 0.02) -> Value:
    """Poll until the condition gives a true value, and return it; one that raises is not met yet.

    Raises NeverCame, which names what was waited for and the last value.
    """
    end = time.monotonic() + deadline_s * SLACK
    while True:
        last: object
        try:
            if value := condition():
                return value
            last = value
        except Ended:
            raise
        except (OSError, LabError, AssertionError) as error:
            last = error
        if time.monotonic() > end:
            raise NeverCame(f"{what}: not within {deadline_s:g} s; the last value was {last!r}")
        time.sleep(every_s)


def stays(condition: Callable[[], bool], what: str, *, for_s: float, every_s: float = 0.1) -> None:
    """Poll for a time and raise NeverCame as soon as the condition is false."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        if not condition():
            raise NeverCame(f"{what}: did not stay so for {for_s:g} s")
        time.sleep(every_s)
