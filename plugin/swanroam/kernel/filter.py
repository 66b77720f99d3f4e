"""The packet filter: a table of nftables of its own, whose sets follow the tunnels over netlink.

Rules are installed with one run of the nft program, off the critical path. After that a tunnel's change is one netlink
transaction of its set elements.
"""

import errno
import itertools
from types import TracebackType
from typing import Final, Self

from swanroam.errors import KernelRefused, WireError
from swanroam.kernel.elements import WantedElements
from swanroam.kernel.nfnetlink import NetfilterSocket
from swanroam.kernel.nft import run_nft
from swanroam.model.effects import Watch
from swanroam.model.path import IPAddress
from swanroam.model.tunnel import Role, TunnelKey
from swanroam.wire.netlink import NLMSG_ERROR
from swanroam.wire.nftables import (
    NFNLGRP_NFTABLES,
    Change,
    ElementChange,
    Transaction,
    counter_query,
    name_of_table,
    pack_delete_table,
    pack_transactions,
    unpack_counter,
)
from swanroam.wire.ruleset import counters_of, ruleset

__all__ = ["PacketFilter"]

LEAVING_MS: Final = 500
"""How long packets of a left path may still be under way; the far side of reordering seen on mobile networks."""
REMOVALS: Final = frozenset((Change.DELTABLE, Change.DELCHAIN, Change.DELRULE, Change.DELSET, Change.DELOBJ))


class PacketFilter:
    """The table `inet TABLE`, and what of it is wanted for each watched tunnel.

    `fileno` is readable when nftables changed; `process_events` then tells whether the table is still whole, and
    `resync` repairs it. Methods raise KernelRefused; what was wanted is kept then, and `present` is false.
    """

    def __init__(
        self,
        role: Role,
        *,
        table: str = "swanroam",
        queue: int = 4555,
        port: int = 4555,
        leaving_ms: int = LEAVING_MS,
        program: str = "nft",
    ) -> None:
        self._role, self._table, self._queue, self._port = role, table, queue, port
        self._program = program
        self._sequence = itertools.count(1)
        self._elements = WantedElements(holds=role is Role.GATEWAY, leaving_ms=leaving_ms)
        self._installed = False
        self._whole = False
        self._requests = NetfilterSocket()
        try:
            self._events = NetfilterSocket([NFNLGRP_NFTABLES])
        except KernelRefused:
            self._requests.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; the table stays."""
        self._events.close()
        self._requests.close()

    def fileno(self) -> int:
        """The file descriptor of the change events."""
        return self._events.fileno()

    @property
    def present(self) -> bool:
        """Whether the table is whole, as far as the events that were processed tell."""
        return self._whole

    def install(self) -> None:
        """Install the rules, replacing a left-over table of the same name, and the elements of watched tunnels."""
        self._whole = False
        run_nft(self._program, ruleset(self._role, table=self._table, queue=self._queue, port=self._port), self._table)
        self._drain_events()  # those of our own installation, and of what it replaced
        self._installed = self._whole = True
        try:
            self._apply(self._elements.everything())
        except KernelRefused:
            self._whole = False
            raise

    resync = install

    def remove(self) -> None:
        """Remove the table with all that is in it; no error when it is gone already."""
        self._installed = self._whole = False
        try:
            self._commit(pack_delete_table(self._table, self._next_sequence(3)))
        except KernelRefused as refused:
            if refused.code != errno.ENOENT:
                raise

    def watch(self, watch: Watch) -> None:
        """Have the table hold what `watch` says of its tunnel, in one transaction."""
        self._change(self._elements.watch(watch))

    def unwatch(self, key: TunnelKey) -> None:
        """Forget a tunnel; one that is not watched is no error."""
        self._change(self._elements.unwatch(key))

    def hold_down(self, key: TunnelKey) -> None:
        """Have packets for a terminal wait in the queue, until `let_down`; nothing on a terminal."""
        self._change(self._elements.hold_down(key))

    def let_down(self, key: TunnelKey) -> None:
        """Have packets for a terminal wait no longer than the tunnel is watched for that."""
        self._change(self._elements.let_down(key))

    def translate(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Let a tunnel in UDP go on with `kept` towards `remote` while this terminal is at `actual`.

        Raises KernelRefused with EEXIST where another tunnel to that address has its own at `actual`.
        """
        self._change(self._elements.translate(key, kept, actual, remote))

    def untranslate(self, key: TunnelKey) -> None:
        """The tunnel has its address again, or is no more; no error where none was translated."""
        self._change(self._elements.untranslate(key))

    def process_events(self) -> bool:
        """Read the change events that wait, and say whether the table is still whole."""
        try:
            self._read_events()
        except KernelRefused:
            self._whole = False  # events were lost: anything may have happened
        return self._whole

    def counters(self) -> dict[str, int]:
        """Packets counted by the rules, by the names that swanroam.wire.ruleset has for them."""
        counts = {}
        for name in counters_of(self._role):
            answers = self._requests.request(f"nft counter {name}", Change.GETOBJ, counter_query(self._table, name))
            try:
                counts[name] = sum(unpack_counter(answer) for answer in answers)
            except WireError as error:
                raise KernelRefused(f"nft counter {name} ({error})", errno.EBADMSG) from error
        return counts

    def _change(self, changes: list[ElementChange]) -> None:
        if not self._installed:
            return
        try:
            self._apply(changes)
        except KernelRefused as refused:
            self._whole = False
            # The table, a set or an element is not there: somebody changed it behind our back.
            if refused.code != errno.ENOENT:
                raise
            self.resync()

    def _apply(self, changes: list[ElementChange]) -> None:
        for transaction in pack_transactions(self._table, changes, self._next_sequence(2 + 2 * len(changes))):
            self._commit(transaction)

    def _next_sequence(self, count: int) -> int:
        sequence = next(self._sequence)
        self._sequence = itertools.count((sequence + count) & 0x7FFFFFFF)
        return sequence

    def _commit(self, transaction: Transaction) -> None:
        operation = f"nft transaction on table {self._table}"
        self._requests.send(operation, transaction.data)
        failure = 0
        while True:
            for message in self._requests.receive(operation):
                if message.type != NLMSG_ERROR or not transaction.first <= message.sequence <= transaction.last:
                    continue
                failure = failure or message.error
                # An error about the begin message is about the transaction as a whole, and ends it.
                if message.sequence in (transaction.first, transaction.last):
                    if failure:
                        raise KernelRefused(operation, failure)
                    return

    def _read_events(self) -> None:
        while messages := self._events.receive("nft events", block=False):
            for message in messages:
                foreign = message.type in REMOVALS or (
                    message.type == Change.DELSETELEM and message.port != self._requests.own_port()
                )
                if foreign and name_of_table(message) == self._table:
                    self._whole = False

    def _drain_events(self) -> None:
        drained = False
        while not drained:
            try:
                drained = not self._events.receive("nft events", block=False)
            except KernelRefused as refused:
                if refused.code != errno.ENOBUFS:
                    raise
