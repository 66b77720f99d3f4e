"""The agent's loop: readiness of descriptors and timers, nothing else."""

import heapq
import itertools
import select
import time


class Loop:
    """Calls back when a descriptor is readable (or writable) and when a time has come."""

    def __init__(self) -> None:
        self.running = True
        self._poll = select.poll()
        self._callbacks = {}
        self._timers = []
        self._order = itertools.count()

    def watch(self, descriptor, callback, *, writable=False) -> None:
        """Call back whenever the descriptor is readable, or writable."""
        self._callbacks[descriptor] = callback
        self._poll.register(descriptor, select.POLLOUT if writable else select.POLLIN)

    def forget(self, descriptor) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def at(self, when_ns, callback) -> None:
        """Call back once, at a monotonic time."""
        heapq.heappush(self._timers, (when_ns, next(self._order), callback))

    def run(self) -> None:
        """Run until `running` is false."""
        while self.running:
            timeout_ms = None
            if self._timers:
                timeout_ms = max(0, -(-(self._timers[0][0] - time.monotonic_ns()) // 1_000_000))
            for descriptor, _event in self._poll.poll(timeout_ms):
                if callback := self._callbacks.get(descriptor):
                    callback()
            now_ns = time.monotonic_ns()
            while self._timers and self._timers[0][0] <= now_ns:
                heapq.heappop(self._timers)[2]()
