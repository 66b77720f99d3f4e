"""A host of the lab: its namespace, its links, and its agent."""

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from tests.lab.errors import AgentRefused
from tests.lab.links import Links
from tests.lab.netns import Namespace

__all__ = ["Agent", "Host"]

AGENT = Path(__file__).parent / "agent"


class Agent:
    """The other end of `agent/`: each call is one command and its answer."""

    def __init__(self, namespace: Namespace, log: IO[bytes]) -> None:
        self._where = namespace.name
        # -I -S: the agent needs nothing but the standard library, and starts in a fraction of the time.
        self._process = namespace.spawn([sys.executable, "-I", "-S", str(AGENT)], pipes=True, output=log)

    def do(self, command: str, name: str = "", **arguments: object) -> Any:
        """Carry out a command on the worker of a name; raises AgentRefused with the agent's own words."""
        order: dict[str, object] = {"do": command, **({"name": name} if name else {}), **arguments}
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            reply = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:
            raise AgentRefused(f"{self._where}: the agent is gone ({error})") from error
        if "error" in reply:
            raise AgentRefused(f"{self._where}: {command} {name}: {reply['error']}")
        return reply["ok"]

    def close(self) -> None:
        """End the agent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Host:
    """A host; `folder` is for its logs, sockets and state, on a file system that Unix sockets can be bound on."""

    def __init__(self, name: str, namespace: Namespace, folder: Path) -> None:
        self.name, self.namespace, self.folder = name, namespace, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.links = Links(namespace)
        self._agent: Agent | None = None

    @property
    def agent(self) -> Agent:
        """The agent, started when first asked for."""
        if self._agent is None:
            with (self.folder / "agent.log").open("ab") as log:
                self._agent = Agent(self.namespace, log)
        return self._agent

    def show(self, command: str) -> str:
        """What a command prints in this host, for a person to read."""
        return self.namespace.run(command.split())

    def close(self) -> None:
        """End what runs here."""
        if self._agent is not None:
            self._agent.close()
            self._agent = None
        self.links.close()
        self.namespace.close()
