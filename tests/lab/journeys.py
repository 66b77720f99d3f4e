"""Stories of a tunnel whose path gets, changes or loses a NAT: told alike whoever runs swanroam, in IKEv2 and IKEv1."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.lab import nat_figures
from tests.lab.agreement import Wanted, agrees
from tests.lab.charon import TunnelOptions
from tests.lab.conditions import eventually
from tests.lab.figures import moved_stream
from tests.lab.stories import answers_dead_peer_detection, ends, rekeys_the_child, rekeys_the_ike_sa
from tests.lab.streams import Stream
from tests.lab.topology import GATEWAY_WAN, GATEWAY_WAN6
from tests.lab.world import Move, Terminal, World

__all__ = [
    "KEEPALIVE_S",
    "OVER6",
    "VARIANTS",
    "Journey",
    "Variant",
    "begin",
    "compare_with_mobike",
    "natted",
    "rehearse",
    "survives_a_kill",
    "tidies_up",
]

KEEPALIVE_S = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """Who runs swanroam, and how the tunnel is set up."""

    ike_version: int
    alone: bool
    """swanroam runs on the terminal only, and the gateway is strongSwan as it is; NAT-T is there from the start."""
    over6: bool = False
    """Over IPv6, with both IP versions inside, and in UDP from the start without any NAT."""

    def __str__(self) -> str:
        return f"{'terminal-only' if self.alone else 'both-ends'}-ikev{self.ike_version}"

    @property
    def encap(self) -> bool:
        """Whether the terminal pretends to be behind a NAT."""
        return self.alone or self.over6

    @property
    def title(self) -> str:
        """Its name among the figures."""
        who = "swanroam terminal only" if self.alone else nat_figures.GATEWAY_TOO
        return f"{who}, IKEv{self.ike_version}"

    def tunnel(self, *, dpd_delay_s: int = 2) -> TunnelOptions:
        """A tunnel of this kind."""
        return TunnelOptions(
            ike_version=self.ike_version,
            encap=self.encap,
            gateway=GATEWAY_WAN6 if self.over6 else GATEWAY_WAN,
            inner=(4, 6) if self.over6 else (4,),
            dpd_delay_s=dpd_delay_s,
            charon={"keep_alive": f"{KEEPALIVE_S}s"},
        )

    def arrange(self, world: World) -> None:
        """Have swanroam run where it is to."""
        if self.alone:
            world.leave_the_gateway_alone()
        else:
            world.roams_everywhere()


# In this order the gateway's swanroam has to be stopped once.
VARIANTS = tuple(Variant(version, alone) for alone in (False, True) for version in (2, 1))
OVER6 = tuple(replace(variant, over6=True) for variant in VARIANTS if variant.ike_version == 2)


@dataclass(frozen=True, slots=True)
class Journey:
    """A terminal's tunnel from its beginning to its end."""

    world: World
    variant: Variant
    terminal: Terminal
    began_at: str
    """The terminal's address when the tunnel was set up."""
    in_udp: bool
    """Whether charon set it up in UDP. If not, it knows of no NAT, whatever there is later, and its IKE is carried."""

    def wanted(self) -> Wanted:
        """What everyone is to say of it now."""
        who = ("terminal",) if self.variant.alone else ("terminal", "gateway")
        if not self.in_udp:
            return Wanted(swanroam=who, charon=self.terminal.nat is None)
        away = self.terminal.outer != self.began_at
        return Wanted(swanroam=who, kept=self.began_at if away else None)

    def goes_on(self, kind: str, change: Callable[[], Move], *, told: bool = True) -> Move:
        """Change the path under streams both ways; the figures of it go to those of its kind.

        With `told` false there is a NAT of which nothing tells but that nobody answers, and what is sent until then is
        lost: that has figures of its own.

        They flow again before anyone negotiates anything. With swanroam on both ends nothing is lost upwards from the
        moment on in which the path can be used. Downwards the gateway's charon drops what goes out while it follows. A
        gateway without swanroam takes its policies and states out for that moment, and loses what comes in as well.
        """
        terminal, capture = self.terminal, self.world.capture
        before = terminal.sa
        with self.world.both_ways(terminal) as (up, down):
            move = change()
            flowing_ns = max(_flows(stream, move.usable_ns) for stream in (up, down))
            agrees(self.world, terminal, self.wanted())
            for stream in (up, down):
                stream.flows()
        kept_keys = terminal.sa.identity == before.identity
        figures = moved_stream(move, up, down, capture, same_keys=kept_keys)
        title = self.variant.title if told else f"{nat_figures.PLAIN_FIRST}, IKEv{self.variant.ike_version}"
        nat_figures.every.setdefault(kind, {}).setdefault(title, []).append(figures)
        assert not capture.negotiations(move.began_ns, flowing_ns)
        assert not capture.cleartext(move.began_ns)
        assert terminal.sa.inner == before.inner
        assert kept_keys
        if told and not self.variant.alone:
            assert up.outcome(move.usable_ns).lost == ()
        return move

    def ends_well(self) -> None:
        """All that strongSwan does with the only tunnel works, from both ends, and nothing is left of it in the end."""
        world, wanted = self.world, self.wanted()
        for end in (self.terminal, world.gateway):
            rekeys_the_child(world, end, wanted)
            # Reauthenticated by the gateway a terminal of IKEv1 may ask for any inner address before it has taken the
            # CHILD_SAs over, and strongSwan gives it another one, NAT or not.
            if end is self.terminal or self.variant.ike_version == 2:
                rekeys_the_ike_sa(world, end, wanted)
        with world.both_ways():
            pass
        answers_dead_peer_detection(world, time.monotonic_ns())
        ends(world, self.terminal, wanted.swanroam)
        if wanted.kept:
            eventually(lambda: not self.leftovers(), f"{wanted.kept} is nowhere on the terminal")

    def leftovers(self) -> str:
        """What there is of the first address on a terminal that is elsewhere: lines of addresses and of nftables."""
        terminal = self.terminal
        lines = (terminal.show("ip -oneline address") + terminal.show("nft list ruleset")).splitlines()
        return "\n".join(line for line in lines if self.began_at in line)


def begin(world: World, variant: Variant, link: str, *, dpd_delay_s: int = 2) -> Journey:
    """Set the first terminal's tunnel up while it is on a link."""
    world.reconnect(variant.tunnel(dpd_delay_s=dpd_delay_s), link=link)
    return Journey(world, variant, world.terminal, world.terminal.outer, natted(world.terminal, variant))


def tidies_up(journey: Journey, kinds: tuple[str, str]) -> None:
    """Away, back and away again: nothing is left of the first address when it comes back, or the daemon stops."""
    terminal, (away, back) = journey.terminal, kinds
    journey.goes_on(away, terminal.move)
    journey.goes_on(back, terminal.move)
    assert journey.began_at not in terminal.show("nft list ruleset")
    assert not terminal.aliases
    journey.goes_on(away, terminal.move)
    assert journey.leftovers()
    terminal.swanroam.stop()
    assert not journey.leftovers()


def survives_a_kill(world: World, variant: Variant, link: str, kind: str) -> None:
    """A killed daemon leaves the tunnel working away from home, and nothing that the next one does not clean.

    The next one takes the kept address away before it keeps it anew. A gateway that asks in that moment whether the
    terminal is there finds it where it really is, and the terminal's charon follows: as good, but nothing is kept then.
    """
    journey, terminal = begin(world, variant, link, dpd_delay_s=60), world.terminal
    journey.goes_on(kind, terminal.move)
    terminal.swanroam.kill()
    with world.both_ways():
        pass
    terminal.swanroam.run()
    agrees(world, terminal, journey.wanted())
    with world.both_ways():
        pass
    terminal.swanroam.kill()
    terminal.charon.terminate()
    assert journey.leftovers()
    terminal.swanroam.run()
    eventually(lambda: not journey.leftovers(), f"{journey.began_at} is nowhere on the terminal")


def rehearse(world: World) -> None:
    """Go away and back once, for no figure: whatever is done for the first time is read from a slow disk first."""
    for _ in range(2):
        with world.both_ways() as (up, down):
            move = world.terminal.move()
            for stream in (up, down):
                stream.flows(move.usable_ns)
    agrees(world, world.terminal, Wanted(charon=False))


def natted(terminal: Terminal, variant: Variant) -> bool:
    """Whether a tunnel that is set up now is in UDP from the start."""
    return variant.encap or terminal.nat is not None


def compare_with_mobike(world: World, kind: str, change: Callable[[], Move]) -> None:
    """The figures of strongSwan without any help: MOBIKE, or what it does where the terminal notices nothing."""
    with world.both_ways() as (up, down):
        move = change()
        for stream in (up, down):
            stream.flows(move.usable_ns, packets=10, deadline_s=90)
    figures = moved_stream(move, up, down, world.capture, same_keys=True)
    nat_figures.every.setdefault(kind, {}).setdefault(nat_figures.MOBIKE, []).append(figures)
    agrees(world, world.terminal, Wanted(swanroam=()))


def _flows(stream: Stream, since_ns: int) -> int:
    """When the first of the packets sent after an instant arrived."""
    stream.flows(since_ns)
    return min(packet.arrived_ns for packet in stream.received() if packet.sent_ns >= since_ns)
