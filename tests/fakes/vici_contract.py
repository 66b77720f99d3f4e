"""What swanroam relies on from charon over vici; the fake and the real charon both pass it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import pytest

from swanroam.charon.commands import CharonCommands
from swanroam.charon.events import CharonEvents
from swanroam.charon.protocols import CharonEvent, EventKind
from swanroam.errors import CharonRefused
from swanroam.model.tunnel import IkeSa, Mode

__all__ = ["CharonUnderTest", "Told", "ViciContract", "until", "with_charon", "with_tunnel"]

DEADLINE_S = 30.0


class CharonUnderTest(Protocol):
    """A charon with a connection `roam` that has a child `net`, a virtual IP, and no tunnel yet."""

    @property
    def path(self) -> Path:
        """The vici socket."""


class Told:
    """Collects events and waits for them."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[CharonEvent] = asyncio.Queue()
        self.seen: list[CharonEvent] = []

    def take(self, event: CharonEvent) -> None:
        """The callback."""
        self.queue.put_nowait(event)

    async def until(self, kind: EventKind, *, up: bool = False) -> CharonEvent:
        """The next event of a kind."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                event = await self.queue.get()
                self.seen.append(event)
                if event.kind == kind and event.up == up:
                    return event


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - other threads do not set this loop's events
            await asyncio.sleep(0.002)


def with_charon(path: Path, story: Callable[[CharonCommands, Told], Awaitable[None]]) -> None:
    """Run a story with commands and events of the charon at `path`."""

    async def run() -> None:
        told = Told()
        events = CharonEvents(path, told.take, asyncio.get_running_loop())
        commands = CharonCommands(path, timeout_s=DEADLINE_S)
        events.start()
        commands.start()
        try:
            await told.until(EventKind.CONNECTED)
            await story(commands, told)
        finally:
            events.stop()
            commands.stop()

    asyncio.run(run())


async def with_tunnel(commands: CharonCommands, told: Told) -> IkeSa:
    """Set up the tunnel."""
    await commands.initiate("net", "roam")
    await told.until(EventKind.CHILD_UPDOWN, up=True)
    (sa,) = await commands.list_sas()
    return sa


class ViciContract:
    """Subclass with a fixture `charon`, and `tunnelling` if it must be checked first that tunnels can be set up."""

    @pytest.fixture
    def tunnelling(self) -> None:
        """Tunnels can be set up."""

    def test_charon_tells_its_version(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, _told: Told) -> None:
            assert re.match(r"[0-9]+\.[0-9]+", await commands.version())
            assert commands.answered_at_s is not None

        with_charon(charon.path, story)

    def test_without_tunnels_the_listing_is_empty(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, _told: Told) -> None:
            assert await commands.list_sas() == ()
            assert await commands.list_sas(77) == ()

        with_charon(charon.path, story)

    def test_what_charon_cannot_do_is_refused_with_its_reason(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, _told: Told) -> None:
            with pytest.raises(CharonRefused, match="'nothing' not found"):
                await commands.initiate("nothing", "roam")
            with pytest.raises(CharonRefused, match="no matching SAs to rekey"):
                await commands.rekey_ike(77)
            with pytest.raises(CharonRefused, match="no matching SAs to rekey"):
                await commands.rekey_child(77)
            with pytest.raises(CharonRefused, match="no matching SAs to terminate"):
                await commands.terminate(77)
            with pytest.raises(CharonRefused, match="no matching SAs to terminate"):
                await commands.terminate_child(77)
            assert await commands.list_sas() == ()
            assert commands.failures == 0

        with_charon(charon.path, story)

    def test_commands_given_together_are_all_answered(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, _told: Told) -> None:
            answers = await asyncio.gather(commands.version(), commands.list_sas(), commands.version())
            assert answers[0] == answers[2] != ""
            assert answers[1] == ()

        with_charon(charon.path, story)

    @pytest.mark.usefixtures("tunnelling")
    def test_a_tunnel_is_told_of_and_listed_with_its_children(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, told: Told) -> None:
            sa = await with_tunnel(commands, told)
            up = [event for event in told.seen if event.up]
            assert [event.kind for event in up] == [EventKind.IKE_UPDOWN, EventKind.CHILD_UPDOWN]
            assert all(event.sa and event.sa.unique_id == sa.unique_id for event in up)
            assert up[1].sa is not None
            assert up[1].sa.children == sa.children
            assert (sa.name, sa.version, sa.initiator, sa.established) == ("roam", 2, True, True)
            assert sa.initiator_spi > 0
            assert sa.responder_spi > 0
            assert (sa.local.port, sa.remote.port) == (500, 500)
            assert (sa.nat_local, sa.nat_remote, sa.mobike) == (False, False, False)
            (inner,) = sa.local_vips
            (child,) = sa.children
            assert (child.name, child.mode, child.protocol, child.state) == ("net", Mode.TUNNEL, "ESP", "INSTALLED")
            assert 0 < child.spi_in != child.spi_out > 0
            assert child.reqid > 0
            assert [str(selector) for selector in child.local_selectors] == [f"{ip_address(inner)}/32"]
            assert child.remote_selectors
            assert await commands.list_sas(sa.unique_id) == (sa,)
            assert commands.malformed == 0

        with_charon(charon.path, story)

    @pytest.mark.usefixtures("tunnelling")
    def test_a_rekey_tells_the_old_and_the_new_ike_sa(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, told: Told) -> None:
            sa = await with_tunnel(commands, told)
            await commands.rekey_ike(sa.unique_id)
            event = await told.until(EventKind.IKE_REKEY)
            assert event.former is not None
            assert event.sa is not None
            assert event.former.unique_id == sa.unique_id != event.sa.unique_id
            assert event.sa.initiator_spi != sa.initiator_spi
            (listed,) = await commands.list_sas(event.sa.unique_id)
            assert listed.children[0].spi_in == sa.children[0].spi_in

        with_charon(charon.path, story)

    @pytest.mark.usefixtures("tunnelling")
    def test_a_child_sa_is_rekeyed_by_its_id(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, told: Told) -> None:
            sa = await with_tunnel(commands, told)
            await commands.rekey_child(sa.children[0].unique_id)
            event = await told.until(EventKind.CHILD_REKEY)
            assert event.sa is not None
            (listed,) = await commands.list_sas(event.sa.unique_id)
            installed = {child.spi_out for child in listed.children if child.state == "INSTALLED"}
            assert sa.children[0].spi_out not in installed

        with_charon(charon.path, story)

    @pytest.mark.usefixtures("tunnelling")
    def test_a_child_sa_is_deleted_by_its_id(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, told: Told) -> None:
            sa = await with_tunnel(commands, told)
            await commands.terminate_child(sa.children[0].unique_id)
            await told.until(EventKind.CHILD_UPDOWN, up=False)
            (listed,) = await commands.list_sas()
            assert listed.unique_id == sa.unique_id
            assert "INSTALLED" not in [child.state for child in listed.children]

        with_charon(charon.path, story)

    @pytest.mark.usefixtures("tunnelling")
    def test_the_end_of_a_tunnel_is_told(self, charon: CharonUnderTest) -> None:
        async def story(commands: CharonCommands, told: Told) -> None:
            sa = await with_tunnel(commands, told)
            await commands.terminate(sa.unique_id, force=True)
            event = await told.until(EventKind.IKE_UPDOWN)
            assert event.sa is not None
            assert event.sa.unique_id == sa.unique_id
            assert await commands.list_sas() == ()

        with_charon(charon.path, story)
