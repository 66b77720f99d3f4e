"""What carries effects out: in order, one failure apart from the others, with results that come back as events."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address

import pytest

from swanroam.app.config import Config
from swanroam.app.performer import SEND_RETRY_FOR_S, SEND_RETRY_S, Performer, World
from swanroam.errors import CharonGone, CharonRefused
from swanroam.model.effects import (
    AlignStates,
    CapabilityChanged,
    DeleteChild,
    Effect,
    Forget,
    GiveVerdict,
    InformCharon,
    LeftAlone,
    ListIkeSas,
    LookForStates,
    MoveStates,
    PacketRejected,
    Persist,
    Reestablish,
    RekeyChild,
    SendDummy,
    SendMessage,
    StartTimer,
    StopTimer,
    Trigger,
    TunnelMoved,
    Unwatch,
    VerifyPacket,
    Watch,
)
from swanroam.model.events import (
    CharonLost,
    ConnectionUnknown,
    Event,
    MoveFinished,
    MoveRefused,
    PacketHeld,
    PacketVerified,
    Reason,
    StatesLookedFor,
    TimerExpired,
    TimerId,
    TimerKind,
)
from swanroam.model.messages import PathChallenge
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, Role, TunnelKey
from swanroam.wire.control import decode
from swanroam.wire.esppacket import EspPacket
from tests.fakes.commands import FakeCommands
from tests.fakes.machine import Machine
from tests.fakes.vici_contract import until
from tests.support.values import FIRST_SERVER, GATEWAY, INNER, KEY, SPI_UP, A, B, child, ike_sa, path, settings

CHILDREN = (child(Role.GATEWAY),)
OLD, NEW = path(Role.GATEWAY, A), path(Role.GATEWAY, B)
MOVE = MoveStates(key=KEY, children=CHILDREN, old=OLD, new=NEW, trigger=Trigger.PACKET)
INFORM = InformCharon(key=KEY, children=CHILDREN, old=OLD, new=NEW)
SEND = SendMessage(key=KEY, source=FIRST_SERVER, destination=INNER, message=PathChallenge(nonce=bytes(16)))
DUMMY = SendDummy(key=KEY, source=INNER, destination=FIRST_SERVER)
WATCH = Watch(key=KEY, inner=(INNER,), spis=(SPI_UP,))
REBUILD = Reestablish(key=KEY, connection="home", unique_ids=(3, 4), children=("net", "voice"))
LISTED = ("list-sas", None)
BUILT = [
    LISTED,
    ("terminate", 3, True),
    ("terminate", 4, True),
    ("initiate", "net", "home"),
    ("initiate", "voice", "home"),
]
PACKET = EspPacket(B, GATEWAY, SPI_UP, 7, b"\xc0\0\0\1\0\0\0\7")
HELLO = TimerId(KEY, TimerKind.HELLO)
SETTLE = TimerId(KEY, TimerKind.SETTLE)


@dataclass(slots=True)
class Desk:
    """A performer, the machine it works on, and a core that answers with effects by the type of the event."""

    machine: Machine = field(default_factory=Machine)
    charon: FakeCommands = field(default_factory=FakeCommands)
    events: list[Event] = field(default_factory=list)
    answers: dict[type[Event], tuple[Effect, ...]] = field(default_factory=dict)
    tasks: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    now_s: float = 1000.0
    absent: set[IPAddress] = field(default_factory=set)
    performer: Performer = field(init=False)

    def __post_init__(self) -> None:
        self.machine.filter.whole = True
        world = World(
            kernel=self.machine.kernel,
            kept=self.machine.kept,
            verifier=self,
            filter=self.machine.filter,
            queue=self.machine.queue,
            sender=self.machine.sender,
            charon=self.charon,
            hooks=self.machine.adapters().hooks(config()),
            keeper=self,
            clock=self.clock,
            release=lambda watch: self.machine.noted.append(("release", watch.key)),
            repair=lambda: self.machine.noted.append(("repair",)),
            relist=lambda unique_ids: self.machine.noted.append(("relist", *unique_ids)),
            present=lambda address: address not in self.absent,
            spawn=self.spawn,
        )
        self.performer = Performer(self, world, asyncio.get_running_loop())

    def clock(self) -> float:
        """Each look takes a millisecond."""
        self.now_s += 0.001
        return self.now_s

    def step(self, event: Event) -> tuple[Effect, ...]:
        """The core."""
        self.events.append(event)
        return self.answers.get(type(event), ())

    def verify(self, packet_id: int, packet: EspPacket, at_s: float) -> PacketVerified:
        """The verifier."""
        self.machine.noted.append(("verify", packet_id, packet))
        return PacketVerified(at_s=at_s, packet_id=packet_id, reason=None, sequence=packet.sequence)

    def persist(self, key: TunnelKey) -> None:
        """The keeper."""
        self.machine.noted.append(("persist", key))

    def forget(self, key: TunnelKey) -> None:
        """The keeper."""
        self.machine.noted.append(("forget", key))

    def spawn(self, name: str, work: Coroutine[None, None, None]) -> None:
        """The daemon."""
        self.tasks[name] = asyncio.get_running_loop().create_task(work)

    async def finished(self) -> None:
        """The tasks are done."""
        await asyncio.gather(*self.tasks.values())

    def of(self, kind: type[Event]) -> list[Event]:
        """The events of a kind."""
        return [event for event in self.events if type(event) is kind]


def config() -> Config:
    return Config(settings=settings(Role.GATEWAY))


def working(story: Callable[[Desk], Awaitable[None]]) -> Desk:
    """Run a story."""

    async def run() -> Desk:
        desk = Desk()
        try:
            async with asyncio.timeout(20):
                await story(desk)
        finally:
            desk.performer.close()
            desk.machine.close()
        return desk

    return asyncio.run(run())


def test_every_effect_is_done_in_the_order_of_the_effects() -> None:
    moved = TunnelMoved(key=KEY, old=OLD, new=NEW, trigger=Trigger.PACKET, duration_s=0.1)
    changed = CapabilityChanged(key=KEY, capability=Capability.NEGOTIATED)
    rejected = PacketRejected(key=None, reason=Reason.UNKNOWN_SPI, source=None)

    async def story(desk: Desk) -> None:
        desk.performer.hold(5, PACKET)
        effects = (WATCH, MOVE, GiveVerdict(packet_id=5), INFORM, SEND, moved, Persist(KEY), DUMMY, ListIkeSas((3, 4)))
        desk.performer.perform((*effects, changed, rejected, Forget(KEY), Unwatch(KEY)))
        assert desk.machine.noted == [
            ("watch", KEY),
            ("hold down", KEY),
            ("move", OLD, NEW),
            ("let down", KEY),
            ("verdict", 5, True),
            ("inform", OLD, NEW),
            ("send", INNER),
            ("announce", "TunnelMoved"),
            ("persist", KEY),
            ("send_dummy", FIRST_SERVER),
            ("relist", 3, 4),
            ("announce", "CapabilityChanged"),
            ("announce", "PacketRejected"),
            ("forget", KEY),
            ("unwatch", KEY),
        ]
        assert desk.machine.hooks[0].announced == [moved, changed, rejected]

    working(story)


def test_a_message_is_sent_as_bytes_between_its_addresses() -> None:
    async def story(desk: Desk) -> None:
        desk.performer.perform((SEND,))
        ((source, destination, data),) = desk.machine.sender.sent
        assert (source, destination, decode(data)) == (SEND.source, SEND.destination, SEND.message)

    working(story)


def test_a_held_packet_becomes_an_event_and_is_verified_with_its_bytes() -> None:
    async def story(desk: Desk) -> None:
        desk.answers[PacketHeld] = (VerifyPacket(packet_id=5, destination=GATEWAY, spi=SPI_UP),)
        desk.performer.hold(5, PACKET)
        held, verified = desk.events
        assert isinstance(held, PacketHeld)
        assert (held.packet_id, held.source, held.destination, held.spi) == (5, B, GATEWAY, SPI_UP)
        assert isinstance(verified, PacketVerified)
        assert (verified.packet_id, verified.sequence) == (5, 7)
        assert verified.at_s > held.at_s > 1000.0
        assert ("verify", 5, PACKET) in desk.machine.noted

    working(story)


def test_a_move_comes_back_as_an_event_with_the_time_that_it_took() -> None:
    async def story(desk: Desk) -> None:
        desk.performer.perform((MOVE,))
        (event,) = desk.events
        assert isinstance(event, MoveFinished)
        assert (event.key, event.old, event.new) == (KEY, OLD, NEW)
        assert event.duration_s == pytest.approx(0.001)
        assert event.at_s == desk.now_s

    working(story)


def test_a_move_that_the_kernel_refuses_comes_back_with_its_words() -> None:
    async def story(desk: Desk) -> None:
        desk.machine.kernel.refuse("move", errno.ESRCH)
        desk.performer.perform((MOVE,))
        (event,) = desk.events
        assert isinstance(event, MoveRefused)
        assert (event.key, event.old, event.new, event.reason) == (KEY, OLD, NEW, Reason.KERNEL_REFUSED)
        assert "ESRCH" in event.detail

    working(story)


def test_a_veto_comes_back_with_its_reason_and_nothing_is_moved() -> None:
    async def story(desk: Desk) -> None:
        desk.machine.hooks[0].veto = "metered: no roaming on mobile links"
        desk.performer.perform((MOVE,))
        (event,) = desk.events
        assert isinstance(event, MoveRefused)
        assert (event.reason, event.detail) == (Reason.VETOED, "metered: no roaming on mobile links")
        assert desk.machine.done("move") == []

    working(story)


def test_hooks_are_not_asked_about_a_return_to_what_was_proven() -> None:
    async def story(desk: Desk) -> None:
        desk.machine.hooks[0].veto = "metered: no roaming on mobile links"
        desk.performer.perform((replace(MOVE, trigger=Trigger.REVERT),))
        assert desk.machine.done("move") == ["move"]

    working(story)


@pytest.mark.parametrize("refused", [WATCH, Unwatch(KEY)])
def test_sets_that_the_kernel_refuses_to_change_are_repaired(refused: Effect) -> None:
    async def story(desk: Desk) -> None:
        desk.machine.filter.refuse("watch", errno.ENOBUFS)
        desk.machine.filter.refuse("unwatch", errno.ENOBUFS)
        desk.performer.perform((refused, Persist(KEY)))
        assert desk.machine.done("repair", "persist") == ["repair", "persist"]

    working(story)


def test_nothing_is_sent_while_the_rules_are_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def story(desk: Desk) -> None:
        desk.machine.filter.whole = False
        desk.performer.perform((SEND,))
        await until(lambda: "sending through the tunnel failed: send without the packet filter" in caplog.text)
        assert desk.machine.done("send") == []
        desk.performer.perform((DUMMY,))
        desk.machine.filter.whole = True
        await until(lambda: len(desk.machine.sender.sent) == 1)

    working(story)


@pytest.mark.parametrize(
    ("operation", "refused"),
    [("inform", INFORM), ("verdict", GiveVerdict(packet_id=1))],
)
def test_what_the_kernel_refuses_keeps_nothing_else_from_being_done(
    operation: str, refused: Effect, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(desk: Desk) -> None:
        for part in (desk.machine.kernel, desk.machine.queue):
            part.refuse(operation, errno.EBUSY)
        desk.performer.perform((refused, Persist(KEY), SEND))
        assert desk.machine.done() == [operation, "persist", "send"]
        assert f"{type(refused).__name__} failed: {operation}: EBUSY" in caplog.text

    working(story)


def test_what_follows_from_an_event_is_done_before_the_next_event() -> None:
    async def story(desk: Desk) -> None:
        desk.answers[CharonLost] = (MOVE, Persist(KEY))
        desk.answers[MoveFinished] = (INFORM,)
        desk.performer.dispatch(CharonLost(at_s=1.0))
        assert desk.machine.done() == ["hold down", "move", "let down", "persist", "inform"]
        assert [type(event) for event in desk.events] == [CharonLost, MoveFinished]

    working(story)


def test_what_follows_from_effects_without_an_event_is_done_as_well() -> None:
    async def story(desk: Desk) -> None:
        desk.answers[MoveFinished] = (INFORM,)
        desk.performer.perform((MOVE,))
        assert desk.machine.done() == ["hold down", "move", "let down", "inform"]

    working(story)


def test_a_defect_in_one_step_does_not_stop_the_steps_after_it() -> None:
    async def story(desk: Desk) -> None:
        desk.answers[CharonLost] = (VerifyPacket(packet_id=99, destination=GATEWAY, spi=SPI_UP),)
        with pytest.raises(KeyError):
            desk.performer.dispatch(CharonLost(at_s=1.0))
        desk.performer.hold(5, PACKET)
        assert desk.of(PacketHeld)

    working(story)


@pytest.mark.parametrize("effect", [SEND, DUMMY])
def test_sending_is_tried_again_while_charon_replaces_policies(effect: Effect) -> None:
    async def story(desk: Desk) -> None:
        desk.machine.sender.refuse("send", errno.EPERM, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
        desk.machine.sender.refuse("send_dummy", errno.EPERM, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
        desk.performer.perform((effect, Persist(KEY)))
        assert desk.machine.done("persist") == ["persist"], "others do not wait for it"
        await until(lambda: len(desk.machine.sender.sent) == 1)
        assert len(desk.machine.done("send", "send_dummy")) == 4

    working(story)


def test_what_is_left_alone_is_logged_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def story(desk: Desk) -> None:
        desk.performer.perform((LeftAlone(name="site", inner=(), reason="it has no virtual IP"),))

    working(story)
    assert "site: left alone: it has no virtual IP" in caplog.text


def test_sending_is_given_up_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def story(desk: Desk) -> None:
        desk.machine.sender.refuse("send", *[errno.EPERM] * 1000)
        desk.performer.perform((SEND,))
        await until(lambda: "sending through the tunnel failed" in caplog.text)
        tries = len(desk.machine.done("send"))
        assert tries == pytest.approx(SEND_RETRY_FOR_S / SEND_RETRY_S + 1, abs=2)
        assert desk.machine.sender.sent == []

    working(story)


def test_sending_that_cannot_succeed_is_given_up_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def story(desk: Desk) -> None:
        desk.machine.sender.refuse("send", errno.EMSGSIZE)
        desk.performer.perform((SEND,))
        assert "EMSGSIZE" in caplog.text
        assert desk.machine.done("send") == ["send"]

    working(story)


def test_a_timer_that_ran_out_is_an_event_and_runs_no_more() -> None:
    async def story(desk: Desk) -> None:
        desk.performer.perform((StartTimer(timer=HELLO, delay_s=0.001), StartTimer(timer=SETTLE, delay_s=0.003)))
        await until(lambda: len(desk.events) == 2)
        assert [event.timer for event in desk.events if isinstance(event, TimerExpired)] == [HELLO, SETTLE]
        desk.performer.perform((StopTimer(HELLO),))

    working(story)


def test_a_timer_that_is_started_again_is_replaced() -> None:
    async def story(desk: Desk) -> None:
        desk.performer.perform((StartTimer(timer=HELLO, delay_s=0.001), StartTimer(timer=HELLO, delay_s=0.02)))
        desk.performer.perform((StartTimer(timer=SETTLE, delay_s=0.01),))
        await until(lambda: len(desk.events) == 2)
        assert [event.timer for event in desk.events if isinstance(event, TimerExpired)] == [SETTLE, HELLO]

    working(story)


def test_a_timer_that_was_stopped_or_closed_tells_nothing() -> None:
    async def story(desk: Desk) -> None:
        other = TimerId(TunnelKey("other", (IPv4Address("10.3.0.9"),)), TimerKind.HELLO)
        desk.performer.perform((StartTimer(timer=HELLO, delay_s=0.001), StopTimer(HELLO), StopTimer(SETTLE)))
        desk.performer.perform((StartTimer(timer=other, delay_s=0.002),))
        await until(lambda: bool(desk.events))
        assert [event.timer for event in desk.events if isinstance(event, TimerExpired)] == [other]
        desk.performer.perform((StartTimer(timer=HELLO, delay_s=0.001),))
        desk.performer.close()
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, passed.set)
        await passed.wait()
        assert len(desk.events) == 1

    working(story)


def test_closing_lets_every_held_packet_go_on() -> None:
    async def story(desk: Desk) -> None:
        for packet_id in (5, 6, 7):
            desk.performer.hold(packet_id, PACKET)
        desk.performer.perform((GiveVerdict(packet_id=6, accept=False),))
        desk.machine.queue.refuse("verdict", errno.ENOBUFS)
        desk.performer.close()
        desk.performer.close()
        assert desk.machine.noted == [("verdict", 6, False), ("verdict", 5, True), ("verdict", 7, True)]

    working(story)


def test_a_tunnel_is_built_anew_after_its_ike_sas_are_ended() -> None:
    async def story(desk: Desk) -> None:
        desk.performer.perform((REBUILD, Persist(KEY)))
        assert desk.machine.done() == ["persist"]
        await desk.finished()
        assert desk.charon.commands == BUILT

    working(story)


def test_an_ike_sa_that_ended_by_itself_is_no_reason_not_to_build_it_anew() -> None:
    async def story(desk: Desk) -> None:
        desk.charon.fail("terminate", CharonRefused("terminate", "no matching SAs to terminate found"))
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert desk.charon.commands == BUILT

    working(story)


def test_a_child_sa_that_charon_refuses_to_initiate_is_logged_and_the_others_are_built(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(desk: Desk) -> None:
        desk.charon.fail("initiate", CharonRefused("initiate", "CHILD_SA config 'net' not found"))
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert "charon refused initiate: CHILD_SA config 'net' not found" in caplog.text
        assert desk.charon.commands == BUILT
        assert desk.events == []

    working(story)


def test_of_a_connection_that_was_unloaded_the_core_is_told() -> None:
    async def story(desk: Desk) -> None:
        unknown = (CharonRefused("initiate", f"CHILD_SA config '{name}' not found") for name in REBUILD.children)
        desk.charon.fail("initiate", *unknown)
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert [event.connection for event in desk.events if isinstance(event, ConnectionUnknown)] == ["home"]

    working(story)


def test_what_charon_refuses_for_another_reason_is_no_unloaded_connection() -> None:
    async def story(desk: Desk) -> None:
        failed = [CharonRefused("initiate", f"establishing CHILD_SA '{name}' failed") for name in REBUILD.children]
        desk.charon.fail("initiate", *failed)
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert desk.events == []

    working(story)


def test_one_that_charon_is_building_from_an_address_that_has_gone_is_ended_and_begun_again() -> None:
    async def story(desk: Desk) -> None:
        stuck = ike_sa(Role.TERMINAL, unique_id=5, state="CONNECTING", spis=())
        desk.charon.sas[5] = stuck
        desk.absent = {stuck.local.address}
        desk.performer.perform((REBUILD,))
        await desk.finished()
        ended = [("terminate", 3, True), ("terminate", 4, True), ("terminate", 5, True)]
        begun = [("initiate", child, "home") for child in REBUILD.children]
        assert desk.charon.commands == [("list-sas", None), *ended, *begun]

    working(story)


@pytest.mark.parametrize("state", ["CREATED", "CONNECTING"])
def test_what_charon_is_building_already_is_not_built_once_more(state: str) -> None:
    async def story(desk: Desk) -> None:
        desk.charon.sas[5] = ike_sa(Role.TERMINAL, unique_id=5, state=state, spis=())
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert desk.charon.commands == BUILT[:3]

    working(story)


def test_that_charon_builds_another_connection_is_no_reason_not_to_build_this_one() -> None:
    async def story(desk: Desk) -> None:
        desk.charon.sas[5] = ike_sa(Role.TERMINAL, unique_id=5, name="other", state="CONNECTING", spis=())
        desk.charon.sas[6] = ike_sa(Role.TERMINAL, unique_id=6)
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert desk.charon.commands == BUILT

    working(story)


@pytest.mark.parametrize("held", [replace(WATCH, waiting=(B,)), replace(WATCH, vacant=(B,))], ids=["waiting", "vacant"])
def test_what_comes_for_a_terminal_waits_while_charon_follows_and_goes_on_in_its_order(held: Watch) -> None:
    async def story(desk: Desk) -> None:
        down = desk.machine.queue.down
        desk.performer.wait(INNER, partial(desk.machine.queue.let_down, 1))
        assert down == [1], "nobody waits"
        desk.performer.perform((held,))
        for packet_id in (2, 3):
            desk.performer.wait(INNER, partial(desk.machine.queue.let_down, packet_id))
        desk.performer.wait(FIRST_SERVER, partial(desk.machine.queue.let_down, 4))
        assert down == [1, 4]
        desk.machine.filter.refuse("watch", errno.EBUSY)
        desk.performer.perform((WATCH,))
        assert down == [1, 4, 2, 3]
        desk.performer.perform((held,))
        desk.performer.wait(INNER, partial(desk.machine.queue.let_down, 5))
        desk.performer.perform((Unwatch(KEY),))
        assert down == [1, 4, 2, 3, 5]
        desk.performer.perform((held,))
        desk.performer.wait(INNER, partial(desk.machine.queue.let_down, 6))
        desk.performer.close()
        assert down == [1, 4, 2, 3, 5, 6]

    working(story)


@pytest.mark.parametrize("effect", [MOVE, AlignStates(key=KEY, children=CHILDREN, old=OLD, path=NEW)])
def test_what_comes_for_a_terminal_waits_while_its_states_are_moved(effect: Effect) -> None:
    async def story(desk: Desk) -> None:
        desk.performer.perform((effect,))
        before, moved, after = desk.machine.done()
        assert (before, after) == ("hold down", "let down")
        assert moved in ("move", "align")

    working(story)


def test_states_that_the_kernel_refuses_to_move_and_rules_that_it_refuses_to_change_keep_nothing_waiting() -> None:
    async def story(desk: Desk) -> None:
        desk.machine.filter.refuse("hold down", errno.ENOBUFS)
        desk.machine.kernel.refuse("move", errno.ESRCH)
        desk.performer.perform((MOVE,))
        assert desk.machine.done() == ["hold down", "repair", "move", "let down"]

    working(story)


def test_lost_states_are_told_and_charon_rekeys_what_it_is_asked_to(caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        desk.machine.kernel.gone = {CHILDREN[0].spi_out}
        desk.performer.perform(
            (LookForStates(key=KEY, children=CHILDREN, places=(A,)), RekeyChild(key=KEY, unique_id=5))
        )
        assert [event.lost for event in desk.events if isinstance(event, StatesLookedFor)] == [(CHILDREN[0].spi_out,)]
        await desk.finished()
        assert desk.charon.commands == [("rekey-child", 5)]
        desk.charon.fail("rekey-child", CharonRefused("rekey", "no matching SAs to rekey found"))
        desk.performer.perform((RekeyChild(key=KEY, unique_id=6),))
        await desk.finished()
        assert "rekeying it failed: charon refused rekey: no matching SAs to rekey found" in caplog.text

    working(story)


def test_charon_deletes_what_it_is_asked_to(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def story(desk: Desk) -> None:
        desk.charon.fail("terminate-child", CharonRefused("terminate", "no matching SAs to terminate found"))
        desk.performer.perform((DeleteChild(key=KEY, unique_id=5), DeleteChild(key=KEY, unique_id=6)))
        await desk.finished()
        assert desk.charon.commands == [("terminate-child", 5), ("terminate-child", 6)]
        assert "deleting CHILD_SA 5 failed: charon refused terminate: no matching SAs" in caplog.text
        assert "CHILD_SA 6" not in caplog.text

    working(story)


def test_before_the_end_tunnels_are_built_anew_within_a_time() -> None:
    async def story(desk: Desk) -> None:
        await desk.performer.rebuild((REBUILD, Persist(KEY)), 1.0)
        assert desk.charon.commands == BUILT
        assert desk.machine.done() == []
        await desk.performer.rebuild((), 0.0)
        desk.charon.answering.clear()
        await desk.performer.rebuild((REBUILD,), 0.01)
        assert desk.charon.commands == [*BUILT, LISTED], "charon answered too late"

    working(story)


@pytest.mark.parametrize("command", ["terminate", "initiate"])
def test_a_charon_that_is_gone_is_not_asked_further(command: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        desk.charon.fail(command, CharonGone("closed by charon"))
        desk.performer.perform((REBUILD,))
        await desk.finished()
        assert desk.charon.commands[-1][0] == command
        assert desk.charon.given(command) == 1
        assert "building it anew failed: closed by charon" in caplog.text

    working(story)
