"""Flap damping: a tunnel that moves often has to wait longer and longer between moves (the idea is that of RFC 2439).

Each move adds 1 to a penalty that halves every HALF_LIFE_S. Up to SUPPRESS nothing waits: a terminal may roam ten times
in a row. From there on the time between two moves grows with the penalty, from SHORTEST_S to LONGEST_S; hysteresis: a
damped tunnel stays damped until the penalty is down to REUSE. However fast its source changes, a tunnel moves at most
MOVES_PER_MINUTE times in any minute (a property test holds that), and a terminal that has come to rest is followed
LONGEST_S after the last move at the latest, if it sends something then.

Nobody waits for the way back to where a path was last validated: whoever pulled the tunnel away with a packet
of the terminal that it had sent on must not be able to keep it.
"""

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["HALF_LIFE_S", "LONGEST_S", "MOVES_PER_MINUTE", "REUSE", "SHORTEST_S", "SUPPRESS", "Damping"]

HALF_LIFE_S: Final = 20.0
SUPPRESS: Final = 10.0
REUSE: Final = 5.0
SHORTEST_S: Final = 0.25
DOUBLING: Final = 4.0
"""The wait doubles with each so many moves beyond SUPPRESS."""
LONGEST_S: Final = 2.5
"""Longer than any of the first three pauses between two UPDATEs, and shorter than the fourth ends: an idle terminal's
fourth UPDATE, 3 s after it came to rest, moves the tunnel whatever was before."""
CEILING: Final = 30.0
"""The penalty grows no further: ways back are not held up, and add to it all the same."""
MOVES_PER_MINUTE: Final = 72
"""What the constants above come to, ways back included; nothing counts it."""


@dataclass(frozen=True, slots=True)
class Damping:
    """How much a tunnel moved of late, as of its last move."""

    penalty: float = 0.0
    at_s: float = 0.0
    """Monotonic seconds of the last move."""
    damped: bool = False

    def moved(self, at_s: float) -> "Damping":
        """The same after one more move."""
        penalty = min(self._left(at_s) + 1.0, CEILING)
        return Damping(penalty=penalty, at_s=at_s, damped=self._damped(at_s) or penalty > SUPPRESS)

    def suppresses(self, at_s: float) -> bool:
        """Whether a move has to wait now."""
        if not self._damped(at_s):
            return False
        wait_s = SHORTEST_S * math.exp2(max(0.0, self.penalty - SUPPRESS) / DOUBLING)
        return at_s - self.at_s < min(wait_s, LONGEST_S)

    def _left(self, at_s: float) -> float:
        return self.penalty * math.exp2(min(0.0, self.at_s - at_s) / HALF_LIFE_S)

    def _damped(self, at_s: float) -> bool:
        return self.damped and self._left(at_s) > REUSE
