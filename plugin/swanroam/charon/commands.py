"""Commands to charon: a worker thread with a vici connection of its own, which stays open between commands.

The vici protocol has no numbers that match answers to requests, so one command is under way at a time, in the order in
which they were given. A command that times out takes its connection with it: its late answer must not become the
answer to the next.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from swanroam.charon.connection import Answer, ViciConnection
from swanroam.charon.decode import decode_listing
from swanroam.errors import CharonError, CharonGone
from swanroam.model.tunnel import IkeSa

__all__ = ["CharonCommands"]

LOG: Final = logging.getLogger(__name__)
STOP_S: Final = 1.0
NO_WAITING: Final = "-1"
"""vici `timeout` with which charon answers before the exchange with the peer is done."""


Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Job:
    command: str
    message: Mapping[str, object]
    decode: Callable[[Answer], object]
    """Runs on the worker thread: a gateway's listing takes its time, which the event loop has not got."""
    deadline_s: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"

    def finish(self, result: object) -> None:
        """Hand over the result, or the CharonError."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits for the result any more
            self.loop.call_soon_threadsafe(self._set, result)

    def _set(self, result: object) -> None:
        if self.future.done():
            return
        if isinstance(result, CharonError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class CharonCommands:
    """Gives commands to the charon behind the vici socket at `path`.

    Every command raises CharonGone when charon is absent, does not answer within `timeout_s` or `queue_size` commands
    wait already, and CharonRefused when charon answers that it failed. charon may come and go between commands.
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = 5.0,
        queue_size: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._timeout_s, self._queue_size, self._clock = path, timeout_s, queue_size, clock
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connection: ViciConnection | None = None
        self._thread = threading.Thread(target=self._run, name="charon-commands", daemon=True)
        self.answered_at_s: float | None = None
        """Monotonic seconds of charon's last answer, None before the first."""
        self.failures = 0
        """Commands that ended with CharonGone."""
        self.malformed = 0
        """IKE_SAs that were left out of listings because they could not be read."""

    def start(self) -> None:
        """Begin to take commands; connects with the first."""
        self._thread.start()

    def stop(self) -> None:
        """Stop within a second; commands that are waiting raise CharonGone. Stopping twice does nothing."""
        self._stopping.set()
        self._jobs.put(None)
        with self._lock:
            if self._connection:
                self._connection.interrupt()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    async def version(self) -> str:
        """The version of strongSwan, as "5.9.8"."""
        return await self._command("version", {}, _version)

    async def list_sas(self, ike_id: int | None = None) -> tuple[IkeSa, ...]:
        """All IKE_SAs, or the one with this unique id (empty when there is none).

        An IKE_SA that cannot be read is left out, counted in `malformed` and logged.
        """
        message = {} if ike_id is None else {"ike-id": ike_id}
        listing = await self._command("list-sas", message, lambda answer: decode_listing(answer.streamed))
        self.malformed += len(listing.problems)
        for problem in listing.problems:
            LOG.warning("an IKE_SA was left out: %s", problem)
        return listing.sas

    async def rekey_ike(self, ike_id: int, *, reauth: bool = False) -> None:
        """Have an IKE_SA rekeyed, or built anew with authentication; returns once charon has queued it."""
        await self._command("rekey", {"ike-id": ike_id, "reauth": "yes" if reauth else "no"}, _nothing)

    async def rekey_child(self, child_id: int) -> None:
        """Have a CHILD_SA rekeyed, by its unique id; returns once charon has queued it."""
        await self._command("rekey", {"child-id": child_id}, _nothing)

    async def initiate(self, child: str, ike: str) -> None:
        """Have a CHILD_SA initiated by its configuration name; returns at once, the result comes as events."""
        await self._command("initiate", {"child": child, "ike": ike, "timeout": NO_WAITING}, _nothing)

    async def terminate(self, ike_id: int, *, force: bool = False) -> None:
        """Have an IKE_SA deleted; with `force` without waiting for the peer's answer. Returns at once."""
        message = {"ike-id": ike_id, "force": "yes" if force else "no", "timeout": NO_WAITING}
        await self._command("terminate", message, _nothing)

    async def terminate_child(self, child_id: int) -> None:
        """Have a CHILD_SA deleted, by its unique id. Returns at once."""
        await self._command("terminate", {"child-id": child_id, "timeout": NO_WAITING}, _nothing)

    async def _command(self, command: str, message: Mapping[str, object], decode: Callable[[Answer], Value]) -> Value:
        if self._stopping.is_set():
            raise CharonGone(f"{command}: stopped")
        if self._jobs.qsize() >= self._queue_size:
            raise CharonGone(f"{command}: {self._queue_size} commands wait already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()
        self._jobs.put(_Job(command, message, decode, self._clock() + self._timeout_s, loop, future))
        return await future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            if not job.future.cancelled():
                job.finish(self._outcome(job))
        self._disconnect()
        while True:
            if job is not None:
                job.finish(CharonGone(f"{job.command}: stopped"))
            if self._jobs.empty():
                return
            job = self._jobs.get()

    def _outcome(self, job: _Job) -> object:
        try:
            return self._answer(job)
        except Exception as error:
            # A defect of ours: commands after this one are answered all the same.
            LOG.exception("%s failed", job.command)
            return CharonGone(f"{job.command}: {type(error).__name__}")

    def _answer(self, job: _Job) -> object:
        try:
            connection = self._connected(job)
            answer = connection.request(job.command, job.message, job.deadline_s - self._clock())
        except CharonGone as error:
            self.failures += 1
            self._disconnect()
            return error
        except CharonError as error:
            self.answered_at_s = self._clock()
            return error
        self.answered_at_s = self._clock()
        return job.decode(answer)

    def _connected(self, job: _Job) -> ViciConnection:
        """The open connection, or a new one where charon closed the old one while nothing was asked."""
        if self._connection and self._connection.alive():
            return self._connection
        self._disconnect()
        connection = ViciConnection(self._path, self._clock)
        with self._lock:
            self._connection = connection
        connection.connect(max(job.deadline_s - self._clock(), 0.001))
        if self._stopping.is_set():
            raise CharonGone("stopped")  # stop() may have come too early to interrupt the connection
        # Registered once, not with each list-sas: charon raises it only on the connection that asked.
        connection.register("list-sa", job.deadline_s - self._clock())
        return connection

    def _disconnect(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection:
            connection.close()


def _version(answer: Answer) -> str:
    version = answer.message.get("version", b"")
    return version.decode(errors="replace") if isinstance(version, bytes) else ""


def _nothing(_answer: Answer) -> None:
    """That charon answered is all there is to know."""
