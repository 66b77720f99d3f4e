"""What packet filter, charon and kernel are told of a tunnel; the same for every decision that changes it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from swanroam.core.tunnel import REKEYED, Phase, Tunnel
from swanroam.model.effects import (
    AlignStates,
    Effect,
    HoldInner,
    InformCharon,
    ListIkeSas,
    MoveStates,
    Reestablish,
    RemindCharon,
    StartTimer,
    Trigger,
    Watch,
)
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.path import Endpoint, IPAddress, Origin, Path
from swanroam.model.tunnel import Role

__all__ = ["astray", "inform", "list_again", "move", "reestablish", "told", "watch", "watch_parting"]

AGREED_S: Final = 1.0
"""When it is looked at whether kernel and charon agree."""


def watch(tunnel: Tunnel) -> Watch:
    """What the packet filter has to know of the tunnel now."""
    sources = tunnel.origins if tunnel.guarded else ()
    leaving = tunnel.leaving if tunnel.guarded else ()
    unproven = tuple(child.spi_out for child in tunnel.children) if tunnel.phase is Phase.VALIDATING else ()
    return Watch(
        key=tunnel.key,
        inner=tunnel.key.inner,
        spis=tunnel.spis,
        own=tunnel.own if tunnel.guarded else (),
        sources=sources,
        leaving=leaving,
        late=tuple(_addresses(tunnel.leaving)) if tunnel.role is Role.TERMINAL else (),
        unproven=unproven,
        ike=tuple(sa.initiator_spi for sa in tunnel.sas if not sa.knows_nat) if tunnel.carries_ike else (),
        carrying=tunnel.path if tunnel.carries_ike else None,
    )


def watch_parting(tunnel: Tunnel) -> Watch:
    """What it has to know of a tunnel that has just ended: of IKE that is carried, and of no packets of its own."""
    watched = watch(tunnel)
    return Watch(key=tunnel.key, inner=watched.inner, spis=(), ike=watched.ike, carrying=watched.carrying)


def _addresses(origins: Iterable[Origin]) -> Iterator[IPAddress]:
    for origin in origins:
        if not isinstance(origin, Endpoint):
            yield origin


def inform(tunnel: Tunnel, old: Path) -> tuple[Effect, ...]:
    """Have charon, which has the tunnel at `old`, follow to the present path.

    Of a tunnel that it set up in UDP it would lose the ports (XFRMA_KMADDRESS has none); a gateway's follows by itself
    when it hears of the new path from the kernel. A tunnel with MOBIKE it moves by itself (core/mobike.py).
    """
    return () if tunnel.mobike else told(tunnel, old)


def told(tunnel: Tunnel, old: Path) -> tuple[Effect, ...]:
    """As `inform`, MOBIKE or not; nothing where charon, which is told a reqid, could take it for another tunnel's."""
    if tunnel.shares:
        return ()
    if not tunnel.native:
        terminal = tunnel.role is Role.TERMINAL
        silent = tunnel.path.encap and terminal
        informed = InformCharon(key=tunnel.key, children=tunnel.children, old=old, new=tunnel.path, silent=silent)
        return (HoldInner(tunnel.key.inner), informed) if terminal else (informed,)
    if tunnel.role is Role.GATEWAY and tunnel.sas[0].nat_remote:
        if not tunnel.capability.allows_moves:
            return _given_back(tunnel)
        return (RemindCharon(key=tunnel.key, children=tunnel.children, path=tunnel.path),)
    return ()


def _given_back(tunnel: Tunnel) -> tuple[Effect, ...]:
    """Have the kernel agree with charon, which has heard of where packets come from, and does nothing when told again.

    Only where it was swanroam that put the tunnel elsewhere, before the agreement ended, and at the same address: the
    policies stay.
    """
    moved = tunnel.last_move is not None and tunnel.last_move.new == tunnel.path
    if not moved or tunnel.path.addresses != tunnel.sas[0].path.addresses:
        return ()
    aligned = AlignStates(key=tunnel.key, children=tunnel.children, old=tunnel.path, path=tunnel.sas[0].path)
    return (aligned, StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=AGREED_S))


def astray(tunnel: Tunnel, places: Iterable[tuple[int, tuple[IPAddress, IPAddress]]]) -> Path | None:
    """Where charon has a CHILD_SA, if that is not where the tunnel is; `places` are those of policies, by reqid.

    While a CHILD_SA is rekeyed there are two with one reqid, of which charon has one follow a move (migrate_job.c).
    When the other takes over it puts policies where the tunnel was before: those for what goes out at once, or when it
    is told that the first one is deleted, those for what comes in at the latest when that is gone. Only then can the
    other one be made to follow, too.
    """
    if tunnel.native or tunnel.mobike or not tunnel.capability.allows_moves:
        return None
    reqids = {child.reqid for child in tunnel.children}
    elsewhere = next((ends for reqid, ends in places if reqid in reqids and ends != tunnel.path.addresses), None)
    if elsewhere is None:
        return None if tunnel.overlapping else tunnel.astray
    local, remote = tunnel.path.local, tunnel.path.remote
    return replace(
        tunnel.path, local=replace(local, address=elsewhere[0]), remote=replace(remote, address=elsewhere[1])
    )


def list_again(tunnel: Tunnel) -> ListIkeSas:
    """Have charon list the IKE_SAs of a tunnel."""
    return ListIkeSas(tuple(sa.unique_id for sa in tunnel.sas))


def reestablish(tunnel: Tunnel) -> Reestablish:
    """Have charon build the tunnel anew, with all of its CHILD_SAs; of those rekeyed the successor has the name."""
    in_use = [child for child in tunnel.children if child.state not in REKEYED] or tunnel.children
    return Reestablish(
        key=tunnel.key,
        connection=tunnel.key.name,
        unique_ids=tuple(sa.unique_id for sa in tunnel.sas),
        children=tuple(dict.fromkeys(child.name for child in in_use)),
    )


def move(tunnel: Tunnel, new: Path, trigger: Trigger) -> MoveStates:
    """Move all CHILD_SAs of a tunnel from where it is."""
    return MoveStates(key=tunnel.key, children=tunnel.children, old=tunnel.path, new=new, trigger=trigger)
