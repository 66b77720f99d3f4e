"""The phases of a tunnel, and which of charon's CHILD_SAs count."""

import itertools
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from swanroam.core.tunnel import TRANSITIONS, Phase, Signal, Tunnel, advance, inner_addresses
from swanroam.model.events import Reason
from swanroam.model.tunnel import Capability, Role
from tests.support.values import INNER, KEY, SPI_UP, ike_sa, path

TUNNEL = Tunnel(
    key=KEY,
    role=Role.GATEWAY,
    sas=(ike_sa(Role.GATEWAY),),
    path=path(Role.GATEWAY),
    capability=Capability.NEGOTIATED,
)


@pytest.mark.parametrize(("phase", "signal"), list(itertools.product(Phase, Signal)))
def test_every_pair_of_phase_and_signal_is_in_the_table_or_a_defect(phase: Phase, signal: Signal) -> None:
    tunnel = replace(TUNNEL, phase=phase)
    if (phase, signal) in TRANSITIONS:
        assert advance(tunnel, signal) == replace(tunnel, phase=TRANSITIONS[phase, signal])
    else:
        with pytest.raises(KeyError):
            advance(tunnel, signal)


def test_every_phase_can_be_left_and_every_signal_is_used() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase)
    assert {signal for _, signal in TRANSITIONS} == set(Signal)


@pytest.mark.parametrize(
    ("state", "counts"),
    [("INSTALLED", True), ("REKEYING", True), ("REKEYED", True), ("CREATED", False), ("DESTROYING", False)],
)
def test_a_child_sa_counts_while_it_can_receive(state: str, counts: bool) -> None:
    sa = ike_sa(Role.GATEWAY)
    tunnel = replace(TUNNEL, sas=(replace(sa, children=(replace(sa.children[0], state=state),)),))
    assert (tunnel.spis == (SPI_UP,)) is counts


def test_refusals_are_counted_by_reason() -> None:
    tunnel = TUNNEL.count(Reason.BAD_ICV).count(Reason.BAD_ICV).count(Reason.REPLAYED)
    assert tunnel.rejected == {Reason.BAD_ICV: 2, Reason.REPLAYED: 1}


def test_inner_addresses_have_one_order_whatever_charon_lists() -> None:
    six, other = IPv6Address("fd00::1"), IPv4Address("10.3.0.200")
    sa = ike_sa(Role.GATEWAY, inner=(six, other, INNER))
    assert inner_addresses(Role.GATEWAY, sa) == (INNER, other, six)
    assert inner_addresses(Role.TERMINAL, sa) == ()


def test_the_word_of_the_other_end_needs_a_move() -> None:
    assert TUNNEL.validated(value=True) == TUNNEL
