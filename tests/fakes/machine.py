"""A machine in memory for the daemon and its parts: kernel, packet filter, queue, sockets, addresses and hooks.

What is done to it is noted in one list, in order. It refuses what a test tells it to refuse.
"""

import errno
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from swanroam.app.adapters import Adapters
from swanroam.app.config import Config
from swanroam.errors import KernelRefused
from swanroam.kernel.queue import HeldDown, HeldEsp, LateEsp, TunnelMessage, Unreadable
from swanroam.model.effects import Announcement, Watch
from swanroam.model.path import IPAddress, LocalAddress, Path, Repository
from swanroam.model.tunnel import ChildSa, TunnelKey
from swanroam.wire.xfrm import SaState
from swanroam.wire.xfrm.events import XfrmEvent

__all__ = [
    "Bell",
    "FakeFilter",
    "FakeHooks",
    "FakeKept",
    "FakeKernel",
    "FakeQueue",
    "FakeRoutes",
    "FakeSender",
    "Machine",
]

Noted = list[tuple[object, ...]]
"""What was done: the name of it, then its arguments."""
Packet = HeldEsp | TunnelMessage | LateEsp | HeldDown | Unreadable
Part = TypeVar("Part")


class Bell:
    """A file descriptor that is readable while it was rung and not heard."""

    def __init__(self) -> None:
        self._heard, self._ringing = socket.socketpair()
        self._heard.setblocking(False)
        self.closed = False

    def fileno(self) -> int:
        """The file descriptor."""
        return self._heard.fileno()

    def close(self) -> None:
        """Close it."""
        self.closed = True
        self._heard.close()
        self._ringing.close()

    def ring(self) -> None:
        """Make it readable."""
        self._ringing.send(b"!")

    def hear(self) -> None:
        """Make it unreadable."""
        while True:
            try:
                self._heard.recv(4096)
            except BlockingIOError:
                return


class Refusing:
    """Refuses operations by name, each as often as it was told."""

    def __init__(self, noted: Noted) -> None:
        self.noted = noted
        self.refusals: dict[str, deque[int]] = {}

    def refuse(self, operation: str, *codes: int) -> None:
        """Refuse the next calls of an operation with these errnos."""
        self.refusals.setdefault(operation, deque()).extend(codes)

    def note(self, operation: str, *arguments: object) -> None:
        """Note a call, also one that is refused. Raises KernelRefused."""
        self.noted.append((operation, *arguments))
        if codes := self.refusals.get(operation):
            raise KernelRefused(operation, codes.popleft())


class FakeKernel(Refusing, Bell):
    """States by (destination, SPI), and where those of inbound SPIs are."""

    def __init__(self, noted: Noted) -> None:
        Refusing.__init__(self, noted)
        Bell.__init__(self)
        self.states: dict[tuple[IPAddress, int], SaState] = {}
        self.where: dict[int, Path] = {}
        self.gone: set[int] = set()
        """Outbound SPIs that have no state."""

    def process_events(self) -> list[XfrmEvent]:
        """What happened since this was asked last."""
        self.hear()
        return []

    def mark(self, source: IPAddress, destination: IPAddress) -> int:
        """No policy has one."""
        self.note("mark", source, destination)
        return 0

    def state(self, destination: IPAddress, spi: int) -> SaState | None:
        """A state with its keys."""
        self.note("state", spi)
        return self.states.get((destination, spi))

    def paths(self, spis: Iterable[int], own: Collection[IPAddress] = ()) -> tuple[tuple[int, Path], ...]:
        """Where the states are."""
        del own
        wanted = tuple(spis)
        self.note("paths", wanted)
        return tuple((spi, self.where[spi]) for spi in wanted if spi in self.where)

    def places(self, reqids: Iterable[int]) -> tuple[tuple[int, tuple[IPAddress, IPAddress]], ...]:
        """Policies are nowhere."""
        del reqids
        return ()

    def recover(self, children: Sequence[ChildSa], path: Path) -> int:
        """No state is silent."""
        del children
        self.note("recover", path)
        return 0

    def move(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        """Move states, and tell charon."""
        self.note("move", old, new)
        self.where |= {child.spi_in: new for child in children}

    def inform(
        self, children: Sequence[ChildSa], old: Path, new: Path, *, silent: bool = False, returning: bool = False
    ) -> None:
        """Tell charon."""
        del children
        how = (("silent", silent), ("returning", returning))
        self.note("inform", old, new, *(word for word, so in how if so))

    def align(self, children: Sequence[ChildSa], old: Path, path: Path) -> None:
        """Have states be as the path says."""
        self.note("align", old, path)
        self.where |= {child.spi_in: path for child in children}

    def lost(self, children: Sequence[ChildSa], places: Sequence[IPAddress]) -> tuple[int, ...]:
        """Those that are gone."""
        self.note("lost", places)
        return tuple(child.spi_out for child in children if child.spi_out in self.gone)

    def forget(self, children: Sequence[ChildSa], inbound: Sequence[IPAddress], outbound: Sequence[IPAddress]) -> None:
        """Delete them."""
        del children
        self.note("forget", inbound, outbound)

    def remind(self, children: Sequence[ChildSa], path: Path) -> None:
        """Have the next packet reported."""
        del children
        self.note("remind", path)


class FakeKept(Refusing):
    """Addresses that tunnels go on with: where the terminal really is, by tunnel."""

    def __init__(self, noted: Noted) -> None:
        super().__init__(noted)
        self.kept: dict[TunnelKey, tuple[IPAddress, IPAddress]] = {}
        self.closed = False

    def clean(self) -> None:
        """Nothing was left."""
        self.note("clean")

    def close(self) -> None:
        """Drop them all."""
        self.kept.clear()
        self.closed = True

    def keep(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Go on with an address."""
        self.note("keep", kept, actual, remote)
        self.kept[key] = kept, actual

    def drop(self, key: TunnelKey) -> None:
        """Need it no longer."""
        self.note("drop", key)
        self.kept.pop(key, None)

    def hold(self, inner: Iterable[IPAddress]) -> None:
        """Keep inner addresses here."""
        self.note("hold", *inner)

    def release(self, inner: Iterable[IPAddress]) -> None:
        """Let go of them."""
        self.note("release", *inner)


class FakeFilter(Refusing, Bell):
    """The packet filter; `whole` is false once somebody removed the rules."""

    def __init__(self, noted: Noted) -> None:
        Refusing.__init__(self, noted)
        Bell.__init__(self)
        self.watched: dict[TunnelKey, Watch] = {}
        self.translated: dict[TunnelKey, tuple[IPAddress, IPAddress, IPAddress]] = {}
        self.whole = False

    @property
    def present(self) -> bool:
        """Whether the rules are whole, as far as the daemon has seen."""
        return self.whole

    def install(self) -> None:
        """Install the rules."""
        self.note("install")
        self.whole = True

    def remove(self) -> None:
        """Remove the rules."""
        self.note("remove")
        self.whole = False

    def counters(self) -> dict[str, int]:
        """What the rules counted."""
        return {"floods": 0, "strangers": 3}

    def process_events(self) -> bool:
        """Whether the rules are whole."""
        self.hear()
        return self.whole

    def destroy(self) -> None:
        """Somebody removes the rules."""
        self.whole = False
        self.ring()

    def translate(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Rewrite an address."""
        self._change("translate", key)
        self.translated[key] = kept, actual, remote

    def untranslate(self, key: TunnelKey) -> None:
        """Rewrite nothing for this tunnel."""
        self._change("untranslate", key)
        self.translated.pop(key, None)

    def watch(self, watch: Watch) -> None:
        """Know a tunnel."""
        self._change("watch", watch.key)
        self.watched[watch.key] = watch

    def unwatch(self, key: TunnelKey) -> None:
        """Forget a tunnel."""
        self._change("unwatch", key)
        self.watched.pop(key, None)

    def hold_down(self, key: TunnelKey) -> None:
        """Have what goes down wait."""
        self._change("hold down", key)

    def let_down(self, key: TunnelKey) -> None:
        """Have it wait no longer."""
        self._change("let down", key)

    def _change(self, operation: str, key: TunnelKey) -> None:
        try:
            self.note(operation, key)
        except KernelRefused:
            self.whole = False  # nobody knows what is in the sets now
            raise


class FakeQueue(Refusing, Bell):
    """Packets that wait, and what became of those that were held."""

    def __init__(self, noted: Noted) -> None:
        Refusing.__init__(self, noted)
        Bell.__init__(self)
        self.waiting: list[Packet] = []
        self.held: set[int] = set()
        self.verdicts: dict[int, bool] = {}
        self.sent_on: dict[int, bytes | None] = {}
        """What became of late packets: what they went on as, None as they were."""
        self.down: list[int] = []
        """Packets that went on to their terminals."""

    def put(self, *packets: Packet) -> None:
        """Packets come."""
        self.waiting += packets
        self.ring()

    def receive(self) -> Sequence[Packet]:
        """The packets that wait."""
        self.note("receive")
        self.hear()
        waiting, self.waiting = self.waiting, []
        self.held |= {packet.packet_id for packet in waiting if isinstance(packet, HeldEsp)}
        return waiting

    def verdict(self, packet_id: int, *, accept: bool) -> None:
        """What becomes of a packet."""
        self.note("verdict", packet_id, accept)
        self.held.discard(packet_id)
        self.verdicts[packet_id] = accept

    def send_on(self, packet_id: int, changed: bytes | None) -> None:
        """What becomes of a late packet."""
        self.note("send_on", packet_id)
        self.sent_on[packet_id] = changed

    def let_down(self, packet_id: int) -> None:
        """One goes on."""
        self.down.append(packet_id)

    def carry(self, packet_id: int, changed: bytes | None) -> None:
        """What becomes of an IKE message."""
        self.note("carry", packet_id, changed is not None)

    def close(self) -> None:
        """Let all go that are held, as the queue does."""
        self.verdicts |= dict.fromkeys(self.held, True)
        self.held.clear()
        Bell.close(self)


class FakeSender(Refusing):
    """What was sent through tunnels."""

    def __init__(self, noted: Noted) -> None:
        super().__init__(noted)
        self.sent: list[tuple[IPAddress, IPAddress, bytes]] = []
        self.closed = False

    def close(self) -> None:
        """Close it."""
        self.closed = True

    def send(self, source: IPAddress, destination: IPAddress, payload: bytes) -> None:
        """Send a message."""
        self.note("send", destination)
        self.sent.append((source, destination, payload))

    def send_dummy(self, source: IPAddress, destination: IPAddress) -> None:
        """Send a dummy."""
        self.note("send_dummy", destination)
        self.sent.append((source, destination, b""))


class FakeRoutes(Refusing, Bell):
    """The addresses of the machine."""

    def __init__(self, noted: Noted) -> None:
        Refusing.__init__(self, noted)
        Bell.__init__(self)
        self.repository = Repository()
        self._news: Repository | None = None

    def start(self) -> Repository:
        """Read everything."""
        self.note("routes")
        return self.repository

    def change(self, repository: Repository) -> None:
        """The addresses are others now."""
        self._news = repository
        self.ring()

    def process(self, *, ask: bool) -> Repository | None:  # noqa: ARG002 -- it tells everything
        """What changed."""
        self.hear()
        news, self._news = self._news, None
        self.repository = news or self.repository
        return news


class FakeHooks:
    """Hooks that answer what the test says."""

    def __init__(self, noted: Noted) -> None:
        self.noted = noted
        self.veto: str | None = None
        self.ranks: dict[str, int] = {}
        self.announced: list[Announcement] = []
        self.closed = False

    def close(self) -> None:
        """Close them."""
        self.closed = True

    def rank_path(self, address: LocalAddress) -> int:
        """By interface."""
        self.noted.append(("rank", address.interface))
        return self.ranks.get(address.interface, 0)

    def veto_move(self, key: TunnelKey, old: Path, new: Path) -> str | None:
        """The same for all."""
        del key, old, new
        return self.veto

    def announce(self, announcement: Announcement) -> None:
        """Keep it."""
        self.noted.append(("announce", type(announcement).__name__))
        self.announced.append(announcement)


@dataclass(slots=True)
class Machine:
    """All of it."""

    noted: Noted = field(default_factory=list)
    kernel: FakeKernel = field(init=False)
    kept: FakeKept = field(init=False)
    filter: FakeFilter = field(init=False)
    queue: FakeQueue = field(init=False)
    sender: FakeSender = field(init=False)
    routes: FakeRoutes = field(init=False)
    hooks: list[FakeHooks] = field(default_factory=list)
    """As they were loaded, the last ones in use."""
    prepare: Callable[[FakeHooks], object] | None = None
    """Called for hooks that were loaded."""
    absent: str | None = None
    """The part that cannot be opened."""

    def __post_init__(self) -> None:
        self.kernel, self.filter = FakeKernel(self.noted), FakeFilter(self.noted)
        self.kept = FakeKept(self.noted)
        self.queue, self.sender, self.routes = (
            FakeQueue(self.noted),
            FakeSender(self.noted),
            FakeRoutes(self.noted),
        )

    def done(self, *operations: str) -> list[str]:
        """Names of what was done, in order: those asked for, or all."""
        return [str(what[0]) for what in self.noted if not operations or what[0] in operations]

    def close(self) -> None:
        """Close what the daemon did not open."""
        for opened in (self.kernel, self.kept, self.filter, self.queue, self.sender, self.routes):
            opened.close()

    @property
    def all_closed(self) -> bool:
        """Whether whatever was opened is closed (addresses are kept by terminals only)."""
        parts = (self.kernel, self.kept, self.filter, self.queue, self.sender)
        return all(part.closed for part in parts) and all(hooks.closed for hooks in self.hooks)

    def adapters(self) -> Adapters:
        """For a daemon."""
        return Adapters(
            hooks=self._load,
            kernel=lambda _: self._open("kernel", self.kernel),
            kept=lambda _, _filter: self._open("kept", self.kept),
            queue=lambda _: self._open("queue", self.queue),
            filter=lambda _: self._open("filter", self.filter),
            sender=lambda _config, _kernel: self._open("sender", self.sender),
            routes=lambda _: self._open("routes", self.routes),
        )

    def _load(self, _config: Config) -> FakeHooks:
        hooks = FakeHooks(self.noted)
        if self.prepare is not None:
            self.prepare(hooks)
        self.hooks.append(hooks)
        return hooks

    def _open(self, name: str, part: Part) -> Part:
        if name == self.absent:
            raise KernelRefused(f"open {name}", errno.EPERM)
        return part
