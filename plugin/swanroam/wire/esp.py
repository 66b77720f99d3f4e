"""Verification of ESP packets (RFC 4303): whether a state's keys vouch for them, and what is in them.

A packet is verified as the kernel would, without changing anything: the sequence number against the state's replay
window, the integrity value, then the inner addresses. The kernel does it all again when the packet is let go.
"""

import struct
from dataclasses import dataclass
from typing import Final

from swanroam.errors import Unsupported, WireError
from swanroam.model.events import Reason
from swanroam.wire.espcrypt import Algorithm, open_combined, open_separate
from swanroam.wire.esppacket import EspPacket, parse_esp
from swanroam.wire.inner import IpHeader, parse_ip

__all__ = ["Algorithm", "EspPacket", "EspState", "ReplayWindow", "VerifiedPacket", "parse_esp", "verify"]

IP_VERSIONS: Final = {4: 4, 41: 6}
"""Next header of tunnel mode: IP version."""
LOW: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayWindow:
    """What a state has received (net/xfrm/xfrm_replay.c; RFC 4303 section 3.4.3)."""

    highest: int = 0
    """64 bits with ESN."""
    size: int = 0
    """Packets; 0 when the state does not look at sequence numbers."""
    received: int = 0
    """One bit for each sequence number in the window."""
    ring: bool = False
    """Whether bit (n - 1) % size is for the number n (struct xfrm_replay_state_esn); else bit 0 is for `highest`."""

    def full_sequence(self, low: int) -> int:
        """The 64-bit number that is meant by its lower half (RFC 4303 appendix A2.2); negative before the first."""
        top, high = self.highest & LOW, self.highest >> 32
        if not self.size:
            return high << 32 | low
        bottom = (top - self.size + 1) & LOW
        if top >= self.size - 1:
            high += low < bottom
        else:
            high -= low >= bottom
        return (high << 32) + low

    def refuses(self, sequence: int) -> bool:
        """Whether the kernel would drop this number as received before, or too old to tell."""
        if not self.size or sequence > self.highest:
            return False
        behind = self.highest - sequence
        if sequence <= 0 or behind >= self.size:
            return True
        # The kernel takes the ring's position from the lower 32 bits alone.
        bit = ((((self.highest & LOW) - 1) & LOW) % self.size - behind) % self.size if self.ring else behind
        return bool(self.received >> bit & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EspState:
    """What a kernel state has for incoming packets: `combined`, or `encryption` and `authentication`."""

    combined: Algorithm | None = None
    encryption: Algorithm | None = None
    authentication: Algorithm | None = None
    esn: bool = False
    window: ReplayWindow = ReplayWindow()


@dataclass(frozen=True, slots=True)
class VerifiedPacket:
    """A packet that came from the other end of the state, and was not received before."""

    sequence: int
    """64 bits with ESN."""
    next_header: int
    """4 IPv4, 41 IPv6; 59 a dummy of ESP's own (RFC 4303 section 2.6); else transport mode, or compressed."""
    inner: IpHeader | None
    """Of tunnel mode."""


def verify(state: EspState, packet: EspPacket) -> VerifiedPacket | Reason:
    """Check a packet against the state of its SPI; never raises for anything that a packet can hold."""
    sequence = state.window.full_sequence(packet.sequence) if state.esn else packet.sequence
    if state.window.refuses(sequence):
        return Reason.REPLAYED
    high = struct.pack("!I", sequence >> 32 & LOW) if state.esn else b""
    try:
        if state.combined is not None:
            plain = open_combined(state.combined, packet.data, high)
        elif state.encryption is not None and state.authentication is not None:
            plain = open_separate(state.encryption, state.authentication, packet.data, high)
        else:
            return Reason.UNSUPPORTED_ALGORITHM  # encryption without integrity proves nothing
        if plain is None:
            return Reason.BAD_ICV
        next_header, inner = _inside(plain)
    except Unsupported:
        return Reason.UNSUPPORTED_ALGORITHM
    except WireError:
        return Reason.MALFORMED
    return VerifiedPacket(sequence, next_header, inner)


def _inside(plain: bytes) -> tuple[int, IpHeader | None]:
    """Next header, and the inner packet's header where there is one (RFC 4303 section 2.4 to 2.6)."""
    padding, next_header = plain[-2], plain[-1]
    payload = plain[: len(plain) - 2 - padding]
    if padding > len(plain) - 2:
        raise WireError("ESP trailer", len(plain) - 2, f"{padding} bytes of padding in a payload of {len(plain)}")
    if next_header not in IP_VERSIONS:
        return next_header, None
    inner = parse_ip(payload)
    if inner.source.version != IP_VERSIONS[next_header]:
        raise WireError("ESP payload", 0, f"IP version {inner.source.version} under next header {next_header}")
    return next_header, inner
