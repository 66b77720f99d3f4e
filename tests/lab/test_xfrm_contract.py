"""The XFRM codec against what `ip xfrm` prints, and moves of tunnels, on a real kernel. No charon: states by `ip xfrm`.

    terminal                          gateway
    192.0.2.1, .3   2001:db8::1, ::3 ---- 192.0.2.2   2001:db8::2
    inner 10.9.0.1   fd00:9::1            inner 10.1.0.1   fd00:1::1

The terminal is at .1 (::1) and moves to .3 (::3); it has both addresses all the time.
"""

import ctypes
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path as FilePath
from typing import TypeVar

import pytest

from swanroam.errors import KernelRefused
from swanroam.kernel.netlink import NetlinkSocket
from swanroam.kernel.refit import Refits
from swanroam.kernel.sequences import HEALED
from swanroam.kernel.states import KernelStates
from swanroam.kernel.transactions import Transactions
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import ChildSa
from swanroam.wire.netlink import Flag
from swanroam.wire.xfrm import Algorithm, Encap, EsnReplay, Key, Replay, SaId, SaState
from swanroam.wire.xfrm.aevents import AeState
from swanroam.wire.xfrm.events import Acquire, Migrated, PolicySet, decode_event
from swanroam.wire.xfrm.migrate import KmAddress
from swanroam.wire.xfrm.policies import Policy
from swanroam.wire.xfrm.structs import Direction, Group, Limits, Mark, Mode, Msg, StateFlag, XfrmSelector
from tests.lab.conditions import eventually

TERMINAL, GATEWAY = "xfc-terminal", "xfc-gateway"
OLD, NEW, GATE, LATE = "192.0.2.1", "192.0.2.3", "192.0.2.2", "192.0.2.9"
OLD6, NEW6, GATE6 = "2001:db8::1", "2001:db8::3", "2001:db8::2"
INNER, BEHIND, INNER6, BEHIND6 = "10.9.0.1", "10.1.0.1", "fd00:9::1", "fd00:1::1"
UP, DOWN, REQID = 0xC0000001, 0xC0000002, 7
PRIORITY = 371327
"""As charon has it for such selectors."""
GCM_KEY = bytes(range(20))
GCM = f"aead rfc4106(gcm(aes)) 0x{GCM_KEY.hex()} 128"
CLONE_NEWNET = 0x40000000
NETLINK_XFRM = 6
DEADLINE_S = 30.0
UDP_PORT = 7777
SO_RCVBUFFORCE = 33


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def xfrm(namespace: str, command: str) -> str:
    words = command.split()
    options = [word for word in words if word.startswith("-")]
    return run("ip", "-n", namespace, "-d", *options, "xfrm", *words[len(options) :])


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """In this block the thread, and what it starts and opens, are in the namespace; sockets stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with FilePath("/proc/thread-self/ns/net").open() as home, FilePath(f"/run/netns/{namespace}").open() as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


BUILD = f"""
ip netns add {TERMINAL}; ip netns add {GATEWAY}
ip link add out netns {TERMINAL} type veth peer name out netns {GATEWAY}
for n in {TERMINAL} {GATEWAY}; do
  ip netns exec $n sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
  ip -n $n link set lo up
done
for a in {OLD}/24 {NEW}/24 {OLD6}/64 {NEW6}/64; do ip -n {TERMINAL} addr add $a dev out; done
for a in {GATE}/24 {GATE6}/64; do ip -n {GATEWAY} addr add $a dev out; done
for a in {INNER}/32 {INNER6}/128; do ip -n {TERMINAL} addr add $a dev lo; done
for a in {BEHIND}/32 {BEHIND6}/128; do ip -n {GATEWAY} addr add $a dev lo; done
ip -n {TERMINAL} link set out up; ip -n {GATEWAY} link set out up
ip -n {TERMINAL} route add {BEHIND} dev out src {INNER}; ip -n {GATEWAY} route add {INNER} dev out src {BEHIND}
ip -n {TERMINAL} route add {BEHIND6} dev out src {INNER6}; ip -n {GATEWAY} route add {INNER6} dev out src {BEHIND6}
"""


def destroy() -> None:
    for namespace in (TERMINAL, GATEWAY):
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


@pytest.fixture(scope="module")
def topology() -> Iterator[str]:
    destroy()
    try:
        run("sh", "-e", "-c", BUILD)
        yield TERMINAL
    finally:
        destroy()


@pytest.fixture(autouse=True)
def clean(topology: str) -> None:
    assert topology == TERMINAL
    for namespace in (TERMINAL, GATEWAY):
        xfrm(namespace, "state flush")
        xfrm(namespace, "policy flush")


def path(local: str, remote: str) -> Path:
    return Path(Endpoint(ip_address(local), 500), Endpoint(ip_address(remote), 500))


def states_text(
    up: int, down: int, *, reqid: int = REQID, terminal: str = OLD, gate: str = GATE, more: str = ""
) -> str:
    return (
        f"state add src {terminal} dst {gate} proto esp spi {up:#x} reqid {reqid} mode tunnel {GCM} {more}\n"
        f"state add src {gate} dst {terminal} proto esp spi {down:#x} reqid {reqid} mode tunnel {GCM} {more}\n"
    )


def policies_text(
    namespace: str,
    inner: str,
    behind: str,
    *,
    reqid: int = REQID,
    terminal: str = OLD,
    gate: str = GATE,
    more: str = "",
) -> str:
    up, down = f"tmpl src {terminal} dst {gate}", f"tmpl src {gate} dst {terminal}"
    here, there = (inner, behind) if namespace == TERMINAL else (behind, inner)
    out, back = (up, down) if namespace == TERMINAL else (down, up)
    tail = f"proto esp reqid {reqid} mode tunnel"
    return (
        f"policy add src {here} dst {there} dir out priority {PRIORITY} {more} {out} {tail}\n"
        f"policy add src {there} dst {here} dir in priority {PRIORITY} {more} {back} {tail}\n"
        f"policy add src {there} dst {here} dir fwd priority {PRIORITY} {more} {back} {tail}\n"
    )


def batch(namespace: str, text: str) -> None:
    run("ip", "-n", namespace, "-batch", "-", text="".join(f"xfrm {line}\n" for line in text.splitlines()))


class Tunnel:
    """Both ends of a tunnel, moved by KernelStates at both."""

    def __init__(self, stack: ExitStack, *, old: str = OLD, new: str = NEW, gate: str = GATE) -> None:
        self.old, self.new, self.gate = old, new, gate
        self.children = [ChildSa(name="net", unique_id=1, reqid=REQID, spi_in=DOWN, spi_out=UP)]
        self._stack = stack
        self.terminal, self.gateway = self.open(TERMINAL), self.open(GATEWAY)

    def open(self, namespace: str) -> KernelStates:
        with inside(namespace):
            return self._stack.enter_context(opened(KernelStates(last="fwd" if namespace == TERMINAL else "in")))

    @property
    def mirrored(self) -> list[ChildSa]:
        return [replace(child, spi_in=child.spi_out, spi_out=child.spi_in) for child in self.children]

    def move_terminal(self, *, back: bool = False, inform: bool = True) -> None:
        old, new = (self.new, self.old) if back else (self.old, self.new)
        self.terminal.move(self.children, path(old, self.gate), path(new, self.gate))
        if inform:
            self.terminal.inform(self.children, path(old, self.gate), path(new, self.gate))

    def move_gateway(self, *, back: bool = False, inform: bool = True) -> None:
        old, new = (self.new, self.old) if back else (self.old, self.new)
        self.gateway.move(self.mirrored, path(self.gate, old), path(self.gate, new))
        if inform:
            self.gateway.inform(self.mirrored, path(self.gate, old), path(self.gate, new))


@contextmanager
def opened(states: KernelStates) -> Iterator[KernelStates]:
    try:
        yield states
    finally:
        states.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def tunnel(stack: ExitStack) -> Tunnel:
    for namespace in (TERMINAL, GATEWAY):
        batch(namespace, states_text(UP, DOWN, more="replay-window 32") + policies_text(namespace, INNER, BEHIND))
    return Tunnel(stack)


def ping(count: int, target: str = BEHIND) -> int:
    """Answered ones of `count`."""
    done = subprocess.run(
        ["ip", "netns", "exec", TERMINAL, "ping", "-c", str(count), "-i", "0.01", "-W", "5", target],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"(\d+) received", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1])


def places(namespace: str) -> Counter[str]:
    """`source destination` of the states, as `ip` prints them."""
    return Counter(
        " ".join(found) for found in re.findall(r"^src (\S+) dst (\S+)", xfrm(namespace, "state"), re.MULTILINE)
    )


def policies(namespace: str) -> str:
    """The policies as `ip` prints them, without the covers of a move, which come one behind ours."""
    blocks = re.split(r"^(?=src )", xfrm(namespace, "policy"), flags=re.MULTILINE)
    return "".join(block for block in blocks if f" priority {PRIORITY + 1} " not in block)


def template_places(namespace: str) -> Counter[str]:
    return Counter(" ".join(found) for found in re.findall(r"tmpl src (\S+) dst (\S+)", policies(namespace)))


def state(states: KernelStates, destination: str, spi: int) -> SaState:
    found = states.state(ip_address(destination), spi)
    assert found is not None, f"no state {spi:08x} towards {destination}"
    return found


# ---- the codec ----


STATES = {
    "gcm-16": "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128 replay-window 32",
    "gcm-12": "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 96",
    "gcm-8": "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 64",
    "cbc-sha256": f"auth-trunc hmac(sha256) 0x{'ab' * 32} 128 enc cbc(aes) 0x{'cd' * 16} replay-window 32",
    "cbc-sha1": f"auth-trunc hmac(sha1) 0x{'ab' * 20} 96 enc cbc(aes) 0x{'cd' * 32}",
    "chacha": f"aead rfc7539esp(chacha20,poly1305) 0x{'5a' * 36} 128",
    "esn-128": f"{GCM} flag esn replay-window 128",
    "window-256-without-esn": f"{GCM} replay-window 256",
    "mark": f"{GCM} mark 0x2a mask 0xff output-mark 0x10 mask 0xf0",
    "if-id": f"{GCM} if_id 0x2a",
    "lifetimes": f"{GCM} limit time-soft 3000 limit time-hard 3600 limit byte-hard 123456789 limit packet-soft 77",
    "flags": f"{GCM} flag decap-dscp flag nopmtudisc extra-flag dont-encap-dscp",
    "sequences": f"{GCM} replay-seq 0x10 replay-oseq 0x20 replay-window 32",
}


def printed(state: SaState) -> list[str]:
    """What `ip -d xfrm state` must have for a state."""
    mode = Mode(state.mode).name.lower()
    parts = [
        f"src {state.source} dst {state.destination}\n",
        f"proto esp spi 0x{state.spi:08x} reqid {state.reqid} mode {mode}",
        f"replay-window {state.replay_window} ",
    ]
    for word, algorithm in (("aead", state.aead), ("auth-trunc", state.auth), ("enc", state.crypt)):
        if algorithm:
            icv = f" {algorithm.icv_bits}" if word != "enc" else ""
            parts.append(f"\t{word} {algorithm.name} 0x{algorithm.key.material.hex()}{icv}\n")
    names = {
        StateFlag.DECAP_DSCP: "decap-dscp",
        StateFlag.NOPMTUDISC: "nopmtudisc",
        StateFlag.AF_UNSPEC: "af-unspec",
        StateFlag.ESN: "esn",
    }
    parts += [name for flag, name in names.items() if state.flags & flag]
    if state.mark:
        parts.append(f"mark {state.mark.value:#x}/{state.mark.mask:#x}")
    if state.output_mark:
        parts.append(f"output-mark {state.output_mark.value:#x}/{state.output_mark.mask:#x}")
    if state.if_id:
        parts.append(f"if_id {state.if_id:#x}")
    if state.encap:
        ports = f"sport {state.encap.source_port} dport {state.encap.destination_port}"
        parts.append(f"encap type espinudp {ports}")
    if ring := state.esn_replay:
        seq, oseq = divmod(ring.received, 1 << 32), divmod(ring.sent, 1 << 32)
        parts.append(f"seq-hi {seq[0]:#x}, seq {seq[1]:#x}, oseq-hi {oseq[0]:#x}, oseq {oseq[1]:#x}")
        parts.append(f"replay_window {ring.window}, bitmap-length {len(ring.bitmap)}")
    if state.replay:
        numbers = f"seq {state.replay.received:#x}, oseq {state.replay.sent:#x}, bitmap 0x{state.replay.bitmap:08x}"
        parts.append(f"anti-replay context: {numbers}")
    return parts


@pytest.mark.parametrize(("source", "destination"), [(OLD, GATE), (OLD6, GATE6)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("name", [*STATES, "encap"])
def test_a_state_that_ip_adds_is_read_as_ip_prints_it(
    stack: ExitStack, name: str, source: str, destination: str
) -> None:
    text = STATES.get(name, f"{GCM} encap espinudp 4500 61000 {source}")
    xfrm(TERMINAL, f"state add src {source} dst {destination} proto esp spi {UP:#x} reqid 9 mode tunnel {text}")
    with inside(TERMINAL):
        states = stack.enter_context(opened(KernelStates(last="fwd")))
    mark = Mark(0x2A, 0xFF) if name == "mark" else None

    found = states.state(ip_address(destination), UP, mark=mark)

    assert found is not None
    shown = xfrm(TERMINAL, "state")
    for part in printed(found):
        assert part in shown
    assert found.reqid == 9
    assert len(printed(found)) >= 4, "nothing was compared"
    # What ip prints with its statistics only.
    if found.extra_flags:
        assert "extra_flag dont-encap-dscp" in xfrm(TERMINAL, "-s state")
    wanted = {"lifetimes": ("hard_add_s", 3600), "flags": ("extra_flags", 1), "sequences": ("sent", 0x20)}
    if name in wanted:
        assert getattr(found.limits if name == "lifetimes" else found, wanted[name][0]) == wanted[name][1]
    if name == "lifetimes":
        assert (found.limits.soft_add_s, found.limits.hard_bytes, found.limits.soft_packets) == (3000, 123456789, 77)


def new_state(source: IPAddress, destination: IPAddress) -> SaState:
    anything = XfrmSelector(family=2 if source.version == 4 else 10, destination=source, source=source)
    return SaState(
        source=source,
        destination=destination,
        spi=UP,
        selector=replace(anything, destination_length=0, source_length=0),
        reqid=11,
        flags=StateFlag.ESN,
        aead=Algorithm(name="rfc4106(gcm(aes))", key=Key(GCM_KEY), icv_bits=96),
        esn_replay=EsnReplay(sent=1 << 32 | 5, received=3 << 32 | 9, window=128, bitmap=(1, 2, 3, 4)),
        encap=Encap(source_port=4500, destination_port=4501),
        mark=Mark(1, 3),
        output_mark=Mark(0x10, 0xF0),
        if_id=6,
        limits=Limits(hard_add_s=1234),
    )


@pytest.mark.parametrize(("source", "destination"), [(OLD, GATE), (OLD6, GATE6)], ids=["ipv4", "ipv6"])
def test_a_state_that_we_add_is_printed_by_ip(stack: ExitStack, source: str, destination: str) -> None:
    ours = new_state(ip_address(source), ip_address(destination))
    with inside(TERMINAL):
        requests = stack.enter_context(NetlinkSocket(NETLINK_XFRM))
        states = stack.enter_context(opened(KernelStates(last="fwd")))

    requests.request("add", Msg.NEWSA, ours.pack(), Flag.CREATE | Flag.EXCL)

    shown = xfrm(TERMINAL, "state")
    for part in printed(ours):
        assert part in shown
    assert "00000004 00000003 00000002 00000001" in shown, "ip prints the last word first"
    found = states.state(ours.destination, UP, mark=ours.mark)
    assert found is not None
    assert (found.esn_replay, found.encap, found.aead) == (ours.esn_replay, ours.encap, ours.aead)
    assert states.delete(ours.destination, UP, mark=ours.mark)
    assert not states.delete(ours.destination, UP, mark=ours.mark)
    assert states.state(ours.destination, UP, mark=ours.mark) is None


POLICY = "src 10.9.0.1/32 dst 10.1.0.0/16 proto tcp dport 443 dir out priority 375 mark 0x2a mask 0xff if_id 0x7"
POLICY6 = "src fd00:9::/64 dst fd00:1::/48 dir in priority 9"


@pytest.mark.parametrize(
    ("text", "source", "destination"), [(POLICY, OLD, GATE), (POLICY6, GATE6, OLD6)], ids=["ipv4", "ipv6"]
)
def test_a_policy_is_read_as_ip_prints_it(stack: ExitStack, text: str, source: str, destination: str) -> None:
    xfrm(TERMINAL, f"policy add {text} tmpl src {source} dst {destination} proto esp reqid 9 mode tunnel")
    with inside(TERMINAL):
        requests = stack.enter_context(NetlinkSocket(NETLINK_XFRM))

    (message,) = requests.request("dump", Msg.GETPOLICY, b"", Flag.DUMP)
    policy = Policy.unpack(message.payload)

    shown, selector = xfrm(TERMINAL, "policy"), policy.selector
    ends = f"src {selector.source}/{selector.source_length} dst {selector.destination}/{selector.destination_length}"
    port = f" proto tcp dport {selector.destination_port}" if selector.protocol == 6 else ""
    assert f"{ends}{port} \n" in shown
    assert f"dir {Direction(policy.direction).name.lower()} " in shown
    assert f"priority {policy.priority} " in shown
    assert f"index {policy.index} " in xfrm(TERMINAL, "-s policy")
    (template,) = policy.templates
    assert f"tmpl src {template.source} dst {template.destination}\n" in shown
    assert f"reqid {template.reqid}" in shown
    if text == POLICY:
        assert (policy.mark, policy.if_id) == (Mark(0x2A, 0xFF), 7)
        assert "mark 0x2a/0xff" in shown
        assert "if_id 0x7" in shown


def test_a_move_is_seen_by_everybody_who_listens(tunnel: Tunnel, stack: ExitStack) -> None:
    # `ip xfrm monitor` knows no MIGRATE, so another socket of ours is the witness.
    with inside(TERMINAL):
        witness = stack.enter_context(NetlinkSocket(NETLINK_XFRM, [Group.MIGRATE]))

    tunnel.move_terminal()

    told = [message for _ in range(3) for message in witness.receive("events")]
    assert [message.type for message in told] == [Msg.MIGRATE] * 3
    moves = [event.migrate for event in tunnel.terminal.process_events() if isinstance(event, Migrated)]
    assert [move.direction for move in moves] == [Direction.OUT, Direction.IN, Direction.FWD]
    assert [move.kmaddress for move in moves] == [None, None, KmAddress(ip_address(NEW), ip_address(GATE))]
    assert [Migrated(move) for move in moves] == [decode_event(message) for message in told]
    assert {entry.new_source for entry in moves[0].entries} == {ip_address(NEW), ip_address(GATE)}
    assert tunnel.terminal.ignored == 0


# ---- moves ----


def test_paths_are_those_of_the_inbound_states(tunnel: Tunnel) -> None:
    assert tunnel.terminal.paths([DOWN]) == ((DOWN, path(OLD, GATE)),)
    assert tunnel.gateway.paths([UP, 0xDEAD]) == ((UP, path(GATE, OLD)),)
    assert tunnel.gateway.paths([]) == ()


def test_an_spi_that_was_taken_where_the_tunnel_is_not_is_no_path(tunnel: Tunnel) -> None:
    taken = DOWN + 0x100
    xfrm(TERMINAL, f"state allocspi src {GATE} dst {NEW} proto esp mode tunnel min {taken:#x} max {taken:#x}")
    assert tunnel.terminal.paths([DOWN, taken]) == ((DOWN, path(OLD, GATE)),)


def test_paths_of_some_states_are_found_where_they_are_likely_and_where_they_are_not(tunnel: Tunnel) -> None:
    here, elsewhere = ip_address(OLD), ip_address(NEW)
    for own in ((here,), (elsewhere, here), (elsewhere,)):
        assert tunnel.terminal.paths([DOWN], own) == ((DOWN, path(OLD, GATE)),)
    assert tunnel.terminal.paths([DOWN, 0xDEAD], (here,)) == ((DOWN, path(OLD, GATE)),)


def test_the_path_of_a_state_in_udp_has_its_ports(stack: ExitStack) -> None:
    xfrm(
        TERMINAL,
        f"state add src {GATE} dst {OLD} proto esp spi {DOWN:#x} mode tunnel {GCM} encap espinudp 4500 61000 {GATE}",
    )
    with inside(TERMINAL):
        states = stack.enter_context(opened(KernelStates(last="fwd")))

    assert states.paths([DOWN]) == (
        (DOWN, Path(Endpoint(ip_address(OLD), 61000), Endpoint(ip_address(GATE), 4500), encap=True)),
    )


def test_pings_go_on_over_moves_and_none_is_lost(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    for n in range(6):
        tunnel.move_terminal(back=n % 2 == 1)
        tunnel.move_gateway(back=n % 2 == 1)
        assert ping(5) == 5
    assert places(TERMINAL) == places(GATEWAY) == Counter([f"{OLD} {GATE}", f"{GATE} {OLD}"])


@pytest.mark.parametrize(
    "more", ["replay-window 32", "replay-window 128 flag esn", "replay-window 128", "replay-window 2048 flag esn"]
)
def test_sequence_numbers_and_replay_windows_are_kept(stack: ExitStack, more: str) -> None:
    for namespace in (TERMINAL, GATEWAY):
        batch(namespace, states_text(UP, DOWN, more=more) + policies_text(namespace, INNER, BEHIND))
    tunnel = Tunnel(stack)
    assert ping(5) == 5
    sent, received = state(tunnel.terminal, GATE, UP), state(tunnel.terminal, OLD, DOWN)

    tunnel.move_terminal()

    sent_then, received_then = state(tunnel.terminal, GATE, UP), state(tunnel.terminal, NEW, DOWN)
    assert sent_then.sent == sent.sent
    assert (received_then.replay, received_then.esn_replay) == (received.replay, received.esn_replay)
    assert received_then.received == 5
    assert sent_then.current.packets == 5
    assert (sent_then.aead, received_then.aead) == (sent.aead, received.aead)
    tunnel.move_gateway()
    assert ping(5) == 5


def test_after_move_only_the_policy_that_informs_is_left(tunnel: Tunnel) -> None:
    tunnel.move_terminal(inform=False)

    assert template_places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}", f"{GATE} {OLD}"])
    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}"])
    assert f"tmpl src {GATE} dst {OLD}" in policies(TERMINAL).split("dir fwd")[1].split("proto esp")[0]


def test_all_states_of_a_rekey_under_way_move_at_once(tunnel: Tunnel) -> None:
    for namespace in (TERMINAL, GATEWAY):
        batch(namespace, states_text(UP + 16, DOWN + 16, more="replay-window 32"))
    rekeyed = ChildSa(name="net", unique_id=2, reqid=REQID, spi_in=DOWN + 16, spi_out=UP + 16)
    tunnel.children.append(rekeyed)
    assert ping(3) == 3

    tunnel.move_terminal(inform=False)
    tunnel.move_gateway(inform=False)

    assert places(TERMINAL) == places(GATEWAY) == Counter({f"{NEW} {GATE}": 2, f"{GATE} {NEW}": 2})
    tunnel.move_terminal()
    tunnel.move_gateway()
    assert ping(3) == 3


def test_states_that_a_killed_charon_left_with_the_same_reqid_are_in_nobodys_way(tunnel: Tunnel) -> None:
    for namespace in (TERMINAL, GATEWAY):
        batch(namespace, states_text(UP + 16, DOWN + 16))
    assert len(tunnel.terminal.paths([DOWN])) == len(tunnel.gateway.paths([UP])) == 1
    assert len(tunnel.terminal.paths([DOWN], (ip_address(OLD),))) == 1

    for back in (False, True, False, True):
        tunnel.move_terminal(back=back)
        tunnel.move_gateway(back=back)
        assert ping(3) == 3


def test_states_beyond_the_messages_of_a_move_follow_when_charon_is_informed(tunnel: Tunnel) -> None:
    for extra in range(16, 80, 16):
        for namespace in (TERMINAL, GATEWAY):
            batch(namespace, states_text(UP + extra, DOWN + extra, more="replay-window 32"))
        tunnel.children.append(
            ChildSa(name="net", unique_id=extra, reqid=REQID, spi_in=DOWN + extra, spi_out=UP + extra)
        )

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert places(TERMINAL) == places(GATEWAY) == Counter({f"{NEW} {GATE}": 5, f"{GATE} {NEW}": 5})
    assert ping(3) == 3


def test_a_move_made_twice_is_a_move_made_once(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    tunnel.move_terminal()
    sent, received = state(tunnel.terminal, GATE, UP), state(tunnel.terminal, NEW, DOWN)

    tunnel.move_terminal()

    assert state(tunnel.terminal, GATE, UP).sent == sent.sent == 3
    assert state(tunnel.terminal, NEW, DOWN).replay == received.replay
    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}"])
    kmaddresses = [e.migrate.kmaddress for e in tunnel.terminal.process_events() if isinstance(e, Migrated)]
    assert [address for address in kmaddresses if address] == [KmAddress(ip_address(NEW), ip_address(GATE))] * 2


def test_a_daemon_started_anew_between_the_steps_finishes_the_move(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    tunnel.move_terminal(inform=False)
    tunnel.terminal.close()
    tunnel.terminal = tunnel.open(TERMINAL)

    tunnel.move_terminal()

    assert template_places(TERMINAL) == Counter({f"{NEW} {GATE}": 1, f"{GATE} {NEW}": 2})
    assert state(tunnel.terminal, GATE, UP).sent == 3
    tunnel.move_gateway()
    assert ping(3) == 3


def informed(states: KernelStates) -> list[KmAddress]:
    """What charon was told since the last look."""
    migrated = (event.migrate for event in states.process_events() if isinstance(event, Migrated))
    return [one.kmaddress for one in migrated if one.kmaddress]


def test_a_terminals_inbound_state_is_put_back_when_charon_is_told_and_comes_back_with_what_it_counted(
    tunnel: Tunnel,
) -> None:
    assert ping(3) == 3
    tunnel.move_terminal(inform=False)
    tunnel.move_gateway()
    before = state(tunnel.terminal, NEW, DOWN)

    tunnel.terminal.inform(tunnel.children, path(OLD, GATE), path(NEW, GATE), returning=True)

    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {OLD}"])
    assert template_places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {OLD}", f"{GATE} {NEW}"])
    assert informed(tunnel.terminal) == [KmAddress(ip_address(NEW), ip_address(GATE))]
    tunnel.terminal.align(tunnel.children, path(OLD, GATE), path(NEW, GATE))
    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}"])
    assert state(tunnel.terminal, NEW, DOWN).replay == before.replay
    tunnel.terminal.inform(tunnel.children, path(OLD, GATE), path(NEW, GATE))
    assert ping(3) == 3


def test_a_gateways_outbound_state_is_put_back_when_charon_is_told_and_goes_on_counting(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    tunnel.move_terminal()
    tunnel.move_gateway(inform=False)

    tunnel.gateway.inform(tunnel.mirrored, path(GATE, OLD), path(GATE, NEW), returning=True)

    assert places(GATEWAY) == Counter([f"{GATE} {OLD}", f"{NEW} {GATE}"])
    assert template_places(GATEWAY) == Counter({f"{GATE} {OLD}": 1, f"{NEW} {GATE}": 2})
    assert informed(tunnel.gateway) == [KmAddress(ip_address(GATE), ip_address(NEW))]
    assert state(tunnel.gateway, OLD, DOWN).sent == 3
    tunnel.gateway.align(tunnel.mirrored, path(GATE, OLD), path(GATE, NEW))
    assert state(tunnel.gateway, NEW, DOWN).sent == 3
    tunnel.gateway.inform(tunnel.mirrored, path(GATE, OLD), path(GATE, NEW))
    assert ping(3) == 3


def test_of_two_child_sas_with_one_reqid_both_inbound_states_are_put_back_and_no_outbound_one(tunnel: Tunnel) -> None:
    for namespace in (TERMINAL, GATEWAY):
        batch(namespace, states_text(UP + 16, DOWN + 16, more="replay-window 32"))
    rekeyed = ChildSa(name="net", unique_id=2, reqid=REQID, spi_in=DOWN + 16, spi_out=UP + 16)
    tunnel.children.append(rekeyed)
    tunnel.move_terminal(inform=False)
    tunnel.move_gateway(inform=False)

    tunnel.terminal.inform(tunnel.children, path(OLD, GATE), path(NEW, GATE), returning=True)
    tunnel.gateway.inform(tunnel.mirrored, path(GATE, OLD), path(GATE, NEW), returning=True)

    assert places(TERMINAL) == Counter({f"{NEW} {GATE}": 2, f"{GATE} {OLD}": 2})
    assert places(GATEWAY) == Counter({f"{NEW} {GATE}": 2, f"{GATE} {NEW}": 2})


def test_what_the_kernel_refuses_leaves_everything_where_it_was(tunnel: Tunnel) -> None:
    # The new address has the inbound SPI already: the kernel cannot put the state there.
    xfrm(TERMINAL, f"state add src {GATE} dst {NEW} proto esp spi {DOWN:#x} reqid 99 mode tunnel {GCM}")
    assert ping(3) == 3

    with pytest.raises(KernelRefused, match=r"migrate out policy 10\.9\.0\.1/32 10\.1\.0\.1/32 of reqid 7: ENODATA"):
        tunnel.move_terminal()

    assert template_places(TERMINAL) == Counter({f"{OLD} {GATE}": 1, f"{GATE} {OLD}": 2})
    assert ping(3) == 3
    assert state(tunnel.terminal, GATE, UP).sent == 6


def test_an_spi_that_charon_took_where_the_tunnel_was_is_not_in_the_way_of_coming_back(tunnel: Tunnel) -> None:
    taken = DOWN + 16
    xfrm(TERMINAL, f"state allocspi src {GATE} dst {NEW} proto esp mode tunnel min {taken:#x} max {taken:#x}")
    for namespace in (TERMINAL, GATEWAY):
        batch(namespace, states_text(UP + 16, taken, more="replay-window 32"))
    tunnel.children.append(ChildSa(name="net", unique_id=16, reqid=REQID, spi_in=taken, spi_out=UP + 16))

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert places(TERMINAL) == places(GATEWAY) == Counter({f"{NEW} {GATE}": 2, f"{GATE} {NEW}": 2})
    assert ping(3) == 3


def test_a_packet_that_finds_no_state_is_told_of_and_what_the_kernel_puts_there_is_removed(tunnel: Tunnel) -> None:
    places = [ip_address(NEW), ip_address(GATE)]
    assert tunnel.terminal.lost(tunnel.children, places) == ()
    # With the SPI, as charon has it.
    template = f"tmpl src {OLD} dst {GATE} proto esp spi {UP:#x} reqid {REQID} mode tunnel"
    xfrm(TERMINAL, f"policy update src {INNER} dst {BEHIND} dir out priority {PRIORITY} {template}")
    xfrm(TERMINAL, f"state delete src {OLD} dst {GATE} proto esp spi {UP:#x}")
    tunnel.terminal.process_events()

    subprocess.run(["ip", "netns", "exec", TERMINAL, "ping", "-c", "1", "-W", "1", BEHIND], check=False)

    acquired = [event for event in tunnel.terminal.process_events() if isinstance(event, Acquire)]
    assert [event.spi for event in acquired] == [UP]
    assert f"spi 0x{UP:08x}" in xfrm(TERMINAL, "state")
    assert tunnel.terminal.lost(tunnel.children, places) == (UP,)
    assert f"spi 0x{UP:08x}" not in xfrm(TERMINAL, "state")


def test_a_larval_state_where_charon_left_a_policy_is_not_taken_along(tunnel: Tunnel) -> None:
    template = f"tmpl src {GATE} dst {LATE} proto esp spi {DOWN:#x} reqid {REQID} mode tunnel"
    xfrm(GATEWAY, f"policy update src {BEHIND} dst {INNER} dir out priority {PRIORITY} {template}")
    subprocess.run(["ip", "netns", "exec", GATEWAY, "ping", "-c", "1", "-W", "1", "-I", BEHIND, INNER], check=False)
    assert f"src {GATE} dst {LATE}" in xfrm(GATEWAY, "state")

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert places(GATEWAY) == Counter({f"{NEW} {GATE}": 1, f"{GATE} {NEW}": 1})
    assert ping(3) == 3


def test_a_state_that_took_the_place_of_a_larval_one_is_not_deleted_for_it(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    with inside(TERMINAL), NetlinkSocket(NETLINK_XFRM) as netlink:
        assert not Refits(Transactions(netlink)).vacate(SaId(destination=ip_address(GATE), spi=UP))

    assert state(tunnel.terminal, GATE, UP).sent == 3 + HEALED
    assert ping(3) == 3


def test_nothing_is_touched_while_there_are_no_policies(tunnel: Tunnel) -> None:
    xfrm(TERMINAL, "policy flush")

    with pytest.raises(KernelRefused, match="policies of reqid 7: ENOENT"):
        tunnel.move_terminal()

    assert places(TERMINAL) == Counter({f"{OLD} {GATE}": 1, f"{GATE} {OLD}": 1})


def test_the_states_of_a_tunnel_that_is_gone_are_deleted_where_they_are_and_missed_by_nobody(tunnel: Tunnel) -> None:
    for _ in range(2):
        tunnel.terminal.forget(tunnel.children, (ip_address(NEW),), (ip_address(GATE),))
    assert places(TERMINAL) == Counter({f"{GATE} {OLD}": 1})
    tunnel.terminal.forget(tunnel.children, (ip_address(OLD),), ())
    assert places(TERMINAL) == Counter()


def test_the_half_that_was_moved_is_moved_back(tunnel: Tunnel) -> None:
    # A second CHILD_SA whose inbound state cannot move; the first one can, and has been when the second is refused.
    more = states_text(UP + 16, DOWN + 16, reqid=8) + policies_text(TERMINAL, "10.9.0.5", BEHIND, reqid=8)
    batch(TERMINAL, more)
    xfrm(TERMINAL, f"state add src {GATE} dst {NEW} proto esp spi {DOWN + 16:#x} reqid 99 mode tunnel {GCM}")
    tunnel.children.append(ChildSa(name="two", unique_id=2, reqid=8, spi_in=DOWN + 16, spi_out=UP + 16))

    with pytest.raises(KernelRefused, match="of reqid 8"):
        tunnel.move_terminal()

    assert template_places(TERMINAL) == Counter({f"{OLD} {GATE}": 2, f"{GATE} {OLD}": 4})
    assert places(TERMINAL) == Counter({f"{OLD} {GATE}": 2, f"{GATE} {OLD}": 2, f"{GATE} {NEW}": 1})
    assert ping(3) == 3


def test_another_tunnels_state_with_the_same_spi_is_not_touched(tunnel: Tunnel) -> None:
    # Peers choose the SPIs that we send with, so a second terminal can have chosen the same one.
    xfrm(
        GATEWAY,
        f"state add src {GATE} dst {NEW} proto esp spi {DOWN:#x} reqid 99 mode tunnel {GCM} replay-oseq 0x1000",
    )

    with pytest.raises(KernelRefused, match="EEXIST"):
        tunnel.move_gateway()

    assert state(tunnel.gateway, NEW, DOWN).sent == 0x1000
    assert template_places(GATEWAY) == Counter({f"{GATE} {OLD}": 1, f"{OLD} {GATE}": 2})
    assert ping(3) == 3


def test_several_child_sas_with_several_selectors_move_together(tunnel: Tunnel) -> None:
    for namespace in (TERMINAL, GATEWAY):
        batch(
            namespace,
            states_text(UP + 16, DOWN + 16, reqid=8)
            + policies_text(namespace, "10.9.0.5", BEHIND, reqid=8, more="mark 0x1 mask 0x1")
            + policies_text(namespace, "10.9.0.6", BEHIND, reqid=8)
            + policies_text(namespace, "10.9.0.7/32", "10.1.0.0/24 proto tcp", reqid=8),
        )
    tunnel.children.append(ChildSa(name="two", unique_id=2, reqid=8, spi_in=DOWN + 16, spi_out=UP + 16))

    tunnel.move_terminal()
    tunnel.move_gateway()

    for namespace in (TERMINAL, GATEWAY):
        assert set(places(namespace)) == {f"{NEW} {GATE}", f"{GATE} {NEW}"}
        assert set(template_places(namespace)) == {f"{NEW} {GATE}", f"{GATE} {NEW}"}
    assert ping(3) == 3


def test_a_tunnel_between_ipv6_addresses_moves(stack: ExitStack) -> None:
    for namespace in (TERMINAL, GATEWAY):
        batch(
            namespace,
            states_text(UP, DOWN, terminal=OLD6, gate=GATE6, more="replay-window 32")
            + policies_text(namespace, INNER6, BEHIND6, terminal=OLD6, gate=GATE6),
        )
    tunnel = Tunnel(stack, old=OLD6, new=NEW6, gate=GATE6)
    assert ping(3, BEHIND6) == 3

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert places(TERMINAL) == places(GATEWAY) == Counter([f"{NEW6} {GATE6}", f"{GATE6} {NEW6}"])
    assert ping(3, BEHIND6) == 3


def test_states_with_marks_and_interface_ids_move(stack: ExitStack) -> None:
    more = "mark 0x1 mask 0x1 if_id 0x7"
    batch(TERMINAL, states_text(UP, DOWN, more=more) + policies_text(TERMINAL, INNER, BEHIND, more=more))
    tunnel = Tunnel(stack)

    tunnel.move_terminal()

    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}"])
    found = tunnel.terminal.state(ip_address(GATE), UP, mark=Mark(1, 1))
    assert found is not None
    assert (found.mark, found.if_id, found.sent) == (Mark(1, 1), 7, 0)


def test_a_policy_that_comes_behind_another_for_its_first_address_moves(stack: ExitStack) -> None:
    wide, narrow = "10.1.0.0/16", "10.1.0.0/24"
    batch(TERMINAL, states_text(UP, DOWN) + policies_text(TERMINAL, INNER, wide))
    for between in (f"src {INNER} dst {narrow} dir out", f"src {narrow} dst {INNER} dir in"):
        xfrm(TERMINAL, f"policy add {between} priority 1")
    before = xfrm(TERMINAL, "policy")
    tunnel = Tunnel(stack)

    for back in (False, True):
        tunnel.move_terminal(back=back)

        here = OLD if back else NEW
        assert places(TERMINAL) == Counter([f"{here} {GATE}", f"{GATE} {here}"])
        assert template_places(TERMINAL) == Counter({f"{here} {GATE}": 1, f"{GATE} {here}": 2})
        assert not any(isinstance(event, PolicySet) for event in tunnel.terminal.process_events())
    assert sorted(policies(TERMINAL).split()) == sorted(before.split())


def test_a_marked_state_is_found_by_its_spi_once_it_was_seen(stack: ExitStack) -> None:
    batch(TERMINAL, states_text(UP, DOWN, more="mark 0x2a mask 0xff"))
    with inside(TERMINAL):
        states = stack.enter_context(opened(KernelStates(last="fwd")))
    assert states.state(ip_address(OLD), DOWN) is None

    assert [spi for spi, _ in states.paths([DOWN], (ip_address(OLD),))] == [DOWN]

    assert state(states, OLD, DOWN).mark == Mark(0x2A, 0xFF)
    assert states.delete(ip_address(OLD), DOWN)
    states.paths([DOWN])
    assert states.state(ip_address(OLD), DOWN) is None


def test_states_of_directions_that_have_interface_ids_of_their_own_all_move_in_the_middle_of_a_rekey(
    stack: ExitStack,
) -> None:
    for extra in (0, 16):
        up, down = states_text(UP + extra, DOWN + extra, more="replay-window 32").splitlines()
        batch(TERMINAL, f"{up} if_id 7\n{down} if_id 8\n")
    for direction, number in (("out", 7), ("in", 8), ("fwd", 8)):
        every = policies_text(TERMINAL, INNER, BEHIND, more=f"if_id {number}").splitlines()
        batch(TERMINAL, "".join(f"{line}\n" for line in every if f"dir {direction} " in line))
    tunnel = Tunnel(stack)
    tunnel.children.append(ChildSa(name="net", unique_id=2, reqid=REQID, spi_in=DOWN + 16, spi_out=UP + 16))

    tunnel.move_terminal()

    assert places(TERMINAL) == Counter({f"{NEW} {GATE}": 2, f"{GATE} {NEW}": 2})
    assert template_places(TERMINAL) == Counter({f"{NEW} {GATE}": 1, f"{GATE} {NEW}": 2})
    ids = {spi: found.if_id for spi in (UP, UP + 16) if (found := tunnel.terminal.state(ip_address(GATE), spi))}
    assert ids == {UP: 7, UP + 16: 7}


def test_where_a_child_sa_has_vanished_the_other_stays_where_it_was(tunnel: Tunnel) -> None:
    tunnel.children.append(ChildSa(name="gone", unique_id=2, reqid=8, spi_in=DOWN + 16, spi_out=UP + 16))

    with pytest.raises(KernelRefused, match="policies of reqid 8: ENOENT"):
        tunnel.move_terminal()

    assert places(TERMINAL) == Counter([f"{OLD} {GATE}", f"{GATE} {OLD}"])
    assert template_places(TERMINAL) == Counter({f"{OLD} {GATE}": 1, f"{GATE} {OLD}": 2})
    tunnel.children.pop()
    tunnel.move_terminal()
    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}"])


def test_where_a_child_sa_vanishes_before_charon_is_told_it_is_told_of_the_other(tunnel: Tunnel) -> None:
    tunnel.move_terminal(inform=False)
    tunnel.children.insert(0, ChildSa(name="gone", unique_id=2, reqid=8, spi_in=DOWN + 16, spi_out=UP + 16))

    with pytest.raises(KernelRefused, match="inbound policies of reqid 8: ENOENT"):
        tunnel.terminal.inform(tunnel.children, path(OLD, GATE), path(NEW, GATE))

    assert places(TERMINAL) == Counter([f"{NEW} {GATE}", f"{GATE} {NEW}"])
    assert template_places(TERMINAL) == Counter({f"{NEW} {GATE}": 1, f"{GATE} {NEW}": 2})


def test_a_tunnel_without_policies_is_refused(stack: ExitStack) -> None:
    batch(TERMINAL, states_text(UP, DOWN))
    tunnel = Tunnel(stack)

    with pytest.raises(KernelRefused, match="policies of reqid 7: ENOENT"):
        tunnel.move_terminal()

    assert places(TERMINAL) == Counter([f"{OLD} {GATE}", f"{GATE} {OLD}"])


def test_a_state_that_a_killed_daemon_left_silent_is_recovered(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    with inside(TERMINAL), NetlinkSocket(NETLINK_XFRM) as requests:
        silent = AeState(id=SaId(destination=ip_address(GATE), spi=UP), replay=Replay(sent=0xFFFFFFFF))
        requests.request("stop", Msg.NEWAE, silent.pack(), Flag.REPLACE)
    assert ping(2) == 0

    assert tunnel.terminal.recover(tunnel.children, path(OLD, GATE)) == 1

    assert ping(3) == 3
    # Nobody knows how far it was, only that half of the numbers were not used: charon may have reset the counters.
    assert state(tunnel.terminal, GATE, UP).sent == (1 << 31) + 3
    assert tunnel.terminal.recover(tunnel.children, path(OLD, GATE)) == 0


def test_a_silent_state_sends_again_after_the_next_move(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    with inside(TERMINAL), NetlinkSocket(NETLINK_XFRM) as requests:
        silent = AeState(id=SaId(destination=ip_address(GATE), spi=UP), replay=Replay(sent=0xFFFFFFFF))
        requests.request("stop", Msg.NEWAE, silent.pack(), Flag.REPLACE)

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert ping(3) == 3


def test_policies_that_changed_since_are_known(tunnel: Tunnel) -> None:
    xfrm(TERMINAL, "policy flush")
    batch(TERMINAL, policies_text(TERMINAL, "10.9.0.0/24", "10.1.0.0/24"))

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert set(template_places(TERMINAL)) == {f"{NEW} {GATE}", f"{GATE} {NEW}"}
    assert ping(3) == 3


def test_lost_events_do_not_matter(tunnel: Tunnel) -> None:
    added = "".join(f"policy add src 10.7.{n >> 8}.{n & 255} dst 10.8.0.1 dir out\n" for n in range(3000))
    batch(TERMINAL, added + added.replace("policy add", "policy delete"))
    xfrm(TERMINAL, "policy flush")
    batch(TERMINAL, policies_text(TERMINAL, "10.9.0.0/24", "10.1.0.0/24"))

    tunnel.move_terminal()
    tunnel.move_gateway()

    assert ping(3) == 3


T = TypeVar("T", "Sniffer", "Stream")
NATT_PORT = struct.pack("!H", 4500)


class Sniffer(threading.Thread):
    """Counts (SPI, sequence number) of ESP packets that come in on the gateway, in UDP or not."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: Counter[tuple[int, int]] = Counter()
        self.stop = threading.Event()
        with inside(GATEWAY):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self._socket.settimeout(0.2)

    def run(self) -> None:
        while True:
            try:
                packet, address = self._socket.recvfrom(4096)
            except TimeoutError:
                if self.stop.is_set():  # and all that came before was read
                    break
                continue
            if address[2] == socket.PACKET_OUTGOING:
                continue
            if packet[9] == socket.IPPROTO_ESP:
                self.seen[struct.unpack_from("!II", packet, 20)] += 1
            elif packet[9] == socket.IPPROTO_UDP and packet[22:24] == NATT_PORT:
                self.seen[struct.unpack_from("!II", packet, 28)] += 1
        self._socket.close()


class Stream(threading.Thread):
    """Sends numbered datagrams through the tunnel as fast as it can; what the kernel refuses is sent again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.sent = self.refused = 0
        self.stop = threading.Event()
        with inside(TERMINAL):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with inside(GATEWAY):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self.receiver.bind((BEHIND, UDP_PORT))

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._socket.sendto(self.sent.to_bytes(8), (BEHIND, UDP_PORT))
                self.sent += 1
            except OSError:
                self.refused += 1
        self._socket.close()

    def goes_on(self) -> None:
        """On a single processor it would wait for the end of everything else."""
        tried = self.sent + self.refused
        eventually(lambda: self.sent + self.refused > tried, "the stream goes on", every_s=0.0001)

    def received(self) -> set[int]:
        numbers: set[int] = set()
        self.receiver.settimeout(1.0)
        try:
            while len(numbers) < self.sent:
                numbers.add(int.from_bytes(self.receiver.recv(16)))
        except TimeoutError:
            pass
        self.receiver.close()
        return numbers


@contextmanager
def running(thread: T) -> Iterator[T]:
    thread.start()
    try:
        yield thread
    finally:
        thread.stop.set()
        thread.join(DEADLINE_S)


def test_a_moving_end_sends_on_loses_nothing_and_repeats_no_sequence_number(tunnel: Tunnel) -> None:
    assert ping(1) == 1
    with running(Sniffer()) as sniffer:
        with running(Stream()) as stream:
            for n in range(20):
                stream.goes_on()
                tunnel.move_terminal(back=n % 2 == 1)
        received = stream.received()
    lost = stream.sent - len(received)
    repeated = [number for number, count in sniffer.seen.items() if count > 1]
    print(
        f"{stream.sent} sent, {stream.refused} refused, {lost} lost, {len(repeated)} repeated, {len(sniffer.seen)} seen"
    )
    assert stream.sent > 20
    assert lost == 0
    assert len(sniffer.seen) >= stream.sent
    assert repeated == []


def test_no_sequence_number_is_repeated_where_states_are_put_back_for_charon(tunnel: Tunnel) -> None:
    run("ip", "-n", GATEWAY, "addr", "add", f"{LATE}/24", "dev", "out")
    assert ping(1) == 1
    ways = path(OLD, GATE), path(OLD, LATE)
    with running(Sniffer()) as sniffer:
        with running(Stream()) as stream:
            for old, new in (ways, ways[::-1]) * 10:
                stream.goes_on()
                tunnel.terminal.move(tunnel.children, old, new)
                tunnel.terminal.inform(tunnel.children, old, new, returning=True)
                stream.goes_on()
                tunnel.terminal.inform(tunnel.children, old, new)
        stream.receiver.close()
    assert stream.sent > 20
    assert set(sniffer.seen.values()) == {1}


def test_nothing_that_was_sent_while_udp_begins_and_ends_is_lost_and_no_sequence_number_is_repeated(
    tunnel: Tunnel,
) -> None:
    assert ping(1) == 1
    plain = path(OLD, GATE)
    in_udp = Path(Endpoint(ip_address(OLD), 4500), Endpoint(ip_address(GATE), 4500), encap=True)
    with running(Sniffer()) as sniffer:
        with running(Stream()) as stream:
            for old, new in ((plain, in_udp), (in_udp, plain)) * 10:
                stream.goes_on()
                tunnel.terminal.move(tunnel.children, old, new)
        stream.receiver.close()
        eventually(lambda: len(sniffer.seen) >= stream.sent, f"{stream.sent} packets are seen")
    assert stream.sent > 20
    assert set(sniffer.seen.values()) == {1}


def test_how_long_a_move_takes(tunnel: Tunnel) -> None:
    assert ping(3) == 3
    times: dict[str, list[float]] = {"terminal": [], "gateway": []}
    for n in range(30):
        for name, move, inform in (
            ("terminal", tunnel.move_terminal, tunnel.terminal.inform),
            ("gateway", tunnel.move_gateway, tunnel.gateway.inform),
        ):
            tunnel.terminal.process_events()
            tunnel.gateway.process_events()
            begun = time.perf_counter()
            move(back=n % 2 == 1, inform=False)
            times[name].append(time.perf_counter() - begun)
            old, new = (NEW, OLD) if n % 2 else (OLD, NEW)
            ends = (path(old, GATE), path(new, GATE)) if name == "terminal" else (path(GATE, old), path(GATE, new))
            inform(tunnel.children if name == "terminal" else tunnel.mirrored, *ends)
    for name, taken in times.items():
        ordered = sorted(taken)
        median, least = 1e6 * ordered[len(ordered) // 2], 1e6 * ordered[0]
        print(f"move of the {name}: median {median:.0f} us, least {least:.0f} us")
    assert ping(3) == 3
