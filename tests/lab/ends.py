"""The hosts that charon and swanroam run on, and how a terminal changes its outer address."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab.charon import Charon, IkeSa, TunnelOptions, terminal_connection
from tests.lab.conditions import eventually
from tests.lab.daemon import Swanroam
from tests.lab.errors import LabError
from tests.lab.hosts import Host
from tests.lab.links import Request, hardware_bytes
from tests.lab.nats import NatOfLink
from tests.lab.netns import Namespace
from tests.lab.topology import GATEWAY_WAN, GATEWAY_WAN6, Access

__all__ = ["End", "Move", "Terminal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of the outer address, as it was made."""

    began_ns: int
    usable_ns: int
    """When the kernel had taken the new address and route."""
    old: str
    new: str
    seen: str
    """The new address as the gateway sees it: where a NAT is in the path, that of the NAT."""


class End(Host):
    """A host with charon and swanroam."""

    charon: Charon
    swanroam: Swanroam

    def close(self) -> None:
        """End what runs here."""
        for step in (self.swanroam.kill, self.charon.kill):
            with contextlib.suppress(Exception):
                step()
        super().close()


class Terminal(End):
    """A host that roams between its links."""

    def __init__(
        self,
        number: int,
        namespace: Namespace,
        folder: Path,
        options: TunnelOptions,
        accesses: tuple[Access, ...],
        nats: Mapping[str, NatOfLink],
    ) -> None:
        super().__init__(f"terminal{number}", namespace, folder)
        self.number = number
        self.accesses, self._nats = accesses, nats
        self.access: Access = accesses[0]
        self.address = self.access.address(number)
        self.inner = ""
        """The virtual IP, once connected; the first of several."""
        self._owned = self.outer
        self.home = ""
        """The gateway's address that its tunnel goes to now, where that is not the usual one."""
        self.present = True
        """Whether it has an outer address."""
        self.resting = False
        """Whether it takes no part in the story and has no tunnel."""
        self.charon = Charon(self, options, terminal_connection(number, options))
        self.swanroam = Swanroam(self, "terminal")

    @property
    def outer(self) -> str:
        """The outer address that it has now."""
        return self.address.partition("/")[0]

    @property
    def gateway(self) -> str:
        """The gateway's outer address for a tunnel from here."""
        return self.home or (GATEWAY_WAN6 if ":" in self.outer else GATEWAY_WAN)

    @property
    def nat(self) -> NatOfLink | None:
        """What is between it and the internet now."""
        return self._nats.get(self.access.link)

    @property
    def seen(self) -> str:
        """The address that the gateway sees."""
        return self.nat.public if self.nat else self.outer

    @property
    def others(self) -> list[Access]:
        """The access networks that it is not in."""
        return [access for access in self.accesses if access is not self.access]

    @property
    def other(self) -> Access:
        """The access network that it is not in, or the first of them."""
        return self.others[0]

    @property
    def aliases(self) -> list[str]:
        """Addresses of the loopback interface beside its own."""
        words = self.show("ip -brief address show dev lo").split()
        return [word for word in words if "/" in word and not word.startswith(("127.", "::1/"))]

    def connect(self) -> None:
        """Initiate the tunnel."""
        self.home = ""
        self.charon.initiate()
        self.inner, *_ = self.sa.inner

    @property
    def sa(self) -> IkeSa:
        """The terminal's one established IKE_SA; waits for the end of a negotiation that is going on."""

        def one() -> IkeSa:
            every = [sa for sa in self.charon.sas() if not sa.superseded]
            assert [sa.state for sa in every] == ["ESTABLISHED"], f"{self.name} has these IKE_SAs: {every}"
            assert every[0].children, f"{self.name} has no CHILD_SA: {every}"
            return every[0]

        return eventually(one, f"{self.name} has one tunnel", every_s=0.1)

    def move(self, address: str | None = None) -> Move:
        """Change to the other network at once: the old address goes, the new one comes, the default route follows."""
        return self._change(self.leaving() + self._entering(self.other, address or self.other.address(self.number)))

    def leave(self) -> Move:
        """Lose the outer address and have none."""
        requests = self.leaving()
        self.present = False
        return self._change(requests)

    def enter(self, address: str | None = None) -> Move:
        """Get an address in the other network, after `leave`."""
        return self._change(self._entering(self.other, address or self.other.address(self.number)))

    def unplug(self) -> Move:
        """The link in use goes down, which takes its routes away, and the other network gives an address."""
        old = self.access
        address = self.address
        down = [self.links.turn(old.link, up=False), self.links.remove_address(old.link, address)]
        move = self._change(down + self._entering(self.other, self.other.address(self.number)))
        self.links.apply([self.links.turn(old.link, up=True)])
        return move

    def spread(self, *, here: int, other: int) -> None:
        """Have both links at once, with these metrics: the address in use stays, the other network gives one, too."""
        access = self.access
        self.links.apply(
            [
                # Whoever installed it, as the one to remove has to be of the same origin.
                self.links.default_route(access.link, access.router),
                self.links.default_route(access.link, access.router, here),
                self.links.no_default_route(access.link, access.router),
                *self.arriving(self.other, other),
            ]
        )
        self.links.announce(self.other.link, self.other.address(self.number).partition("/")[0])

    def arriving(self, access: Access, metric: int) -> list[Request]:
        """What gives the terminal its address in a network, and a default route there, beside what it has."""
        return [
            self.links.add_address(access.link, access.address(self.number)),
            self._router_neighbour(access),
            self.links.default_route(access.link, access.router, metric),
        ]

    def gain(self, access: Access, metric: int) -> Move:
        """A better link comes, with an address and a route of this metric, while all goes on working."""
        old = self.outer
        requests = self.arriving(access, metric)
        self._use(access)
        return replace(self._change(requests), old=old)

    def fall_back(self, access: Access) -> Move:
        """The link in use goes down, and loses its address; the next best is this one, which is there already."""
        dead = self.access.link
        requests = [self.links.turn(dead, up=False), *self.leaving()]
        self._use(access)
        move = self._change(requests)
        self.links.apply([self.links.turn(dead, up=True)])
        return move

    def prefer_other(self, metric: int) -> Move:
        """The link that is not in use becomes the better one: its route gets this metric, while all goes on working."""
        old = self.outer
        self._use(self.other)
        move = self._change([self.links.default_route(self.access.link, self.access.router, metric)])
        return replace(move, old=old)

    def gather(self) -> None:
        """Have only the link in use again, with one default route."""
        self.links.apply([self.links.default_route(self.access.link, self.access.router)])
        for line in self.show("ip route show default").splitlines():
            if " metric " in line:
                # One that is gone by itself meanwhile is as good.
                with contextlib.suppress(LabError):
                    self.show(f"ip route del {line}")
        for other in self.others:
            away = other.address(self.number)
            if away in self.show(f"ip -brief address show dev {other.link}").split():
                self.links.apply([self.links.remove_address(other.link, away)])

    def leaving(self) -> list[Request]:
        """What takes the outer address away."""
        return [self.links.remove_address(self.access.link, self.address)]

    def _use(self, access: Access) -> None:
        """From now on its address is that in another network."""
        self.access, self.address = access, access.address(self.number)

    def _entering(self, access: Access, address: str) -> list[Request]:
        self.access, self.address, self.present = access, address, True
        return [
            self.links.add_address(access.link, address),
            # The kernel forgets the neighbours of a link, permanent ones too, when its last address goes.
            self._router_neighbour(access),
            self.links.default_route(access.link, access.router),
        ]

    def _router_neighbour(self, access: Access) -> Request:
        return self.links.neighbour(access.link, access.router, hardware_bytes(access.router_hardware))

    def _change(self, requests: list[Request]) -> Move:
        old = self._owned
        began_ns = time.monotonic_ns()
        self.links.apply(requests)
        usable_ns = time.monotonic_ns()
        if self.present:
            self.links.announce(self.access.link, self.outer)
        self._owned = self.outer
        return Move(began_ns=began_ns, usable_ns=usable_ns, old=old, new=self.outer, seen=self.seen)
