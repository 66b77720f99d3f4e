"""The core, driven by whatever may happen in whatever order.

The machine plays charon, kernel, packet filter, network, operator and both good and bad peers. It answers what the core
asks for, at any time later, and holds after every step:

- step() does not raise, and a packet gets one verdict at most; when all is answered, each has got its own;
- a tunnel moves from where it is, one move at a time, and only with the capability; on a gateway only for a packet that
  was authentic, newer than all before, of that tunnel and from a source that may be one, or back to a validated path;
- indices, the packet filter and the timers agree with the tunnels.
"""

from ipaddress import IPv4Address

from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swanroam.core import gateway
from swanroam.core.following import DEADLINE_S, LOOK_S
from swanroam.core.settings import Agreement
from swanroam.core.step import Core
from swanroam.core.tunnel import Phase, Tunnel
from swanroam.model.effects import (
    Effect,
    GiveVerdict,
    MoveStates,
    StartTimer,
    StopTimer,
    Trigger,
    Unwatch,
    VerifyPacket,
    Watch,
)
from swanroam.model.events import (
    CharonLost,
    Event,
    IkeSaEnded,
    IkeSasListed,
    MessageMalformed,
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
from swanroam.model.messages import (
    Feature,
    GatewayMoved,
    GatewayMovedAck,
    Goodbye,
    Hello,
    HelloAck,
    Message,
    PathChallenge,
    PathResponse,
    Refusal,
    Refuse,
    Update,
    UpdateAck,
)
from swanroam.model.path import Endpoint, IPAddress
from swanroam.model.tunnel import Capability, IkeSa, Role, TunnelKey
from tests.support.values import (
    FIRST_SERVER,
    GATEWAY,
    INNER,
    OTHER_INNER,
    PORT,
    SECOND,
    A,
    B,
    C,
    homes,
    ike_sa,
    nonces,
    path,
    repository,
    settings,
)

OUTER = (A, B, C)
HOMES = (GATEWAY, SECOND)
SOURCES = (*OUTER, GATEWAY, INNER, IPv4Address("224.0.0.1"), IPv4Address("127.0.0.1"))
INNERS: tuple[tuple[IPAddress, ...], ...] = ((INNER,), (OTHER_INNER,), (INNER, OTHER_INNER))
SPIS = tuple(range(1, 6))
KEYS = tuple(TunnelKey(name, inner) for name in ("home", "work") for inner in INNERS)
TIMERS = tuple(TimerId(key, kind) for key in KEYS for kind in TimerKind)
WAITS = {
    Phase.UPDATING: TimerKind.UPDATE,
    Phase.VALIDATING: TimerKind.VALIDATION,
    Phase.ABANDONED: TimerKind.REESTABLISH,
}
"""What has to be running in each phase, so that no tunnel waits for ever."""


@st.composite
def listed_sas(draw: st.DrawFn, role: Role) -> tuple[IkeSa, ...]:
    """What charon may list: SPIs and identifiers are unique, as the kernel and charon make them."""
    ids = draw(st.lists(st.integers(1, 4), max_size=3, unique=True))
    spis = list(draw(st.permutations(SPIS)))
    return tuple(
        ike_sa(
            role,
            unique_id=number,
            name=draw(st.sampled_from(("home", "home", "home", "work"))),
            outer=draw(st.sampled_from(OUTER)),
            inner=draw(st.sampled_from((INNERS[0], *INNERS))),
            ike_spis=(number, draw(st.sampled_from((1, 1, 2)))),
            spis=[(spi, spi) for spi in (spis.pop() for _ in range(draw(st.integers(0, 2)) if len(spis) > 1 else 0))],
            state=draw(st.sampled_from(("ESTABLISHED", "ESTABLISHED", "ESTABLISHED", "REKEYING", "DELETING"))),
        )
        for number in ids
    )


class Machine(RuleBasedStateMachine):
    """Everything around a Core, and what has to hold."""

    role: Role

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.core = Core(settings(self.role), nonces(), PORT)
        self.homes: list[IPAddress] = []
        """Addresses that the gateway has."""
        self.told: set[IPAddress] = set()
        """Addresses of the gateway that the terminal was told."""
        self.held: dict[int, PacketHeld] = {}
        self.to_verify: list[int] = []
        self.verified: dict[int, PacketVerified] = {}
        self.verdicts: list[int] = []
        self.to_move: list[MoveStates] = []
        self.highest: dict[tuple[TunnelKey, int], int] = {}
        self.timers: set[TimerId] = set()
        self.filter: dict[TunnelKey, Watch] = {}
        self.nonces: list[bytes] = [bytes(16)]

    def do(self, event: Event) -> None:
        """One step, and what it does to the world."""
        self.take(self.core.step(event))

    def take(self, effects: tuple[Effect, ...]) -> None:
        """Carry out, in order."""
        for effect in effects:
            match effect:
                case GiveVerdict(packet_id=packet_id):
                    assert packet_id in self.held
                    assert packet_id not in self.verdicts
                    assert packet_id not in self.to_verify
                    self.verdicts.append(packet_id)
                case VerifyPacket(packet_id=packet_id):
                    self.to_verify.append(packet_id)
                case MoveStates():
                    self.check(effect)
                    self.to_move.append(effect)
                case StartTimer(timer=timer, delay_s=delay_s):
                    # charon may be told at once; all others start themselves again.
                    assert delay_s > 0 or (delay_s == 0 and timer.kind is TimerKind.INFORM)
                    self.timers.add(timer)
                case StopTimer(timer=timer):
                    self.timers.discard(timer)
                case Watch(key=key):
                    self.filter[key] = effect
                case Unwatch(key=key):
                    self.filter.pop(key, None)
                case _:
                    message = getattr(effect, "message", None)
                    if nonce := getattr(message, "nonce", None):
                        self.nonces.append(nonce)

    def check(self, move: MoveStates) -> None:
        """Whether this move may be made."""
        tunnel = self.core.table.get(move.key)
        assert tunnel is not None
        outstanding = [other for other in self.to_move if other.key == move.key]
        assert self.core._flights.answers_due(move.key) == len(outstanding) + 1
        assert move.old == tunnel.path != move.new
        assert move.children == tunnel.children != ()
        if move.new == tunnel.validated_path and tunnel.phase is Phase.VALIDATING and not tunnel.nonce:
            return
        assert tunnel.capability.allows_moves
        if move.trigger is Trigger.GATEWAY:
            self.check_of_addresses(move)
            return
        if self.role is Role.TERMINAL:
            return
        reasons = [
            packet_id
            for packet_id, packet in self.verified.items()
            if packet_id not in self.verdicts and self.held[packet_id].source == move.new.remote.address
            if self.core.table.by_spi(self.held[packet_id].spi) == tunnel and self.may_move(tunnel, packet)
        ]
        assert reasons
        assert move.new.remote.address in OUTER
        for packet_id in reasons[:1]:
            spi = self.held[packet_id].spi
            self.highest[move.key, spi] = self.verified[packet_id].sequence

    def check_of_addresses(self, move: MoveStates) -> None:
        """Whether it is the gateway's address that this move changes, and to one that it has, or that was told."""
        if self.role is Role.TERMINAL:
            assert move.new.remote.address in (GATEWAY, *self.told)
        else:
            assert move.new.remote == move.old.remote
            assert move.old.local.address not in self.homes
            assert move.new.local.address in self.homes

    def may_move(self, tunnel: Tunnel, packet: PacketVerified) -> bool:
        """The guard's rule, said once more."""
        spi = self.held[packet.packet_id].spi
        newest = max(packet.kernel_highest, self.highest.get((tunnel.key, spi), 0))
        return packet.reason is None and packet.sequence > newest and packet.inner_source in tunnel.key.inner

    @rule(data=st.data(), complete=st.booleans(), asked=st.lists(st.integers(1, 4)), aware=st.booleans())
    def list_sas(self, data: st.DataObject, complete: bool, asked: list[int], aware: bool) -> None:
        sas = data.draw(listed_sas(self.role))
        paths = tuple((child.spi_in, sa.path) for sa in sas for child in sa.children) if aware else ()
        self.highest = {}
        wanted = tuple(asked)
        self.do(IkeSasListed(at_s=self.now_s, sas=sas, complete=complete, asked=wanted, kernel_paths=paths))

    @rule(moved=st.sampled_from(OUTER), left=st.sampled_from(OUTER))
    def list_the_same_again(self, moved: IPAddress, left: IPAddress) -> None:
        sas = tuple(sa for tunnel in self.core.table for sa in tunnel.sas)
        paths = tuple((child.spi_in, path(self.role, moved)) for sa in sas for child in sa.children)
        places = tuple((reqid, path(self.role, left).addresses) for reqid in (1, 2))
        self.do(IkeSasListed(at_s=self.now_s, sas=sas, complete=True, kernel_paths=paths, policy_places=places))

    @rule(number=st.integers(1, 4))
    def end(self, number: int) -> None:
        self.do(IkeSaEnded(at_s=self.now_s, unique_id=number))

    @rule()
    def lose_charon(self) -> None:
        self.do(CharonLost(at_s=self.now_s))

    @rule(addresses=st.lists(st.sampled_from(OUTER), unique=True), own=st.lists(st.sampled_from(HOMES), unique=True))
    def roam(self, addresses: list[IPAddress], own: list[IPAddress]) -> None:
        self.homes = own
        there = repository(*addresses) if self.role is Role.TERMINAL else homes(*own)
        self.do(RepositoryChanged(at_s=self.now_s, repository=there))

    @rule(source=st.sampled_from((*OUTER, *SOURCES)), spi=st.integers(1, 6), own=st.sampled_from(HOMES))
    def hold(self, source: IPAddress, spi: int, own: IPAddress) -> None:
        number = len(self.held) + 1
        self.held[number] = PacketHeld(at_s=self.now_s, packet_id=number, source=source, destination=own, spi=spi)
        self.do(self.held[number])

    @precondition(lambda self: self.to_verify)
    @rule(
        data=st.data(),
        reason=st.sampled_from((None, None, None, Reason.BAD_ICV, Reason.REPLAYED)),
        sequence=st.integers(0, 30),
        kernel=st.integers(0, 20),
        inner=st.sampled_from((INNER, INNER, OTHER_INNER, None)),
    )
    def verify(
        self, data: st.DataObject, reason: Reason | None, sequence: int, kernel: int, inner: IPAddress | None
    ) -> None:
        number = data.draw(st.sampled_from(self.to_verify))
        self.to_verify.remove(number)
        self.verified[number] = PacketVerified(
            at_s=self.now_s,
            packet_id=number,
            reason=reason,
            sequence=sequence,
            kernel_highest=kernel,
            inner_source=inner,
        )
        self.do(self.verified[number])

    @precondition(lambda self: self.to_move)
    @rule(data=st.data(), reason=st.sampled_from((None, None, None, Reason.KERNEL_REFUSED, Reason.VETOED)))
    def answer_move(self, data: st.DataObject, reason: Reason | None) -> None:
        key = data.draw(st.sampled_from([move.key for move in self.to_move]))
        move = next(move for move in self.to_move if move.key == key)
        self.to_move.remove(move)
        if reason is None:
            self.do(MoveFinished(at_s=self.now_s, key=move.key, old=move.old, new=move.new, duration_s=0.0))
        else:
            self.do(MoveRefused(at_s=self.now_s, key=move.key, old=move.old, new=move.new, reason=reason, detail=""))

    @rule(data=st.data(), inner=st.sampled_from((INNER, INNER, OTHER_INNER)))
    def receive(self, data: st.DataObject, inner: IPAddress) -> None:
        nonce = st.sampled_from(self.nonces[-4:])
        endpoint = st.builds(Endpoint, st.sampled_from(OUTER), st.just(500))
        features = st.just(Feature.UPDATE)
        told = st.lists(st.sampled_from((*HOMES, *SOURCES)), min_size=1, max_size=2, unique=True).map(tuple)
        message: Message = data.draw(
            st.one_of(
                st.builds(Hello, nonce=nonce, features=features),
                st.builds(Hello, nonce=nonce, features=features, critical=st.integers(0, 7), version=st.integers(1, 2)),
                st.builds(HelloAck, nonce=nonce, features=features, addresses=st.just(()) | told),
                st.builds(GatewayMoved, sequence=st.integers(0, 4), addresses=told),
                st.builds(GatewayMovedAck, sequence=st.integers(0, 4)),
                st.builds(Refuse, nonce=nonce, reason=st.sampled_from(Refusal)),
                st.builds(Update, sequence=st.integers(0, 4), claimed=endpoint),
                st.builds(UpdateAck, sequence=st.integers(0, 4), observed=endpoint),
                st.builds(PathChallenge, nonce=nonce),
                st.builds(PathResponse, nonce=nonce),
                st.just(Goodbye()),
            )
        )
        self.told.update(getattr(message, "addresses", ()))
        self.do(MessageReceived(at_s=self.now_s, inner=inner, peer=FIRST_SERVER, message=message))

    @rule(reqid=st.integers(1, 2), outer=st.sampled_from(OUTER), outbound=st.booleans())
    def install_policies(self, reqid: int, outer: IPAddress, *, outbound: bool) -> None:
        place = path(self.role, outer).addresses
        self.do(PolicyInstalled(at_s=self.now_s, reqid=reqid, place=place, outbound=outbound))

    @rule(inner=st.sampled_from((INNER, OTHER_INNER)))
    def receive_nonsense(self, inner: IPAddress) -> None:
        self.do(MessageMalformed(at_s=self.now_s, inner=inner, peer=FIRST_SERVER, problem="nonsense"))

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        timer = data.draw(st.sampled_from(sorted(self.timers, key=str)))
        self.timers.remove(timer)
        self.now_s += 0.5
        self.do(TimerExpired(at_s=self.now_s, timer=timer))

    @rule(timer=st.sampled_from(TIMERS))
    def expire_late(self, timer: TimerId) -> None:
        """It ran out before it was stopped, and is noticed after."""
        if timer not in self.timers:
            self.do(TimerExpired(at_s=self.now_s, timer=timer))

    @rule(delay_s=st.sampled_from((0.1, 1.0, 10.0)))
    def wait(self, delay_s: float) -> None:
        self.now_s += delay_s

    @rule(agreement=st.sampled_from(Agreement), path_validation=st.booleans())
    def reconfigure(self, agreement: Agreement, path_validation: bool) -> None:
        self.take(self.core.reconfigure(settings(self.role, agreement, path_validation=path_validation)))

    @invariant()
    def everything_is_found_by_what_it_has(self) -> None:
        table = self.core.table
        for spi in SPIS:
            having = [tunnel for tunnel in table if spi in tunnel.spis]
            assert (table.by_spi(spi) in having) if having else (table.by_spi(spi) is None)
        for inner in (INNER, OTHER_INNER):
            having = [tunnel for tunnel in table if inner in tunnel.key.inner]
            assert (table.by_inner(inner) in having) if having else (table.by_inner(inner) is None)

    @invariant()
    def the_packet_filter_knows_the_tunnels_as_they_are(self) -> None:
        following = self.core._following
        assert self.filter == {tunnel.key: following.held(gateway.watch(tunnel)) for tunnel in self.core.table}

    @invariant()
    def no_tunnel_waits_for_ever(self) -> None:
        for tunnel in self.core.table:
            wait = WAITS.get(tunnel.phase)
            moving = tunnel.key in self.core._flights
            assert wait is None or moving or TimerId(tunnel.key, wait) in self.timers
            if tunnel.capability is Capability.PENDING:
                assert TimerId(tunnel.key, TimerKind.HELLO) in self.timers
            if tunnel.announcements:
                assert TimerId(tunnel.key, TimerKind.ANNOUNCE) in self.timers
            if tunnel.leaving:
                assert TimerId(tunnel.key, TimerKind.LEAVING) in self.timers

    @invariant()
    def no_end_is_in_a_phase_of_the_other(self) -> None:
        foreign = {Phase.VALIDATING} if self.role is Role.TERMINAL else {Phase.UPDATING, Phase.ABANDONED}
        assert not foreign & {tunnel.phase for tunnel in self.core.table}

    def teardown(self) -> None:
        while self.to_verify or self.to_move:
            for number in tuple(self.to_verify):
                self.to_verify.remove(number)
                self.do(PacketVerified(at_s=self.now_s, packet_id=number, reason=Reason.BAD_ICV))
            for move in tuple(self.to_move):
                self.to_move.remove(move)
                self.do(MoveFinished(at_s=self.now_s, key=move.key, old=move.old, new=move.new, duration_s=0.0))
        for timer in (timer for timer in tuple(self.timers) if timer.kind is TimerKind.FOLLOW):
            for _ in range(round(DEADLINE_S / LOOK_S)):
                self.do(TimerExpired(at_s=self.now_s, timer=timer))
        assert sorted(self.verdicts) == sorted(self.held)


class GatewayMachine(Machine):
    """The gateway's core; most often the other end takes part."""

    role = Role.GATEWAY

    @initialize()
    def begin(self) -> None:
        self.do(IkeSasListed(at_s=self.now_s, sas=(ike_sa(self.role, spis=((1, 1),)),), complete=True))
        hello = Hello(nonce=bytes(16), features=Feature.UPDATE)
        self.do(MessageReceived(at_s=self.now_s, inner=INNER, peer=FIRST_SERVER, message=hello))


class TerminalMachine(GatewayMachine):
    """The terminal's core."""

    role = Role.TERMINAL


GatewayMachine.TestCase.settings = profile(max_examples=60, stateful_step_count=40, deadline=None)
TerminalMachine.TestCase.settings = profile(max_examples=60, stateful_step_count=40, deadline=None)
TestGateway = GatewayMachine.TestCase
TestTerminal = TerminalMachine.TestCase
