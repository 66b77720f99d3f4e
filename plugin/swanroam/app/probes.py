"""Asks this machine what `swanroam check` wants to know. Nothing is changed, but the kernel may load modules."""

import errno
import gzip
import importlib
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from swanroam.app.check import Charon
from swanroam.app.strongswan_conf import read_settings
from swanroam.errors import KernelRefused, SwanroamError
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.model.tunnel import Role
from swanroam.wire.ruleset import ruleset

__all__ = ["MachineProbes"]

NETLINK_XFRM: Final = 6
XFRM_MSG_MIGRATE: Final = 0x21
POLICY_ID_BYTES: Final = 64  # struct xfrm_userpolicy_id
MIGRATE_UNKNOWN: Final = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP})
OPTION: Final = re.compile(r"^(?:CONFIG_(\w+)=([ym])|# CONFIG_(\w+) is not set)$", re.MULTILINE)
PROGRAM_TIMEOUT_S: Final = 30.0
VICI_TIMEOUT_S: Final = 5.0
CHECK_TABLE: Final = "swanroam-check"
CHECK_QUEUE: Final = 4555
CHECK_PORT: Final = 4555
INSTALL: Final = "install strongSwan (charon-systemd and strongswan-swanctl), and start it"


class MachineProbes:
    """The real machine. `root` is its file system, `vici` charon's socket."""

    def __init__(self, vici: Path, *, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> None:
        self._vici, self._root, self._environment = vici, root, environment

    def release(self) -> str:
        """The running kernel."""
        return os.uname().release

    def option(self, name: str) -> str | None:
        """From /proc/config.gz, or the configuration beside kernel or modules."""
        return self._options.get(name, "n") if self._options else None

    def module(self, name: str) -> bool:
        """Whether it is loaded, or modprobe would find it: names have `_` where files may have `-`."""
        return name in self._modules

    def loaded(self, name: str) -> bool:
        """From /proc/modules; what is built in is not listed there."""
        return any(line.split(" ", 1)[0] == name for line in self._lines("proc/modules"))

    def xfrm(self) -> str:
        """Open a socket and close it."""
        try:
            NetlinkSocket(NETLINK_XFRM).close()
        except KernelRefused as error:
            return os.strerror(error.code)
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def migrate(self) -> bool | None:
        """Send a message without what it must have: a kernel that knows it finds that missing and does nothing."""
        try:
            with NetlinkSocket(NETLINK_XFRM) as xfrm:
                xfrm.request("migrate", XFRM_MSG_MIGRATE, bytes(POLICY_ID_BYTES))
        except KernelRefused as error:
            return None if error.code in (errno.EPERM, errno.EACCES) else error.code not in MIGRATE_UNKNOWN
        except OSError:
            return None
        return True

    def nft(self) -> str | None:
        """Run it."""
        program = shutil.which("nft", path=self._path)
        if program is None:
            return None
        try:
            answer = subprocess.run(  # noqa: S603 - a fixed argument to the program that the daemon itself uses
                [program, "--version"], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True
            )
        except (OSError, subprocess.SubprocessError, UnicodeError):
            return None
        return answer.stdout.strip() or None

    def rules(self, role: Role | None) -> str | None:
        """Let nft have the kernel judge the rules, without taking them."""
        program = shutil.which("nft", path=self._path)
        if program is None or os.geteuid() != 0:
            return None
        text = ruleset(role or Role.GATEWAY, table=CHECK_TABLE, queue=CHECK_QUEUE, port=CHECK_PORT)
        try:
            answer = subprocess.run(  # noqa: S603 - fixed arguments to the program that the daemon itself uses
                [program, "--check", "--file", "-"],
                input=text.encode(),
                capture_output=True,
                timeout=PROGRAM_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        if answer.returncode == 0:
            return ""
        lines = answer.stderr.decode(errors="replace").splitlines()
        return lines[0] if lines else f"nft ended with status {answer.returncode}"

    def capabilities(self) -> int | None:
        """CapEff of this process (man 5 proc)."""
        try:
            status = (self._root / "proc/self/status").read_text()
        except OSError:
            return None
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
        return int(match[1], 16) if match else None

    def charon(self) -> Charon:
        """Connect, then ask for the version."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(VICI_TIMEOUT_S)
                connection.connect(os.fspath(self._vici))
        except FileNotFoundError:
            return Charon("", f"no vici socket at {self._vici}", f"{INSTALL}; or set vici to where its socket is")
        except ConnectionRefusedError:
            return Charon("", f"charon is not running: nobody answers on {self._vici}", INSTALL)
        except PermissionError:
            return Charon("", f"not permitted to use {self._vici}", "run it as root or in the group of that socket")
        except OSError as error:
            return Charon("", f"{self._vici}: {error.strerror or error}", INSTALL)
        try:
            module = importlib.import_module("swanroam.charon.connection")
        except ImportError as error:
            return Charon("", f"charon cannot be asked: {error}", "install the Python packages below")
        link = module.ViciConnection(self._vici)
        try:
            link.connect(VICI_TIMEOUT_S)
            version = link.request("version", {}, VICI_TIMEOUT_S).message.get("version", b"")
        except (SwanroamError, OSError) as error:
            return Charon("", str(error), f"see that charon runs and that {self._vici} is its vici socket")
        finally:
            link.close()
        return Charon(version.decode(errors="replace") if isinstance(version, bytes) else str(version))

    def roam_events(self) -> tuple[bool | None, str]:
        """Read strongswan.conf; charon-systemd falls back on the settings of charon."""
        file = Path(self._environment.get("STRONGSWAN_CONF") or self._root / "etc/strongswan.conf")
        try:
            settings = read_settings(file, _read, _expand)
        except (OSError, ValueError) as error:
            return None, str(error)
        names = [f"{section}.plugins.kernel-netlink.roam_events" for section in ("charon-systemd", "charon")]
        name = next((name for name in names if settings.get(name) is not None), None)
        if name is None:
            return True, "the default"
        return settings.boolean(name, default=True), f"{name} in {file}"

    def package(self, name: str) -> str | None:
        """From its metadata, without importing it."""
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def _path(self) -> str:
        # A user's path often lacks the folders of system programs.
        return f"{self._environment.get('PATH', '')}:/usr/sbin:/sbin"

    @cached_property
    def _options(self) -> Mapping[str, str]:
        release = self.release()
        for name in ("proc/config.gz", f"boot/config-{release}", f"lib/modules/{release}/config"):
            try:
                data = (self._root / name).read_bytes()
                text = (gzip.decompress(data) if name.endswith(".gz") else data).decode(errors="replace")
            except (OSError, EOFError, ValueError):
                continue
            return {match[1] or match[3]: match[2] or "n" for match in OPTION.finditer(text)}
        return {}

    @cached_property
    def _modules(self) -> frozenset[str]:
        found = [line.split(" ", 1)[0] for line in self._lines("proc/modules")]
        for index in ("modules.dep", "modules.builtin"):
            paths = (line.split(":", 1)[0] for line in self._lines(f"lib/modules/{self.release()}/{index}"))
            found.extend(Path(path).name.split(".", 1)[0] for path in paths)
        return frozenset(name.replace("-", "_") for name in found)

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._root / name).read_text(errors="replace").splitlines()
        except OSError:
            return []


def _read(file: Path) -> str:
    return file.read_text(errors="replace")


def _expand(folder: Path, pattern: str) -> Iterable[Path]:
    absolute = Path(pattern)
    base, relative = (Path("/"), pattern.lstrip("/")) if absolute.is_absolute() else (folder, pattern)
    return sorted(base.glob(relative))
