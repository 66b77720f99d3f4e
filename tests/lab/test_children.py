"""Kinds of tunnels: what moves, moves under streams and is rekeyed afterwards; what is left alone says why."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from tests.lab.agreement import State, kernel_states
from tests.lab.charon import CONNECTION, SITE, TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import carries_all, rekeys_the_child, survives_a_move
from tests.lab.topology import INNER_NETWORK, INNER_POOL
from tests.lab.world import End, World

WHOLE = "0.0.0.0/0"
INBOUND, OUTBOUND, BOTH = 42, 43, 44
"""Interface ids: the terminal has one for each direction, the gateway one for both."""
MARK = 45
MARKING = f"""
table inet marks {{
  chain output {{
    type route hook output priority mangle;
    ip saddr {INNER_POOL} ip daddr {INNER_NETWORK} meta mark set {MARK}
  }}
  chain prerouting {{
    type filter hook prerouting priority mangle;
    ip daddr {INNER_POOL} meta mark set {MARK}
    meta l4proto esp meta mark set {MARK}
  }}
}}
"""
"""Everything that goes into the tunnel, or comes out of it, has the mark."""


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
def marks(world: World) -> Iterator[None]:
    """Packets are marked, as the policies want them."""
    for end in world.ends:
        end.namespace.run(["nft", MARKING])
    try:
        yield
    finally:
        for end in world.ends:
            end.show("nft delete table inet marks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a tunnel is set up, and what there is besides for its packets to find it."""

    options: TunnelOptions
    through: Callable[[World], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()


KINDS = {
    "several-child-sas": Kind(options=TunnelOptions(networks=("10.1.0.0/25", "10.1.0.128/25"))),
    "full-tunnel": Kind(
        options=TunnelOptions(child_at_terminal={"remote_ts": WHOLE}, child_at_gateway={"local_ts": WHOLE})
    ),
    "narrowed-selectors-own-reqid": Kind(
        options=TunnelOptions(child={"reqid": "4242"}, child_at_terminal={"remote_ts": "10.0.0.0/8"})
    ),
    "interfaces": Kind(
        options=TunnelOptions(
            child_at_terminal={"if_id_in": str(INBOUND), "if_id_out": str(OUTBOUND)},
            child_at_gateway={"if_id_in": str(BOTH), "if_id_out": str(BOTH)},
        ),
        through=interfaces,
    ),
    "marks": Kind(options=TunnelOptions(child={"mark_in": str(MARK), "mark_out": str(MARK)}), through=marks),
    "wide-replay-window-with-esn": Kind(
        options=TunnelOptions(esp_proposal="aes128gcm16-esn", child={"replay_window": "2048"})
    ),
    "trap": Kind(options=TunnelOptions(child_at_terminal={"start_action": "trap"})),
}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """A rekeyed CHILD_SA is soon gone, and the router drops what comes by the wrong link, as most networks do."""
    world = make_world(tunnel=TunnelOptions(charon={"delete_rekeyed_delay": "1"}))
    world.router.show("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    world.connect()
    world.roam()
    return world


@contextlib.contextmanager
def site(world: World) -> Iterator[None]:
    """The tunnel of SITE is there, too."""
    world.terminal.charon.initiate(SITE)
    try:
        yield
    finally:
        for end in world.ends:
            end.charon.terminate(SITE, force=True)


def says(end: End, connection: str, reason: str) -> None:
    """One end's swanroam shows why the tunnels of a connection are left alone."""

    def shown() -> bool:
        alone = end.swanroam.status()["left_alone"]
        return reason in [each["reason"] for each in alone if each["name"] == connection]

    eventually(shown, f"{end.name} says why: {reason}")


def states(world: World, connection: str) -> list[State | None]:
    """The kernel's states of a connection on both ends."""
    spis = [
        (end, child.spi_in, child.spi_out) for end in world.ends for child in end.charon.sas(connection)[0].children
    ]
    return [kernel_states(end).get(spi) for end, *pair in spis for spi in pair]


def left_where_it_is(world: World) -> None:
    """The terminal leaves and comes back: its tunnel stays where it is, and then goes on as it was."""
    before, identity = states(world, CONNECTION), world.terminal.sa.identity
    assert None not in before
    world.terminal.move()
    for end in world.ends:
        end.swanroam.status()
    assert states(world, CONNECTION) == before
    world.terminal.move()
    with world.both_ways():
        assert states(world, CONNECTION) == before
    assert world.terminal.sa.identity == identity


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_tunnel_of_each_kind_moves_and_is_rekeyed_afterwards(world: World, kind: Kind) -> None:
    with kind.through(world):
        world.reconnect(kind.options)
        inner = world.terminal.sa.inner
        survives_a_move(world)
        rekeys_the_child(world, world.gateway)
        with world.both_ways():
            assert world.terminal.sa.inner == inner


def test_traffic_brings_a_trapped_child_sa_up_anew_wherever_the_terminal_is(world: World) -> None:
    """The trap is for inner addresses: one for the outer address (`dynamic`) stays where charon loaded it."""
    world.reconnect(TunnelOptions(child_at_terminal={"start_action": "trap", "local_ts": INNER_POOL}))
    terminal = world.terminal
    for _ in range(2):
        spi = terminal.sa.children[0].spi_in
        terminal.charon.terminate_child(terminal.sa.children[0])
        with world.both_ways():
            assert terminal.sa.children[0].spi_in != spi
        world.agreed(terminal)
        survives_a_move(world)


def test_two_inner_addresses_of_one_version_move_in_one_tunnel(world: World) -> None:
    """Asked by a terminal for any address twice, charon gives it the same one twice (mem_pool.c)."""
    both = ("10.9.0.1", "10.9.1.1")
    pools = {f"inner{number}": f"{address}/32" for number, address in enumerate(both, 1)}
    world.reconnect(TunnelOptions(asked=("0.0.0.0", both[1]), pools=pools))  # noqa: S104 -- any
    assert world.terminal.sa.inner == both
    carries_all(world)
    rekeys_the_child(world, world.gateway)
    carries_all(world)
    for end in world.ends:
        assert [tuple(sorted(tunnel["inner"])) for tunnel in end.swanroam.tunnels()] == [both]


def test_a_child_sa_that_vanishes_before_its_move_does_not_keep_the_other_from_it(world: World) -> None:
    world.reconnect(TunnelOptions(networks=("10.1.0.0/25", "10.1.0.128/25")))
    terminal = world.terminal
    terminal.swanroam.send_signal(signal.SIGSTOP)
    stays, gone = sorted(terminal.sa.children, key=lambda child: child.name)
    terminal.charon.terminate_child(gone)
    with world.uplink() as up, world.downlink() as down:
        move = terminal.move()
        terminal.swanroam.send_signal(signal.SIGCONT)
        for stream in (up, down):
            stream.flows(move.usable_ns)
        for end in world.ends:
            eventually(lambda end=end: len(end.swanroam.tunnel(terminal.inner)["children"]) == 1, "one is left")  # type: ignore[misc]
        # Whoever asked for the CHILD_SA that is gone asks again, once charon is seen not to have followed.
        eventually(lambda: terminal.sa.local == terminal.outer, "the terminal's charon follows")
        eventually(lambda: world.sa(world.gateway, terminal).remote == terminal.outer, "the gateway's charon follows")
        for stream in (up, down):
            stream.flows()
    assert [child.spi_in for child in terminal.sa.children] == [stays.spi_in]


def test_a_tunnel_whose_packets_are_compressed_is_left_alone(world: World) -> None:
    world.reconnect(TunnelOptions(child={"ipcomp": "yes"}), roams=False)
    try:
        reason = "in a packet that IPComp compressed the inner source cannot be verified"
        for end in world.ends:
            says(end, CONNECTION, reason)
            assert reason in end.swanroam.log
        left_where_it_is(world)
    finally:
        world.reconnect(TunnelOptions())


def test_a_tunnel_whose_reqid_another_one_has_is_left_alone_until_it_has_it_to_itself(world: World) -> None:
    world.reconnect(TunnelOptions(site="tunnel", child={"reqid": "4242"}))
    with site(world):
        for end in world.ends:
            says(end, CONNECTION, "another tunnel has its reqid 4242, too")
        left_where_it_is(world)
    world.agreed(world.terminal)
    survives_a_move(world)


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_what_has_no_virtual_ip_stays_as_it_is_beside(world: World, mode: str) -> None:
    world.reconnect(TunnelOptions(site=mode))
    with site(world):
        for end in world.ends:
            says(end, SITE, "it has no virtual IP")
        before = states(world, SITE)
        assert None not in before
        survives_a_move(world)
        assert states(world, SITE) == before
