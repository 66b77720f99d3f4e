"""One thread for the code of one plugin: it may hang there, and nobody else does."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Full, SimpleQueue
from typing import Protocol

__all__ = ["Runner", "ThreadRunner"]


class Runner(Protocol):
    """Runs the calls of one plugin, one after the other, in the order given."""

    def submit(self, call: Callable[[], object]) -> Future[object]:
        """Run a call; what it raises is in the future. Raises queue.Full when too many wait, or when stopped."""

    def stop(self) -> None:
        """Take no more calls; those that wait are still run."""

    def join(self, timeout_s: float) -> bool:
        """Wait for the calls after `stop`. False when one hangs: those behind it are never run."""


class ThreadRunner:
    """A Runner on a daemon thread of its own, with at most `capacity` calls waiting."""

    def __init__(self, name: str, capacity: int) -> None:
        self._capacity = capacity
        self._calls: SimpleQueue[tuple[Callable[[], object], Future[object]] | None] = SimpleQueue()
        self._stopped = False
        self._abandoned = False
        # A daemon thread, not an executor's: the interpreter would wait for those at exit, hung or not.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], object]) -> Future[object]:
        """Queue a call for the thread."""
        if self._stopped or self._calls.qsize() >= self._capacity:
            raise Full
        future: Future[object] = Future()
        self._calls.put((call, future))
        return future

    def stop(self) -> None:
        """Let the thread end after the calls that wait; stopping twice does nothing."""
        if not self._stopped:
            self._stopped = True
            self._calls.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread."""
        self._thread.join(max(timeout_s, 0))
        self._abandoned = self._thread.is_alive()
        return not self._abandoned

    def _run(self) -> None:
        while (item := self._calls.get()) is not None and not self._abandoned:
            call, future = item
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - whatever a third party raises, SystemExit too, is for the asker
                future.set_exception(error)
            del item, call, future  # or the last call's values live on until the next one
