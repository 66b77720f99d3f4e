"""What plugins of swanroam can implement; hooks/README.md is the reference for their authors.

A plugin is a module, an object or a class (made once, without arguments) that an entry point of the group "swanroam"
names. It implements some of these functions, marked with `hookimpl`; an implementation may leave out arguments it does
not use. Implementations are plain functions: async ones are refused.

Threads: `swanroam_configure`, `swanroam_rank_path` and `swanroam_veto_move` of a plugin run on one thread of its own,
the others on a second one; no two calls on the same thread overlap. Values are frozen. What an implementation raises is
logged once for each hook, counted, and changes nothing else; its answer then counts as None.

All are `firstresult` because each plugin is registered with a pluggy manager of its own: there is one result at most.
"""

from collections.abc import Mapping
from typing import Final

import pluggy

from swanroam.model.effects import CapabilityChanged, PacketRejected, TunnelMoved
from swanroam.model.path import LocalAddress, Path

__all__ = [
    "ENTRY_POINT_GROUP",
    "PROJECT",
    "hookimpl",
    "hookspec",
    "swanroam_capability",
    "swanroam_configure",
    "swanroam_moved",
    "swanroam_rank_path",
    "swanroam_rejected",
    "swanroam_veto_move",
]

PROJECT: Final = "swanroam"
ENTRY_POINT_GROUP: Final = "swanroam"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def swanroam_configure(options: Mapping[str, object]) -> bool | None:
    """Take the plugin's own table `[hooks.NAME]` of the configuration, empty when there is none.

    When: once for each plugin object, when hooks are loaded (start, SIGHUP), before any other call.
    Thread: the plugin's answering thread; the daemon waits for it, at most 5 s.
    Returns: None, or False when there is nothing to do with these options: then no other hook of it is ever called.
    Raises: ValueError or TypeError that name the option and what is wrong with it; the plugin is then left out.
    Since: 0.1.0
    """


@hookspec(firstresult=True)
def swanroam_rank_path(address: LocalAddress) -> int | None:
    """Say how good a source address of this machine is.

    When: an address appears, or its link changes. The answer is kept with the address until then. Terminal only.
    Thread: the plugin's answering thread; the daemon waits for it, at most 250 ms for all plugins together.
    Returns: what is added to the preference of the address (higher is better; 0 by default); None for nothing.
    Since: 0.1.0
    """


@hookspec(firstresult=True)
def swanroam_veto_move(tunnel: str, old: Path, new: Path) -> str | None:
    """Forbid a move of a tunnel, named as "connection[inner addresses]".

    When: the move is decided and nothing is done yet. The tunnel carries no data meanwhile: be quick, do no I/O.
    Thread: the plugin's answering thread; the daemon waits for it, at most 50 ms for all plugins together.
    Returns: None to agree, or a reason for people, not empty: the move is not made, and counted as "vetoed".
    Since: 0.1.0
    """


@hookspec(firstresult=True)
def swanroam_moved(move: TunnelMoved) -> None:
    """Hear that a tunnel moved.

    When: soon after the kernel moved it; `trigger` "revert" says that it went back: the path was not proven.
    Thread: the plugin's hearing thread. 256 calls wait at most, more are dropped and counted.
    Returns: nothing.
    Since: 0.1.0
    """


@hookspec(firstresult=True)
def swanroam_capability(change: CapabilityChanged) -> None:
    """Hear that the other end of a tunnel offered, confirmed or refused the capability to move.

    When: soon after it.
    Thread: the plugin's hearing thread, as for swanroam_moved.
    Returns: nothing.
    Since: 0.1.0
    """


@hookspec(firstresult=True)
def swanroam_rejected(rejection: PacketRejected) -> None:
    """Hear that a packet, a message or a move was refused, and why.

    When: soon after it, for each one: anybody on the network can cause these, so damp what you make of them.
    Thread: the plugin's hearing thread, as for swanroam_moved.
    Returns: nothing.
    Since: 0.1.0
    """
