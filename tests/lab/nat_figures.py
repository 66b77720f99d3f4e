"""Figures of moves with NATs, one row for each kind of change and tunnel, beside MOBIKE's where it can do it.

They are of the very moves that stories are told of; the verdict is a report, as in `figures`.
"""

import json
from dataclasses import asdict
from pathlib import Path

from tests.lab.figures import RTT_MS, MovedStream, medians, rows

__all__ = [
    "APPEARS",
    "CHANGES",
    "DISAPPEARS",
    "FORGETS",
    "GATEWAY_TOO",
    "IN_UDP6",
    "MOBIKE",
    "PLAIN_FIRST",
    "every",
    "report",
]

APPEARS, DISAPPEARS, CHANGES = "no NAT to NAT", "NAT to no NAT", "NAT to another NAT"
FORGETS = "mappings forgotten, or another public address"
IN_UDP6 = "in UDP over IPv6, no NAT"
SLACK_MS = 60.0
MOBIKE = "strongSwan, MOBIKE"
GATEWAY_TOO = "swanroam both ends"
PLAIN_FIRST = "both ends, plain ESP first"
"""As swanroam goes on where nothing tells of a NAT; where something does it goes in UDP first."""

every: dict[str, dict[str, list[MovedStream]]] = {}
"""Kind of change -> kind of tunnel -> moves; what this run measured so far."""


def report(file: Path) -> str:
    """The figures, for people; all of them as JSON go to the file."""
    lines: list[str] = []
    verdicts: dict[str, bool] = {}
    for change, tunnels in every.items():
        figures = [medians(tunnel, moves) for tunnel, moves in tunnels.items()]
        lines += [f"{change}:", *rows(figures)]
        for one in figures:
            if one.name.startswith(GATEWAY_TOO):
                goal = f"{change}, {one.name}: downlink gap at most RTT + {SLACK_MS:g} ms"
                verdicts[goal] = one.down_gap_ms <= RTT_MS + SLACK_MS
    moves = {
        change: {name: [asdict(one) for one in moves] for name, moves in of.items()} for change, of in every.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"rtt_ms": RTT_MS, "moves": moves, "goals": verdicts}, indent=2) + "\n")
    return "\n".join([*lines, *(f"  {text}: {'yes' if good else 'NO'}" for text, good in verdicts.items())])
