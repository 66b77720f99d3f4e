"""What passes the interfaces of a host, packet by packet, and packets put on the wire by hand."""

import ctypes
import socket
import struct
import time

from udp import SO_TIMESTAMPNS, arrival_ns

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
KEEP_BYTES = 1600


NAT_T = 4500


def describe(packet):
    """Facts of an IP packet: source, destination, protocol; (SPI, sequence), (ports) or (ICMP type, code); ports.

    The ports are those of UDP around ESP (RFC 3948 section 2.1), None around anything else.
    """
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
    ports = None
    # Shorter ones are keepalives; those that begin with four zero bytes, the non-ESP marker, are IKE.
    if protocol == socket.IPPROTO_UDP and NAT_T in (first, second) and len(packet) >= head + 16:
        spi, sequence = struct.unpack_from("!II", packet, head + 8)
        if spi:
            ports, first, second = (first, second), spi, sequence
    return source, destination, protocol, first, second, ports


# Classic BPF, linux/filter.h. Each step: code, steps to skip if true and if false, value.
ONLY_IKE = b"".join(
    struct.pack("HBBI", *step)
    for step in (
        (0x30, 0, 0, 9),  # the protocol of the IPv4 header
        (0x15, 0, 8, socket.IPPROTO_UDP),
        (0xB1, 0, 0, 0),  # X is the header's length
        (0x48, 0, 0, 0),  # source port
        (0x15, 4, 0, 500),
        (0x48, 0, 0, 2),  # destination port
        (0x15, 2, 0, 500),
        (0x40, 0, 0, 8),  # where ESP has its SPI, IKE on 4500 has zero
        (0x15, 0, 1, 0),
        (0x06, 0, 0, 0x40000),  # all of it
        (0x06, 0, 0, 0),  # nothing
    )
)


class Capture:
    """Records each IP packet on an interface.

    Reported for each: time, source, destination, protocol, two facts and ports as in `describe`, length.
    """

    def __init__(self, loop, interface, only_ike=False):
        self._loop = loop
        # Cooked, so that the packet begins with its IP header whatever the interface is.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        if only_ike:
            steps = ctypes.create_string_buffer(ONLY_IKE)
            program = struct.pack("HP", len(ONLY_IKE) // 8, ctypes.addressof(steps))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self._socket.bind((interface, ETH_P_ALL))
        self._records = []
        self._bytes = []
        loop.watch(self._socket.fileno(), self._receive)

    def _receive(self):
        # Many at a time: a process that is woken for each packet takes from the processor what it should measure.
        for _ in range(64):
            try:
                packet, ancillary, _flags, _address = self._socket.recvmsg(KEEP_BYTES, 64)
            except BlockingIOError:
                return
            if facts := describe(packet):
                self._records.append((arrival_ns(ancillary), *facts, len(packet)))
                self._bytes.append(packet)

    def report(self, since=0, contents=False):
        """Records from an index on; with their bytes in hexadecimal where asked."""
        report = {"records": self._records[since:]}
        if contents:
            report["contents"] = [packet.hex() for packet in self._bytes[since : since + 1]]
        return report

    def close(self):
        """Stop."""
        self._loop.forget(self._socket.fileno())
        self._socket.close()


def flood(packet, destination, count, per_second=0, network="203.0.113.0"):
    """Send an IPv4 packet many times, each time with another source out of a network of 16 bits; returns how often."""
    data = bytearray(bytes.fromhex(packet))
    base = struct.unpack("!I", socket.inet_aton(network))[0] & 0xFFFF0000
    sent, began_s = 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(count):
            data[12:16] = struct.pack("!I", base | (number * 40503 + 257) & 0xFFFF)
            try:
                sent += raw.sendto(bytes(data), (destination, 0)) > 0
            except OSError:  # a full queue, or a source that the kernel does not take
                continue
            ahead_s = number / per_second - (time.monotonic() - began_s) if per_second else 0
            if ahead_s > 0:
                time.sleep(ahead_s)
    return sent


def say(source, source_port, destination, port, payload):
    """Send one UDP datagram, also from a port that somebody else has (the checksum is left out)."""
    data = bytes.fromhex(payload)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.bind((source, 0))
        return raw.sendto(struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data, (destination, 0))


def inject(packet, destination):
    """Send an IPv4 packet, given in hexadecimal with its header, as it is (the kernel fills in the checksum)."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        return raw.sendto(bytes.fromhex(packet), (destination, 0))
