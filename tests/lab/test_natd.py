"""Our NAT discovery hashes are those that strongSwan sends in its own NAT_DETECTION notifies."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from swanroam.core.natd import digest
from swanroam.model.path import Endpoint
from swanroam.model.tunnel import Role
from tests.lab.nats import Nat
from tests.lab.topology import GATEWAY_WAN, Topology
from tests.lab.world import World
from tests.support.values import ike_sa

IP_HEADER, UDP_HEADER, IKE_HEADER = 20, 8, 28
NOTIFY, SOURCE_IP, DESTINATION_IP = 41, 16388, 16389


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(Topology(nats=(Nat(link="wlan0"),)))
    _ = world.capture
    world.connect()
    return world


def notifies(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and data of the notify payloads of an IKE message (RFC 7296 sections 3.1, 3.2 and 3.10)."""
    kind, offset = message[16], IKE_HEADER
    while kind:
        following, _flags, length = struct.unpack_from("!BBH", message, offset)
        if kind == NOTIFY:
            _protocol, spi_size, what = struct.unpack_from("!BBH", message, offset + 4)
            yield what, message[offset + 8 + spi_size : offset + length]
        kind, offset = following, offset + length


def test_our_hashes_are_those_of_strongswans_notifies(world: World) -> None:
    init = [world.capture.contents(packet)[IP_HEADER + UDP_HEADER :] for packet in world.capture.ike()[:2]]
    terminal, gateway = Endpoint(ip_address(world.terminal.outer), 500), Endpoint(ip_address(GATEWAY_WAN), 500)
    # The answer tells the terminal how it was seen: at the address and port of the NAT.
    seen = world.capture.ike()[0]
    translated = Endpoint(ip_address(seen.source), seen.first)
    for message, own, peer in ((init[0], terminal, gateway), (init[1], gateway, translated)):
        initiator, responder = struct.unpack_from("!QQ", message)
        sa = replace(ike_sa(Role.TERMINAL), initiator_spi=initiator, responder_spi=responder)
        told = dict(notifies(message))
        assert told[SOURCE_IP] == digest(sa, own)
        assert told[DESTINATION_IP] == digest(sa, peer)
    assert translated != terminal
