"""The whole daemon in one process: charon is one in memory behind a real socket, all else a machine in memory."""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest

from swanroam.app import config as configuration
from swanroam.app.config import Config
from swanroam.app.control import ask
from swanroam.app.daemon import FILTER_RETRY_S, Daemon, run
from swanroam.app.status import Status, TunnelStatus
from swanroam.errors import ControlError, KernelRefused, StoreError, SwanroamError, WireError
from swanroam.kernel.queue import HeldEsp, LateEsp, TunnelMessage, Unreadable
from swanroam.model.messages import Feature, GatewayMoved, Hello, HelloAck, Message, PathChallenge, Update
from swanroam.model.path import IPAddress
from swanroam.wire.control import decode, encode
from swanroam.wire.esp import EspState
from swanroam.wire.espcrypt import Algorithm as EspAlgorithm
from swanroam.wire.esppacket import EspPacket
from swanroam.wire.inner import parse_ip
from swanroam.wire.xfrm import SaState
from swanroam.wire.xfrm.algorithms import Algorithm, Key
from swanroam.wire.xfrm.replay import Replay
from swanroam.wire.xfrm.structs import XfrmSelector
from tests.fakes.machine import FakeHooks, Machine
from tests.fakes.vici import FakeCharon, child_section, ike_section
from tests.fakes.vici_contract import until
from tests.support.esp_seal import ip_packet, seal
from tests.support.values import homes, repository

STOP_S = 2.0
HERE, THERE, ELSEWHERE = IPv4Address("10.0.1.2"), IPv4Address("10.0.2.2"), IPv4Address("198.51.100.77")
SECOND = IPv4Address("10.9.0.2")
GATEWAY, INNER, SERVER = IPv4Address("10.9.0.1"), IPv4Address("10.3.0.1"), IPv4Address("10.1.0.1")
SPI = 0xC0000001
HELLO = Hello(nonce=bytes(16), features=Feature.UPDATE | Feature.PATH_CHALLENGE)
SECRET = bytes(range(100, 120))


def write(file: Path, role: str = "gateway", more: str = "", state: str = "state") -> Path:
    folder = file.parent
    file.write_text(
        f'role = "{role}"\nvici = "{folder}/vici"\ncontrol_socket = "{folder}/control"\n'
        f'state_dir = "{folder}/{state}"\nlog_level = "debug"\n{more}'
    )
    return file


@dataclass(slots=True)
class Running:
    """A daemon that runs."""

    config: Config
    file: Path
    machine: Machine
    charon: FakeCharon
    serving: "asyncio.Task[None] | None" = None

    async def status(self) -> Status:
        """What it answers."""
        return cast("Status", await asyncio.to_thread(ask, self.config.control_socket, "status"))

    async def until_status(self, condition: Callable[[Status], bool]) -> Status:
        """Its answer once that is so."""
        async with asyncio.timeout(20):
            while not condition(status := await self.status()):  # noqa: ASYNC110 - it is asked as by another process
                await asyncio.sleep(0.005)
            return status

    async def tunnel(self, condition: Callable[[TunnelStatus], bool] = lambda _: True) -> TunnelStatus:
        """The only tunnel once that is so."""
        status = await self.until_status(lambda status: len(status["tunnels"]) == 1 and condition(status["tunnels"][0]))
        return status["tunnels"][0]

    def message(self, message: Message, inner: IPAddress = INNER) -> None:
        """A message comes out of the tunnel, at the gateway."""
        self.machine.queue.put(TunnelMessage(inner, SERVER, encode(message)))

    def sent(self) -> list[Message]:
        """The messages that it sent."""
        return [decode(data) for _, _, data in self.machine.sender.sent if data]

    async def until_sent(self, kind: type[Message]) -> Message:
        """The first message of a kind."""
        await until(lambda: any(isinstance(message, kind) for message in self.sent()))
        return next(message for message in self.sent() if isinstance(message, kind))

    def tell(self, number: signal.Signals) -> None:
        """Send a signal, while it is known to be handled."""
        assert self.serving is not None
        assert not self.serving.done()
        os.kill(os.getpid(), number)


Story = Callable[[Running], Awaitable[None]]


@dataclass(slots=True)
class Stage:
    """Where daemons run: a folder, a charon that may be absent, and a machine for each daemon."""

    folder: Path
    charon: FakeCharon = field(init=False)

    def __post_init__(self) -> None:
        self.charon = FakeCharon(self.folder / "vici")

    def serve(
        self, story: Story, role: str = "gateway", more: str = "", machine: Machine | None = None
    ) -> tuple[Machine, float]:
        """Run a daemon for a story, then stop it; the machine that it ran on, and the seconds that stopping took."""
        file = write(self.folder / "swanroam.toml", role, more)
        running = Running(configuration.load(file), file, machine or Machine(), self.charon)
        return running.machine, asyncio.run(self._serve(running, story))

    async def _serve(self, running: Running, story: Story) -> float:
        with ExitStack() as cleanup:
            loop = asyncio.get_running_loop()
            daemon = Daemon(running.config, running.file, loop, cleanup, running.machine.adapters())
            running.serving = asyncio.create_task(daemon.serve())
            try:
                await until(lambda: running.machine.filter.whole or bool(running.serving and running.serving.done()))
                async with asyncio.timeout(30):
                    await story(running)
            finally:
                began_s = time.monotonic()
                if not running.serving.done():
                    running.tell(signal.SIGTERM)
                await running.serving
        running.machine.routes.close()
        return time.monotonic() - began_s

    def at_gateway(self) -> None:
        """The tunnel as the gateway has it."""
        self.charon.sas[1] = ike_section(
            1,
            initiator="no",
            local_vips=None,
            remote_vips=[str(INNER)],
            local_host=str(GATEWAY),
            remote_host=str(HERE),
        )
        self.charon.children[1] = child_section(1, local_ts=["10.1.0.0/16"], remote_ts=[f"{INNER}/32"])

    def at_terminal(self) -> None:
        """The tunnel as the terminal has it."""
        self.charon.sas[1] = ike_section(1, local_host=str(HERE), remote_host=str(GATEWAY), local_vips=[str(INNER)])
        self.charon.children[1] = child_section(1)


@pytest.fixture
def stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    caplog.set_level("DEBUG", "swanroam")
    made = Stage(tmp_path)
    yield made
    made.charon.stop()


async def nothing(_running: Running) -> None:
    """A daemon that is stopped as soon as it runs."""


def test_a_daemon_answers_what_it_knows(stage: Stage) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        told = await running.tunnel()
        assert (told["name"], told["inner"]) == ("roam", [str(INNER)])
        assert told["remote"] == {"address": str(HERE), "port": 500}
        assert (told["capability"], told["mobike"], told["moves"]) == ("pending", False, 0)
        status = await running.status()
        assert (status["role"], status["charon"]) == ("gateway", {"version": "5.9.8", "connected": True})

    with stage.charon:
        stage.serve(story)


@pytest.mark.parametrize("role", ["gateway", "terminal"])
def test_a_daemon_that_is_stopped_leaves_nothing_but_the_tunnels(stage: Stage, role: str) -> None:
    if role == "gateway":
        stage.at_gateway()
    else:
        stage.at_terminal()

    async def story(running: Running) -> None:
        await running.tunnel()

    with stage.charon:
        machine, took_s = stage.serve(story, role)
        assert took_s < STOP_S
        assert not {"terminate", "rekey", "initiate"} & set(stage.charon.commands)
    assert machine.all_closed
    assert (machine.done("remove"), machine.filter.whole) == (["remove"], False)
    assert machine.done("move", "inform") == []
    assert not (stage.folder / "control").exists()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("charon", "store"))] == []


@contextmanager
def signalled(config: Config, number: signal.Signals) -> Iterator[list[float]]:
    """Send a signal to this process once the daemon answers; when that was."""
    when: list[float] = []

    def send() -> None:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with contextlib.suppress(ControlError):
                ask(config.control_socket, "status")
                when.append(time.monotonic())
                os.kill(os.getpid(), number)
                return

    thread = threading.Thread(target=send)
    thread.start()
    yield when
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_status_0_within_two_seconds(stage: Stage, number: signal.Signals) -> None:
    file = write(stage.folder / "swanroam.toml")
    config = configuration.load(file)
    machine = Machine()
    with signalled(config, number) as sent_s:
        status = run(config, file, machine.adapters())
        ended_s = time.monotonic()
    machine.routes.close()
    assert status == 0
    assert ended_s - sent_s[0] < STOP_S
    assert machine.all_closed


def test_a_charon_that_answers_nothing_does_not_delay_the_stop(stage: Stage) -> None:
    async def story(running: Running) -> None:
        await running.until_status(lambda status: status["charon"]["connected"])
        stage.charon.stalled.set()
        stage.charon.emit("ike-updown", {"up": "yes", "roam": ike_section(1)})
        commands = stage.charon.connections
        assert commands > 0

    with stage.charon:
        _, took_s = stage.serve(story)
    assert took_s < STOP_S


def test_clients_that_say_nothing_do_not_delay_the_stop(stage: Stage) -> None:
    async def story(running: Running) -> None:
        for client in clients:
            client.connect(str(running.config.control_socket))
        clients[0].send(b'{"comm')

    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
    with stage.charon, ExitStack() as closing:
        for client in clients:
            closing.enter_context(client)
        _, took_s = stage.serve(story)
    assert took_s < STOP_S


def test_a_charon_that_comes_late_and_is_restarted_is_found(stage: Stage) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        expected: Status = {
            "role": "gateway",
            "charon": {"version": "", "connected": False},
            "tunnels": [],
            "rejected": {"wrong-tunnel": 3},
            "left_alone": [],
        }
        assert await running.status() == expected
        with stage.charon:
            await running.tunnel()
        gone = await running.until_status(lambda status: not status["charon"]["connected"])
        assert gone["charon"]["version"] == ""
        assert len(gone["tunnels"]) == 1, "what the kernel does goes on without charon"
        stage.charon.sas.clear()
        stage.charon.start()
        await running.until_status(lambda status: status["charon"]["connected"] and not status["tunnels"])

    machine, _ = stage.serve(story)
    assert machine.done("watch", "unwatch")[0] == "watch"
    assert machine.done("watch", "unwatch")[-1] == "unwatch"


def test_systemd_is_told_of_start_reload_and_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = stage.folder / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))

    async def story(running: Running) -> None:
        running.tell(signal.SIGHUP)
        await until(lambda: "configuration reloaded" in caplog.text)

    with stage.charon, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(address))
        systemd.setblocking(False)
        stage.serve(story)
        told = [systemd.recv(1000).decode().split("=")[0] for _ in range(4)]
    assert told == ["READY", "RELOADING", "READY", "STOPPING"]


def test_a_good_reload_is_taken_over_by_tunnels_hooks_and_log_level(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        await running.tunnel(lambda tunnel: tunnel["capability"] == "pending")
        write(running.file, more='[tunnels."*"]\ncapability = "off"\n[hooks]\ndisable = ["noise"]\n')
        running.tell(signal.SIGHUP)
        await running.tunnel(lambda tunnel: tunnel["capability"] == "none")
        assert [hooks.closed for hooks in running.machine.hooks] == [True, False]
        await until(lambda: bool(running.machine.hooks[1].announced))
        assert "configuration reloaded: tunnels, hooks" in caplog.text
        running.tell(signal.SIGHUP)
        await until(lambda: "configuration reloaded: nothing new" in caplog.text)
        assert len(running.machine.hooks) == 2

    with stage.charon:
        machine, _ = stage.serve(story)
    assert machine.all_closed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('role = "gatway"\n', "role: is 'gatway'"),
        ("role = \n", "line 1: is not valid TOML"),
        ('role = "gateway"\ncolour = "red"\n', "colour: is not a setting"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_reload_changes_nothing(
    stage: Stage, text: str | None, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        before = await running.tunnel()
        running.file.unlink()
        if text is not None:
            running.file.write_text(text)
        running.tell(signal.SIGHUP)
        await until(lambda: "configuration not reloaded" in caplog.text)
        (line,) = [record.getMessage() for record in caplog.records if "not reloaded" in record.getMessage()]
        assert str(running.file) in line
        assert problem.split(":")[0] in line
        assert await running.tunnel() == before
        assert len(running.machine.hooks) == 1

    with stage.charon:
        stage.serve(story)


def test_what_needs_a_restart_is_named_and_the_rest_is_taken_over(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        await running.tunnel()
        write(running.file, "terminal", 'port = 4000\n[tunnels."*"]\ncapability = "off"\n', state="other")
        running.tell(signal.SIGHUP)
        await running.tunnel(lambda tunnel: tunnel["capability"] == "none")
        assert "taken over only by a restart: role, state_dir, port" in caplog.text
        assert (await running.status())["role"] == "gateway"
        running.tell(signal.SIGHUP)
        await until(lambda: caplog.text.count("taken over only by a restart") == 2)

    with stage.charon:
        stage.serve(story)
    assert not (stage.folder / "other").exists()


@pytest.mark.parametrize(("other_state", "error"), [("elsewhere", ControlError), ("state", StoreError)])
def test_a_second_daemon_is_refused_and_touches_nothing(
    stage: Stage, other_state: str, error: type[SwanroamError]
) -> None:
    stage.at_gateway()
    second = Machine()

    async def story(running: Running) -> None:
        await running.tunnel()
        file = write(stage.folder / "second.toml", state=other_state)
        loop = asyncio.get_running_loop()
        with pytest.raises(error), ExitStack() as cleanup:
            await Daemon(configuration.load(file), file, loop, cleanup, second.adapters()).serve()
        assert second.done("install", "remove", "watch") == []
        await running.tunnel()
        assert running.machine.filter.whole

    with stage.charon:
        machine, _ = stage.serve(story)
    second.close()
    assert machine.done("install", "remove") == ["install", "remove"]


BAD: Mapping[str, bytes] = {
    "empty": b"",
    "truncated": encode(HELLO)[:-3],
    "of an unknown type": encode(HELLO)[:3] + b"\xee" + encode(HELLO)[4:],
    "of another program": b"GET / HTTP/1.1\r\n\r\n",
    "of another version": encode(PathChallenge(nonce=bytes(16)))[:2]
    + b"\x09"
    + encode(PathChallenge(nonce=bytes(16)))[3:],
    "with a length that lies": encode(HELLO) + b"more",
    "of all ones": b"\xff" * 64,
}


def test_messages_that_cannot_be_read_are_counted_and_do_no_harm(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        await running.tunnel()
        running.machine.queue.put(
            *(TunnelMessage(INNER, SERVER, data) for data in BAD.values()),
            Unreadable(WireError("ESP packet", 0, "nonsense")),
        )
        running.message(HELLO)
        await running.tunnel(lambda tunnel: tunnel["capability"] == "negotiated")
        rejected = (await running.tunnel())["rejected"]
        assert rejected == {"bad-message": 5}, "what this version cannot know is ignored, all else is refused"
        ignored = [record for record in caplog.records if "ignored" in record.getMessage()]
        assert [record.levelname for record in ignored] == ["DEBUG"] * 2
        assert "cannot be read: ESP packet" in caplog.text or "nonsense" in caplog.text

    with stage.charon:
        stage.serve(story)


def test_a_message_from_an_address_that_no_tunnel_has_is_told_to_hooks_only(stage: Stage) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        await running.tunnel()
        running.message(HELLO, IPv4Address("10.3.0.99"))
        await until(lambda: bool(running.machine.hooks[0].announced))
        assert not any(isinstance(message, HelloAck) for message in running.sent())

    with stage.charon:
        stage.serve(story)


def esp(sequence: int, source: IPAddress = ELSEWHERE, packet_id: int = 1, *, forged: bool = False) -> HeldEsp:
    sealing = EspState(combined=EspAlgorithm("rfc4106(gcm(aes))", SECRET, 128))
    data = seal(sealing, SPI, sequence, ip_packet(INNER, SERVER, 17, b"12345678"))
    if forged:
        data = data[:-1] + bytes([data[-1] ^ 1])
    return HeldEsp(packet_id, EspPacket(source, GATEWAY, SPI, sequence, data))


def with_state(machine: Machine) -> Machine:
    machine.kernel.states[GATEWAY, SPI] = SaState(
        source=HERE,
        destination=GATEWAY,
        spi=SPI,
        selector=XfrmSelector(family=2, source=IPv4Address(0), destination=IPv4Address(0)),
        replay_window=32,
        aead=Algorithm(name="rfc4106(gcm(aes))", key=Key(SECRET), icv_bits=128),
        replay=Replay(received=4, bitmap=0b1111),
    )
    return machine


def test_a_held_packet_moves_the_tunnel_and_goes_on_then(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        await running.tunnel()
        running.message(HELLO)
        await running.tunnel(lambda tunnel: tunnel["capability"] == "negotiated")
        running.machine.queue.put(esp(9, packet_id=1, forged=True), esp(9, packet_id=2), esp(10, packet_id=3))
        told = await running.tunnel(lambda tunnel: tunnel["moves"] == 1)
        assert told["remote"]["address"] == str(ELSEWHERE)
        assert told["rejected"] == {"bad-icv": 1}
        assert running.machine.queue.verdicts == {1: True, 2: True, 3: True}
        moves = running.machine.done("move", "verdict", "inform")
        assert moves == ["verdict", "move", "verdict", "verdict"], "those behind it go on before others pass"
        await running.until_sent(PathChallenge)

    with stage.charon:
        stage.serve(story, machine=with_state(Machine()))
    for form in (SECRET.hex(), repr(SECRET)[2:-1], repr(list(SECRET))[1:-1]):
        assert form not in caplog.text


def test_a_queue_that_overflowed_is_read_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.at_gateway()

    async def story(running: Running) -> None:
        await running.tunnel()
        running.machine.queue.refuse("receive", errno.ENOBUFS, errno.ENOBUFS)
        running.message(HELLO)
        await running.tunnel(lambda tunnel: tunnel["capability"] == "negotiated")
        assert "packets of the queue were lost: receive: ENOBUFS" in caplog.text

    with stage.charon:
        stage.serve(story)
    assert not [record for record in caplog.records if record.name == "asyncio" and record.exc_info]


def test_packets_that_wait_when_the_daemon_stops_are_let_go(stage: Stage) -> None:
    machine = Machine()

    async def story(running: Running) -> None:
        await running.status()
        machine.queue.waiting.append(esp(1, packet_id=5))  # it came after the last look at the queue

    stage.serve(story, machine=machine)
    assert machine.queue.verdicts == {5: True}


def test_a_restarted_daemon_knows_what_the_last_one_agreed(stage: Stage) -> None:
    stage.at_gateway()

    async def first(running: Running) -> None:
        await running.tunnel()
        running.message(HELLO)
        await running.tunnel(lambda tunnel: tunnel["capability"] == "negotiated")
        running.machine.queue.put(esp(9))
        await running.tunnel(lambda tunnel: tunnel["moves"] == 1)

    async def second(running: Running) -> None:
        told = await running.tunnel()
        assert (told["capability"], told["moves"]) == ("negotiated", 1)
        last = told["last_move"]
        assert last is not None
        assert (last["from"], last["to"], last["trigger"]) == (str(HERE), str(ELSEWHERE), "packet")
        ages.append(last["at"])

    ages: list[str] = []
    with stage.charon:
        stage.serve(first, machine=with_state(Machine()))
        stage.serve(second)
        stage.serve(second)
    assert ages[0][:18] == ages[1][:18], "the time of a move is that of the wall, whoever tells it"


def roaming(*addresses: IPAddress, prepare: Callable[[FakeHooks], object] | None = None) -> Machine:
    machine = Machine(prepare=prepare)
    machine.routes.repository = repository(*addresses)
    return machine


async def agreed(running: Running) -> None:
    """The gateway takes part."""
    hello = await running.until_sent(Hello)
    assert isinstance(hello, Hello)
    answer = encode(HelloAck(nonce=hello.nonce, features=HELLO.features))
    running.machine.queue.put(TunnelMessage(SERVER, INNER, answer))
    await running.tunnel(lambda tunnel: tunnel["capability"] == "negotiated")


def test_a_terminal_follows_its_addresses_and_tells_the_gateway(stage: Stage) -> None:
    stage.at_terminal()

    async def story(running: Running) -> None:
        await agreed(running)
        running.machine.routes.change(repository(THERE))
        told = await running.tunnel(lambda tunnel: tunnel["moves"] == 1)
        assert told["local"] == {"address": str(THERE), "port": 500}
        update = await running.until_sent(Update)
        assert isinstance(update, Update)
        assert update.claimed.address == THERE
        await until(lambda: running.machine.done("inform") == ["inform"])
        assert running.machine.done("move", "send", "inform")[-3:] == ["move", "send", "inform"]

    with stage.charon:
        stage.serve(story, "terminal", machine=roaming(HERE))


def test_a_gateway_tells_its_addresses_and_goes_to_another_one_when_that_of_the_tunnel_is_gone(stage: Stage) -> None:
    stage.at_gateway()
    machine = Machine()
    machine.routes.repository = homes(GATEWAY, SECOND)

    async def story(running: Running) -> None:
        await running.tunnel()
        running.message(HELLO)
        ack = await running.until_sent(HelloAck)
        assert isinstance(ack, HelloAck)
        assert ack.addresses == (GATEWAY, SECOND)
        running.machine.routes.change(homes(SECOND))
        told = await running.tunnel(lambda tunnel: tunnel["moves"] == 1)
        assert told["local"]["address"] == str(SECOND)
        moved = await running.until_sent(GatewayMoved)
        assert isinstance(moved, GatewayMoved)
        assert moved.addresses == (SECOND,)
        (watched,) = running.machine.filter.watched.values()
        assert (watched.own, watched.sources) == ((SECOND,), (HERE,))

    with stage.charon:
        stage.serve(story, machine=machine)
    assert ("rank", "wan0") not in machine.noted, "hooks do not rank a gateway's addresses"


def test_esp_that_comes_late_to_a_working_address_goes_on_to_the_new_one(stage: Stage) -> None:
    stage.at_terminal()

    async def story(running: Running) -> None:
        await agreed(running)
        running.machine.routes.change(repository(THERE, HERE))
        told = await running.tunnel(lambda tunnel: tunnel["moves"] == 1)
        spi = int(told["children"][0]["spi_in"], 16)
        watched = next(iter(running.machine.filter.watched.values()))
        assert watched.late == (HERE,)
        late = ip_packet(GATEWAY, HERE, 50, spi.to_bytes(4) + bytes(32))
        running.machine.queue.put(LateEsp(1, spi, late), LateEsp(2, spi + 1, late))
        await until(lambda: set(running.machine.queue.sent_on) == {1, 2})
        changed = running.machine.queue.sent_on[1]
        assert changed is not None
        assert parse_ip(changed).destination == THERE
        assert running.machine.queue.sent_on[2] is None

    with stage.charon:
        stage.serve(story, "terminal", machine=roaming(HERE))


def test_a_veto_keeps_a_terminal_where_it_is(stage: Stage) -> None:
    stage.at_terminal()

    def veto(hooks: FakeHooks) -> None:
        hooks.veto = "metered: not there"

    async def story(running: Running) -> None:
        await agreed(running)
        running.machine.routes.change(repository(THERE))
        told = await running.tunnel(lambda tunnel: bool(tunnel["rejected"]))
        assert (told["rejected"], told["moves"]) == ({"vetoed": 1}, 0)

    with stage.charon:
        machine, _ = stage.serve(story, "terminal", machine=roaming(HERE, prepare=veto))
    assert machine.done("move") == []


def test_hooks_rank_an_address_once_and_again_after_a_reload_that_makes_the_tunnel_move(stage: Stage) -> None:
    stage.at_terminal()

    async def story(running: Running) -> None:
        await agreed(running)
        running.machine.routes.change(repository(HERE, THERE, ELSEWHERE))
        await until(lambda: ("rank", "link2") in running.machine.noted)
        assert running.machine.noted.count(("rank", "link0")) == 1
        assert (await running.tunnel())["moves"] == 0
        write(running.file, "terminal", "preference = { link1 = 50 }\n")
        running.tell(signal.SIGHUP)
        told = await running.tunnel(lambda tunnel: tunnel["moves"] == 1)
        assert told["local"]["address"] == str(THERE)
        assert running.machine.noted.count(("rank", "link0")) == 2

    with stage.charon:
        stage.serve(story, "terminal", machine=roaming(HERE))


def test_rules_that_somebody_removed_are_installed_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def story(running: Running) -> None:
        running.machine.filter.destroy()
        await until(lambda: running.machine.done("install") == ["install"] * 2)
        assert running.machine.filter.whole
        assert "somebody removed swanroam's rules" in caplog.text

    stage.serve(story)


def test_repairs_of_the_rules_do_not_multiply(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def story(running: Running) -> None:
        rules = running.machine.filter
        rules.refuse("install", errno.EBUSY, errno.EBUSY)
        began_s = time.monotonic()
        for turn in range(20):
            rules.destroy()  # each change of other tables makes the daemon look again
            await until(lambda: len(running.machine.done("install")) > 1)
            assert await running.status(), turn
        assert len(running.machine.done("install")) == 2
        await until(lambda: rules.whole)
        assert len(running.machine.done("install")) == 4
        assert time.monotonic() - began_s >= 2 * FILTER_RETRY_S * 0.9
        assert caplog.text.count("somebody removed") == 1

    stage.serve(story)


def test_a_set_that_could_not_be_changed_is_repaired_and_messages_are_sent_again(stage: Stage) -> None:
    stage.at_gateway()
    machine = Machine()
    machine.filter.refuse("watch", errno.ENOBUFS)

    async def story(running: Running) -> None:
        await running.tunnel()
        await until(lambda: machine.filter.whole)
        assert machine.done("install", "watch")[:3] == ["install", "watch", "install"]
        await running.until_sent(Hello)

    with stage.charon:
        stage.serve(story, machine=machine)


@pytest.mark.parametrize("absent", ["kernel", "queue", "filter", "sender", "routes"])
def test_a_machine_that_lacks_something_is_a_refusal_with_everything_closed(stage: Stage, absent: str) -> None:
    file = write(stage.folder / "swanroam.toml", "terminal")
    machine = Machine(absent=absent)
    with pytest.raises(KernelRefused, match=f"open {absent}: EPERM"):
        run(configuration.load(file), file, machine.adapters())
    opened = ["kernel", "queue", "filter", "sender", "routes"]
    for name in opened[: opened.index(absent)]:
        assert getattr(machine, name).closed, name
    assert machine.done("install", "remove") == []
    assert machine.hooks[0].closed
    machine.close()


@pytest.mark.parametrize("operation", ["install", "routes"])
def test_a_start_that_the_kernel_refuses_leaves_no_rules_and_no_socket(stage: Stage, operation: str) -> None:
    file = write(stage.folder / "swanroam.toml", "terminal")
    machine = Machine()
    machine.filter.refuse(operation, errno.EBUSY)
    machine.routes.refuse(operation, errno.EBUSY)
    with pytest.raises(KernelRefused, match="EBUSY"):
        run(configuration.load(file), file, machine.adapters())
    assert machine.done("install", "remove") == ["install", "remove"]
    assert machine.all_closed
    assert not (stage.folder / "control").exists()


def test_rules_that_cannot_be_removed_are_logged_and_the_daemon_ends(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    machine.filter.refuse("remove", errno.EPERM)
    stage.serve(nothing, machine=machine)
    assert "removing the rules failed: remove: EPERM" in caplog.text
    assert machine.all_closed


def test_a_daemon_without_privileges_says_so_in_one_line_and_ends_with_status_1(tmp_path: Path) -> None:
    file = write(tmp_path / "swanroam.toml")
    command = [sys.executable, "-m", "swanroam", "run", "--config", str(file)]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        assert setpriv is not None, "util-linux is part of every Debian"
        command = [setpriv, "--bounding-set=-all", "--inh-caps=-all", *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 1, ended.stderr
    *_, last = ended.stderr.splitlines()
    assert last.startswith("swanroam: ")
    assert "EPERM" in last
    assert "Traceback" not in ended.stderr
