"""The XFRM codec on bytes that a kernel sent, and on what it must refuse."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from swanroam.errors import WireError
from swanroam.wire.netlink import NetlinkMessage, attribute
from swanroam.wire.xfrm import Algorithm, Encap, EsnReplay, Key, Replay, SaState
from swanroam.wire.xfrm.aevents import AeState, pack_sent
from swanroam.wire.xfrm.events import (
    Acquire,
    Mapping,
    Migrated,
    PoliciesFlushed,
    PolicyDeleted,
    PolicyExpired,
    PolicySet,
    SequenceReported,
    StateDeleted,
    StateExpired,
    StateSet,
    StatesFlushed,
    decode_event,
)
from swanroam.wire.xfrm.migrate import KmAddress, Migrate, MigrateEntry
from swanroam.wire.xfrm.policies import Policy, PolicyId
from swanroam.wire.xfrm.states import USERSA_INFO_SIZE, SaHead, SaId, dump_states_request
from swanroam.wire.xfrm.structs import Attr, Direction, Mark, Mode, Msg, StateFlag, XfrmSelector

GCM_KEY = bytes(range(20))
TERMINAL, GATEWAY = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def captured() -> dict[str, NetlinkMessage]:
    lines = Path(__file__).with_name("test_xfrm_captured.txt").read_text(encoding="ascii").splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name: NetlinkMessage(int(type_), 0, 0, 0, bytes.fromhex(payload)) for name, type_, payload in fields}


CAPTURED = captured()


def payload(name: str) -> bytes:
    return CAPTURED[name].payload


def test_a_state_with_mark_interface_id_and_lifetime_is_read() -> None:
    state = SaState.unpack(payload("state-gcm-mark"))

    assert (state.source, state.destination, state.spi) == (TERMINAL, GATEWAY, 0xC0000001)
    assert (state.protocol, state.mode, state.reqid) == (50, Mode.TUNNEL, 7)
    assert state.flags == StateFlag.AF_UNSPEC
    assert state.aead == Algorithm(name="rfc4106(gcm(aes))", key=Key(GCM_KEY), icv_bits=128)
    assert state.aead.icv_bytes == 16
    assert (state.mark, state.output_mark, state.if_id) == (Mark(0x2A, 0xFF), Mark(0x10, 0xF0), 7)
    assert (state.limits.soft_add_s, state.limits.hard_add_s) == (3000, 3600)
    assert (state.replay, state.replay_window, state.window) == (Replay(), 32, 32)
    assert not state.esn
    assert state.others == ()


def test_a_state_with_esn_in_udp_is_read() -> None:
    state = SaState.unpack(payload("state-esn-encap"))

    assert state.esn
    assert state.esn_replay == EsnReplay(window=128, bitmap=(0, 0, 0, 0))
    assert state.window == 128
    assert state.encap == Encap(source_port=4500, destination_port=61000)
    assert state.auth is not None
    assert (state.auth.name, state.auth.icv_bits, len(state.auth.key.material)) == ("hmac(sha256)", 128, 32)
    assert state.crypt is not None
    assert (state.crypt.name, len(state.crypt.key.material)) == ("cbc(aes)", 16)


def test_a_state_between_ipv6_addresses_is_read() -> None:
    state = SaState.unpack(payload("state-ipv6-transport"))

    assert (state.source, state.destination) == (ip_address("2001:db8::1"), ip_address("2001:db8::2"))
    assert state.mode == Mode.TRANSPORT
    assert (state.selector.protocol, state.selector.source_port, state.selector.source_port_mask) == (6, 80, 0xFFFF)
    assert state.selector.source_length == 128
    assert state.aead is not None
    assert state.aead.icv_bits == 64


@pytest.mark.parametrize("name", ["state-gcm-mark", "state-esn-encap", "state-ipv6-transport"])
def test_a_state_read_and_written_is_the_same_state(name: str) -> None:
    state = SaState.unpack(payload(name))

    assert SaState.unpack(state.pack()) == state
    assert state.pack()[:USERSA_INFO_SIZE] == payload(name)[:USERSA_INFO_SIZE]


def test_the_head_of_a_state_has_its_addresses_and_no_keys() -> None:
    head = SaHead.unpack(payload("state-esn-encap"))

    assert (head.source, head.destination, head.spi) == (GATEWAY, TERMINAL, 0xC0000002)
    assert (head.reqid, head.mode, head.protocol) == (7, Mode.TUNNEL, 50)
    assert head.encap == Encap(source_port=4500, destination_port=61000)
    marked = SaHead.unpack(payload("state-gcm-mark"))
    assert (marked.mark, marked.if_id, marked.encap) == (Mark(0x2A, 0xFF), 7, None)


def test_no_repr_shows_key_material() -> None:
    for name in ("state-gcm-mark", "state-esn-encap", "state-ipv6-transport"):
        state = SaState.unpack(payload(name))
        shown = repr(state) + repr(decode_event(CAPTURED[name]))
        for algorithm in (state.aead, state.auth, state.crypt):
            if algorithm:
                assert algorithm.key.material.hex() not in shown
                assert repr(algorithm.key.material) not in shown
                assert f"<key of {len(algorithm.key.material)} bytes>" in shown


def test_unknown_attributes_of_a_state_are_kept_and_not_shown() -> None:
    state = SaState.unpack(payload("state-gcm-mark") + attribute(77, b"\xab\xcd secret"))

    assert state.others == ((77, b"\xab\xcd secret"),)
    assert "secret" not in repr(state)
    assert SaState.unpack(state.pack()) == state


def test_an_old_integrity_algorithm_without_its_length_is_read_and_written() -> None:
    state = SaState.unpack(payload("state-gcm-mark")[:USERSA_INFO_SIZE])
    old = Algorithm(name="hmac(md5)", key=Key(bytes(16)))
    read = SaState.unpack(state.pack() + attribute(Attr.ALG_AUTH, old.pack(with_icv=False)))

    assert read.auth == old
    assert SaState.unpack(read.pack()) == read


def test_a_policy_with_mark_and_interface_id_is_read() -> None:
    policy = Policy.unpack(payload("policy-out"))

    assert policy.direction == Direction.OUT
    assert (policy.priority, policy.mark, policy.if_id, policy.type) == (375, Mark(0x2A, 0xFF), 7, 0)
    assert policy.selector.destination == ip_address("10.1.0.0")
    assert (policy.selector.source_length, policy.selector.destination_length) == (32, 16)
    (template,) = policy.templates
    assert (template.source, template.destination, template.reqid) == (TERMINAL, GATEWAY, 7)
    assert (template.protocol, template.mode) == (50, Mode.TUNNEL)
    assert Policy.unpack(policy.pack()) == policy


def test_a_policy_with_two_templates_is_read() -> None:
    policy = Policy.unpack(payload("policy-ipcomp"))

    comp, esp = policy.templates
    assert (comp.protocol, comp.mode, comp.optional) == (108, Mode.TUNNEL, 1)
    assert (esp.protocol, esp.mode, esp.optional) == (50, Mode.TRANSPORT, 0)
    assert esp.source == ip_address("::")
    assert (policy.selector.protocol, policy.selector.destination_port) == (17, 53)
    assert Policy.unpack(policy.pack()) == policy
    assert PolicyId.unpack(policy.id.pack()) == policy.id


def test_an_acquire_names_the_packet_and_the_policy() -> None:
    event = decode_event(CAPTURED["acquire"])

    assert isinstance(event, Acquire)
    assert (event.source, event.destination, event.protocol) == (TERMINAL, GATEWAY, 50)
    assert event.spi == 0
    assert event.selector.protocol == 17
    assert event.selector.destination_port == 1025
    assert event.policy.templates[0].reqid == 99
    assert event.policy.mark == Mark(0, 1)


def test_expired_states_and_policies_are_read() -> None:
    state, policy = decode_event(CAPTURED["expire"]), decode_event(CAPTURED["polexpire"])

    assert isinstance(state, StateExpired)
    assert (state.state.spi, state.hard) == (0xC0000019, True)
    assert isinstance(policy, PolicyExpired)
    assert (policy.policy.selector.destination, policy.hard) == (ip_address("10.7.0.9"), True)


def test_deletions_and_flushes_are_read() -> None:
    state, policy = decode_event(CAPTURED["state-deleted"]), decode_event(CAPTURED["policy-deleted"])

    assert state == StateDeleted(SaId(destination=GATEWAY, spi=0xC0000009, mark=Mark(0, 1)))
    assert isinstance(policy, PolicyDeleted)
    assert (policy.policy.index, policy.policy.mark) == (1, Mark(0, 1))
    assert policy.policy.selector.source == ip_address("10.7.0.1")
    assert decode_event(CAPTURED["flush-states"]) == StatesFlushed(50)
    assert decode_event(CAPTURED["flush-policies"]) == PoliciesFlushed(0)


def test_policies_and_states_that_are_set_are_events() -> None:
    policy, state = decode_event(CAPTURED["policy-marked"]), decode_event(CAPTURED["state-gcm-mark"])

    assert isinstance(policy, PolicySet)
    assert policy.policy.mark == Mark(0, 1)
    assert isinstance(state, StateSet)
    assert state.state.spi == 0xC0000001


def test_a_sequence_report_is_read() -> None:
    event = decode_event(CAPTURED["aevent"])

    assert isinstance(event, SequenceReported)
    assert (event.report.sent, event.report.reqid, event.report.source) == (1, 99, TERMINAL)
    assert event.report.current is not None
    assert event.report.current.packets == 1
    assert event.report.id.mark == Mark(0, 1)
    assert AeState.unpack(event.report.pack()) == event.report


def test_setting_what_was_sent_keeps_what_was_received() -> None:
    report = AeState.unpack(payload("ae-esn"))
    ring = EsnReplay(sent=7, received=1 << 33 | 5, window=128, bitmap=(1, 2, 3, 4))
    known = AeState(id=report.id, esn_replay=ring)
    there = ip_address("192.0.2.9")

    changed = AeState.unpack(pack_sent(known, 1 << 32 | 9, there))

    assert changed.id == SaId(destination=there, spi=report.id.spi)
    assert changed.esn_replay == EsnReplay(sent=1 << 32 | 9, received=1 << 33 | 5, window=128, bitmap=(1, 2, 3, 4))
    short = AeState(id=report.id, replay=Replay(sent=3, received=4, bitmap=5))
    assert AeState.unpack(pack_sent(short, 9, there)).replay == Replay(sent=9, received=4, bitmap=5)


def test_a_mapping_is_read() -> None:
    # struct xfrm_user_mapping, written out by hand.
    data = (
        GATEWAY.packed + bytes(12) + bytes.fromhex("c0000001") + (2).to_bytes(2, "little") + b"\x32\0"
        + (7).to_bytes(4, "little")
        + TERMINAL.packed + bytes(12)
        + ip_address("198.51.100.7").packed + bytes(12)
        + (4500).to_bytes(2, "big") + (61000).to_bytes(2, "big")
    )  # fmt: skip

    event = decode_event(NetlinkMessage(Msg.MAPPING, 0, 0, 0, data))

    assert event == Mapping(
        id=SaId(destination=GATEWAY, spi=0xC0000001),
        reqid=7,
        old_source=TERMINAL,
        old_port=4500,
        new_source=ip_address("198.51.100.7"),
        new_port=61000,
    )


def migrate(**more: object) -> Migrate:
    entry = MigrateEntry(
        old_source=TERMINAL,
        old_destination=GATEWAY,
        new_source=ip_address("198.51.100.7"),
        new_destination=GATEWAY,
        reqid=7,
    )
    selector = XfrmSelector(
        family=2,
        destination=ip_address("10.1.0.0"),
        source=ip_address("10.9.0.1"),
        destination_length=16,
        source_length=32,
    )
    return Migrate(selector=selector, direction=Direction.OUT, entries=(entry,), **more)  # type: ignore[arg-type]


def test_a_migration_has_one_attribute_for_all_entries_and_its_event_one_for_each() -> None:
    asked = migrate(
        kmaddress=KmAddress(TERMINAL, GATEWAY), encap=Encap(source_port=4500, destination_port=4501), if_id=3
    )
    two = (*asked.entries, migrate().entries[0])
    head = asked.pack()[: PolicyId.LAYOUT.size]
    told = head + b"".join(attribute(Attr.MIGRATE, entry.pack()) for entry in two)

    assert Migrate.unpack(asked.pack()) == asked
    event = decode_event(NetlinkMessage(Msg.MIGRATE, 0, 0, 0, told))
    assert isinstance(event, Migrated)
    assert event.migrate.entries == two


def test_a_migration_without_entries_is_refused() -> None:
    with pytest.raises(WireError, match="XFRMA_MIGRATE: at byte 64: no entry"):
        Migrate.unpack(migrate().pack()[: PolicyId.LAYOUT.size])


def test_a_message_of_unknown_type_is_no_event() -> None:
    assert decode_event(NetlinkMessage(0x7F, 0, 0, 0, b"anything")) is None


def test_a_filter_of_states_names_both_addresses() -> None:
    filtered = dump_states_request(50, TERMINAL, GATEWAY)

    assert filtered[8:] == attribute(
        Attr.ADDRESS_FILTER, TERMINAL.packed + bytes(12) + GATEWAY.packed + bytes(12) + b"\x02\x00\x20\x20"
    )


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", r"xfrm_usersa_info: at byte 0: 0 bytes where 224 are needed"),
        (payload("state-gcm-mark")[:223], r"xfrm_usersa_info: at byte 0: 223 bytes where 224 are needed"),
        (changed(payload("state-gcm-mark"), 212, b"\x07\x00"), r"xfrm_usersa_info.family: at byte 212: family 7"),
        (
            changed(payload("state-gcm-mark"), 42, b"\x81"),
            r"xfrm_selector.prefixlen_d: at byte 42: 129 is more than 128",
        ),
        (payload("state-gcm-mark")[:226], r"nlattr: at byte 224: 2 bytes"),
        (payload("state-gcm-mark")[:230], r"nlattr: at byte 224: length 96 outside"),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.ALG_AEAD, bytes(71)),
            r"XFRMA_ALG_AEAD: at byte 228: 71 bytes where 72",
        ),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.ALG_AEAD, bytes(64) + b"\xa8\0\0\0" + bytes(24)),
            r"XFRMA_ALG_AEAD.alg_key_len: at byte 292: 168 bits where 160",
        ),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.ALG_CRYPT, bytes(64) + b"\x07\0\0\0" + bytes(9)),
            r"XFRMA_ALG_CRYPT.alg_key_len: at byte 292: 7 bits are no whole bytes",
        ),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.ALG_CRYPT, b"\xff" + bytes(67)),
            r"XFRMA_ALG_CRYPT.alg_name: at byte 228: not ASCII",
        ),
        (payload("state-gcm-mark")[:224] + attribute(Attr.MARK, bytes(4)), r"xfrm_mark: at byte 228: 4 bytes where 8"),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.IF_ID, b"\x01"),
            r"XFRMA_IF_ID: at byte 228: 1 bytes where 4",
        ),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.COADDR, bytes(4)),
            r"XFRMA_COADDR: at byte 228: 4 bytes where 16",
        ),
        (
            payload("state-gcm-mark")[:224] + attribute(Attr.REPLAY_ESN_VAL, b"\xff\xff\xff\xff" + bytes(20)),
            r"xfrm_replay_state_esn.bmp: at byte 252: 0 bytes where bmp_len says 17179869180",
        ),
        (
            payload("state-gcm-mark")[:224]
            + attribute(Attr.REPLAY_ESN_VAL, b"\x01\0\0\0" + bytes(16) + b"\x21\0\0\0" + bytes(4)),
            r"xfrm_replay_state_esn.replay_window: at byte 248: 33 is more than 32",
        ),
    ],
)
def test_a_malformed_state_is_refused_with_its_field_and_offset(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        SaState.unpack(data)


def test_a_cut_off_template_is_refused() -> None:
    policy = Policy.unpack(payload("policy-out"))

    with pytest.raises(WireError, match="xfrm_user_tmpl: at byte 236: 3 bytes where 64 are needed"):
        Policy.unpack(policy.pack_info() + attribute(Attr.TMPL, policy.templates[0].pack() + b"abc"))
