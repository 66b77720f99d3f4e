"""Whether charon, the kernel, swanroam and the wire, on both ends, say the same of a tunnel."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.charon import IkeSa
from tests.lab.conditions import eventually
from tests.lab.errors import LabError
from tests.lab.world import End, Terminal, World

__all__ = ["USUAL", "State", "View", "Wanted", "agrees", "differences", "kernel_states"]

NAT_T = 4500
STATE = re.compile(r"^src (?P<source>\S+) dst (?P<destination>\S+)\n\s*proto esp spi (?P<spi>0x[0-9a-f]+)")
ENCAP = re.compile(r"^\s*encap type espinudp sport (?P<sport>\d+) dport (?P<dport>\d+) ", re.MULTILINE)

Expect = Callable[[str, object, object], None]
"""What it is, what it is said to be, what it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An ESP state of the kernel; the ports are of UDP encapsulation, None without it."""

    source: str
    destination: str
    ports: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A tunnel as an end should see it."""

    where: str
    local: str
    remote: str
    ports: tuple[int, int] | None
    """Local and remote port of ESP in UDP; None for plain ESP."""
    nat: str
    """Who is behind a NAT: "none", "local" or "remote"."""

    @property
    def inbound(self) -> State:
        """The kernel's state for what comes in."""
        return State(source=self.remote, destination=self.local, ports=self.ports and self.ports[::-1])

    @property
    def outbound(self) -> State:
        """The kernel's state for what goes out."""
        return State(source=self.local, destination=self.remote, ports=self.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be agreed on, beyond where the terminal is."""

    swanroam: tuple[str, ...] = ("terminal", "gateway")
    """Where swanroam runs."""
    encap: bool | None = None
    """Whether ESP is in UDP; None for where a NAT is in the path, or the tunnel's options ask for it."""
    charon: bool = True
    """Whether charon has followed with encapsulation and ports, and not only with addresses."""
    kept: str | None = None
    """The address that charon and the kernel know the terminal by, where its real one is only on the wire."""


USUAL = Wanted()


def agrees(world: World, terminal: Terminal, wanted: Wanted = USUAL) -> None:
    """Wait until there are no differences; NeverCame says which remain."""

    def none() -> bool:
        wrong = differences(world, terminal, wanted)
        if wrong:
            raise LabError("; ".join(wrong))
        return True

    eventually(none, f"{terminal.name}: both ends agree", every_s=0.2)


def kernel_states(end: End) -> dict[int, State]:
    """SPI -> every ESP state, as `ip xfrm state` prints them; it prints no keys here."""
    states = {}
    for text in re.split(r"^(?=src )", end.show("ip xfrm state list nokeys"), flags=re.MULTILINE):
        # Without reqid it is an SPI that charon took before a move, at the address of then: nothing is sent by it.
        if (found := STATE.match(text)) and " reqid 0 " not in text:
            ports = ENCAP.search(text)
            states[int(found["spi"], 16)] = State(
                source=found["source"],
                destination=found["destination"],
                ports=(int(ports["sport"]), int(ports["dport"])) if ports else None,
            )
    return states


def differences(world: World, terminal: Terminal, wanted: Wanted) -> list[str]:
    """What is not as it should be, in words; empty where all agree that the tunnel is where the terminal is."""
    wrong: list[str] = []

    def expect(what: str, value: object, wanted: object) -> None:
        if value != wanted:
            wrong.append(f"{what} is {value}, not {wanted}")

    encap = wanted.encap if wanted.encap is not None else terminal.nat is not None or world.tunnel.encap
    ours, theirs = terminal.sa, world.sa(world.gateway, terminal)
    at_gateway = View(
        where="gateway",
        local=terminal.gateway,
        remote=terminal.seen,
        ports=_gateway_ports(world, terminal, theirs) if encap else None,
        nat="remote" if terminal.nat else "none",
    )
    at_terminal = View(
        where="terminal",
        local=wanted.kept or terminal.outer,
        remote=terminal.gateway,
        ports=(NAT_T, NAT_T) if encap else None,
        nat="local" if terminal.nat else "none",
    )
    for end, view, sa in ((terminal, at_terminal, ours), (world.gateway, at_gateway, theirs)):
        expect(f"{view.where}: number of CHILD_SAs", len(sa.children), len(world.tunnel.children))
        _kernel_agrees(end, view, sa, expect)
        _charon_agrees(view, sa, expect, followed=wanted.charon)
        if view.where in wanted.swanroam:
            outer = terminal.outer if end is terminal else view.local
            _swanroam_agrees(end, view, sa, expect, inner=terminal.inner, outer=outer)
    return wrong


def _gateway_ports(world: World, terminal: Terminal, sa: IkeSa) -> tuple[int, int]:
    """The gateway's port and the terminal's, as it was on the wire last, or as charon has it while nothing was."""
    if terminal.nat is None:
        return NAT_T, NAT_T
    # Inbound SPIs of the gateway: others may be behind the same NAT.
    spis = {child.spi_in for child in sa.children}
    sent = [packet for packet in world.capture.esp_from(terminal.seen, encap=True) if packet.ports]
    seen = [packet.ports for packet in sent if packet.first in spis and packet.ports]
    if not seen and sa.remote_port != NAT_T and not any(child.encap for child in sa.children):
        # Nothing came by a new SPI yet, and charon, which knows of no NAT, has no port: it is the one from before.
        seen = [packet.ports for packet in sent if packet.ports]
    return NAT_T, seen[-1][0] if seen else sa.remote_port


def _kernel_agrees(end: End, view: View, sa: IkeSa, expect: Expect) -> None:
    states = kernel_states(end)
    for child in sa.children:
        expect(f"{view.where}: the kernel's inbound state", states.get(child.spi_in), view.inbound)
        expect(f"{view.where}: the kernel's outbound state", states.get(child.spi_out), view.outbound)


def _charon_agrees(view: View, sa: IkeSa, expect: Expect, *, followed: bool) -> None:
    expect(f"{view.where}: charon's local host", sa.local, view.local)
    expect(f"{view.where}: charon's remote host", sa.remote, view.remote)
    if followed:
        expected = [view.ports is not None] * len(sa.children)
        expect(f"{view.where}: charon's word on encapsulation", [child.encap for child in sa.children], expected)
        expect(f"{view.where}: whether charon knows of a NAT, real or not", "any" in sa.nat, view.ports is not None)
        if view.ports:
            expect(f"{view.where}: charon's ports", (sa.local_port, sa.remote_port), view.ports)
            if view.nat != "none":
                # Where the terminal only pretended when the tunnel was set up, its charon goes on believing so.
                known = view.nat in sa.nat or "fake" in sa.nat
                expect(f"{view.where}: charon knows who is behind a NAT", known, True)


def _swanroam_agrees(end: End, view: View, sa: IkeSa, expect: Expect, *, inner: str, outer: str) -> None:
    status = end.swanroam.tunnel(inner)
    expect(f"{view.where}: swanroam's local address", status["local"]["address"], outer)
    expect(f"{view.where}: swanroam's remote address", status["remote"]["address"], view.remote)
    expect(f"{view.where}: swanroam's word on encapsulation", status["encap"], view.ports is not None)
    if view.ports:
        expect(f"{view.where}: swanroam's ports", (status["local"]["port"], status["remote"]["port"]), view.ports)
        if status["capability"] == "negotiated":
            expect(f"{view.where}: swanroam's word on NATs", status["nat"], view.nat)
    shown = {(_number(child["spi_in"]), _number(child["spi_out"])) for child in status["children"]}
    used, replaced = ({(child.spi_in, child.spi_out) for child in children} for children in (sa.children, sa.replaced))
    expect(f"{view.where}: swanroam's SPIs", shown - replaced, used)


def _number(spi: str | int) -> int:
    """A status may show an SPI as `swanctl` does, in hexadecimal without 0x, with it, or as a number."""
    return spi if isinstance(spi, int) else int(spi, 16)
