"""What goes on while charon follows a move.

Gateway: charon removes the inbound state and adds it again with the replay window it had (kernel_netlink_ipsec.c,
update_sa: its destination did not change, so charon finds it). A packet that comes in between finds no state and is
lost. So the packet filter holds what comes on the tunnel's SPIs from before charon is told until it has followed, which
is a matter of milliseconds, and not for longer than DEADLINE_S. Where charon is to hear from the kernel of a new source
(RemindCharon) one packet is let through for that. What goes down to the terminal waits as well: a policy of charon's
would drop it.

Terminal: charon does the same with the outbound state.

strongSwan 6.1 follows only where it finds both states, by their destination, which one of them has no more after a
move: else it puts its policies back where it had the tunnel, and rekeys the CHILD_SA (child_sa.c, update_sas). A charon
that does so is told again, with its states put back, and so of all further moves. What comes to a terminal meanwhile
finds no state, and waits, but in UDP.

The kernel tells that charon has done with the states: it installs policies after them. It is asked all the same.

On a path in UDP charon, which knows of no NAT, takes the encapsulation away from the state that it installs anew. The
terminal's sends nothing meanwhile, and either is set right when charon is done.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from swanroam.core import watching
from swanroam.core.tunnel import Phase, Tunnel
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
from swanroam.model.path import IPAddress, Path
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
    back: Path | None = None
    """Where states were put for charon to find."""
    vacant: tuple[IPAddress, ...] = ()
    """Terminal: where inbound ones will be."""
    reqids: frozenset[int] = frozenset()
    """Whose states charon is still to find there."""
    done: bool = False
    """charon has installed states anew by now: nothing is held any more."""
    packets: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Told:
    """Of charon, which was told of a move, and may not have followed yet."""

    old: Path
    """Where it had the tunnel."""
    sure: bool
    """Whether it was not about to follow to there, as it was told before."""
    put_back: bool = False
    """It has put policies there since."""


class Following:
    """The tunnels whose charon is following, each with the packets that wait for that, in their order."""

    def __init__(self) -> None:
        self._waits: dict[TunnelKey, _Wait] = {}
        self._told: dict[TunnelKey, _Told] = {}
        # Whether charon wants to find states where it had them.
        self._returning = False

    def __contains__(self, key: TunnelKey) -> bool:
        """Whether this tunnel's charon is following, and something waits for it."""
        return key in self._waits

    def __len__(self) -> int:
        return len(self._waits)

    def unsettled(self, tunnel: Tunnel) -> bool:
        """Whether states are not where the tunnel is, until AlignStates."""
        wait = self._waits.get(tunnel.key)
        return wait is not None and (tunnel.carries_ike or wait.back is not None)

    def begin(self, tunnel: Tunnel, effects: Iterable[Effect]) -> tuple[Effect, ...]:
        """These effects; where they tell charon of a move, with all that is to be done around that."""
        done: list[Effect] = []
        for each in effects:
            effect = self._noted(tunnel.key, each)
            returning = isinstance(effect, InformCharon) and effect.returning
            waits = tunnel.guarded or tunnel.carries_ike or returning
            if isinstance(effect, InformCharon | RemindCharon) and waits:
                self._waits[tunnel.key] = self._wait(tunnel, effect)
                timer = StartTimer(timer=TimerId(tunnel.key, TimerKind.FOLLOW), delay_s=LOOK_S)
                holds = tunnel.guarded or returning
                done += [self.held(watching.watch(tunnel)), effect, timer] if holds else [effect, timer]
            else:
                done.append(effect)
        return tuple(done)

    def _noted(self, key: TunnelKey, effect: Effect) -> Effect:
        """The effect; where it tells charon of a move, as this charon wants that."""
        if not isinstance(effect, InformCharon):
            return effect
        self._told[key] = _Told(effect.old, sure=key not in self._told)
        return replace(effect, returning=self._returning)

    def _wait(self, tunnel: Tunnel, effect: InformCharon | RemindCharon) -> _Wait:
        before = self._waits.get(tunnel.key)
        wait = _Wait(
            round(DEADLINE_S / LOOK_S), isinstance(effect, RemindCharon), packets=before.packets if before else []
        )
        if isinstance(effect, InformCharon) and effect.returning:
            wait.back = effect.old
            wait.reqids = frozenset(child.reqid for child in tunnel.children)
            wait.vacant = () if tunnel.guarded else tunnel.own
        return wait

    def held(self, effect: Effect) -> Effect:
        """The effect; where it would let packets of a tunnel pass that are to wait, with these held."""
        wait = self._waits.get(effect.key) if isinstance(effect, Watch) else None
        if not isinstance(effect, Watch) or wait is None or wait.done:
            return effect
        if effect.sources:
            return replace(effect, sources=(), leaving=(), waiting=effect.sources, unproven=())
        return replace(effect, vacant=wait.vacant)

    def park(self, key: TunnelKey, packet_id: int) -> tuple[Effect, ...]:
        """Have a packet wait, unless the kernel is to report it."""
        wait = self._waits[key]
        if wait.reminding or wait.done:
            wait.reminding = False
            return (GiveVerdict(packet_id=packet_id),)
        wait.packets.append(packet_id)
        return ()

    def installed(self, tunnel: Tunnel, reqid: int) -> tuple[Effect, ...]:
        """Of charon, which installs policies of a reqid anew, and has done with its states by then.

        That may also be for another reason, as a rekey; so it goes on being asked, and then it is all done once more.
        """
        self._told.pop(tunnel.key, None)
        wait = self._waits.get(tunnel.key)
        if wait is None or wait.done or wait.reminding:
            return ()
        wait.reqids -= {reqid}
        if wait.reqids:
            return ()
        wait.done = True
        packets, wait.packets = wait.packets, []
        return (*_aligned(tunnel, wait), *(GiveVerdict(packet_id=number) for number in packets), watching.watch(tunnel))

    def elsewhere(self, tunnel: Tunnel, place: tuple[IPAddress, IPAddress], *, outbound: bool) -> tuple[Effect, ...]:
        """Of charon, which installs a policy elsewhere than the tunnel is.

        Where it puts those for what comes in, and then those for what goes out, to where it had the tunnel, it has not
        found states, and is told again. A CHILD_SA that takes over from another puts either there, at its time.
        """
        told = self._told.get(tunnel.key)
        if self._returning or told is None or not told.sure or told.old.addresses != place or tunnel.overlapping:
            return ()
        self._returning = outbound and told.put_back
        told.put_back = True
        if not self._returning or tunnel.untold or tunnel.phase is Phase.VALIDATING:
            return ()
        return self.begin(tunnel, watching.told(tunnel, told.old))

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
        wait = self._waits.get(tunnel.key)
        if wait is None:
            return ()
        verdicts = self.abandon(tunnel.key)
        return (*_aligned(tunnel, wait), *verdicts, watching.watch(tunnel))

    def abandon(self, key: TunnelKey) -> tuple[Effect, ...]:
        """Nothing waits any longer, for a tunnel that is no more."""
        self._told.pop(key, None)
        wait = self._waits.pop(key, None)
        if wait is None:
            return ()
        verdicts = tuple(GiveVerdict(packet_id=packet_id) for packet_id in wait.packets)
        return (*verdicts, StopTimer(TimerId(key, TimerKind.FOLLOW)))


def _aligned(tunnel: Tunnel, wait: _Wait) -> tuple[Effect, ...]:
    if not (tunnel.carries_ike or wait.back):
        return ()
    return (AlignStates(key=tunnel.key, children=tunnel.children, old=wait.back or tunnel.path, path=tunnel.path),)
