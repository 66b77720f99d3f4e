"""Decoding of vici messages."""

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from swanroam.charon.decode import decode_event, decode_ike_sa, decode_listing, decode_selectors
from swanroam.charon.protocols import EventKind
from swanroam.errors import WireError
from swanroam.model.path import Endpoint
from swanroam.model.tunnel import Mode, Selector
from tests.fakes.vici import Section, child_section, ike_section


def wire(tree: Any) -> Any:
    """A tree as the vici library hands it over: values are bytes."""
    if isinstance(tree, dict):
        return {key: wire(value) for key, value in tree.items()}
    return [value.encode() for value in tree] if isinstance(tree, list) else tree.encode()


def listed(*children: Section, **changes: object) -> Section:
    named = {f"{child.get('name')}-{child.get('uniqueid')}": child for child in children}
    return wire(ike_section(7, **changes) | {"child-sas": named})  # type: ignore[no-any-return]


def test_an_ike_sa_is_read_with_its_children() -> None:
    sa = decode_ike_sa("roam", listed(child_section(1), child_section(2, encap="yes"), nat_local="yes"))
    assert (sa.name, sa.unique_id, sa.version, sa.state, sa.initiator) == ("roam", 7, 2, "ESTABLISHED", True)
    assert sa.local == Endpoint(IPv4Address("10.0.1.2"), 500)
    assert sa.remote == Endpoint(IPv4Address("10.9.0.1"), 500)
    assert sa.initiator_spi == 0xA0000000000007
    assert sa.responder_spi == 0xB0000000000007
    assert sa.local_vips == (IPv4Address("10.3.0.1"),)
    assert sa.remote_vips == ()
    assert (sa.nat_local, sa.nat_remote) == (True, False)
    one, two = sa.children
    assert (one.name, one.unique_id, one.reqid, one.spi_in, one.spi_out) == ("net", 1, 1, 0xC0000001, 0xD0000001)
    assert (one.mode, one.protocol, one.state, one.encap) == (Mode.TUNNEL, "ESP", "INSTALLED", False)
    assert one.local_selectors == (Selector(ip_network("10.3.0.1/32")),)
    assert two.encap
    assert sa.path.encap


def test_an_ike_sa_that_is_being_set_up_is_read() -> None:
    sa = decode_ike_sa(
        "roam",
        listed(state="CONNECTING", local_host="%any", remote_host="%any6", responder_spi="0" * 16, local_vips=["%any"]),
    )
    assert sa.local.address == IPv4Address(0)
    assert sa.remote.address == IPv6Address(0)
    assert sa.local_vips == ()
    assert not sa.established


def test_a_child_that_is_being_updated_has_no_spis() -> None:
    child = child_section(1, state="UPDATING", protocol=None, spi_in=None, spi_out=None)
    (decoded,) = decode_ike_sa("roam", listed(child)).children
    assert (decoded.spi_in, decoded.spi_out, decoded.state) == (0, 0, "UPDATING")


def test_a_child_whose_packets_are_compressed_is_known_by_its_second_pair_of_states() -> None:
    children = decode_ike_sa("roam", listed(child_section(1), child_section(2, cpi_in="1a2b", cpi_out="3c4d"))).children
    assert [child.ipcomp for child in children] == [False, True]


@pytest.mark.parametrize("mode", ["TRANSPORT_PROXY", "IPTFS", "PASS"])
def test_modes_that_are_not_known_are_other(mode: str) -> None:
    assert decode_ike_sa("roam", listed(child_section(1, mode=mode))).children[0].mode == Mode.OTHER


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"uniqueid": None}, "roam: field uniqueid: missing"),
        ({"uniqueid": "-1"}, "uniqueid"),
        ({"uniqueid": "4294967296"}, "no number up to 4294967295"),
        ({"uniqueid": "\u0661"}, "uniqueid"),
        ({"version": "3"}, "version: 3 is neither 1 nor 2"),
        ({"local_host": "somewhere"}, "'somewhere' is no IP address"),
        ({"local_port": "65536"}, "local-port"),
        ({"remote_port": ["500"]}, "remote-port: a value was expected, not list"),
        ({"initiator_spi": "0x12"}, "initiator-spi"),
        ({"responder_spi": "1" * 17}, "responder-spi"),
        ({"local_vips": "10.3.0.1"}, "local-vips: a list was expected, not bytes"),
        ({"local_vips": ["10.3.0.256"]}, "local-vips: '10.3.0.256' is no IP address"),
        ({"state": None}, "state: missing"),
        ({"child_sas": "none"}, "child-sas: a section was expected"),
    ],
)
def test_an_odd_field_of_an_ike_sa_is_named(changes: dict[str, object], problem: str) -> None:
    section = listed() | wire(ike_section(7, **changes))
    for key, value in changes.items():
        if value is None:
            del section[key.replace("_", "-")]
    with pytest.raises(WireError, match=problem):
        decode_ike_sa("roam", section)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": None}, "roam.child-sas.None-1: field name: missing"),
        ({"reqid": "x"}, "net-1: field reqid"),
        ({"spi_in": "123456789"}, "spi-in"),
        ({"spi_out": None}, "spi-out: missing"),
        ({"mode": None}, "mode: missing"),
        ({"local_ts": ["10.3.0.1/33"]}, "local-ts"),
        ({"remote_ts": ["nonsense"]}, "'nonsense' is no traffic selector"),
        ({"remote_ts": {"a": "b"}}, "a list was expected"),
    ],
)
def test_an_odd_field_of_a_child_sa_is_named(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode_ike_sa("roam", listed(child_section(1, **changes)))


@pytest.mark.parametrize("value", [b"\xff", 7, None, [b"\xff"]])
def test_a_value_that_is_no_text_is_an_error(value: object) -> None:
    with pytest.raises(WireError):
        decode_ike_sa("roam", listed() | {"state": value})


def test_one_bad_ike_sa_does_not_hide_the_others() -> None:
    messages: list[dict[str, object]] = [
        {"bad": listed(version="9")},
        {"good": listed()},
        {"worse": b"no section"},
        {"fine": listed()},
    ]
    listing = decode_listing(messages)
    assert [sa.name for sa in listing.sas] == ["good", "fine"]
    assert ["bad" in str(listing.problems[0]), "worse" in str(listing.problems[1])] == [True, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.0.0/16", ["10.1.0.0/16"]),
        ("fd00::/64", ["fd00::/64"]),
        ("10.1.0.1/32[tcp/80]", ["10.1.0.1/32[6/80-80]"]),
        ("10.1.0.1/32[tcp/http]", ["10.1.0.1/32[6/80-80]"]),
        ("10.1.0.1/32[tcp]", ["10.1.0.1/32[6/0-65535]"]),
        ("10.1.0.1/32[udp/5000-5010]", ["10.1.0.1/32[17/5000-5010]"]),
        ("10.1.0.1/32[0/80]", ["10.1.0.1/32[0/80-80]"]),
        ("10.1.0.1/32[132/1-2]", ["10.1.0.1/32[132/1-2]"]),
        ("10.1.0.1/32[udp/OPAQUE]", ["10.1.0.1/32[17/65535-0]"]),
        ("10.1.0.1/32[icmp/8]", ["10.1.0.1/32[1/2048-2048]"]),
        ("10.1.0.1/32[icmp/3(4)]", ["10.1.0.1/32[1/772-772]"]),
        ("fd00::1/128[ipv6-icmp/1-4(255)]", ["fd00::1/128[58/256-1279]"]),
        ("10.0.0.1..10.0.0.9", ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/30", "10.0.0.8/31"]),
        ("fd00::1..fd00::2[tcp/22]", ["fd00::1/128[6/22-22]", "fd00::2/128[6/22-22]"]),
        ("10.0.0.1/32[tcp/iso-tsap]", ["10.0.0.1/32[6/102-102]"]),
        ("dynamic", []),
        ("dynamic[tcp/80]", []),
        ("[tcp/80-90]", []),
    ],
)
def test_a_traffic_selector_is_read_as_charon_prints_it(text: str, expected: list[str]) -> None:
    assert [str(selector) for selector in decode_selectors(text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.1.0.0",
        "10.1.0.1/16",
        "10.0.0.9..10.0.0.1",
        "10.0.0.1..fd00::1",
        "1.1.1.1/32[nothing/1]",
        "1.1.1.1/32[256]",
        "1.1.1.1/32[tcp/70000]",
        "1.1.1.1/32[tcp/no-such-port]",
        "1.1.1.1/32[tcp/80",
        "1.1.1.1/32[tcp/80-]",
        "1.1.1.1/32[tcp/\0]",
        "1.1.1.1/32[icmp/256]",
        "1.1.1.1/32[icmp/x]",
        "1.1.1.1/32[\0/1]",
        "1.1.1.1/32tcp",
        "::g/64",
    ],
)
def test_what_is_no_traffic_selector_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_selectors(text)


def test_an_updown_event_says_which_way() -> None:
    up = decode_event(EventKind.IKE_UPDOWN, wire({"up": "yes", "roam": ike_section(3)}), 1.5)
    down = decode_event(EventKind.IKE_UPDOWN, wire({"roam": ike_section(3)}), 2.5)
    assert (up.up, down.up, up.at_s, down.at_s) == (True, False, 1.5, 2.5)
    assert up.sa is not None
    assert (up.sa.unique_id, up.sa.children) == (3, ())


def test_an_update_event_has_the_old_and_the_new_endpoints() -> None:
    ends = {"local-host": "10.0.2.2", "local-port": "4500", "remote-host": "10.9.0.1", "remote-port": "4500"}
    event = decode_event(EventKind.IKE_UPDATE, wire(ends | {"roam": ike_section(3)}), 0)
    assert event.sa is not None
    assert event.former is not None
    assert event.sa.local == Endpoint(IPv4Address("10.0.2.2"), 4500)
    assert event.former.local == Endpoint(IPv4Address("10.0.1.2"), 500)


def test_a_child_rekey_has_the_old_and_the_new_child() -> None:
    pair = {"old": child_section(1, state="REKEYED"), "new": child_section(2)}
    event = decode_event(EventKind.CHILD_REKEY, wire({"roam": ike_section(3) | {"child-sas": {"net": pair}}}), 0)
    assert event.sa is not None
    assert event.former is not None
    assert [child.unique_id for child in event.former.children + event.sa.children] == [1, 2]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (EventKind.IKE_UPDOWN, {}),
        (EventKind.IKE_UPDOWN, {"a": ike_section(1), "b": ike_section(2)}),
        (EventKind.IKE_REKEY, {"roam": {"old": ike_section(1)}}),
        (EventKind.IKE_UPDATE, {"roam": ike_section(1)}),
        (EventKind.CHILD_REKEY, {"roam": ike_section(1)}),
        (EventKind.CHILD_REKEY, {"roam": ike_section(1) | {"child-sas": {"net": child_section(1)}}}),
        (EventKind.CONNECTED, {"roam": ike_section(1)}),
    ],
)
def test_an_event_with_something_missing_is_an_error(kind: EventKind, message: Section) -> None:
    with pytest.raises(WireError):
        decode_event(kind, wire(message), 0)
