"""Where the capability is configured and not negotiated, a dummy packet is the update of an idle tunnel."""

from collections.abc import Callable

import pytest

from tests.lab.stories import reached_without_data, survives_a_move
from tests.lab.world import World

COUNT_ICMP = """
table ip story {
    chain in { type filter hook prerouting priority 100; ip saddr 10.9.0.0/24 meta l4proto icmp counter; }
    chain out { type filter hook output priority 100; ip daddr 10.9.0.0/24 meta l4proto icmp counter; }
}
"""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    world.connect()
    world.roam("configured")
    return world


def test_an_idle_tunnel_is_reached_after_a_dummy_that_the_gateway_drops(world: World) -> None:
    rules = world.gateway.folder / "count.nft"
    rules.write_text(COUNT_ICMP)
    world.gateway.namespace.run(["nft", "-f", str(rules)])
    reached_without_data(world)
    counted = world.gateway.show("nft list table ip story")
    world.gateway.namespace.run(["nft", "delete table ip story"])
    assert counted.count("packets 0 ") == 2, f"the dummy went on, or was answered: {counted}"


def test_a_move_under_streams_with_a_configured_capability(world: World) -> None:
    survives_a_move(world)
    assert world.gateway.swanroam.tunnel(world.terminal.inner)["capability"] == "configured"
