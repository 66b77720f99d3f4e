"""Streams of numbered UDP packets: 8 bytes sequence number, 8 bytes time of sending, padding."""

import errno
import socket
import struct
import time

PACKET = struct.Struct("!QQ")
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
IP_FREEBIND = 15  # linux/in.h
IPV6_FREEBIND = 78  # linux/in6.h


def family_of(address):
    """Address family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def arrival_ns(ancillary):
    """When the kernel received a packet, on the monotonic clock: independent of how late this process was woken."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            return time.monotonic_ns() - (time.time_ns() - (seconds * 1_000_000_000 + nanoseconds))
    return time.monotonic_ns()


class Sender:
    """Sends a packet each interval; one that the kernel refuses is tried again each millisecond until it goes.

    Reported for each packet: sequence number, time of the first attempt, time it went, errno of the first refusal or 0.
    """

    RETRY_NS = 1_000_000

    def __init__(self, loop, source, destination, port, interval_ms=10.0, count=0, size=100):
        self._loop = loop
        self._socket = socket.socket(family_of(destination), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # The inner address may be gone for a moment when the stream starts, or while charon follows a move.
        if ":" in source:
            self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            self._socket.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        self._socket.bind((source, 0))
        self._to = (destination, port)
        self._interval_ns = int(interval_ms * 1_000_000)
        self._count = count
        self._padding = bytes(max(0, size - PACKET.size))
        self._records = []
        self._first_attempt_ns = self._refusal = 0
        self._due_ns = time.monotonic_ns()
        self._open = True
        loop.at(self._due_ns, self._send)

    def _send(self):
        if not self._open:
            return
        now_ns = time.monotonic_ns()
        self._first_attempt_ns = self._first_attempt_ns or now_ns
        try:
            self._socket.sendto(PACKET.pack(len(self._records), now_ns) + self._padding, self._to)
        except OSError as error:
            # An ICMP error for an earlier packet surfaces at this call; the packet itself was not tried yet.
            if error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                self._refusal = self._refusal or error.errno
            self._loop.at(now_ns + self.RETRY_NS, self._send)
            return
        self._records.append((len(self._records), self._first_attempt_ns, now_ns, self._refusal))
        self._first_attempt_ns = self._refusal = 0
        if len(self._records) != self._count:
            self._due_ns = max(self._due_ns + self._interval_ns, now_ns)
            self._loop.at(self._due_ns, self._send)

    def report(self, since=0):
        """Records from an index on, and what the packet due now waits for."""
        waiting = [self._first_attempt_ns, self._refusal] if self._first_attempt_ns else None
        return {"records": self._records[since:], "waiting": waiting}

    def close(self):
        """Stop sending; returns the final report."""
        self._open = False
        self._socket.close()
        return self.report()


class Receiver:
    """Receives numbered packets; reported for each: sequence number, time of sending, time of arrival."""

    def __init__(self, loop, port, address="0.0.0.0"):  # noqa: S104 -- the inner address is not there at all times
        self._loop = loop
        self._socket = socket.socket(family_of(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((address, port))
        self._records = []
        loop.watch(self._socket.fileno(), self._receive)

    def _receive(self):
        data, ancillary, _flags, _source = self._socket.recvmsg(2048, 64)
        if len(data) >= PACKET.size:
            self._records.append((*PACKET.unpack_from(data), arrival_ns(ancillary)))

    def report(self, since=0):
        """Records from an index on."""
        return {"records": self._records[since:]}

    def close(self):
        """Stop receiving; returns the final report."""
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        return self.report()
