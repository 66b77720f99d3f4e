"""Two cores in one process: a terminal and a gateway, with kernel, charon and network played in virtual time.

    terminal (addresses come and go) --- network (delay, jitter, loss) --- gateway

Each host has a Core and what it acts on: states that carry packets with sequence numbers and a replay window, a packet
filter that holds packets of unknown sources, a charon that follows and builds anew, timers and a store. Nothing here
knows how the core decides.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

from swanroam.core.settings import Agreement
from swanroam.core.step import Core
from swanroam.core.tunnel import Tunnel
from swanroam.model.effects import (
    Effect,
    Forget,
    GiveVerdict,
    InformCharon,
    ListIkeSas,
    MoveStates,
    Persist,
    Reestablish,
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
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import ChildSa, IkeSa, Role, TunnelKey
from swanroam.wire.control import decode, encode
from tests.support.values import FIRST_SERVER, GATEWAY, INNER, KEY, PORT, A, ike_sa, nonces, path, repository, settings

FOLLOW_S = 0.05
LIST_S = 0.01
DPD_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """An ESP packet; `forged` is one whose integrity value is wrong."""

    source: IPAddress
    destination: IPAddress
    spi: int
    sequence: int
    inner_source: IPAddress
    inner_destination: IPAddress
    payload: bytes | None
    """A message, or None for other data."""
    forged: bool = False


@dataclass(slots=True)
class State:
    """The two states of a CHILD_SA."""

    child: ChildSa
    path: Path
    sent: int = 0
    highest: int = 0
    received: set[int] = field(default_factory=set)


class Host:
    """One end: its daemon, its kernel and its charon."""

    def __init__(self, world: "World", role: Role, *addresses: IPAddress) -> None:
        self.world, self.role, self.addresses = world, role, addresses
        self.agreement = Agreement.NEGOTIATE
        self.states: dict[int, State] = {}
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
        self.core = Core(settings(self.role, self.agreement), nonces(), PORT)
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
        if remember:
            self.core.remember(self.store.values())
        if self.role is Role.TERMINAL:
            self.see_addresses()
        self.list_sas()

    def kill(self) -> None:
        """End the daemon without notice: held packets go on, and its rules for the packet filter have no effect."""
        self.running = False
        held, self.held, self._timers = self.held, {}, {}
        for packet in held.values():
            self.accept(packet)

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
                self.world.after(FOLLOW_S, lambda: self._follow(effect.new))
            case SendMessage(source=source, destination=destination, message=message):
                self.send(source, destination, encode(message))
            case SendDummy(source=source, destination=destination):
                self.send(source, destination, None)
            case StartTimer(timer=timer, delay_s=delay_s):
                token = self._timers[timer] = object()
                self.world.after(delay_s, lambda: self._expire(timer, token))
            case StopTimer(timer=timer):
                self._timers.pop(timer, None)
            case ListIkeSas():
                self.world.after(LIST_S, self.list_sas)
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
            if state is None or state.path != move.old:
                reason = Reason.KERNEL_REFUSED
                return MoveRefused(at_s=now_s, key=move.key, old=move.old, new=move.new, reason=reason, detail="no")
        for child in move.children:
            self.states[child.spi_in].path = move.new
        self.moves.append((now_s, move.new.remote.address if self.role is Role.GATEWAY else move.new.local.address))
        return MoveFinished(at_s=now_s, key=move.key, old=move.old, new=move.new, duration_s=0.0)

    def _follow(self, new: Path) -> None:
        self.sas = tuple(replace(sa, local=new.local, remote=new.remote) for sa in self.sas)

    def _verify(self, packet_id: int, packet: Packet) -> PacketVerified:
        state = self.states[packet.spi]
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
        self.dispatch(RepositoryChanged(at_s=self.world.now_s, repository=repository(*self.addresses)))

    def list_sas(self) -> None:
        """List all IKE_SAs for the daemon."""
        paths = tuple((spi, state.path) for spi, state in self.states.items())
        self.dispatch(IkeSasListed(at_s=self.world.now_s, sas=self.sas, complete=True, kernel_paths=paths))

    def install(self, sa: IkeSa) -> None:
        """A new IKE_SA with its CHILD_SAs takes the place of all others."""
        former, self.sas = self.sas, (sa,)
        self.states = {child.spi_in: State(child, sa.path) for child in sa.children}
        paths = tuple((spi, state.path) for spi, state in self.states.items())
        for gone in former:
            self.dispatch(IkeSaEnded(at_s=self.world.now_s, unique_id=gone.unique_id))
        self.dispatch(IkeSasListed(at_s=self.world.now_s, sas=self.sas, complete=False, kernel_paths=paths))

    def uninstall(self) -> None:
        """All IKE_SAs are gone."""
        former, self.sas, self.states = self.sas, (), {}
        for gone in former:
            self.dispatch(IkeSaEnded(at_s=self.world.now_s, unique_id=gone.unique_id))

    def rekey(self, children: tuple[ChildSa, ...]) -> None:
        """These CHILD_SAs take the place of those that there are."""
        where = next(iter(self.states.values())).path
        self.sas = tuple(replace(sa, children=children) for sa in self.sas)
        self.states = {child.spi_in: State(child, where) for child in children}
        self.list_sas()

    def send(
        self, source: IPAddress, destination: IPAddress, payload: bytes | None, sequence: int | None = None
    ) -> None:
        """Send through the tunnel; without a state, or without its address, nothing leaves."""
        state = next(iter(self.states.values()), None)
        if state is None or state.path.local.address not in self.addresses:
            return
        state.sent += 1
        packet = Packet(
            source=state.path.local.address,
            destination=state.path.remote.address,
            spi=state.child.spi_out,
            sequence=state.sent if sequence is None else sequence,
            inner_source=source,
            inner_destination=destination,
            payload=payload,
        )
        self.world.transmit(packet)

    def say(self) -> None:
        """Send one data packet."""
        inner = (INNER, FIRST_SERVER) if self.role is Role.TERMINAL else (FIRST_SERVER, INNER)
        self.send(*inner, None)

    def receive(self, packet: Packet) -> None:
        """A packet arrived: the packet filter holds it or lets it through."""
        known = [each for each in self.filter.values() if packet.spi in each.spis and (each.sources or each.waiting)]
        free = [each for each in known if packet.source in (*each.sources, *each.leaving)]
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
            )
        )

    def accept(self, packet: Packet) -> None:
        """The kernel's own judgement, and what comes out of the tunnel."""
        state = self.states.get(packet.spi)
        if state is None or packet.destination != state.path.local.address or packet.forged:
            return
        if packet.sequence in state.received:
            return
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


class World:
    """Time, network, and both hosts. `delay_s` is one way; `loss` the share of packets lost."""

    def __init__(self, *, seed: int = 0, delay_s: float = 0.01, jitter_s: float = 0.0, loss: float = 0.0) -> None:
        self.now_s = 1000.0
        self.delay_s, self.jitter_s, self.loss = delay_s, jitter_s, loss
        self.random = Random(seed)
        self.sent: list[Packet] = []
        """Every packet that was sent, also lost ones: what somebody on the path may see."""
        self.builds = 0
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.terminal = Host(self, Role.TERMINAL, A)
        self.gateway = Host(self, Role.GATEWAY, GATEWAY)
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
        self.sent.append(packet)
        if self.random.random() >= self.loss:
            self.after(self.delay_s + self.jitter_s * self.random.random(), lambda: self.deliver(packet))

    def deliver(self, packet: Packet) -> None:
        """Hand a packet to whoever has its address now."""
        for host in (self.terminal, self.gateway):
            if packet.destination in host.addresses:
                host.receive(packet)

    def roam(self, *addresses: IPAddress) -> None:
        """The terminal has these addresses now, best first."""
        self.terminal.addresses = addresses
        self.terminal.see_addresses()

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
        """Rekey the CHILD_SA, if there is one at both ends."""
        if self.terminal.sas and self.gateway.sas:
            up, down = self._spis()
            self.gateway.rekey(ike_sa(Role.GATEWAY, spis=((up, down),)).children)
            self.terminal.rekey(ike_sa(Role.TERMINAL, spis=((up, down),)).children)

    def build_anew(self, unique_ids: tuple[int, ...]) -> None:
        """What charon does when it is asked to end these IKE_SAs and initiate."""
        if {sa.unique_id for sa in self.terminal.sas} & set(unique_ids):
            self.terminal.uninstall()
        if self.terminal.addresses and not self.terminal.sas:
            self._build(self.terminal.addresses[0])

    def _build(self, outer: IPAddress) -> None:
        self.builds += 1
        number, spis = self.builds, self._spis()
        for host in (self.gateway, self.terminal):
            host.install(ike_sa(host.role, unique_id=number, outer=outer, ike_spis=(number, number), spis=(spis,)))

    def _spis(self) -> tuple[int, int]:
        return self.random.getrandbits(31) + 1, self.random.getrandbits(31) + 1

    def _detect_dead_peer(self) -> None:
        """Charon's own means: what it believes cannot carry is built anew."""
        self.after(DPD_S, self._detect_dead_peer)
        believed = {sa.local.address for sa in self.terminal.sas}
        if not believed & set(self.terminal.addresses):
            self.build_anew(tuple(sa.unique_id for sa in self.terminal.sas))

    def agreed(self) -> bool:
        """Whether both ends, in daemon and in kernel, have the tunnel at the same place, and wait for nothing."""
        terminal, gateway = self.terminal.core.table.get(KEY), self.gateway.core.table.get(KEY)
        if terminal is None or gateway is None or not self.terminal.addresses:
            return False
        here = Endpoint(self.terminal.addresses[0], 500)
        return (
            terminal.path.local == gateway.path.remote == here
            and all(state.path == terminal.path for state in self.terminal.states.values())
            and all(state.path == gateway.path for state in self.gateway.states.values())
            and terminal.capability.allows_moves
            and gateway.capability.allows_moves
            and terminal.phase == gateway.phase == "steady"
        )
