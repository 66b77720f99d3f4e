"""States that are installed anew on another path, with all that they had: keys, counters, lifetimes, replay state.

What MIGRATE cannot do: take UDP encapsulation away, or reach a certain state where one policy has several.
"""

from dataclasses import replace

from swanroam.kernel.migration import encapsulation
from swanroam.model.path import IPAddress, Path
from swanroam.wire.netlink import attribute
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.states import SaState
from swanroam.wire.xfrm.structs import Attr

__all__ = ["fits", "refitted"]


def fits(state: SaState, path: Path, *, out: bool) -> bool:
    """Whether a state is as it should be on a path."""
    return (state.source, state.destination, state.encap) == (*_ends(path, out=out), encapsulation(path, out=out))


def refitted(state: SaState, path: Path, *, out: bool, sent: int | None = None) -> bytes:
    """The payload of a NEWSA for a state on a path; `sent` is the last sequence number that it sent, where it is known.

    The counters go with it (XFRMA_LTIME_VAL): limits are counted from when the state was first installed.
    """
    source, destination = _ends(path, out=out)
    ring, short = state.esn_replay, state.replay
    if sent is not None and ring:
        ring = EsnReplay(sent=sent, received=ring.received, window=ring.window, bitmap=ring.bitmap)
    elif sent is not None:
        before = short or Replay()
        short = Replay(sent=sent, received=before.received, bitmap=before.bitmap)
    moved = replace(
        state,
        source=source,
        destination=destination,
        encap=encapsulation(path, out=out),
        esn_replay=ring,
        replay=short,
        key_manager_sequence=0,
        last_used_s=None,
    )
    return moved.pack() + attribute(Attr.LTIME_VAL, state.current.pack())


def _ends(path: Path, *, out: bool) -> tuple[IPAddress, IPAddress]:
    local, remote = path.addresses
    return (local, remote) if out else (remote, local)
