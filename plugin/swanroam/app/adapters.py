"""What the daemon opens on this machine, behind one door: the tests bring a machine of their own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from swanroam.app import ports
from swanroam.app.config import Config
from swanroam.app.verify import States
from swanroam.hookhost import HookHost
from swanroam.kernel.filter import PacketFilter
from swanroam.kernel.kept import KeptAddresses, Translation
from swanroam.kernel.queue import PacketQueue, Taken
from swanroam.kernel.routes import RouteSource
from swanroam.kernel.sender import TunnelSender
from swanroam.kernel.states import KernelStates
from swanroam.model.path import IPAddress, LocalAddress, Repository
from swanroam.model.tunnel import Role
from swanroam.wire.rtnetlink import decode_change
from swanroam.wire.xfrm.events import XfrmEvent

__all__ = ["Adapters", "Filter", "Hooks", "Kept", "Kernel", "Queue", "Routes", "Sender"]


class Closable(Protocol):
    """Something that was opened."""

    def close(self) -> None:
        """Close it; what it did to the kernel stays."""


class Source(Closable, Protocol):
    """Something that the event loop watches."""

    def fileno(self) -> int:
        """The file descriptor, readable when there is something to do."""


class Kernel(ports.Kernel, States, Source, Protocol):
    """The kernel's states and policies."""

    def process_events(self) -> Sequence[XfrmEvent]:
        """Follow what changed, and tell of it."""

    def mark(self, source: IPAddress, destination: IPAddress) -> int:
        """The mark of what goes through a tunnel from one inner address to another; mostly 0."""


class Queue(ports.Queue, Source, Protocol):
    """The queues of the packet filter. Closing lets all packets that were received go on."""

    def receive(self) -> Sequence[Taken]:
        """The packets that wait. Raises KernelRefused."""


class Filter(ports.Filter, Translation, Source, Protocol):
    """The packet filter."""

    def install(self) -> None:
        """Install the rules, replacing what is left of them. Raises KernelRefused."""

    def remove(self) -> None:
        """Remove the rules. Raises KernelRefused."""

    def counters(self) -> Mapping[str, int]:
        """Packets counted by the rules, by name. Raises KernelRefused."""

    def process_events(self) -> bool:
        """Whether the rules are still whole."""


class Kept(ports.Kept, Closable, Protocol):
    """Addresses that tunnels go on with. Closing drops them all."""

    def clean(self) -> None:
        """Remove what a daemon that was killed left behind. Raises KernelRefused."""


class Sender(ports.Sender, Closable, Protocol):
    """Sends through tunnels."""


class Routes(Source, Protocol):
    """The address repository."""

    @property
    def repository(self) -> Repository:
        """The last one that was returned."""

    def start(self) -> Repository:
        """Read everything. Raises KernelRefused."""

    def process(self, *, ask: bool) -> Repository | None:
        """The new repository, None when nothing in it changed; `ask` for what the events did not tell."""


class Hooks(ports.Hooks, Closable, Protocol):
    """Hook implementations."""

    def rank_path(self, address: LocalAddress) -> int:
        """What they add to the preference of a source."""


def _hooks(config: Config) -> Hooks:
    return HookHost.load(disabled=config.hooks_disabled, options=config.hook_options)


def _kernel(config: Config) -> Kernel:
    return KernelStates(last="in" if config.role is Role.GATEWAY else "fwd")


def _kept(_config: Config, translation: Translation) -> Kept:
    return KeptAddresses(translation)


def _queue(config: Config) -> Queue:
    return PacketQueue(queue=config.queue)


def _filter(config: Config) -> Filter:
    return PacketFilter(config.role, queue=config.queue, port=config.port)


def _sender(config: Config, kernel: Kernel) -> Sender:
    return TunnelSender(port=config.port, mark=kernel.mark)


def _routes(config: Config) -> Routes:
    if config.role is Role.TERMINAL:
        return RouteSource()
    # Without routes there is little to decode, and a gateway starts without pyroute2.
    return RouteSource(routes=False, decode_dump=decode_change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """How each of them is opened; all but hooks raise KernelRefused."""

    hooks: Callable[[Config], Hooks] = _hooks
    kernel: Callable[[Config], Kernel] = _kernel
    kept: Callable[[Config, Filter], Kept] = _kept
    queue: Callable[[Config], Queue] = _queue
    filter: Callable[[Config], Filter] = _filter
    sender: Callable[[Config, Kernel], Sender] = _sender
    routes: Callable[[Config], Routes] = _routes
