"""charon's commands, answered in memory: what is listed and what is refused is the test's to say."""

import asyncio
from collections import deque

from swanroam.errors import CharonError
from swanroam.model.tunnel import IkeSa

__all__ = ["FakeCommands"]


class FakeCommands:
    """A charon with the IKE_SAs `sas`."""

    def __init__(self, *sas: IkeSa) -> None:
        self.sas: dict[int, IkeSa] = {sa.unique_id: sa for sa in sas}
        self.malformed = 0
        self.unreadable = 0
        """How many IKE_SAs of each listing cannot be read."""
        self.failures: dict[str, deque[CharonError]] = {}
        self.commands: list[tuple[object, ...]] = []
        self.answering = asyncio.Event()
        """While clear, listings and terminations wait."""
        self.answering.set()

    def fail(self, command: str, *errors: CharonError) -> None:
        """The next commands of this name fail."""
        self.failures.setdefault(command, deque()).extend(errors)

    def given(self, command: str) -> int:
        """How often a command was given."""
        return sum(each[0] == command for each in self.commands)

    async def version(self) -> str:
        """Of strongSwan."""
        self._take("version")
        return "5.9.8"

    async def list_sas(self, ike_id: int | None = None) -> tuple[IkeSa, ...]:
        """All of them, or one."""
        self._take("list-sas", ike_id)
        await self.answering.wait()
        self.malformed += self.unreadable
        return tuple(sa for unique_id, sa in self.sas.items() if ike_id in (None, unique_id))

    async def terminate(self, ike_id: int, *, force: bool = False) -> None:
        """End one."""
        self._take("terminate", ike_id, force)
        await self.answering.wait()

    async def rekey_child(self, child_id: int) -> None:
        """Rekey one."""
        self._take("rekey-child", child_id)

    async def terminate_child(self, child_id: int) -> None:
        """End one."""
        self._take("terminate-child", child_id)

    async def initiate(self, child: str, ike: str) -> None:
        """Build one."""
        self._take("initiate", child, ike)

    def _take(self, command: str, *arguments: object) -> None:
        self.commands.append((command, *arguments))
        if errors := self.failures.get(command):
            raise errors.popleft()
