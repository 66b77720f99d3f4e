"""What a listing of charon's, and of the kernel's states beside it, says of a tunnel that is known."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from swanroam.core import capability
from swanroam.core.settings import Settings
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import AlignStates, DeleteStates, Effect, Trigger
from swanroam.model.path import IPAddress, Path
from swanroam.model.tunnel import Capability, ChildSa, IkeSa, Nat, Role

__all__ = [
    "at_home",
    "built_anew",
    "followed",
    "gather",
    "go_on_validating",
    "leftovers",
    "recall",
    "reminded",
    "same_tunnel",
    "with_port",
    "with_spis",
]


FOLLOWING: Final = (Trigger.PACKET, Trigger.UPDATE, Trigger.CHARON)


def with_spis(sa: IkeSa, known: Mapping[int, ChildSa]) -> IkeSa:
    """The IKE_SA with the SPIs that charon leaves out of a listing while it follows a move (child_sa.c: UPDATING)."""
    children = tuple(
        replace(child, spi_in=before.spi_in, spi_out=before.spi_out)
        if child.state == "UPDATING" and not child.spi_in and (before := known.get(child.unique_id))
        else child
        for child in sa.children
    )
    return replace(sa, children=children)


def at_home(tunnel: Tunnel, paths: Mapping[int, Path]) -> bool:
    """Whether the kernel has no state elsewhere than where the tunnel is; `paths` by inbound SPI.

    charon may have gone away and come back to where it was when last it was asked.
    """
    return all(paths.get(spi, tunnel.path) == tunnel.path for spi in tunnel.spis)


def with_port(path: Path, *known: Path) -> Path:
    """The path with the port that a state was made to forget so that its source is reported (RemindCharon)."""
    if path.port_forgotten:
        return next((one for one in known if one.encap and one.addresses == path.addresses), path)
    return path


def reminded(tunnel: Tunnel, paths: Mapping[int, Path]) -> tuple[Effect, ...]:
    """Give states their ports again that were made to forget them; charon, which follows, would have done so.

    It does nothing where it was told of the same place before: by a packet that was under way when the tunnel moved.
    """
    forgetful = tuple(child for child in tunnel.children if paths.get(child.spi_in, tunnel.path).port_forgotten)
    if not forgetful or not tunnel.path.encap or tunnel.path.port_forgotten:
        return ()
    return (AlignStates(key=tunnel.key, children=forgetful, old=tunnel.path, path=tunnel.path),)


def same_tunnel(known: Tunnel, fresh: Tunnel) -> bool:
    """Whether the agreement still holds: a rekey keeps the IKE_SA or the CHILD_SA, building anew keeps neither."""
    old = {(sa.initiator_spi, sa.responder_spi) for sa in known.sas}
    new = {(sa.initiator_spi, sa.responder_spi) for sa in fresh.sas}
    return bool(old & new or set(known.spis) & set(fresh.spis))


def built_anew(known: Tunnel, newest: IkeSa) -> bool:
    """Whether this IKE_SA came with a CHILD_SA of its own: a rekeyed one has the CHILD_SAs of its predecessor."""
    before = {(sa.initiator_spi, sa.responder_spi) for sa in known.sas}
    spis = {child.spi_in for child in newest.children}
    return (newest.initiator_spi, newest.responder_spi) not in before and bool(spis) and not spis & set(known.spis)


def recall(remembered: Tunnel, fresh: Tunnel, settings: Settings) -> Tunnel:
    """What the store knows of this very tunnel."""
    agreed, because = capability.initial(fresh.sas[0], settings)
    if agreed is Capability.PENDING and remembered.capability is Capability.NEGOTIATED:
        agreed = Capability.NEGOTIATED
    nat = fresh.sas[0].nat if remembered.nat is Nat.UNKNOWN else remembered.nat
    last = remembered.last_move
    was_in_udp = last is not None and last.new.encap and last.new.addresses == fresh.path.addresses
    translated = frozenset({fresh.path.local.address}) if was_in_udp else frozenset[IPAddress]()
    return replace(
        remembered,
        sas=fresh.sas,
        path=fresh.path,
        capability=agreed,
        because=because if agreed is Capability.NONE else "",
        phase=Phase.STEADY,
        nat=nat,
        translated=translated,
        mobike=settings.mobike(fresh.sas[0]),
    )


def go_on_validating(tunnel: Tunnel, settings: Settings) -> Tunnel:
    """A tunnel of the store's, to be validated where a daemon ended before the terminal had answered on its path."""
    last = tunnel.last_move
    asked = settings.of(tunnel.key.name).path_validation and tunnel.capability is Capability.NEGOTIATED
    if tunnel.role is Role.TERMINAL or not asked or last is None:
        return tunnel
    if last.validated is not None or last.trigger not in FOLLOWING or last.new != tunnel.path:
        return tunnel
    return replace(tunnel, phase=Phase.VALIDATING, validated_path=last.old)


def followed(tunnel: Tunnel) -> bool:
    """Whether charon has the tunnel where the kernel has it."""
    here, there = tunnel.path, tunnel.sas[0].path
    # A terminal's charon is told of a move with the ports of IKE, whatever those of ESP in UDP are.
    ports = tunnel.role is Role.GATEWAY and here.encap and there.encap
    return here.addresses == there.addresses and (not ports or here.remote == there.remote)


def gather(tunnel: Tunnel, at: Mapping[int, Path], *, busy: bool) -> tuple[Tunnel, tuple[Effect, ...]]:
    """CHILD_SAs that are not where the tunnel is; those that charon put elsewhere as it knows of no NAT follow.

    `at`: where the kernel has the inbound SPIs. `busy`: the tunnel moves, or charon follows.
    """
    strays = [child for child in tunnel.children if at.get(child.spi_in, tunnel.path) != tunnel.path]
    if not strays:
        return replace(tunnel, also=()), ()
    lost = [child for child in strays if tunnel.path.encap and not child.encap and not tunnel.mobike]
    also = dict.fromkeys(at[child.spi_in] for child in strays if child not in lost)
    tunnel = replace(tunnel, also=tuple(also))
    if busy or tunnel.shares:
        return tunnel, ()
    return tunnel, tuple(
        AlignStates(key=tunnel.key, children=(child,), old=at[child.spi_in], path=tunnel.path) for child in lost
    )


def leftovers(tunnel: Tunnel, gone: tuple[ChildSa, ...], *, listed: bool) -> tuple[Effect, ...]:
    """Delete what the kernel may still have of CHILD_SAs that are gone.

    charon deletes by address and SPI: what was at an address that it had not followed to stays, and moves on with the
    tunnel where one CHILD_SA took over from another. Where charon looks the deletion is left to it, for it counts the
    octets then, unless it has done with them (`listed`, a listing of charon's has them no more), or may look elsewhere:
    of CHILD_SAs with one reqid it has one follow a move (migrate_job.c). In IKEv1 those that were rekeyed stay.
    """
    inbound = dict.fromkeys(path.local.address for path in tunnel.places)
    outbound = dict.fromkeys(path.remote.address for path in tunnel.places)
    for sa in () if listed or tunnel.overlapping else tunnel.sas:
        inbound.pop(sa.path.local.address, None)
        outbound.pop(sa.path.remote.address, None)
    if not gone or not (inbound or outbound):
        return ()
    return (DeleteStates(key=tunnel.key, children=gone, inbound=tuple(inbound), outbound=tuple(outbound)),)
