"""The thread that gives commands to charon."""

import asyncio
import errno
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swanroam.charon.commands import CharonCommands
from swanroam.errors import CharonGone, CharonRefused
from tests.fakes.vici import FakeCharon, ike_section
from tests.fakes.vici_contract import until


def commanding(
    path: Path, story: Callable[[CharonCommands], Awaitable[None]], *, timeout_s: float = 5.0, queue_size: int = 64
) -> None:
    async def run() -> None:
        commands = CharonCommands(path, timeout_s=timeout_s, queue_size=queue_size)
        commands.start()
        try:
            async with asyncio.timeout(20):
                await story(commands)
        finally:
            commands.stop()

    asyncio.run(run())


def test_one_connection_serves_all_commands(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        for _ in range(3):
            await commands.version()
            await commands.list_sas()

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story)
        assert charon.connections == 1


def test_neither_a_machine_out_of_sockets_nor_a_defect_of_ours_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(commands: CharonCommands) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("swanroam.charon.connection.socket.socket", _none_left)
            with pytest.raises(CharonGone, match="no socket"):
                await commands.version()
        with monkeypatch.context() as patch:
            patch.setattr("swanroam.charon.commands._version", _none_left)
            with pytest.raises(CharonGone, match="version: OSError"):
                await commands.version()
        assert await commands.version()

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story)


def _none_left(*_arguments: object) -> None:
    raise OSError(errno.ENFILE, "Too many open files in system")


def test_an_absent_charon_is_gone_and_then_found(tmp_path: Path) -> None:
    charon = FakeCharon(tmp_path / "vici")

    async def story(commands: CharonCommands) -> None:
        with pytest.raises(CharonGone, match="cannot connect"):
            await commands.list_sas()
        assert commands.failures == 1
        assert commands.answered_at_s is None
        with charon:
            assert await commands.list_sas() == ()
        with pytest.raises(CharonGone):
            await commands.list_sas()
        with charon:
            assert await commands.list_sas() == ()

    commanding(charon.path, story)


def test_a_charon_restarted_between_commands_is_not_noticed(tmp_path: Path) -> None:
    charon = FakeCharon(tmp_path / "vici")

    async def story(commands: CharonCommands) -> None:
        for _ in range(3):
            with charon:
                assert await commands.version() == "5.9.8"
        assert commands.failures == 0

    commanding(charon.path, story)


def test_a_stalled_charon_is_gone_and_its_late_answer_is_not_taken_for_another(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        assert await commands.version()
        charon.stalled.set()
        began_s = time.monotonic()
        with pytest.raises(CharonGone, match="timed out"):
            await commands.list_sas()
        assert time.monotonic() - began_s < 2
        charon.stalled.clear()
        assert await commands.version() == "5.9.8"
        assert charon.connections == 2

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story, timeout_s=0.1)


def test_commands_behind_a_stalled_one_end_at_their_own_deadline(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        charon.stalled.set()
        began_s = time.monotonic()
        results = await asyncio.gather(*(commands.version() for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [CharonGone] * 5
        assert time.monotonic() - began_s < 2

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story, timeout_s=0.2)


def test_too_many_waiting_commands_are_refused_at_once(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        charon.stalled.set()
        results = await asyncio.gather(*(commands.version() for _ in range(10)), return_exceptions=True)
        assert sum("wait already" in str(result) for result in results) >= 6

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story, timeout_s=0.2, queue_size=3)


def test_a_refusal_keeps_the_connection_and_tells_the_reason(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        charon.refusals["rekey"] = "not today"
        with pytest.raises(CharonRefused, match="charon refused rekey: not today"):
            await commands.rekey_ike(1)
        assert await commands.version()
        assert charon.connections == 1

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story)


def test_a_command_that_this_charon_does_not_know_is_refused(tmp_path: Path) -> None:
    class Old(FakeCharon):
        _rekey_command = None  # type: ignore[assignment]  # as charon before 5.5.2

    async def story(commands: CharonCommands) -> None:
        with pytest.raises(CharonRefused, match="does not know the command"):
            await commands.rekey_ike(1, reauth=True)

    with Old(tmp_path / "vici") as charon:
        commanding(charon.path, story)


def test_an_ike_sa_that_cannot_be_read_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(commands: CharonCommands) -> None:
        charon.establish()
        charon.extra_listing.append({"odd": ike_section(9, local_host="nowhere")})
        assert [sa.name for sa in await commands.list_sas()] == ["roam"]
        assert commands.malformed == 1

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story)
    assert "odd: field local-host" in caplog.text


def test_a_cancelled_command_does_not_disturb_the_next(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        for _ in range(5):
            waiting = asyncio.ensure_future(commands.list_sas())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await commands.version() == "5.9.8"

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story)


def test_stopping_ends_what_waits_within_a_second(tmp_path: Path) -> None:
    async def story(commands: CharonCommands) -> None:
        charon.stalled.set()
        waiting = [asyncio.ensure_future(commands.version()) for _ in range(3)]
        await until(lambda: charon.connections > 0)
        began_s = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, commands.stop)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert time.monotonic() - began_s < 1
        assert [type(result) for result in results] == [CharonGone] * 3
        with pytest.raises(CharonGone, match="stopped"):
            await commands.version()
        assert not [thread for thread in threading.enumerate() if thread.name == "charon-commands"]

    with FakeCharon(tmp_path / "vici") as charon:
        commanding(charon.path, story)


def test_stopping_what_was_never_started_is_no_error(tmp_path: Path) -> None:
    CharonCommands(tmp_path / "vici").stop()
