"""The status as people read it: one table where the terminal is wide, one block for each tunnel where it is not."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from swanroam.app.logs import escape
from swanroam.app.status import EndpointStatus, LeftAloneStatus, MoveStatus, Status, TunnelStatus

__all__ = ["render"]

WIDE_COLUMNS: Final = 130
"""Below this many columns a table would break addresses."""
HEADINGS: Final = ("name", "inner", "path", "encap", "capability", "moves", "last move", "rejected")
STYLES: Final = {"negotiated": "green", "configured": "green", "pending": "yellow", "none": "dim"}


def render(status: Status, width: int, now: datetime) -> RenderableType:
    """What to print on a terminal of `width` columns at the time `now`.

    Raises KeyError, TypeError, ValueError or AttributeError for what is no Status.
    """
    charon = status["charon"]
    version = f"strongSwan {charon['version']}" if charon["version"] else "strongSwan"
    connected = Text("connected", "green") if charon["connected"] else Text("not connected", "red")
    heading = Text.assemble((escape(status["role"]), "bold"), ", ", escape(version), " ", connected)
    alone = [_left_alone(each) for each in status["left_alone"]]
    if not status["tunnels"]:
        return Group(heading, Text("no tunnels"), *alone)
    rows = [_cells(tunnel, now) for tunnel in status["tunnels"]]
    tunnels = [_table(rows)] if width >= WIDE_COLUMNS else [*map(_block, rows), Text()]
    return Group(heading, *tunnels, *alone)


def _left_alone(each: LeftAloneStatus) -> Text:
    who = " ".join((each["name"], *each["inner"]))
    return Text.assemble((escape(who), "bold"), " left alone: ", escape(each["reason"]))


def _table(rows: Iterable[tuple[Text, ...]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading == "moves" else "left", overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    return table


def _block(cells: tuple[Text, ...]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("", "")
    for heading, cell in zip(HEADINGS, cells, strict=True):
        grid.add_row(heading, cell)
    return grid


def _cells(tunnel: TunnelStatus, now: datetime) -> tuple[Text, ...]:
    encap, nat = tunnel["encap"], tunnel["nat"]
    encapsulation = "UDP" if encap else "no"
    if nat not in ("none", "unknown"):
        encapsulation += f", NAT {nat}"
    path = f"{_endpoint(tunnel['local'], port=encap)} - {_endpoint(tunnel['remote'], port=encap)}"
    rejected = ", ".join(f"{reason} {count}" for reason, count in sorted(tunnel["rejected"].items()))
    return (
        Text(escape(tunnel["name"]), "bold"),
        Text("\n".join(escape(address) for address in tunnel["inner"])),
        Text(escape(path)),
        Text(escape(encapsulation)),
        Text(escape(tunnel["capability"]), STYLES.get(tunnel["capability"], "")),
        Text(str(tunnel["moves"])),
        Text(escape(_move(tunnel["last_move"], now))),
        Text(escape(rejected) or "-"),
    )


def _endpoint(endpoint: EndpointStatus, *, port: bool) -> str:
    address = endpoint["address"]
    if not port:
        return address
    return f"[{address}]:{endpoint['port']}" if ":" in address else f"{address}:{endpoint['port']}"


def _move(move: MoveStatus | None, now: datetime) -> str:
    if move is None:
        return "-"
    at = datetime.fromisoformat(move["at"])
    ago = _duration((now - (at if at.tzinfo else at.replace(tzinfo=UTC))).total_seconds())
    agreed = {True: ", confirmed", False: ", not confirmed", None: ""}[move["validated"]]
    return f"{ago} ago, {move['trigger']}, {move['duration_ms']:.0f} ms{agreed}"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} s"
