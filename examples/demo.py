"""The demo: a tunnel under streams in both directions, and a terminal that changes network three times.

Started by demo.sh, which does the set-up. Whatever it says was measured: gaps and losses are of numbered packets, and
renegotiations are counted from captured IKE packets, and from charon's ids and the SPIs before and after each move.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.lab.conditions import eventually
from tests.lab.installed import install
from tests.lab.streams import Outcome, Stream
from tests.lab.world import Move, Terminal, World

MOVES = 3
QUIET_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """What one move did to the streams."""

    number: int
    old: str
    new: str
    down_gap_ms: float
    down_lost: int
    up_gap_ms: float
    up_lost: int
    gateway_moved_after_ms: float | None
    """From the change of address to the first packet that the gateway sent to the new one."""
    ike_packets: int
    new_keys: bool

    @property
    def renegotiated(self) -> bool:
        """Whether charon had to negotiate anything."""
        return self.new_keys or self.ike_packets > 0


class Timeline:
    """Prints what happens, with the time since the beginning, as it happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_ns = time.monotonic_ns()

    def say(self, text: str, *, at_ns: int | None = None, style: str = "") -> None:
        """Print one line; `at_ns` is when it happened, now if it is not given."""
        seconds = ((at_ns or time.monotonic_ns()) - self._began_ns) / 1e9
        self._console.print(f"[dim]{seconds:8.3f} s[/dim]  {text}", style=style, highlight=False)


def bring_up(world: World, timeline: Timeline) -> None:
    """Start everything and explain it."""
    timeline.say("terminal, router, gateway and server are there; 20 ms round trip")
    world.connect()
    terminal = world.terminal
    timeline.say(
        f"strongSwan {terminal.charon.version}, IKEv2, mobike = no: tunnel is up,"
        f" inner address {terminal.inner}, outer address {terminal.outer}"
    )
    world.roam()
    timeline.say("swanroam runs on terminal and gateway; they agreed that the terminal may roam")


def one_move(number: int, world: World, up: Stream, down: Stream, timeline: Timeline) -> MoveReport:
    """Move once and watch until both streams flow again and the new state has lasted for a moment."""
    terminal = world.terminal
    before = terminal.sa.identity
    move = terminal.move()
    timeline.say(f"[bold]move {number}[/bold]: {move.old} is gone, {move.new} is there", at_ns=move.usable_ns)
    down.flows(move.usable_ns, deadline_s=60)
    up.flows(move.usable_ns, deadline_s=60)
    # Anything that charon still wants to do about the move belongs to it.
    eventually(lambda: time.monotonic_ns() > move.usable_ns + QUIET_S * 1e9, "a quiet moment")
    down.flows()
    went_down, went_up = down.outcome(move.began_ns), up.outcome(move.usable_ns)
    answered = world.capture.esp_to(move.new, move.began_ns)
    report = MoveReport(
        number=number,
        old=move.old,
        new=move.new,
        down_gap_ms=round(went_down.longest_gap_ms, 1),
        down_lost=len(in_the_past(went_down, down)),
        up_gap_ms=round(went_up.longest_gap_ms, 1),
        up_lost=len(in_the_past(went_up, up)),
        gateway_moved_after_ms=round((answered[0].at_ns - move.usable_ns) / 1e6, 1) if answered else None,
        ike_packets=len(world.capture.ike(move.began_ns)),
        new_keys=terminal.sa.identity != before,
    )
    tell(report, move, world, timeline)
    return report


def in_the_past(outcome: Outcome, stream: Stream) -> list[int]:
    """Packets lost, without those that may still be in flight: younger than the last that arrived."""
    last = stream.received()[-1].number
    return [number for number in outcome.lost if number < last]


def tell(report: MoveReport, move: Move, world: World, timeline: Timeline) -> None:
    """Say what happened when, from the capture."""
    capture = world.capture
    if sent := capture.esp_from(move.new, move.began_ns):
        timeline.say("        first packet from the new address reaches the gateway", at_ns=sent[0].at_ns)
    if answered := capture.esp_to(move.new, move.began_ns):
        timeline.say("        the gateway sends to the new address", at_ns=answered[0].at_ns)
    for packet in capture.ike(move.began_ns)[:1]:
        timeline.say("        charon negotiates", at_ns=packet.at_ns, style="red")
    timeline.say(
        f"        down: gap {report.down_gap_ms} ms, {report.down_lost} lost;"
        f" up: gap {report.up_gap_ms} ms, {report.up_lost} lost;"
        f" IKE packets: {report.ike_packets}, keys {'changed' if report.new_keys else 'the same'}"
    )


def summary(reports: list[MoveReport]) -> Table:
    """The moves side by side."""
    table = Table("move", "from", "to", "gap down", "lost", "gap up", "lost", "IKE packets", "keys")
    for one in reports:
        table.add_row(
            str(one.number),
            one.old,
            one.new,
            f"{one.down_gap_ms} ms",
            str(one.down_lost),
            f"{one.up_gap_ms} ms",
            str(one.up_lost),
            str(one.ike_packets),
            "changed" if one.new_keys else "the same",
        )
    return table


def agrees(world: World, terminal: Terminal) -> bool:
    """Whether charon and swanroam, on both ends, know the terminal's last address."""
    ends: tuple[Callable[[], str], ...] = (
        lambda: terminal.sa.local,
        lambda: terminal.swanroam.tunnel(terminal.inner)["local"]["address"],
        lambda: world.gateway.swanroam.tunnel(terminal.inner)["remote"]["address"],
    )
    return all(address() == terminal.outer for address in ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What all moves did, together."""

    moves: list[MoveReport]
    packets_outside_the_tunnel: int
    both_ends_agree: bool

    @property
    def renegotiations(self) -> int:
        """Moves at which charon negotiated."""
        return sum(one.renegotiated for one in self.moves)

    @property
    def longest_gap_ms(self) -> float:
        """In either direction."""
        return max(max(one.down_gap_ms, one.up_gap_ms) for one in self.moves)

    @property
    def verdict(self) -> str:
        """`ok` when the tunnel moved each time and nothing else happened."""
        good = self.renegotiations == 0 and self.both_ends_agree and not self.packets_outside_the_tunnel
        return "ok" if good else "failed"


def perform(world: World, timeline: Timeline) -> Result:
    """Make all moves in a world that is up."""
    _ = world.capture
    with world.both_ways() as (up, down):
        timeline.say("streams in both directions, a packet each 10 ms")
        reports = [one_move(number, world, up, down, timeline) for number in range(1, MOVES + 1)]
    return Result(
        moves=reports,
        packets_outside_the_tunnel=len(world.capture.cleartext()),
        both_ends_agree=agrees(world, world.terminal),
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
@click.option("--installed", type=click.Choice(["bookworm", "trixie"]), help="Both ends from the Debian package.")
def main(*, as_json: bool, installed: str | None) -> None:
    """Move a tunnel three times and show what it took."""
    console = Console(stderr=as_json, quiet=as_json, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    timeline = Timeline(console)
    with World() as world, contextlib.ExitStack() as machines:
        if installed:
            machines.enter_context(install(world, f"{installed}-installed", f"{installed}-installed"))
            timeline.say(f"Debian ({installed}) with the package runs on both ends")
        bring_up(world, timeline)
        result = perform(world, timeline)
    if as_json:
        values = {
            "verdict": result.verdict,
            "moves": [asdict(one) for one in result.moves],
            "renegotiations": result.renegotiations,
            "longest_gap_ms": result.longest_gap_ms,
            "packets_outside_the_tunnel": result.packets_outside_the_tunnel,
            "both_ends_agree": result.both_ends_agree,
        }
        click.echo(json.dumps(values))
    else:
        console.print(summary(result.moves))
        line = (
            f"demo: {MOVES} moves, {result.renegotiations} renegotiations,"
            f" longest gap {result.longest_gap_ms:.0f} ms, verdict {result.verdict}"
        )
        console.print(line, highlight=False)
    sys.exit(0 if result.verdict == "ok" else 1)


if __name__ == "__main__":
    main()
