"""The table as `swanroam status` shows it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from swanroam.app.status import ChildStatus, LeftAloneStatus, MoveStatus, Status, TunnelStatus
from swanroam.core.table import Table
from swanroam.core.tunnel import LastMove, Tunnel
from swanroam.model.effects import LeftAlone
from swanroam.model.events import Reason
from swanroam.model.tunnel import Role
from swanroam.wire.ruleset import FLOODS, IMPOSSIBLE, SMUGGLED, STRANGERS, UNPROVEN

__all__ = ["report"]


FILTERED: Final = {
    FLOODS: Reason.RATE_LIMITED,
    IMPOSSIBLE: Reason.SOURCE_NOT_ALLOWED,
    SMUGGLED: Reason.WRONG_TUNNEL,
    STRANGERS: Reason.WRONG_TUNNEL,
    UNPROVEN: Reason.NOT_VALIDATED,
}
"""What the packet filter refuses, in our words."""


def report(
    role: Role,
    table: Table,
    *,
    connected: bool,
    version: str,
    epoch_s: float,
    rejected: Mapping[Reason, int] | None = None,
    filtered: Mapping[str, int] | None = None,
    bystanders: Iterable[LeftAlone] = (),
) -> Status:
    """The status of a daemon; `epoch_s` is what the monotonic clock has to be added to for the time of day.

    `rejected`: refusals that belong to no tunnel; `filtered`: the counters of the packet filter, by name; `bystanders`:
    what is left alone besides tunnels.
    """
    refused = Counter(rejected or {})
    for name, count in (filtered or {}).items():
        if name in FILTERED and count:
            refused[FILTERED[name]] += count
    tunnels = sorted(table, key=lambda tunnel: (tunnel.key.name, [int(address) for address in tunnel.key.inner]))
    alone = [LeftAlone(name=t.key.name, inner=t.key.inner, reason=t.because) for t in tunnels if t.because]
    return {
        "role": role.value,
        "charon": {"version": version, "connected": connected},
        "tunnels": [_tunnel(tunnel, epoch_s) for tunnel in tunnels],
        "rejected": {reason.value: count for reason, count in sorted(refused.items())},
        "left_alone": [_left_alone(each) for each in (*alone, *bystanders)],
    }


def _left_alone(each: LeftAlone) -> LeftAloneStatus:
    return {"name": each.name, "inner": [str(address) for address in each.inner], "reason": each.reason}


def _tunnel(tunnel: Tunnel, epoch_s: float) -> TunnelStatus:
    sa = tunnel.sas[0]
    path = tunnel.path
    return {
        "name": tunnel.key.name,
        "inner": [str(address) for address in tunnel.key.inner],
        "local": {"address": str(tunnel.here), "port": path.local.port},
        "remote": {"address": str(path.remote.address), "port": path.remote.port},
        "encap": path.encap,
        "mobike": sa.mobike if tunnel.mobike is None else tunnel.mobike,
        "ike_version": sa.version,
        "nat": tunnel.nat.value,
        "capability": tunnel.capability.value,
        "children": [_child(child.name, child.spi_in, child.spi_out, child.reqid) for child in tunnel.children],
        "moves": tunnel.moves,
        "last_move": _move(tunnel.last_move, tunnel.role, epoch_s) if tunnel.last_move else None,
        "rejected": {reason.value: count for reason, count in sorted(tunnel.rejected.items())},
    }


def _child(name: str, spi_in: int, spi_out: int, reqid: int) -> ChildStatus:
    return {"name": name, "spi_in": f"{spi_in:08x}", "spi_out": f"{spi_out:08x}", "reqid": reqid}


def _move(move: LastMove, role: Role, epoch_s: float) -> MoveStatus:
    return {
        "at": datetime.fromtimestamp(move.at_s + epoch_s, UTC).isoformat(timespec="milliseconds"),
        "from": _address(move, role, new=False),
        "to": _address(move, role, new=True),
        "trigger": move.trigger.value,
        "duration_ms": round(move.duration_s * 1000, 3),
        "validated": move.validated,
    }


def _address(move: LastMove, role: Role, *, new: bool) -> str:
    """The address of the end that moved: of the terminal, where both did."""
    path = move.new if new else move.old
    terminal = role is Role.TERMINAL
    own = move.new.local != move.old.local if terminal else move.new.remote == move.old.remote
    return str((path.local if own else path.remote).address)
