"""What packet filter and charon have to know of a tunnel; the same for every decision that changes it."""

from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import Effect, InformCharon, RemindCharon, Watch
from swanroam.model.path import Path
from swanroam.model.tunnel import Role

__all__ = ["inform", "watch"]


def watch(tunnel: Tunnel) -> Watch:
    """What the packet filter has to know of the tunnel now."""
    sources = tunnel.origins if tunnel.guarded else ()
    leaving = tunnel.leaving if tunnel.guarded else ()
    unproven = tuple(child.spi_out for child in tunnel.children) if tunnel.phase is Phase.VALIDATING else ()
    return Watch(
        key=tunnel.key, inner=tunnel.key.inner, spis=tunnel.spis, sources=sources, leaving=leaving, unproven=unproven
    )


def inform(tunnel: Tunnel, old: Path) -> tuple[Effect, ...]:
    """Have charon, which has the tunnel at `old`, follow to the present path, as far as it can be told of it.

    Of a tunnel that it set up without NAT a gateway's would take the encapsulation away; it hears from the terminal's
    charon, which builds the tunnel anew.
    """
    if tunnel.role is Role.TERMINAL or not tunnel.path.encap:
        return (InformCharon(key=tunnel.key, children=tunnel.children, old=old, new=tunnel.path),)
    if tunnel.sas[0].nat_remote:
        return (RemindCharon(key=tunnel.key, children=tunnel.children, path=tunnel.path),)
    return ()
