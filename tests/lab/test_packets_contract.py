"""The packet filter, the queue, the sender and ESP verification, against a real kernel. No charon: states by `ip xfrm`.

    terminal                      gateway                       server
    192.0.2.1, 192.0.2.3 -------- 192.0.2.2
    2001:db8::1, ::3              2001:db8::2
    inner 10.9.0.1, 10.9.0.9      10.1.0.2 -------------------- 10.1.0.1
    inner fd00:9::1               fd00:1::2                     fd00:1::1

The terminal "moves" by sending from 192.0.2.3; the gateway knows it at 192.0.2.1.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from swanroam.errors import KernelRefused
from swanroam.kernel.filter import PacketFilter
from swanroam.kernel.queue import HeldDown, HeldEsp, PacketQueue, Taken, TunnelMessage, Unreadable
from swanroam.kernel.sender import TunnelSender
from swanroam.model.effects import Watch
from swanroam.model.events import Reason
from swanroam.model.tunnel import Role, TunnelKey
from swanroam.wire.esp import Algorithm, EspState, ReplayWindow, VerifiedPacket, verify
from swanroam.wire.ruleset import CLEARTEXT, DUMMIES, STRANGERS

TERMINAL, GATEWAY, SERVER = "pkc-terminal", "pkc-gateway", "pkc-server"
OLD, NEW, GATE = "192.0.2.1", "192.0.2.3", "192.0.2.2"
OLD6, NEW6, GATE6 = "2001:db8::1", "2001:db8::3", "2001:db8::2"
OWN = (GATE, GATE6)
INNER, OTHER_INNER, INNER6 = "10.9.0.1", "10.9.0.9", "fd00:9::1"
BEHIND, BEHIND6 = "10.1.0.1", "fd00:1::1"
SPI_UP, SPI_DOWN = 0xC0000001, 0xC0000002
PORT, APP_PORT = 4555, 7777
KEY = TunnelKey("home", (ip_address(INNER), ip_address(INNER6)))
CLONE_NEWNET = 0x40000000
DEADLINE_S = 20.0
GCM_KEY = bytes(range(20))
GCM = ("aead", "rfc4106(gcm(aes))", "0x" + GCM_KEY.hex(), "128")
GCM_STATE = EspState(combined=Algorithm("rfc4106(gcm(aes))", GCM_KEY, 128))


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """In this block the thread, and what it starts and opens, are in the namespace; sockets stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


BUILD = f"""
ip netns add {TERMINAL}; ip netns add {GATEWAY}; ip netns add {SERVER}
ip link add out netns {TERMINAL} type veth peer name out netns {GATEWAY}
ip link add in netns {GATEWAY} type veth peer name in netns {SERVER}
for n in {TERMINAL} {GATEWAY} {SERVER}; do
  ip netns exec $n sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
  ip -n $n link set lo up
done
for a in {OLD}/24 {NEW}/24 {OLD6}/64 {NEW6}/64; do ip -n {TERMINAL} addr add $a dev out nodad; done
for a in {INNER}/32 {OTHER_INNER}/32 {INNER6}/128; do ip -n {TERMINAL} addr add $a dev lo; done
for a in {GATE}/24 {GATE6}/64; do ip -n {GATEWAY} addr add $a dev out nodad; done
for a in 10.1.0.2/24 fd00:1::2/64; do ip -n {GATEWAY} addr add $a dev in nodad; done
for a in {BEHIND}/24 {BEHIND6}/64; do ip -n {SERVER} addr add $a dev in nodad; done
ip -n {TERMINAL} link set out up; ip -n {GATEWAY} link set out up
ip -n {GATEWAY} link set in up; ip -n {SERVER} link set in up
ip netns exec {GATEWAY} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip -n {TERMINAL} route add 10.1.0.0/24 via {GATE}; ip -n {TERMINAL} route add fd00:1::/64 via {GATE6}
ip -n {GATEWAY} route add 10.9.0.0/24 via {OLD}; ip -n {GATEWAY} route add fd00:9::/64 via {OLD6}
ip -n {SERVER} route add default via 10.1.0.2; ip -n {SERVER} route add default via fd00:1::2
"""


@pytest.fixture(scope="module")
def topology() -> Iterator[None]:
    destroy()
    try:
        run("sh", "-e", "-c", BUILD)
        yield
    finally:
        destroy()


def destroy() -> None:
    for namespace in (TERMINAL, GATEWAY, SERVER):
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def tunnel(*algorithm: str, source: str = NEW, gate: str = GATE, flags: str = "", replay: str = "") -> None:
    """States and policies at both ends, for both inner versions; the gateway still has the terminal at OLD."""
    old = OLD if gate == GATE else OLD6
    for namespace, up in ((TERMINAL, source), (GATEWAY, old)):
        lines = ["state flush", "policy flush"]
        for left, right, spi in ((up, gate, SPI_UP), (gate, up if namespace == TERMINAL else source, SPI_DOWN)):
            lines.append(
                f"state add src {left} dst {right} proto esp spi {spi:#x} reqid 1 mode tunnel {replay} "
                f"{' '.join(algorithm)} flag af-unspec {flags}"
            )
        for net, far in (("10.9.0.0/24", "10.1.0.0/24"), ("fd00:9::/64", "fd00:1::/64")):
            there = [(net, far, "out" if namespace == TERMINAL else "in", up, gate)]
            there += [(net, far, "fwd", up, gate)] if namespace == GATEWAY else []
            there += [(far, net, "in" if namespace == TERMINAL else "out", gate, source)]
            for left, right, way, outer_left, outer_right in there:
                template = f"tmpl src {outer_left} dst {outer_right} proto esp reqid 1 mode tunnel"
                lines.append(f"policy add src {left} dst {right} dir {way} {template}")
        run("ip", "-n", namespace, "-batch", "-", text="\n".join(f"xfrm {line}" for line in lines))


Gateway = tuple[PacketFilter, PacketQueue]


@contextmanager
def filtering(namespace: str, role: Role, *, leaving_ms: int = 5000) -> Iterator[Gateway]:
    with inside(namespace), ExitStack() as stack:
        queue = stack.enter_context(PacketQueue())
        packet_filter = stack.enter_context(PacketFilter(role, leaving_ms=leaving_ms))
        packet_filter.install()
        stack.callback(packet_filter.remove)
        yield packet_filter, queue


@pytest.fixture
def gcm_tunnel(topology: None) -> None:  # noqa: ARG001 - the topology is there
    tunnel(*GCM)


@pytest.fixture
def gateway(gcm_tunnel: None) -> Iterator[Gateway]:  # noqa: ARG001 - the tunnel is there
    with filtering(GATEWAY, Role.GATEWAY) as there:
        yield there


def watched(*sources: str, spis: tuple[int, ...] = (SPI_UP,), leaving: tuple[str, ...] = ()) -> Watch:
    return Watch(
        key=KEY,
        inner=(ip_address(INNER), ip_address(INNER6)),
        spis=spis,
        own=tuple(map(ip_address, OWN)),
        sources=tuple(map(ip_address, sources)),
        leaving=tuple(map(ip_address, leaving)),
    )


def receive(queue: PacketQueue) -> Taken:
    """The next thing out of the queue, in time."""
    assert select.select([queue], [], [], DEADLINE_S)[0], "nothing came out of the queue"
    (found,) = queue.receive()
    return found


def held(queue: PacketQueue) -> HeldEsp:
    found = receive(queue)
    assert isinstance(found, HeldEsp), found
    return found


@contextmanager
def udp_receiver(namespace: str, port: int = APP_PORT, address: str = BEHIND) -> Iterator[socket.socket]:
    with inside(namespace):
        receiver = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with receiver:
        receiver.bind((address, port))
        receiver.settimeout(DEADLINE_S)
        yield receiver


def say(text: bytes, *, source: str = INNER, to: str = BEHIND, port: int = APP_PORT, source_port: int = 0) -> None:
    """One UDP packet of the terminal, through the tunnel."""
    with inside(TERMINAL), socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, source_port))
        sender.sendto(text, (to, port))


def say_message(text: bytes, *, source: str = INNER, to: str = BEHIND) -> None:
    say(text, source=source, to=to, port=PORT, source_port=PORT)


def arrives(server: socket.socket, text: bytes, *, source: str = INNER, to: str = BEHIND) -> bool:
    """Whether a packet that nobody has a reason to touch gets to the server; packets before it have been dealt with."""
    say(text, source=source, to=to)
    return server.recv(100) == text


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "condition not reached in time"
        select.select([], [], [], 0.01)


def counter(packet_filter: PacketFilter, name: str) -> int:
    return packet_filter.counters()[name]


# ESP of roaming SPIs from unknown sources is held at the gateway.


def test_esp_from_an_unknown_source_is_held_verified_and_arrives_once_accepted(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    with udp_receiver(SERVER) as server:
        say(b"first after the move")
        packet = held(queue)
        assert (str(packet.packet.source), packet.packet.spi) == (NEW, SPI_UP)
        verified = verify(GCM_STATE, packet.packet)
        assert isinstance(verified, VerifiedPacket)
        assert verified.inner is not None
        assert (str(verified.inner.source), str(verified.inner.destination)) == (INNER, BEHIND)
        queue.verdict(packet.packet_id, accept=True)
        assert server.recv(100) == b"first after the move"


def test_what_comes_for_a_terminal_waits_while_charon_follows_and_arrives_once_let_go(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(replace(watched(), waiting=(ip_address(OLD),)))
    with udp_receiver(TERMINAL, address=INNER) as terminal, inside(SERVER):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.sendto(b"down", (INNER, APP_PORT))
        packet = receive(queue)
        assert isinstance(packet, HeldDown)
        assert packet.destination == ip_address(INNER)
        queue.let_down(packet.packet_id)
        assert terminal.recv(100) == b"down"


def test_a_held_packet_that_is_dropped_does_not_arrive(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    with udp_receiver(SERVER) as server:
        say(b"dropped")
        queue.verdict(held(queue).packet_id, accept=False)
        packet_filter.watch(watched(OLD, NEW))
        assert arrives(server, b"the next one")


@pytest.mark.parametrize("change", ["known", "leaving", "other spi", "unwatched"])
def test_other_esp_goes_on_untouched(gateway: Gateway, change: str) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    with udp_receiver(SERVER) as server:
        say(b"held at first")
        queue.verdict(held(queue).packet_id, accept=True)
        assert server.recv(100) == b"held at first"
        match change:
            case "known":
                packet_filter.watch(watched(OLD, NEW))
            case "leaving":
                packet_filter.watch(watched(OLD, leaving=(NEW,)))
            case "other spi":
                packet_filter.watch(watched(OLD, spis=(SPI_UP + 1,)))
            case _:
                packet_filter.unwatch(KEY)
        assert arrives(server, b"untouched")
        assert queue.receive() == []


def test_esp_from_a_known_source_to_where_the_tunnel_is_not_is_held(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    elsewhere = replace(watched(OLD, NEW), own=(ip_address(OLD),))
    packet_filter.watch(elsewhere)
    say(b"to another address of the gateway")
    assert (str(held(queue).packet.source), str(elsewhere.own[0])) == (NEW, OLD)


def test_a_source_that_left_is_held_again_after_its_time(gcm_tunnel: None) -> None:  # noqa: ARG001 - it is there
    with filtering(GATEWAY, Role.GATEWAY, leaving_ms=200) as (packet_filter, queue), inside(GATEWAY):
        packet_filter.watch(watched(OLD, leaving=(NEW,)))
        until(lambda: "expires" not in run("nft", "list", "set", "inet", "swanroam", "leaving"))
        say(b"late")
        assert str(held(queue).packet.source) == NEW
        packet_filter.watch(watched(OLD))
        assert packet_filter.process_events()


def test_a_source_that_is_no_longer_leaving_is_held_at_once(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, leaving=(NEW,)))
    packet_filter.watch(watched(OLD))
    assert packet_filter.process_events()
    say(b"back again")
    assert str(held(queue).packet.source) == NEW


def test_a_wrong_key_is_a_bad_icv_and_a_number_in_the_window_is_replayed(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    say(b"one")
    packet = held(queue).packet
    other = EspState(combined=Algorithm("rfc4106(gcm(aes))", bytes(20), 128))
    assert verify(other, packet) is Reason.BAD_ICV
    seen = ReplayWindow(highest=packet.sequence, size=32, received=1)
    assert verify(EspState(combined=GCM_STATE.combined, window=seen), packet) is Reason.REPLAYED


def key(size: int) -> bytes:
    return bytes(range(1, size + 1))


def combined(name: str, size: int, bits: int) -> tuple[tuple[str, ...], EspState]:
    arguments = ("aead", name, "0x" + key(size).hex(), str(bits))
    return arguments, EspState(combined=Algorithm(name, key(size), bits))


def separate(cipher: str, size: int, mac: str, mac_size: int, bits: int) -> tuple[tuple[str, ...], EspState]:
    arguments = ("enc", cipher, "0x" + key(size).hex() if size else "", "auth-trunc", mac)
    state = EspState(encryption=Algorithm(cipher, key(size)), authentication=Algorithm(mac, key(mac_size), bits))
    return (*arguments[:2], arguments[2] or '""', *arguments[3:], "0x" + key(mac_size).hex(), str(bits)), state


ALGORITHMS = [
    combined("rfc4106(gcm(aes))", 20, 64),
    combined("rfc4106(gcm(aes))", 28, 96),
    combined("rfc4106(gcm(aes))", 36, 128),
    combined("rfc4309(ccm(aes))", 19, 64),
    combined("rfc4309(ccm(aes))", 35, 128),
    combined("rfc4543(gcm(aes))", 20, 128),
    combined("rfc7539esp(chacha20,poly1305)", 36, 128),
    separate("cbc(aes)", 16, "hmac(sha1)", 20, 96),
    separate("cbc(aes)", 32, "hmac(sha256)", 32, 128),
    separate("cbc(aes)", 16, "hmac(sha256)", 32, 96),
    separate("cbc(aes)", 24, "hmac(sha384)", 48, 192),
    separate("cbc(aes)", 32, "hmac(sha512)", 64, 256),
    separate("rfc3686(ctr(aes))", 20, "hmac(sha256)", 32, 128),
    separate("ecb(cipher_null)", 0, "hmac(sha256)", 32, 128),
]


@pytest.mark.parametrize("esn", [False, True], ids=["32 bits", "ESN"])
@pytest.mark.parametrize(
    ("arguments", "state"), ALGORITHMS, ids=[f"{arguments[1]} {arguments[-3:]}" for arguments, _ in ALGORITHMS]
)
def test_packets_of_the_kernel_are_verified_and_the_kernel_agrees(
    gateway: Gateway, arguments: tuple[str, ...], state: EspState, esn: bool
) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    sequences = [1, 2]
    if esn:
        # The upper half changes between the second packet and the first.
        before = "replay-seq 0xfffffffe replay-oseq 0xfffffffe replay-seq-hi 1 replay-oseq-hi 1"
        tunnel(*arguments, flags="esn", replay=f"replay-window 64 {before}")
        state = replace(state, esn=True, window=ReplayWindow(highest=0x1_FFFF_FFFE, size=64, ring=True))
        sequences = [0x1_FFFF_FFFF, 0x2_0000_0000]
    else:
        tunnel(*arguments, replay="replay-window 32")
    with udp_receiver(SERVER) as server:
        for sequence in sequences:
            say(b"%x" % sequence)
            packet = held(queue)
            verified = verify(state, packet.packet)
            assert isinstance(verified, VerifiedPacket), verified
            assert verified.sequence == sequence
            assert verified.inner is not None
            assert str(verified.inner.source) == INNER
            forged = replace(packet.packet, data=packet.packet.data[:-1] + bytes([packet.packet.data[-1] ^ 1]))
            assert verify(state, forged) is Reason.BAD_ICV
            queue.verdict(packet.packet_id, accept=True)
            assert server.recv(100) == b"%x" % sequence


def test_esp_over_ipv6_is_held_and_verified(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    tunnel(*GCM, source=NEW6, gate=GATE6)
    packet_filter.watch(watched(OLD6))
    with udp_receiver(SERVER, address=BEHIND6) as server:
        say(b"six", source=INNER6, to=BEHIND6)
        packet = held(queue)
        assert str(packet.packet.source) == NEW6
        verified = verify(GCM_STATE, packet.packet)
        assert isinstance(verified, VerifiedPacket)
        assert verified.inner is not None
        assert str(verified.inner.source) == INNER6
        queue.verdict(packet.packet_id, accept=True)
        assert server.recv(100) == b"six"
        packet_filter.watch(watched(OLD6, NEW6))
        assert arrives(server, b"known", source=INNER6, to=BEHIND6)


def test_a_fragment_of_esp_is_let_go_and_counted(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    with inside(TERMINAL), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        addresses = ip_address(NEW).packed + ip_address(GATE).packed
        header = struct.pack("!BBHHHBBH", 0x45, 0, 60, 1, 0x2000, 64, 50, 0) + addresses
        raw.sendto(header + struct.pack("!II", SPI_UP, 1) + bytes(32), (GATE, 0))
    found = receive(queue)
    assert isinstance(found, Unreadable)
    assert "fragment" in str(found.problem)
    assert queue.counters.unreadable == 1


# Nothing is lost when the daemon is gone, slow, or stops.


def test_without_a_daemon_esp_goes_on(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    with udp_receiver(SERVER) as server:
        say(b"held when the daemon stops")
        held(queue)
        queue.close()
        assert server.recv(100) == b"held when the daemon stops"
        assert arrives(server, b"bypass")


def test_esp_beyond_the_limit_of_the_queue_goes_on(gcm_tunnel: None) -> None:  # noqa: ARG001 - it is there
    with inside(GATEWAY), PacketQueue(max_held=1) as queue, PacketFilter(Role.GATEWAY) as packet_filter:
        packet_filter.install()
        packet_filter.watch(watched(OLD))
        with udp_receiver(SERVER) as server:
            say(b"held")
            packet = held(queue)
            assert arrives(server, b"beyond")
            queue.verdict(packet.packet_id, accept=True)
            assert server.recv(100) == b"held"
        packet_filter.remove()


def test_a_queue_that_another_daemon_has_is_an_error(gateway: Gateway) -> None:
    assert gateway[0].present
    with inside(GATEWAY), pytest.raises(KernelRefused, match="bind queue 4555") as refused:
        PacketQueue()
    assert refused.value.code == errno.EPERM


# In-tunnel messages.


@pytest.mark.parametrize("to", [BEHIND, "10.1.0.2", BEHIND6])
def test_the_gateway_takes_messages_wherever_in_its_selector_they_are_sent(gateway: Gateway, to: str) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, NEW))
    namespace, source = (GATEWAY if to == "10.1.0.2" else SERVER), (INNER6 if ":" in to else INNER)
    with udp_receiver(namespace, PORT, to) as bystander, udp_receiver(namespace, APP_PORT, to) as server:
        say_message(b"hello", source=source, to=to)
        assert receive(queue) == TunnelMessage(ip_address(source), ip_address(to), b"hello")
        assert arrives(server, b"after it", source=source, to=to)
        bystander.setblocking(False)
        with pytest.raises(BlockingIOError):
            bystander.recv(100)


def test_a_message_from_an_inner_address_that_is_not_bound_to_its_spi_is_dropped_and_counted(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, NEW))
    with udp_receiver(SERVER, PORT) as bystander, udp_receiver(SERVER) as server:
        say_message(b"I am somebody else", source=OTHER_INNER)
        assert arrives(server, b"after it", source=OTHER_INNER)
        bystander.setblocking(False)
        with pytest.raises(BlockingIOError):
            bystander.recv(100)
    assert queue.receive() == []
    assert counter(packet_filter, STRANGERS) == 1


def test_a_message_by_an_spi_that_is_not_bound_to_its_inner_address_is_dropped_and_counted(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, NEW, spis=(SPI_UP + 1,)))
    say_message(b"by another state")
    until(lambda: counter(packet_filter, STRANGERS) == 1)
    assert queue.receive() == []


def test_a_message_in_clear_text_is_not_taken(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, NEW))
    with udp_receiver(GATEWAY, PORT, "10.1.0.2") as bystander:
        with inside(SERVER), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((BEHIND, PORT))
            sender.sendto(b"clear", ("10.1.0.2", PORT))
        assert bystander.recv(100) == b"clear"
    assert queue.receive() == []


def test_other_traffic_to_the_port_of_the_messages_is_left_alone(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, NEW))
    with udp_receiver(SERVER, PORT) as server:
        say(b"an application", port=PORT)
        assert server.recv(100) == b"an application"
    assert queue.receive() == []


@pytest.mark.parametrize(("source", "inner"), [(BEHIND, INNER), (BEHIND6, INNER6)])
def test_the_gateway_answers_from_a_servers_address_and_the_terminal_takes_it(
    gateway: Gateway, source: str, inner: str
) -> None:
    assert gateway[0].present
    with inside(GATEWAY), TunnelSender() as sender, filtering(TERMINAL, Role.TERMINAL) as (packet_filter, queue):
        packet_filter.watch(watched(spis=(SPI_DOWN,)))
        sender.send(ip_address(source), ip_address(inner), b"answer")
        assert receive(queue) == TunnelMessage(ip_address(source), ip_address(inner), b"answer")
        packet_filter.watch(watched(spis=(SPI_DOWN + 1,)))
        sender.send(ip_address(source), ip_address(inner), b"by another state")
        until(lambda: counter(packet_filter, STRANGERS) == 1)
        assert queue.receive() == []


def test_the_sender_receives_nothing_and_says_when_its_port_is_taken(gateway: Gateway) -> None:
    assert gateway[0].present
    with inside(GATEWAY), TunnelSender() as sender:
        with pytest.raises(KernelRefused) as refused:
            TunnelSender()
        assert refused.value.code == errno.EADDRINUSE
        with inside(SERVER), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("10.1.0.2", PORT))
            client.send(b"clear")
            # An error would come back if the port were closed; the next packet would then fail.
            client.send(b"clear")
        for opened in (*sender._udp.values(), *sender._icmp.values()):
            with pytest.raises(BlockingIOError):
                opened.recv(100)


# Dummies.


@pytest.mark.parametrize(("inner", "to"), [(INNER, BEHIND), (INNER6, BEHIND6)])
def test_a_dummy_moves_the_replay_window_and_goes_no_further(gateway: Gateway, inner: str, to: str) -> None:
    packet_filter, queue = gateway
    tunnel(*GCM, replay="replay-window 32")
    packet_filter.watch(watched(OLD))
    with inside(TERMINAL), TunnelSender() as sender:
        sender.send_dummy(ip_address(inner), ip_address(to))
    packet = held(queue)
    verified = verify(GCM_STATE, packet.packet)
    assert isinstance(verified, VerifiedPacket)
    assert verified.inner is not None
    assert str(verified.inner.source) == inner
    queue.verdict(packet.packet_id, accept=True)
    until(lambda: counter(packet_filter, DUMMIES) == 1)
    assert "anti-replay context: seq 0x1," in run("ip", "-n", GATEWAY, "xfrm", "state", "get", *STATE_UP)


STATE_UP = ("src", OLD, "dst", GATE, "proto", "esp", "spi", hex(SPI_UP))


def test_an_ordinary_echo_reply_is_no_dummy(gateway: Gateway) -> None:
    packet_filter, _queue = gateway
    packet_filter.watch(watched(OLD, NEW))
    run("ip", "netns", "exec", SERVER, "ping", "-c", "1", "-W", "10", INNER)
    assert counter(packet_filter, DUMMIES) == 0


# Nothing that is ours leaves in clear text.


@pytest.mark.parametrize(
    ("namespace", "source", "to"),
    [(TERMINAL, INNER, BEHIND), (TERMINAL, INNER6, BEHIND6), (GATEWAY, BEHIND, INNER), (GATEWAY, BEHIND6, INNER6)],
)
def test_without_a_policy_nothing_is_sent(gcm_tunnel: None, namespace: str, source: str, to: str) -> None:  # noqa: ARG001
    role = Role.TERMINAL if namespace == TERMINAL else Role.GATEWAY
    with filtering(namespace, role) as (packet_filter, _queue), inside(namespace), TunnelSender() as sender:
        left, right = ip_address(source), ip_address(to)
        sender.send(left, right, b"through the tunnel")
        sender.send_dummy(left, right)
        assert counter(packet_filter, CLEARTEXT) == 0
        run("ip", "-n", namespace, "xfrm", "policy", "flush")
        with pytest.raises(KernelRefused) as refused:
            sender.send(left, right, b"in clear text")
        assert refused.value.code == errno.EPERM
        with pytest.raises(KernelRefused) as refused:
            sender.send_dummy(left, right)
        assert refused.value.code == errno.EPERM
        assert counter(packet_filter, CLEARTEXT) == 2


def test_a_tunnel_over_an_xfrm_interface_carries_messages(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD, NEW))
    state = f"proto esp spi {SPI_UP:#x} reqid 1 mode tunnel {' '.join(GCM)}"
    template = f"tmpl src {NEW} dst {GATE} proto esp reqid 1 mode tunnel"
    lines = (
        "xfrm state flush",
        "xfrm policy flush",
        f"xfrm state add src {NEW} dst {GATE} {state} if_id 7",
        f"xfrm policy add src 10.9.0.0/24 dst 10.1.0.0/24 dir out {template} if_id 7",
        "link add ipsec0 type xfrm dev out if_id 7",
        "link set ipsec0 up",
        "route replace 10.1.0.0/24 dev ipsec0",
    )
    run("ip", "-n", TERMINAL, "-batch", "-", text="\n".join(lines))
    try:
        with filtering(TERMINAL, Role.TERMINAL), inside(TERMINAL), TunnelSender() as sender:
            sender.send(ip_address(INNER), ip_address(BEHIND), b"routed")
            assert receive(queue) == TunnelMessage(ip_address(INNER), ip_address(BEHIND), b"routed")
    finally:
        run("ip", "-n", TERMINAL, "link", "del", "ipsec0")
        run("ip", "-n", TERMINAL, "route", "add", "10.1.0.0/24", "via", GATE)


# The table is ours, and is kept whole.


def test_our_own_changes_leave_the_table_whole(gateway: Gateway) -> None:
    packet_filter, _queue = gateway
    packet_filter.watch(watched(OLD, leaving=(NEW,)))
    packet_filter.watch(watched(NEW, leaving=(OLD,)))
    packet_filter.watch(watched(OLD, leaving=(NEW,)))
    packet_filter.unwatch(KEY)
    packet_filter.unwatch(KEY)
    assert packet_filter.process_events()


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "flush chain inet swanroam held",
        "flush set inet swanroam known",
        f"delete element inet swanroam roaming {{ {SPI_UP:#x} }}",
    ],
)
def test_damage_by_others_is_seen_and_repaired(gateway: Gateway, damage: str) -> None:
    packet_filter, queue = gateway
    packet_filter.watch(watched(OLD))
    assert packet_filter.process_events()
    with inside(GATEWAY):
        run("nft", damage)
    assert select.select([packet_filter], [], [], DEADLINE_S)[0]
    assert not packet_filter.process_events()
    packet_filter.resync()
    assert packet_filter.present
    assert packet_filter.process_events()
    say(b"held again")
    assert str(held(queue).packet.source) == NEW
    with udp_receiver(SERVER) as server:
        packet_filter.watch(watched(OLD, NEW))
        assert arrives(server, b"known")


def test_tables_of_others_are_not_ours_to_mind(gateway: Gateway) -> None:
    packet_filter, _queue = gateway
    with inside(GATEWAY):
        run("nft", "add table inet other; add chain inet other c; delete table inet other")
        run("nft", "add table ip swanroam; delete table ip swanroam")
    assert select.select([packet_filter], [], [], DEADLINE_S)[0]
    assert packet_filter.process_events()


def test_a_tunnel_watched_when_the_table_is_gone_brings_it_back(gateway: Gateway) -> None:
    packet_filter, queue = gateway
    with inside(GATEWAY):
        run("nft", "delete table inet swanroam")
    packet_filter.watch(watched(OLD))
    assert packet_filter.present
    say(b"held")
    assert str(held(queue).packet.source) == NEW


def test_a_left_over_table_is_replaced_and_remove_leaves_none(gateway: Gateway) -> None:
    packet_filter, _queue = gateway
    packet_filter.watch(watched(OLD))
    with inside(GATEWAY), PacketFilter(Role.GATEWAY) as after_a_crash:
        after_a_crash.install()
        assert "elements" not in run("nft", "list", "set", "inet", "swanroam", "roaming")
        after_a_crash.remove()
        after_a_crash.remove()
        assert run("nft", "list", "ruleset") == ""


def test_thousands_of_elements_are_installed_and_removed(gateway: Gateway) -> None:
    packet_filter, _queue = gateway
    packet_filter.watch(watched(OLD, NEW, spis=tuple(range(0x1000, 0x1000 + 1000))))
    with inside(GATEWAY):
        packet_filter.resync()
        assert run("nft", "list", "set", "inet", "swanroam", "known").count(OLD) == 1000
        packet_filter.unwatch(KEY)
        assert OLD not in run("nft", "list", "set", "inet", "swanroam", "known")
    assert packet_filter.process_events()


def test_rules_that_nft_refuses_are_an_error_with_its_words() -> None:
    with PacketFilter(Role.GATEWAY, table="no good") as packet_filter:
        with pytest.raises(KernelRefused, match="syntax error") as refused:
            packet_filter.install()
        assert refused.value.code == errno.EINVAL
        assert not packet_filter.present
    with PacketFilter(Role.GATEWAY, program="nft-that-is-not-there") as packet_filter:
        with pytest.raises(KernelRefused) as refused:
            packet_filter.install()
        assert refused.value.code == errno.ENOENT
