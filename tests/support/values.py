"""Values of the model for tests: one terminal and one gateway, each seen from its own end, and a desk to drive a Core.

10.3.0.1 (inner) terminal 192.0.2.10 ......... 203.0.113.1 gateway --- 10.1.0.0/24
                          198.51.100.20
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from typing import TypeVar

from swanroam.core.settings import Agreement, Settings, TunnelSettings
from swanroam.core.step import Core
from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import Effect, MoveStates, SendMessage, StartTimer
from swanroam.model.events import (
    Event,
    IkeSasListed,
    MessageReceived,
    MoveFinished,
    MoveRefused,
    PacketHeld,
    PacketVerified,
    PolicyInstalled,
    Reason,
    RepositoryChanged,
    TimerExpired,
    TimerId,
    TimerKind,
)
from swanroam.model.messages import Feature, Hello, Message
from swanroam.model.path import Endpoint, IPAddress, LocalAddress, Path, Repository, Route
from swanroam.model.tunnel import ChildSa, IkeSa, Role, Selector, TunnelKey

PORT = 4555
GATEWAY = IPv4Address("203.0.113.1")
SECOND = IPv4Address("203.0.113.2")
"""Another address of the gateway, where it has one."""
A = IPv4Address("192.0.2.10")
B = IPv4Address("198.51.100.20")
C = IPv4Address("192.0.2.130")
PRIVATE = IPv4Address("192.168.7.5")
NAT_A, NAT_B, NAT_C, NAT_PRIVATE = (IPv4Address(f"203.0.113.{last}") for last in (11, 12, 13, 14))
"""Public addresses of NATs, where there are some."""
INNER = IPv4Address("10.3.0.1")
OTHER_INNER = IPv4Address("10.3.0.2")
SERVERS = IPv4Network("10.1.0.0/24")
FIRST_SERVER = IPv4Address("10.1.0.1")
KEY = TunnelKey("home", (INNER,))
SPI_UP = 0xC0000001
"""Inbound on the gateway."""
SPI_DOWN = 0xD0000001
"""Inbound on the terminal."""

Wanted = TypeVar("Wanted")


def path(role: Role, outer: IPAddress = A) -> Path:
    """The path between a terminal at `outer` and the gateway."""
    terminal, gateway = Endpoint(outer, 500), Endpoint(GATEWAY, 500)
    return Path(terminal, gateway) if role is Role.TERMINAL else Path(gateway, terminal)


def child(
    role: Role,
    inner: tuple[IPAddress, ...] = (INNER,),
    up: int = SPI_UP,
    down: int = SPI_DOWN,
    state: str = "INSTALLED",
) -> ChildSa:
    """A CHILD_SA; `up` and `down` are the SPIs towards gateway and terminal."""
    terminal = tuple(Selector(IPv4Network(str(address))) for address in inner if address.version == 4)
    gateway = (Selector(SERVERS),)
    at_terminal = role is Role.TERMINAL
    return ChildSa(
        name="net",
        unique_id=up & 0xFFFF,
        reqid=int(inner[0]) & 0xFF,
        spi_in=down if at_terminal else up,
        spi_out=up if at_terminal else down,
        state=state,
        local_selectors=terminal if at_terminal else gateway,
        remote_selectors=gateway if at_terminal else terminal,
    )


def ike_sa(
    role: Role,
    *,
    unique_id: int = 1,
    name: str = "home",
    outer: IPAddress = A,
    inner: tuple[IPAddress, ...] = (INNER,),
    ike_spis: tuple[int, int] = (0x11, 0x22),
    spis: Iterable[tuple[int, int]] = ((SPI_UP, SPI_DOWN),),
    state: str = "ESTABLISHED",
) -> IkeSa:
    """An IKE_SA with a CHILD_SA for each pair of `spis` (up, down)."""
    where = path(role, outer)
    return IkeSa(
        name=name,
        unique_id=unique_id,
        version=2,
        state=state,
        initiator=role is Role.TERMINAL,
        initiator_spi=ike_spis[0],
        responder_spi=ike_spis[1],
        local=where.local,
        remote=where.remote,
        local_vips=inner if role is Role.TERMINAL else (),
        remote_vips=inner if role is Role.GATEWAY else (),
        children=tuple(child(role, inner, up, down) for up, down in spis),
    )


def in_udp(sa: IkeSa, seen: Endpoint | None = None, inside: Endpoint | None = None) -> IkeSa:
    """The same IKE_SA as set up through a NAT before the terminal, which is seen at one endpoint and is at another."""
    here, there = inside or Endpoint(A, 4500), Endpoint(GATEWAY, 4500)
    children = tuple(replace(each, encap=True) for each in sa.children)
    if sa.initiator:
        return replace(sa, local=here, remote=there, nat_local=True, children=children)
    return replace(sa, local=there, remote=seen or here, nat_remote=True, children=children)


def settings(
    role: Role, agreement: Agreement = Agreement.NEGOTIATE, *, path_validation: bool = True, mobike: bool | None = None
) -> Settings:
    """The same settings for all tunnels."""
    same = TunnelSettings(agreement=agreement, path_validation=path_validation, mobike=mobike)
    return Settings(role=role, tunnels={"*": same})


def repository(*addresses: IPAddress, metrics: Mapping[IPAddress, int] | None = None) -> Repository:
    """One link with a default route for each address; the metric grows with the position, where not given."""
    local, routes = [], []
    for position, address in enumerate(addresses):
        interface = f"link{position}"
        local.append(LocalAddress(address=address, prefix_length=24, interface=interface, usable=True))
        metric = (metrics or {}).get(address, 100 + position)
        routes.append(Route(destination=IPv4Network("0.0.0.0/0"), interface=interface, metric=metric))
    return Repository(addresses=tuple(local), routes=tuple(routes))


def homes(*addresses: IPAddress, deprecated: Iterable[IPAddress] = (), interface: str = "wan0") -> Repository:
    """A gateway's addresses, all on one interface; of its routes it needs to know none."""
    old = tuple(deprecated)
    return Repository(
        addresses=tuple(
            LocalAddress(
                address=address,
                prefix_length=24,
                interface=interface,
                usable=address not in old,
                deprecated=address in old,
            )
            for address in (*addresses, *old)
        )
    )


def nonces() -> Callable[[], bytes]:
    """A source of nonces, each of its own."""
    numbers = count(1)
    return lambda: next(numbers).to_bytes(16)


def some(wanted: type[Wanted], effects: Iterable[Effect]) -> list[Wanted]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, wanted)]


def one(wanted: type[Wanted], effects: Iterable[Effect]) -> Wanted:
    """The only effect of one kind."""
    (found,) = some(wanted, effects)
    return found


def messages(effects: Iterable[Effect]) -> list[Message]:
    """The messages sent."""
    return [effect.message for effect in some(SendMessage, effects)]


def timers(effects: Iterable[Effect], kind: TimerKind) -> list[float]:
    """The delays of timers of one kind, in seconds."""
    return [effect.delay_s for effect in some(StartTimer, effects) if effect.timer.kind is kind]


class Desk:
    """A Core and what one says to it. Moves are answered only when the test does so."""

    def __init__(self, role: Role, agreement: Agreement = Agreement.NEGOTIATE, *, path_validation: bool = True) -> None:
        self.role = role
        self.now_s = 1000.0
        self.core = Core(settings(role, agreement, path_validation=path_validation), nonces(), PORT)
        self._packets = count(1)

    @property
    def tunnel(self) -> Tunnel:
        """The tunnel of KEY."""
        tunnel = self.core.table.get(KEY)
        assert tunnel is not None
        return tunnel

    def step(self, event: Event) -> tuple[Effect, ...]:
        """Hand an event over."""
        return self.core.step(event)

    def listed(
        self,
        *sas: IkeSa,
        complete: bool = True,
        at: Mapping[int, Path] | None = None,
        policies: Path | None = None,
    ) -> tuple[Effect, ...]:
        """These IKE_SAs were listed; `at` is where the kernel has their inbound SPIs, `policies` where the policies."""
        paths = tuple((at or {}).items())
        reqids = (child.reqid for sa in sas for child in sa.children) if policies else ()
        places = tuple((reqid, policies.addresses) for reqid in reqids if policies)
        return self.step(
            IkeSasListed(at_s=self.now_s, sas=sas, complete=complete, kernel_paths=paths, policy_places=places)
        )

    def installed(self, where: Path, reqid: int = 1, *, outbound: bool = True) -> tuple[Effect, ...]:
        """Charon installed a policy there."""
        return self.step(PolicyInstalled(at_s=self.now_s, reqid=reqid, place=where.addresses, outbound=outbound))

    def roam(self, *addresses: IPAddress) -> tuple[Effect, ...]:
        """These are the addresses now."""
        return self.step(RepositoryChanged(at_s=self.now_s, repository=repository(*addresses)))

    def moved(self, move: MoveStates) -> tuple[Effect, ...]:
        """The kernel did it."""
        return self.step(MoveFinished(at_s=self.now_s, key=move.key, old=move.old, new=move.new, duration_s=0.001))

    def refused(self, move: MoveStates, reason: Reason = Reason.KERNEL_REFUSED) -> tuple[Effect, ...]:
        """It was not done."""
        return self.step(
            MoveRefused(at_s=self.now_s, key=move.key, old=move.old, new=move.new, reason=reason, detail="no")
        )

    def held(
        self,
        source: IPAddress,
        spi: int = SPI_UP,
        packet_id: int | None = None,
        port: int | None = None,
        own: IPAddress = GATEWAY,
    ) -> tuple[Effect, ...]:
        """The packet filter holds a packet to an address of this end, in UDP from `port`."""
        number = next(self._packets) if packet_id is None else packet_id
        return self.step(
            PacketHeld(at_s=self.now_s, packet_id=number, source=source, destination=own, spi=spi, port=port)
        )

    def verified(
        self,
        packet_id: int,
        sequence: int,
        reason: Reason | None = None,
        inner: IPAddress = INNER,
        kernel_highest: int = 0,
    ) -> tuple[Effect, ...]:
        """The verifier answered."""
        return self.step(
            PacketVerified(
                at_s=self.now_s,
                packet_id=packet_id,
                reason=reason,
                sequence=sequence,
                kernel_highest=kernel_highest,
                inner_source=inner,
            )
        )

    def message(self, message: Message, inner: IPAddress = INNER) -> tuple[Effect, ...]:
        """A message came out of the tunnel."""
        return self.step(MessageReceived(at_s=self.now_s, inner=inner, peer=FIRST_SERVER, message=message))

    def expired(self, kind: TimerKind, key: TunnelKey = KEY) -> tuple[Effect, ...]:
        """A timer ran out."""
        return self.step(TimerExpired(at_s=self.now_s, timer=TimerId(key, kind)))

    def greeted(self) -> None:
        """The other end offered the capability."""
        self.message(Hello(nonce=bytes(16), features=Feature.UPDATE | Feature.PATH_CHALLENGE))

    def later(self, delay_s: float) -> None:
        """Time passes."""
        self.now_s += delay_s


def negotiated(role: Role, *, path_validation: bool = True) -> Desk:
    """A Core with the tunnel of KEY, whose other end takes part."""
    desk = Desk(role, path_validation=path_validation)
    desk.listed(ike_sa(role))
    desk.greeted()
    return desk


def with_spis(sa: IkeSa, *spis: tuple[int, int]) -> IkeSa:
    """The same IKE_SA with other CHILD_SAs (up, down)."""
    role = Role.TERMINAL if sa.initiator else Role.GATEWAY
    inner = sa.local_vips or sa.remote_vips
    return replace(sa, children=tuple(child(role, inner, up, down) for up, down in spis))
