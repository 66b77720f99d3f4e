"""Network namespaces: entering one, and starting programs in one, without a process for each step."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.lab.errors import LabError

__all__ = ["Namespace", "batch", "sweep"]

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
RUN = Path("/run/netns")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise LabError(f"{what}: {os.strerror(code)}")


def batch(program: str, lines: Sequence[str]) -> None:
    """Run `ip` or `tc` once for many commands."""
    done = subprocess.run([program, "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False)
    if done.returncode:
        raise LabError(f"{program} -batch: {done.stderr.strip()}\n" + "\n".join(lines))


def sweep(family: str) -> None:
    """Remove namespaces that a killed process left behind; their names are FAMILY, its process id, `-`, the host."""
    for path in RUN.glob(f"{family}*-*") if RUN.exists() else ():
        owner = path.name.removeprefix(family).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            batch("ip", [f"netns del {path.name}"])


class Namespace:
    """A network namespace that exists; closing forgets it without deleting it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._descriptor = os.open(RUN / name, os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread be in the namespace: sockets and processes it makes stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _checked(_libc.setns(self._descriptor, CLONE_NEWNET), f"entering {self.name}")
            try:
                yield
            finally:
                _checked(_libc.setns(before, CLONE_NEWNET), "returning from a namespace")
        finally:
            os.close(before)

    def spawn(
        self,
        arguments: Sequence[str],
        *,
        output: IO[bytes] | int | None = None,
        pipes: bool = False,
        environment: Mapping[str, str] | None = None,
        private_run: bool = False,
        capabilities: Collection[int] | None = None,
        nice: int = 0,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the namespace; it does not outlive the process that starts it.

        With `private_run` it has a /run of its own (charon keeps its pid file there). With `capabilities` it and what
        it starts can never have any but these (linux/capability.h), as under CapabilityBoundingSet= and
        NoNewPrivileges= of systemd.
        """

        def prepare() -> None:
            (_private_run if private_run else _die_with_parent)()
            if nice:
                os.setpriority(os.PRIO_PROCESS, 0, nice)
            if capabilities is not None:
                _confine(capabilities)

        with self.entered():
            return subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env=environment,
                preexec_fn=prepare,
                start_new_session=True,
            )

    def run(self, arguments: Sequence[str], *, timeout_s: float = 120.0) -> str:
        """Run a program in the namespace to its end; returns what it wrote, on both outputs."""
        with self.entered():
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        if done.returncode:
            raise LabError(f"{' '.join(arguments)}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    def sysctl(self, settings: Mapping[str, str]) -> None:
        """Write settings of the namespace; keys are paths below /proc/sys/net."""
        with self.entered():
            for key, value in settings.items():
                Path("/proc/sys/net", key).write_text(value)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function inside."""
        with self.entered():
            function()

    def close(self) -> None:
        """Give up the descriptor."""
        os.close(self._descriptor)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _private_run() -> None:
    _die_with_parent()
    _checked(_libc.unshare(CLONE_NEWNS), "unshare")
    _checked(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "making mounts private")
    _checked(_libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, None), "mounting a private /run")


def _confine(capabilities: Collection[int]) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if capability not in capabilities:
            _checked(_libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), f"giving up capability {capability}")
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
