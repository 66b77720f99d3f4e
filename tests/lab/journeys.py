"""Stories of a tunnel whose path gets, changes or loses a NAT: told alike whoever runs swanroam, in IKEv2 and IKEv1."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.agreement import Wanted, agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.stories import answers_dead_peer_detection, ends, rekeys_the_child, rekeys_the_ike_sa
from tests.lab.streams import Stream
from tests.lab.world import Move, World

__all__ = ["KEEPALIVE_S", "VARIANTS", "Journey", "Variant", "begin"]

KEEPALIVE_S = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """Who runs swanroam, and how the tunnel is set up."""

    ike_version: int
    alone: bool
    """swanroam runs on the terminal only, and the gateway is strongSwan as it is; NAT-T is there from the start."""

    def __str__(self) -> str:
        return f"{'terminal-only' if self.alone else 'both-ends'}-ikev{self.ike_version}"

    def tunnel(self, *, dpd_delay_s: int = 2) -> TunnelOptions:
        """A tunnel of this kind."""
        return TunnelOptions(
            ike_version=self.ike_version,
            encap=self.alone,
            dpd_delay_s=dpd_delay_s,
            charon={"keep_alive": f"{KEEPALIVE_S}s"},
        )


# In this order the gateway's swanroam has to be stopped once.
VARIANTS = tuple(Variant(version, alone) for alone in (False, True) for version in (2, 1))


@dataclass(frozen=True, slots=True)
class Journey:
    """A tunnel of the first terminal, from its beginning to its end."""

    world: World
    variant: Variant
    began_at: str
    """The terminal's address when the tunnel was set up."""

    def wanted(self) -> Wanted:
        """What everyone is to say of it now."""
        if not self.variant.alone:
            return Wanted()
        away = self.world.terminal.outer != self.began_at
        return Wanted(swanroam=("terminal",), kept=self.began_at if away else None)

    def goes_on(self, change: Callable[[], Move], *, same_keys: bool = False) -> Move:
        """Change the path under streams both ways.

        They flow again before anyone negotiates anything. With swanroam on both ends nothing is lost from then on while
        charon follows, and upwards nothing from the moment on in which the path can be used. A gateway without it takes
        its policies and states out for a moment when it follows, and loses what comes in then.
        """
        terminal, capture = self.world.terminal, self.world.capture
        before = terminal.sa
        with self.world.both_ways() as (up, down):
            move = change()
            flowing_ns = max(_flows(stream, move.usable_ns) for stream in (up, down))
            agrees(self.world, terminal, self.wanted())
            for stream in (up, down):
                stream.flows()
        assert not capture.ike(move.began_ns, flowing_ns)
        assert not capture.cleartext(move.began_ns)
        assert terminal.sa.inner == before.inner
        if same_keys or self.variant.alone:
            assert terminal.sa.identity == before.identity
        if not self.variant.alone:
            assert up.outcome(move.usable_ns).lost == ()
            assert down.outcome(flowing_ns).lost == ()
        return move

    def ends_well(self) -> None:
        """All that strongSwan does with a tunnel works, from both ends, and nothing is left of it in the end."""
        world, wanted = self.world, self.wanted()
        for end in (world.terminal, world.gateway):
            rekeys_the_child(world, end, wanted)
            rekeys_the_ike_sa(world, end, wanted)
        with world.both_ways():
            pass
        answers_dead_peer_detection(world, time.monotonic_ns())
        ends(world, world.terminal, wanted.swanroam)
        if wanted.kept:
            eventually(lambda: not self.leftovers(), f"{wanted.kept} is nowhere on the terminal")

    def leftovers(self) -> str:
        """What there is of the first address on a terminal that is elsewhere: lines of addresses and of nftables."""
        terminal = self.world.terminal
        lines = (terminal.show("ip -oneline address") + terminal.show("nft list ruleset")).splitlines()
        return "\n".join(line for line in lines if self.began_at in line)


def begin(world: World, variant: Variant, link: str, *, dpd_delay_s: int = 2) -> Journey:
    """Set a tunnel up while the terminal is on a link."""
    world.reconnect(variant.tunnel(dpd_delay_s=dpd_delay_s), link=link)
    return Journey(world, variant, world.terminal.outer)


def _flows(stream: Stream, since_ns: int) -> int:
    """When the first of the packets sent after an instant arrived."""
    stream.flows(since_ns)
    return min(packet.arrived_ns for packet in stream.received() if packet.sent_ns >= since_ns)
