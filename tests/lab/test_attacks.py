"""What an attacker gains on the path, off the path, behind the gateway, and with a tunnel of its own: SECURITY.md.

The attacker's own host is in the lte network. What one on the path does is done by rules in the router.
"""

import contextlib
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from swanroam.model.messages import Feature, GatewayMoved, Goodbye, HelloAck, PathResponse, Refusal, Refuse, UpdateAck
from swanroam.model.path import Endpoint
from swanroam.wire.control import encode
from tests.lab.agreement import agrees
from tests.lab.conditions import eventually
from tests.lab.hosts import Host
from tests.lab.netns import Namespace
from tests.lab.stories import survives_a_move
from tests.lab.tables import ATTACKS
from tests.lab.test_bad_input import ATTACKER, IP_HEADER, a_packet_of_the_terminal, rejections
from tests.lab.topology import ACCESS, GATEWAY_LAN, GATEWAY_WAN, SERVER, Topology
from tests.lab.world import Terminal, World

DEADLINE_S = 3.0
"""After which a tunnel is back from an address that answered no challenge."""
MESSAGES = 4555
REFILL_BYTES_PER_S = 256 << 10
BUDGET_BYTES = (4 << 20) + REFILL_BYTES_PER_S
"""The bucket that nft_limit.c makes of `256 kbytes/second burst 4 mbytes`: the burst, and one second of the rate."""
FRAGMENTED = 1500 / 1480
"""The kernel counts a packet and fragments it then: each 1480 bytes of it get an IP header of their own."""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(terminals=2, attacker=True))
    world.connect()
    world.roam()
    return world


@contextlib.contextmanager
def rules(namespace: Namespace, hook: str, *lines: str) -> Iterator[None]:
    """Rules of somebody on the path, or of a host that lies about its source."""
    text = "; ".join(lines)
    namespace.run(["nft", f"table ip evil {{ chain c {{ type filter hook {hook}; {text}; }}; }}"])
    try:
        yield
    finally:
        namespace.run(["nft", "delete table ip evil"])


def on_path(
    world: World, terminal: Terminal, source: str, limit: str = "", *more: str
) -> contextlib.AbstractContextManager[None]:
    """The router sends the terminal's ESP on from another source, and does more where asked."""
    rule = f"ip saddr {terminal.outer} meta l4proto esp {limit} ip saddr set {source}"
    return rules(world.router.namespace, "prerouting priority -300", rule, *more)


ONE = "limit rate 1/hour burst 1 packets"


def remote(world: World, terminal: Terminal) -> str:
    return str(world.gateway.swanroam.tunnel(terminal.inner)["remote"]["address"])


def moves(world: World) -> int:
    return sum(int(tunnel["moves"]) for tunnel in world.gateway.swanroam.tunnels())


def away(world: World, terminal: Terminal) -> float:
    """Wait until the tunnel has left the terminal and is back; seconds that it was away, as seen from outside."""
    eventually(lambda: remote(world, terminal) != terminal.outer, "the tunnel is pulled away", every_s=0.005)
    left_s = time.monotonic()
    eventually(lambda: remote(world, terminal) == terminal.outer, "the tunnel is back", every_s=0.005)
    return time.monotonic() - left_s


def counted(before: dict[str, int], after: dict[str, int]) -> str:
    more = {reason: after[reason] - before.get(reason, 0) for reason in after if after[reason] > before.get(reason, 0)}
    return ", ".join(f"{reason} {count}" for reason, count in sorted(more.items())) or "-"


def attacker(world: World) -> Host:
    assert world.attacker is not None
    return world.attacker


def test_one_packet_sent_on_from_elsewhere_has_the_tunnel_until_the_terminal_goes_on(world: World) -> None:
    before, terminal = rejections(world), world.terminal
    keeping = f"ip saddr {terminal.outer} meta l4proto esp"
    with world.both_ways() as (up, down):
        # What the terminal sends next would make the packet an old one: it is kept back until the tunnel has moved.
        lines = f"{keeping} {ONE} ip saddr set {ATTACKER} accept", f"{keeping} drop"
        with rules(world.router.namespace, "prerouting priority -300", *lines):
            eventually(lambda: remote(world, terminal) == ATTACKER, "the tunnel is pulled away", every_s=0.005)
        left_s = time.monotonic()
        eventually(lambda: remote(world, terminal) == terminal.outer, "the tunnel is back", every_s=0.005)
        away_s = time.monotonic() - left_s
        up.flows()
        down.flows()
    assert away_s < DEADLINE_S
    agrees(world, terminal)
    refused = counted(before, rejections(world))
    ATTACKS.append(("on path: one fresh packet sent on, the next ones kept back", 1, 1, f"{away_s:.1f}", refused))


def test_all_packets_sent_on_from_elsewhere_have_the_tunnel_until_the_challenge_is_not_answered(world: World) -> None:
    before, moved = rejections(world), moves(world)
    with world.both_ways() as (up, down):
        began_ns = time.monotonic_ns()
        with on_path(world, world.terminal, ATTACKER):
            away_s = away(world, world.terminal)
            down.flows()
            assert "not-validated" in counted(before, rejections(world))
        up.flows()
        down.flows()
        sent = len(world.capture.esp_from(ATTACKER, began_ns))
    assert away_s < DEADLINE_S + 1.5
    agrees(world, world.terminal)
    row = ("on path: all packets sent on", sent, (moves(world) - moved) // 2, f"{away_s:.1f}")
    ATTACKS.append((*row, counted(before, rejections(world))))


@pytest.mark.parametrize("source", [GATEWAY_LAN, "192.0.2.255", SERVER])
def test_a_source_that_is_ours_or_nobodys_or_inside_moves_nothing(world: World, source: str) -> None:
    before, moved = rejections(world), moves(world)
    with world.uplink() as up, on_path(world, world.terminal, source, ONE):
        eventually(lambda: "source-not-allowed" in counted(before, rejections(world)), "the refusal is counted")
        up.flows()
    assert moves(world) == moved
    ATTACKS.append((f"on path: sent on from {source}", 1, 0, "0", counted(before, rejections(world))))


def test_a_flood_of_a_known_spi_from_random_sources_costs_a_bounded_number_of_verifications(world: World) -> None:
    packet, esp = a_packet_of_the_terminal(world)
    forged = esp[:4] + struct.pack("!I", packet.second + 100_000) + esp[8:]
    source, destination = (bytes(map(int, address.split("."))) for address in (ATTACKER, GATEWAY_WAN))
    header = IP_HEADER.pack(0x45, 0, IP_HEADER.size + len(forged), 0, 0, 64, 50, 0, source, destination)
    before, moved = rejections(world), moves(world)
    began_s = time.monotonic()
    with world.both_ways() as (up, down):
        sent = attacker(world).agent.do(
            "flood", packet=(header + forged).hex(), destination=GATEWAY_WAN, count=8000, network="198.18.0.0"
        )
        up.flows()
        down.flows()
        lost = up.outcome().lost
        assert moves(world) == moved
        took_s = time.monotonic() - began_s
        after = rejections(world)
        assert after["rate-limited"] - before.get("rate-limited", 0) > 0
        assert after["bad-icv"] - before.get("bad-icv", 0) <= 256 + 128 * took_s
        assert len(lost) < 5, "data goes on while somebody floods"
    survives_a_move(world)
    ATTACKS.append(("off path: flood of a known SPI from random sources", sent, 0, "0", counted(before, after)))


def test_a_server_cannot_speak_for_the_gateway_to_the_terminals_daemon(world: World) -> None:
    survives_a_move(world)
    before = rejections(world)
    nonce = bytes(16)
    observed = Endpoint(ip_address("192.0.2.99"), 500)
    forged = (
        Refuse(nonce=nonce, reason=Refusal.POLICY),
        HelloAck(nonce=nonce, features=Feature.UPDATE),
        Goodbye(),
        GatewayMoved(sequence=2**63, addresses=(ip_address(ATTACKER),)),
        *(UpdateAck(sequence=sequence, observed=observed) for sequence in range(1, 20)),
    )
    at_terminal = world.terminal.swanroam.status()
    for message in forged:
        world.server.agent.do(
            "say",
            source=SERVER,
            source_port=MESSAGES,
            destination=world.terminal.inner,
            port=MESSAGES,
            payload=encode(message).hex(),
        )
    eventually(
        lambda: rejections(world).get("wrong-tunnel", 0) >= before.get("wrong-tunnel", 0) + len(forged),
        "the gateway lets none of them into the tunnel",
    )
    assert world.terminal.swanroam.status()["tunnels"] == at_terminal["tunnels"]
    survives_a_move(world)
    ATTACKS.append(
        ("behind the gateway: messages to a terminal", len(forged), 0, "0", counted(before, rejections(world)))
    )


@contextlib.contextmanager
def claiming(liar: Terminal, inner: str) -> Iterator[None]:
    """A terminal sends from the inner address of another through its own tunnel."""
    reqid = liar.show("ip xfrm policy").partition("reqid ")[2].split()[0]
    template = f"tmpl src {liar.outer} dst {GATEWAY_WAN} proto esp reqid {reqid} mode tunnel"
    commands = [
        (f"addr add {inner}/32 dev lo", f"addr del {inner}/32 dev lo"),
        (
            f"xfrm policy add src {inner}/32 dst 10.1.0.0/24 dir out priority 1 {template}",
            f"xfrm policy del src {inner}/32 dst 10.1.0.0/24 dir out",
        ),
    ]
    for command, _ in commands:
        liar.namespace.run(["ip", *command.split()])
    try:
        yield
    finally:
        for _, command in commands:
            liar.namespace.run(["ip", *command.split()])


def test_a_terminal_cannot_speak_for_another_nor_move_with_its_inner_address(world: World) -> None:
    honest, liar = world.terminals
    before, moved = rejections(world), moves(world)
    count = 10
    with claiming(liar, honest.inner):
        liar.agent.do(
            "say", source=honest.inner, source_port=MESSAGES, destination=SERVER, port=MESSAGES, payload=bytes(24).hex()
        )
        eventually(lambda: "wrong-tunnel" in counted(before, rejections(world)), "it is refused and counted")
        with on_path(world, liar, f"{ACCESS[1].network}.77"):
            liar.agent.do("send", "claim", source=honest.inner, destination=SERVER, port=7999, count=count)
            eventually(
                lambda: rejections(world).get("inner-source", 0) >= before.get("inner-source", 0) + count,
                "all are refused for their inner source",
            )
        liar.agent.do("stop", "claim")
    assert moves(world) == moved
    for terminal in (honest, liar):
        assert remote(world, terminal) == terminal.outer
    ATTACKS.append(("another terminal: claims an inner address", 1 + count, 0, "0", counted(before, rejections(world))))


def test_a_terminal_that_floods_the_daemon_with_messages_is_read_within_limits(world: World) -> None:
    honest, liar = world.terminals
    before = rejections(world)
    message = encode(PathResponse(nonce=bytes(16))).hex()
    began_s, sent = time.monotonic(), 0
    while time.monotonic() < began_s + 3.0:
        liar.agent.do(
            "say", source=liar.inner, source_port=MESSAGES, destination=SERVER, port=MESSAGES, payload=message
        )
        sent += 1
    took_s = time.monotonic() - began_s
    survives_a_move(world, honest)
    after = rejections(world)
    assert sent - (after["rate-limited"] - before.get("rate-limited", 0)) <= 128 + 64 * (took_s + 1)
    assert after["rate-limited"] > before.get("rate-limited", 0)
    survives_a_move(world, liar)
    ATTACKS.append(("own tunnel: a flood of messages to the daemon", sent, 0, "0", counted(before, after)))


def test_a_terminal_that_points_its_tunnel_at_a_victim_has_a_budget_and_three_seconds(world: World) -> None:
    terminal = world.terminal
    before = rejections(world)
    terminal.agent.do("receive", "bulk", port=7997)
    with world.uplink() as up:
        up.flows()
        began_ns = time.monotonic_ns()
        # What gets there was counted on the way, and is spared the rest of it.
        with on_path(world, terminal, ATTACKER, "", f"ip daddr {ATTACKER} drop"):
            eventually(lambda: remote(world, terminal) != terminal.outer, "the tunnel is pulled away", every_s=0.005)
            world.server.agent.do(
                "send", "bulk", source=SERVER, destination=terminal.inner, port=7997, interval_ms=2.0, size=60_000
            )
            away_s = away(world, terminal)
        world.server.agent.do("stop", "bulk")
        ended_ns = time.monotonic_ns()
        eventually(lambda: world.capture.esp_from(terminal.outer, ended_ns), "the capture has caught up")
        packets = world.capture.esp_to(ATTACKER, began_ns)
    terminal.agent.do("stop", "bulk")
    lasted_s = (packets[-1].at_ns - packets[0].at_ns) / 1e9
    got = sum(packet.length for packet in packets)
    assert lasted_s < DEADLINE_S + 1.5
    after = rejections(world)
    # The move that was undone is one; the others were beyond the budget, of which stories before may have spent a part.
    assert after["not-validated"] > before.get("not-validated", 0) + 1, "more was to be had than the budget"
    assert got <= (BUDGET_BYTES + REFILL_BYTES_PER_S * lasted_s) * FRAGMENTED
    agrees(world, terminal)
    row = (f"own tunnel: pointed at a victim, which got {got / 1e6:.2f} MB in {lasted_s:.1f} s", 1, 1, f"{away_s:.1f}")
    ATTACKS.append((*row, counted(before, after)))


def test_a_terminal_outside_of_the_allowed_networks_is_not_followed_until_it_is_back(world: World) -> None:
    gateway, terminal = world.gateway.swanroam, world.terminal
    if terminal.access is not ACCESS[0]:
        survives_a_move(world, terminal)
    before, moved = rejections(world), moves(world)
    gateway.configure(tunnels={"roam": {"allow": [f"{ACCESS[0].network}.0/24"]}})
    gateway.reload()
    eventually(lambda: "configuration reloaded: tunnels" in gateway.log, "the configuration is taken over")
    try:
        with world.uplink() as up:
            terminal.move()
            eventually(lambda: "source-not-allowed" in counted(before, rejections(world)), "it is refused and counted")
            up.flows()
            assert moves(world) == moved
            terminal.move()
            up.flows()
    finally:
        gateway.configure()
        gateway.reload()
    agrees(world, terminal)
    survives_a_move(world)
    ATTACKS.append(("own tunnel: from a network that is not allowed", "-", 0, "0", counted(before, rejections(world))))
