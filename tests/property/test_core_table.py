"""The tunnel table, for all sequences of changes: everything is found by what it has, and by nothing else."""

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, Role, TunnelKey
from tests.support.values import ike_sa, path

ADDRESSES = tuple(IPv4Address(f"10.3.0.{host}") for host in range(1, 5))
SPIS = tuple(range(1, 7))
IDS = tuple(range(1, 6))


def build(name: str, inner: tuple[IPAddress, ...], sas: list[tuple[int, list[int]]]) -> Tunnel:
    members = tuple(
        ike_sa(Role.GATEWAY, unique_id=number, inner=inner, spis=[(spi, spi + 100) for spi in spis])
        for number, spis in sas
    )
    return Tunnel(
        key=TunnelKey(name, inner), role=Role.GATEWAY, sas=members, path=path(Role.GATEWAY), capability=Capability.NONE
    )


INNERS = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True).map(lambda each: tuple(sorted(each)))
CHILDREN = st.lists(st.sampled_from(SPIS), max_size=3)
TUNNELS = st.builds(
    build,
    st.sampled_from(("home", "work")),
    INNERS,
    st.lists(st.tuples(st.sampled_from(IDS), CHILDREN), max_size=2),
)


@given(st.lists(st.tuples(st.booleans(), TUNNELS), max_size=30))
def test_no_entry_is_stale_and_none_is_missing(changes: list[tuple[bool, Tunnel]]) -> None:
    table = Table()
    model: dict[TunnelKey, Tunnel] = {}
    for put, tunnel in changes:
        if put:
            table.put(tunnel)
            model[tunnel.key] = tunnel
        else:
            assert table.remove(tunnel.key) == model.pop(tunnel.key, None)
        assert {each.key: each for each in table} == model
        for address in ADDRESSES:
            having = [each for each in model.values() if address in each.key.inner]
            assert (table.by_inner(address) in having) if having else (table.by_inner(address) is None)
        for spi in SPIS:
            having = [each for each in model.values() if spi in each.spis]
            assert (table.by_spi(spi) in having) if having else (table.by_spi(spi) is None)
        for number in IDS:
            having = [each for each in model.values() if number in {sa.unique_id for sa in each.sas}]
            assert (table.by_ike(number) in having) if having else (table.by_ike(number) is None)
