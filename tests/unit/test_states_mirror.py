"""The mirror of policies, and the MIGRATE messages that are worked out from it."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.kernel.migration import Steps, blocks
from swanroam.kernel.policies import MirroredPolicy, PolicyMirror
from swanroam.model.path import Endpoint, Path
from swanroam.wire.netlink import NetlinkMessage, attribute
from swanroam.wire.xfrm.events import XfrmEvent, decode_event
from swanroam.wire.xfrm.migrate import ENTRIES_MAX, KmAddress, Migrate, MigrateEntry
from swanroam.wire.xfrm.policies import USERPOLICY_INFO_SIZE, Policy, PolicyId, PolicyType, Template
from swanroam.wire.xfrm.structs import Attr, Direction, Mark, Mode, Msg, XfrmSelector

OLD, NEW, GATE = ip_address("192.0.2.1"), ip_address("192.0.2.3"), ip_address("192.0.2.2")
INNER, BEHIND = ip_address("10.9.0.1"), ip_address("10.1.0.0")
REQID = 7


def path(local: object, remote: object = GATE) -> Path:
    return Path(Endpoint(ip_address(str(local)), 500), Endpoint(ip_address(str(remote)), 500))


def policy(direction: Direction, index: int, *, reqid: int = REQID, more: tuple[Template, ...] = ()) -> Policy:
    out = direction == Direction.OUT
    template = Template(
        source=OLD if out else GATE, destination=GATE if out else OLD, family=2, reqid=reqid, protocol=50
    )
    selector = XfrmSelector(
        family=2,
        source=INNER if out else BEHIND,
        destination=BEHIND if out else INNER,
        source_length=32 if out else 16,
        destination_length=16 if out else 32,
    )
    return Policy(selector=selector, direction=direction, index=index, templates=(template, *more))


def message(policy: Policy, type_: int = Msg.NEWPOLICY) -> NetlinkMessage:
    return NetlinkMessage(type_, 0, 0, 0, policy.pack())


def told(mirror: PolicyMirror, message: NetlinkMessage) -> bool:
    event: XfrmEvent | None = decode_event(message)
    assert event is not None
    return mirror.apply(event, message)


@pytest.fixture
def mirror() -> PolicyMirror:
    mirror = PolicyMirror()
    directions = (Direction.OUT, Direction.IN, Direction.FWD)
    assert (
        mirror.load([message(policy(direction, 8 * n + direction)) for n, direction in enumerate(directions, 1)]) == 0
    )
    return mirror


def indexes(mirror: PolicyMirror, reqid: int = REQID) -> list[int]:
    return [known.policy.index for known in mirror.of_reqid(reqid)]


def test_a_dump_is_known_by_reqid(mirror: PolicyMirror) -> None:
    assert indexes(mirror) == [9, 16, 26]
    assert indexes(mirror, 8) == []
    assert len(mirror) == 3


def test_a_malformed_policy_of_a_dump_is_counted_and_the_others_are_known() -> None:
    mirror = PolicyMirror()
    bad = NetlinkMessage(Msg.NEWPOLICY, 0, 0, 0, b"short")

    assert mirror.load([bad, message(policy(Direction.OUT, 9)), bad]) == 2
    assert indexes(mirror) == [9]


def test_policies_without_reqid_and_of_sockets_are_left_out() -> None:
    mirror = PolicyMirror()
    without = policy(Direction.OUT, 9, reqid=0)
    socket_policy = replace(policy(Direction.OUT, 12), direction=4)

    mirror.load([message(without), message(socket_policy)])

    assert len(mirror) == 0


def test_added_updated_and_deleted_policies_are_followed(mirror: PolicyMirror) -> None:
    assert told(mirror, message(policy(Direction.OUT, 33, reqid=8)))
    assert indexes(mirror, 8) == [33]
    assert told(mirror, message(policy(Direction.OUT, 33, reqid=9), Msg.UPDPOLICY))
    assert (indexes(mirror, 8), indexes(mirror, 9)) == ([], [33])
    gone = policy(Direction.OUT, 33, reqid=9)
    named = PolicyId.LAYOUT.pack(gone.selector.pack(), 0, 1) + attribute(Attr.POLICY, gone.pack_info())
    assert told(mirror, NetlinkMessage(Msg.DELPOLICY, 0, 0, 0, named))
    assert indexes(mirror, 9) == []
    assert indexes(mirror) == [9, 16, 26]


def test_an_expired_policy_is_gone_when_the_limit_was_hard(mirror: PolicyMirror) -> None:
    info = policy(Direction.OUT, 9).pack_info()

    assert told(mirror, NetlinkMessage(Msg.POLEXPIRE, 0, 0, 0, info + bytes(8)))
    assert indexes(mirror) == [9, 16, 26]
    assert told(mirror, NetlinkMessage(Msg.POLEXPIRE, 0, 0, 0, info + b"\x01" + bytes(7)))
    assert indexes(mirror) == [16, 26]


def test_a_flush_takes_the_policies_of_its_type(mirror: PolicyMirror) -> None:
    sub = replace(policy(Direction.OUT, 41), type=1)
    told(mirror, message(sub))

    told(mirror, NetlinkMessage(Msg.FLUSHPOLICY, 0, 0, 0, attribute(Attr.POLICY_TYPE, PolicyType(0).pack())))

    assert indexes(mirror) == [41]


def test_a_migration_by_anybody_is_followed_and_given_on(mirror: PolicyMirror) -> None:
    out = mirror.of_reqid(REQID)[0]
    entry = MigrateEntry(old_source=OLD, old_destination=GATE, new_source=NEW, new_destination=GATE, reqid=REQID)
    moved = Migrate(selector=out.policy.selector, direction=Direction.OUT, entries=(entry,))

    assert not told(mirror, NetlinkMessage(Msg.MIGRATE, 0, 0, 0, moved.pack()))

    assert [known.ends for known in mirror.of_reqid(REQID)] == [((NEW, GATE),), ((GATE, OLD),), ((GATE, OLD),)]


def entries(payload: bytes) -> list[tuple[str, ...]]:
    return [
        tuple(map(str, (e.old_source, e.old_destination, e.new_source, e.new_destination)))
        for e in Migrate.unpack(payload).entries
    ]


def test_a_step_names_the_policy_and_carries_states_of_both_directions(mirror: PolicyMirror) -> None:
    plan = Steps(path(OLD), path(NEW))
    out, inbound, forward = mirror.of_reqid(REQID)

    step = plan.step(out, REQID)

    read = Migrate.unpack(step.payload)
    assert (read.selector, read.direction, read.kmaddress) == (out.policy.selector, Direction.OUT, None)
    there = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.2")
    back = ("192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert entries(step.payload) == [there, back]
    assert entries(plan.step(inbound, REQID).payload) == [back, there]
    assert step.ends == ((NEW, GATE),)
    assert str(step) == "migrate out policy 10.9.0.1/32 10.1.0.0/16 of reqid 7"
    assert Migrate.unpack(plan.step(forward, REQID, inform=True).payload).kmaddress == KmAddress(NEW, GATE)


def test_a_policy_that_is_there_already_is_done(mirror: PolicyMirror) -> None:
    plan = Steps(path(OLD), path(NEW))
    out = mirror.of_reqid(REQID)[0]

    assert not plan.done(out, REQID)
    assert plan.done(out.at(plan.step(out, REQID).ends), REQID)


def test_a_policy_that_is_elsewhere_is_moved_from_there(mirror: PolicyMirror) -> None:
    elsewhere = ip_address("198.51.100.9")
    out = mirror.of_reqid(REQID)[0].at(((elsewhere, GATE),))

    first, *others = entries(Steps(path(OLD), path(NEW)).step(out, REQID).payload)

    assert first == ("198.51.100.9", "192.0.2.2", "192.0.2.3", "192.0.2.2")
    assert ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.2") in others


def test_the_same_address_again_gives_one_entry(mirror: PolicyMirror) -> None:
    forward = mirror.of_reqid(REQID)[2]

    step = Steps(path(OLD), path(OLD)).step(forward, REQID, inform=True)

    assert entries(step.payload) == [("192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1")]


def test_both_states_of_ipcomp_move() -> None:
    esp = Template(
        source=ip_address("::"), destination=ip_address("::"), family=0, reqid=REQID, protocol=50, mode=Mode.TRANSPORT
    )
    comp = policy(Direction.OUT, 9, more=(esp,))
    comp = replace(comp, templates=(replace(comp.templates[0], protocol=108), esp))
    mirror = PolicyMirror()
    mirror.load([message(comp)])
    (known,) = mirror.of_reqid(REQID)

    step = Steps(path(OLD), path(NEW)).step(known, REQID)

    kinds = [(e.protocol, e.mode) for e in Migrate.unpack(step.payload).entries]
    assert sorted(kinds) == [(50, Mode.TRANSPORT), (50, Mode.TRANSPORT), (108, Mode.TUNNEL), (108, Mode.TUNNEL)]
    assert step.ends == ((NEW, GATE), (ip_address("::"), ip_address("::")))
    assert len(kinds) <= ENTRIES_MAX


def test_type_interface_id_and_raw_selector_are_those_of_the_kernel() -> None:
    special = replace(policy(Direction.OUT, 9), type=1, if_id=5, mark=Mark(1, 1))
    padded = bytearray(special.pack())
    padded[45:48] = b"\x01\x02\x03"  # padding of struct xfrm_selector, which the kernel compares
    mirror = PolicyMirror()
    mirror.load([NetlinkMessage(Msg.NEWPOLICY, 0, 0, 0, bytes(padded))])
    (known,) = mirror.of_reqid(REQID)

    step = Steps(path(OLD), path(NEW)).step(known, REQID)

    assert step.payload[:56] == bytes(padded[:56])
    assert len(padded) > USERPOLICY_INFO_SIZE
    read = Migrate.unpack(step.payload)
    assert (read.type, read.if_id) == (1, 5)


def test_a_policy_that_the_kernel_does_not_find_is_carried_by_one_that_no_packet_finds(mirror: PolicyMirror) -> None:
    mirror.load([message(replace(policy(Direction.OUT, 9), mark=Mark(1, 1), if_id=5, priority=10))])
    (known,) = mirror.of_reqid(REQID)

    step = Steps(path(OLD), path(NEW), {REQID}).step(known, REQID)
    carrier, migrate, moved, gone = step.requests

    added = Policy.unpack(carrier.payload)
    assert (added.selector.protocol, added.priority, added.mark, added.if_id) == (253, 0, None, 5)
    assert added.templates == known.policy.templates
    assert Migrate.unpack(migrate.payload).selector == added.selector
    there = (replace(known.policy.templates[0], source=NEW),)
    assert Policy.unpack(moved.payload) == replace(known.policy, templates=there)
    assert (gone.type, PolicyId.unpack(gone.payload).selector) == (Msg.DELPOLICY, added.selector)
    assert [Policy.unpack(undo.payload) for undo in step.undo] == [known.policy]


def test_the_mark_of_a_policy_for_what_goes_out_is_found_by_inner_addresses() -> None:
    marked = replace(policy(Direction.OUT, 9), mark=Mark(42))
    mirror = PolicyMirror()
    mirror.load([message(marked), message(replace(policy(Direction.IN, 10), mark=Mark(7)))])
    assert mirror.mark(INNER, ip_address("10.1.200.1")) == 42
    assert mirror.mark(ip_address("10.9.0.2"), ip_address("10.1.0.1")) == 0
    assert mirror.mark(INNER, ip_address("10.2.0.1")) == 0
    assert mirror.mark(ip_address("10.1.0.1"), INNER) == 0, "what comes in is not ours to mark"
    assert mirror.mark(ip_address("fd00::1"), ip_address("fd00::2")) == 0
    told(mirror, message(replace(marked, mark=None)))
    assert mirror.mark(INNER, BEHIND) == 0


def test_a_marked_policy_for_everything_covers_every_address() -> None:
    whole = replace(policy(Direction.OUT, 9), mark=Mark(42))
    whole = replace(whole, selector=replace(whole.selector, destination=ip_address(0), destination_length=0))
    mirror = PolicyMirror()
    mirror.load([message(whole)])
    assert mirror.mark(INNER, ip_address("203.0.113.200")) == 42
    mirror.load([])
    assert mirror.mark(INNER, BEHIND) == 0


def test_what_blocks_a_policy_comes_before_it_but_is_not_for_a_packet_of_no_protocol(mirror: PolicyMirror) -> None:
    (out,) = (known for known in mirror.of_reqid(REQID) if known.direction == Direction.OUT)
    known = out.policy
    busy = MirroredPolicy(replace(known, priority=375), out.raw_selector, out.ends)

    ours = blocks(busy)

    assert [each.selector.protocol for each in ours] == [6, 17, 1]
    for each in ours:
        assert replace(each.selector, protocol=0, user=0) == known.selector
        assert (each.action, each.priority, each.templates, each.index) == (1, 374, (), 0)
        assert each.limits.hard_add_s > 0


def test_a_policy_for_one_protocol_is_not_blocked_as_migrate_would_find_that_instead(mirror: PolicyMirror) -> None:
    (out,) = (known for known in mirror.of_reqid(REQID) if known.direction == Direction.OUT)
    selector = replace(out.policy.selector, protocol=6)

    assert blocks(MirroredPolicy(replace(out.policy, selector=selector), out.raw_selector, out.ends)) == []
