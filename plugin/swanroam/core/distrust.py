"""Sources that failed to answer a challenge, each with the time until which it may not move the tunnel again.

The first time that is short: with much loss all challenges of a terminal that is there may go astray, and it must not
be cut off for long. It doubles with each failure of the same source: somebody who sends the terminal's packets on
has the tunnel for an ever smaller part of the time. An answer makes up for all failures; long after the last one it is
forgotten.
"""

from dataclasses import dataclass
from typing import Final

from swanroam.model.path import IPAddress

__all__ = ["FIRST_S", "FORGOTTEN_S", "LONGEST_S", "MOST", "Distrust", "after_failure", "distrusts", "without"]

FIRST_S: Final = 2.0
LONGEST_S: Final = 60.0
FORGOTTEN_S: Final = 300.0
MOST: Final = 16
"""Sources remembered for a tunnel; of more than these, those that failed longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class Distrust:
    """One source."""

    address: IPAddress
    until_s: float
    """Monotonic seconds."""
    failures: int = 1


def after_failure(known: tuple[Distrust, ...], address: IPAddress, at_s: float) -> tuple[Distrust, ...]:
    """The sources after one more failure of `address`."""
    before = next((each.failures for each in known if each.address == address and not _forgotten(each, at_s)), 0)
    again = Distrust(address, at_s + min(FIRST_S * 2.0**before, LONGEST_S), min(before + 1, 64))
    others = tuple(each for each in known if each.address != address and not _forgotten(each, at_s))
    return (*others[-(MOST - 1) :], again)


def without(known: tuple[Distrust, ...], address: IPAddress) -> tuple[Distrust, ...]:
    """The sources after `address` answered."""
    return tuple(each for each in known if each.address != address)


def distrusts(known: tuple[Distrust, ...], address: IPAddress, at_s: float) -> bool:
    """Whether `address` may not move the tunnel now."""
    return any(each.address == address and at_s < each.until_s for each in known)


def _forgotten(each: Distrust, at_s: float) -> bool:
    return at_s > each.until_s + FORGOTTEN_S
