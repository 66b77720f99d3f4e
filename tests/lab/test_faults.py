"""Faults, each followed by the same questions: does data flow within 5 s, do all agree, is nothing left over."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swanroam.kernel.queue import MAX_HELD
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.faults import belongings, faulty, policies
from tests.lab.netns import batch
from tests.lab.stories import survives_a_move
from tests.lab.topology import INNER_POOL
from tests.lab.world import End, World

TOGETHER = "table of faults"

sides = pytest.mark.parametrize("side", ["terminal", "gateway"])
GUEST = bool(os.environ.get("SWANROAM_LAB_GUEST"))
HOUR_NS = 3600 * 10**9
TIMES = {"retransmit_timeout": "1.0", "delete_rekeyed_delay": "4"}
"""charon asks again sooner than by default, which every story waits for; a rekeyed CHILD_SA outlives any cover."""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> Iterator[World]:
    """With a small disk for the gateway's state."""
    world = make_world(tunnel=TunnelOptions(charon=TIMES))
    world.connect()
    folder = world.gateway.swanroam.state_dir
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "state", str(folder)], check=True)
    try:
        world.roam()
        yield world
        assert not world.secrets.found_in(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def network(world: World, what: str) -> None:
    """Have the network do something to packets, in each direction."""
    lines = [f"qdisc change dev {link} root netem {what} limit 20000" for link in ("wan", "wlan", "lte")]
    world.router.namespace.call(lambda: batch("tc", lines))


@pytest.mark.parametrize(
    "what", ["delay 10ms loss 30%", "delay 10ms duplicate 50%", "delay 50ms reorder 50%", "delay 10ms 500ms"]
)
def test_moves_through_a_network_that_mistreats_packets(world: World, what: str) -> None:
    with faulty(world, f"netem {what}, 3 moves") as fault:
        network(world, what)
        try:
            for _ in range(3):
                move = world.terminal.move()
                eventually(lambda move=move: world.capture.esp_from(move.new, move.began_ns), "it sends from there")  # type: ignore[misc]
        finally:
            network(world, "delay 10ms")
        fault.over()


@pytest.mark.parametrize(("what", "kind", "side"), [("UPDATE", 4, "gateway"), ("UPDATE-ACK", 5, "terminal")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_update_or_its_acknowledgement_is_lost(world: World, what: str, kind: int, side: str, count: int) -> None:
    receiver = world.end(side)
    # Where it comes out of the tunnel, before the receiver's own rules: a sender would be told, and try again.
    match = f"udp dport 4555 @th,64,16 0x5352 @th,88,8 {kind}"
    rules = f"{match} limit rate 1/hour burst {count} packets counter drop"
    with faulty(world, f"{what} lost, {count} in a row"):
        receiver.namespace.run(
            ["nft", f"table ip lossy {{ chain c {{ type filter hook prerouting priority -400; {rules}; }}; }}"]
        )
        try:
            world.terminal.move()
            eventually(
                lambda: world.terminal.swanroam.tunnel(world.terminal.inner)["last_move"]["validated"],
                "it is acknowledged in the end",
            )
            assert f"counter packets {count} " in receiver.show("nft list table ip lossy")
        finally:
            receiver.namespace.run(["nft", "delete table ip lossy"])


def test_fifty_moves_in_ten_seconds(world: World) -> None:
    with faulty(world, "50 moves in 10 s") as fault:
        began_s = time.monotonic()
        for number in range(50):
            world.terminal.move()
            eventually(lambda number=number: time.monotonic() >= began_s + 0.2 * (number + 1), "the time has come")  # type: ignore[misc]
        fault.over()
    # A place that was left before it answered is not followed to again, which may be for the whole time.
    rejected = world.gateway.swanroam.tunnel(world.terminal.inner)["rejected"]
    assert rejected.get("flapping", 0) + rejected.get("not-validated", 0) > 0


@sides
def test_charon_does_not_answer_for_a_while(world: World, side: str) -> None:
    one = world.end(side)
    with faulty(world, f"{side}: vici stalled for 2 s over a move") as fault:
        one.charon.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        world.terminal.move()
        eventually(lambda: time.monotonic() > began_s + 2.0, "charon was stopped for long enough")
        one.charon.send_signal(signal.SIGCONT)
        fault.over()


def pids(one: End) -> list[str]:
    """Swanroam's processes of an end."""
    found = one.show(f"pgrep -f {one.swanroam.file}").split()
    assert found
    return found


def freeze(one: End) -> None:
    for pid in pids(one):
        os.kill(int(pid), signal.SIGSTOP)


def thaw(one: End) -> None:
    for pid in pids(one):
        os.kill(int(pid), signal.SIGCONT)


def dropped(one: End, family: int) -> int:
    """Events of a netlink family that swanroam's sockets had no room for (/proc/net/netlink)."""
    lines = [line.split() for line in one.show("cat /proc/net/netlink").splitlines()[1:]]
    return sum(int(words[8]) for words in lines if int(words[1]) == family)


@pytest.mark.parametrize(
    ("side", "program", "family", "what"),
    [
        ("terminal", "ip", 0, "addr {verb} 172.31.{number}.1/32 dev lo"),
        ("gateway", "ip", 6, "xfrm policy {verb} src 172.31.{number}.1 dst 172.30.0.1 dir out{rest}"),
    ],
    ids=["addresses", "policies"],
)
def test_more_happens_than_a_socket_holds(world: World, side: str, program: str, family: int, what: str) -> None:
    one = world.end(side)
    lines = [
        what.format(verb=verb, number=number, rest=" action allow" if verb == "add" else "")
        for number in range(250)
        for verb in ("add", "del")
    ]
    before = dropped(one, family)
    with faulty(world, f"{side}: netlink ENOBUFS, family {family}") as fault:
        freeze(one)
        try:
            for _ in range(20):
                if dropped(one, family) > before:
                    break
                one.namespace.call(lambda: batch(program, lines))
            world.terminal.move()
        finally:
            thaw(one)
        fault.over()
    assert dropped(one, family) > before


@sides
def test_somebody_flushes_all_rules(world: World, side: str) -> None:
    one = world.end(side)
    with faulty(world, f"{side}: nft flush ruleset"):
        one.namespace.run(["nft", "flush", "ruleset"])
        world.terminal.move()
        eventually(lambda: "table inet swanroam" in one.show("nft list tables"), "the rules are back")


def held(one: End) -> int:
    """Packets that wait in the queue of held ESP (/proc/net/netfilter/nfnetlink_queue)."""
    queues = [line.split() for line in one.show("cat /proc/net/netfilter/nfnetlink_queue").splitlines()]
    return next(int(words[2]) for words in queues if words[0] == "4555")


def test_more_packets_are_held_than_the_queue_takes(world: World) -> None:
    gateway = world.gateway
    with faulty(world, f"gateway: NFQUEUE full, {MAX_HELD} packets") as fault:
        freeze(gateway)
        try:
            world.terminal.move()
            # Not all at once: what is beyond 128 a second for an SPI passes the queue by.
            with world.uplink(interval_ms=2.0) as burst:
                eventually(lambda: held(gateway) >= MAX_HELD, "it is full", every_s=0.2)
                burst.flows()
        finally:
            thaw(gateway)
        fault.over()


def test_the_disk_is_full_and_then_read_only(world: World) -> None:
    gateway = world.gateway
    folder: Path = gateway.swanroam.state_dir

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)

    try:
        with faulty(world, "gateway: state disk full"):
            with pytest.raises(OSError, match="No space left"):
                (folder / "filler").write_bytes(bytes(1 << 20))
            world.terminal.move()
        with faulty(world, "gateway: state disk read-only, daemon restarted"):
            gateway.swanroam.stop()
            remount("ro")
            world.terminal.move()
            gateway.swanroam.run()
            world.agreed(world.terminal)
        assert gateway.swanroam.running
    finally:
        remount("rw")
        (folder / "filler").unlink(missing_ok=True)


@pytest.mark.skipif(not GUEST, reason="sets the clock, which is the guest's own only in the guest")
@pytest.mark.parametrize("by_ns", [HOUR_NS, -HOUR_NS])
def test_the_clock_jumps(world: World, by_ns: int) -> None:
    with faulty(world, f"the clock jumps by {by_ns // HOUR_NS} h"):
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + by_ns)
        world.terminal.move()


@pytest.mark.parametrize(("side", "what"), [("terminal", "child"), ("gateway", "child"), ("terminal", "ike")])
def test_rekeyed_at_the_very_moment_of_a_move(world: World, side: str, what: str) -> None:
    charon, sa = world.end(side).charon, world.sa(world.end(side), world.terminal)
    usual, before = belongings(world), world.terminal.sa.identity
    with faulty(world, f"{side} rekeys the {what} SA at the moment of a move") as fault:
        if what == "child":
            charon.rekey_child(sa.children[0])
        else:
            charon.rekey_ike(sa)
        world.terminal.move()
        eventually(
            lambda: world.terminal.sa.identity != before and belongings(world) == usual,
            "there is a new one, and nothing of the old one",
            every_s=0.2,
        )
        fault.over()


@sides
def test_ended_and_set_up_again_at_the_very_moment_of_a_move(world: World, side: str) -> None:
    terminal = world.terminal
    with faulty(world, f"{side} terminates the tunnel at the moment of a move, initiated again") as fault:
        terminal.move()
        world.end(side).charon.terminate()
        eventually(lambda: not terminal.charon.sas() and not world.gateway.charon.sas(), "both ends let go")
        terminal.connect()
        fault.over()


def test_a_link_that_goes_up_and_down(world: World) -> None:
    terminal = world.terminal
    with faulty(world, "link down and up, ten times") as fault:
        for _ in range(10):
            access = terminal.access
            terminal.links.apply([terminal.links.turn(access.link, up=False)])
            terminal.links.apply(
                [
                    terminal.links.turn(access.link, up=True),
                    terminal._router_neighbour(access),
                    terminal.links.default_route(access.link, access.router),
                ]
            )
        fault.over()


def test_the_terminal_sleeps_and_wakes_up_elsewhere(world: World) -> None:
    terminal = world.terminal
    with faulty(world, "terminal suspended for 3 s, resumed elsewhere") as fault:
        terminal.charon.send_signal(signal.SIGSTOP)
        freeze(terminal)
        began_s = time.monotonic()
        terminal.move()
        eventually(lambda: time.monotonic() > began_s + 3.0, "it has slept for long enough")
        thaw(terminal)
        terminal.charon.send_signal(signal.SIGCONT)
        fault.over()


def begin_with_charons_that_were_not_killed(world: World) -> None:
    """Take away what killed ones left: states with the reqid of the next tunnel, and the virtual IP."""
    for one in world.ends:
        one.charon.stop()
    for one in world.ends:
        for command in ("xfrm state flush", "xfrm policy flush", f"address flush to {INNER_POOL}"):
            one.show(f"ip {command}")
    world.steady()


@sides
def test_charon_is_killed_and_started_again(world: World, side: str) -> None:
    one = world.end(side)
    with faulty(world, f"{side}: charon killed and started again, then initiated", tidy=False) as fault:
        fault.deadline_s = 60.0
        one.charon.kill()
        one.charon.start()
        one.charon.ready()
        if side == "gateway":
            world.terminal.charon.terminate(force=True)
        world.terminal.connect()
        world.agreed(world.terminal)
    for _ in range(3):
        survives_a_move(world)


def test_both_charons_are_killed_and_started_again(world: World) -> None:
    begin_with_charons_that_were_not_killed(world)
    with faulty(world, "both charons killed and started again, then initiated", tidy=False) as fault:
        fault.deadline_s = 60.0
        for one in world.ends:
            one.charon.kill()
            one.charon.start()
        for one in world.ends:
            one.charon.ready()
        world.terminal.connect()
        world.agreed(world.terminal)
    for _ in range(4):
        survives_a_move(world)


def test_covers_end_by_themselves(world: World) -> None:
    survives_a_move(world)
    for one in world.ends:
        eventually(lambda one=one: not policies(one, covers=True), f"no cover is left on the {one.name}")  # type: ignore[misc]


def test_no_key_is_in_a_log_the_store_or_the_status(world: World) -> None:
    survives_a_move(world)
    world.secrets.note()
    assert len(world.secrets.keys) >= 4
    for one in world.ends:
        assert not world.secrets.shown_by(repr(one.swanroam.status()).encode())
        assert one.swanroam.log
        assert list(one.swanroam.state_dir.iterdir())
    assert world.secrets.found_in(world.folder) == []
    planted = world.gateway.swanroam.state_dir / "planted"
    planted.write_text(f"key={next(iter(world.secrets.keys)).hex()}")
    assert world.secrets.found_in(world.folder) == [str(planted.relative_to(world.folder))]
    planted.unlink()


@pytest.mark.skipif(not GUEST, reason="says where cores go, for the whole machine")
def test_a_daemon_that_crashes_leaves_no_core(world: World) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    folder = world.folder / "cores"
    folder.mkdir()
    pattern.write_text(f"{folder}/%e.%p")
    try:
        subprocess.run(["sh", "-c", "ulimit -c unlimited; kill -SEGV $$"], check=False)
        eventually(lambda: list(folder.iterdir()), "others leave one")
        count = len(list(folder.iterdir()))
        for pid in pids(world.gateway):
            subprocess.run(["prlimit", f"--pid={pid}", "--core=unlimited"], check=True)
            os.kill(int(pid), signal.SIGSEGV)
        eventually(lambda: not world.gateway.swanroam.running, "it is gone")
        assert len(list(folder.iterdir())) == count
    finally:
        pattern.write_text(before)
