"""Carries out what the core wants done, and brings the results back to it as events.

Kernel work is done at once, in the order of the effects: a netlink request is answered within the system call, and a
packet is waiting. What has to wait for charon becomes a task of the daemon's; hooks and the disk have threads of their
own.
"""

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, assert_never

from swanroam.app.ports import Charon, Decisions, Filter, Hooks, Keeper, Kept, Kernel, Queue, Sender, Verifier
from swanroam.errors import CharonError, CharonRefused, KernelRefused
from swanroam.model.effects import (
    AlignStates,
    CapabilityChanged,
    DeleteChild,
    DeleteStates,
    DropAddress,
    Effect,
    Forget,
    GiveVerdict,
    HoldInner,
    InformCharon,
    KeepAddress,
    LeftAlone,
    ListIkeSas,
    LookForStates,
    MoveStates,
    PacketRejected,
    Persist,
    Reestablish,
    RekeyChild,
    ReleaseInner,
    RemindCharon,
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
    ConnectionUnknown,
    Event,
    MoveFinished,
    MoveRefused,
    PacketHeld,
    Reason,
    StatesLookedFor,
    TimerExpired,
    TimerId,
)
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import ChildSa, TunnelKey
from swanroam.wire.control import encode
from swanroam.wire.esppacket import EspPacket

__all__ = ["Performer", "World"]

log = logging.getLogger(__name__)

SEND_RETRY_S: Final = 0.002
SEND_RETRY_FOR_S: Final = 0.15
TRANSIENT: Final = frozenset(
    {
        errno.EPERM,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.EOVERFLOW,
    }
)
"""While charon follows a move, its drop policy, the route and the virtual IP come and go; while a state is moved, it
does not send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything effects act on."""

    kernel: Kernel
    kept: Kept
    verifier: Verifier
    filter: Filter
    queue: Queue
    sender: Sender
    charon: Charon
    hooks: Hooks
    keeper: Keeper
    clock: Callable[[], float]
    """Monotonic seconds."""
    release: Callable[[Watch], None]
    """Let held packets go on that are to be let through by this."""
    repair: Callable[[], None]
    """Have the rules of the packet filter installed anew soon."""
    relist: Callable[[Collection[int]], None]
    """Have IKE_SAs listed soon, by their unique ids; all where none are named."""
    present: Callable[[IPAddress], bool]
    """Whether this machine has an address, and it works."""
    spawn: Callable[[str, Coroutine[None, None, None]], None]
    """Run a task of this name in the daemon's task group."""


class Performer:
    """The core's hands. Everything is called in the event loop's thread."""

    def __init__(self, core: Decisions, world: World, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self.world = world
        self._loop = loop
        self._events: deque[Event] = deque()
        self._busy = False
        self._packets: dict[int, EspPacket] = {}
        # By inner address: how what waits on its way to a terminal, or into one, goes on, in its order.
        self._waiting: dict[IPAddress, list[Callable[[], None]]] = {}
        self._timers: dict[TimerId, asyncio.TimerHandle] = {}

    def dispatch(self, event: Event) -> None:
        """Hand an event to the core and do what follows from it, and from that."""
        self._events.append(event)
        self._follow()

    def hold(self, packet_id: int, packet: EspPacket) -> None:
        """A packet waits in the queue for its verdict."""
        self._packets[packet_id] = packet
        self.dispatch(
            PacketHeld(
                at_s=self.world.clock(),
                packet_id=packet_id,
                source=packet.source,
                destination=packet.destination,
                spi=packet.spi,
                port=packet.port,
            )
        )

    def wait(self, inner: IPAddress, go: Callable[[], None]) -> None:
        """A packet for a terminal waits until charon has followed; it goes on at once where it has meanwhile."""
        if inner in self._waiting:
            self._waiting[inner].append(go)
        else:
            go()

    def perform(self, effects: tuple[Effect, ...]) -> None:
        """Do all of this, in this order, and what follows. What the kernel refuses is logged; the rest is done."""
        self._do(effects)
        self._follow()

    async def rebuild(self, effects: Iterable[Effect], within_s: float) -> None:
        """Have charon build anew what of these effects says so, and wait for its answers for so long."""
        tasks = [asyncio.create_task(self._reestablish(each)) for each in effects if isinstance(each, Reestablish)]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                task.cancel()

    def close(self) -> None:
        """Stop all timers and let all held packets go on."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for packet_id in tuple(self._packets):
            self.perform((GiveVerdict(packet_id=packet_id),))
        self._go_on(tuple(self._waiting))

    def _follow(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._do(self._core.step(self._events.popleft()))
        finally:
            self._busy = False

    def _do(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            try:
                self._perform(effect)
            except KernelRefused as error:
                log.warning("%s failed: %s", type(effect).__name__, error)
                if isinstance(effect, Watch | Unwatch):
                    self.world.repair()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case GiveVerdict(packet_id=packet_id, accept=accept):
                self._packets.pop(packet_id, None)
                self.world.queue.verdict(packet_id, accept=accept)
            case VerifyPacket(packet_id=packet_id, destination=place):
                packet = replace(self._packets[packet_id], destination=place)
                verified = self.world.verifier.verify(packet_id, packet, self.world.clock())
                self._events.append(verified)
            case MoveStates() | KeepAddress():
                self._events.append(self._move(effect))
            case DropAddress(key=key):
                self.world.kept.drop(key)
            case HoldInner(inner=inner):
                self.world.kept.hold(inner)
            case ReleaseInner(inner=inner):
                self.world.kept.release(inner)
            case InformCharon():
                self.world.kernel.inform(
                    effect.children, effect.old, effect.new, silent=effect.silent, returning=effect.returning
                )
            case RemindCharon(children=children, path=path):
                self.world.kernel.remind(children, path)
            case AlignStates(key=key, children=children, old=old, path=path):
                with self._held_down(key):
                    self.world.kernel.align(children, old, path)
            case DeleteStates(children=children, inbound=inbound, outbound=outbound):
                self.world.kernel.forget(children, inbound, outbound)
            case LookForStates(key=key, children=children, places=places):
                self._events.append(
                    StatesLookedFor(at_s=self.world.clock(), key=key, lost=self._lost(children, places))
                )
            case Watch():
                self._watch(effect)
            case Unwatch(key=key):
                self._go_on(key.inner)
                self.world.filter.unwatch(key)
            case SendMessage(source=source, destination=destination, message=message):
                data = encode(message)
                self._send(lambda: self.world.sender.send(source, destination, data), effect.key)
            case SendDummy(source=source, destination=destination):
                self._send(lambda: self.world.sender.send_dummy(source, destination), effect.key)
            case StartTimer(timer=timer, delay_s=delay_s):
                self._stop(timer)
                self._timers[timer] = self._loop.call_later(delay_s, self._expire, timer)
            case StopTimer(timer=timer):
                self._stop(timer)
            case Reestablish():
                self.world.spawn(f"reestablish {effect.key}", self._reestablish(effect))
            case RekeyChild(unique_id=unique_id):
                self.world.spawn(f"rekey {effect.key}", self._rekey(effect.key, unique_id))
            case DeleteChild(unique_id=unique_id):
                self.world.spawn(f"delete of {effect.key}", self._delete(effect.key, unique_id))
            case ListIkeSas(unique_ids=unique_ids):
                self.world.relist(unique_ids)
            case Persist(key=key):
                self.world.keeper.persist(key)
            case Forget(key=key):
                self.world.keeper.forget(key)
            case LeftAlone(name=name, reason=reason):
                log.info("%s: left alone: %s", name, reason)
            case TunnelMoved() | CapabilityChanged() | PacketRejected():
                self.world.hooks.announce(effect)
            case _:
                assert_never(effect)

    def _lost(self, children: tuple[ChildSa, ...], places: tuple[IPAddress, ...]) -> tuple[int, ...]:
        try:
            return self.world.kernel.lost(children, places)
        except KernelRefused as error:
            log.warning("looking for states failed: %s", error)
            return ()  # what is not known is not asked for again and again

    def _watch(self, watch: Watch) -> None:
        if watch.sources:
            self.world.release(watch)
        if watch.waiting or watch.vacant:
            self._waiting |= {address: [] for address in watch.inner if address not in self._waiting}
        else:
            self._go_on(watch.inner)  # before others pass by
        self.world.filter.watch(watch)
        if watch.sources:
            self.world.release(watch)

    def _go_on(self, inner: Iterable[IPAddress]) -> None:
        for address in inner:
            for go in self._waiting.pop(address, ()):
                go()

    def _move(self, effect: MoveStates | KeepAddress) -> MoveFinished | MoveRefused:
        began_s = self.world.clock()
        # What returns a tunnel to the path that was proven last is no move that anybody wants.
        asked = effect.trigger is not Trigger.REVERT
        veto = self.world.hooks.veto_move(effect.key, effect.old, effect.new) if asked else None
        reason, detail = Reason.VETOED, veto or ""
        if veto is None:
            try:
                self._relocate(effect)
            except KernelRefused as error:
                reason, detail = Reason.KERNEL_REFUSED, str(error)
            else:
                now_s = self.world.clock()
                return MoveFinished(
                    at_s=now_s, key=effect.key, old=effect.old, new=effect.new, duration_s=now_s - began_s
                )
        return MoveRefused(
            at_s=self.world.clock(), key=effect.key, old=effect.old, new=effect.new, reason=reason, detail=detail
        )

    def _relocate(self, effect: MoveStates | KeepAddress) -> None:
        if isinstance(effect, MoveStates):
            with self._held_down(effect.key):
                self.world.kernel.move(effect.children, effect.old, effect.new)
        elif effect.new.local.address == effect.kept:
            self.world.kept.drop(effect.key)
        else:
            self.world.kept.keep(effect.key, effect.kept, effect.new.local.address, effect.new.remote.address)

    @contextmanager
    def _held_down(self, key: TunnelKey) -> Iterator[None]:
        """Packets for a terminal wait: its states do not send while they are moved, and a router does not try again."""
        self._filter(self.world.filter.hold_down, key)
        try:
            yield
        finally:
            self._filter(self.world.filter.let_down, key)

    def _filter(self, change: Callable[[TunnelKey], None], key: TunnelKey) -> None:
        try:
            change(key)
        except KernelRefused as error:
            log.warning("%s: %s", key, error)
            self.world.repair()

    def _send(self, send: Callable[[], None], key: TunnelKey, waited_s: float = 0.0) -> None:
        problem = self._try(send)
        if problem is not None and problem.code in TRANSIENT and waited_s < SEND_RETRY_FOR_S:
            self._loop.call_later(SEND_RETRY_S, self._send, send, key, waited_s + SEND_RETRY_S)
        elif problem is not None:
            log.info("%s: sending through the tunnel failed: %s", key, problem)

    def _try(self, send: Callable[[], None]) -> KernelRefused | None:
        if not self.world.filter.present:
            # The rule that keeps a message from leaving in clear is gone too.
            return KernelRefused("send without the packet filter", errno.EAGAIN)
        try:
            send()
        except KernelRefused as error:
            return error
        return None

    def _stop(self, timer: TimerId) -> None:
        handle = self._timers.pop(timer, None)
        if handle is not None:
            handle.cancel()

    def _expire(self, timer: TimerId) -> None:
        del self._timers[timer]
        self.dispatch(TimerExpired(at_s=self.world.clock(), timer=timer))

    async def _reestablish(self, effect: Reestablish) -> None:
        try:
            sas = await self.world.charon.list_sas()
            connecting = {
                sa.unique_id: sa.local.address for sa in sas if sa.connecting and sa.name == effect.connection
            }
            stuck = [unique_id for unique_id, source in connecting.items() if not self.world.present(source)]
            for unique_id in (*effect.unique_ids, *stuck):
                await self._terminate(unique_id)
            if len(connecting) > len(stuck):
                log.info("%s: charon is building %s by now", effect.key, effect.connection)
                return
            log.warning("%s: asking charon to build %s anew", effect.key, effect.connection)
            # charon has those that follow wait for the first one's IKE_SA (ike_sa_manager.c, checkout_by_config).
            known = [await self._initiate(child, effect.connection) for child in effect.children]
        except CharonError as error:
            log.warning("%s: building it anew failed: %s", effect.key, error)
            return
        if not any(known):
            log.warning("%s: charon does not know %s any more: not asked again", effect.key, effect.connection)
            self.dispatch(ConnectionUnknown(at_s=self.world.clock(), connection=effect.connection))

    async def _initiate(self, child: str, connection: str) -> bool:
        """Whether charon knows the CHILD_SA; one that it refuses does not keep the others from being built."""
        try:
            await self.world.charon.initiate(child, connection)
        except CharonRefused as error:
            log.warning("%s", error)
            return not error.unknown
        return True

    async def _rekey(self, key: TunnelKey, unique_id: int) -> None:
        log.warning("%s: the kernel's state of CHILD_SA %d is gone: asking charon to rekey it", key, unique_id)
        try:
            await self.world.charon.rekey_child(unique_id)
        except CharonError as error:
            log.warning("%s: rekeying it failed: %s", key, error)

    async def _delete(self, key: TunnelKey, unique_id: int) -> None:
        log.debug("%s: asking charon to delete CHILD_SA %d, which was rekeyed", key, unique_id)
        try:
            await self.world.charon.terminate_child(unique_id)
        except CharonError as error:
            log.info("%s: deleting CHILD_SA %d failed: %s", key, unique_id, error)

    async def _terminate(self, unique_id: int) -> None:
        try:
            await self.world.charon.terminate(unique_id, force=True)
        except CharonRefused as error:
            log.info("%s", error)  # it ended by itself meanwhile, which is no reason not to build it anew
