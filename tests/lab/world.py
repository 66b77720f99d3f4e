"""A world: hosts, wires, charon and swanroam, brought up and torn down together."""

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from tests.lab.captures import Capture
from tests.lab.charon import CONNECTION, Charon, IkeSa, TunnelOptions, gateway_connection, terminal_connection
from tests.lab.conditions import eventually
from tests.lab.daemon import Swanroam
from tests.lab.ends import End, Move, Terminal
from tests.lab.errors import NeverCame
from tests.lab.hosts import Host
from tests.lab.nats import NatOfLink
from tests.lab.netns import batch, sweep
from tests.lab.secrets import Secrets
from tests.lab.streams import Stream
from tests.lab.topology import GATEWAY_WAN6, ROUTER_WAN, ROUTER_WAN6, SERVER, SERVER6, Topology, lay

__all__ = ["End", "Move", "Terminal", "World"]

FAMILY = "sr"
STATE = Path("/dev/shm")  # noqa: S108 -- a tmpfs, where Unix sockets can be bound whatever the root is
WORLDS = itertools.count()


class World:
    """Everything in one place. Use as a context manager: it is gone afterwards, whatever happened."""

    def __init__(
        self,
        topology: Topology | None = None,
        tunnel: TunnelOptions | None = None,
        gateway: Callable[[Host, TunnelOptions], Charon] | None = None,
    ) -> None:
        """`gateway` makes what is there in charon's place."""
        self.topology = topology or Topology()
        self.tunnel = tunnel or TunnelOptions()
        """How the tunnels are set up now."""
        sweep(FAMILY)
        self.prefix = f"{FAMILY}{os.getpid()}-{next(WORLDS)}"
        self.folder = STATE / self.prefix
        self._cleanup = contextlib.ExitStack()
        self._capture: Capture | None = None
        self.keepers: list[Callable[[], object]] = []
        """What has to write something down before logs are kept."""
        self._capability: str | None = None
        self._roams: list[End] = []
        self.secrets = Secrets()
        try:
            self._build(gateway or (lambda host, options: Charon(host, options, gateway_connection(options))))
        except BaseException:
            self.close()
            raise

    def _build(self, gateway: Callable[[Host, TunnelOptions], Charon]) -> None:
        self.folder.mkdir(mode=0o700)
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._cleanup.callback(self._delete_namespaces)
        self._cleanup.callback(self.secrets.close)
        spaces = lay(self.topology, self.prefix)

        def own(host: Host) -> None:
            self._cleanup.callback(host.close)

        self.router = Host("router", spaces["router"], self.folder / "router")
        own(self.router)
        self.server = Host("server", spaces["server"], self.folder / "server")
        own(self.server)
        self.gateway = End("gateway", spaces["gateway"], self.folder / "gateway")
        self.gateway.charon = gateway(self.gateway, self.tunnel)
        self.gateway.swanroam = Swanroam(self.gateway, "gateway")
        own(self.gateway)
        self.nats: dict[str, NatOfLink] = {}
        for nat in self.topology.nats:
            self.nats[nat.link] = NatOfLink(self.topology.boxes(nat.link), spaces, self.folder)
            for host in self.nats[nat.link].hosts:
                own(host)
        self.terminals: list[Terminal] = []
        accesses = self.topology.accesses
        for number, name in enumerate(self.topology.terminal_names, 1):
            folder = self.folder / name
            self.terminals.append(Terminal(number, spaces[name], folder, self.tunnel, accesses, self.nats))
            own(self.terminals[-1])
        self.attacker: Host | None = None
        if self.topology.attacker:
            self.attacker = Host("attacker", spaces["attacker"], self.folder / "attacker")
            own(self.attacker)
        for end in self.ends:
            # Beside the folder, which is searched for these keys.
            self.secrets.watch(end, STATE / f"{self.prefix}-{end.name}.keys")

    @property
    def terminal(self) -> Terminal:
        """The terminal, or the first of several."""
        return self.terminals[0]

    @property
    def active(self) -> list[Terminal]:
        """The terminals that take part."""
        return [terminal for terminal in self.terminals if not terminal.resting]

    @property
    def ends(self) -> list[End]:
        """Gateway and terminals."""
        return [self.gateway, *self.terminals]

    def end(self, side: str) -> End:
        """The end of a tunnel by what it is: "terminal", the first of several, or "gateway"."""
        return self.gateway if side == "gateway" else self.terminal

    @property
    def hosts(self) -> list[Host]:
        """All hosts."""
        natted = [host for nat in self.nats.values() for host in nat.hosts]
        return [self.router, self.server, *self.ends, *([self.attacker] if self.attacker else []), *natted]

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
        for terminal in self.active:
            terminal.connect()

    def roam(
        self, capability: str = "negotiate", *, mobike: bool | None = None, alone: bool = False, **settings: object
    ) -> None:
        """Start swanroam on both ends and wait until every tunnel is ready to move.

        `mobike`: what is to be said of that in the configuration, if anything. `alone`: not on the gateway.
        """
        if mobike is not None:
            settings["tunnels"] = {CONNECTION: {"mobike": mobike}}
        self._capability = capability
        self._roams = [*self.terminals] if alone else self.ends
        for end in self._roams:
            end.swanroam.start(capability=capability, wait=False, **settings)
        for end in self._roams:
            end.swanroam.ready()
        for terminal in self.terminals:
            self.agreed(terminal)

    def roams_everywhere(self) -> None:
        """From now on swanroam runs, and has to run, on all ends again; it is started where it does not."""
        self._roams = self.ends
        for end in self.ends:
            if not end.swanroam.running:
                end.swanroam.run()

    def begin_with_other_charons(self, tunnel: TunnelOptions) -> None:
        """Begin all charons anew with other options, those of charon itself too; swanroam stays as it is."""
        self.tunnel = tunnel
        for end in self.ends:
            end.charon.stop()
        self.gateway.charon.configure(tunnel, gateway_connection(tunnel))
        for terminal in self.terminals:
            terminal.charon.configure(tunnel, terminal_connection(terminal.number, tunnel))
        self.connect()
        for terminal in self.active if self._capability is not None else ():
            self.agreed(terminal)

    def leave_the_gateway_alone(self) -> None:
        """From now on swanroam runs on the terminals only; nothing if it is so already."""
        self._roams = list(self.terminals)
        self.gateway.swanroam.stop()

    @contextlib.contextmanager
    def awake(self, terminal: Terminal) -> Iterator[None]:
        """A resting terminal takes part for a while."""
        terminal.resting = False
        terminal.connect()
        if self._capability is not None:
            self.agreed(terminal)
        try:
            yield
        finally:
            self.rest(terminal)

    def rest(self, terminal: Terminal) -> None:
        """A terminal gives up its tunnel and takes no part from now on."""
        terminal.resting = True
        if terminal.charon.sas():
            terminal.charon.terminate()

    def reconnect(self, tunnel: TunnelOptions, *, roams: bool = True, link: str | None = None) -> None:
        """Take every tunnel down and set it up again with other options; those of charon itself stay as they were.

        With `roams` both ends are to agree on the capability again, where they do. With `link` every terminal is on it.
        """
        for terminal in self.active:
            if terminal.charon.sas():
                terminal.charon.terminate()
            # Else charon might set the next tunnel up from an address that was kept for the last one.
            eventually(lambda terminal=terminal: not terminal.aliases, f"{terminal.name} gives up what it kept")  # type: ignore[misc]
            if link not in {None, terminal.access.link}:
                terminal.move()
        if tunnel != self.tunnel:
            self.tunnel = tunnel
            self.gateway.charon.load(gateway_connection(tunnel))
            for terminal in self.terminals:
                terminal.charon.load(terminal_connection(terminal.number, tunnel))
        for terminal in self.active:
            terminal.connect()
            if roams and self._capability is not None:
                self.agreed(terminal)

    def begin_without_swanroam(self, tunnel: TunnelOptions) -> None:
        """From now on there is only strongSwan, begun anew with other options, those of charon itself too."""
        self._capability, self._roams = None, []
        for end in self.ends:
            end.swanroam.stop()
        self.begin_with_other_charons(tunnel)

    def steady(self) -> None:
        """Repair what an earlier story left broken: every tunnel is up, every swanroam that should run runs."""
        for end in self.ends:
            if not end.charon.running:
                end.charon.start()
                end.charon.ready()
        for terminal in self.active:
            if not terminal.present:
                terminal.enter()
            if not terminal.charon.sas():
                terminal.connect()
            try:
                _ = terminal.sa
            except NeverCame:
                terminal.charon.restart()
                terminal.connect()
            terminal.inner, *_ = terminal.sa.inner
        if self._capability is not None:
            idle = [end for end in self._roams if not end.swanroam.running]
            for end in idle:
                end.swanroam.run(wait=False)
            for end in idle:
                end.swanroam.ready()
            for terminal in self.active:
                self.agreed(terminal)

    def agreed(self, terminal: Terminal) -> None:
        """Wait until a tunnel may move: both ends have the capability, or the only one with swanroam knows it."""
        if self.gateway not in self._roams:
            spis = {f"{child.spi_in:08x}" for child in terminal.sa.children}
            eventually(
                lambda: spis <= {child["spi_in"] for child in terminal.swanroam.tunnel(terminal.inner)["children"]},
                f"{terminal.name}: swanroam knows the tunnel",
            )
            return
        for end in (terminal, self.gateway):
            eventually(
                lambda end=end: end.swanroam.tunnel(terminal.inner)["capability"] in {"negotiated", "configured"},  # type: ignore[misc]
                f"{end.name}: the capability for {terminal.inner}",
                deadline_s=60,
            )

    def sa(self, end: End, terminal: Terminal) -> IkeSa:
        """The IKE_SA of a terminal's tunnel, as one of its two ends has it."""
        if end is terminal:
            return terminal.sa

        def one() -> IkeSa:
            found = [sa for sa in end.charon.sas() if terminal.inner in sa.inner and not sa.superseded]
            assert [sa.state for sa in found] == ["ESTABLISHED"], f"{end.name} has these for {terminal.inner}: {found}"
            return found[0]

        return eventually(one, f"{end.name} has one tunnel for {terminal.inner}", every_s=0.1)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """The gateway's link is down for a while, which takes its routes away, and its addresses of IPv6."""
        gateway = self.gateway
        gateway.show("ip link set wan0 down")
        try:
            yield
        finally:
            gateway.show("ip link set wan0 up")
            gateway.show(f"ip route replace default via {ROUTER_WAN}")
            if self.topology.six:
                gateway.show(f"ip addr add {GATEWAY_WAN6}/64 dev wan0 nodad")
                gateway.show(f"ip route replace default via {ROUTER_WAN6} dev wan0")

    def rebind(self, link: str, *, new_address: bool = False) -> Move:
        """The NAT of a link forgets its mappings; with `new_address` it gets another public address, too."""
        nat = self.nats[link]
        old, began_ns = nat.public, time.monotonic_ns()
        if new_address:
            nat.change_address(self.router, link.removesuffix("0"))
        else:
            nat.forget()
        return Move(began_ns=began_ns, usable_ns=time.monotonic_ns(), old=old, new=nat.public, seen=nat.public)

    def uplink(
        self,
        terminal: Terminal | None = None,
        *,
        inner: str = "",
        interval_ms: float = 10.0,
        count: int = 0,
    ) -> Stream:
        """A stream from a terminal's inner address, or another `inner` one of its, to the server."""
        source = terminal or self.terminal
        return Stream(
            source,
            inner or source.inner,
            self.server,
            _server(inner or source.inner),
            interval_ms=interval_ms,
            count=count,
        )

    def downlink(
        self,
        terminal: Terminal | None = None,
        *,
        inner: str = "",
        interval_ms: float = 10.0,
        count: int = 0,
    ) -> Stream:
        """A stream from the server to a terminal's inner address, or another `inner` one of its."""
        target = terminal or self.terminal
        return Stream(
            self.server,
            _server(inner or target.inner),
            target,
            inner or target.inner,
            interval_ms=interval_ms,
            count=count,
        )

    @contextlib.contextmanager
    def both_ways(
        self, terminal: Terminal | None = None, *, interval_ms: float = 10.0
    ) -> Iterator[tuple[Stream, Stream]]:
        """Streams up and down that flow."""
        with (
            self.uplink(terminal, interval_ms=interval_ms) as up,
            self.downlink(terminal, interval_ms=interval_ms) as down,
        ):
            up.flows()
            down.flows()
            yield up, down

    def keep_logs(self, folder: Path) -> list[Path]:
        """Copy the logs and configurations of all hosts to a folder; returns the logs."""
        for write in self.keepers:
            # What cannot be kept must not hide the failure.
            with contextlib.suppress(Exception):
                write()
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


def _server(inner: str) -> str:
    """The server's address of the same IP version."""
    return SERVER6 if ":" in inner else SERVER
