"""A gateway with two addresses: one is taken away, or goes silent, and the tunnel goes on at the other."""

import contextlib
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from swanroam.model.messages import GatewayMoved
from swanroam.wire.control import encode
from tests.lab.agreement import agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.hosts import Host
from tests.lab.stories import answers_dead_peer_detection, rekeys_the_child, rekeys_the_ike_sa
from tests.lab.test_attacks import MESSAGES, rules
from tests.lab.test_bad_input import rejections
from tests.lab.topology import GATEWAY_LAN, GATEWAY_WAN, GATEWAY_WAN_SECOND, ROUTER_WAN, SERVER, Topology
from tests.lab.world import End, World

HOMES = (GATEWAY_WAN, GATEWAY_WAN_SECOND)
# Where the first address goes the second is not to go with it.
TOPOLOGY = Topology(second_home=True, sysctl={"ipv4/conf/all/promote_secondaries": "1"})
ELSEWHERE = "203.0.113.66"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(TOPOLOGY, TunnelOptions(dpd_delay_s=3))
    world.connect()
    world.roam()
    return world


def leaves(world: World) -> str:
    """The gateway's address that the tunnel uses; from now on it is to be at the other one."""
    left = world.terminal.gateway
    world.terminal.home = HOMES[1 - HOMES.index(left)]
    return left


@contextlib.contextmanager
def without(world: World, address: str) -> Iterator[None]:
    """The gateway has not got an address for a while."""
    world.gateway.show(f"ip addr del {address}/24 dev wan0")
    world.gateway.show(f"ip route replace default via {ROUTER_WAN}")
    try:
        yield
    finally:
        world.gateway.show(f"ip addr add {address}/24 dev wan0")


@contextlib.contextmanager
def deprecated(world: World, address: str) -> Iterator[None]:
    """An address of the gateway is on its way out, and still works."""
    change = f"ip addr change {address}/24 dev wan0"
    world.gateway.show(f"{change} preferred_lft 0 valid_lft 3600")
    try:
        yield
    finally:
        world.gateway.show(f"{change} preferred_lft forever valid_lft forever")


def silent(world: World, address: str) -> contextlib.AbstractContextManager[None]:
    """Nothing gets to an address of the gateway, nor from it."""
    return rules(world.router.namespace, "forward priority 0", f"ip daddr {address} drop", f"ip saddr {address} drop")


def goes_on(world: World, change: Callable[[], object], *, upwards: bool = False) -> None:
    """Streams flow both ways over a change, all agree, nothing is negotiated; with `upwards` nothing is lost there."""
    terminal = world.terminal
    before = terminal.sa.identity
    with world.both_ways() as (up, down):
        began_ns = time.monotonic_ns()
        change()
        for stream in (up, down):
            stream.flows()
        flowing_ns = time.monotonic_ns()
        agrees(world, terminal)
        for stream in (up, down):
            stream.flows()
    assert terminal.sa.identity == before
    assert not world.capture.negotiations(began_ns, flowing_ns)
    assert not world.capture.cleartext(began_ns)
    if upwards:
        assert up.outcome(began_ns).lost == ()


def everything_works(world: World) -> None:
    """Rekeys from both ends, dead peer detection and a move, where the tunnel is now."""
    for end in (world.terminal, world.gateway):
        rekeys_the_child(world, end)
        rekeys_the_ike_sa(world, end)
    answers_dead_peer_detection(world, time.monotonic_ns())
    goes_on(world, world.terminal.move)


def last_move(world: World, end: End) -> dict[str, object]:
    moved = end.swanroam.tunnel(world.terminal.inner)["last_move"]
    return {key: moved[key] for key in ("to", "trigger")}


def test_a_gateway_that_is_renumbered_while_the_old_address_works_loses_nothing_upwards(world: World) -> None:
    with contextlib.ExitStack() as renumbered:
        goes_on(world, lambda: renumbered.enter_context(deprecated(world, leaves(world))), upwards=True)
    assert last_move(world, world.terminal) == {"to": world.terminal.gateway, "trigger": "gateway"}
    assert last_move(world, world.gateway) == {"to": world.terminal.gateway, "trigger": "packet"}


def test_a_gateway_whose_address_is_gone_tells_the_terminal_and_all_works_at_the_other_one(world: World) -> None:
    with contextlib.ExitStack() as renumbered:
        goes_on(world, lambda: renumbered.enter_context(without(world, leaves(world))))
        for end in (world.terminal, world.gateway):
            assert last_move(world, end) == {"to": world.terminal.gateway, "trigger": "gateway"}
        everything_works(world)
    agrees(world, world.terminal)


def test_a_terminal_that_moves_while_the_gateways_address_is_silent_finds_it_at_the_other_one(world: World) -> None:
    with contextlib.ExitStack() as silence:

        def change() -> None:
            silence.enter_context(silent(world, leaves(world)))
            world.terminal.move()

        goes_on(world, change)
        assert last_move(world, world.gateway) == {"to": world.terminal.outer, "trigger": "packet"}
    goes_on(world, world.terminal.move)


def test_a_terminal_that_stands_still_finds_a_gateway_that_falls_silent_at_the_other_address(world: World) -> None:
    with contextlib.ExitStack() as silence:
        goes_on(world, lambda: silence.enter_context(silent(world, leaves(world))))
        assert last_move(world, world.terminal) == {"to": world.terminal.gateway, "trigger": "gateway"}
    goes_on(world, world.terminal.move)


def tell(speaker: Host, source: str, destination: str, sequence: int, *addresses: str) -> None:
    """Somebody says that the gateway has other addresses."""
    told = encode(GatewayMoved(sequence=sequence, addresses=tuple(map(ip_address, addresses))))
    speaker.agent.do(
        "say", source=source, source_port=MESSAGES, destination=destination, port=MESSAGES, payload=told.hex()
    )


def told_of_a_change(world: World) -> list[bytes]:
    """The address that the tunnel does not use changes for a moment: the packets by which the terminal is told."""
    terminal, capture = world.terminal, world.capture
    began_ns = time.monotonic_ns()
    with deprecated(world, HOMES[1 - HOMES.index(terminal.gateway)]):
        eventually(lambda: capture.esp_from(terminal.outer, began_ns), "the terminal acknowledges what there is left")
    return [capture.contents(packet) for packet in capture.esp_to(terminal.outer, began_ns)]


def replays(world: World) -> int:
    """Packets that the terminal's kernel had seen before, ever."""
    lines = world.terminal.show("cat /proc/net/xfrm_stat").splitlines()
    return int(dict(line.split() for line in lines)["XfrmInStateSeqError"])


class TestForged:
    """GATEWAY-MOVED that is not the gateway's own, or not new, moves nothing and is counted."""

    @pytest.fixture(autouse=True)
    def _stays(self, world: World) -> Iterator[None]:
        before = [(end, end.swanroam.tunnel(world.terminal.inner)["moves"]) for end in (world.terminal, world.gateway)]
        yield
        with world.both_ways():
            pass
        agrees(world, world.terminal)
        for end, moves in before:
            assert end.swanroam.tunnel(world.terminal.inner)["moves"] == moves

    def test_from_a_server_behind_the_gateway(self, world: World) -> None:
        before = rejections(world).get("wrong-tunnel", 0)
        tell(world.server, SERVER, world.terminal.inner, 2**63, *HOMES)
        tell(world.server, SERVER, world.terminal.inner, 2**63, ELSEWHERE)
        eventually(lambda: rejections(world).get("wrong-tunnel", 0) == before + 2, "the gateway lets none of it in")

    def test_from_a_terminal(self, world: World) -> None:
        before = rejections(world).get("bad-message", 0)
        tell(world.terminal, world.terminal.inner, SERVER, 2**63, ELSEWHERE)
        eventually(lambda: rejections(world).get("bad-message", 0) == before + 1, "it goes to no other terminal")

    def test_sent_again_by_somebody_on_the_path(self, world: World) -> None:
        packets, before = told_of_a_change(world), replays(world)
        for packet in packets:
            world.router.agent.do("inject", packet=packet.hex(), destination=world.terminal.outer)
        eventually(lambda: replays(world) >= before + len(packets), "the kernel has seen them before")

    def test_older_than_the_last_one_even_from_the_gateway_itself(self, world: World) -> None:
        terminal = world.terminal

        def refused() -> int:
            return int(terminal.swanroam.tunnel(terminal.inner)["rejected"].get("old-sequence", 0))

        told_of_a_change(world)
        before = refused()
        tell(world.gateway, GATEWAY_LAN, terminal.inner, 1, ELSEWHERE)
        eventually(lambda: refused() == before + 1, "the terminal counts it")


def test_with_one_end_of_an_earlier_release_they_agree_and_the_tunnel_moves(world: World) -> None:
    for earlier in world.ends:
        for end in world.ends:
            if end.swanroam.module != (module := "tests.lab.earlier" if end is earlier else "swanroam"):
                end.swanroam.stop()
                end.swanroam.module = module
        world.roams_everywhere()
        world.reconnect(world.tunnel)
        with deprecated(world, world.terminal.gateway) if earlier is world.terminal else contextlib.nullcontext():
            goes_on(world, world.terminal.move)
