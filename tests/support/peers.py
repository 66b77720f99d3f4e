"""Two cores in one process: a terminal and a gateway, with kernel, charon and network played in virtual time.

    terminal (addresses come and go) --- [NAT] --- network (delay, jitter, loss) --- gateway

Each host has a Core and what it acts on: states that carry packets with sequence numbers and a replay window, and take
none in another form than their own (plain, or in UDP); a packet filter that holds packets of unknown origins; a charon
that follows, builds anew and knows of NATs only what it found when it set an IKE_SA up; timers and a store. Nothing
here knows how the core decides.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

from swanroam.core.settings import Agreement
from swanroam.core.step import Core
from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import (
    AlignStates,
    DropAddress,
    Effect,
    Forget,
    GiveVerdict,
    InformCharon,
    KeepAddress,
    ListIkeSas,
    MoveStates,
    Persist,
    Reestablish,
    RemindCharon,
    SendDummy,
    SendMessage,
    StartTimer,
    StopTimer,
    Unwatch,
    VerifyPacket,
    Watch,
)
from swanroam.model.events import (
    Event,
    IkeSaEnded,
    IkeSasListed,
    MessageReceived,
    MoveFinished,
    MoveRefused,
    PacketHeld,
    PacketVerified,
    Reason,
    RepositoryChanged,
    TimerExpired,
    TimerId,
)
from swanroam.model.messages import Message
from swanroam.model.path import FORGOTTEN_PORT, Endpoint, IPAddress, Origin, Path
from swanroam.model.tunnel import ChildSa, IkeSa, Role, TunnelKey
from swanroam.wire.control import decode, encode
from tests.support.network import Network, Packet
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    KEY,
    PORT,
    A,
    homes,
    ike_sa,
    in_udp,
    nonces,
    path,
    repository,
    settings,
)
from tests.support.values import child as child_sa

__all__ = ["DPD_S", "FOLLOW_S", "LINGER_S", "LIST_S", "Host", "Packet", "State", "World"]

FOLLOW_S = 0.05
LIST_S = 0.01
DPD_S = 30.0
LINGER_S = 5.0
"""How long a rekeyed CHILD_SA receives (charon.delete_rekeyed_delay)."""
SEND_RETRY_S, SEND_RETRY_FOR_S = 0.01, 0.15
IKE_PORT, NATT_PORT = 500, 4500


@dataclass(slots=True)
class State:
    """The two states of a CHILD_SA."""

    child: ChildSa
    path: Path
    """Of the inbound one."""
    out: Path
    """Of the outbound one."""
    charon: Path
    """Where charon has both: it finds a state by its destination there."""
    silent: bool = False
    """The outbound one sends nothing for the time being."""
    reminded: bool = False
    """The inbound one has no port, so that the next packet is reported."""
    retired: bool = False
    """The outbound one is gone: the CHILD_SA was rekeyed."""
    sent: int = 0
    highest: int = 0
    received: set[int] = field(default_factory=set)


class Host:
    """One end: its daemon, its kernel and its charon."""

    def __init__(self, world: "World", role: Role, *addresses: IPAddress) -> None:
        self.world, self.role, self.addresses = world, role, addresses
        self.agreement = Agreement.NEGOTIATE
        self.states: dict[int, State] = {}
        self.kept: tuple[IPAddress, IPAddress] | None = None
        """An address that states and charon go on with, and the one that it is rewritten to."""
        self.sas: tuple[IkeSa, ...] = ()
        self.store: dict[TunnelKey, tuple[Tunnel, frozenset[int]]] = {}
        self.data: list[tuple[float, int]] = []
        """When which data packet arrived."""
        self.effects: list[tuple[float, Effect]] = []
        """All that was done and when, in order."""
        self.moves: list[tuple[float, IPAddress]] = []
        self.running = False
        self._begin()

    def _begin(self) -> None:
        mobike = False if self.world.network.translators else None
        self.core = Core(settings(self.role, self.agreement, mobike=mobike), nonces(), PORT)
        self.filter: dict[TunnelKey, Watch] = {}
        self.held: dict[int, Packet] = {}
        self._timers: dict[TimerId, object] = {}
        self._events: deque[Event] = deque()
        self._busy = False
        self._numbers = count(1)

    @property
    def tunnel(self) -> Tunnel:
        """The tunnel of KEY."""
        tunnel = self.core.table.get(KEY)
        assert tunnel is not None
        return tunnel

    def start(self, *, remember: bool) -> None:
        """Start the daemon, with or without what the last one stored."""
        self._begin()
        self.running = True
        self.kept = None
        for state in self.states.values():
            state.silent = False
        if remember:
            self.core.remember(self.store.values())
        self.see_addresses()
        self.list_sas()

    def kill(self) -> None:
        """End the daemon without notice: held packets go on, and its rules for the packet filter have no effect."""
        self.running = False
        held, self.held, self._timers = self.held, {}, {}
        for packet in held.values():
            self.accept(packet)

    def stop(self) -> None:
        """End the daemon in good order."""
        for effect in self.core.leave():
            self._perform(effect)
        self.kill()

    def dispatch(self, event: Event) -> None:
        """Hand an event to the core and do what follows from it."""
        if not self.running:
            return
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        while self._events:
            for effect in self.core.step(self._events.popleft()):
                self.effects.append((self.world.now_s, effect))
                self._perform(effect)
        self._busy = False

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Watch(key=key):
                self.filter[key] = effect
            case Unwatch(key=key):
                self.filter.pop(key, None)
            case VerifyPacket(packet_id=packet_id):
                self._events.append(self._verify(packet_id, self.held[packet_id]))
            case GiveVerdict(packet_id=packet_id):
                self.accept(self.held.pop(packet_id))
            case MoveStates():
                self._events.append(self._move(effect))
            case InformCharon():
                for state in self._states_of(effect.children) if effect.silent else ():
                    state.silent = True
                self.world.after(FOLLOW_S, lambda: self._follow(effect.new))
            case RemindCharon():
                for state in self._states_of(effect.children):
                    state.reminded = True
            case AlignStates(path=aligned):
                for state in self._states_of(effect.children):
                    if state.path.local.address in (aligned.local.address, effect.old.local.address):
                        state.path, state.reminded = aligned, False
                    if state.out.remote.address in (aligned.remote.address, effect.old.remote.address):
                        state.out, state.silent = aligned, False
            case KeepAddress():
                self.kept = None if effect.new.local.address == effect.kept else (effect.kept, effect.new.local.address)
                finished = MoveFinished(
                    at_s=self.world.now_s, key=effect.key, old=effect.old, new=effect.new, duration_s=0.0
                )
                self._events.append(finished)
            case DropAddress():
                self.kept = None
            case SendMessage(source=source, destination=destination, message=message):
                self._send(source, destination, encode(message))
            case SendDummy(source=source, destination=destination):
                self._send(source, destination, None)
            case StartTimer(timer=timer, delay_s=delay_s):
                token = self._timers[timer] = object()
                self.world.after(delay_s, lambda: self._expire(timer, token))
            case StopTimer(timer=timer):
                self._timers.pop(timer, None)
            case ListIkeSas(unique_ids=unique_ids):
                self.world.after(LIST_S, lambda: self.list_sas(unique_ids))
            case Reestablish():
                self.world.after(LIST_S, lambda: self.world.build_anew(effect.unique_ids))
            case Persist(key=key):
                self._persist(key)
            case Forget(key=key):
                self.store.pop(key, None)
            case _:
                pass

    def _expire(self, timer: TimerId, token: object) -> None:
        if self._timers.get(timer) is token:
            del self._timers[timer]
            self.dispatch(TimerExpired(at_s=self.world.now_s, timer=timer))

    def _persist(self, key: TunnelKey) -> None:
        if (tunnel := self.core.table.get(key)) is not None:
            known = Tunnel(
                key=key,
                role=self.role,
                sas=(),
                path=path(self.role),
                capability=tunnel.capability,
                highest=tunnel.highest,
                update_sequence=tunnel.update_sequence,
                moves=tunnel.moves,
                last_move=tunnel.last_move,
            )
            self.store[key] = (known, frozenset(tunnel.spis))

    def _move(self, move: MoveStates) -> MoveFinished | MoveRefused:
        now_s = self.world.now_s
        for child in move.children:
            state = self.states.get(child.spi_in)
            if state is None or state.path.addresses not in (move.old.addresses, move.new.addresses):
                reason = Reason.KERNEL_REFUSED
                return MoveRefused(at_s=now_s, key=move.key, old=move.old, new=move.new, reason=reason, detail="no")
        for state in self._states_of(move.children):
            state.path = state.out = move.new
            state.reminded = False
        self.moves.append((now_s, move.new.remote.address if self.role is Role.GATEWAY else move.new.local.address))
        return MoveFinished(at_s=now_s, key=move.key, old=move.old, new=move.new, duration_s=0.0)

    def is_at(self, where: Path) -> bool:
        """Whether all states are there."""
        return all(
            state.path == where and (state.retired or (state.out == where and not state.silent))
            for state in self.states.values()
        )

    def carries(self, sa: IkeSa) -> bool:
        """Whether the daemon sends this IKE_SA's messages with ESP in UDP."""
        tunnel = self.core.table.by_ike_spi(sa.initiator_spi)
        return self.running and tunnel is not None and tunnel.carries_ike

    def _states_of(self, children: Iterable[ChildSa]) -> list[State]:
        return [self.states[child.spi_in] for child in children if child.spi_in in self.states]

    # charon

    def _follow(self, new: Path) -> None:
        """It was told of addresses, and takes the ports of IKE."""
        local, remote = (Endpoint(address, IKE_PORT) for address in new.addresses)
        self.sas = tuple(replace(sa, local=local, remote=remote) for sa in self.sas)
        self._update()

    def hear(self, unique_id: int, seen: Endpoint) -> None:
        """An IKE message came from elsewhere: without MOBIKE that is believed at once (ike_sa.c, update_hosts)."""
        if any(sa.unique_id == unique_id and sa.remote != seen for sa in self.sas):
            self.sas = tuple(replace(sa, remote=seen) if sa.unique_id == unique_id else sa for sa in self.sas)
            self._update()

    def _mapped(self, spi: int, seen: Endpoint) -> None:
        """The kernel reported another source of ESP in UDP: believed where a NAT was found there."""
        for sa in self.sas:
            if sa.nat_remote and not sa.nat_local and any(child.spi_in == spi for child in sa.children):
                self.sas = tuple(replace(each, remote=seen) if each is sa else each for each in self.sas)
                self._update()

    def _update(self) -> None:
        """Its states go where it believes the ends to be (child_sa.c, update), in UDP only where it found a NAT.

        One that the daemon has moved to another destination it does not find.
        """
        for sa in self.sas:
            where = believed(sa)
            for state in self._states_of(sa.children):
                if state.charon == where:
                    continue
                if state.path.local.address == state.charon.local.address:
                    state.path, state.reminded = where, False
                if state.out.remote.address == state.charon.remote.address:
                    state.out = where
                state.charon = where

    def _verify(self, packet_id: int, packet: Packet) -> PacketVerified:
        state = self.states.get(packet.spi)
        if state is None:
            return PacketVerified(at_s=self.world.now_s, packet_id=packet_id, reason=Reason.UNKNOWN_SPI)
        reason = Reason.REPLAYED if packet.sequence in state.received else None
        return PacketVerified(
            at_s=self.world.now_s,
            packet_id=packet_id,
            reason=Reason.BAD_ICV if packet.forged else reason,
            sequence=packet.sequence,
            kernel_highest=state.highest,
            inner_source=packet.inner_source,
        )

    def see_addresses(self) -> None:
        """Tell the daemon of the addresses that there are."""
        there = repository if self.role is Role.TERMINAL else homes
        self.dispatch(RepositoryChanged(at_s=self.world.now_s, repository=there(*self.addresses)))

    def list_sas(self, unique_ids: tuple[int, ...] = ()) -> None:
        """List IKE_SAs for the daemon, all where none are named."""
        found = tuple(sa for sa in self.sas if not unique_ids or sa.unique_id in unique_ids)
        self._tell(found, complete=not unique_ids, asked=unique_ids)

    def _tell(self, sas: tuple[IkeSa, ...], *, complete: bool = False, asked: tuple[int, ...] = ()) -> None:
        paths = []
        for state in self._states_of(child for sa in sas for child in sa.children):
            where = state.path
            if state.reminded:
                where = replace(where, remote=replace(where.remote, port=FORGOTTEN_PORT))
            paths.append((state.child.spi_in, where))
        self.dispatch(
            IkeSasListed(at_s=self.world.now_s, sas=sas, complete=complete, asked=asked, kernel_paths=tuple(paths))
        )

    def install(self, sa: IkeSa) -> None:
        """A new IKE_SA with its CHILD_SAs takes the place of all others."""
        former, self.sas = self.sas, (sa,)
        self.states = {child.spi_in: state_at(child, believed(sa)) for child in sa.children}
        for gone in former:
            self.dispatch(IkeSaEnded(at_s=self.world.now_s, unique_id=gone.unique_id))
        self._tell(self.sas)

    def remove(self, unique_id: int) -> None:
        """An IKE_SA is gone."""
        gone = {child.spi_in for sa in self.sas if sa.unique_id == unique_id for child in sa.children}
        self.sas = tuple(sa for sa in self.sas if sa.unique_id != unique_id)
        self.states = {spi: state for spi, state in self.states.items() if spi not in gone}
        self.dispatch(IkeSaEnded(at_s=self.world.now_s, unique_id=unique_id))

    def uninstall(self) -> None:
        """All IKE_SAs are gone."""
        for sa in self.sas:
            self.remove(sa.unique_id)

    def rekey(self, up: int, down: int) -> None:
        """A CHILD_SA takes the place of those of the last IKE_SA, which are there for a while yet."""
        sa = self.sas[-1]
        new = replace(child_sa(self.role, up=up, down=down), encap=natted(sa))
        where = next(reversed(self.states.values())).path
        if where.addresses == believed(sa).addresses or not natted(sa):
            where = Path(*(Endpoint(address, IKE_PORT) for address in where.addresses))
        if where.addresses == believed(sa).addresses:
            where = believed(sa)
        old = tuple(replace(child, state="REKEYED") for child in sa.children)
        self.sas = (*self.sas[:-1], replace(sa, children=(*old, new)))
        for state in self._states_of(old):
            state.retired = True
        self.states[new.spi_in] = state_at(new, where)
        self.world.after(LINGER_S, lambda: self._retire(sa.unique_id, {child.spi_in for child in old}))
        self.list_sas()

    def _retire(self, unique_id: int, spis: set[int]) -> None:
        """Rekeyed CHILD_SAs are gone, and nobody says so."""
        for sa in self.sas:
            if sa.unique_id == unique_id:
                left = tuple(child for child in sa.children if child.spi_in not in spis)
                self.sas = tuple(replace(each, children=left) if each is sa else each for each in self.sas)
                self.states = {spi: state for spi, state in self.states.items() if spi not in spis}

    def _send(self, source: IPAddress, destination: IPAddress, payload: bytes | None, waited_s: float = 0.0) -> None:
        state = next(reversed(self.states.values()), None)
        if state is None or not state.silent:
            self.send(source, destination, payload)
        elif waited_s < SEND_RETRY_FOR_S:
            self.world.after(SEND_RETRY_S, lambda: self._send(source, destination, payload, waited_s + SEND_RETRY_S))

    def send(
        self, source: IPAddress, destination: IPAddress, payload: bytes | None, sequence: int | None = None
    ) -> None:
        """Send through the tunnel; without a state, or without its address, nothing leaves."""
        state = next(reversed(self.states.values()), None)
        if state is None or state.silent:
            return
        source_now = self.kept[1] if self.kept and self.kept[0] == state.out.local.address else state.out.local.address
        if source_now not in self.addresses:
            return
        state.sent += 1
        packet = Packet(
            source=source_now,
            destination=state.out.remote.address,
            spi=state.child.spi_out,
            sequence=state.sent if sequence is None else sequence,
            inner_source=source,
            inner_destination=destination,
            payload=payload,
            ports=(state.out.local.port, state.out.remote.port) if state.out.encap else None,
        )
        self.world.transmit(packet)

    def say(self) -> None:
        """Send one data packet."""
        inner = (INNER, FIRST_SERVER) if self.role is Role.TERMINAL else (FIRST_SERVER, INNER)
        self.send(*inner, None)

    def receive(self, packet: Packet) -> None:
        """A packet arrived: the packet filter holds it or lets it through."""
        known = [each for each in self.filter.values() if packet.spi in each.spis and (each.sources or each.waiting)]
        origin: Origin = Endpoint(packet.source, packet.ports[0]) if packet.ports else packet.source
        free = [each for each in known if origin in (*each.sources, *each.leaving) and packet.destination in each.own]
        if not self.running or not known or free:
            self.accept(packet)
            return
        number = next(self._numbers)
        self.held[number] = packet
        self.dispatch(
            PacketHeld(
                at_s=self.world.now_s,
                packet_id=number,
                source=packet.source,
                destination=packet.destination,
                spi=packet.spi,
                port=packet.ports[0] if packet.ports else None,
            )
        )

    def accept(self, packet: Packet) -> None:
        """The kernel's own judgement, and what comes out of the tunnel."""
        if self.kept and self.kept[1] == packet.destination:
            packet = replace(packet, destination=self.kept[0])
        state = self.states.get(packet.spi)
        if state is None or packet.destination != state.path.local.address or packet.forged:
            return
        if packet.sequence in state.received:
            return
        if state.path.encap != (packet.ports is not None) or (packet.ports and packet.ports[1] != NATT_PORT):
            return
        if packet.ports and (state.reminded or state.path.remote != Endpoint(packet.source, packet.ports[0])):
            seen = Endpoint(packet.source, packet.ports[0])
            self.world.after(FOLLOW_S, lambda: self._mapped(packet.spi, seen))
        state.received.add(packet.sequence)
        state.highest = max(state.highest, packet.sequence)
        if packet.payload is None:
            self.data.append((self.world.now_s, packet.sequence))
            return
        message: Message = decode(packet.payload)
        gateway = self.role is Role.GATEWAY
        inner, peer = packet.inner_source, packet.inner_destination
        if not gateway:
            inner, peer = peer, inner
        self.dispatch(MessageReceived(at_s=self.world.now_s, inner=inner, peer=peer, message=message))


def state_at(child: ChildSa, where: Path) -> State:
    """States that charon has just installed."""
    return State(child, path=where, out=where, charon=where)


def natted(sa: IkeSa) -> bool:
    """Whether charon found a NAT when it set this IKE_SA up."""
    return sa.nat_local or sa.nat_remote


def believed(sa: IkeSa) -> Path:
    """Where charon installs states of this IKE_SA."""
    if natted(sa):
        return Path(sa.local, sa.remote, encap=True)
    return Path(Endpoint(sa.local.address, IKE_PORT), Endpoint(sa.remote.address, IKE_PORT))


class World:
    """Time, network, and both hosts. `delay_s` is one way; `loss` the share of packets lost.

    `nats`: public address of the NAT before each address of the terminal that is behind one. `gateways`: the addresses
    of the gateway, of which the terminal's charon knows the first.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delay_s: float = 0.01,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        nats: Mapping[IPAddress, IPAddress] | None = None,
        gateways: tuple[IPAddress, ...] = (GATEWAY,),
    ) -> None:
        self.now_s = 1000.0
        self.delay_s, self.jitter_s, self.loss = delay_s, jitter_s, loss
        self.random = Random(seed)
        self.network = Network(self.random, nats)
        self.silent: frozenset[IPAddress] = frozenset()
        """What is sent to these addresses, or from them, is lost."""
        self.sent: list[Packet] = []
        """Every packet that was sent, also lost ones: what somebody on the path may see."""
        self.builds = 0
        self._numbers = count(1)
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.terminal = Host(self, Role.TERMINAL, A)
        self.gateway = Host(self, Role.GATEWAY, *gateways)
        self._build(A)
        self.gateway.start(remember=False)
        self.terminal.start(remember=False)
        self.after(DPD_S, self._detect_dead_peer)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._plan, (self.now_s + delay_s, next(self._order), action))

    def run(self, duration_s: float) -> None:
        """Let time pass."""
        end_s = self.now_s + duration_s
        while self._plan and self._plan[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(self._plan)
            action()
        self.now_s = end_s

    def until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Let time pass until something is true; returns how long that took."""
        began_s = self.now_s
        while not condition():
            assert self._plan
            assert self._plan[0][0] <= began_s + limit_s, f"not within {limit_s} s"
            self.now_s, _, action = heapq.heappop(self._plan)
            action()
        return self.now_s - began_s

    def transmit(self, packet: Packet) -> None:
        """Carry a packet, or lose it."""
        outside = self.network.outward(packet)
        if outside is None:
            return
        packet = outside
        self.sent.append(packet)
        if self.silent & {packet.source, packet.destination}:
            return
        if self.random.random() >= self.loss:
            self.after(self.delay_s + self.jitter_s * self.random.random(), lambda: self.deliver(packet))

    def deliver(self, packet: Packet) -> None:
        """Hand a packet to whoever has its address now."""
        inside = self.network.inward(packet)
        if inside is None:
            return
        packet = inside
        for host in (self.terminal, self.gateway):
            if packet.destination in host.addresses:
                host.receive(packet)

    def roam(self, *addresses: IPAddress) -> None:
        """The terminal has these addresses now, best first."""
        self.terminal.addresses = addresses
        self.terminal.see_addresses()

    def renumber(self, *addresses: IPAddress) -> None:
        """The gateway has these addresses now, best first."""
        self.gateway.addresses = addresses
        self.gateway.see_addresses()

    def stream(self, hosts: Iterable[Host], interval_s: float, duration_s: float) -> None:
        """Send data at fixed intervals."""
        for host in hosts:
            for number in range(int(duration_s / interval_s)):
                self.after(number * interval_s, host.say)

    def restart(self, host: Host, down_s: float, *, remember: bool) -> None:
        """End the daemon without notice, and start it again."""
        host.kill()
        self.after(down_s, lambda: host.start(remember=remember))

    def rekey(self) -> None:
        """The terminal rekeys the CHILD_SA, if there is one at both ends."""
        if self.terminal.sas and self.gateway.sas:
            self._speak_ike(self.terminal.sas[-1])
            up, down = self._spis()
            self.gateway.rekey(up, down)
            self.terminal.rekey(up, down)

    def build_anew(self, unique_ids: tuple[int, ...]) -> None:
        """What charon does when it is asked to end these IKE_SAs and initiate."""
        if {sa.unique_id for sa in self.terminal.sas} & set(unique_ids):
            self.terminal.uninstall()
        if self.terminal.addresses and not self.terminal.sas:
            self._build(self.terminal.addresses[0])

    def _speak_ike(self, sa: IkeSa) -> None:
        """A message of the terminal's charon gets to the gateway's, if it is where it believes to be."""
        here = self._reaches(sa.local.address)
        if here is None:
            return
        seen = self.network.seen(Endpoint(here, NATT_PORT if self.terminal.carries(sa) else sa.local.port))
        if self.terminal.carries(sa) and self.gateway.carries(sa):
            return  # it comes from where the gateway's charon believes the terminal to be
        self.gateway.hear(sa.unique_id, seen)

    def _reaches(self, believes: IPAddress) -> IPAddress | None:
        """Where messages of a charon that believes to be at this address leave the terminal, if they do."""
        kept = self.terminal.kept
        here = kept[1] if kept and kept[0] == believes else believes
        return here if here in self.terminal.addresses else None

    def _build(self, outer: IPAddress) -> None:
        self.builds += 1
        for host, sa in self._new_sas(outer):
            host.install(sa)

    def _new_sas(self, outer: IPAddress) -> list[tuple[Host, IkeSa]]:
        number, spis = next(self._numbers), self._spis()
        found = []
        for host in (self.gateway, self.terminal):
            sa = ike_sa(host.role, unique_id=number, outer=outer, ike_spis=(number, number), spis=(spis,))
            if outer in self.network.translators:
                inside = Endpoint(outer, NATT_PORT)
                sa = in_udp(sa, self.network.seen(inside), inside)
            found.append((host, sa))
        return found

    def _spis(self) -> tuple[int, int]:
        return self.random.getrandbits(31) + 1, self.random.getrandbits(31) + 1

    def _detect_dead_peer(self) -> None:
        """Charon's own means: what it believes cannot carry is built anew."""
        self.after(DPD_S, self._detect_dead_peer)
        if not any(self._reaches(sa.local.address) for sa in self.terminal.sas):
            self.build_anew(tuple(sa.unique_id for sa in self.terminal.sas))

    def agreed(self) -> bool:
        """Whether both ends, in daemon and in kernel, have the tunnel at the same place, and wait for nothing."""
        terminal, gateway = self.terminal.core.table.get(KEY), self.gateway.core.table.get(KEY)
        if terminal is None or gateway is None or not self.terminal.addresses:
            return False
        here = seen = Endpoint(terminal.here, terminal.path.local.port)
        if terminal.path.encap:
            seen = self.network.seen(here)
        elif here.address in self.network.translators:
            return False
        return (
            here.address == self.terminal.addresses[0]
            and gateway.path.remote == seen
            and gateway.path.local.address == terminal.path.remote.address
            and gateway.path.encap == terminal.path.encap
            and self.terminal.kept == ((terminal.path.local.address, terminal.actual) if terminal.actual else None)
            and self.terminal.is_at(terminal.path)
            and self.gateway.is_at(gateway.path)
            and terminal.capability.allows_moves
            and gateway.capability.allows_moves
            and terminal.phase == gateway.phase == "steady"
        )

    def charons_reach_each_other(self) -> bool:
        """Whether IKE gets to the terminal from where the gateway's charon believes it to be, and back."""
        (terminal,), (gateway,) = self.terminal.sas, self.gateway.sas
        here = self._reaches(terminal.local.address)
        if here is None or here != self.terminal.addresses[0]:
            return False
        if self.terminal.carries(terminal) or self.gateway.carries(gateway):
            there = self.network.seen(Endpoint(here, NATT_PORT)).address == gateway.remote.address
            return there and self.terminal.carries(terminal) and self.gateway.carries(gateway)
        return gateway.remote == self.network.seen(Endpoint(here, terminal.local.port))
