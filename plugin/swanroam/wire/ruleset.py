"""The packet filter's rules, as text for `nft -f -` (man 8 nft). Set elements are added later, over netlink.

    set       key                      packets
    known     outer source . SPI       ESP that goes on untouched
    leaving   outer source . SPI       the same, for sources that a tunnel has just left; the kernel forgets them
    roaming   SPI                      other ESP of these SPIs is held for the daemon
    bound     SPI . inner address      in-tunnel messages that the daemon may read
    (known6, leaving6, bound6: the same for IPv6; known_udp, leaving_udp, roaming_udp and so on: for ESP in UDP, where
    the outer source is an address and a port)

The kernel decides all but two kinds of packets with one or two hash lookups each; only ESP of a roaming SPI from an
unknown source, and in-tunnel messages, reach the daemon.
"""

from typing import Final

from swanroam.model.tunnel import Role
from swanroam.wire.inner import DUMMY_IDENTIFIER, DUMMY_MAGIC

__all__ = ["CLEARTEXT", "COUNTERS", "DUMMIES", "NATT_PORT", "STRANGERS", "messages_queue", "ruleset"]

STRANGERS: Final = "strangers"
"""Counts messages whose inner address is not bound to the SPI that they came by."""
DUMMIES: Final = "dummies"
"""Counts dummies that were dropped after decapsulation."""
CLEARTEXT: Final = "cleartext"
"""Counts messages and dummies that would have left this machine outside of a tunnel."""
COUNTERS: Final = (STRANGERS, DUMMIES, CLEARTEXT)

NATT_PORT: Final = 4500
"""Where ESP in UDP arrives (RFC 3948 section 2.1)."""

# Before connection tracking (-200), so that what is consumed here leaves no trace there.
PRIORITY: Final = "raw"

HELD: Final = """
  set known {{ typeof ip saddr . esp spi; }}
  set known6 {{ typeof ip6 saddr . esp spi; }}
  set leaving {{ typeof ip saddr . esp spi; flags timeout; }}
  set leaving6 {{ typeof ip6 saddr . esp spi; flags timeout; }}
  set known_udp {{ typeof ip saddr . udp sport . @th,64,32; }}
  set known_udp6 {{ typeof ip6 saddr . udp sport . @th,64,32; }}
  set leaving_udp {{ typeof ip saddr . udp sport . @th,64,32; flags timeout; }}
  set leaving_udp6 {{ typeof ip6 saddr . udp sport . @th,64,32; flags timeout; }}
  set roaming {{ typeof esp spi; }}
  set roaming_udp {{ typeof @th,64,32; }}
  chain held {{
    ip saddr . esp spi @known accept
    ip6 saddr . esp spi @known6 accept
    ip saddr . esp spi @leaving accept
    ip6 saddr . esp spi @leaving6 accept
    esp spi @roaming queue flags bypass to {queue}
  }}
  chain held_udp {{
    ip saddr . udp sport . @th,64,32 @known_udp accept
    ip6 saddr . udp sport . @th,64,32 @known_udp6 accept
    ip saddr . udp sport . @th,64,32 @leaving_udp accept
    ip6 saddr . udp sport . @th,64,32 @leaving_udp6 accept
    @th,64,32 @roaming_udp queue flags bypass to {queue}
  }}"""

# Messages carry the same port twice, so that other traffic to that port is left alone. They are taken before the
# kernel's policy check of the inner source: `ipsec in spi` binds the state that decrypted the packet to the inner
# address instead. Without `bypass`: nobody but the daemon is to get them.
RULES: Final = """
table inet {table}
delete table inet {table}
table inet {table} {{
  counter {strangers} {{ }}
  counter {dummies} {{ }}
  counter {cleartext} {{ }}
  set bound {{ typeof esp spi . ip saddr; }}
  set bound6 {{ typeof esp spi . ip6 saddr; }}{held}
  chain messages {{
    meta ipsec missing accept
    udp sport != {port} accept
    udp dport != {port} accept
    ipsec in spi . ip {inner} @bound queue to {messages}
    ipsec in spi . ip6 {inner} @bound6 queue to {messages}
    counter name {strangers} drop
  }}
  chain dummies {{
    meta ipsec exists icmp type echo-reply icmp id {identifier} @th,64,64 {magic} counter name {dummies} drop
    meta ipsec exists icmpv6 type echo-reply icmpv6 id {identifier} @th,64,64 {magic} counter name {dummies} drop
  }}
  chain prerouting {{
    type filter hook prerouting priority {priority}; policy accept;
    {held_udp}meta l4proto vmap {{ {jump_held}udp : jump messages, icmp : jump dummies, icmpv6 : jump dummies }}
  }}
  chain sent {{
    meta oifkind {{ "xfrm", "vti", "vti6" }} notrack accept
    rt ipsec missing counter name {cleartext} drop
    notrack
  }}
  chain output {{
    type filter hook output priority {priority}; policy accept;
    udp sport {port} udp dport {port} jump sent
    icmp type echo-reply icmp id {identifier} @th,64,64 {magic} jump sent
    icmpv6 type echo-reply icmpv6 id {identifier} @th,64,64 {magic} jump sent
  }}
}}
"""


def messages_queue(queue: int) -> int:
    """The queue for in-tunnel messages: next to that for held ESP, so that a flood of one leaves the other alone."""
    return queue + 1


def ruleset(role: Role, *, table: str, queue: int, port: int) -> str:
    """The rules of one role, replacing a table of that name in the same transaction.

    Only the gateway holds ESP: a terminal's peer does not roam. What this machine sends must leave through a tunnel,
    because no policy may be there at the moment; xfrm and vti interfaces encrypt later and never pass clear text. It is
    not tracked, so that no source translation takes it out of its policy.
    """
    gateway = role is Role.GATEWAY
    return RULES.format(
        table=table,
        port=port,
        messages=messages_queue(queue),
        # The terminal's inner address: it sends from it to the gateway, and receives on it from the gateway.
        inner="saddr" if gateway else "daddr",
        held=HELD.format(queue=queue) if gateway else "",
        jump_held="esp : jump held, " if gateway else "",
        # The SPI is where IKE has four bytes of zero (RFC 3948 section 2.2), and a keepalive has nothing.
        held_udp=f"meta ipsec missing udp dport {NATT_PORT} jump held_udp\n    " if gateway else "",
        strangers=STRANGERS,
        dummies=DUMMIES,
        cleartext=CLEARTEXT,
        priority=PRIORITY,
        identifier=f"{DUMMY_IDENTIFIER:#x}",
        magic=f"0x{DUMMY_MAGIC.hex()}",
    )
