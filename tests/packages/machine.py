"""A Debian machine for one story: a root that mmdebstrap made, with systemd as its first process, in a container.

    the root          .roots/SUITE, read-only; what the machine writes is in memory and gone with it
    its network       a namespace of its own, with loopback alone, or one of the lab
    its kernel        the one that runs here

systemd-nspawn keeps it apart; nothing of it is known to the systemd of this machine, if there is one.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.lab.conditions import eventually
from tests.lab.errors import Ended

__all__ = ["Broken", "Machine"]

CAPABILITIES = "CAP_NET_ADMIN,CAP_NET_RAW"
GROUPS = Path("/sys/fs/cgroup")
BOOT_S = 240.0
"""On an emulated processor; a real one takes two seconds, and a kernel that is a program ten."""
USELESS = (
    "console-getty.service",
    "dev-hugepages.mount",
    "getty.target",
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "systemd-logind.service",
    "systemd-sysctl.service",
    "systemd-update-utmp.service",
    "timers.target",
)
"""What no story needs. Settings of the kernel are those of the lab."""


class Broken(AssertionError):
    """The machine did not do what was asked of it; the text says what it said."""


class Machine:
    """A machine that runs, as a context manager."""

    def __init__(
        self, root: Path, log: Path, *, name: str = "machine", network: Path | None = None, capabilities: bool = True
    ) -> None:
        """`network` is a named namespace; `log` gets what the machine says on its console.

        Without `capabilities` it may not change its network.
        """
        self.root, self.log, self._capable = root, log, capabilities
        may = f"--capability={CAPABILITIES}" if capabilities else f"--drop-capability={CAPABILITIES}"
        net = f"--network-namespace-path={network}" if network else "--private-network"
        self._name = f"swanroam-{os.getpid()}-{name}"
        self._command = [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--volatile=overlay"),
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"),
            *(f"--machine={self._name}", f"--directory={root}", may, net),
            *("systemd.unit=multi-user.target", *(f"systemd.mask={unit}" for unit in USELESS)),
        ]
        self._leader = 0
        self._halted = False
        if not any(GROUPS.iterdir()):
            # The guest has no systemd that would have done it.
            subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(GROUPS)], check=True)

    def __enter__(self) -> Self:
        self.start()
        self.ready()
        return self

    def start(self) -> None:
        """Switch it on."""
        # systemd of Debian 13 knows only the second version of control groups.
        environment = {**os.environ, "UNIFIED_CGROUP_HIERARCHY": "1"}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                preexec_fn=self._enter_group,
            )

    def ready(self) -> None:
        """Wait until it is up; it is gone when that fails."""
        try:
            self._leader = eventually(self._first_process, "the first process of the machine", deadline_s=BOOT_S)
            eventually(self._booted, "the machine is up", deadline_s=BOOT_S, every_s=0.2)
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def halt(self) -> None:
        """Have it switch itself off; `stop` waits for that."""
        if not self._halted:
            self._process.send_signal(signal.SIGTERM)
        self._halted = True

    def stop(self) -> None:
        """Switch it off."""
        self.halt()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def path(self, inside: str) -> Path:
        """Where a file of the machine is for this process; Unix sockets can be connected to through it too."""
        return Path(f"/proc/{self._leader}/root{inside}")

    def attempt(self, *command: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, whatever its status; both outputs are in `stdout`."""
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        return subprocess.run(
            [*self._enter(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )

    def run(self, *command: str, timeout_s: float = 300.0) -> str:
        """What a command writes; Broken when it fails."""
        done = self.attempt(*command, timeout_s=timeout_s)
        if done.returncode:
            raise Broken(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    def install(self, package: Path) -> str:
        """Have dpkg install a package from outside; what it said."""
        inside = f"/run/{package.name}"
        self.path(inside).write_bytes(package.read_bytes())
        try:
            return self.run("dpkg", "--install", inside)
        finally:
            self.path(inside).unlink()

    def write(self, inside: str, text: str) -> None:
        """Write a file, with the folders above it."""
        file = self.path(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def unit(self, name: str) -> dict[str, str]:
        """What systemd knows of a unit."""
        wanted = "ActiveState,SubState,Result,ExecMainStatus,NRestarts,MainPID,ConditionResult,UnitFileState"
        lines = self.run("systemctl", "show", f"--property={wanted}", name).splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def journal(self, unit: str) -> list[str]:
        """What a unit wrote, without what systemd says of it."""
        return self.run(
            "journalctl", "--unit", unit, "--output=cat", "--quiet", "--no-pager", "_TRANSPORT=stdout"
        ).splitlines()

    def keep_journal(self) -> None:
        """Have all of the journal in a file beside the log: it is gone with the machine."""
        text = self.attempt("journalctl", "--no-pager", "--output=short-precise", "--quiet").stdout
        self.log.with_name(f"{self.log.stem}-journal.log").write_text(text)

    def files(self, *left_out: str) -> frozenset[str]:
        """Every path of the root's file system but those below the ones that are left out."""
        prunes: Sequence[str] = [word for path in left_out for word in ("-path", path, "-prune", "-o")]
        return frozenset(self.run("find", "/", "-xdev", *prunes, "-print").splitlines())

    def _enter(self) -> list[str]:
        """What runs the command behind it in the machine."""
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/")
        # One who enters from outside has all capabilities that this process has.
        limits = [] if self._capable else ["setpriv", "--bounding-set=-net_admin,-net_raw"]
        return ["nsenter", f"--target={self._leader}", *spaces, *limits]

    def _enter_group(self) -> None:
        """Give systemd-nspawn a control group of its own, which it can divide: the one of this process is not free."""
        if (GROUPS / "cgroup.procs").exists():
            group = GROUPS / self._name
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def _first_process(self) -> int:
        if self._process.poll() is not None:
            raise Ended(f"systemd-nspawn ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        named = (int(child) for child in children if Path(f"/proc/{child}/comm").read_text().strip() == "systemd")
        return next(named, 0)

    def _booted(self) -> bool:
        state = self.attempt("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")
