"""What passed the router: every packet, with its time and its link, to be asked about between two instants."""

import bisect
import functools
import ipaddress
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.hosts import Host

__all__ = ["Capture", "Packet"]

ESP, UDP, ICMP = 50, 17, 1
IKE, NAT_T = 500, 4500
LINK = "wan"
IPV4_HEADER, IPV6_HEADER, UDP_HEADER = 20, 40, 8
IKEV2 = 0x20
INFORMATIONAL = 5, 37
"""Exchanges of IKEv1 (RFC 2408 section 3.1) and of IKEv2 (RFC 7296 section 3.1)."""
EMPTY = 80
"""Octets of a message without payloads, with the longest of usual padding, initialization vector and checksum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """An IP packet on the link between router and gateway, as seen at the gateway's end of it."""

    at_ns: int
    """Monotonic, by the kernel's own stamp."""
    source: str
    destination: str
    protocol: int
    first: int
    """SPI of ESP, also of ESP in UDP, source port of UDP and TCP, type of ICMP."""
    second: int
    """Sequence number of ESP, destination port of UDP and TCP, code of ICMP."""
    ports: tuple[int, int] | None
    """Source and destination of UDP around ESP, None of any other packet."""
    length: int

    @property
    def encap(self) -> bool:
        """Whether it is ESP in UDP."""
        return self.ports is not None

    @property
    def esp(self) -> bool:
        """Whether it is ESP, with or without UDP around it."""
        return self.protocol == ESP or self.encap

    @property
    def keepalive(self) -> bool:
        """Whether it is what keeps a NAT's mapping: UDP of one byte on port 4500 (RFC 3948 section 2.3)."""
        return self._udp_on(NAT_T) and self.length == 29

    @property
    def ike(self) -> bool:
        """Whether it belongs to charon: UDP on port 500, or on 4500 where it is neither ESP nor a keepalive."""
        return self._udp_on(IKE) or (self._udp_on(NAT_T) and not self.keepalive)

    def _udp_on(self, port: int) -> bool:
        return self.protocol == UDP and not self.encap and port in {self.first, self.second}

    @property
    def icmp(self) -> bool:
        """Whether it is ICMP outside any tunnel."""
        return self.protocol == ICMP

    @property
    def cleartext(self) -> bool:
        """Whether it has an inner address, and so should be nowhere on the internet."""
        return _inner(self.source) or _inner(self.destination)


def _negotiates(message: bytes) -> bool:
    """Whether an IKE message may change anything: IKEv1's informational exchanges and empty ones of IKEv2 do not."""
    version, exchange, length = struct.unpack_from("!17xBBx4xI", message)
    return exchange not in INFORMATIONAL or (version == IKEV2 and length > EMPTY)


@functools.cache
def _inner(address: str) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(inner) for inner in ("10.0.0.0/8", "fd00::/8"))


class Capture:
    """All packets between router and gateway, from now on; with `only_ike` the others cost the machine nothing."""

    def __init__(self, router: Host, *, only_ike: bool = False) -> None:
        self._agent = router.agent
        self._worker = "capture-ike" if only_ike else "capture"
        self._packets: list[Packet] = []
        self._agent.do("capture", self._worker, interface=LINK, only_ike=only_ike)

    def packets(self, since_ns: int = 0, until_ns: int | None = None) -> Iterator[Packet]:
        """Packets in the order of capture."""
        for record in self._agent.do("report", self._worker, since=len(self._packets))["records"]:
            at_ns, source, destination, protocol, first, second, ports, length = record
            self._packets.append(
                Packet(
                    at_ns=at_ns,
                    source=source,
                    destination=destination,
                    protocol=protocol,
                    first=first,
                    second=second,
                    ports=tuple(ports) if ports else None,
                    length=length,
                )
            )
        begin = bisect.bisect_left(self._packets, since_ns, key=lambda packet: packet.at_ns)
        for packet in itertools.islice(self._packets, begin, None):
            if until_ns is not None and packet.at_ns >= until_ns:
                break
            yield packet

    def ike(self, since_ns: int = 0, until_ns: int | None = None, host: str | None = None) -> list[Packet]:
        """IKE packets, both ways; of one outer address where given."""
        return [
            packet
            for packet in self.packets(since_ns, until_ns)
            if packet.ike and host in {None, packet.source, packet.destination}
        ]

    def negotiations(self, since_ns: int, until_ns: int) -> list[Packet]:
        """IKE packets but those of dead peer detection, which may come at any time."""
        return [packet for packet in self.ike(since_ns, until_ns) if _negotiates(self._message(packet))]

    def _message(self, packet: Packet) -> bytes:
        contents = self.contents(packet)
        header = IPV4_HEADER if contents[0] >> 4 == 4 else IPV6_HEADER
        marker = 4 if NAT_T in {packet.first, packet.second} else 0
        return contents[header + UDP_HEADER + marker :]

    def esp_from(
        self, address: str, since_ns: int = 0, until_ns: int | None = None, *, encap: bool | None = None
    ) -> list[Packet]:
        """ESP packets that an outer address sent; only with, or only without, UDP around them where asked."""
        return [packet for packet in self._esp(since_ns, until_ns, encap) if packet.source == address]

    def esp_to(
        self, address: str, since_ns: int = 0, until_ns: int | None = None, *, encap: bool | None = None
    ) -> list[Packet]:
        """ESP packets that the gateway sent to an outer address; `encap` as above."""
        return [packet for packet in self._esp(since_ns, until_ns, encap) if packet.destination == address]

    def _esp(self, since_ns: int, until_ns: int | None, encap: bool | None) -> Iterator[Packet]:
        for packet in self.packets(since_ns, until_ns):
            if packet.esp and encap in {None, packet.encap}:
                yield packet

    def cleartext(self, since_ns: int = 0, until_ns: int | None = None) -> list[Packet]:
        """Packets that should have been in a tunnel."""
        return [packet for packet in self.packets(since_ns, until_ns) if packet.cleartext]

    def contents(self, packet: Packet) -> bytes:
        """The bytes of a packet, from its IP header on."""
        number = self._packets.index(packet)
        return bytes.fromhex(self._agent.do("report", self._worker, since=number, contents=True)["contents"][0])
