"""How tunnels go on that need the daemon, when it ends.

Nothing that charon sends through a NAT that it does not know of arrives without the daemon, nor what it sends from an
address that was kept; and with the first message that comes another way it takes the encapsulation away. So these
tunnels are built anew, and charon knows of everything then: by a terminal at once, by the terminals of a gateway when
they are told. A terminal that had agreed to tell of its moves says that it will not any more: its gateway would ask in
vain whether it is there, and keep the tunnel where strongSwan alone would not. And nobody would limit any more what
goes to an address that has proven nothing yet: a tunnel that is there returns.
"""

from collections.abc import Iterable
from dataclasses import replace

from swanroam.core import capability, watching
from swanroam.core.inner import message_addresses
from swanroam.core.listed import followed
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import DropAddress, Effect, SendMessage, Trigger
from swanroam.model.messages import Goodbye
from swanroam.model.tunnel import Role

__all__ = ["farewell", "leave"]


def leave(tunnels: Iterable[Tunnel], port: int) -> tuple[Effect, ...]:
    """What is to be done; Reestablish when neither rules nor kept addresses are there any more."""
    effects: list[Effect] = []
    for tunnel in tunnels:
        if tunnel.role is Role.TERMINAL and (tunnel.carries_ike or tunnel.actual is not None):
            effects += (DropAddress(tunnel.key), watching.reestablish(tunnel))
        elif tunnel.phase is Phase.VALIDATING and tunnel.validated_path:
            back = replace(tunnel, path=tunnel.validated_path)
            effects.append(watching.move(tunnel, back.path, Trigger.REVERT))
            # Where charon led it there it is to go back as well.
            effects += watching.inform(back, tunnel.path) if followed(tunnel) else ()
        elif tunnel.role is Role.TERMINAL or tunnel.carries_ike:
            # A gateway that is only restarted makes up for what it missed, so all others are told nothing by it.
            effects += farewell(tunnel, port)
    return tuple(effects)


def farewell(tunnel: Tunnel, port: int) -> tuple[Effect, ...]:
    """What tells the other end that this one does nothing more for the tunnel."""
    if tunnel.role is Role.GATEWAY and tunnel.carries_ike and (ends := message_addresses(tunnel, port)):
        source, destination = ends
        return (SendMessage(key=tunnel.key, source=source, destination=destination, message=Goodbye()),)
    return capability.withdraw(tunnel, port)
