"""Logging: for the journal, for people, and never more of the same than is of use."""

import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator

import pytest

from swanroam.app.logs import Damping, JournalFormatter, PlainFormatter, reads_journal, set_level, setup


@pytest.fixture
def restored() -> Iterator[None]:
    """Loggers as they were before."""
    loggers = [logging.getLogger(name) for name in ("", "swanroam", "swanroam_hooks")]
    before = [(logger, logger.level, tuple(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def record(message: str, *args: object, level: int = logging.INFO, damp: object = None) -> logging.LogRecord:
    made = logging.LogRecord("swanroam.core", level, "file", 1, message, args, None)
    made.damp = damp
    return made


def test_the_journal_gets_a_priority_on_each_line() -> None:
    formatter = JournalFormatter()
    levels = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 3, 1: 7}
    for level, priority in levels.items():
        assert formatter.format(record("moved %s", "home", level=level)) == f"<{priority}>swanroam.core: moved home"
    failed = record("failed", level=logging.ERROR)
    failed.exc_info = (ValueError, ValueError("inner"), None)
    lines = formatter.format(failed).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("<3>") for line in lines)


def test_people_get_time_level_and_logger() -> None:
    line = PlainFormatter().format(record("moved"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    swanroam\.core: moved", line)


@pytest.mark.parametrize("formatter", [PlainFormatter(), JournalFormatter()])
def test_what_comes_from_outside_stays_on_its_line_and_commands_no_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record("name %s", "x\n<0>forged\x1b[2J\u2028é"))
    assert line.endswith(r"name x\n<0>forged\x1b[2J\u2028é")
    assert len(line.splitlines()) == 1


def test_of_equal_keys_the_first_is_shown_and_the_others_are_counted() -> None:
    now_s = [1000.0]
    damping = Damping(quiet_s=60, clock=lambda: now_s[0])
    assert damping.filter(record("refused", damp="a"))
    assert not any(damping.filter(record("refused", damp="a")) for _ in range(5))
    assert damping.filter(record("another", damp="b"))
    now_s[0] += 59.9
    assert not damping.filter(record("refused", damp="a"))
    now_s[0] += 0.1
    shown = record("refused %d", 7, damp="a")
    assert damping.filter(shown)
    assert shown.getMessage() == "refused 7 (6 more like it)"
    now_s[0] += 60
    again = record("refused", damp="a")
    assert damping.filter(again)
    assert again.getMessage() == "refused"


def test_records_without_a_key_are_all_shown() -> None:
    damping = Damping()
    assert all(damping.filter(record("same")) for _ in range(3))


def test_many_keys_take_bounded_memory_and_the_newest_stay_damped() -> None:
    damping = Damping(clock=lambda: 0.0)
    for number in range(5000):
        assert damping.filter(record("refused", damp=number))
    assert not damping.filter(record("refused", damp=4999))
    assert damping.filter(record("refused", damp=0))


def test_the_journal_is_known_by_device_and_inode() -> None:
    with tempfile.TemporaryFile("w") as stream:
        status = os.fstat(stream.fileno())
        assert reads_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not reads_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not reads_journal(stream, {"JOURNAL_STREAM": "nonsense"})
        assert not reads_journal(stream, {})
    assert not reads_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


@pytest.mark.usefixtures("restored")
def test_our_messages_follow_the_level_and_those_of_libraries_do_not() -> None:
    stream = io.StringIO()
    setup("error", io.StringIO(), {})
    setup("info", stream, {})  # replaces the first
    logging.getLogger("swanroam.core.step").info("ours")
    logging.getLogger("swanroam_hooks.journal").info("hook")
    logging.getLogger("swanroam.core.step").debug("detail")
    logging.getLogger("pyroute2").info("library")
    logging.getLogger("pyroute2").warning("library in trouble")
    set_level("debug")
    logging.getLogger("swanroam.core.step").debug("more detail")
    shown = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    assert shown == ["ours", "hook", "library in trouble", "more detail"]


@pytest.mark.usefixtures("restored")
def test_damping_works_through_the_library() -> None:
    stream = io.StringIO()
    setup("info", stream, {})
    for _ in range(10):
        logging.getLogger("swanroam.x").warning("refused", extra={"damp": ("home", "replayed")})
    assert stream.getvalue().count("refused") == 1
