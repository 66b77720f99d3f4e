"""What the performer needs of the world, as small protocols: the real adapters and the fakes of the tests fit them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from swanroam.model.effects import Announcement, Effect, Watch
from swanroam.model.events import Event, PacketVerified
from swanroam.model.path import IPAddress, Path
from swanroam.model.tunnel import ChildSa, IkeSa, TunnelKey
from swanroam.wire.esppacket import EspPacket

__all__ = ["Charon", "Decisions", "Filter", "Hooks", "Keeper", "Kept", "Kernel", "Queue", "Sender", "Verifier"]


class Decisions(Protocol):
    """The core."""

    def step(self, event: Event) -> tuple[Effect, ...]:
        """What is to be done about an event."""


class Kernel(Protocol):
    """The kernel's states and policies. Methods raise KernelRefused."""

    def paths(self, spis: Iterable[int], own: Collection[IPAddress] = ()) -> tuple[tuple[int, Path], ...]:
        """(inbound SPI, path) of the states that exist; of all, or of some, which are likely at addresses of `own`."""

    def places(self, reqids: Iterable[int]) -> tuple[tuple[int, tuple[IPAddress, IPAddress]], ...]:
        """(reqid, outer addresses: of this end, of the other) of the policies for what goes out."""

    def recover(self, children: Sequence[ChildSa], path: Path) -> int:
        """Let states send again that a daemon left silent when it was killed in the middle of a move; how many."""

    def move(self, children: Sequence[ChildSa], old: Path, new: Path) -> None:
        """Move states and all policies but those of `inform`."""

    def inform(
        self, children: Sequence[ChildSa], old: Path, new: Path, *, silent: bool = False, returning: bool = False
    ) -> None:
        """Move the policies left, so that charon hears of it; with `silent` nothing is sent until `align`.

        With `returning` charon finds states where it had them; `align` afterwards.
        """

    def align(self, children: Sequence[ChildSa], old: Path, path: Path) -> None:
        """Have states that are at `old` be just as the path says, and send."""

    def lost(self, children: Sequence[ChildSa], places: Sequence[IPAddress]) -> tuple[int, ...]:
        """Outbound SPIs that have no state towards any of these addresses; larval ones there are removed."""

    def forget(self, children: Sequence[ChildSa], inbound: Sequence[IPAddress], outbound: Sequence[IPAddress]) -> None:
        """Delete states that lead to these addresses, of this end and of the other, where there are any."""

    def remind(self, children: Sequence[ChildSa], path: Path) -> None:
        """Have the kernel report the next packet's source to charon."""


class Kept(Protocol):
    """Addresses that a terminal has left and that tunnels go on with. Methods raise KernelRefused."""

    def keep(self, key: TunnelKey, kept: IPAddress, actual: IPAddress, remote: IPAddress) -> None:
        """Let a tunnel go on with `kept` towards `remote` while the terminal is at `actual`."""

    def drop(self, key: TunnelKey) -> None:
        """The tunnel needs its address no longer, or has it again."""

    def hold(self, inner: Iterable[IPAddress]) -> None:
        """Have packets for inner addresses delivered while charon moves them to another interface."""

    def release(self, inner: Iterable[IPAddress]) -> None:
        """Let go of inner addresses; those that are not held are no error."""


class Verifier(Protocol):
    """Checks held packets with the keys of the kernel's states."""

    def verify(self, packet_id: int, packet: EspPacket, at_s: float) -> PacketVerified:
        """Whether the packet is authentic and new, and what is in it."""


class Filter(Protocol):
    """The packet filter. Methods raise KernelRefused."""

    @property
    def present(self) -> bool:
        """Whether the rules are there, as far as is known: also that which keeps our packets from leaving in clear."""

    def watch(self, watch: Watch) -> None:
        """Let a tunnel's packets through as said, hold others."""

    def unwatch(self, key: TunnelKey) -> None:
        """Forget a tunnel."""

    def hold_down(self, key: TunnelKey) -> None:
        """Have packets for a terminal wait in the queue, until `let_down`; nothing on a terminal."""

    def let_down(self, key: TunnelKey) -> None:
        """Have packets for a terminal wait no longer than the tunnel is watched for that."""


class Queue(Protocol):
    """Where held packets wait."""

    def verdict(self, packet_id: int, *, accept: bool) -> None:
        """Let a packet go on, or drop it."""

    def carry(self, packet_id: int, changed: bytes | None) -> None:
        """Let an IKE message go on as `changed`, or as it is."""

    def let_down(self, packet_id: int) -> None:
        """Let a packet go on to its terminal."""

    def send_on(self, packet_id: int, changed: bytes | None) -> None:
        """Let a late packet go on as `changed`, or as it is."""


class Sender(Protocol):
    """Sends through tunnels. Methods raise KernelRefused."""

    def send(self, source: IPAddress, destination: IPAddress, payload: bytes) -> None:
        """Send one datagram to the other daemon."""

    def send_dummy(self, source: IPAddress, destination: IPAddress) -> None:
        """Send one ICMP packet that says nothing but where it comes from."""


class Charon(Protocol):
    """charon's commands. Methods raise CharonGone or CharonRefused."""

    async def version(self) -> str:
        """The version of strongSwan."""

    async def list_sas(self, ike_id: int | None = None) -> tuple[IkeSa, ...]:
        """All IKE_SAs, or one."""

    async def rekey_child(self, child_id: int) -> None:
        """Have a CHILD_SA negotiated anew."""

    async def terminate_child(self, child_id: int) -> None:
        """End a CHILD_SA."""

    async def terminate(self, ike_id: int, *, force: bool = False) -> None:
        """End an IKE_SA without waiting for the other end."""

    async def initiate(self, child: str, ike: str) -> None:
        """Build a CHILD_SA, with its IKE_SA."""


class Hooks(Protocol):
    """Hook implementations, isolated from each other and from us."""

    def veto_move(self, key: TunnelKey, old: Path, new: Path) -> str | None:
        """Why somebody does not want this move."""

    def announce(self, announcement: Announcement) -> None:
        """Let everybody know, without waiting for them."""


class Keeper(Protocol):
    """Writes what is known of tunnels to the store, without waiting for the disk."""

    def persist(self, key: TunnelKey) -> None:
        """Write one tunnel."""

    def forget(self, key: TunnelKey) -> None:
        """Remove one tunnel."""
