"""After a move everything that strongSwan does with a tunnel works as before it."""

from collections.abc import Callable

import pytest

from tests.lab.agreement import agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import answers_dead_peer_detection, ends, rekeys_the_child, rekeys_the_ike_sa, survives_a_move
from tests.lab.world import End, World

PROPOSALS = (
    "aes128gcm8",
    "aes256gcm12-esn",
    "aes128-sha1",
    "aes256-sha512-esn",
    "chacha20poly1305",
)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    world.connect()
    world.roam()
    return world


def end(world: World, name: str) -> End:
    return world.gateway if name == "gateway" else world.terminal


@pytest.fixture(params=["terminal", "gateway"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_child_rekey_from_either_end_changes_the_spis_and_the_next_move_works(world: World, side: str) -> None:
    survives_a_move(world)
    rekeys_the_child(world, end(world, side))
    survives_a_move(world)


def test_an_ike_rekey_from_either_end_changes_the_ids_and_the_next_move_works(world: World, side: str) -> None:
    survives_a_move(world)
    rekeys_the_ike_sa(world, end(world, side))
    survives_a_move(world)


def test_terminate_and_a_new_tunnel(world: World, side: str) -> None:
    survives_a_move(world)
    ends(world, end(world, side))
    world.terminal.connect()
    world.agreed(world.terminal)
    survives_a_move(world)


def test_dead_peer_detection_asks_from_the_new_address_and_is_answered(world: World) -> None:
    world.reconnect(TunnelOptions(dpd_delay_s=2))
    move = world.terminal.move()
    answers_dead_peer_detection(world, move.usable_ns)
    assert not world.capture.ike(move.usable_ns, host=move.old)
    agrees(world, world.terminal)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_every_kind_of_esp_is_verified_and_moved(world: World, proposal: str) -> None:
    world.reconnect(TunnelOptions(esp_proposal=proposal))
    survives_a_move(world)


def test_a_kind_of_esp_that_the_kernel_cannot_move_is_left_alone(world: World) -> None:
    world.reconnect(TunnelOptions(esp_proposal="aes128ctr-sha256"), roams=False)
    before = world.terminal.sa.identity

    def capabilities() -> list[str]:
        return [str(one.swanroam.tunnel(world.terminal.inner)["capability"]) for one in world.ends]

    eventually(lambda: capabilities() == ["none", "none"], "it is left alone")
    assert all("AES-CTR" in one.swanroam.log for one in world.ends)
    assert world.terminal.sa.identity == before
    world.reconnect(TunnelOptions())


def test_the_status_program_shows_what_the_socket_says(world: World) -> None:
    survives_a_move(world)
    for one in world.ends:
        shown = one.swanroam.command("status", "--config", str(one.swanroam.file))
        assert world.terminal.inner in shown
        assert world.terminal.outer in shown


def test_reauthenticated_where_it_began_with_the_new_ike_sa_first_it_is_the_same_tunnel_and_moves(world: World) -> None:
    """As strongSwan 6 does by default; both IKE_SAs have the inner address for a while."""
    world.begin_with_other_charons(TunnelOptions(charon={"make_before_break": "yes"}))
    terminal, before = world.terminal, world.terminal.sa
    with world.both_ways():
        terminal.charon.rekey_ike(before, reauthenticate=True)
        eventually(lambda: terminal.sa.unique_id != before.unique_id, "there is another IKE_SA")
        world.agreed(terminal)
    assert terminal.sa.inner == before.inner
    survives_a_move(world)
