"""What passes the interfaces of a host, packet by packet, and packets put on the wire by hand."""

import socket
import struct

from udp import SO_TIMESTAMPNS, arrival_ns

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
OUTGOING = 4  # linux/if_packet.h PACKET_OUTGOING
KEEP_BYTES = 1600


def describe(packet):
    """Facts of an IP packet: source, destination, protocol, then (SPI, sequence), (ports) or (ICMP type, code)."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        protocol, head = packet[9], (packet[0] & 15) * 4
        source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        protocol, head = packet[6], 40
        source, destination = (socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24))
    else:
        return None
    if protocol == socket.IPPROTO_ESP and len(packet) >= head + 8:
        first, second = struct.unpack_from("!II", packet, head)
    elif protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP) and len(packet) >= head + 4:
        first, second = struct.unpack_from("!HH", packet, head)
    elif protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6) and len(packet) >= head + 2:
        first, second = packet[head], packet[head + 1]
    else:
        first = second = 0
    return source, destination, protocol, first, second


class Capture:
    """Records each IP packet on every interface of the namespace.

    Reported for each: time, interface, outgoing, source, destination, protocol, two facts as in `describe`, length.
    """

    def __init__(self, loop):
        self._loop = loop
        # Cooked, so that the packet begins with its IP header whatever the interface is.
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._records = []
        self._bytes = []
        loop.watch(self._socket.fileno(), self._receive)

    def _receive(self):
        try:
            packet, ancillary, _flags, address = self._socket.recvmsg(KEEP_BYTES, 64)
        except BlockingIOError:
            return
        interface, _protocol, kind = address[:3]
        if facts := describe(packet):
            self._records.append((arrival_ns(ancillary), interface, kind == OUTGOING, *facts, len(packet)))
            self._bytes.append(packet)

    def report(self, since=0, contents=False):
        """Records from an index on; with their bytes in hexadecimal where asked."""
        report = {"records": self._records[since:]}
        if contents:
            report["contents"] = [packet.hex() for packet in self._bytes[since:]]
        return report

    def close(self):
        """Stop."""
        self._loop.forget(self._socket.fileno())
        self._socket.close()


def inject(packet, destination):
    """Send an IPv4 packet, given in hexadecimal with its header, as it is (the kernel fills in the checksum)."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        return raw.sendto(bytes.fromhex(packet), (destination, 0))
