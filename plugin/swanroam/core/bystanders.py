"""What swanroam leaves alone: IKE_SAs that are no tunnels of a roaming terminal, and tunnels that are not told apart.

    left alone                                   because
    no virtual IP: a site, a fixed address       nothing tells the tunnel by an inner address, nor which end roams
    virtual IP on the other side                 this end is not the one that its role says
    transport mode, BEET mode, AH                outer addresses are in the selectors, or are what is authenticated
    a reqid that another tunnel has, too         the kernel finds policies and states by it, charon the CHILD_SA
    an inner address that another tunnel has     messages, and packets going down, could be for either

charon gives CHILD_SAs with the same selectors, marks and interface ids one reqid, so tunnels whose policies would be
the same are among those of the last but one row. IKE_SAs with the same name and inner addresses are one tunnel: one
takes over from the other (reauthentication).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address

from swanroam.core.tunnel import CARRYING, inner_addresses
from swanroam.model.effects import LeftAlone
from swanroam.model.tunnel import IkeSa, Mode, Role, TunnelKey

__all__ = ["Bystanders", "shared", "why_apart"]


def why_apart(role: Role, sa: IkeSa) -> str | None:
    """Why an IKE_SA is no tunnel; None where it is one, or nothing can be said yet."""
    if not sa.established or not sa.children:
        return None  # in IKEv1 the virtual IP comes between the two
    if not sa.local_vips and not sa.remote_vips:
        return "it has no virtual IP"
    if not inner_addresses(role, sa):
        return f"this end is not its {role}"
    kinds = {(child.protocol, child.mode) for child in sa.children}
    if ("ESP", Mode.TUNNEL) in kinds:
        return None
    return "not ESP in tunnel mode: " + ", ".join(sorted(f"{protocol} in {mode} mode" for protocol, mode in kinds))


def shared(tunnels: Mapping[TunnelKey, Sequence[IkeSa]], others: Iterable[IkeSa]) -> dict[TunnelKey, str]:
    """The tunnels that have something in common with another which should tell them apart, and what."""
    owners: dict[int | bytes, TunnelKey | None] = dict.fromkeys(_reqids(others))
    found: dict[TunnelKey, str] = {}
    for key, sas in tunnels.items():
        # One that has no CHILD_SA yet has nothing that could be taken for another's.
        claims: list[int | bytes] = [*_reqids(sas), *(address.packed for address in key.inner)]
        for claim in claims if any(sa.children for sa in sas) else ():
            owner = owners.setdefault(claim, key)
            if owner is not key:
                what = f"reqid {claim}" if isinstance(claim, int) else f"inner address {ip_address(claim)}"
                told = f"another tunnel has its {what}, too"
                # Always the same of several, so that it changes only when something has.
                found |= {each: min(found.get(each, told), told) for each in (key, owner) if each}
    return found


class Bystanders:
    """The IKE_SAs that are no tunnels, as charon listed them."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[IkeSa, str]] = {}

    def __iter__(self) -> Iterator[IkeSa]:
        return (sa for sa, _ in self._known.values())

    @property
    def reasons(self) -> tuple[LeftAlone, ...]:
        """Why each is left alone; those of one connection for the same reason count once."""
        return tuple(dict.fromkeys(_told(sa, reason) for sa, reason in self._known.values()))

    def named(self, sas: Iterable[IkeSa]) -> tuple[IkeSa, ...]:
        """What was known of these IKE_SAs, of those that are here."""
        return tuple(self._known[sa.unique_id][0] for sa in sas if sa.unique_id in self._known)

    def listed(self, role: Role, sas: Iterable[IkeSa], *, complete: bool) -> tuple[LeftAlone, ...]:
        """Take a listing in; what is to be told anew."""
        told = frozenset(self.reasons)
        named = {sa.unique_id: sa for sa in sas}
        kept = {} if complete else {ident: known for ident, known in self._known.items() if ident not in named}
        self._known = kept | {ident: (sa, why) for ident, sa in named.items() if (why := why_apart(role, sa))}
        return tuple(reason for reason in self.reasons if reason not in told)

    def ended(self, unique_id: int) -> bool:
        """An IKE_SA is no more; whether it was one of these."""
        return self._known.pop(unique_id, None) is not None


def _told(sa: IkeSa, reason: str) -> LeftAlone:
    return LeftAlone(name=sa.name, inner=(*sa.local_vips, *sa.remote_vips), reason=reason)


def _reqids(sas: Iterable[IkeSa]) -> list[int]:
    return [child.reqid for sa in sas for child in sa.children if child.reqid and child.state in CARRYING]
