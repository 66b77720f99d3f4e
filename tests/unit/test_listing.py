"""What keeps the core's view of charon true: events become listings, whatever charon does meanwhile."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from swanroam.app.listing import RETRY_S, Lister
from swanroam.charon.protocols import CharonEvent, EventKind
from swanroam.core.step import BARE_S
from swanroam.errors import CharonGone, CharonRefused, KernelRefused
from swanroam.model.effects import Unwatch, Watch
from swanroam.model.events import CharonLost, Event, IkeSaEnded, IkeSasListed
from swanroam.model.path import IPAddress, Path
from swanroam.model.tunnel import ChildSa, IkeSa, Role
from tests.fakes.commands import FakeCommands
from tests.fakes.vici_contract import until
from tests.support.values import SPI_UP, ike_sa, negotiated, path, some
from tests.support.values import Desk as CoreDesk

ONE = ike_sa(Role.GATEWAY, unique_id=1)
TWO = ike_sa(Role.GATEWAY, unique_id=2, spis=((0xC0000002, 0xD0000002),))
GONE = CharonGone("closed by charon")
WHERE = path(Role.GATEWAY)


def event(kind: EventKind, sa: IkeSa | None = None, former: IkeSa | None = None, *, up: bool = True) -> CharonEvent:
    return CharonEvent(kind=kind, at_s=5.0, up=up, sa=sa, former=former)


@dataclass(slots=True)
class Desk:
    """A lister between a charon and whom it tells."""

    charon: FakeCommands = field(default_factory=lambda: FakeCommands(ONE, TWO))
    events: list[Event] = field(default_factory=list)
    where: dict[int, Path] = field(default_factory=lambda: {SPI_UP: WHERE})
    refused: bool = False
    asked: list[list[int]] = field(default_factory=list)
    own: list[set[IPAddress]] = field(default_factory=list)
    now_s: float = 1000.0
    recovered: list[tuple[int, Path]] = field(default_factory=list)
    silent: int = 0
    lister: Lister = field(init=False)

    def __post_init__(self) -> None:
        self.lister = Lister(self.charon, self, self.events.append, self.clock)

    def clock(self) -> float:
        """Each look takes a second."""
        self.now_s += 1.0
        return self.now_s

    def recover(self, children: Sequence[ChildSa], path: Path) -> int:
        """The kernel's answer to an earlier daemon's death."""
        self.recovered.append((children[0].spi_in, path))
        return self.silent

    def places(self, reqids: Iterable[int]) -> tuple[tuple[int, tuple[IPAddress, IPAddress]], ...]:
        """Where the policies for what goes out are."""
        return tuple((reqid, WHERE.addresses) for reqid in dict.fromkeys(reqids))

    def paths(self, spis: Iterable[int], own: Collection[IPAddress] = ()) -> tuple[tuple[int, Path], ...]:
        """The kernel."""
        self.asked.append(list(spis))
        self.own.append(set(own))
        self.clock()
        if self.refused:
            raise KernelRefused("states", errno.ENOBUFS)
        return tuple((spi, self.where[spi]) for spi in self.asked[-1] if spi in self.where)

    @property
    def listed(self) -> list[IkeSasListed]:
        """The listings that were told."""
        return [event for event in self.events if isinstance(event, IkeSasListed)]

    async def connect(self) -> None:
        """There is a charon, and it was listed."""
        before = len(self.listed)
        self.lister.heard(event(EventKind.CONNECTED))
        await until(lambda: len(self.listed) > before)


def listing(story: Callable[[Desk], Awaitable[None]], desk: Desk | None = None) -> None:
    """Run a story with a lister that runs."""

    async def run() -> None:
        own = desk or Desk()
        task = asyncio.create_task(own.lister.run())
        try:
            async with asyncio.timeout(20):
                await story(own)
            assert not task.done(), "it runs until it is cancelled"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def quiet() -> None:
    """Let all that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_nothing_is_asked_before_there_is_a_reason() -> None:
    async def story(desk: Desk) -> None:
        await quiet()
        assert desk.charon.commands == []
        assert not desk.lister.connected

    listing(story)


def test_a_connection_has_everything_listed_with_the_paths_of_the_kernel() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        (listed,) = desk.listed
        assert (listed.sas, listed.complete, listed.kernel_paths) == ((ONE, TWO), True, ((SPI_UP, WHERE),))
        assert dict(listed.policy_places) == {child.reqid: WHERE.addresses for child in ONE.children}
        assert desk.asked == [[SPI_UP, 0xC0000002]]
        assert desk.recovered == [(SPI_UP, WHERE)], "once, where the kernel has a state"
        assert listed.at_s == desk.now_s, "stamped after both were read"
        assert (desk.lister.connected, desk.lister.version) == (True, "5.9.8")

    listing(story)


def test_states_left_silent_by_a_killed_daemon_are_woken_once_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        desk.silent = 1
        await desk.connect()
        await desk.connect()
        assert desk.recovered == [(SPI_UP, WHERE)]

    listing(story)
    assert [record.message for record in caplog.records if "sent nothing" in record.message] == [
        "net: 1 states sent nothing since a move that was not finished"
    ]


@pytest.mark.parametrize(
    "kind", [EventKind.IKE_UPDOWN, EventKind.IKE_UPDATE, EventKind.CHILD_UPDOWN, EventKind.CHILD_REKEY]
)
def test_an_event_has_its_ike_sa_listed_and_believes_only_the_listing(kind: EventKind) -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.lister.heard(event(kind, replace(TWO, name="lie")))
        await until(lambda: len(desk.listed) == 2)
        listed = desk.listed[1]
        assert (listed.sas, listed.complete) == ((TWO,), False)
        assert desk.charon.commands[-1] == ("list-sas", 2)

    listing(story)


def test_a_rekey_has_both_ike_sas_looked_at() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        del desk.charon.sas[1]
        desk.lister.heard(event(EventKind.IKE_REKEY, TWO, ONE))
        await until(lambda: len(desk.events) == 3)
        listed, ended = desk.events[1:]
        assert isinstance(ended, IkeSaEnded), "the tunnel goes on with the new one before the old one ends"
        assert ended.unique_id == 1
        assert isinstance(listed, IkeSasListed)
        assert listed.sas == (TWO,)

    listing(story)


def test_what_the_core_asks_for_is_listed_together_and_what_is_not_there_is_told_with_it() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.lister.heard(event(EventKind.CHILD_UPDOWN, ONE))
        desk.lister.ask((2, 1))
        desk.lister.ask((7,))
        await until(lambda: len(desk.listed) == 2)
        await quiet()
        assert desk.charon.commands[2:] == [("list-sas", 1), ("list-sas", 2), ("list-sas", 7)]
        listed = desk.listed[-1]
        assert (listed.sas, listed.asked, listed.complete) == ((ONE, TWO), (1, 2, 7), False)
        assert (listed.wanted, desk.own) == (True, [set(), {WHERE.local.address}])
        assert not any(isinstance(event, IkeSaEnded) for event in desk.events)

    listing(story)


def test_of_what_the_core_asks_for_nothing_is_said_that_cannot_be_read() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        del desk.charon.sas[1]
        desk.charon.unreadable = 1
        desk.lister.ask((1,))
        await until(lambda: desk.charon.given("list-sas") == 2)
        await quiet()
        assert len(desk.events) == 1

    listing(story)


def test_an_ike_sa_that_is_not_listed_has_ended() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.charon.sas.clear()
        desk.lister.heard(event(EventKind.IKE_UPDOWN, ONE, up=False))
        await until(lambda: len(desk.events) == 2)
        assert isinstance(desk.events[1], IkeSaEnded)

    listing(story)


def test_an_ike_sa_that_cannot_be_read_has_not_ended() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.charon.sas.clear()
        desk.charon.unreadable = 1
        desk.lister.heard(event(EventKind.IKE_UPDOWN, ONE))
        await until(lambda: desk.charon.given("list-sas") == 2)
        desk.lister.everything()
        await until(lambda: len(desk.listed) == 2)
        assert not any(isinstance(event, IkeSaEnded) for event in desk.events)

    listing(story)


def test_a_listing_of_which_a_part_cannot_be_read_is_not_complete() -> None:
    async def story(desk: Desk) -> None:
        desk.charon.unreadable = 1
        await desk.connect()
        assert not desk.listed[0].complete
        desk.charon.unreadable = 0
        await desk.connect()
        assert desk.listed[1].complete, "only what this listing left out counts"

    listing(story)


def test_an_event_that_cannot_be_read_has_everything_listed() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.lister.heard(event(EventKind.CHILD_UPDOWN))
        await until(lambda: len(desk.listed) == 2)
        assert desk.listed[1].complete

    listing(story)


def test_a_burst_of_events_costs_two_listings() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.charon.answering.clear()
        desk.lister.everything()
        await until(lambda: desk.charon.given("list-sas") == 2)
        for _ in range(100):
            desk.lister.heard(event(EventKind.CHILD_UPDOWN, ONE))
            desk.lister.everything()
        desk.charon.answering.set()
        await until(lambda: len(desk.listed) == 3)
        await quiet()
        assert desk.charon.given("list-sas") == 3
        assert all(listed.complete for listed in desk.listed)

    listing(story)


def test_many_events_of_one_ike_sa_cost_one_listing_of_it() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        for _ in range(100):
            desk.lister.heard(event(EventKind.CHILD_UPDOWN, ONE))
        await until(lambda: len(desk.listed) == 2)
        await quiet()
        assert desk.charon.commands[2:] == [("list-sas", 1)]

    listing(story)


def test_a_lost_charon_is_told_and_its_version_forgotten() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.lister.heard(event(EventKind.LOST))
        assert desk.events[1:] == [CharonLost(at_s=5.0)]
        assert (desk.lister.connected, desk.lister.version) == (False, "")
        await desk.connect()
        assert desk.charon.given("version") == 2
        assert (desk.lister.connected, desk.lister.version) == (True, "5.9.8")

    listing(story)


@pytest.mark.parametrize("error", [GONE, CharonRefused("list-sas", "busy")])
def test_a_failed_listing_is_repeated_while_charon_is_there(error: CharonGone | CharonRefused) -> None:
    async def story(desk: Desk) -> None:
        desk.charon.fail("list-sas", error)
        began_s = asyncio.get_running_loop().time()
        await desk.connect()
        assert desk.charon.given("list-sas") == 2
        assert asyncio.get_running_loop().time() - began_s >= RETRY_S * 0.9, "not in a busy loop"
        assert desk.listed[0].complete

    listing(story)


def test_a_failed_look_at_one_ike_sa_becomes_a_listing_of_all() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        desk.charon.fail("list-sas", GONE)
        desk.lister.heard(event(EventKind.IKE_UPDOWN, ONE))
        await until(lambda: len(desk.listed) == 2)
        assert desk.listed[1].complete

    listing(story)


def test_without_charon_nothing_is_asked_until_it_is_back() -> None:
    async def story(desk: Desk) -> None:
        desk.charon.fail("version", GONE)
        desk.lister.ask(())
        await until(lambda: desk.charon.given("version") == 1)
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(RETRY_S * 1.2, passed.set)
        await passed.wait()
        assert desk.charon.given("version") == 1
        await desk.connect()
        assert desk.listed[0].complete

    listing(story)


def test_paths_that_the_kernel_does_not_tell_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        desk.refused = True
        await desk.connect()
        assert desk.listed[0].kernel_paths == ()
        assert desk.listed[0].sas == (ONE, TWO)
        assert "reading the kernel's states failed: states: ENOBUFS" in caplog.text

    listing(story)


def test_the_kernel_is_not_asked_where_there_is_nothing_to_ask_for() -> None:
    async def story(desk: Desk) -> None:
        await desk.connect()
        assert desk.listed[0].sas == ()
        assert desk.asked == []

    listing(story, Desk(charon=FakeCommands()))


def updating(sa: IkeSa, spi_in: int = 0, spi_out: int = 0) -> IkeSa:
    """The IKE_SA as charon lists it while its CHILD_SAs follow a move: without their SPIs."""
    children = [replace(child, state="UPDATING", spi_in=spi_in, spi_out=spi_out) for child in sa.children]
    return replace(sa, children=tuple(children))


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("role", [Role.GATEWAY, Role.TERMINAL])
def test_a_child_sa_that_charon_is_moving_keeps_its_spis(role: Role, complete: bool) -> None:
    desk = negotiated(role)
    before = desk.tunnel
    effects = desk.listed(updating(ike_sa(role)), complete=complete)
    assert desk.tunnel.spis == before.spis
    assert desk.tunnel.children[0].spi_out == before.children[0].spi_out
    assert desk.core.table.by_spi(before.spis[0]) == desk.tunnel
    assert (desk.tunnel.capability, desk.tunnel.moves) == (before.capability, before.moves)
    assert some(Unwatch, effects) == []
    assert all(watch.spis == before.spis for watch in some(Watch, effects))
    desk.listed(ike_sa(role), complete=complete)
    assert desk.tunnel.sas == before.sas


def test_a_child_sa_that_is_moved_keeps_its_spis_when_its_ike_sa_was_rekeyed_meanwhile() -> None:
    desk = negotiated(Role.GATEWAY)
    before = desk.tunnel
    desk.listed(updating(ike_sa(Role.GATEWAY, unique_id=9, ike_spis=(0x33, 0x44))))
    assert desk.tunnel.spis == before.spis
    assert desk.tunnel.capability is before.capability
    assert [sa.unique_id for sa in desk.tunnel.sas] == [9]


def test_spis_that_charon_tells_are_believed_also_while_it_moves_a_child_sa() -> None:
    desk = negotiated(Role.GATEWAY)
    desk.listed(updating(ike_sa(Role.GATEWAY), spi_in=0xC0000009, spi_out=0xD0000009))
    assert desk.tunnel.spis == (0xC0000009,)


def test_spis_of_another_child_sa_are_not_borrowed() -> None:
    desk = negotiated(Role.GATEWAY)
    sa = updating(ike_sa(Role.GATEWAY))
    other = replace(sa, children=(replace(sa.children[0], unique_id=77),))
    desk.listed(other)
    desk.later(BARE_S)
    desk.listed(other)
    assert len(desk.core.table) == 0


def test_a_child_sa_without_spis_in_any_other_state_carries_nothing() -> None:
    desk = negotiated(Role.GATEWAY)
    sa = updating(ike_sa(Role.GATEWAY))
    silent = replace(sa, children=(replace(sa.children[0], state="INSTALLED"),))
    desk.listed(silent)
    desk.later(BARE_S)
    desk.listed(silent)
    assert len(desk.core.table) == 0


def test_a_child_sa_that_was_never_seen_with_spis_is_left_out_until_it_is() -> None:
    desk = CoreDesk(Role.GATEWAY)
    desk.listed(updating(ike_sa(Role.GATEWAY)))
    assert len(desk.core.table) == 0
    desk.listed(ike_sa(Role.GATEWAY))
    assert desk.tunnel.spis == (SPI_UP,)
