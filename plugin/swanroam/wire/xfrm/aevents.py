"""Sequence numbers and counters of a state alone, without its keys: XFRM_MSG_GETAE, NEWAE."""

from dataclasses import dataclass
from typing import Self

from swanroam.model.path import IPAddress
from swanroam.wire.netlink import attribute
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.states import SaId
from swanroam.wire.xfrm.structs import (
    U32,
    Attr,
    Current,
    Layout,
    Mark,
    family_of,
    located_attributes,
    pack_address,
    unpack_address,
    unpack_scalar,
)

__all__ = ["AeState", "pack_sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AeState:
    """What GETAE is answered with, and what NEWAE sets (with Flag.REPLACE) or tells as an event.

    struct xfrm_aevent_id { struct xfrm_usersa_id sa_id; xfrm_address_t saddr; __u32 flags, reqid; };    48 bytes
    """

    LAYOUT = Layout("xfrm_aevent_id", "=24s16sII")

    id: SaId
    """Its mark is that of the message."""
    source: IPAddress | None = None
    flags: int = 0
    reqid: int = 0
    replay: Replay | None = None
    esn_replay: EsnReplay | None = None
    current: Current | None = None
    replay_threshold: int | None = None
    timer_threshold: int | None = None
    if_id: int = 0

    @property
    def sent(self) -> int:
        """The last sequence number sent, 64 bits with ESN."""
        return (self.esn_replay or self.replay or Replay()).sent

    def pack(self) -> bytes:
        """The payload of NEWAE, and of GETAE where only `id` and `flags` are looked at."""
        source = pack_address(self.source) if self.source else bytes(16)
        parts = [self.LAYOUT.pack(self.id.pack(), source, self.flags, self.reqid)]
        for type_, value in (
            (Attr.REPLAY_VAL, self.replay),
            (Attr.REPLAY_ESN_VAL, self.esn_replay),
            (Attr.LTIME_VAL, self.current),
            (Attr.MARK, self.id.mark),
        ):
            if value is not None:
                parts.append(attribute(type_, value.pack()))
        for type_, number in (
            (Attr.REPLAY_THRESH, self.replay_threshold),
            (Attr.ETIMER_THRESH, self.timer_threshold),
            (Attr.IF_ID, self.if_id or None),
        ):
            if number is not None:
                parts.append(attribute(type_, U32.pack(number)))
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the payload of a NEWAE message. Attributes that are not understood are ignored."""
        _id, raw_source, flags, reqid = cls.LAYOUT.unpack(data)
        named = SaId.unpack(data)
        source = unpack_address(raw_source, family_of(named.destination), "xfrm_usersa_id.family", 20)
        replay, esn_replay, current, mark = None, None, None, None
        numbers: dict[int, int] = {}
        for type_, at, value in located_attributes(data, cls.LAYOUT.size):
            until = data[: at + len(value)]
            if type_ == Attr.REPLAY_VAL:
                replay = Replay.unpack(until, at)
            elif type_ == Attr.REPLAY_ESN_VAL:
                esn_replay = EsnReplay.unpack(until, at)
            elif type_ == Attr.LTIME_VAL:
                current = Current.unpack(until, at)
            elif type_ == Attr.MARK:
                mark = Mark.unpack(until, at)
            elif type_ in (Attr.REPLAY_THRESH, Attr.ETIMER_THRESH, Attr.IF_ID):
                numbers[type_] = unpack_scalar(U32, f"XFRMA_{Attr(type_).name}", value, at)
        return cls(
            id=SaId(destination=named.destination, spi=named.spi, protocol=named.protocol, mark=mark),
            source=source,
            flags=flags,
            reqid=reqid,
            replay=replay,
            esn_replay=esn_replay,
            current=current,
            replay_threshold=numbers.get(Attr.REPLAY_THRESH),
            timer_threshold=numbers.get(Attr.ETIMER_THRESH),
            if_id=numbers.get(Attr.IF_ID, 0),
        )


def pack_sent(state: AeState, sent: int, destination: IPAddress) -> bytes:
    """The payload of a NEWAE that sets the last sequence number sent by `state`, now at `destination`, and no more."""
    ident = state.id
    named = SaId(destination=destination, spi=ident.spi, protocol=ident.protocol, mark=ident.mark)
    if ring := state.esn_replay:
        ring = EsnReplay(sent=sent, received=ring.received, window=ring.window, bitmap=ring.bitmap)
        value = attribute(Attr.REPLAY_ESN_VAL, ring.pack())
    else:
        short = state.replay or Replay()
        replay = Replay(sent=sent, received=short.received, bitmap=short.bitmap)
        value = attribute(Attr.REPLAY_VAL, replay.pack())
    mark = attribute(Attr.MARK, ident.mark.pack()) if ident.mark else b""
    return AeState.LAYOUT.pack(named.pack(), bytes(16), 0, 0) + value + mark
