"""What goes on while charon follows a move.

Gateway: charon removes the inbound state and adds it again with the replay window it had (kernel_netlink_ipsec.c,
update_sa: its destination did not change, so charon finds it). A packet that comes in between finds no state and is
lost. So the packet filter holds what comes on the tunnel's SPIs from before charon is told until it has followed, which
is a matter of milliseconds, and not for longer than DEADLINE_S. Where charon is to hear from the kernel of a new source
(RemindCharon) one packet is let through for that. What goes down to the terminal waits as well: a policy of charon's
would drop it.

Terminal: charon does the same with the outbound state.

The kernel tells that charon has done with the states: it installs policies after them. It is asked all the same.

On a path in UDP charon, which knows of no NAT, takes the encapsulation away from the state that it installs anew. The
terminal's sends nothing meanwhile, and either is set right when charon is done.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from swanroam.core import watching
from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import (
    AlignStates,
    Effect,
    GiveVerdict,
    InformCharon,
    RemindCharon,
    StartTimer,
    StopTimer,
    Watch,
)
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.tunnel import TunnelKey

__all__ = ["DEADLINE_S", "LOOK_S", "Following"]

LOOK_S: Final = 0.03
"""How often charon is asked whether it has followed."""
DEADLINE_S: Final = 0.6


@dataclass(slots=True)
class _Wait:
    """For a charon that follows."""

    looks: int
    reminding: bool
    """The next packet that comes is to be reported by the kernel."""
    done: bool = False
    """charon has installed states anew by now: nothing is held any more."""
    packets: list[int] = field(default_factory=list)


class Following:
    """The tunnels whose charon is following, each with the packets that wait for that, in their order."""

    def __init__(self) -> None:
        self._waits: dict[TunnelKey, _Wait] = {}

    def __contains__(self, key: TunnelKey) -> bool:
        """Whether this tunnel's charon is following, and something waits for it."""
        return key in self._waits

    def __len__(self) -> int:
        return len(self._waits)

    def begin(self, tunnel: Tunnel, effects: Iterable[Effect]) -> tuple[Effect, ...]:
        """These effects; where they tell charon of a move, with all that is to be done around that."""
        done: list[Effect] = []
        for effect in effects:
            waits = tunnel.guarded or tunnel.carries_ike
            if isinstance(effect, InformCharon | RemindCharon) and waits:
                before = self._waits.get(tunnel.key)
                self._waits[tunnel.key] = _Wait(
                    round(DEADLINE_S / LOOK_S),
                    isinstance(effect, RemindCharon),
                    packets=before.packets if before else [],
                )
                timer = StartTimer(timer=TimerId(tunnel.key, TimerKind.FOLLOW), delay_s=LOOK_S)
                done += [self.held(watching.watch(tunnel)), effect, timer] if tunnel.guarded else [effect, timer]
            else:
                done.append(effect)
        return tuple(done)

    def held(self, effect: Effect) -> Effect:
        """The effect; where it would let packets of a tunnel pass that are to wait, with these held."""
        if isinstance(effect, Watch) and effect.key in self and not self._waits[effect.key].done and effect.sources:
            return replace(effect, sources=(), leaving=(), waiting=effect.sources, unproven=())
        return effect

    def park(self, key: TunnelKey, packet_id: int) -> tuple[Effect, ...]:
        """Have a packet wait, unless the kernel is to report it."""
        wait = self._waits[key]
        if wait.reminding or wait.done:
            wait.reminding = False
            return (GiveVerdict(packet_id=packet_id),)
        wait.packets.append(packet_id)
        return ()

    def installed(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Of charon, which installs policies anew, and has done with the states by then.

        That may also be for another reason, as a rekey; so it goes on being asked, and then it is all done once more.
        """
        wait = self._waits.get(tunnel.key)
        if wait is None or wait.done or wait.reminding:
            return ()
        wait.done = True
        packets, wait.packets = wait.packets, []
        return (*_aligned(tunnel), *(GiveVerdict(packet_id=number) for number in packets), watching.watch(tunnel))

    def look(self, timer: TimerId, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Ask charon where it is, or stop waiting for it."""
        wait = self._waits.get(timer.key)
        if wait is None:
            return ()
        wait.looks -= 1
        if wait.looks <= 0:
            return self.end(tunnel)
        return (watching.list_again(tunnel), StartTimer(timer=timer, delay_s=LOOK_S))

    def listed(self, tunnel: Tunnel, *, followed: bool) -> tuple[Effect, ...]:
        """Take note of whether charon has the tunnel where the kernel has it."""
        return self.end(tunnel) if followed and tunnel.key in self else ()

    def end(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Nothing waits any longer; new packets pass unseen again."""
        if tunnel.key not in self:
            return ()
        verdicts = self.abandon(tunnel.key)
        return (*_aligned(tunnel), *verdicts, watching.watch(tunnel))

    def abandon(self, key: TunnelKey) -> tuple[Effect, ...]:
        """Nothing waits any longer, for a tunnel that is no more."""
        wait = self._waits.pop(key, None)
        if wait is None:
            return ()
        verdicts = tuple(GiveVerdict(packet_id=packet_id) for packet_id in wait.packets)
        return (*verdicts, StopTimer(TimerId(key, TimerKind.FOLLOW)))


def _aligned(tunnel: Tunnel) -> tuple[Effect, ...]:
    if not tunnel.carries_ike:
        return ()
    return (AlignStates(key=tunnel.key, children=tunnel.children, old=tunnel.path, path=tunnel.path),)
