"""Messages of nf_tables, the rules' text, and the bookkeeping of wanted elements."""

import re
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.errors import WireError
from swanroam.kernel.elements import UNPROVEN_MS, WantedElements
from swanroam.model.effects import Watch
from swanroam.model.path import Endpoint, IPAddress, Path
from swanroam.model.tunnel import Role, TunnelKey
from swanroam.wire.netlink import NetlinkMessage, attribute, nested, unpack_attributes, unpack_messages
from swanroam.wire.nftables import (
    Change,
    Element,
    ElementChange,
    counter_query,
    name_of_table,
    pack_delete_table,
    pack_transactions,
    set_key,
    unpack_counter,
)
from swanroam.wire.ruleset import ruleset

A, B, A6 = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("2001:db8::1")
OWN, OWN6 = ip_address("192.0.2.254"), ip_address("2001:db8::fe")
INNER, INNER6 = ip_address("10.9.0.1"), ip_address("fd00:9::1")
KEY = TunnelKey("home", (INNER,))
BEGIN, END = 0x10, 0x11


def add(name: str, *fields: int) -> ElementChange:
    return ElementChange(Element(name, set_key(*fields)), add=True)


def test_fields_of_a_key_are_in_network_order_without_padding() -> None:
    assert set_key(A, 0xC0000001) == bytes.fromhex("c0000201 c0000001")
    assert set_key(0xC0000001, A6) == bytes.fromhex("c0000001") + A6.packed


def test_an_endpoint_fills_two_registers_the_port_in_front_of_two_bytes_of_zero() -> None:
    assert set_key(Endpoint(A, 31000), 0xC0000001) == bytes.fromhex("c0000201 79180000 c0000001")
    assert set_key(Endpoint(A6, 4500), 1) == A6.packed + bytes.fromhex("11940000 00000001")


def test_a_transaction_is_framed_and_asks_for_one_acknowledgement() -> None:
    changes = [
        add("known", 1),
        add("known", 2),
        add("roaming", 3),
        ElementChange(Element("known", set_key(4)), add=False),
    ]
    (transaction,) = pack_transactions("swanroam", changes, 100)
    messages = list(unpack_messages(transaction.data))
    assert [message.type for message in messages] == [BEGIN, 0xA0C, 0xA0C, 0xA0E, END]
    assert [message.sequence for message in messages] == [100, 101, 102, 103, 104]
    assert (transaction.first, transaction.last) == (100, 103)
    assert [bool(message.flags & 4) for message in messages] == [False, False, False, True, False]
    assert messages[0].payload == b"\0\0\0\x0a"
    found = dict(unpack_attributes(messages[1].payload, 4))
    assert (messages[1].payload[0], found[1], found[2]) == (1, b"swanroam\0", b"known\0")
    assert found[3] == nested(1, nested(1, attribute(1, set_key(1)))) + nested(1, nested(1, attribute(1, set_key(2))))


def test_a_timeout_is_told_in_milliseconds() -> None:
    change = ElementChange(Element("leaving", set_key(A, 1)), add=True, timeout_ms=5000)
    (transaction,) = pack_transactions("t", [change], 1)
    elements = dict(unpack_attributes(list(unpack_messages(transaction.data))[1].payload, 4))[3]
    (element,) = dict(unpack_attributes(elements)).values()
    assert dict(unpack_attributes(element))[4] == struct.pack("!Q", 5000)


def test_no_changes_make_no_transaction() -> None:
    assert list(pack_transactions("t", [], 1)) == []


def test_many_changes_are_cut_into_transactions_that_fit_a_send_buffer() -> None:
    changes = [ElementChange(Element("bound6", set_key(number, A6)), add=True) for number in range(5001)]
    transactions = list(pack_transactions("swanroam", changes, 1))
    assert all(len(transaction.data) < 200_000 for transaction in transactions)
    sequences, keys = [], []
    for transaction in transactions:
        for message in unpack_messages(transaction.data):
            sequences.append(message.sequence)
            if message.type == Change.NEWSETELEM:
                elements = dict(unpack_attributes(message.payload, 4))[3]
                keys += [dict(unpack_attributes(element))[1][4:] for _type, element in unpack_attributes(elements)]
    assert sequences == list(range(1, len(sequences) + 1))
    assert keys == [change.element.key for change in changes]


def test_a_table_is_deleted_in_a_transaction() -> None:
    transaction = pack_delete_table("swanroam", 7)
    messages = list(unpack_messages(transaction.data))
    assert [(message.type, message.sequence) for message in messages] == [(BEGIN, 7), (0xA02, 8), (END, 9)]
    assert (transaction.first, transaction.last) == (7, 8)


def test_a_counter_is_asked_for_and_read() -> None:
    assert dict(unpack_attributes(counter_query("t", "c"), 4)) == {1: b"t\0", 2: b"c\0", 3: b"\0\0\0\1"}
    counted = nested(4, attribute(1, struct.pack("!Q", 600)), attribute(2, struct.pack("!Q", 7)))
    assert unpack_counter(NetlinkMessage(0xA12, 0, 0, 0, b"\1\0\0\0" + counted)) == 7
    for strange in (b"", nested(4), nested(4, attribute(2, b"\0\0\0\7"))):
        with pytest.raises(WireError, match="64-bit count"):
            unpack_counter(NetlinkMessage(0xA12, 0, 0, 0, b"\1\0\0\0" + strange))


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"\1\0\0\0" + attribute(1, b"swanroam\0") + attribute(2, b"known\0"), "swanroam"),
        (b"\2\0\0\0" + attribute(1, b"swanroam\0"), None),
        (b"\1\0\0\0" + attribute(2, b"swanroam\0"), None),
        (b"\1\0", None),
    ],
)
def test_events_tell_the_table_of_our_family(payload: bytes, name: str | None) -> None:
    assert name_of_table(NetlinkMessage(Change.DELTABLE, 0, 0, 0, payload)) == name


# Rules


def test_only_the_gateway_holds_esp_and_inner_addresses_are_on_the_right_side() -> None:
    gateway = ruleset(Role.GATEWAY, table="t", queue=10, port=20)
    terminal = ruleset(Role.TERMINAL, table="t", queue=10, port=20)
    assert "queue flags bypass to 10\n" in gateway
    assert "ipsec in spi . ip saddr @bound goto spoken\n" in gateway
    assert "@roaming" not in terminal
    assert "esp : jump late" in terminal
    assert "ip daddr . esp spi @late queue flags bypass to 13\n" in terminal
    assert "@late" not in gateway
    assert "ipsec in spi . ip daddr @bound goto spoken\n" in terminal
    assert "udp sport 20 udp dport 20" in terminal


def test_nobody_behind_this_machine_speaks_for_its_daemon() -> None:
    for role in Role:
        rules = ruleset(role, table="t", queue=10, port=20)
        forward = rules.partition("chain forward {")[2].partition("}")[0]
        assert "udp sport 20 udp dport 20 jump smuggled" in forward


def test_floods_are_judged_by_source_and_by_spi_before_they_are_held_and_go_on_beyond_the_limits() -> None:
    rules = ruleset(Role.GATEWAY, table="t", queue=10, port=20)
    held = rules.partition("chain held {")[2].partition("}\n  chain")[0]
    order = [
        held.index(part) for part in ("@known accept", "@waiting queue", "@roaming accept", "jump limited", "@asked")
    ]
    assert order == sorted(order)
    assert held.rstrip().endswith("queue flags bypass to 10")
    limits = [line for line in rules.splitlines() if "limit rate" in line]
    assert all(line.rstrip().endswith(("accept", "drop")) for line in limits)
    assert all("@spent" in line or "@speakers" in line for line in limits if line.rstrip().endswith("drop"))


def test_messages_and_ike_are_limited_before_they_are_queued_for_each_tunnel() -> None:
    for role in Role:
        rules = ruleset(role, table="t", queue=10, port=20)
        for chain, by, limited, queue in (
            ("spoken", "@bound goto", "@speakers", "to 11"),
            ("carried", "@carried jump", "@carriers", "to 12"),
            ("arrived", "@arriving jump", "@arrivers", "to 12"),
            ("arrived6", "@arriving6 jump", "@arrivers6", "to 12"),
        ):
            first, second = rules.partition(f"chain {chain} {{")[2].partition("}\n  ")[0].strip().splitlines()
            assert limited in first
            assert second.strip().startswith("queue ")
            assert second.endswith(queue)
            assert f"{by} {chain}\n" in rules


# Wanted elements


def watched(*sources: str, key: TunnelKey = KEY, spis: tuple[int, ...] = (1,), leaving: tuple[str, ...] = ()) -> Watch:
    return Watch(
        key=key,
        inner=(INNER, INNER6),
        spis=spis,
        own=(OWN, OWN6),
        sources=tuple(map(ip_address, sources)),
        leaving=tuple(map(ip_address, leaving)),
    )


def told(changes: list[ElementChange]) -> list[tuple[str, str, int | None]]:
    return [("+" if change.add else "-", change.element.set_name, change.timeout_ms) for change in changes]


def test_only_a_terminal_looks_at_addresses_that_it_left() -> None:
    left = replace(watched(spis=(1, 2)), late=(ip_address("192.0.2.1"), ip_address("2001:db8::1")))
    terminal = told(WantedElements(holds=False, leaving_ms=500).watch(left))
    assert [name for _sign, name, _timeout in terminal if name.startswith("late")] == ["late", "late", "late6", "late6"]
    waits = replace(left, late=(), vacant=left.late)
    assert told(WantedElements(holds=False, leaving_ms=500).watch(waits)) == terminal, "until it is there"
    assert not [
        change for change in told(WantedElements(holds=True, leaving_ms=500).watch(left)) if "late" in change[1]
    ]


def test_a_move_adds_the_new_source_and_lets_the_old_one_leave() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    first = wanted.watch(watched("192.0.2.1"))
    assert told(first) == [
        ("+", "known", None),
        ("+", "bound", None),
        ("+", "bound6", None),
        ("+", "roaming", None),
        ("+", "roaming_udp", None),
    ]
    assert wanted.watch(watched("192.0.2.1")) == []
    moved = wanted.watch(watched("192.0.2.2", leaving=("192.0.2.1",)))
    assert told(moved) == [("+", "leaving", 500), ("+", "known", None), ("-", "known", None)]
    assert moved[0].element.key == moved[2].element.key == set_key(A, OWN, 1)


def test_a_source_is_known_at_the_addresses_where_the_tunnel_is_and_at_no_other() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    wanted.watch(replace(watched("192.0.2.1", "2001:db8::1"), own=(OWN,)))
    changes = wanted.watch(replace(watched("192.0.2.1", "2001:db8::1"), own=(B, OWN6)))
    assert [(change.add, change.element.set_name, change.element.key) for change in changes] == [
        (True, "known", set_key(A, B, 1)),
        (True, "known6", set_key(A6, OWN6, 1)),
        (False, "known", set_key(A, OWN, 1)),
    ]


def test_a_source_that_is_no_longer_leaving_is_removed_even_when_the_kernel_has_forgotten_it() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    wanted.watch(watched("192.0.2.2", leaving=("192.0.2.1",)))
    settled = wanted.watch(watched("192.0.2.2"))
    assert told(settled) == [("+", "leaving", 500), ("-", "leaving", None)]


def test_nothing_is_held_of_a_tunnel_that_may_not_move() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    assert {change.element.set_name for change in wanted.watch(watched())} == {"bound", "bound6"}
    wanted.watch(watched("192.0.2.1"))
    assert ("-", "roaming", None) in told(wanted.watch(watched()))


def test_a_known_source_that_waits_is_held_in_a_way_of_its_own() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    known = watched("192.0.2.1")
    wanted.watch(known)
    assert told(wanted.watch(replace(known, sources=(), waiting=known.sources))) == [
        ("+", "waiting", None),
        ("+", "down", None),
        ("+", "down6", None),
        ("-", "known", None),
    ]
    assert [set_name for sign, set_name, _ in told(wanted.watch(known)) if sign == "-"] == ["waiting", "down", "down6"]


def test_what_goes_down_waits_for_a_while_and_no_shorter_than_it_waits_for_charon() -> None:
    wanted, known = WantedElements(holds=True, leaving_ms=500), watched("192.0.2.1")
    wanted.watch(known)
    assert told(wanted.hold_down(KEY)) == [("+", "down", None)]
    waiting = wanted.watch(replace(known, sources=(), waiting=known.sources))
    assert told(waiting) == [("+", "waiting", None), ("+", "down6", None), ("-", "known", None)]
    assert wanted.let_down(KEY) == []
    assert ("-", "down", None) in told(wanted.watch(known))
    assert WantedElements(holds=False, leaving_ms=500).hold_down(KEY) == []


def test_what_is_sent_to_an_address_that_is_not_proven_is_limited_for_a_time_at_most() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    wanted.watch(watched("192.0.2.1"))
    (limited,) = wanted.watch(replace(watched("192.0.2.1"), unproven=(7,)))
    assert (limited.element.set_name, limited.add, limited.timeout_ms) == ("unproven", True, UNPROVEN_MS)
    assert limited.element.key == set_key(A, 7)
    assert told(wanted.watch(watched("192.0.2.1")))[-1] == ("-", "unproven", None)


def test_ipv6_sources_are_in_sets_of_their_own() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    names = {change.element.set_name for change in wanted.watch(watched("2001:db8::1", leaving=("2001:db8::2",)))}
    assert names == {"known6", "leaving6", "bound", "bound6", "roaming", "roaming_udp"}


def test_origins_in_udp_are_in_sets_of_their_own_by_address_and_port() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    wanted.watch(watched("192.0.2.1"))
    watch = replace(watched(), sources=(Endpoint(B, 31000),), leaving=(A,))
    changes = wanted.watch(watch)
    assert told(changes) == [("+", "leaving", 500), ("+", "known_udp", None), ("-", "known", None)]
    assert changes[1].element.key == set_key(Endpoint(B, 31000), OWN, 1)
    port = replace(watch, sources=(Endpoint(B, 31001),), leaving=(Endpoint(B, 31000),))
    assert ("-", "known_udp", None) in told(wanted.watch(port))
    six = replace(watched(), sources=(Endpoint(A6, 4500),), waiting=(Endpoint(A6, 4501),), unproven=(7,))
    names = {change.element.set_name for change in wanted.watch(six) if change.add}
    assert {"known_udp6", "waiting_udp6", "unproven_udp6"} <= names


def test_ike_sas_that_go_with_esp_in_udp_are_known_by_the_initiators_spi() -> None:
    wanted = WantedElements(holds=False, leaving_ms=500)
    changes = wanted.watch(replace(watched("192.0.2.1"), ike=(0x0102030405060708,)))
    assert [change.element.key for change in changes if change.element.set_name == "carried"] == [bytes(range(1, 9))]
    assert ("-", "carried", None) in told(wanted.watch(watched("192.0.2.1")))


def test_ike_sas_that_are_not_listed_are_known_by_where_the_tunnel_is() -> None:
    wanted = WantedElements(holds=False, leaving_ms=500)
    path = Path(Endpoint(A, 4500), Endpoint(B, 4500), encap=True)
    changes = wanted.watch(replace(watched("192.0.2.1"), carrying=path))
    keys = {change.element.set_name: change.element.key for change in changes if "ing" in change.element.set_name}
    assert keys == {"arriving": set_key(Endpoint(B, 4500)), "departing": set_key(A, B)}


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("near", "far"), [(A, B), (OWN6, A6)], ids=["ipv4", "ipv6"])
def test_there_is_a_set_for_every_element_of_a_role(role: Role, near: IPAddress, far: IPAddress) -> None:
    gateway = role is Role.GATEWAY
    wanted = WantedElements(holds=gateway, leaving_ms=500)
    every = Watch(
        key=KEY,
        inner=(INNER, INNER6),
        spis=(1,),
        own=(near,),
        sources=(far, Endpoint(far, 4500)),
        leaving=(far, Endpoint(far, 4500)),
        waiting=(far, Endpoint(far, 4500)),
        late=(near,),
        vacant=(near,),
        unproven=(7,),
        ike=(5,),
        carrying=Path(Endpoint(near, 4500), Endpoint(far, 4500), encap=True),
    )
    changes = wanted.watch(every) + ([] if gateway else wanted.translate(KEY, near, near, far))
    sets = set(re.findall(r"(?:set|map) (\w+) \{", ruleset(role, table="t", queue=10, port=20)))
    assert {change.element.set_name for change in changes} <= sets


@pytest.mark.parametrize(
    ("network", "remote", "away", "home"),
    [("198.51.100.", A, "away", "home"), ("2001:db8:1::", A6, "away6", "home6")],
    ids=["ipv4", "ipv6"],
)
def test_a_kept_address_is_one_element_of_each_map_and_another_value_takes_the_place_of_the_first(
    network: str, remote: IPAddress, away: str, home: str
) -> None:
    wanted = WantedElements(holds=False, leaving_ms=500)
    kept, actual, other = (ip_address(f"{network}{last}") for last in (1, 2, 3))
    first = wanted.translate(KEY, kept, actual, remote)
    assert [(change.element.set_name, change.element.key, change.element.data) for change in first] == [
        (away, set_key(kept, remote), actual.packed),
        (home, set_key(actual, remote), kept.packed),
    ]
    assert told(wanted.translate(KEY, kept, other, remote)) == [
        *(("-", away, None), ("-", home, None)),
        *(("+", away, None), ("+", home, None)),
    ]
    assert wanted.watch(watched("192.0.2.1")) != []
    assert told(wanted.unwatch(KEY))[0][:2] != ("-", away)
    assert told(wanted.untranslate(KEY)) == [("-", away, None), ("-", home, None)]
    assert wanted.untranslate(KEY) == []


def test_an_element_of_a_map_is_added_with_its_value_and_removed_by_its_key() -> None:
    element = Element("away", set_key(A, B), B.packed)
    for add in (True, False):
        (transaction,) = pack_transactions("t", [ElementChange(element, add=add)], 1)
        elements = dict(unpack_attributes(list(unpack_messages(transaction.data))[1].payload, 4))[3]
        value = attribute(2 | 0x8000, attribute(1, B.packed)) if add else b""
        assert elements == nested(1, nested(1, attribute(1, set_key(A, B))), value)


def test_a_terminal_binds_and_holds_nothing() -> None:
    wanted = WantedElements(holds=False, leaving_ms=500)
    changes = wanted.watch(watched("192.0.2.1", leaving=("192.0.2.2",)))
    assert told(changes) == [("+", "bound", None), ("+", "bound6", None)]


def test_an_element_that_another_tunnel_wants_stays() -> None:
    wanted = WantedElements(holds=True, leaving_ms=500)
    wanted.watch(watched("192.0.2.1"))
    successor = TunnelKey("home", (INNER, INNER6))
    assert wanted.watch(watched("192.0.2.1", key=successor)) == []
    assert wanted.unwatch(KEY) == []
    assert {change.add for change in wanted.unwatch(successor)} == {False}
    assert wanted.unwatch(successor) == []
    assert wanted.everything() == []
