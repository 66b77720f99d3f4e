"""The thread that listens for charon's events."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from vici.protocol import Message

from swanroam.charon.events import CharonEvents, Delays
from swanroam.charon.protocols import EventKind
from tests.fakes.vici import FakeCharon, ike_section
from tests.fakes.vici_contract import Told, until

QUICK = Delays(first_s=0.005, last_s=0.02)


def listening(
    path: Path,
    story: Callable[[CharonEvents, Told], Awaitable[None]],
    *,
    timeout_s: float = 5.0,
    delays: Delays = QUICK,
) -> None:
    async def run() -> None:
        told = Told()
        events = CharonEvents(path, told.take, asyncio.get_running_loop(), delays=delays, timeout_s=timeout_s)
        events.start()
        try:
            async with asyncio.timeout(20):
                await story(events, told)
        finally:
            events.stop()

    asyncio.run(run())


def test_events_reach_the_callback_in_order(tmp_path: Path) -> None:
    async def story(_events: CharonEvents, told: Told) -> None:
        await told.until(EventKind.CONNECTED)
        charon.establish()
        await told.until(EventKind.CHILD_UPDOWN, up=True)
        kinds = [event.kind for event in told.seen]
        assert kinds == [EventKind.CONNECTED, EventKind.IKE_UPDOWN, EventKind.CHILD_UPDOWN]

    with FakeCharon(tmp_path / "vici") as charon:
        listening(charon.path, story)


def test_charon_that_comes_late_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    charon = FakeCharon(tmp_path / "vici")

    async def story(_events: CharonEvents, told: Told) -> None:
        await until(lambda: "waiting for it" in caplog.text)
        with charon:
            await told.until(EventKind.CONNECTED)

    with caplog.at_level(logging.INFO):
        listening(charon.path, story)
    assert "cannot connect" in caplog.text


def test_an_outage_gives_one_line_and_its_end_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    charon = FakeCharon(tmp_path / "vici")
    attempts = 0

    def clock() -> float:
        nonlocal attempts
        attempts += 1
        return time.monotonic()

    async def run() -> None:
        told = Told()
        events = CharonEvents(charon.path, told.take, asyncio.get_running_loop(), delays=QUICK, clock=clock)
        with charon:
            events.start()
            await told.until(EventKind.CONNECTED)
        await told.until(EventKind.LOST)
        before = attempts
        await until(lambda: attempts > before + 20)  # several attempts that fail
        with charon:
            await told.until(EventKind.CONNECTED)
            charon.emit("ike-updown", {"roam": ike_section(4)})
            await told.until(EventKind.IKE_UPDOWN)
            events.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert "charon is back" in caplog.records[-1].message


def test_a_connection_that_charon_drops_is_built_anew(tmp_path: Path) -> None:
    async def story(_events: CharonEvents, told: Told) -> None:
        for _ in range(5):
            await told.until(EventKind.CONNECTED)
            charon.drop()
            await told.until(EventKind.LOST)
        await told.until(EventKind.CONNECTED)

    with FakeCharon(tmp_path / "vici") as charon:
        listening(charon.path, story)
        assert charon.connections == 6


def test_an_event_that_charon_does_not_know_is_done_without(tmp_path: Path) -> None:
    async def story(events: CharonEvents, told: Told) -> None:
        await told.until(EventKind.CONNECTED)
        assert events.unsupported == {EventKind.IKE_UPDATE}
        charon.establish()
        await told.until(EventKind.IKE_UPDOWN, up=True)

    with FakeCharon(tmp_path / "vici") as charon:
        charon.events.remove("ike-update")
        listening(charon.path, story)


def test_a_charon_that_stalls_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(_events: CharonEvents, told: Told) -> None:
        await until(lambda: charon.connections >= 3)
        charon.stalled.clear()
        await told.until(EventKind.CONNECTED)

    with FakeCharon(tmp_path / "vici") as charon, caplog.at_level(logging.WARNING):
        charon.stalled.set()
        listening(charon.path, story, timeout_s=0.05)
    assert len(caplog.records) == 1
    assert "timed out" in caplog.text


def test_an_event_that_stops_halfway_ends_the_connection(tmp_path: Path) -> None:
    async def story(_events: CharonEvents, told: Told) -> None:
        await told.until(EventKind.CONNECTED)
        charon.send_bytes("ike-updown", b"\0\0\1\0half")
        await told.until(EventKind.LOST)
        await told.until(EventKind.CONNECTED)

    with FakeCharon(tmp_path / "vici") as charon:
        listening(charon.path, story, timeout_s=0.1)


def test_events_are_read_however_they_are_cut_into_pieces(tmp_path: Path) -> None:
    async def story(_events: CharonEvents, told: Told) -> None:
        await told.until(EventKind.CONNECTED)
        message = Message.serialize({"up": "yes", "roam": ike_section(4)})
        packet = b"\x07\x0aike-updown" + message
        stream = (len(packet).to_bytes(4, "big") + packet) * 3
        for piece in (stream[:2], stream[2:4], stream[4:5], *(stream[at : at + 7] for at in range(5, len(stream), 7))):
            charon.send_bytes("ike-updown", piece)
        for _ in range(3):
            event = await told.until(EventKind.IKE_UPDOWN, up=True)
            assert event.sa is not None
            assert event.sa.unique_id == 4

    with FakeCharon(tmp_path / "vici") as charon:
        listening(charon.path, story)


@pytest.mark.parametrize("length", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\x08\0\1"])
def test_a_packet_of_an_impossible_length_ends_the_connection(tmp_path: Path, length: bytes) -> None:
    async def story(_events: CharonEvents, told: Told) -> None:
        await told.until(EventKind.CONNECTED)
        charon.send_bytes("ike-updown", length)
        await told.until(EventKind.LOST)
        await told.until(EventKind.CONNECTED)

    with FakeCharon(tmp_path / "vici") as charon:
        listening(charon.path, story)


def test_unknown_and_unreadable_events_are_counted_and_the_next_one_is_read(tmp_path: Path) -> None:
    async def story(events: CharonEvents, told: Told) -> None:
        await told.until(EventKind.CONNECTED)
        charon.send_raw("ike-updown", b"\x07\x05alert\x03\x01a\x00\x01b")
        charon.send_raw("ike-updown", b"\x07\x0aike-updown\x03\xffa")
        charon.send_raw("ike-updown", b"\x07")
        charon.emit("ike-updown", {"roam": ike_section(4, version="nine")})
        event = await told.until(EventKind.IKE_UPDOWN)
        assert event.sa is None
        charon.emit("ike-updown", {"roam": ike_section(5)})
        event = await told.until(EventKind.IKE_UPDOWN)
        assert event.sa is not None
        assert event.sa.local.address == IPv4Address("10.0.1.2")
        charon.drop()
        await told.until(EventKind.LOST)
        assert events.ignored == {"alert": 1, "ike-updown": 1, "malformed": 2}

    with FakeCharon(tmp_path / "vici") as charon:
        listening(charon.path, story)


@pytest.mark.parametrize("state", ["listening", "absent", "stalled", "never started"])
def test_stopping_takes_less_than_a_second(tmp_path: Path, state: str) -> None:
    async def run() -> None:
        told = Told()
        charon = FakeCharon(tmp_path / "vici")
        events = CharonEvents(charon.path, told.take, asyncio.get_running_loop(), delays=Delays(first_s=60, last_s=60))
        if state != "absent":
            charon.start()
        if state == "stalled":
            charon.stalled.set()
        if state != "never started":
            events.start()
        if state == "listening":
            await told.until(EventKind.CONNECTED)
        if state == "stalled":
            await until(lambda: charon.connections == 1)
        began_s = time.monotonic()
        events.stop()
        events.stop()
        assert time.monotonic() - began_s < 1
        assert not [thread for thread in threading.enumerate() if thread.name == "charon-events"]
        charon.stop()

    asyncio.run(run())


def test_delays_grow_up_to_the_last() -> None:
    delays = Delays(first_s=0.1, last_s=2.0)
    delay_s, seen = delays.first_s, []
    for _ in range(7):
        seen.append(round(delay_s, 2))
        delay_s = delays.after(delay_s)
    assert seen == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_closed_loop_ends_the_thread(tmp_path: Path) -> None:
    with FakeCharon(tmp_path / "vici") as charon:
        loop = asyncio.new_event_loop()
        events = CharonEvents(charon.path, lambda _event: None, loop, delays=QUICK)
        loop.close()
        events.start()
        deadline_s = time.monotonic() + 10
        while any(thread.name == "charon-events" for thread in threading.enumerate()):
            assert time.monotonic() < deadline_s
            charon.emit("ike-updown", {"roam": ike_section(1)})
        events.stop()
