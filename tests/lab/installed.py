"""Ends on which swanroam and strongSwan are installed as packages, with systemd as the first process (tests/packages).

The hosts of a world stay as they are: streams, moves and captures are made in their namespaces, and the machine that
takes an end's place is in the same one. What is told to charon and swanroam goes where their units look for it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from tests.lab.charon import Charon, TunnelOptions, gateway_connection, terminal_connection
from tests.lab.conditions import eventually
from tests.lab.daemon import Swanroam
from tests.lab.ends import End, Terminal
from tests.lab.errors import LabError
from tests.lab.netns import RUN
from tests.lab.world import World
from tests.packages.commands import TOP
from tests.packages.conftest import VARIANTS, built
from tests.packages.machine import Broken, Machine

__all__ = ["InstalledCharon", "InstalledSwanroam", "at_once", "install", "installed", "is_made", "run_single_file"]

CONFIGURATION = "/etc/swanroam/swanroam.toml"


class InstalledSwanroam(Swanroam):
    """swanroam as its unit runs it."""

    def __init__(self, host: End, role: Literal["terminal", "gateway"], machine: Machine) -> None:
        super().__init__(host, role)
        self._role: Literal["terminal", "gateway"] = role
        self.machine = machine
        self.unit = "swanroam"
        self.program: tuple[str, ...] = ("swanroam",)
        self.file = machine.path(CONFIGURATION)
        self.socket = machine.path("/run/swanroam/control.sock")
        self.state_dir = machine.path("/var/lib/swanroam")

    def configure(
        self, *, capability: str = "negotiate", tunnels: Mapping[str, object] | None = None, **settings: object
    ) -> Path:
        """Write what the operator would: the role, and the capability of all tunnels."""
        if tunnels or settings:
            raise LabError("an installed swanroam is configured with its role and the capability alone")
        self.machine.write(CONFIGURATION, f'role = "{self._role}"\n\n[tunnels."*"]\ncapability = "{capability}"\n')
        return self.file

    def run(self, *, wait: bool = True) -> None:
        """Start the unit."""
        if wait:
            self.machine.run("systemctl", "start", self.unit)
            self.ready()
        else:
            self.machine.run("systemctl", "start", "--no-block", self.unit)
            eventually(lambda: self.running, "systemd begins to start it")

    @property
    def pid(self) -> int:
        """The process that runs, 0 without one."""
        return int(self.machine.unit(self.unit)["MainPID"])

    @property
    def running(self) -> bool:
        """Whether the unit is active, or on its way."""
        return self.machine.unit(self.unit)["ActiveState"] in ("active", "activating", "reloading")

    @property
    def returncode(self) -> int | None:
        """Exit status of the process that ran last."""
        return None if self.running else int(self.machine.unit(self.unit)["ExecMainStatus"])

    @property
    def log(self) -> str:
        """What it wrote to the journal."""
        return "\n".join(self.machine.journal(self.unit))

    def command(self, *arguments: str) -> str:
        """What the `swanroam` program prints."""
        return self.machine.run(*self.program, *arguments)

    def stop(self) -> int:
        """Stop the unit; the exit status."""
        self.machine.run("systemctl", "stop", self.unit)
        return int(self.machine.unit(self.unit)["ExecMainStatus"])

    def kill(self) -> None:
        """Kill the process, and have systemd not start it again."""
        self.machine.attempt("systemctl", "kill", "--signal=KILL", self.unit)
        self.machine.attempt("systemctl", "stop", self.unit)


class InstalledCharon(Charon):
    """charon as the distribution's unit runs it, with all of its plugins."""

    def __init__(self, host: End, options: TunnelOptions, swanctl: str, machine: Machine) -> None:
        super().__init__(host, options, swanctl)
        self._machine = machine
        self.socket = machine.path("/run/charon.vici")

    def start(self) -> None:
        """Start the unit with the setting that the package brings for terminals."""
        self._machine.attempt(
            "ln", "-s", "/usr/share/swanroam/strongswan.d/terminal.conf", "/etc/strongswan.d/swanroam.conf"
        )
        self._machine.run("systemctl", "restart", "strongswan")

    def load(self, swanctl: str | None = None) -> None:
        """Load the configuration with swanctl."""
        if swanctl is not None:
            self.configuration.write_text(swanctl)
        self._machine.write("/etc/swanctl/conf.d/lab.conf", self.configuration.read_text())
        self._machine.run("swanctl", "--load-all")

    @property
    def running(self) -> bool:
        """Whether the unit is active."""
        return self._machine.unit("strongswan")["ActiveState"] == "active"

    def _end(self, how: Any) -> None:
        self._disconnect()
        self._machine.attempt("systemctl", "kill", f"--signal={int(how)}", "strongswan")
        with contextlib.suppress(Broken):
            self._machine.run("systemctl", "stop", "strongswan")


def installed(end: End) -> InstalledSwanroam:
    """The daemon of an end that has it from a package."""
    assert isinstance(end.swanroam, InstalledSwanroam)
    return end.swanroam


def run_single_file(swanroam: InstalledSwanroam) -> None:
    """Have swanroam run from the single file, under systemd, with no library but Python's own in its path (-I -S)."""
    machine = swanroam.machine
    machine.path("/run/swanroam.pyz").write_bytes(built("swanroam-{version}-x86_64.pyz").read_bytes())
    swanroam.configure()
    swanroam.unit, swanroam.program = "swanroam-alone", ("python3", "-I", "-S", "/run/swanroam.pyz")
    command = (*swanroam.program, "run", "--config", CONFIGURATION)
    machine.run("systemd-run", "--quiet", f"--unit={swanroam.unit}", "--service-type=notify", *command)
    swanroam.ready()


def at_once(do: Callable[[InstalledSwanroam], object], ends: Sequence[End]) -> None:
    """Do the same on several ends, all at the same time; raises what one of them raised."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(do, [installed(end) for end in ends]):
            pass


def is_made(*roots: str) -> bool:
    """Whether there are machines with the package, and other versions of it."""
    return all((TOP / ".roots" / root).is_dir() for root in roots) and (VARIANTS / "newer.deb").exists()


@contextlib.contextmanager
def install(world: World, terminal: str, gateway: str) -> Iterator[tuple[Machine, Machine]]:
    """Boot a machine for each end, which takes the place of the lab's own programs: names of folders below .roots/."""
    with contextlib.ExitStack() as stack:
        machines = []
        ends: tuple[End, End] = (world.terminal, world.gateway)
        for end, root in zip(ends, (terminal, gateway), strict=True):
            space = RUN / end.namespace.name
            machine = Machine(TOP / ".roots" / root, end.folder / "console.log", name=end.name, network=space)
            machine.start()
            stack.callback(machine.stop)
            machines.append(machine)
        for end, machine in zip(ends, machines, strict=True):
            machine.ready()
            _take_place(world, end, machine)
            world.keepers.append(machine.keep_journal)
            stack.callback(world.keepers.remove, machine.keep_journal)
        yield machines[0], machines[1]
        for machine in machines:
            machine.halt()


def _take_place(world: World, end: End, machine: Machine) -> None:
    role: Literal["terminal", "gateway"] = "terminal" if isinstance(end, Terminal) else "gateway"
    connection = (
        terminal_connection(end.number, world.tunnel) if isinstance(end, Terminal) else gateway_connection(world.tunnel)
    )
    end.charon = InstalledCharon(end, world.tunnel, connection, machine)
    end.swanroam = InstalledSwanroam(end, role, machine)
