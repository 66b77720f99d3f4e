"""Ends on which swanroam and strongSwan are installed as packages, with systemd as the first process (tests/packages).

The hosts of a world stay as they are: streams, moves and captures are made in their namespaces, and the machine that
takes an end's place is in the same one. What is told to charon and swanroam goes where their units look for it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tests.lab.charon import Charon, TunnelOptions, gateway_connection, terminal_connection
from tests.lab.daemon import Swanroam
from tests.lab.ends import End, Terminal
from tests.lab.errors import LabError
from tests.lab.netns import RUN
from tests.lab.world import World
from tests.packages.machine import Broken, Machine

__all__ = ["InstalledCharon", "InstalledSwanroam", "install"]

TOP = Path(__file__).resolve().parents[2]
CONFIGURATION = "/etc/swanroam/swanroam.toml"


class InstalledSwanroam(Swanroam):
    """swanroam as its unit runs it."""

    def __init__(self, host: End, role: Literal["terminal", "gateway"], machine: Machine) -> None:
        super().__init__(host, role)
        self._role: Literal["terminal", "gateway"] = role
        self.machine = machine
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
        """Start the unit; systemd waits until it is ready."""
        self.machine.run("systemctl", "start", "swanroam")
        if wait:
            self.ready()

    @property
    def running(self) -> bool:
        """Whether the unit is active."""
        return self.machine.unit("swanroam")["ActiveState"] == "active"

    @property
    def returncode(self) -> int | None:
        """Exit status of the process that ran last."""
        return None if self.running else int(self.machine.unit("swanroam")["ExecMainStatus"])

    @property
    def log(self) -> str:
        """What it wrote to the journal."""
        return "\n".join(self.machine.journal("swanroam"))

    def command(self, *arguments: str) -> str:
        """What the `swanroam` program prints."""
        return self.machine.run("swanroam", *arguments)

    def stop(self) -> int:
        """Stop the unit; the exit status."""
        self.machine.run("systemctl", "stop", "swanroam")
        return int(self.machine.unit("swanroam")["ExecMainStatus"])

    def kill(self) -> None:
        """Kill the process, and have systemd not start it again."""
        self.machine.attempt("systemctl", "kill", "--signal=KILL", "swanroam")
        self.machine.attempt("systemctl", "stop", "swanroam")


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


@contextlib.contextmanager
def install(world: World, suite: str, *ends: End) -> Iterator[tuple[Machine, ...]]:
    """Boot a Debian with the package for each end, which takes the place of the lab's own programs."""
    with contextlib.ExitStack() as stack:
        machines = []
        for end in ends:
            space = RUN / end.namespace.name
            machine = Machine(
                TOP / ".roots" / f"{suite}-installed", end.folder / "console.log", name=end.name, network=space
            )
            machine.start()
            stack.callback(machine.stop)
            machines.append(machine)
        for end, machine in zip(ends, machines, strict=True):
            machine.ready()
            _take_place(world, end, machine)
            # Before the machine is gone, while there is somebody to tell.
            stack.callback(end.charon.kill)
            stack.callback(end.swanroam.kill)
        yield tuple(machines)


def _take_place(world: World, end: End, machine: Machine) -> None:
    role: Literal["terminal", "gateway"] = "terminal" if isinstance(end, Terminal) else "gateway"
    connection = (
        terminal_connection(end.number, world.tunnel) if isinstance(end, Terminal) else gateway_connection(world.tunnel)
    )
    end.charon = InstalledCharon(end, world.tunnel, connection, machine)
    end.swanroam = InstalledSwanroam(end, role, machine)
