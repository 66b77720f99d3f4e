"""Streams of numbered UDP packets between two hosts, and what became of each packet."""

import itertools
import time
from dataclasses import dataclass
from typing import Self

from tests.lab.conditions import eventually
from tests.lab.hosts import Host

__all__ = ["Outcome", "Received", "Sent", "Stream"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet that went out."""

    number: int
    first_attempt_ns: int
    sent_ns: int
    refusal: int
    """errno of the first attempt, 0 where it succeeded."""

    @property
    def held_up_ms(self) -> float:
        """How long the sender's kernel refused it."""
        return (self.sent_ns - self.first_attempt_ns) / 1e6


@dataclass(frozen=True, slots=True)
class Received:
    """A packet that arrived."""

    number: int
    sent_ns: int
    arrived_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the packets sent in a window of time."""

    sent: int
    received: int
    lost: tuple[int, ...]
    """Numbers of the packets that never arrived."""
    duplicates: int
    longest_gap_ms: float
    """Longest pause between two arrivals."""
    longest_hold_ms: float
    """Longest time that the sender's kernel refused a packet."""
    longest_pause_ms: float
    """Longest pause between two packets sent: a gap is the sender's own where this is as long."""
    first_arrival_ms: float
    """Time from the beginning of the window to the first arrival of a packet sent in it."""


class Stream:
    """A stream in one direction; it runs from `start` to `stop`."""

    _ports = itertools.count(7000)

    def __init__(
        self, sender: Host, source: str, receiver: Host, destination: str, *, interval_ms: float = 10.0, count: int = 0
    ) -> None:
        self._sender, self._source = sender, source
        self._receiver, self._destination = receiver, destination
        self._interval_ms, self._count = interval_ms, count
        self.port = next(self._ports)
        self.name = f"stream-{self.port}"
        self._sent: list[Sent] = []
        self._received: list[Received] = []
        self._open = False

    def start(self) -> Self:
        """Start the receiver, then the sender."""
        any_address = "::" if ":" in self._destination else "0.0.0.0"  # noqa: S104 -- it may not be there at all times
        self._receiver.agent.do("receive", self.name, port=self.port, address=any_address)
        self._sender.agent.do(
            "send",
            self.name,
            source=self._source,
            destination=self._destination,
            port=self.port,
            interval_ms=self._interval_ms,
            count=self._count,
        )
        self._open = True
        return self

    def stop(self) -> None:
        """Stop sending, wait until the last packet is in, or surely lost, and stop receiving."""
        if not self._open:
            return
        self.sent()
        self._take_sent(self._sender.agent.do("stop", self.name)["records"][len(self._sent) :])
        end_ns = time.monotonic_ns() + 300_000_000
        last = self._sent[-1].number if self._sent else -1
        eventually(
            lambda: time.monotonic_ns() > end_ns or any(packet.number == last for packet in self.received()[-20:]),
            f"{self.name}: the last packet is in or lost",
        )
        self.received()
        self._receiver.agent.do("stop", self.name)
        self._open = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def sent(self) -> list[Sent]:
        """All packets that went so far."""
        if self._open:
            self._take_sent(self._sender.agent.do("report", self.name, since=len(self._sent))["records"])
        return self._sent

    def received(self) -> list[Received]:
        """All packets that arrived so far, in order of arrival."""
        if self._open:
            records = self._receiver.agent.do("report", self.name, since=len(self._received))["records"]
            self._received += [Received(*record) for record in records]
        return self._received

    def _take_sent(self, records: list[list[int]]) -> None:
        self._sent += [Sent(*record) for record in records]

    def flows(self, after_ns: int | None = None, *, packets: int = 3, deadline_s: float = 30.0) -> None:
        """Wait until some packets sent after an instant (now, if none is given) have arrived."""
        since_ns = time.monotonic_ns() if after_ns is None else after_ns
        eventually(
            lambda: sum(packet.sent_ns >= since_ns for packet in self.received()[-5000:]) >= packets,
            f"{self.name} from {self._source} to {self._destination} flows",
            deadline_s=deadline_s,
            # Seldom: whoever looks takes processor time from what it waits for.
            every_s=0.1,
        )

    def outcome(self, since_ns: int = 0, until_ns: int | None = None) -> Outcome:
        """What became of the packets first tried in a window; to be asked once later packets flow."""
        end_ns = until_ns or time.monotonic_ns()
        sent = [packet for packet in self.sent() if since_ns <= packet.first_attempt_ns < end_ns]
        numbers = {packet.number for packet in sent}
        everything = self.received()
        received = [packet for packet in everything if packet.number in numbers]
        arrivals = sorted(packet.arrived_ns for packet in everything)
        gaps = [
            after - before for before, after in itertools.pairwise(arrivals) if after >= since_ns and before < end_ns
        ]
        pauses = [
            after.sent_ns - before.sent_ns
            for before, after in itertools.pairwise(self._sent)
            if after.sent_ns >= since_ns and before.sent_ns < end_ns
        ]
        arrived = {packet.number for packet in received}
        first = min((packet.arrived_ns for packet in received), default=None)
        return Outcome(
            sent=len(sent),
            received=len(arrived),
            lost=tuple(sorted(numbers - arrived)),
            duplicates=len(received) - len(arrived),
            longest_gap_ms=max(gaps, default=0) / 1e6,
            longest_hold_ms=max((packet.held_up_ms for packet in sent), default=0.0),
            longest_pause_ms=max(pauses, default=0) / 1e6,
            first_arrival_ms=(first - since_ns) / 1e6 if first is not None else float("inf"),
        )
