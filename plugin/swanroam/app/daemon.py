"""The daemon: puts sources, core and performer together, and keeps them running until it is told to stop.

Everything but vici, hooks and the store happens in one thread. Signals: SIGTERM and SIGINT stop, SIGHUP reloads the
configuration. Stopping leaves every tunnel working and nothing of ours in the packet filter; those that need the daemon
charon builds anew (core/leaving.py).
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from swanroam.app import config as configuration
from swanroam.app import logs
from swanroam.app.adapters import Adapters
from swanroam.app.carrying import Carrier
from swanroam.app.config import Config
from swanroam.app.control import ControlServer
from swanroam.app.keeper import StoreKeeper, recall
from swanroam.app.late import sent_on
from swanroam.app.listing import Lister
from swanroam.app.performer import Performer, World
from swanroam.app.report import report
from swanroam.app.status import Status
from swanroam.app.store import Store
from swanroam.app.systemd import Notifier
from swanroam.app.verify import EspVerifier
from swanroam.charon.commands import CharonCommands
from swanroam.charon.events import CharonEvents
from swanroam.core.step import Core
from swanroam.errors import ConfigError, KernelRefused, Unsupported, WireError
from swanroam.kernel.policies import place_of
from swanroam.kernel.queue import CarriedIke, HeldDown, HeldEsp, LateEsp, Taken, TunnelMessage
from swanroam.model.effects import Effect, Persist, Reestablish, Watch
from swanroam.model.events import (
    Event,
    MessageMalformed,
    MessageReceived,
    PolicyInstalled,
    RepositoryChanged,
    StateMissed,
)
from swanroam.model.path import IPAddress, LocalAddress, Repository
from swanroam.model.tunnel import Role
from swanroam.wire.control import NONCE_BYTES, decode
from swanroam.wire.xfrm.events import Acquire, PolicySet
from swanroam.wire.xfrm.structs import Direction

__all__ = ["Daemon", "run"]

log = logging.getLogger(__name__)

FILTER_RETRY_S: Final = 1.0
NICE: Final = -10
ASK_ROUTES_S: Final = 0.1
"""How long after a change the kernel is asked for the routes that it did not tell of: a move is over by then."""
STORE_TIMEOUT_S: Final = 0.5
REBUILD_S: Final = 1.0
"""How long charon may take to answer when the daemon ends, which is to take two seconds at most."""


def run(config: Config, config_file: Path, adapters: Adapters | None = None) -> int:
    """Run until SIGTERM; returns the exit status. Raises SwanroamError when it cannot start."""
    return asyncio.run(_run(config, config_file, adapters or Adapters()))


async def _run(config: Config, config_file: Path, adapters: Adapters) -> int:
    with ExitStack() as cleanup:
        await Daemon(config, config_file, asyncio.get_running_loop(), cleanup, adapters).serve()
    return 0


def _boot_s() -> float:
    """Seconds since this machine began, those in which it slept too: what was when is shown, and stored."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Daemon:
    """One running daemon. Whatever it opens is closed by `cleanup`, in the opposite order."""

    def __init__(
        self,
        config: Config,
        config_file: Path,
        loop: asyncio.AbstractEventLoop,
        cleanup: ExitStack,
        adapters: Adapters,
    ) -> None:
        self._config, self._config_file, self._loop, self._adapters = config, config_file, loop, adapters
        self._clock: Callable[[], float] = _boot_s
        self._notifier = Notifier.from_environment()
        self._stop = asyncio.Event()
        self._group: asyncio.TaskGroup
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: set[int] = set()
        self._preferences: dict[LocalAddress, int] = {}
        self._backlog = deque[Taken]()
        self._repair: asyncio.TimerHandle | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._last: tuple[Effect, ...] = ()

        store, records, problem = Store.open(config.state_dir)
        cleanup.callback(store.close, STORE_TIMEOUT_S)
        if problem is not None:
            log.warning("%s", problem)
        self._hooks = adapters.hooks(config)
        cleanup.callback(lambda: self._hooks.close())  # those of the last reload
        self._kernel = adapters.kernel(config)
        cleanup.callback(self._kernel.close)
        self._queue = adapters.queue(config)
        cleanup.callback(self._queue.close)
        self._filter = adapters.filter(config)
        cleanup.callback(self._filter.close)
        kept = adapters.kept(config, self._filter)
        cleanup.callback(kept.close)
        kept.clean()
        sender = adapters.sender(config, self._kernel)
        cleanup.callback(sender.close)
        self._routes = adapters.routes(config)
        cleanup.callback(self._routes.close)
        self._charon = CharonCommands(config.vici)
        cleanup.callback(self._charon.stop)

        self._core = Core(config.settings, lambda: os.urandom(NONCE_BYTES), config.port)
        self._carrier = Carrier(self._core.table, self._core.parting)
        self._core.remember(recall(records, config.role, self._clock(), time.time()))
        keeper = StoreKeeper(store, self._core.table, self._clock, time.time)
        self._lister = Lister(self._charon, self._kernel, self._dispatch, self._clock)
        world = World(
            kernel=self._kernel,
            kept=kept,
            verifier=EspVerifier(self._kernel),
            filter=self._filter,
            queue=self._queue,
            sender=sender,
            charon=self._charon,
            hooks=self._hooks,
            keeper=keeper,
            clock=self._clock,
            release=self._let_go,
            repair=self._repair_soon,
            relist=self._lister.ask,
            present=self._present,
            spawn=self._spawn,
        )
        self._performer = Performer(self._core, world, loop)
        self._events = CharonEvents(config.vici, self._lister.heard, loop)
        cleanup.callback(self._events.stop)

    async def serve(self) -> None:
        """Run until told to stop. Raises SwanroamError, with nothing left in the packet filter, when it cannot."""
        control = ControlServer(self._config.control_socket, {"status": self._status})
        # The socket first: another daemon's rules are not replaced before it is known that there is none.
        async with control:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop.set)
            self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            try:
                self._filter.install()
                self._on_repository(self._routes.start())
                await self._work()
            finally:
                self._performer.close()
                self._clear_filter()
                await self._performer.rebuild(self._last, REBUILD_S)
        log.info("swanroam stopped; the tunnels are charon's")

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            self._watch(self._queue.fileno(), self._on_packets)
            self._watch(self._kernel.fileno(), self._on_kernel_events)
            self._watch(self._filter.fileno(), self._on_filter_events)
            self._watch(self._routes.fileno(), self._on_routes)
            self._spawn("list IKE_SAs", self._lister.run())
            self._spawn("watchdog", self._notifier.watchdog())
            self._charon.start()
            self._events.start()
            _be_quick()
            self._notifier.ready()
            log.info("swanroam runs as %s", self._config.role)
            await self._stop.wait()
            self._notifier.stopping()
            for descriptor in self._watched:
                self._loop.remove_reader(descriptor)
            for timer in (self._repair, self._asking):
                if timer is not None:
                    timer.cancel()
            self._last = self._core.leave()
            self._performer.perform(tuple(effect for effect in self._last if not isinstance(effect, Reestablish)))
            self._performer.close()
            for task in tuple(self._tasks):
                task.cancel()
        self._performer.perform(tuple(Persist(tunnel.key) for tunnel in self._core.table))

    def _present(self, address: IPAddress) -> bool:
        repository = self._core.repository
        return repository is None or address.is_unspecified or address in repository.working

    def _clear_filter(self) -> None:
        try:
            self._filter.remove()
            # Packets that came until then are let go when the queue is closed; unread they would be dropped.
            self._queue.receive()
        except KernelRefused as error:
            log.warning("removing the rules failed: %s", error)

    def _dispatch(self, event: Event) -> None:
        self._performer.dispatch(event)

    def _on_packets(self) -> None:
        self._take_in()
        while self._backlog:
            packet = self._backlog.popleft()
            match packet:
                case HeldEsp():
                    self._performer.hold(packet.packet_id, packet.packet)
                case HeldDown():
                    self._performer.wait(packet.destination, partial(self._queue.let_down, packet.packet_id))
                case TunnelMessage():
                    self._on_message(packet)
                case CarriedIke():
                    self._queue.carry(packet.packet_id, self._carrier.carried(packet.packet))
                case LateEsp():
                    self._on_late(packet)
                case _:
                    log.debug("a packet in the queue cannot be read: %s", packet)

    def _on_late(self, packet: LateEsp) -> None:
        tunnel = self._core.table.by_spi(packet.spi)
        changed = sent_on(self._core.table, packet.spi, packet.packet)
        go = partial(self._queue.send_on, packet.packet_id, changed)
        if tunnel is None:
            go()
        else:
            self._performer.wait(tunnel.key.inner[0], go)

    def _take_in(self) -> None:
        try:
            self._backlog.extend(self._queue.receive())
        except KernelRefused as error:
            log.warning("packets of the queue were lost: %s", error, extra={"damp": "queue"})

    def _let_go(self, watch: Watch) -> None:
        """Let held packets of sources that are known by now go on, in their order.

        Later ones will pass them by in the kernel: those left behind could fall out of the replay window.
        """
        self._take_in()
        kept = deque[Taken]()
        for packet in self._backlog:
            if (
                isinstance(packet, HeldEsp)
                and packet.packet.spi in watch.spis
                and packet.packet.origin in watch.sources
                and packet.packet.destination in watch.own
            ):
                self._queue.verdict(packet.packet_id, accept=True)
            else:
                kept.append(packet)
        self._backlog = kept
        if kept:
            self._loop.call_soon(self._on_packets)

    def _on_message(self, packet: TunnelMessage) -> None:
        gateway = self._config.role is Role.GATEWAY
        inner, peer = (packet.source, packet.destination) if gateway else (packet.destination, packet.source)
        event: MessageReceived | MessageMalformed
        try:
            event = MessageReceived(at_s=self._clock(), inner=inner, peer=peer, message=decode(packet.payload))
        except Unsupported as error:
            log.debug("message from %s ignored: %s", packet.source, error)
            return
        except WireError as error:
            event = MessageMalformed(at_s=self._clock(), inner=inner, peer=peer, problem=str(error))
        self._performer.dispatch(event)

    def _on_routes(self) -> None:
        self._follow_routes(ask=False)
        if self._asking is None:
            self._asking = self._loop.call_later(ASK_ROUTES_S, self._ask_routes)

    def _ask_routes(self) -> None:
        self._asking = None
        self._follow_routes(ask=True)

    def _follow_routes(self, *, ask: bool) -> None:
        if (repository := self._routes.process(ask=ask)) is not None:
            self._on_repository(repository)

    def _on_repository(self, repository: Repository) -> None:
        """Add what configuration and hooks prefer, once for each address as it is, and let the core decide.

        On a gateway they have no say: its addresses are not ranked.
        """
        if self._config.role is Role.GATEWAY:
            self._dispatch(RepositoryChanged(at_s=self._clock(), repository=repository))
            return
        known, self._preferences = self._preferences, {}
        ranked = []
        for address in repository.addresses:
            preference = known.get(address)
            if preference is None:
                preference = self._config.preference_of(address.interface) + self._hooks.rank_path(address)
            self._preferences[address] = preference
            ranked.append(replace(address, preference=preference))
        changed = RepositoryChanged(at_s=self._clock(), repository=replace(repository, addresses=tuple(ranked)))
        self._performer.dispatch(changed)

    def _on_kernel_events(self) -> None:
        events = self._kernel.process_events()
        installed = dict.fromkeys(
            (
                template.reqid,
                place_of(event.policy.direction, (template.source, template.destination)),
                event.policy.direction == Direction.OUT,
            )
            for event in events
            if isinstance(event, PolicySet)
            for template in event.policy.templates
        )
        for reqid, place, outbound in installed:
            self._dispatch(PolicyInstalled(at_s=self._clock(), reqid=reqid, place=place, outbound=outbound))
        for spi in dict.fromkeys(event.spi for event in events if isinstance(event, Acquire) and event.spi):
            self._dispatch(StateMissed(at_s=self._clock(), spi=spi))

    def _on_filter_events(self) -> None:
        if not self._filter.process_events() and self._repair is None:
            log.warning("somebody removed swanroam's rules from the packet filter; installing them again")
            self._repair_filter()

    def _repair_filter(self) -> None:
        self._repair = None
        try:
            self._filter.install()
        except KernelRefused as error:
            log.warning("installing the rules failed: %s", error)
            self._repair_soon()

    def _repair_soon(self) -> None:
        if self._repair is None:
            self._repair = self._loop.call_later(FILTER_RETRY_S, self._repair_filter)

    def _on_hangup(self) -> None:
        self._notifier.reloading()
        self._reload()
        self._notifier.ready()

    def _reload(self) -> None:
        """Take over what can be changed while running; a configuration with errors changes nothing."""
        try:
            new = configuration.load(self._config_file)
        except ConfigError as error:
            log.error("configuration not reloaded: %s", error)  # noqa: TRY400 - the operator is told what to mend
            return
        changes = configuration.diff(self._config, new)
        if changes.restart:
            log.warning("changed, but taken over only by a restart: %s", ", ".join(changes.restart))
            new = replace(new, **{name: getattr(self._config, name) for name in changes.restart if name != "role"})
            new = replace(new, settings=replace(new.settings, role=self._config.role))
        self._config = new
        logs.set_level(new.log_level)
        if "hooks" in changes.live:
            self._hooks.close()
            self._hooks = self._adapters.hooks(new)
            self._performer.world = replace(self._performer.world, hooks=self._hooks)
        self._performer.perform(self._core.reconfigure(new.settings))
        self._preferences = {}
        self._on_repository(self._routes.repository)
        log.info("configuration reloaded: %s", ", ".join(changes.live) or "nothing new")

    def _status(self) -> Status:
        return report(
            self._config.role,
            self._core.table,
            connected=self._lister.connected,
            version=self._lister.version,
            epoch_s=time.time() - self._clock(),
            rejected=self._core.rejected,
            filtered=self._filtered(),
            bystanders=self._core.bystanders.reasons,
        )

    def _filtered(self) -> Mapping[str, int]:
        try:
            return self._filter.counters()
        except KernelRefused as error:
            log.debug("the counters of the packet filter cannot be read: %s", error)  # it is being repaired
            return {}

    def _watch(self, descriptor: int, read: Callable[[], object]) -> None:
        self._loop.add_reader(descriptor, read)
        self._watched.add(descriptor)

    def _spawn(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = self._group.create_task(_guarded(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _be_quick() -> None:
    """A move waits for this process and for nothing else: it goes first, and what it was started with stays in memory.

    Without freezing, the collector would look through all imported modules now and then, for longer than a move takes.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError):  # it may be that only systemd may (Nice=)
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


async def _guarded(name: str, work: Coroutine[None, None, None]) -> None:
    """One task's failure is a defect to be logged; the tunnels of the others are no part of it."""
    try:
        await work
    except Exception:
        log.exception("task %r failed", name)
