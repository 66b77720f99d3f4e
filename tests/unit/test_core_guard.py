"""The guard: its reasons, and their order."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest

from swanroam.core.damping import LONGEST_S, SUPPRESS, Damping
from swanroam.core.distrust import Distrust
from swanroam.core.guard import OF_THE_PACKET, OF_THE_SOURCE, judge
from swanroam.core.tunnel import Phase, Tunnel
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
    distrusted=(Distrust(C, 1010.0),),
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


# Of each check, a tunnel or a packet that it refuses, with nothing else wrong.
UNAGREED = {"capability": Capability.NONE}
FLAPPING = {"damping": Damping(penalty=SUPPRESS + 1, at_s=1000.0, damped=True)}
WRONG: dict[Reason, tuple[dict[str, object], dict[str, object], IPAddress]] = {
    Reason.OLD_SEQUENCE: ({}, {"sequence": 100}, B),
    Reason.INNER_SOURCE: ({}, {"inner_source": OTHER_INNER}, B),
    Reason.NO_CAPABILITY: (UNAGREED, {}, B),
    Reason.SOURCE_NOT_ALLOWED: ({}, {}, GATEWAY),
    Reason.NOT_VALIDATED: ({}, {}, C),
    Reason.FLAPPING: (FLAPPING, {}, B),
}


def test_the_order_of_the_checks_is_that_of_the_table() -> None:
    assert [reason for reason, _ in (*OF_THE_PACKET, *OF_THE_SOURCE)] == list(WRONG)


@pytest.mark.parametrize("reason", WRONG)
def test_each_check_refuses_by_itself(reason: Reason) -> None:
    tunnel, packet, source = WRONG[reason]
    assert judge(replace(TUNNEL, **tunnel), SPI_UP, source, replace(PACKET, **packet)) is reason  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [pair for pair in pairwise(WRONG) if pair != (Reason.SOURCE_NOT_ALLOWED, Reason.NOT_VALIDATED)],
)
def test_of_two_reasons_the_first_counts(first: Reason, second: Reason) -> None:
    tunnel = replace(TUNNEL, **{**WRONG[second][0], **WRONG[first][0]})  # type: ignore[arg-type]
    packet = replace(PACKET, **{**WRONG[second][1], **WRONG[first][1]})  # type: ignore[arg-type]
    source = next((source for source in (WRONG[first][2], WRONG[second][2]) if source != B), B)
    assert judge(tunnel, SPI_UP, source, packet) is first


def test_a_source_that_failed_its_challenge_is_distrusted_until_its_time_is_over() -> None:
    assert judge(TUNNEL, SPI_UP, C, replace(PACKET, at_s=1009.9)) is Reason.NOT_VALIDATED
    assert judge(TUNNEL, SPI_UP, C, replace(PACKET, at_s=1010.0)) is None


@pytest.mark.parametrize("capability", [Capability.NONE, Capability.PENDING])
def test_without_the_capability_no_source_is_good_enough(capability: Capability) -> None:
    assert judge(replace(TUNNEL, capability=capability), SPI_UP, B, PACKET) is Reason.NO_CAPABILITY


def test_the_capability_may_come_from_configuration() -> None:
    assert judge(replace(TUNNEL, capability=Capability.CONFIGURED), SPI_UP, B, PACKET) is None


def test_a_tunnel_that_flaps_waits_but_not_for_the_way_back_to_where_it_was_validated() -> None:
    away = replace(
        TUNNEL,
        path=path(Role.GATEWAY, B),
        phase=Phase.VALIDATING,
        validated_path=path(Role.GATEWAY, A),
        distrusted=(),
        damping=Damping(penalty=30.0, at_s=1000.0, damped=True),
    )
    assert judge(away, SPI_UP, C, PACKET) is Reason.FLAPPING
    assert judge(away, SPI_UP, A, PACKET) is None
    assert judge(away, SPI_UP, C, replace(PACKET, at_s=1000.0 + LONGEST_S)) is None
    assert judge(replace(away, phase=Phase.STEADY), SPI_UP, A, PACKET) is Reason.FLAPPING
