"""The control socket: it answers whom it should, and no client can harm the daemon or another client."""

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from swanroam.app.control import REQUEST_BYTES, ControlServer, Handler, Peer, ask, may_ask
from swanroam.errors import ControlError

DEADLINE_S = 20.0
HANDLERS: Mapping[str, Handler] = {"status": lambda: {"role": "gateway", "tunnels": []}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def with_server(server: ControlServer, story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), server:
            await story()

    asyncio.run(run())


async def exchange(path: Path, data: bytes, *, end: bool = False) -> dict[str, object]:
    """Send bytes as they are and read until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    if end:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    value = json.loads(answer)
    assert isinstance(value, dict)
    assert answer.count(b"\n") == 1
    return value


def served() -> bool:
    return any(task.get_name() == "control client" for task in asyncio.all_tasks())


async def serving(expected: bool) -> None:
    """Wait until a client is being served, or none is; the deadline of the story bounds it."""
    while served() is not expected:  # noqa: ASYNC110 - a task's end has no event
        await asyncio.sleep(0)


def test_a_command_is_answered_with_one_line(path: Path) -> None:
    async def story() -> None:
        assert await exchange(path, b'{"command": "status"}\n') == {"role": "gateway", "tunnels": []}
        assert await asyncio.to_thread(ask, path, "status") == {"role": "gateway", "tunnels": []}

    with_server(ControlServer(path, HANDLERS), story)


@pytest.mark.parametrize(
    ("request_line", "problem"),
    [
        (b'{"command": "explode"}\n', "unknown command 'explode'; known: status"),
        (b'{"command": 7}\n', 'request is not {"command": "..."}'),
        (b'{"command": ["status"]}\n', 'request is not {"command": "..."}'),
        (b"[]\n", 'request is not {"command": "..."}'),
        (b"status\n", "request is not JSON"),
        (b"\xff\n", "request is not JSON"),
        (b"\n", "request is not JSON"),
        (b"[" * 50_000 + b"\n", "request is not JSON"),
        (b"9" * 50_000 + b"\n", "request is not JSON"),
        (b"x" * (REQUEST_BYTES + 1) + b"\n", f"request longer than {REQUEST_BYTES} bytes"),
    ],
)
def test_a_bad_request_is_answered_with_an_error(path: Path, request_line: bytes, problem: str) -> None:
    async def story() -> None:
        assert await exchange(path, request_line) == {"error": problem}
        assert "error" not in await exchange(path, b'{"command": "status"}\n')

    with_server(ControlServer(path, HANDLERS), story)


def test_a_client_that_ends_before_its_line_is_told(path: Path) -> None:
    async def story() -> None:
        assert await exchange(path, b'{"command"', end=True) == {"error": "no whole line"}

    with_server(ControlServer(path, HANDLERS), story)


def test_a_client_that_says_nothing_is_told_and_let_go(path: Path) -> None:
    async def story() -> None:
        assert await exchange(path, b"") == {"error": "no request within 0.05 s"}

    with_server(ControlServer(path, HANDLERS, timeout_s=0.05), story)


def test_a_client_that_takes_no_answer_is_let_go(path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.setblocking(False)
            await loop.sock_connect(client, str(path))
            await loop.sock_sendall(client, b'{"command": "status"}\n')
            await serving(True)
            await serving(False)
            received = 0
            while data := await loop.sock_recv(client, 1 << 20):
                received += len(data)
            assert received < 1 << 24

    big = {"status": lambda: {"x": "x" * (1 << 24)}}
    with_server(ControlServer(path, big, timeout_s=0.05), story)


def test_clients_that_wait_do_not_keep_others_from_an_answer(path: Path) -> None:
    async def story() -> None:
        waiting = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
        assert "error" not in await exchange(path, b'{"command": "status"}\n')
        for _, writer in waiting:
            writer.close()

    with_server(ControlServer(path, HANDLERS, clients=4), story)


def test_more_clients_than_allowed_are_turned_away_at_once(path: Path) -> None:
    async def story() -> None:
        waiting = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await reader.read() == b""
        writer.close()
        waiting.pop()[1].close()
        while True:  # as soon as the server has seen that one left
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"command": "status"}\n')
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
            writer.close()
            if answer:
                break
        for _, other in waiting:
            other.close()

    with_server(ControlServer(path, HANDLERS, clients=3), story)


def test_a_handler_that_fails_is_logged_and_the_client_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Mapping[str, object]:
        raise ZeroDivisionError("inner detail")

    async def story() -> None:
        for command in ("fail", "strange"):
            answer = await exchange(path, json.dumps({"command": command}).encode() + b"\n")
            assert answer == {"error": f"{command} failed; the log of the daemon says why"}

    with_server(ControlServer(path, {"fail": fail, "strange": lambda: {"x": object()}}), story)
    assert "inner detail" in caplog.text


def test_the_socket_is_for_its_owner_and_the_group_only(path: Path) -> None:
    modes: list[int] = []

    async def story() -> None:
        modes.append(mode())

    def mode() -> int:
        return path.stat().st_mode & 0o777

    umask = os.umask(0)
    try:
        with_server(ControlServer(path, HANDLERS, group=os.getgid()), story)
        with_server(ControlServer(path, HANDLERS, group=None), story)
    finally:
        os.umask(umask)
    assert modes[0] == 0o660
    assert modes[1] in (0o600, 0o660)  # the group may exist on this machine


def test_the_socket_is_gone_after_the_daemon_stopped(path: Path) -> None:
    async def story() -> None:
        assert "error" not in await exchange(path, b'{"command": "status"}\n')

    with_server(ControlServer(path, HANDLERS), story)
    assert not path.exists()


def test_stopping_leaves_the_socket_of_a_daemon_that_took_its_place(path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
            async with ControlServer(path, HANDLERS):
                await asyncio.to_thread(path.unlink)
                await stack.enter_async_context(ControlServer(path, HANDLERS))
            assert "error" not in await exchange(path, b'{"command": "status"}\n')

    asyncio.run(run())
    assert not path.exists()


def test_a_client_that_waits_does_not_delay_the_stop(path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S):
            async with ControlServer(path, HANDLERS, timeout_s=3600):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(b"{")
                await serving(True)
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_the_socket_file_of_a_dead_daemon_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))

    async def story() -> None:
        assert "error" not in await exchange(path, b'{"command": "status"}\n')

    with_server(ControlServer(path, HANDLERS), story)


def test_the_socket_of_a_live_daemon_is_an_error_that_names_it(path: Path) -> None:
    async def story() -> None:
        with pytest.raises(ControlError) as caught:
            await ControlServer(path, HANDLERS).__aenter__()
        assert str(caught.value) == f"control socket {path}: another daemon is running (process {os.getpid()})"
        assert "error" not in await exchange(path, b'{"command": "status"}\n')

    with_server(ControlServer(path, HANDLERS), story)


def test_a_file_in_the_place_of_the_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("important")
    with pytest.raises(ControlError, match="something else is there"):
        asyncio.run(ControlServer(path, HANDLERS).__aenter__())
    assert path.read_text() == "important"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def enter() -> None:
        await ControlServer(tmp_path / "file" / "control.sock", HANDLERS).__aenter__()

    with pytest.raises(ControlError, match=r"Not a directory|File exists"):
        asyncio.run(enter())


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (Peer(1, 0, frozenset({0})), True),
        (Peer(1, 500, frozenset({1})), True),
        (Peer(1, 1000, frozenset({1000, 77})), True),
        (Peer(1, 1000, frozenset({1000})), False),
        (Peer(1, 65534, frozenset({65534})), False),
    ],
)
def test_root_the_own_user_and_the_group_may_ask(peer: Peer, *, allowed: bool) -> None:
    assert may_ask(peer, own_uid=500, group=77) is allowed
    assert not may_ask(Peer(1, 1000, frozenset({0, 77})), own_uid=500, group=None)


def test_the_kernel_says_who_the_peer_is() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with closing(left), closing(right):
        assert Peer.of(left) == Peer(os.getpid(), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "sys.stdout.write(s.makefile().readline())"
    )

    def other(path: Path) -> bytes:
        for opened in (path.parent, path):  # as if somebody had opened it to everybody
            opened.chmod(0o777)
        command = ["/usr/bin/python3", "-c", script, str(path)]
        return subprocess.check_output(command, user=65534, group=65534, extra_groups=[], timeout=DEADLINE_S)

    with TemporaryDirectory() as folder:
        path = Path(folder) / "control.sock"

        async def story() -> None:
            answer = json.loads(await asyncio.to_thread(other, path))
            assert answer == {"error": "not permitted: root or group swanroam only"}

        with_server(ControlServer(path, HANDLERS), story)
    assert "user 65534 may not use the control socket" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_silent_clients_of_another_user_do_not_keep_root_out() -> None:
    script = (
        "import socket, sys\n"
        "many = [socket.socket(socket.AF_UNIX) for _ in range(8)]\n"
        "for one in many: one.connect(sys.argv[1])\n"
        "print(sum(one.recv(1, socket.MSG_PEEK) == b'' for one in many[2:]), flush=True)\n"
        "sys.stdin.read()\n"
    )

    with TemporaryDirectory() as folder:
        path = Path(folder) / "control.sock"

        async def story() -> None:
            for opened in (path.parent, path):
                opened.chmod(0o777)
            silent = await asyncio.create_subprocess_exec(
                *("/usr/bin/python3", "-c", script, str(path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                user=65534,
                group=os.getegid(),
                extra_groups=[],
            )
            assert silent.stdin is not None
            assert silent.stdout is not None
            assert await silent.stdout.readline() == b"6\n", "two of eight are waited for, the others turned away"
            assert "error" not in await exchange(path, b'{"command": "status"}\n')
            silent.stdin.close()
            await silent.wait()

        with_server(ControlServer(path, HANDLERS, clients=4, group=os.getegid()), story)


# The client.


@contextmanager
def daemon(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """A daemon of the wrong kind: one connection, handled as the test says."""
    path.parent.mkdir(exist_ok=True)
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with closing(connection):
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_no_daemon_is_a_sentence(path: Path) -> None:
    with pytest.raises(ControlError, match=f"swanroam is not running: no daemon at {path}"):
        ask(path, "status")


def test_a_dead_socket_is_a_sentence(path: Path) -> None:
    path.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    with pytest.raises(ControlError, match="swanroam is not running"):
        ask(path, "status")


def test_a_refusal_is_a_sentence(path: Path) -> None:
    async def story() -> None:
        with pytest.raises(ControlError, match="unknown command 'nonsense'"):
            await asyncio.to_thread(ask, path, "nonsense")

    with_server(ControlServer(path, HANDLERS), story)


def test_a_path_that_is_too_long_is_a_sentence() -> None:
    with pytest.raises(ControlError, match="path too long"):
        ask(Path("/" + "x" * 200), "status")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "without an answer"),
        (b'{"half', "without an answer"),
        (b"\xff\n", "is not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 100_000 + b"\n", "is not JSON"),
    ],
)
def test_an_answer_that_is_none_is_a_sentence(path: Path, answer: bytes, problem: str) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)

    with daemon(path, reply), pytest.raises(ControlError, match=problem):
        ask(path, "status")


def test_a_daemon_that_resets_the_connection_is_a_sentence(path: Path) -> None:
    with daemon(path, lambda _: None), pytest.raises(ControlError):
        ask(path, "status")


def test_a_daemon_that_does_not_answer_in_time_is_a_sentence(path: Path) -> None:
    done = threading.Event()
    with daemon(path, lambda _: (done.wait(DEADLINE_S), None)[1]):
        with pytest.raises(ControlError, match=r"no answer from .* within 0.05 s"):
            ask(path, "status", timeout_s=0.05)
        done.set()


def test_a_daemon_that_answers_byte_by_byte_for_ever_is_given_up(path: Path) -> None:
    def trickle(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(b"x")
        except OSError:
            return

    with daemon(path, trickle), pytest.raises(ControlError, match=r"no answer|longer than"):
        ask(path, "status", timeout_s=0.2)
