"""A tunnel that nobody answers on is given up and built anew: all of it, and with nothing in clear meanwhile."""

import time
from collections.abc import Callable

import pytest

from tests.lab.charon import CONNECTION, TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import survives_a_move
from tests.lab.streams import Stream
from tests.lab.test_gateway_addresses import silent
from tests.lab.topology import GATEWAY_WAN, INNER_NETWORK, SERVER
from tests.lab.world import World

HALVES = ("10.1.0.0/25", "10.1.0.128/25")
TRAPPED = {"start_action": "trap", "local_ts": "0.0.0.0/0"}
"""As in examples/swanctl/terminal.conf; without local_ts a trap is for the outer address at which it was loaded."""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(tunnel=TunnelOptions(networks=HALVES))
    world.connect()
    world.roam()
    return world


def gives_up(world: World) -> None:
    """The terminal moves, nobody answers, and its swanroam has charon build the tunnel anew."""
    swanroam = world.terminal.swanroam
    before = swanroam.log.count("to build")
    world.terminal.move()
    eventually(lambda: swanroam.log.count("to build") > before, "the tunnel is given up", deadline_s=60)


def is_back(world: World, *children: str) -> None:
    """There is one tunnel again, with these CHILD_SAs and no other, and it moves as any."""
    terminal = world.terminal
    eventually(
        lambda: sorted(child.name for child in terminal.sa.children) == [*children],
        "it is back",
        deadline_s=60,
    )
    terminal.inner, *_ = terminal.sa.inner
    world.agreed(terminal)
    survives_a_move(world)
    assert sorted(child.name for child in world.sa(world.gateway, terminal).children) == [*children]


def test_a_tunnel_that_is_built_anew_has_all_of_its_child_sas_again(world: World) -> None:
    before = world.terminal.sa
    with silent(world, GATEWAY_WAN):
        gives_up(world)
    is_back(world, "net1", "net2")
    assert world.terminal.sa.spis != before.spis


def test_what_charon_builds_from_an_address_that_has_gone_is_begun_again_at_the_next_one(world: World) -> None:
    """Otherwise charon would try from there for two minutes more."""
    world.reconnect(TunnelOptions(networks=HALVES))
    terminal = world.terminal
    with silent(world, GATEWAY_WAN):
        gives_up(world)
        eventually(lambda: [sa.state for sa in terminal.charon.sas()] == ["CONNECTING"], "charon is at it")
        terminal.leave()
    terminal.enter()
    eventually(lambda: [sa.state for sa in terminal.charon.sas()] == ["ESTABLISHED"], "it is there", deadline_s=20)
    is_back(world, "net1", "net2")


@pytest.mark.parametrize("at_terminal", [{}, TRAPPED], ids=["without a trap", "trapped"])
def test_while_a_tunnel_is_built_anew_what_is_sent_leaves_in_clear_but_for_a_trap(
    world: World, at_terminal: dict[str, str]
) -> None:
    world.reconnect(TunnelOptions(networks=HALVES, child_at_terminal=at_terminal))
    terminal, capture, began_ns = world.terminal, world.capture, time.monotonic_ns()
    # Without a route the router would drop what leaves in clear before it is seen.
    world.router.show(f"ip route replace {INNER_NETWORK} via {GATEWAY_WAN}")
    with world.uplink() as bound, Stream(terminal, "0.0.0.0", world.server, SERVER) as unbound:  # noqa: S104
        with silent(world, GATEWAY_WAN):
            gives_up(world)
        for stream in (bound, unbound):
            stream.flows(deadline_s=60)
    assert bool(capture.cleartext(began_ns)) == (at_terminal != TRAPPED)
    is_back(world, "net1", "net2")


def test_of_a_connection_that_was_unloaded_charon_is_not_asked_again(world: World) -> None:
    world.reconnect(TunnelOptions(networks=HALVES))
    charon, swanroam = world.terminal.charon, world.terminal.swanroam
    loaded = charon.configuration.read_text()
    with silent(world, GATEWAY_WAN):
        gives_up(world)
        charon.load("connections {\n}\n")
        charon.terminate(CONNECTION, force=True)
        eventually(lambda: "does not know roam any more" in swanroam.log, "nothing is asked any more", deadline_s=60)
    charon.load(loaded)
    world.terminal.connect()
    is_back(world, "net1", "net2")
