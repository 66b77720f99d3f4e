"""Kinds of tunnels: what moves, moves under streams and is rekeyed afterwards; what is left alone says why."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.lab.agreement import State, kernel_states
from tests.lab.charon import SITE, TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import rekeys_the_child, survives_a_move
from tests.lab.topology import INNER_NETWORK, INNER_POOL, Topology
from tests.lab.world import End, World

WHOLE = "0.0.0.0/0"
INBOUND, OUTBOUND, BOTH = 42, 43, 44
"""Interface ids: the terminal has one for each direction, the gateway one for both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a tunnel is set up, and whether it goes through XFRM interfaces."""

    options: TunnelOptions
    interfaces: bool = False


KINDS = {
    "several-child-sas": Kind(options=TunnelOptions(networks=("10.1.0.0/25", "10.1.0.128/25"))),
    "full-tunnel": Kind(
        options=TunnelOptions(child_at_terminal={"remote_ts": WHOLE}, child_at_gateway={"local_ts": WHOLE})
    ),
    "narrowed-selectors": Kind(options=TunnelOptions(child_at_terminal={"remote_ts": "10.0.0.0/8"})),
    "several-virtual-ips": Kind(options=TunnelOptions(inner=(4, 4))),
    "interfaces": Kind(
        options=TunnelOptions(
            child_at_terminal={"if_id_in": str(INBOUND), "if_id_out": str(OUTBOUND)},
            child_at_gateway={"if_id_in": str(BOTH), "if_id_out": str(BOTH)},
        ),
        interfaces=True,
    ),
    "wide-replay-window": Kind(
        options=TunnelOptions(esp_proposal="aes128gcm16-esn", child={"replay_window": "2048"}),
    ),
    "own-reqid": Kind(options=TunnelOptions(child={"reqid": "4242"})),
    "trap": Kind(options=TunnelOptions(child_at_terminal={"start_action": "trap"})),
}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Two terminals; the second one rests, unless a story wants it."""
    world = make_world(Topology(terminals=2))
    world.connect()
    world.roam()
    world.rest(world.terminals[1])
    return world


@contextlib.contextmanager
def interfaces(world: World) -> Iterator[None]:
    """XFRM interfaces that the tunnels of their ids go through."""
    wanted = (
        (world.terminal, INBOUND, None),
        (world.terminal, OUTBOUND, INNER_NETWORK),
        (world.gateway, BOTH, INNER_POOL),
    )
    for end, number, network in wanted:
        end.show(f"ip link add xfrm{number} type xfrm if_id {number}")
        end.show(f"ip link set xfrm{number} up")
        if network:
            end.show(f"ip route add {network} dev xfrm{number}")
    try:
        yield
    finally:
        for end, number, _ in wanted:
            end.show(f"ip link del xfrm{number}")


@contextlib.contextmanager
def usual_again(world: World) -> Iterator[None]:
    """The next story begins with a tunnel that may move."""
    try:
        yield
    finally:
        world.reconnect(TunnelOptions())


def reasons(end: End) -> dict[str, str]:
    """Why the tunnels of a connection are left alone, as one end's swanroam says."""
    return {each["name"]: each["reason"] for each in end.swanroam.status()["left_alone"]}


def says(end: End, connection: str, reason: str) -> None:
    """One end's swanroam shows and logs the reason."""
    eventually(lambda: reasons(end).get(connection) == reason, f"{end.name} says why: {reason}")
    assert reason in end.swanroam.log


def states(world: World, *except_spis: int) -> list[dict[int, State]]:
    """The kernel's states on both ends."""
    return [
        {spi: state for spi, state in kernel_states(end).items() if spi not in except_spis}
        for end in (world.terminal, world.gateway)
    ]


def left_where_it_is(world: World) -> None:
    """The terminal moves and comes back, the tunnel stays, and then goes on as it was."""
    before, identity = states(world), world.terminal.sa.identity
    world.terminal.move()
    for end in world.ends[:2]:
        end.swanroam.status()
    assert states(world) == before
    world.terminal.move()
    with world.both_ways():
        assert states(world) == before
    assert world.terminal.sa.identity == identity
    assert all(end.swanroam.tunnel(world.terminal.inner)["moves"] == 0 for end in world.ends[:2])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_tunnel_of_each_kind_moves_and_is_rekeyed_afterwards(world: World, kind: Kind) -> None:
    with interfaces(world) if kind.interfaces else contextlib.nullcontext():
        world.reconnect(kind.options)
        inner = world.terminal.sa.inner
        survives_a_move(world)
        rekeys_the_child(world, world.gateway)
        with world.both_ways():
            assert world.terminal.sa.inner == inner


def test_a_tunnel_whose_packets_are_compressed_is_left_alone(world: World) -> None:
    with usual_again(world):
        world.reconnect(TunnelOptions(child={"ipcomp": "yes"}), roams=False)
        for end in world.ends[:2]:
            says(end, "roam", "in a packet that IPComp compressed the inner source cannot be verified")
        left_where_it_is(world)


def test_terminals_with_one_reqid_are_left_alone_until_one_has_it_to_itself(world: World) -> None:
    second = world.terminals[1]
    with usual_again(world):
        world.reconnect(TunnelOptions(child_at_gateway={"reqid": "4242"}))
        second.resting = False
        second.connect()
        says(world.gateway, "roam", "another tunnel has its reqid 4242, too")
        left_where_it_is(world)
        world.rest(second)
        world.agreed(world.terminal)
        survives_a_move(world)


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_a_site_beside_a_tunnel_stays_as_it_is_when_that_moves(world: World, mode: str) -> None:
    world.reconnect(TunnelOptions(site=mode))
    world.terminal.charon.initiate(SITE)
    try:
        for end in world.ends[:2]:
            says(end, SITE, "it has no virtual IP")
        ours = {spi for child in world.terminal.sa.children for spi in (child.spi_in, child.spi_out)}
        before = states(world, *ours)
        assert all(len(each) == 2 for each in before)
        survives_a_move(world)
        assert states(world, *ours) == before
    finally:
        for end in world.ends[:2]:
            end.charon.terminate(SITE, force=True)
