"""Late ESP goes on to where its tunnel is now."""

from ipaddress import IPv6Address

import pytest

from swanroam.app.late import sent_on
from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import Capability, Role
from swanroam.wire.inner import parse_ip
from tests.support.esp_seal import ip_packet
from tests.support.values import GATEWAY, KEY, SPI_DOWN, A, B, ike_sa

GATEWAY6, B6 = IPv6Address("2001:db8:99::1"), IPv6Address("2001:db8:2::b")


def table(here: IPAddress, gateway: IPAddress = GATEWAY) -> Table:
    """A table with the tunnel at this address."""
    known = Table()
    where = Path(Endpoint(here, 500), Endpoint(gateway, 500))
    sas = (ike_sa(Role.TERMINAL),)
    known.put(Tunnel(key=KEY, role=Role.TERMINAL, sas=sas, path=where, capability=Capability.NEGOTIATED))
    return known


def late(to: IPAddress = A, gateway: IPAddress = GATEWAY) -> bytes:
    """ESP of the gateway to an address of the terminal."""
    return ip_packet(gateway, to, 50, SPI_DOWN.to_bytes(4) + bytes(40))


def test_it_goes_to_the_address_that_the_tunnel_is_at() -> None:
    changed = sent_on(table(B), SPI_DOWN, late())
    assert changed is not None
    assert parse_ip(changed).destination == B
    assert changed[20:] == late()[20:]


@pytest.mark.parametrize(
    ("known", "spi"),
    [(table(A), SPI_DOWN), (table(B), 1), (table(B6, GATEWAY6), SPI_DOWN)],
    ids=["back again", "of no tunnel", "the other IP version"],
)
def test_otherwise_it_goes_on_as_it_is(known: Table, spi: int) -> None:
    assert sent_on(known, spi, late()) is None


def test_over_ipv6_it_is_the_same() -> None:
    changed = sent_on(table(B6, GATEWAY6), SPI_DOWN, late(IPv6Address("2001:db8:1::a"), GATEWAY6))
    assert changed is not None
    assert parse_ip(changed).destination == B6
