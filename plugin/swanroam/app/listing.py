"""Keeps the core's view of charon true: lists IKE_SAs after events, on request, and when charon comes back.

Events only say which IKE_SA to look at; what is believed is always a listing. Requests that come while a listing is
under way are answered by the next one, so a burst of events costs two listings, not one each. All are listed only
when charon comes back, and where the core wants that: of thousands that takes seconds, in which nothing else is done.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

from swanroam.charon.protocols import CharonEvent, EventKind
from swanroam.errors import CharonError, KernelRefused
from swanroam.model.events import CharonLost, Event, IkeSaEnded, IkeSasListed
from swanroam.model.path import IPAddress, Path
from swanroam.model.tunnel import ChildSa, IkeSa

__all__ = ["Lister"]

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0


class Listing(Protocol):
    """The part of charon's commands that listing needs."""

    malformed: int
    """IKE_SAs left out of listings because they could not be read."""

    async def version(self) -> str:
        """The version of strongSwan."""

    async def list_sas(self, ike_id: int | None = None) -> tuple[IkeSa, ...]:
        """All IKE_SAs, or one."""


class Kernel(Protocol):
    """The part of the kernel's states that listing needs. Methods raise KernelRefused."""

    def paths(self, spis: Iterable[int], own: Collection[IPAddress] = ()) -> tuple[tuple[int, Path], ...]:
        """(inbound SPI, path) of the states that exist; of all, or of some, which are likely at addresses of `own`."""

    def places(self, reqids: Iterable[int]) -> tuple[tuple[int, tuple[IPAddress, IPAddress]], ...]:
        """(reqid, outer addresses: of this end, of the other) of the policies for what goes out."""

    def recover(self, children: Sequence[ChildSa], path: Path) -> int:
        """Let states send again that a daemon left silent when it was killed in the middle of a move."""


class Lister:
    """Turns charon's events into listings, and those into events of the core."""

    def __init__(
        self,
        charon: Listing,
        kernel: Kernel,
        dispatch: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self._charon = charon
        self._kernel = kernel
        self._woken = False
        self._dispatch = dispatch
        self._clock = clock
        self._reason = asyncio.Event()
        self._all = False
        self._some: set[int] = set()
        self._asked: set[int] = set()
        self.connected = False
        self.version = ""

    def heard(self, event: CharonEvent) -> None:
        """Take note of an event of charon."""
        match event.kind:
            case EventKind.CONNECTED:
                self.connected = True
                self.everything()
            case EventKind.LOST:
                self.connected = False
                self.version = ""  # another one may come back
                self._dispatch(CharonLost(at_s=event.at_s))
            case _:
                ids = {sa.unique_id for sa in (event.sa, event.former) if sa is not None}
                if ids:
                    self._some |= ids
                    self._reason.set()
                else:
                    self.everything()

    def everything(self) -> None:
        """List all IKE_SAs soon."""
        self._all = True
        self._reason.set()

    def ask(self, unique_ids: Collection[int]) -> None:
        """List IKE_SAs soon that the core wants to know of; all where none are named."""
        if not unique_ids:
            self.everything()
        self._asked.update(unique_ids)
        self._reason.set()

    async def run(self) -> None:
        """List whenever there is reason to, until cancelled."""
        while True:
            await self._reason.wait()
            self._reason.clear()
            everything, self._all = self._all, False
            asked, self._asked = self._asked, set()
            some, self._some = self._some - asked, set()
            try:
                if everything:
                    await self._list_all()
                    continue
                # The newest first: where one took over from another, the tunnel is known to go on before that one ends.
                for unique_id in sorted(some, reverse=True):
                    await self._list_one(unique_id)
                if asked:
                    await self._list_asked(asked)
            except CharonError as error:
                log.debug("listing IKE_SAs failed: %s", error)
                self._again()
            except Exception:
                # A defect of ours: without listings the daemon would be blind, so it goes on.
                log.exception("listing IKE_SAs failed")
                self._again()

    def _again(self) -> None:
        self._all = True
        if self.connected:
            asyncio.get_running_loop().call_later(RETRY_S, self._reason.set)

    async def _list_all(self) -> None:
        if not self.version:
            self.version = await self._charon.version()
        unreadable = self._charon.malformed
        sas = await self._charon.list_sas()
        # One that could not be read is not one that ended.
        self._report(sas, complete=self._charon.malformed == unreadable)

    async def _list_one(self, unique_id: int) -> None:
        sas, there = await self._list(unique_id)
        if sas:
            self._report(sas)
        elif not there:
            self._dispatch(IkeSaEnded(at_s=self._clock(), unique_id=unique_id))

    async def _list_asked(self, unique_ids: Iterable[int]) -> None:
        answers = [(unique_id, *await self._list(unique_id)) for unique_id in sorted(unique_ids)]
        told = tuple(unique_id for unique_id, sas, there in answers if sas or not there)
        if told:
            self._report(tuple(sa for _, sas, _ in answers for sa in sas), asked=told)

    async def _list(self, unique_id: int) -> tuple[tuple[IkeSa, ...], bool]:
        """An IKE_SA, and whether there is one: it may be that it could not be read."""
        unreadable = self._charon.malformed
        sas = await self._charon.list_sas(unique_id)
        return sas, bool(sas) or self._charon.malformed != unreadable

    def _report(self, sas: tuple[IkeSa, ...], *, complete: bool = False, asked: tuple[int, ...] = ()) -> None:
        spis = [child.spi_in for sa in sas for child in sa.children if child.spi_in]
        try:
            own = () if complete else tuple({sa.local.address for sa in sas})
            paths = self._kernel.paths(spis, own) if spis else ()
            places = self._kernel.places(child.reqid for sa in sas for child in sa.children)
        except KernelRefused as error:
            log.warning("reading the kernel's states failed: %s", error)
            paths, places = (), ()
        if complete and not self._woken:
            self._wake(sas, dict(paths))
        self._dispatch(
            IkeSasListed(
                at_s=self._clock(), sas=sas, complete=complete, asked=asked, kernel_paths=paths, policy_places=places
            )
        )

    def _wake(self, sas: tuple[IkeSa, ...], paths: Mapping[int, Path]) -> None:
        """Once after the start: an earlier daemon may have been killed while a state of its was stopped for a move."""
        try:
            for child in (child for sa in sas for child in sa.children if child.spi_in in paths):
                if count := self._kernel.recover((child,), paths[child.spi_in]):
                    log.warning("%s: %d states sent nothing since a move that was not finished", child.name, count)
        except KernelRefused as error:
            log.warning("looking for states that were left silent failed: %s", error)
        else:
            self._woken = True
