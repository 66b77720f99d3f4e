"""Verifies held packets with what the kernel's own state has: keys and replay window, read for each packet.

The keys are in this process only while the packet is looked at. Reading the state anew costs one system call, and
gives the sequence numbers as they are now.
"""

import logging
from ipaddress import IPv4Address
from typing import Final, Protocol

from swanroam.errors import KernelRefused
from swanroam.model.events import PacketVerified, Reason
from swanroam.model.path import IPAddress
from swanroam.wire.esp import EspState, ReplayWindow, VerifiedPacket, verify
from swanroam.wire.espcrypt import Algorithm
from swanroam.wire.esppacket import EspPacket
from swanroam.wire.xfrm import Algorithm as StateAlgorithm
from swanroam.wire.xfrm import SaState

__all__ = ["EspVerifier", "esp_state"]

log = logging.getLogger(__name__)

WORD_BITS: Final = 32
NOBODY: Final = EspPacket(IPv4Address(0), IPv4Address(0), 0, 1, bytes(96))
WARMING: Final = (
    EspState(combined=Algorithm("rfc4106(gcm(aes))", bytes(20), 128)),
    EspState(combined=Algorithm("rfc7539esp(chacha20,poly1305)", bytes(36), 128)),
    EspState(encryption=Algorithm("cbc(aes)", bytes(16)), authentication=Algorithm("hmac(sha256)", bytes(32), 128)),
)


class States(Protocol):
    """Where states are read."""

    def state(self, destination: IPAddress, spi: int) -> SaState | None:
        """The state with its keys; None when there is none."""


class EspVerifier:
    """Verifies packets against the states of `kernel`."""

    def __init__(self, kernel: States) -> None:
        self._kernel = kernel
        # OpenSSL sets a cipher up at its first use, which takes longer than a packet should be held.
        for state in WARMING:
            verify(state, NOBODY)

    def verify(self, packet_id: int, packet: EspPacket, at_s: float) -> PacketVerified:
        """Whether the packet is authentic and new, and what is in it."""
        try:
            state = self._kernel.state(packet.destination, packet.spi)
        except KernelRefused as error:
            log.warning("reading the state of SPI %08x failed: %s", packet.spi, error)
            return PacketVerified(at_s=at_s, packet_id=packet_id, reason=Reason.KERNEL_REFUSED)
        if state is None:
            return PacketVerified(at_s=at_s, packet_id=packet_id, reason=Reason.UNKNOWN_SPI)
        known = esp_state(state)
        if not known.window.size:
            # The kernel takes old packets for new ones; nothing tells them apart here either.
            return PacketVerified(at_s=at_s, packet_id=packet_id, reason=Reason.REPLAYED)
        verdict = verify(known, packet)
        if not isinstance(verdict, VerifiedPacket):
            return PacketVerified(at_s=at_s, packet_id=packet_id, reason=verdict)
        return PacketVerified(
            at_s=at_s,
            packet_id=packet_id,
            reason=None,
            sequence=verdict.sequence,
            kernel_highest=state.received,
            inner_source=verdict.inner.source if verdict.inner else None,
        )


def esp_state(state: SaState) -> EspState:
    """What verification needs of a kernel state."""
    ring = state.esn_replay
    if ring is not None:
        bits = sum(word << (WORD_BITS * index) for index, word in enumerate(ring.bitmap))
        window = ReplayWindow(highest=ring.received, size=ring.window, received=bits, ring=True)
    else:
        bits = state.replay.bitmap if state.replay else 0
        window = ReplayWindow(highest=state.received, size=min(state.replay_window, WORD_BITS), received=bits)
    return EspState(
        combined=_algorithm(state.aead),
        encryption=_algorithm(state.crypt),
        authentication=_algorithm(state.auth),
        esn=state.esn,
        window=window,
    )


def _algorithm(algorithm: StateAlgorithm | None) -> Algorithm | None:
    if algorithm is None:
        return None
    return Algorithm(algorithm.name, algorithm.key.material, algorithm.icv_bits)
