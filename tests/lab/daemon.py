"""The program under test: a swanroam daemon in a namespace, spoken to as its users do."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tests.lab.conditions import eventually
from tests.lab.errors import Ended, LabError
from tests.lab.hosts import Host

__all__ = ["CAPABILITIES", "NICE", "Swanroam"]

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
CAPABILITIES = {"CAP_NET_ADMIN": CAP_NET_ADMIN, "CAP_NET_RAW": CAP_NET_RAW}
"""All that it may ever have, as in packaging/systemd/swanroam.service."""
NICE = -10
"""As there: without CAP_SYS_NICE it cannot raise its own priority."""


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


class Swanroam:
    """swanroam of one host. Its log grows over restarts."""

    def __init__(self, host: Host, role: Literal["terminal", "gateway"]) -> None:
        self._host, self._role = host, role
        self.file = host.folder / "swanroam.toml"
        self.socket = host.folder / "swanroam.sock"
        self.state_dir = host.folder / "state"
        self.log_file = host.folder / "swanroam.log"
        self.module = "swanroam"
        """What is run; a story may have it run by something that injects faults."""
        self._process: subprocess.Popen[bytes] | None = None

    def configure(
        self, *, capability: str = "negotiate", tunnels: Mapping[str, object] | None = None, **settings: object
    ) -> Path:
        """Write the configuration file: keys of the file as keyword arguments, `tunnels` beside the table for all."""
        top = {
            "role": self._role,
            "vici": str(self._host.folder / "charon.vici"),
            "control_socket": str(self.socket),
            "state_dir": str(self.state_dir),
            "log_level": "info",
            **settings,
        }
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in top.items())
        for name, table in {"*": {"capability": capability}, **(tunnels or {})}.items():
            assert isinstance(table, Mapping)
            text += f"\n[tunnels.{json.dumps(name)}]\n"
            text += "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
        self.file.write_text(text)
        return self.file

    def start(self, *, wait: bool = True, **configuration: Any) -> None:
        """Configure and start; waits until it is ready for work."""
        self.configure(**configuration)
        self.run(wait=wait)

    def run(self, *, wait: bool = True) -> None:
        """Start with the configuration file that is there."""
        if self.running:
            raise LabError(f"{self._host.name}: swanroam runs already")
        with self.log_file.open("ab") as log:
            self._process = self._host.namespace.spawn(
                [sys.executable, "-m", self.module, "run", "--config", str(self.file)],
                output=log,
                environment=dict(os.environ),
                capabilities=CAPABILITIES.values(),
                nice=NICE,
            )
        if wait:
            self.ready()

    def ready(self) -> None:
        """Wait until it knows charon."""

        def connected() -> bool:
            if not self.running:
                raise Ended(f"{self._host.name}: swanroam ended with {self.returncode}: {self.log[-2000:]}")
            return bool(self.status()["charon"]["connected"])

        # Its libraries take an emulated processor several seconds to load, on each end.
        eventually(connected, f"{self._host.name}: swanroam is connected to charon", deadline_s=90)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was last started."""
        if self._process is None:
            raise LabError(f"{self._host.name}: swanroam was never started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status of the process that was last started, None while it runs."""
        return self._process.poll() if self._process else None

    @property
    def log(self) -> str:
        """All that it ever wrote."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def status(self) -> dict[str, Any]:
        """What `swanroam status --json` shows, asked for at the control socket (the program needs seconds to start)."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(20)
            connection.connect(str(self.socket))
            connection.sendall(b'{"command": "status"}\n')
            data = b""
            while not data.endswith(b"\n") and (chunk := connection.recv(1 << 16)):
                data += chunk
        try:
            answer: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise LabError(f"{self._host.name}: the control socket answered {data!r}") from error
        return answer

    def command(self, *arguments: str) -> str:
        """What the `swanroam` program prints; LabError when it fails."""
        return self._host.namespace.run([sys.executable, "-m", "swanroam", *arguments])

    def tunnels(self) -> list[dict[str, Any]]:
        """The tunnels of the status."""
        found: list[dict[str, Any]] = self.status()["tunnels"]
        return found

    def tunnel(self, inner: str) -> dict[str, Any]:
        """The tunnel of an inner address; LabError when there is none (yet)."""
        for tunnel in self.tunnels():
            if inner in tunnel["inner"]:
                return tunnel
        raise LabError(f"{self._host.name}: no tunnel for {inner} in {self.tunnels()}")

    def reload(self) -> None:
        """Have it read its configuration again."""
        self.send_signal(signal.SIGHUP)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> int:
        """Stop with SIGTERM; returns the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill with -9."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise LabError(f"{self._host.name}: swanroam did not end within 30 s of {how.name}") from error
