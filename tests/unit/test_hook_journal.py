"""The journal hook: one line for each thing, fields for journald, and no flood."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from swanroam.errors import HookError
from swanroam.model.events import Reason
from swanroam.model.tunnel import Capability
from swanroam.testing import immediate_host, make_capability, make_key, make_move, make_rejection
from swanroam_hooks.damper import SUBJECTS, Damper
from swanroam_hooks.fields import describe, fields_of
from swanroam_hooks.journal import Journal
from swanroam_hooks.journald import JournalSender, encode, stderr_is_journal


class Clock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(10)
        yield receiver


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "swanroam.journal"):
        yield caplog


def test_each_move_is_one_line(lines: pytest.LogCaptureFixture) -> None:
    with immediate_host({"journal": Journal}, options={"journal": {"target": "logging"}}) as host:
        host.announce(make_move())
        host.announce(make_move())
    line = "home[10.99.0.1]: moved from 192.0.2.10...203.0.113.1 to 198.51.100.10...203.0.113.1 in 12.0 ms (address)"
    assert [record.getMessage() for record in lines.records] == [line, line]
    assert not host.errors


def test_capabilities_and_rejections_are_one_line_each(lines: pytest.LogCaptureFixture) -> None:
    with immediate_host({"journal": Journal}) as host:
        host.announce(make_capability(detail="version 1"))
        host.announce(make_rejection())
        host.announce(make_rejection(known=False, reason=Reason.UNKNOWN_SPI, source=None, detail="SPI c0ffee"))
    assert [(record.levelname, record.getMessage()) for record in lines.records] == [
        ("INFO", "home[10.99.0.1]: capability negotiated (version 1)"),
        ("WARNING", "home[10.99.0.1]: rejected from 198.51.100.10: bad-icv"),
        ("WARNING", "no tunnel: rejected: unknown-spi (SPI c0ffee)"),
    ]


def test_the_same_rejection_is_written_once_in_an_interval_with_how_many_were_not(
    lines: pytest.LogCaptureFixture, clock: Clock
) -> None:
    with immediate_host({"journal": Journal(clock)}, options={"journal": {"interval_s": 5}}) as host:
        for _ in range(100):
            host.announce(make_rejection())
        host.announce(make_rejection(key=make_key("work")))
        host.announce(make_rejection(reason=Reason.REPLAYED))
        clock.now_s += 5
        host.announce(make_rejection())
        clock.now_s += 5
        host.announce(make_rejection())
    messages = [record.getMessage() for record in lines.records]
    assert len(messages) == 5
    assert messages[3] == messages[0] + " (99 more like this were not written)"
    assert messages[4] == messages[0]


def test_a_capability_that_changes_is_written_each_time_and_one_that_is_repeated_is_not(
    lines: pytest.LogCaptureFixture, clock: Clock
) -> None:
    with immediate_host({"journal": Journal(clock)}) as host:
        for capability in (Capability.PENDING, Capability.PENDING, Capability.NEGOTIATED):
            host.announce(make_capability(capability=capability))
    assert [record.getMessage().split()[-1] for record in lines.records] == ["pending", "negotiated"]


def test_journald_gets_the_line_and_the_fields(journald: socket.socket, lines: pytest.LogCaptureFixture) -> None:
    journal = Journal(socket_path=Path(journald.getsockname()))
    with immediate_host({"journal": journal}, options={"journal": {"target": "journald"}}) as host:
        host.announce(make_move())
    entry = dict(line.split("=", 1) for line in journald.recv(65536).decode().splitlines())
    assert entry.pop("MESSAGE").startswith("home[10.99.0.1]: moved from ")
    assert entry.pop("PRIORITY") == "6"
    assert entry.pop("SYSLOG_IDENTIFIER") == "swanroam"
    assert entry == fields_of(make_move())
    assert not lines.records


def test_without_journald_the_line_goes_to_the_log(tmp_path: Path, lines: pytest.LogCaptureFixture) -> None:
    journal = Journal(socket_path=tmp_path / "absent")
    with immediate_host({"journal": journal}, options={"journal": {"target": "journald"}}) as host:
        host.announce(make_move())
    assert len(lines.records) == 1
    assert not host.errors


def test_a_journald_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    sender = JournalSender(path)
    for message in ("one", "two"):
        assert not sender.send({"MESSAGE": "lost"})
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(path))
            assert sender.send({"MESSAGE": message})
            assert receiver.recv(100) == f"MESSAGE={message}\n".encode()
        path.unlink()


def test_a_stalled_journald_delays_for_a_moment_and_refuses(journald: socket.socket) -> None:
    sender = JournalSender(Path(journald.getsockname()))
    sent = 0
    while sender.send({"MESSAGE": "x" * 1000}):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def test_a_value_with_line_breaks_has_its_length() -> None:
    assert encode({"MESSAGE": "one\ntwo", "A": "b"}) == b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nA=b\n"


@pytest.mark.parametrize("name", ["", "_PID", "lower", "WITH SPACE", "WITH=SIGN", "1ST", "Ä", "X" * 65])
def test_a_field_name_that_journald_would_drop_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        encode({name: "x"})


def test_every_field_has_a_name_that_journald_takes() -> None:
    for announcement in (make_move(), make_capability(), make_rejection()):
        assert encode(fields_of(announcement))


def test_what_others_wrote_cannot_begin_lines_fields_or_terminal_sequences() -> None:
    rejection = make_rejection(key=make_key("a\nMESSAGE=b"), detail="\x1b[2J\0\n")
    assert fields_of(rejection)["SWANROAM_DETAIL"] == "?[2J??"
    assert fields_of(rejection)["SWANROAM_CONNECTION"] == "a?MESSAGE=b"
    assert describe(rejection).isprintable()


def test_stderr_goes_to_the_journal_when_device_and_inode_agree(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        right = f"{status.st_dev}:{status.st_ino}"
        assert stderr_is_journal({"JOURNAL_STREAM": right}, stream.fileno())
        assert not stderr_is_journal({"JOURNAL_STREAM": right + "0"}, stream.fileno())
        assert not stderr_is_journal({}, stream.fileno())
        closed = stream.fileno()
    assert not stderr_is_journal({"JOURNAL_STREAM": right}, closed)


def test_the_damper_forgets_the_oldest_of_too_many_subjects() -> None:
    damper = Damper(10)
    for subject in range(SUBJECTS + 1):
        assert damper.admit(subject, 0) == 0
    assert damper.admit(SUBJECTS, 1) is None
    assert damper.admit(0, 1) == 0


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"target": "syslog"}, "target: 'syslog' is none of auto, journald, logging"),
        ({"target": 1}, "target: a string is needed, not 1"),
        ({"target": ""}, "target: is empty"),
        ({"interval_s": 0}, "interval_s: a time greater than 0 is needed, not 0"),
        ({"interval_s": float("inf")}, "interval_s: a time greater than 0 is needed, not inf"),
        ({"interval_s": float("nan")}, "interval_s: a time greater than 0 is needed, not nan"),
        ({"interval_s": "10"}, "interval_s: a number of seconds is needed, not '10'"),
        ({"interval_s": True}, "interval_s: a number of seconds is needed, not True"),
    ],
)
def test_wrong_options_are_named(table: dict[str, object], says: str) -> None:
    with (
        pytest.raises(HookError, match=re.escape(says)),
        immediate_host({"journal": Journal}, options={"journal": table}),
    ):
        pass
