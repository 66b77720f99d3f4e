"""Sequence numbers of a state: what was sent, what was received, which of these the replay window has seen.

The windows are those of net/xfrm/xfrm_replay.c, described in RFC 4303 section 3.4.3 and appendix A.
"""

import sys
from dataclasses import dataclass
from typing import Final, Self

from swanroam.errors import WireError
from swanroam.wire.xfrm.structs import Layout

__all__ = ["EsnReplay", "Replay"]

_ORDER: Final = sys.byteorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Sequence numbers of 32 bits, window of up to 32.

    struct xfrm_replay_state { __u32 oseq, seq, bitmap; };
    """

    LAYOUT = Layout("xfrm_replay_state", "=III")

    sent: int = 0
    """The last sequence number sent."""
    received: int = 0
    """The highest sequence number received."""
    bitmap: int = 0
    """Bit n: `received - n` was received."""

    def pack(self) -> bytes:
        """12 bytes."""
        return self.LAYOUT.pack(self.sent, self.received, self.bitmap)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From the 12 bytes at `offset`."""
        sent, received, bitmap = cls.LAYOUT.unpack(data, offset)
        return cls(sent=sent, received=received, bitmap=bitmap)


@dataclass(frozen=True, slots=True, kw_only=True)
class EsnReplay:
    """Sequence numbers of 64 bits (ESN), or of 32 with a window above 32; the window is a ring of bits.

    struct xfrm_replay_state_esn { unsigned int bmp_len; __u32 oseq, seq, oseq_hi, seq_hi, replay_window, bmp[]; };
    """

    LAYOUT = Layout("xfrm_replay_state_esn", "=6I")

    sent: int = 0
    """The last sequence number sent, 64 bits."""
    received: int = 0
    """The highest sequence number received, 64 bits."""
    window: int = 0
    bitmap: tuple[int, ...] = ()
    """Words of 32 bits. Bit (s - 1) % window, counted from bit 0 of the first word, is for sequence number s."""

    def pack(self) -> bytes:
        """24 bytes and 4 for each word of the bitmap."""
        mask = 0xFFFFFFFF
        head = self.LAYOUT.pack(
            len(self.bitmap),
            self.sent & mask,
            self.received & mask,
            self.sent >> 32,
            self.received >> 32,
            self.window,
        )
        return head + b"".join(word.to_bytes(4, _ORDER) for word in self.bitmap)

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """From `offset` on. Raises WireError where the bitmap is cut off, or shorter than the window."""
        words, sent, received, sent_high, received_high, window = cls.LAYOUT.unpack(data, offset)
        start = offset + cls.LAYOUT.size
        if words * 4 > len(data) - start:
            raise WireError(
                "xfrm_replay_state_esn.bmp", start, f"{len(data) - start} bytes where bmp_len says {words * 4}"
            )
        if window > words * 32:
            raise WireError(
                "xfrm_replay_state_esn.replay_window", offset + 20, f"{window} is more than {words * 32} bits of bitmap"
            )
        return cls(
            sent=sent | sent_high << 32,
            received=received | received_high << 32,
            window=window,
            bitmap=tuple(int.from_bytes(data[start + 4 * n : start + 4 * n + 4], _ORDER) for n in range(words)),
        )
