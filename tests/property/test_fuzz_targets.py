"""Every decoder, fed with well-formed inputs that were damaged: nothing but its declared errors comes out.

The same functions that tests/fuzz runs for longer.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swanroam.app.records import decode_record
from swanroam.charon.connection import parse_packet
from swanroam.charon.decode import decode_listing
from swanroam.wire import control
from swanroam.wire.esp import VerifiedPacket, verify
from swanroam.wire.esppacket import EspPacket, parse_esp
from swanroam.wire.inner import parse_udp
from swanroam.wire.netlink import NetlinkMessage, unpack_messages
from swanroam.wire.nfqueue import unpack_packet
from swanroam.wire.rtnetlink import decode_change
from swanroam.wire.xfrm.events import decode_event
from tests.fuzz.targets import HERE, TARGETS, THERE
from tests.support.esp_captures import CAPTURES


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("change", "cut", "insert", "drop"))):
            case "change" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case _:
                del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_nothing_but_the_declared_errors_comes_out(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.run(data.draw(damaged(tuple(target.seeds())) | st.binary(max_size=64)))


def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(TARGETS[name].seeds())


def test_the_seeds_are_well_formed() -> None:
    assert all(decode_event(NetlinkMessage(seed[0], 0, 1, 0, seed[1:])) is not None for seed in seeds("xfrm"))
    messages = [message for seed in seeds("netlink") for message in unpack_messages(seed)]
    assert [decode_change(message) is not None for message in messages] == [True, True, True, False]
    payloads = [unpack_packet(NetlinkMessage(0x300, 0, 0, 0, seed)).payload for seed in seeds("nfqueue")]
    assert payloads == list(seeds("packet"))
    for number, payload in enumerate(payloads):
        (parse_esp if number % 2 == 0 else parse_udp)(payload)
    for seed in seeds("esp"):
        packet = EspPacket(HERE, THERE, int.from_bytes(seed[1:5]), int.from_bytes(seed[5:9]), seed[1:])
        assert isinstance(verify(CAPTURES[seed[0]].state, packet), VerifiedPacket)
    assert len({type(control.decode(seed)) for seed in seeds("message")}) == len(seeds("message"))
    listings = [decode_listing([parse_packet(seed).message]) for seed in seeds("vici")]
    assert sum(len(listing.sas) for listing in listings) >= 2
    for seed in seeds("store"):
        key, _, record = seed.partition(b"\0")
        decode_record(key, record)
