"""Whether charon, the kernel and swanroam, on both ends, say the same of a tunnel."""

import re

from tests.lab.conditions import eventually
from tests.lab.errors import LabError
from tests.lab.topology import GATEWAY_WAN
from tests.lab.world import End, Terminal, World

__all__ = ["agrees", "differences"]

STATE = re.compile(
    r"^src (?P<source>\S+) dst (?P<destination>\S+)\n\s*proto esp spi (?P<spi>0x[0-9a-f]+)", re.MULTILINE
)


def agrees(world: World, terminal: Terminal, *, swanroam: bool = True) -> None:
    """Wait until there are no differences; NeverCame says which remain."""

    def none() -> bool:
        wrong = differences(world, terminal, swanroam=swanroam)
        if wrong:
            raise LabError("; ".join(wrong))
        return True

    eventually(none, f"{terminal.name}: both ends agree", every_s=0.2)


def kernel_states(end: End) -> dict[int, tuple[str, str]]:
    """SPI -> (source, destination) of every ESP state, as `ip xfrm state` prints them; it prints no keys here."""
    text = end.show("ip xfrm state list nokeys")
    return {int(found["spi"], 16): (found["source"], found["destination"]) for found in STATE.finditer(text)}


def differences(world: World, terminal: Terminal, *, swanroam: bool = True) -> list[str]:
    """What is not as it should be, in words; empty where all agree that the tunnel is at the terminal's address."""
    wrong: list[str] = []

    def expect(what: str, value: object, wanted: object) -> None:
        if value != wanted:
            wrong.append(f"{what} is {value}, not {wanted}")

    outer = {"terminal": terminal.outer, "gateway": GATEWAY_WAN}
    ours = terminal.sa
    theirs = [sa for sa in world.gateway.charon.sas() if terminal.inner in sa.inner and sa.state == "ESTABLISHED"]
    expect("number of the gateway's IKE_SAs for it", len(theirs), 1)
    for where, end, local, remote, sa in (
        ("terminal", terminal, outer["terminal"], outer["gateway"], ours),
        ("gateway", world.gateway, outer["gateway"], outer["terminal"], theirs[0] if theirs else ours),
    ):
        expect(f"{where}: charon's local host", sa.local, local)
        expect(f"{where}: charon's remote host", sa.remote, remote)
        expect(f"{where}: number of CHILD_SAs", len(sa.children), 1)
        states = kernel_states(end)
        for child in sa.children:
            expect(f"{where}: the kernel's inbound state", states.get(child.spi_in), (remote, local))
            expect(f"{where}: the kernel's outbound state", states.get(child.spi_out), (local, remote))
        if swanroam:
            status = end.swanroam.tunnel(terminal.inner)
            expect(f"{where}: swanroam's local address", status["local"]["address"], local)
            expect(f"{where}: swanroam's remote address", status["remote"]["address"], remote)
            spis = sorted((_number(child["spi_in"]), _number(child["spi_out"])) for child in status["children"])
            expect(f"{where}: swanroam's SPIs", spis, sorted((child.spi_in, child.spi_out) for child in sa.children))
    return wrong


def _number(spi: str | int) -> int:
    """A status may show an SPI as `swanctl` does, in hexadecimal without 0x, with it, or as a number."""
    return spi if isinstance(spi, int) else int(spi, 16)
