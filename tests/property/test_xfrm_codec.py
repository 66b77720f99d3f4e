"""Whatever is written is read as the same; whatever bytes come, there is a value or a WireError."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from swanroam.errors import WireError
from swanroam.model.path import IPAddress
from swanroam.wire.netlink import NetlinkMessage, attribute, pack_message, unpack_messages
from swanroam.wire.xfrm import Algorithm, Encap, EsnReplay, Key, Replay, SaId, SaState
from swanroam.wire.xfrm.aevents import AeState
from swanroam.wire.xfrm.events import decode_event
from swanroam.wire.xfrm.migrate import KmAddress, Migrate, MigrateEntry
from swanroam.wire.xfrm.policies import Policy, PolicyId, Template
from swanroam.wire.xfrm.states import Offload, SaHead
from swanroam.wire.xfrm.structs import Attr, Current, Limits, Mark, Msg, XfrmSelector

T = TypeVar("T")
U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
V4, V6 = st.builds(IPv4Address, U32), st.builds(IPv6Address, st.integers(0, (1 << 128) - 1))
FAMILIES = st.sampled_from([V4, V6])
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=63)
KEYS = st.builds(Key, st.binary(max_size=80))
MARKS = st.builds(Mark, U32, U32)
KNOWN = frozenset(Attr)
OTHERS = st.lists(
    st.tuples(st.integers(1, 0x3FFF).filter(lambda n: n not in KNOWN), st.binary(max_size=20)), max_size=3
)


def optional(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | strategy


@st.composite
def selectors(draw: st.DrawFn) -> XfrmSelector:
    family, addresses = draw(st.sampled_from([(2, V4), (10, V6), (0, V6)]))
    lengths = st.integers(0, 32 if family == 2 else 128)
    return XfrmSelector(
        family=family,
        destination=draw(addresses),
        source=draw(addresses),
        destination_length=draw(lengths),
        source_length=draw(lengths),
        destination_port=draw(U16),
        destination_port_mask=draw(U16),
        source_port=draw(U16),
        source_port_mask=draw(U16),
        protocol=draw(U8),
        interface=draw(st.integers(-(1 << 31), (1 << 31) - 1)),
        user=draw(U32),
    )


@st.composite
def esn_replays(draw: st.DrawFn) -> EsnReplay:
    bitmap = tuple(draw(st.lists(U32, max_size=8)))
    window = draw(st.integers(0, 32 * len(bitmap)))
    return EsnReplay(sent=draw(U64), received=draw(U64), window=window, bitmap=bitmap)


LIMITS = st.builds(
    Limits,
    soft_bytes=U64,
    hard_bytes=U64,
    soft_packets=U64,
    hard_packets=U64,
    soft_add_s=U64,
    hard_add_s=U64,
    soft_use_s=U64,
    hard_use_s=U64,
)
CURRENT = st.builds(Current, octets=U64, packets=U64, added_s=U64, used_s=U64)
REPLAYS = st.builds(Replay, sent=U32, received=U32, bitmap=U32)
ENCAPS = st.builds(Encap, type=U16, source_port=U16, destination_port=U16, original=st.binary(min_size=16, max_size=16))
PLAIN = st.builds(Algorithm, name=NAMES, key=KEYS)
WITH_ICV = st.builds(Algorithm, name=NAMES, key=KEYS, icv_bits=U32)


@st.composite
def states(draw: st.DrawFn) -> SaState:
    addresses = draw(FAMILIES)
    return SaState(
        source=draw(addresses),
        destination=draw(addresses),
        spi=draw(U32),
        selector=draw(selectors()),
        protocol=draw(U8),
        mode=draw(U8),
        reqid=draw(U32),
        flags=draw(U8),
        replay_window=draw(U8),
        limits=draw(LIMITS),
        current=draw(CURRENT),
        dropped_late=draw(U32),
        dropped_replayed=draw(U32),
        dropped_integrity=draw(U32),
        key_manager_sequence=draw(U32),
        auth=draw(optional(WITH_ICV)),
        crypt=draw(optional(PLAIN)),
        aead=draw(optional(WITH_ICV)),
        comp=draw(optional(PLAIN)),
        encap=draw(optional(ENCAPS)),
        mark=draw(optional(MARKS)),
        output_mark=draw(optional(MARKS)),
        if_id=draw(U32),
        replay=draw(optional(REPLAYS)),
        esn_replay=draw(optional(esn_replays())),
        replay_threshold=draw(optional(U32)),
        timer_threshold=draw(optional(U32)),
        mapping_threshold_s=draw(optional(U32)),
        extra_flags=draw(U32),
        tfc_padding=draw(U32),
        source_address=draw(optional(addresses)),
        care_of=draw(optional(addresses)),
        last_used_s=draw(optional(U64)),
        offload=draw(optional(st.builds(Offload, interface=st.integers(0, 1 << 30), flags=U8))),
        direction=draw(optional(U8)),
        cpu=draw(optional(U32)),
        others=tuple(draw(OTHERS)),
    )


@st.composite
def templates(draw: st.DrawFn) -> Template:
    family, addresses = draw(st.sampled_from([(2, V4), (10, V6), (0, V6)]))
    return Template(
        source=draw(addresses),
        destination=draw(addresses),
        family=family,
        reqid=draw(U32),
        protocol=draw(U8),
        mode=draw(U8),
        spi=draw(U32),
        share=draw(U8),
        optional=draw(U8),
        auth_mask=draw(U32),
        crypt_mask=draw(U32),
        comp_mask=draw(U32),
    )


POLICIES = st.builds(
    Policy,
    selector=selectors(),
    direction=U8,
    action=U8,
    priority=U32,
    index=U32,
    flags=U8,
    share=U8,
    limits=LIMITS,
    current=CURRENT,
    templates=st.lists(templates(), max_size=6).map(tuple),
    type=U8,
    mark=optional(MARKS),
    if_id=U32,
    others=OTHERS.map(tuple),
)


@st.composite
def migrations(draw: st.DrawFn) -> Migrate:
    def entry() -> MigrateEntry:
        old, new = draw(FAMILIES), draw(FAMILIES)
        return MigrateEntry(
            old_source=draw(old),
            old_destination=draw(old),
            new_source=draw(new),
            new_destination=draw(new),
            reqid=draw(U32),
            protocol=draw(U8),
            mode=draw(U8),
        )

    addresses: st.SearchStrategy[IPAddress] = draw(FAMILIES)
    return Migrate(
        selector=draw(selectors()),
        direction=draw(U8),
        entries=tuple(entry() for _ in range(draw(st.integers(1, 6)))),
        type=draw(U8),
        if_id=draw(U32),
        kmaddress=draw(optional(st.builds(KmAddress, addresses, addresses))),
        encap=draw(optional(ENCAPS)),
    )


SA_IDS = st.builds(SaId, destination=V4 | V6, spi=U32, protocol=U8, mark=optional(MARKS))


@st.composite
def reports(draw: st.DrawFn) -> AeState:
    named = draw(SA_IDS)
    return AeState(
        id=named,
        source=draw(V4 if named.destination.version == 4 else V6),
        flags=draw(U32),
        reqid=draw(U32),
        replay=draw(optional(REPLAYS)),
        esn_replay=draw(optional(esn_replays())),
        current=draw(optional(CURRENT)),
        replay_threshold=draw(optional(U32)),
        timer_threshold=draw(optional(U32)),
        if_id=draw(U32),
    )


@given(states())
def test_a_state_survives_the_wire(state: SaState) -> None:
    assert SaState.unpack(state.pack()) == state


@given(states())
def test_the_head_of_a_state_agrees_with_the_state(state: SaState) -> None:
    head = SaHead.unpack(state.pack())

    assert (head.source, head.destination, head.spi, head.reqid) == (
        state.source,
        state.destination,
        state.spi,
        state.reqid,
    )
    assert (head.encap, head.mark, head.if_id) == (state.encap, state.mark, state.if_id)
    assert head.larval == all(one is None for one in (state.aead, state.crypt, state.auth, state.comp))


@given(POLICIES)
def test_a_policy_survives_the_wire(policy: Policy) -> None:
    assert Policy.unpack(policy.pack()) == policy
    assert PolicyId.unpack(policy.id.pack()) == policy.id


@given(migrations())
def test_a_migration_survives_the_wire(migrate: Migrate) -> None:
    assert Migrate.unpack(migrate.pack()) == migrate


@given(reports())
def test_a_sequence_report_survives_the_wire(report: AeState) -> None:
    assert AeState.unpack(report.pack()) == report


DECODERS: list[Callable[[bytes], object]] = [
    SaState.unpack,
    SaHead.unpack,
    SaId.unpack,
    Policy.unpack,
    PolicyId.unpack,
    Migrate.unpack,
    AeState.unpack,
    *(lambda data, type_=type_: decode_event(NetlinkMessage(type_, 0, 0, 0, data)) for type_ in Msg),
]


def read_all(data: bytes) -> None:
    for decoder in DECODERS:
        try:
            decoder(data)
        except WireError as error:
            assert error.offset >= 0, decoder  # noqa: PT017 - whether it is raised is not the question
            assert error.what, decoder  # noqa: PT017 - as above


def captured() -> list[bytes]:
    file = Path(__file__).parents[1] / "unit" / "test_xfrm_captured.txt"
    return [bytes.fromhex(line.split()[2]) for line in file.read_text(encoding="ascii").splitlines()[1:]]


CAPTURED = st.sampled_from(captured())


@given(st.binary(max_size=600))
def test_any_bytes_give_a_value_or_a_wire_error(data: bytes) -> None:
    read_all(data)


@given(CAPTURED, st.data())
def test_any_truncation_gives_a_value_or_a_wire_error(whole: bytes, data: st.DataObject) -> None:
    read_all(whole[: data.draw(st.integers(0, len(whole)))])


@given(CAPTURED, st.data())
def test_lying_bytes_anywhere_give_a_value_or_a_wire_error(whole: bytes, data: st.DataObject) -> None:
    lies = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        lies[data.draw(st.integers(0, len(lies) - 1))] = data.draw(U8)
    read_all(bytes(lies))


@given(CAPTURED, st.sampled_from(sorted(Attr)), st.binary(max_size=100))
def test_attributes_with_any_value_give_a_value_or_a_wire_error(whole: bytes, type_: Attr, value: bytes) -> None:
    read_all(whole + attribute(type_, value))


@given(st.lists(st.tuples(U16, U16, U32, st.binary(max_size=40)), max_size=5))
def test_netlink_messages_survive_the_wire(messages: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(pack_message(*message) for message in messages)

    read = [(message.type, message.flags, message.sequence, message.payload) for message in unpack_messages(data)]
    assert read == messages
