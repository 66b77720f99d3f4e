"""Notifying systemd, against a real datagram socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from swanroam.app.systemd import Notifier

DEADLINE_S = 20.0


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd has it, and its name for NOTIFY_SOCKET."""
    abstract = request.param == "abstract"
    address = f"@swanroam-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.settimeout(DEADLINE_S)
        receiver.bind(f"\0{address[1:]}" if abstract else address)
        yield receiver, address


def test_each_state_is_one_datagram(systemd: tuple[socket.socket, str]) -> None:
    receiver, address = systemd
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    received = [receiver.recv(1000).decode() for _ in range(3)]
    assert received[0] == "READY=1"
    reloading, usec = received[1].split("\nMONOTONIC_USEC=")
    assert reloading == "RELOADING=1"
    assert int(usec) > 0
    assert received[2] == "STOPPING=1"


def test_signs_of_life_come_from_the_event_loop_in_time(systemd: tuple[socket.socket, str]) -> None:
    receiver, address = systemd
    receiver.setblocking(False)
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier.from_environment(environment)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        beating = asyncio.create_task(notifier.watchdog())
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(3):
                assert await loop.sock_recv(receiver, 100) == b"WATCHDOG=1"
        beating.cancel()

    asyncio.run(story())


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "20000"},
        {"NOTIFY_SOCKET": "@x"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "-5"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_signs_of_life_are_given_where_none_are_asked_for(environment: dict[str, str]) -> None:
    async def story() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await Notifier.from_environment(environment).watchdog()

    asyncio.run(story())


def test_without_systemd_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}):
        Notifier.from_environment(environment).ready()
    assert not caplog.records


def test_an_address_of_another_kind_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}).ready()
    assert len(caplog.records) == 1


def test_a_socket_that_is_gone_is_told_once_and_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(str(tmp_path / "none"))
    notifier.ready()
    notifier.stopping()
    assert len(caplog.records) == 1
    assert "No such file" in caplog.text
