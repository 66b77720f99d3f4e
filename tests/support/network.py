"""ESP packets on their way between two hosts in memory, and the translators in front of some networks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from swanroam.model.path import Endpoint, IPAddress

__all__ = ["Network", "Packet", "Translator"]


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
    ports: tuple[int, int] | None = None
    """Source and destination of the UDP header around it (RFC 3948), or None for plain ESP."""
    forged: bool = False


@dataclass(slots=True)
class Translator:
    """A NAT: packets leave with its public address, those in UDP from a port of its own. Plain ESP it drops."""

    public: IPAddress
    random: Random
    ports: dict[Endpoint, int] = field(default_factory=dict)
    """The port at the public address, by endpoint behind it."""

    def mapped(self, inside: Endpoint) -> Endpoint:
        """Where this endpoint is seen."""
        if inside not in self.ports:
            taken = set(self.ports.values())
            self.ports[inside] = next(
                port for port in iter(lambda: self.random.randrange(1024, 65536), None) if port not in taken
            )
        return Endpoint(self.public, self.ports[inside])

    def behind(self, outside: Endpoint) -> Endpoint | None:
        """Who is seen there."""
        return next((inside for inside, port in self.ports.items() if outside == Endpoint(self.public, port)), None)


class Network:
    """What is between the hosts; `translators` by the address behind them."""

    def __init__(self, random: Random, public: Mapping[IPAddress, IPAddress] | None = None) -> None:
        self.translators = {inside: Translator(outside, random) for inside, outside in (public or {}).items()}

    def seen(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint as it is seen from elsewhere, with UDP."""
        translator = self.translators.get(endpoint.address)
        return translator.mapped(endpoint) if translator else endpoint

    def forget(self) -> None:
        """All mappings are gone: whoever goes on sending is seen at another port."""
        for translator in self.translators.values():
            translator.ports.clear()

    def outward(self, packet: Packet) -> Packet | None:
        """A packet as it leaves its network; None where it does not."""
        if packet.source not in self.translators:
            return packet
        if packet.ports is None:
            return None
        seen = self.seen(Endpoint(packet.source, packet.ports[0]))
        return replace(packet, source=seen.address, ports=(seen.port, packet.ports[1]))

    def inward(self, packet: Packet) -> Packet | None:
        """A packet as it arrives in the network of its destination; None where it does not."""
        for translator in self.translators.values():
            if packet.destination == translator.public:
                if packet.ports is None:
                    return None
                inside = translator.behind(Endpoint(packet.destination, packet.ports[1]))
                if inside is None:
                    return None
                return replace(packet, destination=inside.address, ports=(packet.ports[0], inside.port))
        # Nobody outside reaches a private address.
        return None if packet.destination in self.translators else packet
