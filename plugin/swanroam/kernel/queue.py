"""NFQUEUE: the packets that the packet filter gives to the daemon, and its verdicts."""

import contextlib
import errno
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.nfnetlink import NetfilterSocket
from swanroam.model.path import IPAddress
from swanroam.wire.esppacket import EspPacket, parse_esp
from swanroam.wire.ike import IkePacket, parse_ike
from swanroam.wire.inner import parse_ip, parse_udp
from swanroam.wire.netlink import NLMSG_ERROR, NetlinkMessage
from swanroam.wire.nfqueue import NFQNL_MSG_PACKET, QueuedPacket, pack_bind, pack_verdict, unpack_packet
from swanroam.wire.ruleset import down_queue, ike_queue, late_queue, messages_queue

__all__ = [
    "CarriedIke",
    "HeldDown",
    "HeldEsp",
    "LateEsp",
    "PacketQueue",
    "QueueCounters",
    "Taken",
    "TunnelMessage",
    "Unreadable",
]

MAX_HELD: Final = 1024
DATAGRAMS_AT_ONCE: Final = 64
PREROUTING: Final = 0


@dataclass(frozen=True, slots=True)
class HeldEsp:
    """An ESP packet that waits for `PacketQueue.verdict`."""

    packet_id: int
    packet: EspPacket


@dataclass(frozen=True, slots=True)
class TunnelMessage:
    """An in-tunnel message, taken out of the traffic; its inner address is bound to the SPI that it came by."""

    source: IPAddress
    destination: IPAddress
    payload: bytes


@dataclass(frozen=True, slots=True)
class CarriedIke:
    """An IKE message on its way through a NAT; it waits for `PacketQueue.carry`."""

    packet_id: int
    packet: IkePacket


@dataclass(frozen=True, slots=True)
class LateEsp:
    """ESP that came to an address where its tunnel is no more, or not yet; it waits for `PacketQueue.send_on`."""

    packet_id: int
    spi: int
    packet: bytes
    """From its IP header on."""


@dataclass(frozen=True, slots=True)
class HeldDown:
    """A packet on its way to a terminal; it waits for `PacketQueue.let_down`."""

    packet_id: int
    destination: IPAddress


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A packet that was not what its queue is for: ESP was let go on to the kernel, a message was dropped."""

    problem: WireError


Taken = HeldEsp | TunnelMessage | CarriedIke | LateEsp | HeldDown | Unreadable


@dataclass(slots=True)
class QueueCounters:
    """What went wrong since the queue was opened; for metrics."""

    overflows: int = 0
    """Times that the socket's buffer was full: ESP went on unseen, messages were lost."""
    unreadable: int = 0
    refused_verdicts: int = 0
    """Verdicts that the kernel had no packet for."""


class PacketQueue:
    """The five queues of the packet filter, on one non-blocking socket.

    ESP that does not fit into its queue goes on to the kernel, which judges it as any other. On close all packets that
    are still held are let go. Raises KernelRefused: EPERM when another process has a queue.
    """

    def __init__(self, *, queue: int = 4555, max_held: int = MAX_HELD) -> None:
        self._held_queue, self._message_queue, self._ike_queue = queue, messages_queue(queue), ike_queue(queue)
        self._late_queue, self._down_queue = late_queue(queue), down_queue(queue)
        self._held: set[int] = set()
        self._held_down: set[int] = set()
        self._early: deque[NetlinkMessage] = deque()
        self.counters = QueueCounters()
        self._socket = NetfilterSocket()
        try:
            self._bind(max_held)
        except KernelRefused:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """The file descriptor, readable when packets wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let all held packets go on, and close the socket."""
        held = ((self._held_queue, self._held), (self._down_queue, self._held_down))
        verdicts = [pack_verdict(queue, number, accept=True) for queue, every in held for number in sorted(every)]
        if verdicts:
            self._held.clear()
            self._held_down.clear()
            # The kernel drops what is left when the socket closes, so an error here has no remedy.
            with contextlib.suppress(KernelRefused):
                self._socket.send("last verdicts", b"".join(verdicts))
        self._socket.close()

    def receive(self, limit: int = DATAGRAMS_AT_ONCE) -> list[Taken]:
        """The packets that wait, at most about `limit`; an empty list when there is none. Never blocks."""
        found: list[Taken] = []
        verdicts: list[bytes] = []
        for _ in range(limit):
            messages = self._next_messages()
            if not messages:
                break
            for message in messages:
                if message.type == NFQNL_MSG_PACKET:
                    found.append(self._take(message, verdicts))
                elif message.type == NLMSG_ERROR and message.error:
                    self.counters.refused_verdicts += 1
        if verdicts:
            self._socket.send("verdicts", b"".join(verdicts))
        return found

    def verdict(self, packet_id: int, *, accept: bool) -> None:
        """Let a held packet go on, or drop it; one that has its verdict already is no error."""
        if packet_id in self._held:
            self._held.discard(packet_id)
            self._socket.send("verdict", pack_verdict(self._held_queue, packet_id, accept=accept))

    def carry(self, packet_id: int, changed: bytes | None) -> None:
        """Let an IKE message go on as `changed`; as it is, where that is None."""
        self._socket.send("verdict", pack_verdict(self._ike_queue, packet_id, accept=True, changed=changed))

    def send_on(self, packet_id: int, changed: bytes | None) -> None:
        """Let a late packet go on as `changed`; as it is, where that is None."""
        self._socket.send("verdict", pack_verdict(self._late_queue, packet_id, accept=True, changed=changed))

    def let_down(self, packet_id: int) -> None:
        """Let a packet go on to its terminal."""
        self._held_down.discard(packet_id)
        self._socket.send("verdict", pack_verdict(self._down_queue, packet_id, accept=True))

    def _bind(self, max_held: int) -> None:
        queues = (self._held_queue, self._message_queue, self._ike_queue, self._late_queue, self._down_queue)
        binds = (
            pack_bind(queue, number, max_held=max_held, fail_open=queue != self._message_queue)
            for number, queue in enumerate(queues, 1)
        )
        # All in one datagram: packets may come between the acknowledgements, and must not be lost.
        self._socket.send("bind queues", b"".join(binds))
        acknowledged = 0
        while acknowledged < len(queues):
            for message in self._socket.receive("bind queues"):
                if message.type != NLMSG_ERROR:
                    self._early.append(message)
                    continue
                if message.error:
                    raise KernelRefused(f"bind queue {queues[message.sequence - 1]}", message.error)
                acknowledged += 1

    def _next_messages(self) -> list[NetlinkMessage]:
        if self._early:
            early = list(self._early)
            self._early.clear()
            return early
        try:
            return self._socket.receive("queues", block=False)
        except KernelRefused as refused:
            if refused.code != errno.ENOBUFS:
                raise
            self.counters.overflows += 1
            # The error stands for packets that are gone; those that fitted are still to be read.
            return self._socket.receive("queues", block=False)

    def _take(self, message: NetlinkMessage, verdicts: list[bytes]) -> Taken:
        queued: QueuedPacket | None = None
        try:
            queued = unpack_packet(message)
            if queued.queue == self._held_queue:
                held = HeldEsp(queued.packet_id, parse_esp(queued.payload))
                self._held.add(held.packet_id)
                return held
            if queued.queue == self._ike_queue:
                return CarriedIke(queued.packet_id, parse_ike(queued.payload, marked=queued.hook == PREROUTING))
            if queued.queue == self._late_queue:
                return LateEsp(queued.packet_id, parse_esp(queued.payload).spi, queued.payload)
            if queued.queue == self._down_queue:
                down = HeldDown(queued.packet_id, parse_ip(queued.payload).destination)
                self._held_down.add(down.packet_id)
                return down
            verdicts.append(pack_verdict(queued.queue, queued.packet_id, accept=False))
            udp = parse_udp(queued.payload)
            return TunnelMessage(udp.source, udp.destination, udp.payload)
        except WireError as error:
            self.counters.unreadable += 1
            if queued is not None and queued.queue != self._message_queue:
                verdicts.append(pack_verdict(queued.queue, queued.packet_id, accept=True))
            return Unreadable(error)
