"""The package's AppArmor profile, in force in this kernel, and what it denied (man 7 apparmor)."""

import contextlib
import re
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["AppArmor"]

PROFILE = Path(__file__).resolve().parents[2] / "packaging/apparmor/swanroam"
ENABLED = Path("/sys/module/apparmor/parameters/enabled")
NETLINK_AUDIT = 9
AUDIT_NLGRP_READLOG = 1  # include/uapi/linux/audit.h
SO_RCVBUFFORCE = 33
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
# AppArmor looks at whole paths, and the root of the lab's guest is in a folder. An alias does not reach into a variable
# with several values.
FOR_THE_GUEST = """alias / -> /run/root/,
@{etc_ro}+=/run/root/etc/

profile swanroam """


class AppArmor:
    """The profile is there while the context is entered."""

    @staticmethod
    def is_there() -> bool:
        """Whether this kernel has it switched on."""
        return ENABLED.exists() and ENABLED.read_text().strip() == "Y"

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_AUDIT)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._socket.bind((0, AUDIT_NLGRP_READLOG))
        self._said: list[str] = []
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "swanroam"
        self._file.write_text(PROFILE.read_text().replace("profile swanroam ", FOR_THE_GUEST, 1))
        self._parse("--replace")
        return self

    def __exit__(self, *_: object) -> None:
        self._parse("--remove")
        self._folder.cleanup()
        self._socket.close()

    def denied(self) -> list[str]:
        """What was denied, or was not in a profile that only complains, since the context was entered; each once."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._said.append(self._socket.recv(1 << 16)[HEADER.size :].decode(errors="replace").rstrip("\0"))
        found = (line for line in self._said if re.search(r'apparmor="(ALLOWED|DENIED)".* profile="swanroam', line))
        # Without the time, the number and the process.
        return list(dict.fromkeys(re.sub(r"^audit\([^)]*\): |pid=\d+ ", "", line) for line in found))

    def attempt(self, *command: str) -> str:
        """Run a command within the profile; what it writes."""
        confined = ["aa-exec", "--profile=swanroam", "--", *command]
        return subprocess.run(confined, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    def _parse(self, what: str) -> None:
        subprocess.run(["apparmor_parser", what, "--skip-cache", str(self._file)], check=True)
