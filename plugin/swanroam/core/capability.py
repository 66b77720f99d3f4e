"""The agreement of both ends that the terminal will tell of its moves (patent page 7): HELLO and its answers.

    terminal -> gateway   HELLO       once the CHILD_SA is up, and after a restart of the terminal's daemon
    gateway -> terminal   HELLO       where it does not know: after a restart of its daemon, after a reauthentication,
                                      and where nothing is heard of the terminal's daemon (core/unheard.py)
    either answers        HELLO-ACK   or REFUSE with a reason: version, critical feature, policy
    either                REFUSE      with no nonce, when it takes part no longer: switched off; a gateway that can no
                                      longer tell the tunnel from another; a terminal whose daemon ends

An unanswered HELLO is repeated with growing intervals, then the tunnel counts as without the capability. The terminal
is asked anew when its tunnel is built anew. Rekeys keep the agreement, as they keep the peer.
"""

from dataclasses import replace
from typing import Final

from swanroam.core.inner import message_addresses
from swanroam.core.seeking import learn
from swanroam.core.settings import Agreement, Settings
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import CapabilityChanged, Effect, Persist, SendMessage, StartTimer, StopTimer
from swanroam.model.events import TimerId, TimerKind
from swanroam.model.messages import Feature, Hello, HelloAck, Refusal, Refuse
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Capability, IkeSa, Role

__all__ = [
    "HELLO_DELAYS_S",
    "alone",
    "answer_hello",
    "ask_anew",
    "initial",
    "on_ack",
    "on_refusal",
    "on_unagreed_update",
    "send_hello",
    "unserved",
    "withdraw",
]

OWN_FEATURES: Final = Feature.UPDATE | Feature.PATH_CHALLENGE
PROTOCOL_VERSION: Final = 1
NO_NONCE: Final = bytes(16)
"""Of a REFUSE that answers no HELLO but ends what was agreed."""

HELLO_DELAYS_S: Final = {
    Role.TERMINAL: (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0),
    # The terminal asks by itself; the gateway asks only for what it forgot, and few times: many tunnels may be asked.
    Role.GATEWAY: (1.0, 3.0, 9.0),
}

Step = tuple[Tunnel, tuple[Effect, ...]]


def unserved(sa: IkeSa, settings: Settings, mobike: bool | None = None) -> str | None:
    """Why swanroam leaves tunnels of this kind alone; None when it serves them.

    `mobike`: what is known already, where charon was told of a move since (migrate_job.c: the ports are 500 then).
    """
    mobike = settings.mobike(sa) if mobike is None else mobike
    if mobike is None:
        return "behind a NAT charon may move it with MOBIKE, and does not tell: say mobike = false where it does not"
    if any(child.ipcomp for child in sa.children):
        return "in a packet that IPComp compressed the inner source cannot be verified"
    if any(child.encryption == "AES_CTR" for child in sa.children):
        # A clone of such a state has no generator of initialization vectors (xfrm_state.c, xfrm_state_clone: geniv).
        return "the kernel cannot move AES-CTR with a separate integrity algorithm"
    return None


def alone(tunnel: Tunnel, settings: Settings) -> bool:
    """Whether the gateway follows this terminal by itself, with nothing but strongSwan.

    It does where it takes the terminal to be behind a NAT, which it is or pretends to be (`encap = yes`), and where the
    tunnel is not charon's to move with MOBIKE: its kernel reports where authentic packets come from. A gateway that is
    not strongSwan and does not is found out by its silence (core/silence.py).
    """
    newest = tunnel.sas[0]
    served = _obstacle(tunnel, settings) is None and not tunnel.mobike
    wanted = settings.of(newest.name).agreement is not Agreement.OFF and served
    return tunnel.role is Role.TERMINAL and tunnel.native and wanted and (newest.nat_local or newest.nat_fake)


def initial(sa: IkeSa, settings: Settings, shares: str = "") -> tuple[Capability, str]:
    """The capability of a tunnel that just appeared, and why; `shares` as of a Tunnel."""
    agreement = settings.of(sa.name).agreement
    if agreement is Agreement.OFF:
        return Capability.NONE, "off by configuration"
    if reason := shares or unserved(sa, settings):
        return Capability.NONE, reason
    if agreement is Agreement.CONFIGURED:
        return Capability.CONFIGURED, "by configuration"
    return Capability.PENDING, ""


def send_hello(tunnel: Tunnel, nonce: bytes, port: int) -> Step:
    """Send the next HELLO; after the last one the tunnel is without the capability, unless it was known to have it."""
    if tunnel.capability not in (Capability.PENDING, Capability.NEGOTIATED):
        return tunnel, ()  # the settings changed while the timer ran
    delays = HELLO_DELAYS_S[tunnel.role]
    if tunnel.hello_attempt >= len(delays):
        if tunnel.capability is not Capability.PENDING:
            return tunnel, ()
        return _changed(tunnel, Capability.NONE, "no answer to HELLO")
    addresses = message_addresses(tunnel, port)
    if addresses is None:
        return _changed(tunnel, Capability.NONE, f"no selector lets UDP port {port} through")
    if tunnel.hello_attempt == 0 or not tunnel.hello_nonce:
        tunnel = replace(tunnel, hello_nonce=nonce)
    delay_s = delays[tunnel.hello_attempt]
    source, destination = addresses
    hello = Hello(nonce=tunnel.hello_nonce, features=OWN_FEATURES, version=PROTOCOL_VERSION)
    return replace(tunnel, hello_attempt=tunnel.hello_attempt + 1), (
        SendMessage(key=tunnel.key, source=source, destination=destination, message=hello),
        StartTimer(timer=TimerId(tunnel.key, TimerKind.HELLO), delay_s=delay_s),
    )


def answer_hello(
    tunnel: Tunnel,
    hello: Hello,
    own: IPAddress,
    peer: IPAddress,
    settings: Settings,
    addresses: tuple[IPAddress, ...] = (),
) -> Step:
    """Accept or refuse the offer of the other end; a gateway tells the terminal its `addresses`."""
    refusal = _refusal(tunnel, hello, settings)
    if refusal is not None:
        answer = Refuse(nonce=hello.nonce, reason=refusal)
        return tunnel, (SendMessage(key=tunnel.key, source=own, destination=peer, message=answer),)
    ack = HelloAck(nonce=hello.nonce, features=OWN_FEATURES, addresses=addresses)
    forgotten: tuple[Effect, ...] = ()
    if tunnel.role is Role.GATEWAY:
        # A terminal that says HELLO may have been restarted and count its moves from the start.
        forgotten = (Persist(tunnel.key),) if tunnel.update_sequence else ()
        tunnel = replace(tunnel, update_sequence=0, gateways=addresses)
    # The answer to a terminal's own HELLO, if one is on the way, tells it the gateway's addresses.
    asks = tunnel.role is Role.TERMINAL and bool(tunnel.hello_nonce)
    tunnel, effects = _changed(tunnel, Capability.NEGOTIATED, "HELLO", asks=asks)
    return tunnel, (SendMessage(key=tunnel.key, source=own, destination=peer, message=ack), *forgotten, *effects)


def on_ack(tunnel: Tunnel, ack: HelloAck) -> Step:
    """The other end accepted; an answer to another HELLO than the last one is ignored."""
    if ack.nonce != tunnel.hello_nonce:
        return tunnel, ()
    tunnel = learn(tunnel, ack.addresses) if tunnel.role is Role.TERMINAL else tunnel
    return _changed(tunnel, Capability.NEGOTIATED, "HELLO-ACK")


def on_refusal(tunnel: Tunnel, refusal: Refuse) -> Step:
    """The other end refused; the tunnel is left alone. One whose IKE is carried stays as it is until nobody answers.

    So does one on a path that is not proven yet, which is for the challenge to decide.
    """
    goes_on = tunnel.carries_ike or tunnel.phase is Phase.VALIDATING
    ends = refusal.nonce == NO_NONCE and tunnel.capability is Capability.NEGOTIATED and not goes_on
    if refusal.nonce != tunnel.hello_nonce and not ends:
        return tunnel, ()
    return _changed(tunnel, Capability.NONE, f"refused: {refusal.reason.name.lower()}")


def withdraw(tunnel: Tunnel, port: int) -> tuple[Effect, ...]:
    """What tells the other end that this one tells of its moves, or follows them, no longer."""
    addresses = message_addresses(tunnel, port)
    if tunnel.capability is not Capability.NEGOTIATED or addresses is None:
        return ()
    source, destination = addresses
    refusal = Refuse(nonce=NO_NONCE, reason=Refusal.POLICY)
    return (SendMessage(key=tunnel.key, source=source, destination=destination, message=refusal),)


def ask_anew(tunnel: Tunnel, detail: str) -> Step:
    """What was agreed holds no longer; a HELLO is to find out whether it can be agreed again."""
    return _changed(tunnel, Capability.PENDING, detail)


def on_unagreed_update(tunnel: Tunnel, settings: Settings) -> Step | None:
    """A terminal sends UPDATE where it knows the agreement, which this gateway lost when it was restarted.

    No HELLO of the gateway reaches a terminal that has moved, so this has to do. The UPDATE itself is not acknowledged:
    the next one is, when the packet that carries it has moved the tunnel. None where the agreement is not wanted.
    """
    obstacle = _obstacle(tunnel, settings)
    if settings.of(tunnel.key.name).agreement is not Agreement.NEGOTIATE or obstacle:
        return None
    return _changed(tunnel, Capability.NEGOTIATED, "UPDATE")


def _obstacle(tunnel: Tunnel, settings: Settings) -> str | None:
    return tunnel.shares or unserved(tunnel.sas[0], settings, tunnel.mobike)


def _refusal(tunnel: Tunnel, hello: Hello, settings: Settings) -> Refusal | None:
    if hello.version != PROTOCOL_VERSION:
        return Refusal.VERSION
    if hello.critical & ~int(OWN_FEATURES):
        return Refusal.FEATURE
    if settings.of(tunnel.key.name).agreement is Agreement.OFF or _obstacle(tunnel, settings):
        return Refusal.POLICY
    return None


def _changed(tunnel: Tunnel, capability: Capability, detail: str, *, asks: bool = False) -> Step:
    """The tunnel with that capability; with `asks` a HELLO goes on waiting for its answer."""
    changed = replace(tunnel, capability=capability, because=detail if capability is Capability.NONE else "")
    stop: tuple[Effect, ...] = ()
    if not asks:
        changed = replace(changed, hello_nonce=b"", hello_attempt=0)
        stop = (StopTimer(TimerId(tunnel.key, TimerKind.HELLO)),)
    if capability is tunnel.capability:
        return changed, stop
    told = CapabilityChanged(key=tunnel.key, capability=capability, detail=detail)
    return changed, (*stop, Persist(tunnel.key), told)
