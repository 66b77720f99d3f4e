"""Figures of many moves: what is measured, how it is told, and what would be good enough.

Times on a machine that does other things too, or whose processor is emulated, are no tests: the verdict is a report.
Both sides of a comparison are measured in one boot, so that their ratio means something.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.captures import Capture
from tests.lab.streams import Stream
from tests.lab.world import Move, Terminal, World

__all__ = [
    "MOBIKE_ALONE",
    "MOBIKE_FASTER",
    "RTT_MS",
    "Figures",
    "MovedStream",
    "measure",
    "measured",
    "medians",
    "move_once",
    "moved_stream",
    "rows",
    "table",
    "verdicts",
    "write",
]

RTT_MS = 20.0
SLACK_MS = 40.0
SHARE_OF_MOBIKE = 0.4
SETTLED_PACKETS = 100
REHEARSALS = 2
"""Moves that are made before any is measured, whoever moves."""
MOBIKE_ALONE = "MOBIKE, strongSwan alone"
MOBIKE_FASTER = "MOBIKE, swanroam on both ends"

measured: "list[Figures]" = []
"""What this run measured so far; the end of the run prints it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedStream:
    """One move under a stream in both directions."""

    down_gap_ms: float
    down_lost: int
    up_gap_ms: float
    up_lost: int
    """Of those that the terminal's kernel took once the new address was usable."""
    ike_packets: int
    same_keys: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Medians over all moves of one way to move."""

    name: str
    moves: int
    down_gap_ms: float
    down_lost: float
    up_gap_ms: float
    up_lost: float
    ike_packets: float
    renegotiations: int


def move_once(world: World, terminal: Terminal, capture: Capture) -> MovedStream:
    """Move a terminal under streams of a packet each 10 ms in both directions, until both flow again."""
    before = terminal.sa.identity
    with world.both_ways(terminal) as (up, down):
        # Whatever the move before set off is over: nobody roams twice in a second.
        down.flows(packets=SETTLED_PACKETS)
        move = terminal.move()
        down.flows(move.usable_ns, packets=10, deadline_s=90)
        up.flows(move.usable_ns, packets=10, deadline_s=90)
    return moved_stream(move, up, down, capture, same_keys=terminal.sa.identity == before)


def moved_stream(move: Move, up: Stream, down: Stream, capture: Capture, *, same_keys: bool) -> MovedStream:
    """What became of the streams in a move, once they have ended."""
    end_ns = max(down.received()[-1].arrived_ns, up.received()[-1].arrived_ns)
    # What was sent in the last moments may be in flight; it says nothing of the move.
    went_down, went_up = down.outcome(move.began_ns), up.outcome(move.usable_ns)
    return MovedStream(
        down_gap_ms=went_down.longest_gap_ms,
        down_lost=len(went_down.lost),
        up_gap_ms=went_up.longest_gap_ms,
        up_lost=len(went_up.lost),
        ike_packets=len(capture.ike(move.began_ns, end_ns)),
        same_keys=same_keys,
    )


def measure(name: str, world: World, moves: int) -> tuple[Figures, list[MovedStream]]:
    """Move many times and take medians."""
    # Only IKE: capturing each packet would take from an emulated processor what is to be measured.
    capture = Capture(world.router, only_ike=True)
    for _ in range(REHEARSALS):
        # Whatever a program does for the first time it reads from a slow disk.
        move_once(world, world.terminal, capture)
    every = [move_once(world, world.terminal, capture) for _ in range(moves)]
    return medians(name, every), every


def medians(name: str, every: Sequence[MovedStream]) -> Figures:
    """Medians of some moves."""
    return Figures(
        name=name,
        moves=len(every),
        down_gap_ms=statistics.median(one.down_gap_ms for one in every),
        down_lost=statistics.median(one.down_lost for one in every),
        up_gap_ms=statistics.median(one.up_gap_ms for one in every),
        up_lost=statistics.median(one.up_lost for one in every),
        ike_packets=statistics.median(one.ike_packets for one in every),
        renegotiations=sum(not one.same_keys for one in every),
    )


def table(figures: Sequence[Figures]) -> str:
    """The figures, for people."""
    return "\n".join(
        [*rows(figures), *(f"  {text}: {'yes' if good else 'NO'}" for text, good in verdicts(figures).items())]
    )


def rows(figures: Sequence[Figures]) -> list[str]:
    """Heading and a line for each."""
    title = "medians at 20 ms RTT, a packet each 10 ms both ways"
    lines = [f"{title:<56} {'gap down':>12} {'lost':>7} {'gap up':>9} {'lost':>7} {'IKE':>6} {'new keys':>9}"]
    lines += [
        f"  {one.name:<42} ({one.moves:>3} moves) {one.down_gap_ms:12.1f} {one.down_lost:7.1f}"
        f" {one.up_gap_ms:9.1f} {one.up_lost:7.1f} {one.ike_packets:6.1f} {one.renegotiations:9d}"
        for one in figures
    ]
    return lines


def verdicts(figures: Sequence[Figures]) -> Mapping[str, bool]:
    """Goal in words -> whether it was met."""
    by_name = {one.name: one for one in figures}
    goals: dict[str, bool] = {}
    if {MOBIKE_ALONE, MOBIKE_FASTER} <= by_name.keys():
        share = by_name[MOBIKE_FASTER].down_gap_ms / by_name[MOBIKE_ALONE].down_gap_ms
        goals[f"of a tunnel with MOBIKE, downlink gap {share:.2f} of that without swanroam"] = share < 1
    ours, mobike = by_name.get("swanroam"), by_name.get("strongSwan, MOBIKE")
    if ours is None:
        return goals
    goals |= {f"downlink gap at most RTT + {SLACK_MS:g} ms": ours.down_gap_ms <= RTT_MS + SLACK_MS}
    if mobike is not None:
        share = ours.down_gap_ms / mobike.down_gap_ms
        goals[f"downlink gap {share:.2f} of MOBIKE's, at most {SHARE_OF_MOBIKE}"] = share <= SHARE_OF_MOBIKE
    return goals


def write(file: Path, figures: Sequence[Figures], every: Mapping[str, Sequence[MovedStream]]) -> None:
    """Write all of it as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    value = {
        "rtt_ms": RTT_MS,
        "medians": [asdict(one) for one in figures],
        "moves": {name: [asdict(one) for one in moves] for name, moves in every.items()},
        "goals": dict(verdicts(figures)),
    }
    file.write_text(json.dumps(value, indent=2) + "\n")
