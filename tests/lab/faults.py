"""What stories of faults share: a fault ends, data flows both ways again, all agree, and nothing is left over."""

import contextlib
import re
import time
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from swanroam.kernel.policies import COVER_USER
from tests.lab.agreement import Wanted, differences
from tests.lab.conditions import eventually
from tests.lab.streams import Stream
from tests.lab.tables import FAULTS
from tests.lab.world import End, World

__all__ = ["RECOVERY_S", "Belongings", "Fault", "belongings", "faulty", "policies"]

RECOVERY_S = 5.0
"""From the end of the last fault until data flows both ways."""

DIRECTION = re.compile(r"^\s*dir (in|fwd|out) ", re.MULTILINE)
TEMPLATE = re.compile(r"^\s*tmpl src (\S+) dst (\S+)$", re.MULTILINE)

Belongings = dict[str, tuple[int, int, int, int]]
"""Of each end: numbers of states, policies but for covers, addresses and tables of the packet filter."""

_usual: WeakKeyDictionary[World, Belongings] = WeakKeyDictionary()


class Fault:
    """A fault that is going on."""

    def __init__(self) -> None:
        self.ended_ns = 0
        self.deadline_s = RECOVERY_S

    def over(self) -> None:
        """The fault is over now."""
        self.ended_ns = time.monotonic_ns()


def belongings(world: World) -> Belongings:
    """What there is at each end."""
    return {end.name: _of(end) for end in world.ends}


def _of(end: End) -> tuple[int, int, int, int]:
    # Those without reqid are SPIs that charon took where the terminal was before a move: the kernel forgets them.
    states = len(
        re.findall(r"^src .*\n\s+proto esp .* reqid [1-9]", end.show("ip xfrm state list nokeys"), re.MULTILINE)
    )
    addresses = end.show("ip -4 -oneline address").count("inet ")
    return states, len(policies(end)), addresses, end.show("nft list tables").count("table ")


def policies(end: End, *, covers: bool = False) -> list[str]:
    """What `ip` says of each policy but for covers, or of each of these: they end by themselves after a while."""
    every = re.split(r"^(?=src )", end.show("ip -statistics xfrm policy"), flags=re.MULTILINE)[1:]
    return [text for text in every if (f" uid {COVER_USER}\n" in text) is covers]


def astray(end: End, local: str, remote: str) -> list[str]:
    """The policies that lead elsewhere than from one of these addresses to the other, in words."""
    wrong: list[str] = []
    for text in policies(end):
        direction, template = DIRECTION.search(text), TEMPLATE.search(text)
        if direction and template:
            wanted = (local, remote) if direction[1] == "out" else (remote, local)
            if template.groups() != wanted:
                wrong.append(f"{end.name}: the policy {direction[1]} is for {' to '.join(template.groups())}")
    return wrong


@contextlib.contextmanager
def faulty(world: World, name: str, *, tidy: bool = True) -> Iterator[Fault]:
    """A fault with data flowing both ways before it; everything is as it should be after it, in time.

    Not `tidy`: where charon is killed it leaves states behind that are not ours to remove.
    """
    # As it was before the first fault: the one before this may have failed and left something.
    before, tunnel = _usual.setdefault(world, belongings(world)), world.terminal.sa.identity
    if not tidy:
        del _usual[world]
    fault = Fault()
    with world.both_ways() as (up, down):
        yield fault
        if not fault.ended_ns:
            fault.over()
        up.flows(fault.ended_ns, deadline_s=fault.deadline_s)
        down.flows(fault.ended_ns, deadline_s=fault.deadline_s)
        data_s = max(_first_arrival_s(stream, fault.ended_ns) for stream in (up, down))
    agree(world)
    agreed_s = (time.monotonic_ns() - fault.ended_ns) / 1e9
    kept = "kept" if world.terminal.sa.identity == tunnel else "new"
    FAULTS.append((name, f"{data_s:.2f}", f"{agreed_s:.1f}", kept))
    assert data_s <= fault.deadline_s, f"data flows {data_s:.1f} s after the fault"

    def nothing_left() -> bool:
        now = belongings(world)
        assert now == before, f"(states, policies, addresses, tables) are {now}, and were {before}"
        return True

    if tidy:
        eventually(nothing_left, "nothing is left over", deadline_s=15, every_s=0.3)


def agree(world: World) -> None:
    """Wait until all agree, on ESP in UDP or without it.

    A terminal that three UPDATEs in a row got no answer to takes it for a NAT's doing, and is in UDP until its next
    move; where there is none charon does not know of it.
    """

    def none() -> bool:
        terminal = world.terminal
        encap = bool(terminal.swanroam.tunnel(terminal.inner)["encap"])
        wrong = differences(world, terminal, Wanted(encap=encap, charon=not encap))
        wrong += astray(terminal, terminal.outer, terminal.gateway)
        wrong += astray(world.gateway, terminal.gateway, terminal.outer)
        assert not wrong, "; ".join(wrong)
        return True

    eventually(none, "both ends agree", every_s=0.2)


def _first_arrival_s(stream: Stream, since_ns: int) -> float:
    arrived_ns = min(packet.arrived_ns for packet in stream.received() if packet.sent_ns >= since_ns)
    return (arrived_ns - since_ns) / 1e9
