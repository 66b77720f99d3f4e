"""IKE messages that travel with a tunnel's ESP in UDP: which of them, to where, and what they say of NATs."""

import hashlib
import struct
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from swanroam.app.carrying import UNLISTED_MAX, Carrier
from swanroam.core.table import Table
from swanroam.core.tunnel import Tunnel
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, IkeSa, Role
from swanroam.wire.ike import MARKER, IkePacket, parse_ike
from swanroam.wire.inner import pack_udp, parse_udp
from tests.support.values import GATEWAY, KEY, NAT_A, NAT_B, PRIVATE, ike_sa, in_udp

TERMINAL, SEEN = Endpoint(PRIVATE, 4500), Endpoint(NAT_A, 31000)
OURS = Endpoint(GATEWAY, 4500)
MAIN_MODE, QUICK_MODE, TRANSACTION = 2, 32, 6
NAT_D, DRAFT_NAT_D, KEY_EXCHANGE = 20, 130, 4
BEGUN = 0x0A0B


def sa_of(role: Role, version: int = 1) -> IkeSa:
    """As charon has it, which knows of no NAT: at the address that the gateway sees, on the ports of IKE."""
    return replace(ike_sa(role, outer=PRIVATE if role is Role.TERMINAL else NAT_A), version=version)


def tunnel(role: Role, *sas: IkeSa, seen: Endpoint = SEEN) -> Tunnel:
    """A tunnel that went in UDP after charon had set it up without."""
    ends = (TERMINAL, OURS) if role is Role.TERMINAL else (OURS, seen)
    every = sas or (sa_of(role),)
    return Tunnel(key=KEY, role=role, sas=every, path=Path(*ends, encap=True), capability=Capability.NEGOTIATED)


def carrier(*tunnels: Tunnel) -> Carrier:
    table = Table()
    for each in tunnels:
        table.put(each)
    return Carrier(table, Table())


def message(*payloads: tuple[int, bytes], initiator: int = 0x11, responder: int = 0, **header: int) -> bytes:
    """A message of IKE: exchange, version 1 and flags 0 unless the header says otherwise; payloads by type and body."""
    kinds = [kind for kind, _ in payloads] + [0]
    body = b"".join(
        struct.pack("!BxH", following, 4 + len(data)) + data
        for following, (_, data) in zip(kinds[1:], payloads, strict=True)
    )
    version, exchange, flags = header.get("version", 1), header.get("exchange", MAIN_MODE), header.get("flags", 0)
    head = struct.pack("!QQBBBBII", initiator, responder, kinds[0], version << 4, exchange, flags, 0, 28 + len(body))
    return head + body


def out(source: Endpoint, destination: Endpoint, data: bytes) -> IkePacket:
    return parse_ike(pack_udp(source, destination, data), marked=False)


def arrived(source: Endpoint, destination: Endpoint, data: bytes) -> IkePacket:
    return parse_ike(pack_udp(source, destination, MARKER + data), marked=True)


def ends_of(packet: bytes | None) -> tuple[Endpoint, Endpoint, bytes]:
    assert packet is not None
    udp = parse_udp(packet)
    return Endpoint(udp.source, udp.source_port), Endpoint(udp.destination, udp.destination_port), udp.payload


def plain(address: IPv4Address) -> Endpoint:
    return Endpoint(address, 500)


def nat_d(data: bytes, endpoint: Endpoint, name: str = "sha256") -> bytes:
    """The hash of RFC 3947 section 3.2."""
    return hashlib.new(name, data[:16] + endpoint.address.packed + endpoint.port.to_bytes(2)).digest()


def test_a_message_of_a_known_ike_sa_goes_where_the_esp_goes_and_is_put_back_at_the_other_end() -> None:
    data = message(exchange=QUICK_MODE, flags=1, responder=0x22)
    sent = carrier(tunnel(Role.TERMINAL)).carried(out(plain(PRIVATE), plain(GATEWAY), data))
    assert ends_of(sent) == (TERMINAL, OURS, MARKER + data)
    put_back = carrier(tunnel(Role.GATEWAY)).carried(arrived(SEEN, OURS, data))
    assert ends_of(put_back) == (plain(NAT_A), plain(GATEWAY), data)


def test_an_unknown_ike_sa_and_one_of_a_tunnel_without_udp_are_left_alone() -> None:
    known = tunnel(Role.TERMINAL)
    stranger = out(plain(PRIVATE), plain(GATEWAY), message(initiator=0x99, responder=0x22, exchange=QUICK_MODE))
    assert carrier(known).carried(stranger) is None
    bare = replace(known, path=Path(plain(PRIVATE), plain(GATEWAY)))
    own = out(plain(PRIVATE), plain(GATEWAY), message(exchange=QUICK_MODE))
    assert carrier(bare).carried(own) is None


def test_an_ike_sa_that_found_the_nat_by_itself_is_left_alone() -> None:
    native = replace(sa_of(Role.GATEWAY), initiator_spi=0x77, nat_remote=True, remote=SEEN, local=OURS)
    both = carrier(tunnel(Role.GATEWAY, native, sa_of(Role.GATEWAY)))
    assert both.carried(arrived(SEEN, OURS, message(initiator=0x77))) is None
    assert both.carried(arrived(SEEN, OURS, message())) is not None
    assert (
        carrier(tunnel(Role.GATEWAY, in_udp(sa_of(Role.GATEWAY), seen=SEEN))).carried(arrived(SEEN, OURS, message()))
        is None
    )


def test_another_main_mode_is_carried_from_its_first_message_on_and_all_that_follows_it() -> None:
    begun = carrier(tunnel(Role.TERMINAL))
    first = message((1, bytes(40)), initiator=BEGUN)
    assert ends_of(begun.carried(out(plain(PRIVATE), plain(GATEWAY), first)))[:2] == (TERMINAL, OURS)
    answer = message((1, bytes(40)), initiator=BEGUN, responder=5)
    assert ends_of(begun.carried(arrived(OURS, TERMINAL, answer))) == (plain(GATEWAY), plain(PRIVATE), answer)
    for exchange in (TRANSACTION, QUICK_MODE):
        later = message(initiator=BEGUN, responder=5, exchange=exchange, flags=1)
        assert ends_of(begun.carried(out(plain(PRIVATE), plain(GATEWAY), later)))[:2] == (TERMINAL, OURS)


def test_the_gateway_takes_a_main_mode_from_where_the_tunnel_is_and_from_nowhere_else() -> None:
    first = message((1, bytes(40)), initiator=BEGUN)
    there = carrier(tunnel(Role.GATEWAY))
    assert there.carried(arrived(replace(SEEN, port=31001), OURS, first)) is None
    assert there.carried(arrived(Endpoint(NAT_B, 31000), OURS, first)) is None
    assert ends_of(there.carried(arrived(SEEN, OURS, first)))[:2] == (plain(NAT_A), plain(GATEWAY))
    answer = message((1, bytes(40)), initiator=BEGUN, responder=5)
    assert ends_of(there.carried(out(plain(GATEWAY), plain(NAT_A), answer)))[:2] == (OURS, SEEN)


@pytest.mark.parametrize("header", [{"version": 2, "exchange": 34}, {"exchange": 4}, {"responder": 7}])
def test_what_begins_no_main_mode_is_not_taken_for_one(header: dict[str, int]) -> None:
    packet = out(plain(PRIVATE), plain(GATEWAY), message(initiator=BEGUN, **header))
    assert carrier(tunnel(Role.TERMINAL)).carried(packet) is None


def test_a_main_mode_to_a_nat_with_two_terminals_behind_it_is_left_alone() -> None:
    one = tunnel(Role.GATEWAY)
    other = tunnel(Role.GATEWAY, replace(sa_of(Role.GATEWAY), initiator_spi=0x33), seen=replace(SEEN, port=32000))
    both = carrier(one, replace(other, key=replace(KEY, name="other")))
    first = message((1, bytes(40)), initiator=BEGUN)
    assert both.carried(out(plain(GATEWAY), plain(NAT_A), first)) is None
    assert ends_of(both.carried(arrived(SEEN, OURS, first)))[:2] == (plain(NAT_A), plain(GATEWAY))


@pytest.mark.parametrize("version", [1, 2])
def test_an_ike_sa_that_was_succeeded_is_carried_until_it_is_deleted(version: int) -> None:
    former, table = sa_of(Role.GATEWAY, version), Table()
    table.put(tunnel(Role.GATEWAY, former))
    there = Carrier(table, Table())
    there.carried(arrived(SEEN, OURS, message((1, bytes(40)), version=version, responder=0x22)))
    table.put(tunnel(Role.GATEWAY, replace(former, initiator_spi=BEGUN)))
    deletion = message(initiator=former.initiator_spi, responder=0x22, version=version, exchange=37, flags=1)
    assert ends_of(there.carried(out(plain(GATEWAY), plain(NAT_A), deletion)))[:2] == (OURS, SEEN)
    table.remove(KEY)
    assert there.carried(out(plain(GATEWAY), plain(NAT_A), deletion)) is None


def test_the_last_messages_of_a_tunnel_are_carried_after_its_end_and_no_new_ike_sa_is() -> None:
    parting, ended = Table(), tunnel(Role.GATEWAY)
    parting.put(ended)
    there = Carrier(Table(), parting)
    answer = out(plain(GATEWAY), plain(NAT_A), message(responder=0x22, exchange=37, flags=1))
    assert ends_of(there.carried(answer))[:2] == (OURS, SEEN)
    assert there.carried(arrived(SEEN, OURS, message((1, bytes(40)), initiator=BEGUN))) is None
    parting.remove(KEY)
    assert there.carried(answer) is None


def test_of_many_that_were_begun_the_oldest_is_forgotten() -> None:
    begun = carrier(tunnel(Role.TERMINAL))
    for spi in range(BEGUN, BEGUN + UNLISTED_MAX + 1):
        assert begun.carried(out(plain(PRIVATE), plain(GATEWAY), message(initiator=spi))) is not None
    later = [message(initiator=spi, responder=5) for spi in (BEGUN, BEGUN + UNLISTED_MAX)]
    answers = [begun.carried(out(plain(PRIVATE), plain(GATEWAY), each)) for each in later]
    assert [answer is not None for answer in answers] == [False, True]


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("kind", [NAT_D, DRAFT_NAT_D])
def test_main_mode_tells_charon_of_no_nat(kind: int, name: str) -> None:
    size = hashlib.new(name).digest_size
    asked = [(KEY_EXCHANGE, b"k" * 32), (kind, b"d" * size), (kind, b"s" * size), (kind, b"t" * size)]
    data = message(*asked, initiator=0x11, responder=0x22)
    _, _, told = ends_of(carrier(tunnel(Role.GATEWAY)).carried(arrived(SEEN, OURS, data)))
    here, there = nat_d(data, plain(GATEWAY), name), nat_d(data, plain(NAT_A), name)
    wanted = [(KEY_EXCHANGE, b"k" * 32), (kind, here), (kind, there), (kind, there)]
    assert told == message(*wanted, initiator=0x11, responder=0x22)


def test_what_charon_itself_says_of_nats_is_not_touched_on_the_way_out() -> None:
    data = message((NAT_D, b"d" * 32), (NAT_D, b"s" * 32), responder=0x22)
    assert (
        ends_of(carrier(tunnel(Role.TERMINAL)).carried(out(plain(PRIVATE), plain(GATEWAY), data)))[2] == MARKER + data
    )


HASH = (NAT_D, b"d" * 32)


@pytest.mark.parametrize(
    "data",
    [
        message(HASH, responder=0x22, flags=1),
        message(HASH, responder=0x22, exchange=QUICK_MODE),
        message(HASH, responder=0x22, version=2),
        message((NAT_D, b"d" * 19), responder=0x22),
        message(HASH, responder=0x22)[:-1],
        message(responder=0x22) + b"\0\0\0\3",
    ],
    ids=["encrypted", "quick mode", "IKEv2", "no hash", "cut off", "no length"],
)
def test_a_message_that_says_nothing_readable_of_nats_stays_as_it_is(data: bytes) -> None:
    assert ends_of(carrier(tunnel(Role.GATEWAY)).carried(arrived(SEEN, OURS, data)))[2] == data
