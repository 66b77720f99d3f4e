"""The guard: its reasons, and their order."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.core.guard import judge, refuse_source
from swanroam.core.tunnel import Tunnel
from swanroam.model.events import PacketVerified, Reason
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, Role
from tests.support.values import GATEWAY, INNER, KEY, OTHER_INNER, SPI_UP, A, B, C, ike_sa, path

TUNNEL = Tunnel(
    key=KEY,
    role=Role.GATEWAY,
    sas=(ike_sa(Role.GATEWAY),),
    path=path(Role.GATEWAY),
    capability=Capability.NEGOTIATED,
    highest={SPI_UP: 50},
    distrusted=((C, 1010.0),),
)
PACKET = PacketVerified(at_s=1000.0, packet_id=1, reason=None, sequence=101, kernel_highest=100, inner_source=INNER)


def test_an_authentic_new_packet_of_the_terminal_may_move_the_tunnel() -> None:
    assert judge(TUNNEL, SPI_UP, B, PACKET) is None


@pytest.mark.parametrize("reason", [Reason.BAD_ICV, Reason.REPLAYED, Reason.MALFORMED, Reason.UNSUPPORTED_ALGORITHM])
def test_the_verifier_has_the_first_word(reason: Reason) -> None:
    packet = replace(PACKET, reason=reason, sequence=0, inner_source=None)
    assert judge(TUNNEL, SPI_UP, IPv4Address(0), packet) is reason


@pytest.mark.parametrize(("sequence", "kernel", "own"), [(100, 100, 50), (99, 100, 50), (60, 10, 60), (0, 0, 0)])
def test_a_sequence_that_is_not_the_newest_of_all_comes_next(sequence: int, kernel: int, own: int) -> None:
    packet = replace(PACKET, sequence=sequence, kernel_highest=kernel, inner_source=None)
    assert judge(replace(TUNNEL, highest={SPI_UP: own}), SPI_UP, IPv4Address(0), packet) is Reason.OLD_SEQUENCE


def test_sequences_of_another_child_sa_say_nothing() -> None:
    tunnel = replace(TUNNEL, highest={SPI_UP + 1: 1_000_000})
    assert judge(tunnel, SPI_UP, B, PACKET) is None


@pytest.mark.parametrize("inner", [None, OTHER_INNER, IPv6Address("2001:db8::1"), A])
def test_an_inner_source_that_is_not_the_terminals_comes_third(inner: IPAddress | None) -> None:
    assert judge(TUNNEL, SPI_UP, IPv4Address(0), replace(PACKET, inner_source=inner)) is Reason.INNER_SOURCE


def test_an_spi_that_the_tunnel_has_not_admits_no_inner_source() -> None:
    assert judge(TUNNEL, SPI_UP + 1, B, PACKET) is Reason.INNER_SOURCE


@pytest.mark.parametrize(
    "source",
    [
        str(IPv4Address(0)),
        "127.0.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        str(GATEWAY),
        str(INNER),
    ],
)
def test_a_source_where_no_tunnel_can_end_is_not_allowed(source: str) -> None:
    assert refuse_source(TUNNEL, IPv4Address(source), 1000.0) is Reason.SOURCE_NOT_ALLOWED
    assert judge(TUNNEL, SPI_UP, IPv4Address(source), PACKET) is Reason.SOURCE_NOT_ALLOWED


def test_a_source_of_another_family_is_not_allowed() -> None:
    assert refuse_source(TUNNEL, IPv6Address("2001:db8::1"), 1000.0) is Reason.SOURCE_NOT_ALLOWED


def test_a_source_that_failed_its_challenge_is_distrusted_until_its_time_is_over() -> None:
    assert refuse_source(TUNNEL, C, 1009.9) is Reason.NOT_VALIDATED
    assert refuse_source(TUNNEL, C, 1010.0) is None
    assert refuse_source(TUNNEL, B, 1000.0) is None


@pytest.mark.parametrize("capability", [Capability.NONE, Capability.PENDING])
def test_without_the_capability_no_source_is_good_enough(capability: Capability) -> None:
    tunnel = replace(TUNNEL, capability=capability)
    assert refuse_source(tunnel, B, 1000.0) is Reason.NO_CAPABILITY
    assert judge(tunnel, SPI_UP, B, PACKET) is Reason.NO_CAPABILITY


def test_the_capability_may_come_from_configuration() -> None:
    assert refuse_source(replace(TUNNEL, capability=Capability.CONFIGURED), B, 1000.0) is None
