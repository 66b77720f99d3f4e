"""The one door of the core: an event goes in, effects come out, in the order in which they are to be done.

Nothing here does I/O, reads a clock or draws randomness: times come with events, nonces from the function given at
construction. The decisions about one tunnel are pure functions in terminal, gateway and capability; this module finds
the tunnel, calls them, and keeps the table.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final, assert_never

from swanroam.core import (
    addresses,
    bystanders,
    capability,
    gateway,
    led,
    lookout,
    mobike,
    seeking,
    terminal,
    unheard,
    watching,
)
from swanroam.core.bystanders import Bystanders
from swanroam.core.flights import Flights
from swanroam.core.following import Following
from swanroam.core.leaving import farewell, leave
from swanroam.core.listed import (
    at_home,
    built_anew,
    followed,
    gather,
    go_on_validating,
    leftovers,
    recall,
    reminded,
    same_tunnel,
    with_port,
    with_spis,
)
from swanroam.core.missing import Missing
from swanroam.core.newcomers import Newcomers
from swanroam.core.recovery import Recovery
from swanroam.core.rekeyed import deletions
from swanroam.core.settings import Agreement, Settings
from swanroam.core.table import Table
from swanroam.core.tunnel import Phase, Signal, Tunnel, advance, inner_addresses
from swanroam.model.effects import (
    CapabilityChanged,
    DropAddress,
    Effect,
    Forget,
    GiveVerdict,
    ListIkeSas,
    PacketRejected,
    Persist,
    ReleaseInner,
    StartTimer,
    StopTimer,
    Trigger,
    Unwatch,
)
from swanroam.model.events import (
    CharonLost,
    ConnectionUnknown,
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
    StateMissed,
    StatesLookedFor,
    TimerExpired,
    TimerId,
    TimerKind,
)
from swanroam.model.messages import (
    GatewayMoved,
    GatewayMovedAck,
    Goodbye,
    Hello,
    HelloAck,
    PathChallenge,
    PathResponse,
    Refuse,
    Update,
    UpdateAck,
)
from swanroam.model.path import IPAddress, Path, Repository
from swanroam.model.tunnel import Capability, IkeSa, Role, TunnelKey

__all__ = ["ASTRAY_S", "BARE_S", "KEPT_S", "PARTING_S", "Core"]

AFTER_MOVE_S: Final = 0.1
"""A deadline that passes while the tunnel is being moved is looked at again after this."""
LINGERING_S: Final = 2.0
BARE_S: Final = 0.5
ASTRAY_S: Final = 0.2
"""How long charon, which has just put policies elsewhere than the tunnel is, is given to move them by itself."""
PARTING_S: Final = 12.0
"""How long messages of an IKE_SA that is deleted are carried: charon says it again after 4 s, and 7.2 s later."""
KEPT_S: Final = 0.5
"""How long an address is kept for them. Not longer: charon might set the next tunnel up from it."""
FOLLOW_GRACE_S: Final = 0.9
"""charon is taken to be following a move that is younger than this, and not told again."""

Step = tuple[Tunnel, tuple[Effect, ...]]


class Core:
    """All decisions of one daemon. `nonce` gives 16 fresh random bytes at each call."""

    def __init__(self, settings: Settings, nonce: Callable[[], bytes], port: int) -> None:
        self.settings = settings
        self.table = Table()
        self.parting = Table()
        """Tunnels that ended of late, whose last messages of IKE still go where they went."""
        self.bystanders = Bystanders()
        self._newcomers = Newcomers()
        self.repository: Repository | None = None
        self._nonce = nonce
        self._port = port
        self._flights = Flights()
        self._refused: set[TunnelKey] = set()
        self._vetoed: dict[TunnelKey, set[IPAddress]] = {}
        """Sources that a hook forbade, until the addresses change."""
        self._remembered: dict[TunnelKey, tuple[Tunnel, frozenset[int]]] = {}
        self._recovery = Recovery()
        self._following = Following()
        self._missing = Missing()
        self._own = addresses.OwnAddresses()
        self.rejected: dict[Reason, int] = {}
        """Refusals that belong to no tunnel."""

    def remember(self, tunnels: Iterable[tuple[Tunnel, frozenset[int]]]) -> None:
        """Tunnels from the store with their inbound SPIs: believed when charon still has one of the SPIs."""
        self._remembered = {tunnel.key: (tunnel, spis) for tunnel, spis in tunnels}

    def step(self, event: Event) -> tuple[Effect, ...]:
        """What is to be done about an event. Never raises for what a peer, charon or the kernel sent."""
        effects = self._decide(event)
        return tuple(map(self._following.held, effects)) if self._following else effects

    def _decide(self, event: Event) -> tuple[Effect, ...]:
        match event:
            case IkeSasListed():
                return self._on_listed(event)
            case IkeSaEnded():
                return self._on_ended(event)
            case CharonLost():
                return ()
            case ConnectionUnknown(connection=connection):
                return self._recovery.end(connection)
            case RepositoryChanged():
                before, self.repository = self.repository, event.repository
                self._refused.clear()
                self._vetoed.clear()
                self._own.see(event.repository, {address for tunnel in self.table for address in tunnel.own})
                considered = tuple(
                    effect
                    for tunnel in self.table
                    for effect in (*self._consider(tunnel.key), *self._relocate(tunnel.key, event.at_s))
                )
                anew = before is not None and event.repository.working - before.working
                return (*considered, *self._recovery.hasten()) if anew else considered
            case PacketHeld():
                return self._on_held(event)
            case PacketVerified():
                return self._on_verified(event)
            case MoveFinished():
                return self._on_move_finished(event)
            case MoveRefused():
                return self._on_move_refused(event)
            case MessageReceived():
                return self._on_message(event)
            case MessageMalformed():
                return self._on_malformed(event)
            case PolicyInstalled():
                return self._on_installed(event)
            case StateMissed():
                return tuple(
                    effect for tunnel in self.table.sending_on(event.spi) for effect in self._missing.missed(tunnel)
                )
            case StatesLookedFor():
                return self._on_looked_for(event)
            case TimerExpired():
                return self._on_timer(event)
            case _:
                assert_never(event)

    def reconfigure(self, settings: Settings) -> tuple[Effect, ...]:
        """Take new settings: tunnels whose agreement changed begin anew, the others do not notice."""
        old, self.settings = self.settings, replace(settings, learned=self.settings.learned)
        effects: list[Effect] = []
        for tunnel in self.table:
            before, now = old.of(tunnel.key.name), settings.of(tunnel.key.name)
            if before.gateways != now.gateways:
                effects += lookout.begin(tunnel, now.gateways)
            if (before.agreement, before.mobike) != (now.agreement, now.mobike):
                effects += farewell(tunnel, self._port) if now.agreement is Agreement.OFF else ()
                effects += self._begin(replace(tunnel, hello_attempt=0, hello_nonce=b""))
        return tuple(map(self._following.held, effects))

    def leave(self) -> tuple[Effect, ...]:
        """What is to be done before the daemon ends; what has charon build tunnels anew last of all."""
        ended = tuple(effect for tunnel in self.parting for effect in self._parted(tunnel.key))
        return (*ended, *leave(self.table, self._port))

    # charon

    def _on_listed(self, event: IkeSasListed) -> tuple[Effect, ...]:
        paths = dict(event.kernel_paths)
        concerned = tuple(self.table)
        if not event.complete:
            concerned = self.table.related((*event.sas, *self.bystanders.named(event.sas)), event.asked)
        known = {sa.unique_id: sa for tunnel in concerned for sa in tunnel.sas}
        children = {child.unique_id: child for sa in known.values() for child in sa.children}
        listed = {sa.unique_id: with_spis(sa, children) for sa in event.sas}
        gone = known if event.complete else event.asked
        sas = {unique_id: sa for unique_id, sa in known.items() if unique_id not in gone} | listed
        effects: list[Effect] = [*self.bystanders.listed(self.settings.role, event.sas, complete=event.complete)]
        grouped: dict[TunnelKey, list[IkeSa]] = {}
        for sa in sas.values():
            inner = inner_addresses(self.settings.role, sa)
            if inner and sa.established:
                grouped.setdefault(TunnelKey(sa.name, inner), []).append(sa)
        if ended := [tunnel for tunnel in concerned if tunnel.key not in grouped]:
            going_on = {child.spi_in for members in grouped.values() for sa in members for child in sa.children}
            effects += [effect for tunnel in ended for effect in self._end(tunnel, going_on)]
        shared = bystanders.shared(grouped, self.bystanders)
        for key, members in grouped.items():
            newest_first = tuple(sorted(members, key=lambda sa: sa.unique_id, reverse=True))
            tunnel_now = self.table.get(key)
            shares = shared.get(key, "")
            told = any(sa.unique_id in listed for sa in members)
            if (
                tunnel_now is None
                or (tunnel_now.sas, tunnel_now.shares) != (newest_first, shares)
                or (told and (event.wanted or not at_home(tunnel_now, paths)))
            ):
                effects += self._refresh(key, newest_first, shares, paths, event)
        effects += self._newcomers.listed(event.sas, event.asked, complete=event.complete, undecided=self._undecided)
        if event.complete:
            effects += [Forget(key) for key in self._remembered]
            self._remembered = {}
        return tuple(effects)

    def _list_again(self, tunnel: Tunnel) -> ListIkeSas:
        """Have charon list the IKE_SAs of a tunnel, and those that may be taking over from them."""
        listing = watching.list_again(tunnel)
        return replace(listing, unique_ids=(*listing.unique_ids, *self._newcomers.of(tunnel.key.name)))

    def _undecided(self, sa: IkeSa) -> bool:
        """Whether nothing can be said of an IKE_SA yet."""
        known = self.table.by_ike(sa.unique_id) is not None
        return sa.established and not known and bystanders.why_apart(self.settings.role, sa) is None

    def _on_ended(self, event: IkeSaEnded) -> tuple[Effect, ...]:
        tunnel = self.table.by_ike(event.unique_id)
        self._newcomers.ended(event.unique_id)
        if self.bystanders.ended(event.unique_id) or (tunnel and tunnel.shares):
            # The others may have to themselves now what it shared with them.
            return (*self._without(tunnel, event), ListIkeSas())
        return self._without(tunnel, event)

    def _without(self, tunnel: Tunnel | None, event: IkeSaEnded) -> tuple[Effect, ...]:
        """An IKE_SA of a tunnel is no more."""
        if tunnel is None:
            return ()
        left = tuple(sa for sa in tunnel.sas if sa.unique_id != event.unique_id)
        stays = replace(tunnel, sas=left)
        if not left and not self._newcomers.of(tunnel.key.name):
            return self._end(tunnel)
        if not stays.spis:
            return (*self._on_bare(tunnel.key, left, event.at_s), self._list_again(stays))
        gone = tuple(child for child in tunnel.children if child.spi_in not in stays.spis)
        return self._apply((stays, (watching.watch(stays), *leftovers(tunnel, gone, listed=False))))

    def _refresh(
        self, key: TunnelKey, sas: tuple[IkeSa, ...], shares: str, paths: dict[int, Path], event: IkeSasListed
    ) -> tuple[Effect, ...]:
        """Take what charon and the kernel say of a tunnel into the table."""
        role = self.settings.role
        fresh = Tunnel(key=key, role=role, sas=sas, path=sas[0].path, capability=Capability.PENDING, shares=shares)
        if not fresh.spis:
            # Between IKE_SA and CHILD_SA, or all CHILD_SAs were closed: there is nothing to move yet.
            return self._on_bare(key, sas, event.at_s)
        known = self.table.get(key)
        believed = (known.path, sas[0].path) if known else (sas[0].path,)
        at = {spi: with_port(paths[spi], *believed) for spi in fresh.spis if spi in paths}
        # While one CHILD_SA takes over from another they may be at different places.
        kernel_path = known.path if known and known.path in at.values() else next(iter(at.values()), None)
        effects: list[Effect] = []
        behind: tuple[Effect, ...]
        if known is None or not same_tunnel(known, fresh):
            before, known = known, self._recall(fresh)
            if known is None:
                moving = self.settings.mobike(sas[0])
                began = replace(fresh, path=kernel_path or fresh.path, nat=sas[0].nat, mobike=moving)
                if before is not None:
                    began = replace(began, moves=before.moves, last_move=before.last_move, rejected=before.rejected)
                left = leftovers(before, before.children, listed=True) if before else ()
                effects = [*left, *self._abandon(key), *self._recovery.end(key.name), *self._begin(began)]
                if began.lingering:
                    effects.append(StartTimer(timer=TimerId(key, TimerKind.LINGERING), delay_s=LINGERING_S))
                if event.complete and not followed(began):
                    # A daemon that ended in the middle of a move did not tell charon, which would look elsewhere.
                    behind = (mobike.look(key),) if began.mobike else watching.inform(began, sas[0].path)
                    effects += self._following.begin(began, behind)
                return tuple(effects)
        if key in self._flights or (known.last_move is not None and event.at_s <= known.last_move.at_s):
            kernel_path = None  # read before the move that is under way or done by now
        if self._following.unsettled(known):
            kernel_path = None  # what charon takes away, or finds elsewhere, AlignStates brings back
        highest = {spi: sequence for spi, sequence in known.highest.items() if spi in fresh.spis}
        tunnel = replace(known, sas=sas, path=kernel_path or known.path, highest=highest, bare_since_s=None)
        tunnel = replace(tunnel, shares=shares)
        if bool(shares) != bool(known.shares):
            # Nothing that was agreed or begun holds for a tunnel that is not told apart; later it is asked anew.
            apart = replace(tunnel, phase=Phase.STEADY, hello_attempt=0, hello_nonce=b"")
            ended = capability.withdraw(known, self._port) if shares and role is Role.GATEWAY else ()
            return (*self._abandon(key), *ended, *self._begin(apart))
        tunnel = replace(tunnel, alone=capability.alone(tunnel, self.settings))
        asked: tuple[Effect, ...] = ()
        if key not in self._flights:
            tunnel, asked = unheard.reauthenticated(known, tunnel, at)
        busy = key in self._flights or key in self._following
        tunnel, strays = gather(tunnel, at, busy=busy) if kernel_path else (tunnel, ())
        newly = key not in self.table
        tunnel = go_on_validating(tunnel, self.settings) if newly else tunnel
        by_charon: tuple[Effect, ...] = ()
        if key not in self._flights:
            tunnel, by_charon = mobike.listed(tunnel, known.path, event.at_s)
            if not newly and led.away(tunnel, known.path):
                tunnel, by_charon = self._led(tunnel, known.path, event.at_s)
            self._flights.note(by_charon)
        settled = known.last_move is None or event.at_s - known.last_move.at_s > FOLLOW_GRACE_S
        settled = settled and tunnel.phase is not Phase.VALIDATING and key not in self._following
        gone = tuple(child for child in known.children if child.spi_in not in tunnel.spis)
        effects = [Persist(key), *leftovers(known, gone, listed=True), *by_charon]
        behind = ()
        if not followed(tunnel):
            late = mobike.overdue(tunnel, event.at_s) if tunnel.mobike else ()
            behind = late or watching.inform(tunnel, sas[0].path)
        if not behind and (astray := watching.astray(tunnel, event.policy_places)):
            tunnel, behind = replace(tunnel, astray=astray), watching.inform(tunnel, astray)
            again_s = terminal.SETTLE_S if event.wanted else ASTRAY_S
            effects.append(StartTimer(timer=TimerId(key, TimerKind.SETTLE), delay_s=again_s))
        if event.wanted and kernel_path and settled and behind:
            effects += () if tunnel.guarded else (watching.watch(tunnel),)
            effects += (*self._following.begin(tunnel, behind), *self._recovery.begin(behind))
            tunnel = tunnel if tunnel.overlapping else replace(tunnel, astray=None)
        else:
            waited = self._following.listed(tunnel, followed=followed(tunnel))
            self._flights.note(waited)
            effects += waited or (watching.watch(tunnel),)
        effects += strays
        if key not in self._following and key not in self._flights and followed(tunnel):
            effects += reminded(tunnel, paths)
        if tunnel.lingering:
            effects.append(StartTimer(timer=TimerId(key, TimerKind.LINGERING), delay_s=LINGERING_S))
        if tunnel.phase is Phase.ABANDONED and built_anew(known, sas[0]):
            tunnel = replace(advance(tunnel, Signal.REBUILT), path=kernel_path or sas[0].path)
            effects += self._recovery.end(key.name)
        self.table.put(tunnel)
        effects += (*asked, *self._greet(tunnel)) if asked else ()
        if newly:
            # Likewise where it was remembered, once charon is surely not following any more.
            effects.append(StartTimer(timer=TimerId(key, TimerKind.SETTLE), delay_s=terminal.SETTLE_S))
            effects += self._go_on(tunnel, event.at_s)
        effects += self._consider(key)
        return tuple(effects)

    def _go_on(self, tunnel: Tunnel, at_s: float) -> tuple[Effect, ...]:
        """Take up what the last daemon was about with a tunnel of the store."""
        key, configured = tunnel.key, self.settings.of(tunnel.key.name).gateways
        effects = [*self._greet(tunnel), *lookout.begin(tunnel, configured)]
        if self.settings.role is Role.TERMINAL:
            effects += (
                terminal.keep_alive(tunnel),
                *self._apply(terminal.tell_again(self.table.get(key) or tunnel, self._port)),
            )
        else:
            effects += self._apply(addresses.resume(tunnel, self._own, configured, at_s, self._port))
            effects += self._apply(gateway.challenge_again(self.table.get(key) or tunnel, self._nonce(), self._port))
        return tuple(effects)

    def _led(self, tunnel: Tunnel, before: Path, at_s: float) -> Step:
        """Charon took a tunnel elsewhere by itself."""
        wanted = self.settings.of(tunnel.key.name)
        if tunnel.key in self._following and any(tunnel.path.addresses == each.addresses for each in tunnel.passed):
            return tunnel, ()  # it was told to go there, and the tunnel has gone on since
        if tunnel.role is Role.TERMINAL and tunnel.key in self._refused:
            return replace(tunnel, path=before), ()  # it will be tried again
        if tunnel.role is Role.TERMINAL:
            known = (before.remote.address, *wanted.gateways, *tunnel.gateways)
            return led.back_to_the_gateway(tunnel, before, known)
        nonce, allow, validate = self._nonce(), wanted.allow, wanted.path_validation
        return led.to_be_proven(tunnel, before, at_s, nonce, self._port, allow=allow, validate=validate)

    def _on_bare(self, key: TunnelKey, sas: tuple[IkeSa, ...], at_s: float) -> tuple[Effect, ...]:
        """No CHILD_SA is listed: believed when it stays so, as they are nowhere while they go over to a new IKE_SA."""
        tunnel = self.table.get(key)
        if tunnel is None:
            return ()
        since_s = at_s if tunnel.bare_since_s is None else tunnel.bare_since_s
        if at_s - since_s >= BARE_S:
            return self._end(tunnel)
        # What is known stays, with its CHILD_SAs: they are what tells that the next ones belong to the same tunnel.
        ids = {sa.unique_id for sa in tunnel.sas}
        both = (*(sa for sa in sas if sa.unique_id not in ids), *tunnel.sas)
        tunnel = replace(tunnel, sas=both, bare_since_s=since_s)
        self.table.put(tunnel)
        return (
            watching.watch(tunnel),
            StartTimer(timer=TimerId(key, TimerKind.LINGERING), delay_s=BARE_S),
        )

    def _recall(self, fresh: Tunnel) -> Tunnel | None:
        """What the store knows of this very tunnel, if it is the same one: it has an inbound SPI in common."""
        remembered, spis = self._remembered.pop(fresh.key, (None, frozenset[int]()))
        if remembered is None or not spis & set(fresh.spis):
            return None
        return recall(remembered, fresh, self.settings)

    def _begin(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """A tunnel of which nothing is agreed yet."""
        agreed, detail = capability.initial(tunnel.sas[0], self.settings, tunnel.shares)
        because = detail if agreed is Capability.NONE else ""
        moving = self.settings.mobike(tunnel.sas[0])
        charons = mobike.charons(tunnel.sas[0])
        tunnel = replace(tunnel, capability=agreed, because=because, mobike=moving, charon=charons)
        tunnel = replace(tunnel, alone=capability.alone(tunnel, self.settings))
        self.table.put(tunnel)
        effects: list[Effect] = [*self._parted(tunnel.key), watching.watch(tunnel), Persist(tunnel.key)]
        if agreed is not Capability.PENDING:
            effects.append(CapabilityChanged(key=tunnel.key, capability=agreed, detail=detail))
        return (*effects, *self._greet(tunnel), *self._consider(tunnel.key))

    def _greet(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Offer the capability: the terminal always does, also to confirm; the gateway where it does not know."""
        if tunnel.capability is Capability.PENDING or (
            tunnel.role is Role.TERMINAL and tunnel.capability is Capability.NEGOTIATED
        ):
            return self._apply(capability.send_hello(replace(tunnel, hello_attempt=0), self._nonce(), self._port))
        return ()

    def _end(self, tunnel: Tunnel, going_on: Collection[int] = ()) -> tuple[Effect, ...]:
        """A tunnel is no more; `going_on`: inbound SPIs of others, which may have taken its CHILD_SAs over."""
        self.table.remove(tunnel.key)
        verdicts = self._abandon(tunnel.key)
        lasting = {TimerKind.REESTABLISH, TimerKind.PARTING}
        stops = [StopTimer(TimerId(tunnel.key, kind)) for kind in TimerKind if kind not in lasting]
        gone = tuple(child for child in tunnel.children if child.spi_in not in going_on)
        left = leftovers(tunnel, gone, listed=False)
        return (*verdicts, *stops, *left, *_released(tunnel), *self._part(tunnel), Forget(tunnel.key))

    def _part(self, tunnel: Tunnel) -> tuple[Effect, ...]:
        """Charon may be about to delete the IKE_SA, or to answer that, when it is not listed any more."""
        if not tunnel.carries_ike and (tunnel.actual is None or tunnel.phase is Phase.ABANDONED):
            # Of one that was built anew the next messages are those of its successor.
            return _forgotten(tunnel)
        self.parting.put(tunnel)
        parting, delay_s = TimerId(tunnel.key, TimerKind.PARTING), PARTING_S if tunnel.carries_ike else KEPT_S
        return (watching.watch_parting(tunnel), StartTimer(timer=parting, delay_s=delay_s))

    def _parted(self, key: TunnelKey) -> tuple[Effect, ...]:
        """Its time is over, or there is another one."""
        tunnel = self.parting.remove(key)
        return _forgotten(tunnel) if tunnel else ()

    def _abandon(self, key: TunnelKey) -> tuple[Effect, ...]:
        """What was under way for a tunnel that is no more, or no more the same."""
        self._refused.discard(key)
        self._vetoed.pop(key, None)
        waited = self._following.abandon(key)
        self._flights.note(waited)
        return (*waited, *self._flights.abandon(key), *self._missing.end(key))

    def _on_installed(self, event: PolicyInstalled) -> tuple[Effect, ...]:
        effects: list[Effect] = []
        for tunnel in self.table.of_reqid(event.reqid):
            if event.place == tunnel.path.addresses:
                if event.outbound or not tunnel.guarded:
                    effects += self._following.installed(tunnel, event.reqid)
                continue
            effects += self._following.elsewhere(tunnel, event.place, outbound=event.outbound)
            if followed(tunnel) and watching.astray(tunnel, ((event.reqid, event.place),)):
                effects.append(StartTimer(timer=TimerId(tunnel.key, TimerKind.SETTLE), delay_s=ASTRAY_S))
        self._flights.note(effects)
        return tuple(effects)

    def _on_looked_for(self, event: StatesLookedFor) -> tuple[Effect, ...]:
        tunnel = self.table.get(event.key)
        effects = self._missing.looked(tunnel, event) if tunnel else ()
        return (*effects, *self._recovery.begin(effects))

    # packets and moves

    def _on_held(self, event: PacketHeld) -> tuple[Effect, ...]:
        tunnel = self.table.by_spi(event.spi)
        if tunnel is None or tunnel.role is Role.TERMINAL:
            detail = f"SPI {event.spi:08x}"
            return (
                GiveVerdict(packet_id=event.packet_id),
                self._nobodys(PacketRejected(key=None, reason=Reason.UNKNOWN_SPI, source=event.source, detail=detail)),
            )
        self._flights.held[event.packet_id] = event
        here = event.origin == tunnel.path.origin and event.destination == tunnel.path.local.address
        if tunnel.key in self._following and here:
            parked = self._following.park(tunnel.key, event.packet_id)
            self._flights.note(parked)
            return parked
        return self._apply(gateway.on_held(tunnel, event))

    def _on_verified(self, event: PacketVerified) -> tuple[Effect, ...]:
        held = self._flights.held.get(event.packet_id)
        tunnel = self.table.by_spi(held.spi) if held else None
        if held is None or tunnel is None:
            self._flights.held.pop(event.packet_id, None)
            return (GiveVerdict(packet_id=event.packet_id),)
        if tunnel.key in self._flights:
            self._flights.wait(tunnel.key, event)
            return ()
        allow = self.settings.of(tunnel.key.name).allow
        return self._apply(gateway.on_verified(tunnel, held, event, allow), event.packet_id)

    def _on_move_finished(self, event: MoveFinished) -> tuple[Effect, ...]:
        flight = self._flights.finish(event.key)
        tunnel = self.table.get(event.key)
        if flight is None or tunnel is None:
            return (ListIkeSas(),)
        if flight.trigger is Trigger.MOBIKE:
            return self._apply(mobike.brought(tunnel, event))
        if self.settings.role is Role.TERMINAL:
            moved = self._apply(terminal.on_move_finished(tunnel, event, flight, self._port))
            return (*moved, *self._consider(event.key))
        wanted = self.settings.of(tunnel.key.name)
        if flight.trigger is Trigger.GATEWAY:
            told = self._own.to_tell(replace(tunnel, path=event.new), wanted.gateways)
            step = addresses.on_moved(tunnel, event, told or (event.new.local.address,), self._port)
        else:
            validate = wanted.path_validation
            step = gateway.on_move_finished(tunnel, event, flight, self._nonce(), self._port, validate=validate)
        return (*self._apply(step), *self._judge(flight.waiting), *self._relocate(event.key, event.at_s))

    def _on_move_refused(self, event: MoveRefused) -> tuple[Effect, ...]:
        flight = self._flights.finish(event.key)
        tunnel = self.table.get(event.key)
        if flight is None or tunnel is None:
            return (ListIkeSas(),)
        # A veto is no sign that anything differs from what is known; all other refusals are.
        look: tuple[Effect, ...] = () if event.reason is Reason.VETOED else (self._list_again(tunnel),)
        if self.settings.role is Role.TERMINAL:
            refused = terminal.on_move_refused(tunnel, event, flight, self._port)
            if event.reason is Reason.VETOED and flight.trigger is Trigger.ADDRESS:
                self._vetoed.setdefault(event.key, set()).add(event.new.local.address)
                return (*self._apply(refused), *self._consider(event.key))
            self._refused.add(event.key)
            return (*self._apply(refused), *look)
        stays = self._apply(gateway.on_move_refused(tunnel, event, flight))
        if flight.trigger is Trigger.GATEWAY:
            self._refused.add(event.key)
        return (*stays, *self._judge(flight.waiting), *look)

    def _judge(self, waiting: Iterable[PacketVerified]) -> tuple[Effect, ...]:
        """The packets that waited for a move, by what is true after it."""
        return tuple(effect for packet in waiting for effect in self._on_verified(packet))

    def _consider(self, key: TunnelKey) -> tuple[Effect, ...]:
        """Move a tunnel of the terminal if that is better, unless it is moving, or was just refused to."""
        tunnel = self.table.get(key)
        if tunnel is None or self.settings.role is not Role.TERMINAL or self.repository is None:
            return ()
        if key in self._flights or key in self._refused:
            return ()
        gateways = (*self.settings.of(key.name).gateways, *tunnel.gateways)
        barred = self._inner | self._vetoed.get(key, set())
        return self._apply(terminal.consider(tunnel, self.repository, barred, gateways))

    def _relocate(self, key: TunnelKey, at_s: float) -> tuple[Effect, ...]:
        """Move a tunnel of the gateway whose address is gone, and tell the terminal where addresses changed."""
        tunnel = self.table.get(key)
        if tunnel is None or self.settings.role is not Role.GATEWAY or key in self._flights or key in self._refused:
            return ()
        configured = self.settings.of(key.name).gateways
        return self._apply(addresses.consider(tunnel, self._own, configured, at_s, self._port))

    @property
    def _inner(self) -> set[IPAddress]:
        """The inner addresses of all tunnels."""
        return {address for tunnel in self.table for address in tunnel.key.inner}

    # messages and timers

    def _on_message(self, event: MessageReceived) -> tuple[Effect, ...]:
        tunnel = self.table.by_inner(event.inner)
        if tunnel is None:
            return (self._nobodys(PacketRejected(key=None, reason=Reason.WRONG_TUNNEL, source=event.inner)),)
        step = self._answer(unheard.heard(tunnel), event)
        if step is None:
            refused = PacketRejected(key=tunnel.key, reason=Reason.BAD_MESSAGE, source=event.peer)
            return self._apply((tunnel.count(Reason.BAD_MESSAGE), (refused,)))
        effects = self._apply(step)
        effects += self._recovery.begin(effects)
        now = self.table.get(tunnel.key)
        if now is None:
            return effects
        if (now.capability, now.gateways) != (tunnel.capability, tunnel.gateways):
            effects += lookout.begin(now, self.settings.of(now.key.name).gateways)
        if now.capability is not tunnel.capability:
            return (watching.watch(now), *effects, *self._consider(now.key))
        return effects

    def _on_malformed(self, event: MessageMalformed) -> tuple[Effect, ...]:
        tunnel = self.table.by_inner(event.inner)
        told = PacketRejected(
            key=tunnel.key if tunnel else None, reason=Reason.BAD_MESSAGE, source=event.inner, detail=event.problem
        )
        return (self._nobodys(told),) if tunnel is None else self._apply((tunnel.count(Reason.BAD_MESSAGE), (told,)))

    def _answer(self, tunnel: Tunnel, event: MessageReceived) -> Step | None:
        """What a message does to its tunnel; None for one that this role does not take."""
        terminal_role = self.settings.role is Role.TERMINAL
        own, peer = (event.inner, event.peer) if terminal_role else (event.peer, event.inner)
        match event.message:
            case Hello() as hello:
                told = self._own.to_tell(tunnel, self.settings.of(tunnel.key.name).gateways)
                return capability.answer_hello(tunnel, hello, own, peer, self.settings, told)
            case HelloAck() as ack:
                return capability.on_ack(tunnel, ack)
            case Refuse() if not terminal_role and tunnel.key in self._flights:
                return tunnel, ()  # the path that it comes to is to be proven first
            case Refuse() as refusal:
                return capability.on_refusal(tunnel, refusal)
            case UpdateAck() if terminal_role and tunnel.key in self._flights:
                return tunnel, ()  # the gateway is told again when that is done
            case UpdateAck() as ack if terminal_role:
                return terminal.on_ack(tunnel, ack)
            case Goodbye() if terminal_role:
                return terminal.on_goodbye(tunnel)
            case GatewayMoved() if terminal_role and tunnel.key in self._flights:
                return tunnel, ()  # it is told again
            case GatewayMoved() as moved if terminal_role and seeking.may_follow(tunnel) and self.repository:
                return seeking.on_gateway_moved(tunnel, moved, own, peer, self.repository, self._inner)
            case GatewayMovedAck() as acknowledged if not terminal_role:
                return addresses.on_ack(tunnel, acknowledged)
            case PathChallenge() as challenge if terminal_role:
                return terminal.on_challenge(tunnel, challenge, own, peer)
            case Update() if tunnel.key in self._flights:
                return tunnel, ()  # sent again, to be judged by what is true then
            case Update() as update if not terminal_role and tunnel.capability.allows_moves:
                allow = self.settings.of(tunnel.key.name).allow
                return gateway.on_update(tunnel, update, own, peer, event.at_s, allow)
            case Update() if not terminal_role:
                return capability.on_unagreed_update(tunnel, self.settings)
            case PathResponse() as response if not terminal_role:
                return gateway.on_response(tunnel, response)
            case _:
                return None

    def _on_timer(self, event: TimerExpired) -> tuple[Effect, ...]:
        kind = event.timer.kind
        if kind is TimerKind.REESTABLISH:
            off = self.settings.of(event.timer.key.name).agreement is Agreement.OFF
            return self._recovery.again(event.timer, self.table.get(event.timer.key), off=off)
        if kind is TimerKind.PARTING:
            return self._parted(event.timer.key)
        if kind is TimerKind.NEWCOMERS:
            return self._newcomers.look(event.timer.key.name)
        tunnel = self.table.get(event.timer.key)
        if tunnel is None:
            return ()
        match kind:
            case TimerKind.HELLO:
                return self._apply(capability.send_hello(tunnel, self._nonce(), self._port))
            case TimerKind.UPDATE if tunnel.key in self._flights:
                return (StartTimer(timer=event.timer, delay_s=AFTER_MOVE_S),)
            case TimerKind.UPDATE if self._missing.mute(tunnel.key):
                return self._apply(terminal.tell(tunnel, self._port))
            case TimerKind.UPDATE:
                known = self.settings.of(tunnel.key.name).gateways
                sought = seeking.seek(tunnel, known, self.repository, self._inner)
                effects = self._apply(sought or terminal.on_update_timer(tunnel, self._port))
                return (*effects, *self._recovery.begin(effects))
            case TimerKind.VALIDATION if tunnel.key in self._flights:
                return (StartTimer(timer=event.timer, delay_s=AFTER_MOVE_S),)
            case TimerKind.VALIDATION:
                return self._apply(gateway.on_validation_timer(tunnel, event.at_s, self._port))
            case TimerKind.MOVE:
                self._refused.discard(tunnel.key)
                again = self._list_again(tunnel)
                return (*self._consider(tunnel.key), *self._relocate(tunnel.key, event.at_s), again)
            case TimerKind.ANNOUNCE:
                return self._apply(addresses.on_announce_timer(tunnel, self._port))
            case TimerKind.INFORM:
                terminal_role = self.settings.role is Role.TERMINAL
                return self._apply(terminal.inform(tunnel) if terminal_role else gateway.inform_charon(tunnel))
            case TimerKind.KEEPALIVE:
                return self._apply(terminal.on_keepalive_timer(tunnel, event.at_s, self._port))
            case TimerKind.MISSING:
                return self._missing.look(tunnel)
            case TimerKind.SILENCE:
                effects = self._apply(terminal.on_silence_timer(tunnel))
                return (*effects, *self._recovery.begin(effects))
            case TimerKind.LOOKOUT:
                return self._apply(lookout.look(tunnel, self.settings.of(tunnel.key.name).gateways, self._port))
            case TimerKind.SETTLE:
                return (*_released(tunnel), self._list_again(tunnel))
            case TimerKind.LINGERING:
                return (*deletions(tunnel), self._list_again(tunnel))
            case TimerKind.FOLLOW:
                effects = self._following.look(event.timer, tunnel)
                self._flights.note(effects)
                return effects
            case TimerKind.LEAVING:
                return self._apply(gateway.on_leaving_timer(tunnel))
            case _:
                assert_never(kind)

    def _nobodys(self, rejected: PacketRejected) -> PacketRejected:
        """Count a refusal that belongs to no tunnel."""
        self.rejected[rejected.reason] = self.rejected.get(rejected.reason, 0) + 1
        return rejected

    def _apply(self, step: Step, packet_id: int | None = None) -> tuple[Effect, ...]:
        """Keep what a decision made of its tunnel; `packet_id` is the held packet that it was about."""
        tunnel, effects = step
        effects = self._following.begin(tunnel, effects)
        self._flights.note(effects, packet_id)
        if self.table.get(tunnel.key) != tunnel:
            self.table.put(tunnel)
        return effects


def _forgotten(tunnel: Tunnel) -> tuple[Effect, ...]:
    unwatch = Unwatch(tunnel.key)
    return (unwatch,) if tunnel.actual is None else (DropAddress(tunnel.key), unwatch)


def _released(tunnel: Tunnel) -> tuple[Effect, ...]:
    return (ReleaseInner(tunnel.key.inner),) if tunnel.role is Role.TERMINAL else ()
