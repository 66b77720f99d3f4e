"""Several netlink requests in one system call, and what the kernel says to each."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from swanroam.kernel.netlink import NetlinkSocket
from swanroam.wire.netlink import NLMSG_ERROR, Flag, NetlinkMessage, pack_message

__all__ = ["REPLACE", "Answer", "Request", "Transactions"]

REQUEST: Final = Flag.REQUEST.value
REQUEST_ACK: Final = (Flag.REQUEST | Flag.ACK).value
REPLACE: Final = Flag.REPLACE.value


OWN: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Request:
    """One message: its type, payload and flags besides NLM_F_REQUEST; `operation` names it in errors."""

    operation: str
    type: int
    payload: bytes = field(repr=False)
    flags: int = 0


@dataclass(slots=True)
class Answer:
    """What the kernel said to one request: an errno, 0 for none, and messages."""

    code: int = 0
    messages: list[NetlinkMessage] = field(default_factory=list)


class Transactions:
    """Batches of requests over a socket of someone else's."""

    def __init__(self, socket: NetlinkSocket) -> None:
        self._socket = socket
        # Apart from the numbers that the socket itself gives its requests, and charon its own.
        self._sequence = itertools.count(OWN)

    @staticmethod
    def caused(event: NetlinkMessage) -> bool:
        """Whether one of these batches is why the kernel tells this: an event has the request's sequence number."""
        return event.sequence >= OWN

    def transact(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests in one system call and collect what the kernel says to each. Raises KernelRefused.

        Only the last is acknowledged; the kernel goes through them in order, and tells of each that failed.
        """
        answers = [Answer() for _ in requests]
        if not requests:
            return answers
        data: list[bytes] = []
        indexes: dict[int, int] = {}
        for index, request in enumerate(requests):
            sequence = next(self._sequence) & 0xFFFFFFFF
            indexes[sequence] = index
            flags = request.flags | (REQUEST_ACK if index == len(requests) - 1 else REQUEST)
            data.append(pack_message(request.type, flags, sequence, request.payload))
        operation = requests[-1].operation
        self._socket.send(operation, b"".join(data))
        while True:
            for message in self._socket.receive(operation):
                index = indexes.get(message.sequence, -1)
                if index < 0:
                    continue
                if message.type != NLMSG_ERROR:
                    answers[index].messages.append(message)
                    continue
                answers[index].code = message.error
                if index == len(requests) - 1:
                    return answers
