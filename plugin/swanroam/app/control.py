"""The control socket: a local user asks the daemon, one line of JSON each way.

    {"command": "status"}          {"role": "gateway", ...}          or          {"error": "..."}

Only root, the daemon's own user and members of the group `swanroam` are answered, whatever the command is: the kernel
says who is at the other end. A client that is slow, silent, gone or floods costs the daemon a bounded number of bytes
and seconds, and nobody but root can take more than half of the places.
"""

import asyncio
import contextlib
import errno
import grp
import json
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from swanroam.errors import ControlError

__all__ = ["GROUP", "ControlServer", "Handler", "Peer", "ask", "group_id", "may_ask"]

GROUP: Final = "swanroam"
REQUEST_BYTES: Final = 64 * 1024
ANSWER_BYTES: Final = 64 * 1024 * 1024
CLIENT_TIMEOUT_S: Final = 5.0
CLIENTS: Final = 16
PROBE_TIMEOUT_S: Final = 1.0
UCRED: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid (man 7 unix)
SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h; Python has no name for it
GROUPS_BYTES: Final = 1024  # what Python's getsockopt takes at most: 256 groups

Handler = Callable[[], Mapping[str, object]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket: when it connected, or, for a client, when the other began to listen."""

    pid: int
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> "Peer":
        """Ask the kernel. Raises OSError."""
        pid, uid, gid = UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        try:
            groups = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
        except OSError as error:
            if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
                raise
            groups = b""  # more than fit, or Linux before 4.13: only the first group counts
        return cls(pid, uid, frozenset({gid, *(group for (group,) in struct.iter_unpack("I", groups))}))


def may_ask(peer: Peer, own_uid: int, group: int | None) -> bool:
    """Whether a peer is answered; `group` is the id of GROUP where that exists."""
    return peer.uid in (0, own_uid) or (group is not None and group in peer.groups)


def group_id() -> int | None:
    """The id of GROUP, None where it does not exist."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


class ControlServer:
    """Answers commands at `path` while its context is entered. Entering raises ControlError.

    A handler is called in the event loop and returns what JSON can hold. `timeout_s` is what a client has for its
    request, and again for taking the answer.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        *,
        group: int | None = None,
        timeout_s: float = CLIENT_TIMEOUT_S,
        clients: int = CLIENTS,
    ) -> None:
        self._path, self._handlers, self._timeout_s, self._clients = path, handlers, timeout_s, clients
        self._group = group_id() if group is None else group
        self._tasks: dict[asyncio.Task[None], int] = {}
        """Each client's, with its user."""
        self._stopped = False
        self._server: asyncio.Server
        self._inode: tuple[int, int]

    async def __aenter__(self) -> Self:
        listener = _listen(self._path, self._group)
        self._inode = _inode(self._path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=REQUEST_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stopped = True
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            # Another daemon may have taken the place of a socket that somebody removed.
            if _inode(self._path) == self._inode:
                self._path.unlink()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = Peer.of(writer.get_extra_info("socket"))
        except OSError:
            peer = None  # gone already
        if peer is None or self._stopped or not self._has_place(peer.uid):
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer, peer), name="control client")
        self._tasks[task] = peer.uid
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        # Not in the task itself: one that is cancelled before its first step runs none of its code.
        task.add_done_callback(lambda _: writer.transport.abort())

    def _has_place(self, uid: int) -> bool:
        """Whether one more client of this user is served."""
        others = sum(user != 0 for user in self._tasks.values())
        return len(self._tasks) < self._clients and (uid == 0 or others < max(1, self._clients // 2))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        try:
            answer = await self._answer(reader, peer)
            async with asyncio.timeout(self._timeout_s):
                writer.write(answer + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            log.debug("a client of the control socket left or stalled: %s", error)

    async def _answer(self, reader: asyncio.StreamReader, peer: Peer) -> bytes:
        if not may_ask(peer, os.geteuid(), self._group):
            log.warning("process %d of user %d may not use the control socket", peer.pid, peer.uid)
            return _error(f"not permitted: root or group {GROUP} only")
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await reader.readuntil()
        except TimeoutError:
            return _error(f"no request within {self._timeout_s:g} s")
        except asyncio.IncompleteReadError:
            return _error("no whole line")
        except asyncio.LimitOverrunError:
            return _error(f"request longer than {REQUEST_BYTES} bytes")
        return self._obey(line)

    def _obey(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _error("request is not JSON")
        command = request.get("command") if isinstance(request, dict) else None
        if not isinstance(command, str):
            return _error('request is not {"command": "..."}')
        handler = self._handlers.get(command)
        if handler is None:
            return _error(f"unknown command {command!a}; known: {', '.join(sorted(self._handlers))}")
        try:
            return json.dumps(handler()).encode()
        except Exception:
            # A defect in one answer must not end the daemon; the client learns that there is one, the log which.
            log.exception("command %s failed", command)
            return _error(f"{command} failed; the log of the daemon says why")


def _error(problem: str) -> bytes:
    return json.dumps({"error": problem}).encode()


def ask(path: Path, command: str, timeout_s: float = CLIENT_TIMEOUT_S) -> dict[str, object]:
    """Ask the daemon at `path` and return its answer.

    Raises ControlError when there is no daemon, it may not be asked, says no, or does not answer as it should.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            deadline_s = time.monotonic() + timeout_s
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            with contextlib.suppress(BrokenPipeError):  # refused before it was asked: the answer says why
                connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            data = _receive(connection, path, deadline_s)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ControlError(f"swanroam is not running: no daemon at {path}") from error
    except PermissionError as error:
        raise ControlError(f"not permitted to use {path}: root or group {GROUP} only") from error
    except TimeoutError as error:
        raise ControlError(f"no answer from {path} within {timeout_s:g} s") from error
    except OSError as error:
        raise ControlError(f"cannot ask {path}: {error.strerror or error}") from error
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"the answer from {path} is not JSON") from error
    if not isinstance(answer, dict):
        raise ControlError(f"the answer from {path} is not a JSON object")
    if "error" in answer:
        raise ControlError(f"{path}: {answer['error']}")
    return answer


def _receive(connection: socket.socket, path: Path, deadline_s: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        data = connection.recv(65536)
        if not data:
            raise ControlError(f"the daemon at {path} closed the connection without an answer")
        received += data
        if len(received) > ANSWER_BYTES:
            raise ControlError(f"the answer from {path} is longer than {ANSWER_BYTES >> 20} MiB")
    return bytes(received)


def _listen(path: Path, group: int | None) -> socket.socket:
    """A listening socket at `path`, for its owner, and for `group` where there is one."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        # The kernel gives the file the mode of the socket, so that it is at no time open to others.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(CLIENTS)
    except ControlError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        raise ControlError(f"control socket {path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that is gone; one that is there, and what is no socket, is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"control socket {path}: something else is there, and is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(PROBE_TIMEOUT_S)
        try:
            connection.connect(os.fspath(path))
            holder = f"process {Peer.of(connection).pid}"
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except (TimeoutError, BlockingIOError):
            holder = "a process that does not answer"
    raise ControlError(f"control socket {path}: another daemon is running ({holder})")


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
