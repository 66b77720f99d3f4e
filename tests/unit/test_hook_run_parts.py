"""The run-parts hook: what it runs, with which environment, and what it does not trust."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swanroam.errors import HookError
from swanroam.hookhost import HookHost, PluginState
from swanroam.testing import immediate_host, make_capability, make_move, make_rejection
from swanroam_hooks.fields import fields_of
from swanroam_hooks.run_parts import BASE_ENVIRONMENT, RunParts


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "hooks.d"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def script(directory: Path, name: str, body: str, mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


@contextmanager
def running(directory: Path, **options: object) -> Iterator[HookHost]:
    plugin = RunParts(owner=os.getuid())
    table: dict[str, object] = {"directory": str(directory), **options}
    with immediate_host({"run-parts": plugin}, options={"run-parts": table}) as host:
        yield host
        assert not host.errors


def written(out: Path) -> list[str]:
    return out.read_text().split() if out.exists() else []


def alive(process: str) -> bool:
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_executables_run_in_the_order_of_their_names(directory: Path, out: Path) -> None:
    for name in ("20-second", "Z", "10_first", "a"):
        script(directory, name, f"echo {name} >> {out}")
    with running(directory) as host:
        host.announce(make_move())
    assert written(out) == ["10_first", "20-second", "Z", "a"]


def test_they_get_what_happened_in_their_environment_and_nothing_of_the_daemons(directory: Path, out: Path) -> None:
    script(directory, "env", f"env -0 > {out}; pwd >> {out}.cwd")
    for announcement in (make_move(), make_capability(detail="version 1"), make_rejection(known=False)):
        with running(directory, events=["moved", "capability", "rejected"]) as host:
            host.announce(announcement)
        got = dict(item.split("=", 1) for item in out.read_text().rstrip("\0").split("\0"))
        for name in ("PWD", "SHLVL", "_", "OLDPWD"):  # the shell's own
            got.pop(name, None)
        assert got == BASE_ENVIRONMENT | fields_of(announcement)
    assert set(out.with_name("out.cwd").read_text().split()) == {"/"}


def test_the_environment_of_a_move_names_event_tunnel_old_and_new_path() -> None:
    fields = fields_of(make_move())
    assert fields["SWANROAM_EVENT"] == "moved"
    assert fields["SWANROAM_TUNNEL"] == "home[10.99.0.1]"
    assert fields["SWANROAM_OLD"] == "192.0.2.10...203.0.113.1"
    assert fields["SWANROAM_NEW"] == "198.51.100.10...203.0.113.1"
    assert fields["SWANROAM_TRIGGER"] == "address"
    assert fields["SWANROAM_DURATION_MS"] == "12.0"


def test_rejections_are_told_only_if_wanted(directory: Path, out: Path) -> None:
    script(directory, "note", f"echo $SWANROAM_EVENT >> {out}")
    for events in (None, ["rejected"]):
        with running(directory, **({"events": events} if events else {})) as host:
            for announcement in (make_rejection(), make_capability(), make_move()):
                host.announce(announcement)
    assert written(out) == ["capability", "moved", "rejected"]


def test_a_missing_directory_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path / "absent") as host:
        host.announce(make_move())
    assert not caplog.records


def test_a_file_in_place_of_the_directory_is_said_once(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    out.touch()
    with running(out) as host:
        host.announce(make_move())
        host.announce(make_move())
    assert [record.getMessage() for record in caplog.records] == [f"{out}: Not a directory"]


@pytest.mark.parametrize("name", ["a.sh", "a~", "a.dpkg-old", ".hidden", "#a#", "ä", "a b"])
def test_names_that_run_parts_would_not_run_are_not_run(directory: Path, out: Path, name: str) -> None:
    script(directory, name, f"echo ran >> {out}")
    script(directory, "good", f"echo good >> {out}")
    with running(directory) as host:
        host.announce(make_move())
    assert written(out) == ["good"]


def test_what_is_no_executable_file_is_not_run(directory: Path, out: Path) -> None:
    script(directory, "plain", f"echo ran >> {out}", mode=0o644)
    (directory / "folder").mkdir()
    elsewhere = script(directory.parent, "elsewhere", f"echo ran >> {out}")
    (directory / "link").symlink_to(elsewhere)
    os.mkfifo(directory / "fifo", 0o755)
    script(directory, "good", f"echo good >> {out}")
    with running(directory) as host:
        host.announce(make_move())
    assert written(out) == ["good"]


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_file_that_others_can_write_is_not_run_and_that_is_said_once(
    directory: Path, out: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_all = script(directory, "open", f"echo ran >> {out}", mode=mode)
    with running(directory) as host:
        host.announce(make_move())
        host.announce(make_move())
    assert not written(out)
    assert [record.getMessage() for record in caplog.records] == [
        f"{open_to_all}: not run, others than its owner can write it (mode {mode:04o})"
    ]


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_nothing_is_run_from_a_directory_that_others_can_write(
    directory: Path, out: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    script(directory, "good", f"echo ran >> {out}")
    directory.chmod(mode)
    with running(directory) as host:
        host.announce(make_move())
    assert not written(out)
    assert f"{directory}: not run" in caplog.text


def test_nothing_is_run_below_a_directory_that_others_can_write(
    directory: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script(directory, "good", f"echo ran >> {out}")
    directory.parent.chmod(0o777)
    with running(directory) as host:
        host.announce(make_move())
    assert not written(out)
    assert f"{directory.parent}: not run" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_run(directory: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.chown(script(directory, "foreign", f"echo ran >> {out}"), 12345, 0)
    with running(directory) as host:
        host.announce(make_move())
    assert not written(out)
    assert "belongs to user 12345" in caplog.text


def test_one_that_fails_is_logged_and_the_next_one_runs(
    directory: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script(directory, "a", "exit 3")
    (directory / "b").write_bytes(b"no program")
    (directory / "b").chmod(0o755)
    script(directory, "c", f"echo c >> {out}")
    with running(directory) as host:
        host.announce(make_move())
    assert written(out) == ["c"]
    assert f"{directory / 'a'}: exit status 3" in caplog.text
    assert f"{directory / 'b'}: cannot be run: Exec format error" in caplog.text


def test_one_that_takes_too_long_is_killed_with_what_it_started(
    directory: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script(directory, "a", f"sleep 60 & echo $! > {out}; wait")
    script(directory, "b", f"echo b >> {out}.b")
    with running(directory, time_limit_s=0.5) as host:
        host.announce(make_move())
    assert "killed after 0.5 s" in caplog.text
    assert out.with_name("out.b").exists()
    deadline_s = time.monotonic() + 10
    while alive(out.read_text().strip()):
        assert time.monotonic() < deadline_s


def test_without_events_it_has_nothing_to_do(directory: Path) -> None:
    with running(directory, events=[]) as host:
        assert host.status[0].state is PluginState.IDLE


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"directory": "hooks.d"}, "directory: hooks.d is not an absolute path"),
        ({"directory": 5}, "directory: a string is needed, not 5"),
        ({"events": ["move"]}, "events[0]: 'move' is none of moved, capability, rejected"),
        ({"time_limit_s": -1}, "time_limit_s: a time greater than 0 is needed, not -1"),
        ({"timeout": 1}, "timeout: unknown option; known are directory, events, time_limit_s"),
    ],
)
def test_wrong_options_are_named(table: dict[str, object], says: str) -> None:
    with (
        pytest.raises(HookError, match=re.escape(says)),
        immediate_host({"run-parts": RunParts}, options={"run-parts": table}),
    ):
        pass
