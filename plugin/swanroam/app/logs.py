"""Logging to standard error: with priorities for the journal where that reads it, with times for people where not.

A record with `extra={"damp": key}` is damped: after the first with a key the others are only counted for a while, and
the next one that is shown says how many there were. What comes from outside cannot break out of its line.
"""

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Final, TextIO

__all__ = ["Damping", "JournalFormatter", "PlainFormatter", "escape", "reads_journal", "set_level", "setup"]

OURS: Final = ("swanroam", "swanroam_hooks")
DAMPING_S: Final = 60.0
DAMPED_KEYS: Final = 1024
PLAIN_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
JOURNAL_FORMAT: Final = "%(name)s: %(message)s"
PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
"""Priorities of man 3 syslog, by the least level that has them."""


def escape(text: str) -> str:
    """Text on one line, without the control characters that a terminal would obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class PlainFormatter(logging.Formatter):
    """Local time, level, logger, message; only a traceback has further lines."""

    def __init__(self, layout: str = PLAIN_FORMAT) -> None:
        super().__init__(layout, datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the library's
        """The first line."""
        record.message = escape(record.message)
        return super().formatMessage(record)


class JournalFormatter(PlainFormatter):
    """Each line begins with the priority that the journal takes for it (man 3 sd-daemon)."""

    def __init__(self) -> None:
        super().__init__(JOURNAL_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """All lines of a record."""
        priority = next((priority for level, priority in PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class Damping(logging.Filter):
    """Lets the first record of each key through, and after `quiet_s` seconds the next, with the number in between.

    `clock` gives monotonic seconds. Of many keys those longest unused are forgotten.
    """

    def __init__(self, quiet_s: float = DAMPING_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._quiet_s, self._clock = quiet_s, clock
        self._shown: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; its message is completed with the count."""
        key: Hashable = getattr(record, "damp", None)
        if key is None:
            return True
        now_s = self._clock()
        shown_s, more = self._shown.pop(key, (now_s - self._quiet_s, 0))
        quiet = now_s - shown_s < self._quiet_s
        self._shown[key] = (shown_s, more + 1) if quiet else (now_s, 0)
        if len(self._shown) > DAMPED_KEYS:
            self._shown.popitem(last=False)
        if more and not quiet:
            record.msg, record.args = f"{record.getMessage()} ({more} more like it)", None
        return not quiet


def reads_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream goes to the journal (man 5 systemd.exec, JOURNAL_STREAM)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def setup(level: str, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> logging.Handler:
    """Log to `stream`, standard error by default.

    Our own messages are logged from `level` on (debug, info, warning, error), those of libraries from warning on.
    Replaces handlers of an earlier call. Returns the handler.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JournalFormatter() if reads_journal(stream, environment) else PlainFormatter())
    handler.addFilter(Damping())
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if isinstance(old.formatter, PlainFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(level)
    return handler


def set_level(level: str) -> None:
    """Change the level of our own messages."""
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
