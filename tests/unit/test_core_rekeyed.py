"""What IKEv1 leaves of a rekeyed CHILD_SA."""

from dataclasses import replace

import pytest

from swanroam.core.settings import Agreement
from swanroam.core.step import LINGERING_S
from swanroam.model.effects import DeleteChild, InformCharon, ListIkeSas, MoveStates
from swanroam.model.events import TimerKind
from swanroam.model.tunnel import IkeSa, Role
from tests.support.values import KEY, SPI_DOWN, SPI_UP, A, B, Desk, ike_sa, in_udp, one, path, some, timers


def two(role: Role) -> IkeSa:
    """An IKE_SA of IKEv1 with a rekeyed CHILD_SA and its successor."""
    both = ike_sa(role, spis=((SPI_UP, SPI_DOWN), (0x50, 0x60)))
    return replace(both, version=1, children=(replace(both.children[0], state="REKEYED"), both.children[1]))


REKEYED = two(Role.TERMINAL)
OLD, NEW = REKEYED.children


def rekeyed(sa: IkeSa, agreement: Agreement = Agreement.CONFIGURED) -> Desk:
    """A tunnel whose CHILD_SA was just rekeyed."""
    desk = Desk(Role.TERMINAL if sa.initiator else Role.GATEWAY, agreement)
    desk.listed(replace(sa, children=sa.children[:1]))
    assert timers(desk.listed(sa), TimerKind.LINGERING) == [LINGERING_S]
    return desk


def test_a_terminal_has_it_deleted_in_a_moment() -> None:
    deleted = DeleteChild(key=KEY, unique_id=OLD.unique_id)
    assert rekeyed(REKEYED).expired(TimerKind.LINGERING) == (deleted, ListIkeSas((1,)))


@pytest.mark.parametrize(
    "sa",
    [
        replace(REKEYED, version=2),
        replace(REKEYED, children=(OLD, replace(NEW, state="DELETING"))),
        replace(REKEYED, children=(OLD, replace(NEW, reqid=NEW.reqid + 1))),
        in_udp(REKEYED),
        two(Role.GATEWAY),
    ],
    ids=["of IKEv2", "no successor", "of other policies", "charon is not told of moves", "gateway"],
)
def test_others_are_charons_business(sa: IkeSa) -> None:
    assert rekeyed(sa).expired(TimerKind.LINGERING) == (ListIkeSas((1,)),)


def test_so_are_those_of_a_tunnel_that_may_not_move() -> None:
    assert rekeyed(REKEYED, Agreement.OFF).expired(TimerKind.LINGERING) == (ListIkeSas((1,)),)


def test_where_the_tunnel_moves_before_that_charon_is_told_again_of_the_one_in_use() -> None:
    desk = rekeyed(REKEYED)
    desk.moved(one(MoveStates, desk.roam(B)))
    followed = replace(REKEYED, local=path(Role.TERMINAL, B).local)
    at = {child.spi_in: path(Role.TERMINAL, B) for child in followed.children}
    desk.later(5.0)
    assert not some(InformCharon, desk.listed(followed, at=at))

    left = replace(followed, children=(NEW,))
    told = one(InformCharon, desk.listed(left, at=at))
    assert (told.old, told.new, told.children) == (path(Role.TERMINAL, A), path(Role.TERMINAL, B), (NEW,))
    desk.later(1.0)
    assert not some(InformCharon, desk.listed(left, at=at))
