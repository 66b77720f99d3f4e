"""What passed the router: every packet, with its time and its link, to be asked about between two instants."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.hosts import Host

__all__ = ["Capture", "Packet"]

ESP, UDP, ICMP = 50, 17, 1
IKE_PORTS = {500, 4500}
WORKER = "capture"
LINKS = ("wan", "wlan", "lte")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """An IP packet on one interface."""

    at_ns: int
    """Monotonic, by the kernel's own stamp."""
    link: str
    outgoing: bool
    source: str
    destination: str
    protocol: int
    first: int
    """SPI of ESP, source port of UDP and TCP, type of ICMP."""
    second: int
    """Sequence number of ESP, destination port of UDP and TCP, code of ICMP."""
    length: int

    @property
    def esp(self) -> bool:
        """Whether it is ESP without encapsulation."""
        return self.protocol == ESP

    @property
    def ike(self) -> bool:
        """Whether it belongs to charon: UDP from or to port 500 or 4500."""
        return self.protocol == UDP and bool({self.first, self.second} & IKE_PORTS)

    @property
    def icmp(self) -> bool:
        """Whether it is ICMP outside any tunnel."""
        return self.protocol == ICMP

    @property
    def cleartext(self) -> bool:
        """Whether it has an inner address, and so should be nowhere on the internet."""
        return any(
            ipaddress.ip_address(address) in ipaddress.ip_network("10.0.0.0/8")
            for address in (self.source, self.destination)
        )


class Capture:
    """All packets on the router's wan, wlan and lte, from now on."""

    def __init__(self, router: Host) -> None:
        self._router = router
        self._packets: list[Packet] = []
        self._seen = 0
        router.agent.do("capture", WORKER)

    def packets(self, since_ns: int = 0, until_ns: int | None = None, link: str | None = None) -> Iterator[Packet]:
        """Packets in the order of capture; `link` is wan, wlan or lte."""
        self._update()
        for packet in self._packets:
            if (
                packet.at_ns >= since_ns
                and (until_ns is None or packet.at_ns < until_ns)
                and link in {None, packet.link}
            ):
                yield packet

    def ike(self, since_ns: int = 0, until_ns: int | None = None, host: str | None = None) -> list[Packet]:
        """IKE packets on the gateway's link, both ways; of one outer address where given."""
        return [
            packet
            for packet in self.packets(since_ns, until_ns, "wan")
            if packet.ike and host in {None, packet.source, packet.destination}
        ]

    def esp_from(self, address: str, since_ns: int = 0, until_ns: int | None = None) -> list[Packet]:
        """ESP packets that an outer address sent, as the gateway's link saw them."""
        return [p for p in self.packets(since_ns, until_ns, "wan") if p.esp and p.source == address]

    def esp_to(self, address: str, since_ns: int = 0, until_ns: int | None = None) -> list[Packet]:
        """ESP packets that the gateway sent to an outer address."""
        return [p for p in self.packets(since_ns, until_ns, "wan") if p.esp and p.destination == address]

    def cleartext(self, since_ns: int = 0, until_ns: int | None = None) -> list[Packet]:
        """Packets that should have been in a tunnel."""
        return [packet for packet in self.packets(since_ns, until_ns) if packet.cleartext]

    def contents(self, packet: Packet) -> bytes:
        """The bytes of a packet, from its IP header on."""
        report = self._router.agent.do("report", WORKER, contents=True)
        for record, text in zip(report["records"], report["contents"], strict=True):
            if record[0] and record[1] == packet.link and record[6:8] == [packet.first, packet.second]:
                return bytes.fromhex(text)
        raise KeyError(packet)

    def _update(self) -> None:
        for record in self._router.agent.do("report", WORKER, since=self._seen)["records"]:
            self._seen += 1
            at_ns, interface, outgoing, source, destination, protocol, first, second, length = record
            if interface in LINKS:
                self._packets.append(
                    Packet(
                        at_ns=at_ns,
                        link=interface,
                        outgoing=outgoing,
                        source=source,
                        destination=destination,
                        protocol=protocol,
                        first=first,
                        second=second,
                        length=length,
                    )
                )
