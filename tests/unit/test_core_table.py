"""The tunnel table: what finds which tunnel."""

from dataclasses import replace
from ipaddress import IPv4Address

from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, IkeSa, Mode, Role, TunnelKey
from tests.support.values import INNER, KEY, OTHER_INNER, SPI_UP, ike_sa, path, with_spis


def tunnel(*sas: IkeSa, inner: tuple[IPAddress, ...] = (INNER,), name: str = "home") -> Tunnel:
    return Tunnel(
        key=TunnelKey(name, inner),
        role=Role.GATEWAY,
        sas=sas or (ike_sa(Role.GATEWAY),),
        path=path(Role.GATEWAY),
        capability=Capability.NONE,
    )


def test_a_tunnel_is_found_by_inner_address_spi_and_ike_sa() -> None:
    table = Table()
    put = tunnel()
    table.put(put)
    assert table.by_inner(INNER) == table.by_spi(SPI_UP) == table.by_ike(1) == table.get(KEY) == put
    assert KEY in table
    assert len(table) == 1


def test_nothing_is_found_by_what_no_tunnel_has() -> None:
    table = Table()
    table.put(tunnel())
    assert table.by_inner(OTHER_INNER) is table.by_spi(SPI_UP + 1) is table.by_ike(2) is None


def test_several_inner_addresses_and_child_sas_all_lead_to_their_tunnel() -> None:
    table = Table()
    inner = (INNER, OTHER_INNER)
    sa = ike_sa(Role.GATEWAY, inner=inner, spis=((SPI_UP, 1), (SPI_UP + 1, 2)))
    put = tunnel(sa, inner=inner)
    table.put(put)
    assert [table.by_inner(address) for address in inner] == [put, put]
    assert [table.by_spi(spi) for spi in (SPI_UP, SPI_UP + 1)] == [put, put]


def test_a_rekey_changes_the_spis_that_find_the_tunnel() -> None:
    table = Table()
    table.put(tunnel())
    rekeyed = tunnel(with_spis(ike_sa(Role.GATEWAY), (SPI_UP + 1, 2)))
    table.put(rekeyed)
    assert table.by_spi(SPI_UP) is None
    assert table.by_spi(SPI_UP + 1) == rekeyed


def test_an_ike_rekey_changes_the_id_that_finds_the_tunnel() -> None:
    table = Table()
    table.put(tunnel())
    rekeyed = tunnel(ike_sa(Role.GATEWAY, unique_id=2))
    table.put(rekeyed)
    assert table.by_ike(1) is None
    assert table.by_ike(2) == rekeyed


def test_a_child_sa_that_is_not_in_tunnel_mode_has_no_part() -> None:
    sa = ike_sa(Role.GATEWAY)
    table = Table()
    table.put(tunnel(replace(sa, children=(replace(sa.children[0], mode=Mode.TRANSPORT),))))
    assert table.by_spi(SPI_UP) is None


def test_a_removed_tunnel_is_found_by_nothing() -> None:
    table = Table()
    put = tunnel()
    table.put(put)
    assert table.remove(KEY) == put
    assert table.remove(KEY) is None
    assert table.by_inner(INNER) is table.by_spi(SPI_UP) is table.by_ike(1) is table.get(KEY) is None


def test_an_inner_address_claimed_twice_belongs_to_the_last_claimant_while_it_is_there() -> None:
    table = Table()
    first, second = tunnel(), tunnel(ike_sa(Role.GATEWAY, unique_id=2, name="work", spis=((5, 6),)), name="work")
    table.put(first)
    table.put(second)
    table.put(replace(first, moves=1))
    assert table.by_inner(INNER) == second
    table.remove(second.key)
    assert table.by_inner(INNER) == replace(first, moves=1)


def test_tunnels_may_change_while_one_goes_through_them() -> None:
    table = Table()
    table.put(tunnel())
    table.put(tunnel(inner=(IPv4Address("10.3.0.9"),)))
    for each in table:
        table.remove(each.key)
    assert len(table) == 0


def test_all_tunnels_are_found_by_what_other_ends_choose_and_operators_give() -> None:
    table = Table()
    spis = ((SPI_UP, 7),)
    first, second = tunnel(ike_sa(Role.GATEWAY, spis=spis)), tunnel(ike_sa(Role.GATEWAY, spis=spis), name="other")
    (child,) = first.children
    table.put(first)
    table.put(second)
    assert table.sending_on(7) == table.of_reqid(child.reqid) == (first, second)
    table.remove(first.key)
    assert table.sending_on(7) == table.of_reqid(child.reqid) == (second,)
    table.put(tunnel(ike_sa(Role.GATEWAY, spis=((SPI_UP, 8),)), name="other"))
    assert table.sending_on(7) == table.of_reqid(child.reqid + 1) == ()
