"""The contract of tests/fakes/vici_contract.py with real charons, and how long they take to tell.

swrviciPID-t   wan0 192.0.2.2 ------ wan0 192.0.2.1   swrviciPID-g      virtual IPs 10.9.0.0/24
"""

import asyncio
import contextlib
import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from swanroam.charon.commands import CharonCommands
from swanroam.charon.protocols import EventKind
from swanroam.errors import CharonRefused
from tests.fakes.vici_contract import Told, ViciContract, with_charon, with_tunnel
from tests.lab.charon import Charon, TunnelOptions, gateway_connection, terminal_connection
from tests.lab.conditions import eventually
from tests.lab.errors import LabError
from tests.lab.hosts import Host
from tests.lab.netns import Namespace, batch, sweep
from tests.lab.topology import GATEWAY_LAN, GATEWAY_WAN

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(not Path("/usr/sbin/charon-systemd").exists(), reason="strongSwan is not installed"),
]

FAMILY = "swrvici"
RUNS = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """Two charons that can have a tunnel."""

    terminal: Charon
    gateway: Charon
    namespace: Namespace

    @property
    def path(self) -> Path:
        """The vici socket of the terminal."""
        return self.terminal.socket

    def quiet(self) -> bool:
        """Whether no IKE_SA is left."""
        return not self.terminal.sas() and not self.gateway.sas()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    sweep(FAMILY)
    names = [f"{FAMILY}{os.getpid()}-{end}" for end in "tg"]
    batch("ip", [f"netns add {name}" for name in names])
    # Unix sockets cannot be bound on the root file system of the guest, and /run is private to each charon.
    folder = Path(tempfile.mkdtemp(prefix=FAMILY, dir="/dev/shm"))
    batch("ip", [f"link add wan0 netns {names[0]} type veth peer name wan0 netns {names[1]}"])
    hosts = []
    for name, address in zip(names, ("192.0.2.2", GATEWAY_WAN), strict=True):
        namespace = Namespace(name)
        lines = ["link set lo up", f"addr add {address}/24 dev wan0", "link set wan0 up", "route add default dev wan0"]
        namespace.call(functools.partial(batch, "ip", lines))
        hosts.append(Host(name, namespace, folder / name))
    hosts[1].namespace.call(lambda: batch("ip", [f"addr add {GATEWAY_LAN}/24 dev lo"]))
    options = TunnelOptions()
    ends = (
        Charon(hosts[0], options, terminal_connection(1, options)),
        Charon(hosts[1], options, gateway_connection(options)),
    )
    try:
        for end in ends:
            end.start()
        for end in ends:
            eventually(end.socket.exists, "charon has its vici socket", deadline_s=60)
            end.ready()
        yield Pair(*ends, hosts[0].namespace)
    finally:
        for end in ends:
            end.kill()
        for host in hosts:
            host.close()
        batch("ip", [f"netns del {name}" for name in names])
        shutil.rmtree(folder)


@pytest.fixture
def charon(pair: Pair) -> Iterator[Pair]:
    yield pair
    for end in (pair.terminal, pair.gateway):
        asyncio.run(terminate_all(end))
    eventually(pair.quiet, "all tunnels are gone")


async def terminate_all(end: Charon) -> None:
    """Have all IKE_SAs of one end deleted, those too that go while this is done."""
    commands = CharonCommands(end.socket, timeout_s=30)
    commands.start()
    try:
        for sa in await commands.list_sas():
            with contextlib.suppress(CharonRefused):
                await commands.terminate(sa.unique_id, force=True)
    finally:
        commands.stop()


@pytest.fixture
def tunnelling(pair: Pair) -> None:
    state = ["src", "192.0.2.8", "dst", "192.0.2.9", "proto", "esp", "spi", "1"]
    algorithm = ["mode", "tunnel", "aead", "rfc4106(gcm(aes))", f"0x{0:040x}", "128"]
    try:
        pair.namespace.run(["ip", "xfrm", "state", "add", *state, *algorithm])
    except LabError:
        pytest.skip("this kernel has no ESP")
    pair.namespace.run(["ip", "xfrm", "state", "delete", *state])


class TestCharon(ViciContract):
    """The contract, kept by strongSwan."""

    @pytest.fixture
    def tunnelling(self, tunnelling: None) -> None:
        """As the module has it."""


@pytest.mark.usefixtures("tunnelling")
def test_events_and_listings_come_within_milliseconds(charon: Pair) -> None:
    listing_ms: list[float] = []
    version_ms: list[float] = []
    event_ms: list[float] = []

    async def story(commands: CharonCommands, told: Told) -> None:
        await with_tunnel(commands, told)
        for _ in range(RUNS):
            began_s = time.monotonic()
            assert len(await commands.list_sas()) == 1
            listing_ms.append((time.monotonic() - began_s) * 1000)
            began_s = time.monotonic()
            await commands.version()
            version_ms.append((time.monotonic() - began_s) * 1000)
        for _ in range(5):
            (sa,) = await commands.list_sas()
            await commands.rekey_ike(sa.unique_id)
            event = await told.until(EventKind.IKE_REKEY)
            event_ms.append((time.monotonic() - event.at_s) * 1000)
            async with asyncio.timeout(10):
                while len(await commands.list_sas()) != 1:
                    pass

    with_charon(charon.path, story)
    print(
        f"\nlist_sas: median {statistics.median(listing_ms):.2f} ms, version: {statistics.median(version_ms):.2f} ms, "
        f"from reading an event to the callback: {statistics.median(event_ms):.2f} ms"
    )
    assert statistics.median(listing_ms) < 200
