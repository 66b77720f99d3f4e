"""A listing of some IKE_SAs changes what it would if all that is known were looked at, and nothing else."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from swanroam.core.step import Core
from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.events import IkeSasListed
from swanroam.model.tunnel import IkeSa, Role
from tests.support.values import INNER, OTHER_INNER, PORT, A, B, ike_sa, settings

IDS = st.integers(1, 5)


@st.composite
def listed_sas(draw: st.DrawFn) -> tuple[IkeSa, ...]:
    """Some IKE_SAs, which may have an inner address or a reqid in common, or no virtual IP."""
    sas = []
    for number in draw(st.lists(IDS, max_size=4, unique=True)):
        inner = draw(st.sampled_from(((INNER,), (OTHER_INNER,), (INNER, OTHER_INNER))))
        name = draw(st.sampled_from(("home", "work")))
        outer = draw(st.sampled_from((A, B)))
        sa = ike_sa(Role.GATEWAY, unique_id=number, name=name, inner=inner, outer=outer, ike_spis=(number, 1))
        spi = number + 8 * draw(st.integers(0, 1))
        reqid = draw(st.integers(0, 4))
        children = tuple(replace(child, unique_id=spi, reqid=reqid, spi_in=spi, spi_out=spi) for child in sa.children)
        virtual = draw(st.sampled_from((sa.remote_vips, sa.remote_vips, ())))
        sas.append(replace(sa, remote_vips=virtual, children=children))
    return tuple(sas)


happenings = st.lists(
    st.tuples(st.sampled_from(["all", "event", "asked"]), listed_sas(), st.lists(IDS, unique=True)), max_size=8
)


class Everything(Table):
    """Takes each tunnel to have to do with each."""

    def related(self, sas: Iterable[IkeSa], unique_ids: Iterable[int] = ()) -> tuple[Tunnel, ...]:
        """All."""
        del sas, unique_ids
        return tuple(self)


@given(happenings)
def test_only_what_a_listing_has_to_do_with_is_looked_at(
    happened: list[tuple[str, tuple[IkeSa, ...], list[int]]],
) -> None:
    cores = [Core(settings(Role.GATEWAY), lambda: bytes(16), PORT) for _ in range(2)]
    cores[1].table = Everything()
    for at_s, (kind, sas, others) in zip(count(1000.0, 0.3), happened, strict=False):
        paths = tuple((child.spi_in, sa.path) for sa in sas for child in sa.children)
        asked = tuple({*others, *(sa.unique_id for sa in sas)}) if kind == "asked" else ()
        event = IkeSasListed(at_s=at_s, sas=sas, complete=kind == "all", asked=asked, kernel_paths=paths)
        some, every = ([Counter(map(repr, core.step(event))), {one.key: one for one in core.table}] for core in cores)
        assert some == every
