"""A world: hosts, wires, charon and swanroam, brought up and torn down together."""

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.captures import Capture
from tests.lab.charon import Charon, IkeSa, TunnelOptions, gateway_connection, terminal_connection
from tests.lab.conditions import eventually
from tests.lab.daemon import Swanroam
from tests.lab.errors import NeverCame
from tests.lab.hosts import Host
from tests.lab.links import Request
from tests.lab.netns import Namespace, batch, sweep
from tests.lab.secrets import Secrets
from tests.lab.streams import Stream
from tests.lab.topology import ACCESS, SERVER, Access, Topology, lay

__all__ = ["End", "Move", "Terminal", "World"]

FAMILY = "sr"
STATE = Path("/dev/shm")  # noqa: S108 -- a tmpfs, where Unix sockets can be bound whatever the root is
WORLDS = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of the outer address, as it was made."""

    began_ns: int
    usable_ns: int
    """When the kernel had taken the new address and route."""
    old: str
    new: str


class End(Host):
    """A host with charon and swanroam."""

    charon: Charon
    swanroam: Swanroam

    def close(self) -> None:
        """End what runs here."""
        for step in (self.swanroam.kill, self.charon.kill):
            with contextlib.suppress(Exception):
                step()
        super().close()


class Terminal(End):
    """A host that roams between its two links."""

    def __init__(self, number: int, namespace: Namespace, folder: Path, options: TunnelOptions) -> None:
        super().__init__(f"terminal{number}", namespace, folder)
        self.number = number
        self.access: Access = ACCESS[0]
        self.address = ACCESS[0].address(number)
        self.inner = ""
        """The virtual IP, once connected."""
        self._owned = self.outer
        self.present = True
        """Whether it has an outer address."""
        self.charon = Charon(self, options, terminal_connection(number, options))
        self.swanroam = Swanroam(self, "terminal")

    @property
    def outer(self) -> str:
        """The outer address that it has now."""
        return self.address.partition("/")[0]

    @property
    def other(self) -> Access:
        """The access network that it is not in."""
        return ACCESS[1 - ACCESS.index(self.access)]

    def connect(self) -> None:
        """Initiate the tunnel."""
        self.charon.initiate()
        (self.inner,) = self.sa.inner

    @property
    def sa(self) -> IkeSa:
        """The terminal's one established IKE_SA; waits for the end of a negotiation that is going on."""

        def one() -> IkeSa:
            every = self.charon.sas()
            assert [sa.state for sa in every] == ["ESTABLISHED"], f"{self.name} has these IKE_SAs: {every}"
            assert every[0].children, f"{self.name} has no CHILD_SA: {every}"
            return every[0]

        return eventually(one, f"{self.name} has one tunnel", every_s=0.1)

    def move(self, address: str | None = None) -> Move:
        """Change to the other network at once: the old address goes, the new one comes, the default route follows."""
        return self._change(self.leaving() + self._entering(self.other, address or self.other.address(self.number)))

    def leave(self) -> Move:
        """Lose the outer address and have none."""
        requests = self.leaving()
        self.present = False
        return self._change(requests)

    def enter(self, address: str | None = None) -> Move:
        """Get an address in the other network, after `leave`."""
        return self._change(self._entering(self.other, address or self.other.address(self.number)))

    def unplug(self) -> Move:
        """The link in use goes down, which takes its routes away, and the other network gives an address."""
        old = self.access
        address = self.address
        down = [self.links.turn(old.link, up=False), self.links.remove_address(old.link, address)]
        move = self._change(down + self._entering(self.other, self.other.address(self.number)))
        self.links.apply([self.links.turn(old.link, up=True), self._router_neighbour(old)])
        return move

    def leaving(self) -> list[Request]:
        """What takes the outer address away."""
        return [self.links.remove_address(self.access.link, self.address)]

    def _entering(self, access: Access, address: str) -> list[Request]:
        self.access, self.address, self.present = access, address, True
        return [
            self.links.add_address(access.link, address),
            self.links.default_route(access.link, access.router),
        ]

    def _router_neighbour(self, access: Access) -> Request:
        hardware = bytes.fromhex(access.router_hardware.replace(":", ""))
        return self.links.neighbour(access.link, access.router, hardware)

    def _change(self, requests: list[Request]) -> Move:
        old = self._owned
        began_ns = time.monotonic_ns()
        self.links.apply(requests)
        usable_ns = time.monotonic_ns()
        if self.present:
            self.links.announce(self.access.link, self.outer)
        self._owned = self.outer
        return Move(began_ns=began_ns, usable_ns=usable_ns, old=old, new=self.outer)


class World:
    """Everything in one place. Use as a context manager: it is gone afterwards, whatever happened."""

    def __init__(self, topology: Topology | None = None, tunnel: TunnelOptions | None = None) -> None:
        self.topology = topology or Topology()
        self.tunnel = tunnel or TunnelOptions()
        sweep(FAMILY)
        self.prefix = f"{FAMILY}{os.getpid()}-{next(WORLDS)}"
        self.folder = STATE / self.prefix
        self._cleanup = contextlib.ExitStack()
        self._capture: Capture | None = None
        self._capability: str | None = None
        self.secrets = Secrets()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.folder.mkdir(mode=0o700)
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._cleanup.callback(self._delete_namespaces)
        spaces = lay(self.topology, self.prefix)

        def own(host: Host) -> None:
            self._cleanup.callback(host.close)

        self.router = Host("router", spaces["router"], self.folder / "router")
        own(self.router)
        self.server = Host("server", spaces["server"], self.folder / "server")
        own(self.server)
        self.gateway = End("gateway", spaces["gateway"], self.folder / "gateway")
        self.gateway.charon = Charon(self.gateway, self.tunnel, gateway_connection(self.tunnel))
        self.gateway.swanroam = Swanroam(self.gateway, "gateway")
        own(self.gateway)
        self.terminals: list[Terminal] = []
        for number, name in enumerate(self.topology.terminal_names, 1):
            self.terminals.append(Terminal(number, spaces[name], self.folder / name, self.tunnel))
            own(self.terminals[-1])
        self.attacker: Host | None = None
        if self.topology.attacker:
            self.attacker = Host("attacker", spaces["attacker"], self.folder / "attacker")
            own(self.attacker)

    @property
    def terminal(self) -> Terminal:
        """The terminal, or the first of several."""
        return self.terminals[0]

    @property
    def ends(self) -> list[End]:
        """Gateway and terminals."""
        return [self.gateway, *self.terminals]

    @property
    def hosts(self) -> list[Host]:
        """All hosts."""
        return [self.router, self.server, *self.ends, *([self.attacker] if self.attacker else [])]

    @property
    def capture(self) -> Capture:
        """The capture on the router; it begins when first asked for."""
        if self._capture is None:
            self._capture = Capture(self.router)
        return self._capture

    def connect(self) -> None:
        """Start every charon and set up every tunnel."""
        for end in self.ends:
            end.charon.start()
        for end in self.ends:
            end.charon.ready()
        for terminal in self.terminals:
            terminal.connect()

    def roam(self, capability: str = "negotiate", **settings: object) -> None:
        """Start swanroam on both ends and wait until every tunnel is ready to move."""
        self._capability = capability
        for end in self.ends:
            end.swanroam.start(capability=capability, wait=False, **settings)
        for end in self.ends:
            end.swanroam.ready()
        for terminal in self.terminals:
            self.agreed(terminal)

    def reconnect(self, tunnel: TunnelOptions, *, roams: bool = True) -> None:
        """Take every tunnel down and set it up again with other options; those of charon itself stay as they were.

        With `roams` both ends are to agree on the capability again, where they do.
        """
        for terminal in self.terminals:
            terminal.charon.terminate()
        self.gateway.charon.load(gateway_connection(tunnel))
        for terminal in self.terminals:
            terminal.charon.load(terminal_connection(terminal.number, tunnel))
            terminal.connect()
            if roams and self._capability is not None:
                self.agreed(terminal)

    def steady(self) -> None:
        """Repair what an earlier story left broken: every tunnel is up, every swanroam that should run runs."""
        for end in self.ends:
            if not end.charon.running:
                end.charon.start()
                end.charon.ready()
        for terminal in self.terminals:
            if not terminal.present:
                terminal.enter()
            try:
                _ = terminal.sa
            except NeverCame:
                terminal.charon.restart()
                terminal.connect()
            (terminal.inner,) = terminal.sa.inner
        if self._capability is not None:
            idle = [end for end in self.ends if not end.swanroam.running]
            for end in idle:
                end.swanroam.run(wait=False)
            for end in idle:
                end.swanroam.ready()
            for terminal in self.terminals:
                self.agreed(terminal)

    def agreed(self, terminal: Terminal) -> None:
        """Wait until both ends have the capability for a terminal's tunnel, negotiated or configured."""
        for end in (terminal, self.gateway):
            eventually(
                lambda end=end: end.swanroam.tunnel(terminal.inner)["capability"] in {"negotiated", "configured"},  # type: ignore[misc]
                f"{end.name}: the capability for {terminal.inner}",
                deadline_s=60,
            )

    def uplink(self, terminal: Terminal | None = None, *, interval_ms: float = 10.0, count: int = 0) -> Stream:
        """A stream from a terminal's inner address to the server."""
        source = terminal or self.terminal
        return Stream(source, source.inner, self.server, SERVER, interval_ms=interval_ms, count=count)

    def downlink(self, terminal: Terminal | None = None, *, interval_ms: float = 10.0, count: int = 0) -> Stream:
        """A stream from the server to a terminal's inner address."""
        target = terminal or self.terminal
        return Stream(self.server, SERVER, target, target.inner, interval_ms=interval_ms, count=count)

    @contextlib.contextmanager
    def both_ways(self, terminal: Terminal | None = None) -> Iterator[tuple[Stream, Stream]]:
        """Streams up and down that flow."""
        with self.uplink(terminal) as up, self.downlink(terminal) as down:
            up.flows()
            down.flows()
            yield up, down

    def note_keys(self) -> None:
        """Take note of the keys of all tunnels."""
        for end in self.ends:
            self.secrets.note(end)

    def keep_logs(self, folder: Path) -> list[Path]:
        """Copy the logs and configurations of all hosts to a folder; returns the logs."""
        kept = []
        for source in sorted(self.folder.rglob("*")):
            if source.is_file() and source.suffix in {".log", ".conf", ".toml", ".out"} and source.stat().st_size:
                target = folder / f"{self.prefix}-{source.parent.name}-{source.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                if source.suffix == ".log":
                    kept.append(target)
        return kept

    def close(self) -> None:
        """End every process and remove every namespace; one failure hides none of the others."""
        self._cleanup.close()

    def _delete_namespaces(self) -> None:
        existing = [path.name for path in Path("/run/netns").glob(f"{self.prefix}*")]
        batch("ip", [f"netns del {name}" for name in existing])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
