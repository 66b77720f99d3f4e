"""Tables that stories fill and that are printed at the end of a run."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["ATTACKS", "FAULTS", "Rows", "keep", "render"]

Rows = list[Sequence[object]]

ATTACKS: Rows = []
"""(attack, packets sent, tunnels moved, seconds away, what was counted)"""
FAULTS: Rows = []
"""(fault, seconds from its end until data flowed both ways, seconds until all agreed, negotiated anew or not)"""
HEADS = {
    "attacks": ("attack", "packets", "moved", "away s", "refused as"),
    "faults": ("fault", "data s", "agreed s", "tunnel"),
}


def render(name: str, rows: Rows) -> str:
    """A table in Markdown."""
    head = HEADS[name]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def keep(name: str, rows: Rows, folder: Path) -> str:
    """The table, also left in a file of its name."""
    table = render(name, rows)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(table + "\n")
    return table
