"""vici messages, as the vici library hands them over, to the model (strongSwan vici/README.md, vici_query.c).

A message is a tree: sections are dictionaries, lists hold bytes, values are bytes. Whatever is missing or odd raises
WireError that names the IKE_SA and the field; offsets are 0, because a tree has none.
"""

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range
from typing import Final, assert_never

from swanroam.charon.protocols import CharonEvent, EventKind
from swanroam.errors import WireError
from swanroam.model.path import Endpoint, IPAddress, IPNetwork
from swanroam.model.tunnel import ChildSa, IkeSa, Mode, Selector

__all__ = ["Listing", "decode_event", "decode_ike_sa", "decode_listing", "decode_selectors"]

WHAT: Final = "vici list-sas"
DIGITS: Final = re.compile(r"[0-9]{1,20}")
CACHE: Final = 4096
"""Addresses and selectors are the same in one listing after the other, and take most of the time to read."""
MOST_PACKETS: Final = 2**64 - 1
HEX_DIGITS: Final = re.compile(r"[0-9a-f]{1,16}")
SELECTOR: Final = re.compile(
    r"(?P<net>[0-9a-fA-F.:]+/[0-9]{1,3}|[0-9a-fA-F.:]+\.\.[0-9a-fA-F.:]+|dynamic)?"
    r"(?:\[(?P<protocol>[^\]/]+)(?:/(?P<ports>[^\]]+))?\])?"
)
ICMP: Final = re.compile(r"(?P<type>[0-9]{1,3})(?:\((?P<code>[0-9]{1,3})\))?")
ICMP_PROTOCOLS: Final = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
OPAQUE: Final = (65535, 0)
ANY: Final[Mapping[str, IPAddress]] = {"%any": IPv4Address(0), "%any6": IPv6Address(0)}
MODES: Final[Mapping[str, Mode]] = {"TUNNEL": Mode.TUNNEL, "TRANSPORT": Mode.TRANSPORT, "BEET": Mode.BEET}


@dataclass(frozen=True, slots=True)
class Listing:
    """IKE_SAs that could be read, and why others could not."""

    sas: tuple[IkeSa, ...]
    problems: tuple[WireError, ...] = ()


@dataclass(frozen=True, slots=True)
class _Section:
    """A section with the names that lead to it, for messages."""

    where: str
    values: Mapping[str, object]

    def error(self, key: str, problem: str) -> WireError:
        return WireError(WHAT, 0, f"{self.where}: field {key}: {problem}")

    def optional(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, bytes):
            raise self.error(key, f"a value was expected, not {type(value).__name__}")
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise self.error(key, "not UTF-8") from error

    def text(self, key: str) -> str:
        value = self.optional(key)
        if value is None:
            raise self.error(key, "missing")
        return value

    def number(self, key: str, limit: int) -> int:
        text = self.text(key)
        if not DIGITS.fullmatch(text) or int(text) > limit:
            raise self.error(key, f"{text!r} is no number up to {limit}")
        return int(text)

    def spi(self, key: str, digits: int) -> int:
        text = self.text(key)
        if not HEX_DIGITS.fullmatch(text) or len(text) > digits:
            raise self.error(key, f"{text!r} is not an SPI of {digits} hexadecimal digits")
        return int(text, 16)

    def flag(self, key: str) -> bool:
        return self.optional(key) == "yes"

    def address(self, key: str) -> IPAddress:
        return self._address(key, self.text(key))

    def _address(self, key: str, text: str) -> IPAddress:
        try:
            return ANY.get(text) or _ip_address(text)
        except ValueError as error:
            raise self.error(key, f"{text!r} is no IP address") from error

    def endpoint(self, side: str) -> Endpoint:
        return Endpoint(self.address(f"{side}-host"), self.number(f"{side}-port", 65535))

    def items(self, key: str) -> list[str]:
        values = self.values.get(key, [])
        if not isinstance(values, list):
            raise self.error(key, f"a list was expected, not {type(values).__name__}")
        try:
            return [value.decode() for value in values]
        except (AttributeError, UnicodeDecodeError) as error:
            raise self.error(key, "an item is no UTF-8 text") from error

    def addresses(self, key: str) -> tuple[IPAddress, ...]:
        found = (self._address(key, text) for text in self.items(key))
        # "%any" is what an initiator asks for, not an address it was given.
        return tuple(address for address in found if not address.is_unspecified)

    def selectors(self, key: str) -> tuple[Selector, ...]:
        try:
            return tuple(selector for text in self.items(key) for selector in decode_selectors(text))
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def section(self, key: str) -> "_Section":
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, "missing" if value is None else "a section was expected")
        return _Section(f"{self.where}.{key}", value)

    def sections(self) -> Iterable[tuple[str, "_Section"]]:
        for key, value in self.values.items():
            if isinstance(value, Mapping):
                yield key, _Section(f"{self.where}.{key}" if self.where else key, value)


def decode_listing(messages: Iterable[Mapping[str, object]]) -> Listing:
    """The IKE_SAs of the list-sa events of one list-sas command; an IKE_SA that cannot be read is left out."""
    sas: list[IkeSa] = []
    problems: list[WireError] = []
    for message in messages:
        for name, value in message.items():
            try:
                sas.append(decode_ike_sa(name, value))
            except WireError as error:
                problems.append(error)
    return Listing(tuple(sas), tuple(problems))


def decode_ike_sa(name: str, section: object) -> IkeSa:
    """An IKE_SA with its CHILD_SAs, if the section has any. Raises WireError."""
    if not isinstance(section, Mapping):
        raise WireError(WHAT, 0, f"{name}: a section was expected, not {type(section).__name__}")
    sa = _ike_sa(name, _Section(name, section))
    if "child-sas" not in section:
        return sa
    children = _Section(name, section).section("child-sas").sections()
    return replace(sa, children=tuple(_child_sa(child) for _, child in children))


def _ike_sa(name: str, section: _Section) -> IkeSa:
    version = section.number("version", 255)
    if version not in (1, 2):
        raise section.error("version", f"{version} is neither 1 nor 2")
    return IkeSa(
        name=name,
        unique_id=section.number("uniqueid", 0xFFFFFFFF),
        version=version,
        state=section.text("state"),
        initiator=section.flag("initiator"),
        initiator_spi=section.spi("initiator-spi", 16),
        responder_spi=section.spi("responder-spi", 16),
        local=section.endpoint("local"),
        remote=section.endpoint("remote"),
        local_vips=section.addresses("local-vips"),
        remote_vips=section.addresses("remote-vips"),
        nat_local=section.flag("nat-local"),
        nat_remote=section.flag("nat-remote"),
        nat_fake=section.flag("nat-fake"),
    )


def _child_sa(section: _Section) -> ChildSa:
    # charon tells protocol, encapsulation and SPIs in some states only: not while CREATED, INSTALLING or UPDATING.
    has_spis = "spi-in" in section.values
    return ChildSa(
        name=section.text("name"),
        unique_id=section.number("uniqueid", 0xFFFFFFFF),
        reqid=section.number("reqid", 0xFFFFFFFF),
        spi_in=section.spi("spi-in", 8) if has_spis else 0,
        spi_out=section.spi("spi-out", 8) if has_spis else 0,
        mode=MODES.get(section.text("mode"), Mode.OTHER),
        protocol=section.text("protocol") if has_spis else "ESP",
        state=section.text("state"),
        encap=section.flag("encap"),
        encryption=section.optional("encr-alg") or "",
        ipcomp="cpi-in" in section.values,
        local_selectors=section.selectors("local-ts"),
        remote_selectors=section.selectors("remote-ts"),
        packets_in=section.number("packets-in", MOST_PACKETS) if "packets-in" in section.values else 0,
        packets_out=section.number("packets-out", MOST_PACKETS) if "packets-out" in section.values else 0,
    )


def decode_event(kind: EventKind, message: Mapping[str, object], at_s: float) -> CharonEvent:
    """An event of charon. Raises WireError when it cannot be read."""
    root = _Section("", message)
    named = list(root.sections())
    if len(named) != 1:
        raise WireError(f"vici {kind}", 0, f"{len(named)} sections where one IKE_SA was expected")
    name, section = named[0]
    match kind:
        case EventKind.IKE_UPDOWN | EventKind.CHILD_UPDOWN:
            return CharonEvent(kind=kind, at_s=at_s, up=root.flag("up"), sa=decode_ike_sa(name, section.values))
        case EventKind.IKE_REKEY:
            old, new = (_ike_sa(name, section.section(age)) for age in ("old", "new"))
            return CharonEvent(kind=kind, at_s=at_s, sa=new, former=old)
        case EventKind.IKE_UPDATE:
            former = _ike_sa(name, section)
            moved = replace(former, local=root.endpoint("local"), remote=root.endpoint("remote"))
            return CharonEvent(kind=kind, at_s=at_s, sa=moved, former=former)
        case EventKind.CHILD_REKEY:
            sa = _ike_sa(name, section)
            pairs = [child for _, child in section.section("child-sas").sections()]
            before, after = (tuple(_child_sa(pair.section(age)) for pair in pairs) for age in ("old", "new"))
            return CharonEvent(
                kind=kind, at_s=at_s, sa=replace(sa, children=after), former=replace(sa, children=before)
            )
        case EventKind.CONNECTED | EventKind.LOST:
            raise WireError(f"vici {kind}", 0, "no event of charon")
        case _:
            assert_never(kind)


@lru_cache(CACHE)
def decode_selectors(text: str) -> tuple[Selector, ...]:
    """A traffic selector as charon prints it (traffic_selector.c); a range of addresses becomes several.

    `10.1.0.0/16`, `10.1.0.1/32[tcp/80]`, `10.1.0.1..10.1.0.9[udp/5000-5010]`, `fd00::/64[ipv6-icmp/128(0)]`. Names of
    protocols and ports come from the same system databases that charon prints them from. `dynamic` is not bound to an
    address yet and gives none. Raises ValueError.
    """
    match = SELECTOR.fullmatch(text)
    if not match or not text:
        raise ValueError(f"{text!r} is no traffic selector")
    protocol = _protocol(match["protocol"]) if match["protocol"] else 0
    first, last = _ports(match["ports"], protocol) if match["ports"] else (0, 65535)
    return tuple(Selector(network, protocol, first, last) for network in _networks(match["net"] or "dynamic"))


@lru_cache(CACHE)
def _ip_address(text: str) -> IPAddress:
    return ip_address(text)


def _networks(text: str) -> tuple[IPNetwork, ...]:
    if text == "dynamic":
        return ()
    if ".." not in text:
        return (ip_network(text),)
    first, last = (ip_address(end) for end in text.split("..", 1))
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address):
        return tuple(summarize_address_range(first, last))
    if isinstance(first, IPv6Address) and isinstance(last, IPv6Address):
        return tuple(summarize_address_range(first, last))
    raise ValueError(f"{text!r} mixes address families")


def _protocol(text: str) -> int:
    if DIGITS.fullmatch(text):
        return _within(int(text), 255)
    try:
        return socket.getprotobyname(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"unknown protocol {text!r}") from error


def _ports(text: str, protocol: int) -> tuple[int, int]:
    if text == "OPAQUE":
        return OPAQUE
    if protocol in ICMP_PROTOCOLS:
        ends = [_icmp(end) for end in text.split("-", 1)]
        return ends[0], ends[-1]
    low, dash, high = text.partition("-")
    if DIGITS.fullmatch(low) and (not dash or DIGITS.fullmatch(high)):
        return _within(int(low), 65535), _within(int(high or low), 65535)
    try:
        port = socket.getservbyname(text)  # a single port may be printed by its name, which may hold dashes
    except (OSError, ValueError) as error:
        raise ValueError(f"unknown port {text!r}") from error
    return port, port


def _icmp(text: str) -> int:
    """ICMP type and code share the port field, the type in its upper half (RFC 4301 section 4.4.1.1)."""
    match = ICMP.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no ICMP type and code")
    return _within(int(match["type"]), 255) << 8 | _within(int(match["code"] or 0), 255)


def _within(value: int, limit: int) -> int:
    if value > limit:
        raise ValueError(f"{value} is more than {limit}")
    return value
