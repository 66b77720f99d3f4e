"""The status for people: everything is in it, on wide terminals and narrow ones."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from rich.console import Console

from swanroam.app.render import WIDE_COLUMNS, render
from swanroam.app.status import LeftAloneStatus, Status, TunnelStatus

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOME: TunnelStatus = {
    "name": "home",
    "inner": ["10.3.0.1", "fd00::1"],
    "local": {"address": "203.0.113.1", "port": 4500},
    "remote": {"address": "2001:db8::7", "port": 61000},
    "encap": True,
    "mobike": False,
    "ike_version": 2,
    "nat": "remote",
    "capability": "negotiated",
    "children": [{"name": "net", "spi_in": "c0000001", "spi_out": "c0000002", "reqid": 1}],
    "moves": 12,
    "last_move": {
        "at": (NOW - timedelta(minutes=3, seconds=20)).isoformat(timespec="milliseconds"),
        "from": "2001:db8::6",
        "to": "2001:db8::7",
        "trigger": "packet",
        "duration_ms": 11.7,
        "validated": True,
    },
    "rejected": {"replayed": 3, "old-sequence": 1},
}
QUIET: TunnelStatus = {
    **HOME,
    "name": "office",
    "inner": [],
    "remote": {"address": "198.51.100.9", "port": 500},
    "encap": False,
    "nat": "none",
    "capability": "none",
    "moves": 0,
    "last_move": None,
    "rejected": {},
}


def shown(status: Status, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(status, width, NOW))
    return out.getvalue()


def status_of(
    *tunnels: TunnelStatus, connected: bool = True, version: str = "5.9.8", alone: Sequence[LeftAloneStatus] = ()
) -> Status:
    return {
        "role": "gateway",
        "charon": {"version": version, "connected": connected},
        "tunnels": [*tunnels],
        "rejected": {},
        "left_alone": [*alone],
    }


@pytest.mark.parametrize("width", [60, 80, WIDE_COLUMNS, 200])
def test_all_that_matters_is_shown_whatever_the_width(width: int) -> None:
    text = shown(status_of(HOME, QUIET), width)
    squeezed = " ".join(text.split())
    for word in (
        "gateway",
        "strongSwan 5.9.8",
        "connected",
        "home",
        "10.3.0.1",
        "fd00::1",
        "negotiated",
        "12",
        "office",
    ):
        assert word in text
    for words in (
        "203.0.113.1:4500",
        "[2001:db8::7]:61000",
        "198.51.100.9",
        "UDP, NAT remote",
        "old-sequence 1, replayed 3",
    ):
        assert all(word in squeezed for word in words.split())
    assert all(len(line) <= width for line in text.splitlines())


def test_a_narrow_terminal_gets_a_block_for_each_tunnel() -> None:
    text = shown(status_of(HOME, QUIET), 70)
    assert "3 min ago, packet, 12 ms, confirmed" in text
    assert "203.0.113.1:4500 - [2001:db8::7]:61000" in text
    assert "203.0.113.1 - 198.51.100.9" in text


@pytest.mark.parametrize("width", [20, 40])
def test_a_very_narrow_terminal_is_no_error(width: int) -> None:
    assert "home" in shown(status_of(HOME), width)


def test_no_tunnels_is_a_sentence() -> None:
    assert "no tunnels" in shown(status_of(), 80)


@pytest.mark.parametrize("width", [60, WIDE_COLUMNS])
@pytest.mark.parametrize("tunnels", [(), (HOME,)])
def test_what_is_left_alone_is_shown_with_the_reason(tunnels: tuple[TunnelStatus, ...], width: int) -> None:
    site: LeftAloneStatus = {"name": "site[b]", "inner": ["10.3.0.9"], "reason": "it has no virtual IP"}
    text = shown(status_of(*tunnels, alone=[site]), width)
    assert "site[b] 10.3.0.9 left alone: it has no virtual IP" in text


def test_charon_that_is_not_there_is_said() -> None:
    assert "strongSwan not connected" in shown(status_of(connected=False, version=""), 80)


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-5), "0 s ago"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(hours=5, minutes=9), "5 h ago"),
        (timedelta(days=3), "3 d ago"),
    ],
)
def test_the_age_of_a_move_has_one_unit(age: timedelta, words: str) -> None:
    assert HOME["last_move"] is not None
    move = {**HOME["last_move"], "at": (NOW - age).isoformat(), "validated": False}
    text = shown(status_of(cast("TunnelStatus", {**HOME, "last_move": move})), 80)
    assert words in text
    assert "not confirmed" in text


def test_names_from_outside_are_neither_markup_nor_commands() -> None:
    text = shown(status_of({**HOME, "name": "[red]x[/red]\x1b[2J"}), 80)
    assert r"[red]x[/red]\x1b[2J" in text
