"""What is left alone, and why: IKE_SAs that are no tunnels, and tunnels that something else could be taken for."""

from dataclasses import replace

import pytest

from swanroam.core.bystanders import why_apart
from swanroam.core.settings import Agreement
from swanroam.core.tunnel import Phase
from swanroam.model.effects import AlignStates, CapabilityChanged, InformCharon, LeftAlone, ListIkeSas, MoveStates
from swanroam.model.events import IkeSaEnded, TimerKind
from swanroam.model.messages import Refusal, Refuse
from swanroam.model.path import Endpoint, IPAddress
from swanroam.model.tunnel import Capability, IkeSa, Mode, Role, TunnelKey
from tests.support.values import (
    GATEWAY,
    INNER,
    KEY,
    OTHER_INNER,
    SPI_DOWN,
    SPI_UP,
    A,
    B,
    C,
    Desk,
    ike_sa,
    messages,
    negotiated,
    one,
    path,
    some,
    with_spis,
)

ROLES = pytest.mark.parametrize("role", list(Role))
OTHER_KEY = TunnelKey("home", (OTHER_INNER,))


def with_child(sa: IkeSa, **changes: object) -> IkeSa:
    """The IKE_SA with another CHILD_SA."""
    return replace(sa, children=(replace(sa.children[0], **changes),))  # type: ignore[arg-type]  # the caller's to mind


def other(role: Role, **changes: object) -> IkeSa:
    """The IKE_SA of another terminal; its CHILD_SA has the first one's reqid, if nothing else is said."""
    sa = ike_sa(role, unique_id=2, outer=B, inner=(OTHER_INNER,), ike_spis=(5, 6), spis=((0xB, 0xC),))
    return with_child(sa, **{"reqid": ike_sa(role).children[0].reqid, **changes})


def site(role: Role, **changes: object) -> IkeSa:
    """An IKE_SA without virtual IPs."""
    return replace(other(role, **changes), name="site", unique_id=3, local_vips=(), remote_vips=())


@ROLES
def test_a_tunnel_with_a_virtual_ip_on_the_right_side_is_none_of_these(role: Role) -> None:
    assert why_apart(role, ike_sa(role)) is None


@ROLES
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mode": Mode.TRANSPORT}, "not ESP in tunnel mode: ESP in transport mode"),
        ({"mode": Mode.BEET}, "not ESP in tunnel mode: ESP in beet mode"),
        ({"protocol": "AH"}, "not ESP in tunnel mode: AH in tunnel mode"),
    ],
)
def test_other_modes_and_protocols_are_left_alone(role: Role, changes: dict[str, object], why: str) -> None:
    assert why_apart(role, with_child(ike_sa(role), **changes)) == why


@ROLES
def test_a_site_and_a_tunnel_of_the_other_role_are_left_alone(role: Role) -> None:
    assert why_apart(role, site(role)) == "it has no virtual IP"
    (opposite,) = set(Role) - {role}
    assert why_apart(role, ike_sa(opposite)) == f"this end is not its {role}"


@ROLES
def test_nothing_is_said_of_what_is_not_complete_yet(role: Role) -> None:
    assert why_apart(role, replace(site(role), children=())) is None
    assert why_apart(role, replace(site(role), state="CONNECTING")) is None


@ROLES
def test_what_is_left_alone_is_told_once_and_shown_as_long_as_it_is_there(role: Role) -> None:
    desk = Desk(role)
    told = LeftAlone(name="site", inner=(), reason="it has no virtual IP")
    assert some(LeftAlone, desk.listed(site(role))) == [told]
    assert some(LeftAlone, desk.listed(site(role))) == []
    assert some(LeftAlone, desk.listed(replace(site(role), unique_id=4), complete=False)) == []
    assert desk.core.bystanders.reasons == (told,)
    desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=3))
    assert desk.core.bystanders.reasons == (told,)
    desk.listed(ike_sa(role))
    assert desk.core.bystanders.reasons == ()


@ROLES
def test_tunnels_with_one_reqid_are_not_moved_and_say_why(role: Role) -> None:
    desk = Desk(role)
    effects = desk.listed(ike_sa(role), other(role))
    why = "another tunnel has its reqid 1, too"
    assert {effect.key: effect.detail for effect in some(CapabilityChanged, effects)} == {KEY: why, OTHER_KEY: why}
    assert messages(effects) == []
    assert desk.tunnel.because == why
    assert some(MoveStates, desk.roam(C)) == []
    desk.greeted()
    assert desk.tunnel.capability is Capability.NONE


@ROLES
def test_charon_is_not_told_of_a_move_by_a_reqid_that_another_tunnel_took_meanwhile(role: Role) -> None:
    desk = negotiated(role)
    if role is Role.TERMINAL:
        desk.moved(one(MoveStates, desk.roam(B)))
    else:
        desk.held(B, packet_id=1)
        desk.moved(one(MoveStates, desk.verified(1, sequence=9)))
    desk.listed(other(role), complete=False)
    assert desk.tunnel.phase is Phase.STEADY
    for kind in (TimerKind.INFORM, TimerKind.VALIDATION, TimerKind.UPDATE):
        assert some(InformCharon, desk.expired(kind)) == []
    desk.later(5)
    at = {child.spi_in: path(role, B) for child in ike_sa(role).children}
    assert some(InformCharon, desk.listed(ike_sa(role), other(role), at=at)) == []


@pytest.mark.parametrize("where", [B, C])
def test_states_of_a_tunnel_with_mobike_are_charons_alone_where_the_reqid_is_shared(where: IPAddress) -> None:
    desk = Desk(Role.GATEWAY)
    both = [replace(sa, local=Endpoint(GATEWAY, 4500)) for sa in (ike_sa(Role.GATEWAY), other(Role.GATEWAY))]
    desk.listed(*both)
    assert desk.tunnel.mobike
    desk.later(5)
    moved = replace(both[0], remote=Endpoint(where, 4500))
    for _ in range(3):
        desk.later(5)
        effects = desk.listed(moved, both[1], at={SPI_UP: path(Role.GATEWAY, A)})
        assert some(AlignStates, effects) == some(MoveStates, effects) == []


def test_a_terminal_that_is_told_so_does_not_move_a_tunnel_until_it_is_greeted_anew() -> None:
    desk = negotiated(Role.TERMINAL)
    effects = desk.message(Refuse(nonce=bytes(16), reason=Refusal.POLICY))
    assert one(CapabilityChanged, effects).detail == desk.tunnel.because == "refused: policy"
    assert some(MoveStates, desk.roam(B)) == []
    desk.greeted()
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert desk.tunnel.because == ""


def test_a_refusal_of_nothing_ends_no_agreement_that_was_configured() -> None:
    desk = Desk(Role.TERMINAL, Agreement.CONFIGURED)
    desk.listed(ike_sa(Role.TERMINAL))
    assert desk.message(Refuse(nonce=bytes(16), reason=Refusal.POLICY)) == ()


def test_an_address_that_was_given_out_twice_is_one() -> None:
    desk = Desk(Role.TERMINAL)
    desk.listed(replace(ike_sa(Role.TERMINAL), local_vips=(INNER, INNER)))
    assert desk.tunnel.key == KEY


def test_a_hello_for_a_tunnel_that_is_not_told_apart_is_refused() -> None:
    desk = Desk(Role.GATEWAY)
    desk.listed(ike_sa(Role.GATEWAY), other(Role.GATEWAY))
    from_terminal = Desk(Role.TERMINAL)
    (hello,) = messages(from_terminal.listed(ike_sa(Role.TERMINAL)))
    (answer,) = messages(desk.message(hello))
    assert isinstance(answer, Refuse)
    assert answer.reason is Refusal.POLICY


@ROLES
@pytest.mark.parametrize("complete", [True, False])
def test_an_agreement_ends_when_another_tunnel_takes_the_reqid_and_is_made_anew_when_it_is_gone(
    role: Role, complete: bool
) -> None:
    desk = negotiated(role)
    sas = (ike_sa(role), other(role)) if complete else (other(role),)
    effects = desk.listed(*sas, complete=complete)
    assert desk.tunnel.capability is Capability.NONE
    gateway = role is Role.GATEWAY
    assert messages(effects) == ([Refuse(nonce=bytes(16), reason=Refusal.POLICY)] if gateway else [])
    assert ListIkeSas() in desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=2))
    effects = desk.listed(ike_sa(role))
    assert desk.tunnel.capability is Capability.PENDING
    assert len(messages(effects)) == 1
    assert (desk.tunnel.because, desk.tunnel.shares) == ("", "")


@ROLES
def test_a_site_with_the_reqid_of_a_tunnel_is_another_tunnel_too(role: Role) -> None:
    desk = negotiated(role)
    desk.listed(site(role), complete=False)
    assert desk.tunnel.capability is Capability.NONE
    assert ListIkeSas() in desk.step(IkeSaEnded(at_s=desk.now_s, unique_id=3))


@ROLES
def test_child_sas_of_one_tunnel_may_have_one_reqid(role: Role) -> None:
    """A rekey and a reauthentication under way."""
    desk = negotiated(role)
    sa = with_spis(ike_sa(role), (SPI_UP, SPI_DOWN), (0xD, 0xE))
    again = ike_sa(role, unique_id=2, ike_spis=(7, 8), spis=((0x11, 0x12),))
    desk.listed(sa, again)
    assert desk.tunnel.capability is Capability.NEGOTIATED
    assert [sa.unique_id for sa in desk.tunnel.sas] == [2, 1]


@ROLES
def test_connections_with_one_inner_address_are_left_alone(role: Role) -> None:
    desk = Desk(role)
    twin = replace(with_child(ike_sa(role, unique_id=2, ike_spis=(5, 6), spis=((0xB, 0xC),)), reqid=9), name="work")
    effects = desk.listed(ike_sa(role), twin)
    assert {each.detail for each in some(CapabilityChanged, effects)} == {
        f"another tunnel has its inner address {INNER}, too"
    }


@ROLES
def test_a_tunnel_with_ipcomp_is_left_alone(role: Role) -> None:
    desk = Desk(role)
    effects = desk.listed(with_child(ike_sa(role), ipcomp=True))
    told = one(CapabilityChanged, effects)
    assert (told.capability, told.detail) == (
        Capability.NONE,
        "in a packet that IPComp compressed the inner source cannot be verified",
    )


def test_a_child_sa_that_vanished_before_its_move_is_listed_anew_and_the_others_move_then() -> None:
    desk = negotiated(Role.TERMINAL)
    both = replace(
        ike_sa(Role.TERMINAL),
        children=(*ike_sa(Role.TERMINAL).children, replace(other(Role.TERMINAL).children[0], reqid=8)),
    )
    desk.listed(both)
    effects = desk.refused(one(MoveStates, desk.roam(B)))
    assert ListIkeSas((1,)) in effects
    desk.listed(ike_sa(Role.TERMINAL))
    again = one(MoveStates, desk.expired(TimerKind.MOVE))
    assert again.children == ike_sa(Role.TERMINAL).children
