"""Addresses and routes of a host, changed in one system call: a move is one batch of rtnetlink messages.

Written with plain structs, so that the lab does not lean on the code it tests: linux/rtnetlink.h, if_addr.h, if_link.h.
"""

import ipaddress
import itertools
import os
import socket
import struct
from collections.abc import Iterable

from tests.lab.errors import LinkRefused
from tests.lab.netns import Namespace

__all__ = ["Links", "Request", "hardware_bytes"]

RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH = 16, 20, 21, 24, 25, 28
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x400
NLMSG_ERROR = 2
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 4, 5, 6
IFF_UP = 1
IFA_F_NODAD = 0x02
ARP_REQUEST, ETH_P_ARP = 1, 0x0806

Request = tuple[int, int, bytes, str]
"""Message type, flags, body, words for an error message."""


def hardware_bytes(address: str) -> bytes:
    """The six bytes of a MAC address as `ip` writes it."""
    return bytes.fromhex(address.replace(":", ""))


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("HH", len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


class Links:
    """The interfaces of a namespace, by name."""

    def __init__(self, namespace: Namespace) -> None:
        self._where = namespace.name
        self._numbers = itertools.count(1)
        with namespace.entered():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            # Made before it is needed: opening a packet socket in the middle of a move would take its time.
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.index = {name: number for number, name in socket.if_nameindex()}
            self._hardware = {name: _hardware_address(self._wire, name) for name in self.index}
        self._socket.bind((0, 0))
        self.names = {number: name for name, number in self.index.items()}

    def add_address(self, link: str, address: str) -> Request:
        """`ip addr add ADDRESS/LENGTH dev LINK`."""
        return RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, self._address(link, address), f"adding {address} to {link}"

    def remove_address(self, link: str, address: str) -> Request:
        """`ip addr del ADDRESS/LENGTH dev LINK`."""
        return RTM_DELADDR, 0, self._address(link, address), f"removing {address} from {link}"

    def default_route(self, link: str, gateway: str, metric: int = 0) -> Request:
        """`ip route replace default via GATEWAY dev LINK metric METRIC`."""
        body = self._route(link, gateway, metric)
        return RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, f"default route via {gateway}"

    def no_default_route(self, link: str, gateway: str, metric: int = 0) -> Request:
        """`ip route del default via GATEWAY dev LINK metric METRIC`."""
        return RTM_DELROUTE, 0, self._route(link, gateway, metric), f"removing the default route via {gateway}"

    def turn(self, link: str, *, up: bool) -> Request:
        """`ip link set LINK up` or `down`."""
        body = struct.pack("=BxHiII", 0, 0, self.index[link], IFF_UP if up else 0, IFF_UP)
        return RTM_NEWLINK, 0, body, f"turning {link} {'up' if up else 'down'}"

    def neighbour(self, link: str, address: str, hardware: bytes) -> Request:
        """`ip neigh replace ADDRESS lladdr HARDWARE dev LINK nud permanent`."""
        packed = ipaddress.ip_address(address)
        body = struct.pack("=BxxxiHBB", _family(packed), self.index[link], 0x80, 0, 0)
        body += _attribute(1, packed.packed) + _attribute(2, hardware)
        return RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"neighbour {address} on {link}"

    def apply(self, requests: Iterable[Request]) -> None:
        """Carry out requests in order, in one system call; raises LinkRefused for the first that the kernel refused."""
        sent: dict[int, str] = {}
        data = b""
        for kind, flags, body, words in requests:
            number = next(self._numbers)
            sent[number] = words
            data += struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, number, 0) + body
        self._socket.send(data)
        refused = ""
        while sent:
            answer = self._socket.recv(65536)
            while len(answer) >= 20:
                length, kind, _flags, number, _pid, code = struct.unpack_from("=IHHIIi", answer)
                if kind == NLMSG_ERROR and (words := sent.pop(number, "")) and code:
                    refused = refused or f"{self._where}: {words}: {os.strerror(-code)}"
                answer = answer[(length + 3) & ~3 :]
        if refused:
            raise LinkRefused(refused)

    def announce(self, link: str, address: str) -> None:
        """Tell the neighbours who has an IPv4 address now, as a DHCP client does (RFC 5227 section 2.3)."""
        own, packed = self._hardware[link], ipaddress.ip_address(address).packed
        if len(packed) != 4:
            return  # the router has it from the beginning (topology)
        frame = b"\xff" * 6 + own + struct.pack("!HHHBBH", ETH_P_ARP, 1, 0x0800, 6, 4, ARP_REQUEST)
        self._wire.sendto(frame + own + packed + bytes(6) + packed, (link, ETH_P_ARP))

    def hardware(self, link: str) -> bytes:
        """MAC address of a link."""
        return self._hardware[link]

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._wire.close()

    def _address(self, link: str, address: str) -> bytes:
        interface = ipaddress.ip_interface(address)
        # Of IPv6 without detection of duplicates, which takes a second.
        flags = IFA_F_NODAD if interface.version == 6 else 0
        body = struct.pack("=BBBBi", _family(interface), interface.network.prefixlen, flags, 0, self.index[link])
        return body + _attribute(IFA_LOCAL, interface.packed) + _attribute(IFA_ADDRESS, interface.packed)

    def _route(self, link: str, gateway: str, metric: int) -> bytes:
        address = ipaddress.ip_address(gateway)
        # destination and source length 0, tos, main table, RTPROT_DHCP, universe, unicast
        body = struct.pack("=BBBBBBBBI", _family(address), 0, 0, 0, 254, 16, 0, 1, 0)
        body += _attribute(RTA_PRIORITY, struct.pack("=I", metric)) if metric else b""
        return body + _attribute(RTA_GATEWAY, address.packed) + _attribute(RTA_OIF, struct.pack("=i", self.index[link]))


def _family(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _hardware_address(wire: socket.socket, link: str) -> bytes:
    # A packet socket bound to an interface knows its address, without a request to the kernel.
    wire.bind((link, 0))
    hardware: bytes = wire.getsockname()[4]
    return hardware
