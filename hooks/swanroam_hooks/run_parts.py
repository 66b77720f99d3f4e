"""Runs the executables of a directory when something happens, as run-parts(8) does.

    [hooks.run-parts]
    directory = "/etc/swanroam/hooks.d"    # a missing one is no error
    events = ["moved", "capability"]       # "rejected" too, if told: anybody on the network can cause those
    time_limit_s = 10                      # for each executable, which is killed then

In the order of their names, one after the other. Names consist of letters, digits, underscores and hyphens, so that
`move.dpkg-old` is not run. What happened is in environment variables: SWANROAM_EVENT, SWANROAM_TUNNEL, SWANROAM_OLD,
SWANROAM_NEW and more (hooks/README.md). Output goes to the daemon's stderr.

They run with the rights of the daemon, so nobody else may be able to change them: the files, the directory and the
directories above must belong to root and not be writable by others. Symbolic links are not followed.
"""

import logging
import os
import re
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from swanroam.hookspecs import hookimpl
from swanroam.model.effects import Announcement, CapabilityChanged, PacketRejected, TunnelMoved
from swanroam_hooks.fields import fields_of
from swanroam_hooks.options import Options

__all__ = ["RunParts"]

logger: Final = logging.getLogger(__name__)

DIRECTORY: Final = "/etc/swanroam/hooks.d"
EVENTS: Final = ("moved", "capability", "rejected")
NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
BASE_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class RunParts:
    """Runs executables; `owner` is the user id that they must belong to."""

    def __init__(self, owner: int = 0) -> None:
        self._owner = owner
        self._directory = Path(DIRECTORY)
        self._events: tuple[str, ...] = ("moved", "capability")
        self._time_limit_s = 10.0
        self._complaints: set[str] = set()

    @hookimpl
    def swanroam_configure(self, options: Mapping[str, object]) -> bool:
        """Read the options; False when no event is to be told."""
        read = Options(options, ("directory", "events", "time_limit_s"))
        self._directory = Path(read.text("directory", DIRECTORY))
        if not self._directory.is_absolute():
            raise ValueError(f"directory: {self._directory} is not an absolute path")
        self._events = read.strings("events", self._events, EVENTS)
        self._time_limit_s = read.seconds("time_limit_s", self._time_limit_s)
        return bool(self._events)

    @hookimpl
    def swanroam_moved(self, move: TunnelMoved) -> None:
        """Run for a move."""
        self._run_all(move)

    @hookimpl
    def swanroam_capability(self, change: CapabilityChanged) -> None:
        """Run for a change of capability."""
        self._run_all(change)

    @hookimpl
    def swanroam_rejected(self, rejection: PacketRejected) -> None:
        """Run for a rejection, if told to."""
        self._run_all(rejection)

    def _run_all(self, announcement: Announcement) -> None:
        fields = fields_of(announcement)
        if fields["SWANROAM_EVENT"] in self._events:
            for path in self._executables():
                self._run(path, BASE_ENVIRONMENT | fields)

    def _executables(self) -> list[Path]:
        """Absolute paths in the order of their names."""
        try:
            paths = sorted(path for path in self._directory.iterdir() if NAME.fullmatch(path.name))
            directories = (self._directory, *self._directory.parents)
            if not paths or not all(self._trusted(path, path.lstat()) for path in directories):
                return []
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(f"{self._directory}: {error.strerror}")
            return []
        return [path for path in paths if self._runnable(path)]

    def _runnable(self, path: Path) -> bool:
        try:
            status = path.lstat()
        except OSError:
            return False  # removed meanwhile
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IXUSR:
            return False
        return self._trusted(path, status)

    def _trusted(self, path: Path, status: os.stat_result) -> bool:
        if status.st_uid not in (0, self._owner):
            self._complain(f"{path}: not run, it belongs to user {status.st_uid}, not to {self._owner}")
            return False
        if stat.S_ISLNK(status.st_mode):
            self._complain(f"{path}: not run, it is a symbolic link")
            return False
        # In a sticky directory, as /tmp, others can add files but neither replace nor rename this one.
        sticky_parent = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and path != self._directory
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky_parent:
            self._complain(f"{path}: not run, others than its owner can write it (mode {status.st_mode & 0o7777:04o})")
            return False
        return True

    def _run(self, path: Path, environment: Mapping[str, str]) -> None:
        try:
            # A session of its own, so that what it has started is killed with it.
            process = subprocess.Popen(  # noqa: S603 - the operator put it there, and nobody else can have
                [str(path)], cwd="/", env=dict(environment), stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
            )
        except OSError as error:
            self._complain(f"{path}: cannot be run: {error.strerror}")
            return
        try:
            code = process.wait(self._time_limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            logger.warning("%s: killed after %g s", path, self._time_limit_s)
        else:
            if code:
                logger.warning("%s: exit status %d", path, code)

    def _complain(self, problem: str) -> None:
        if problem not in self._complaints:
            self._complaints.add(problem)
            logger.warning("%s", problem)
