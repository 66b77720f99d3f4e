"""Lets the first of many alike through, then one in an interval, and counts the others."""

from dataclasses import dataclass
from typing import Final

__all__ = ["Damper"]

SUBJECTS: Final = 4096
"""More than these at once are tunnels times reasons of an attack: the oldest is forgotten."""


@dataclass(slots=True)
class _Seen:
    last_s: float
    held_back: int = 0


class Damper:
    """Remembers subjects (any hashable value) and when each was last let through."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._seen: dict[object, _Seen] = {}

    def admit(self, subject: object, now_s: float) -> int | None:
        """None to hold back; otherwise how many were held back since the last one that was let through."""
        seen = self._seen.pop(subject, None)
        if seen is not None and now_s - seen.last_s < self._interval_s:
            seen.held_back += 1
            self._seen[subject] = seen
            return None
        while len(self._seen) >= SUBJECTS:
            del self._seen[next(iter(self._seen))]
        self._seen[subject] = _Seen(now_s)
        return seen.held_back if seen else 0
