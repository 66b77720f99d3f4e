"""The packet filter's rules, as text for `nft -f -` (man 8 nft). Set elements are added later, over netlink.

    set       key                      packets
    known     outer source . SPI       ESP that goes on untouched
    leaving   outer source . SPI       the same, for sources that a tunnel has just left; the kernel forgets them
    waiting   outer source . SPI       ESP that is held without being verified, while charon follows a move
    roaming   SPI                      other ESP of these SPIs is held for the daemon, which verifies it
    askers    outer source             how much of that there was from each source, and
    asked     SPI                      of each SPI; what is beyond the limits goes on as if there were no daemon
    unproven  outer destination . SPI  ESP that leaves for an address that has not answered a challenge, and
    spent     SPI                      how much of that there was; what is beyond the limit is dropped
    bound     SPI . inner address      in-tunnel messages that the daemon may read
    (known6, leaving6, waiting6, askers6, unproven6, bound6: the same for IPv6)

The kernel decides all but two kinds of packets with one or two hash lookups each; only ESP of a roaming SPI from an
unknown source, and in-tunnel messages, reach the daemon.
"""

from typing import Final

from swanroam.model.tunnel import Role
from swanroam.wire.inner import DUMMY_IDENTIFIER, DUMMY_MAGIC

__all__ = [
    "CLEARTEXT",
    "DUMMIES",
    "FLOODS",
    "IMPOSSIBLE",
    "SMUGGLED",
    "STRANGERS",
    "UNPROVEN",
    "counters_of",
    "messages_queue",
    "ruleset",
]

STRANGERS: Final = "strangers"
"""Counts messages whose inner address is not bound to the SPI that they came by."""
DUMMIES: Final = "dummies"
"""Counts dummies that were dropped after decapsulation."""
CLEARTEXT: Final = "cleartext"
"""Counts messages and dummies that would have left this machine outside of a tunnel."""
FLOODS: Final = "floods"
"""Counts ESP of a roaming SPI from an unknown source that was beyond the limits, and went on unseen."""
IMPOSSIBLE: Final = "impossible"
"""Counts ESP of a roaming SPI from an address of this machine's own, or from a broadcast or multicast address."""
UNPROVEN: Final = "unproven"
"""Counts ESP that was not sent to an address which had not answered a challenge yet."""
SMUGGLED: Final = "smuggled"
"""Counts messages that somebody behind this machine wanted to send through a tunnel."""
COUNTERS: Final = (STRANGERS, DUMMIES, CLEARTEXT, SMUGGLED)
HOLDING: Final = (FLOODS, IMPOSSIBLE, UNPROVEN)
"""Those of the gateway only."""

# Before connection tracking (-200), so that what is consumed here leaves no trace there.
PRIORITY: Final = "raw"

HELD: Final = """
  set known {{ typeof ip saddr . esp spi; }}
  set known6 {{ typeof ip6 saddr . esp spi; }}
  set leaving {{ typeof ip saddr . esp spi; flags timeout; }}
  set leaving6 {{ typeof ip6 saddr . esp spi; flags timeout; }}
  set waiting {{ typeof ip saddr . esp spi; }}
  set waiting6 {{ typeof ip6 saddr . esp spi; }}
  set roaming {{ typeof esp spi; }}
  set askers {{ type ipv4_addr; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set askers6 {{ type ipv6_addr; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set asked {{ typeof esp spi; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set unproven {{ typeof ip daddr . esp spi; flags timeout; }}
  set unproven6 {{ typeof ip6 daddr . esp spi; flags timeout; }}
  set spent {{ typeof esp spi; size {askers}; flags dynamic,timeout; timeout 1m; }}
  counter {floods} {{ }}
  counter {impossible} {{ }}
  counter {unproven} {{ }}
  chain held {{
    ip saddr . esp spi @known accept
    ip6 saddr . esp spi @known6 accept
    ip saddr . esp spi @leaving accept
    ip6 saddr . esp spi @leaving6 accept
    ip saddr . esp spi @waiting queue flags bypass to {queue}
    ip6 saddr . esp spi @waiting6 queue flags bypass to {queue}
    esp spi != @roaming accept
    fib saddr type {{ local, broadcast, multicast }} counter name {impossible} accept
    update @askers {{ ip saddr {per_source} }} counter name {floods} accept
    update @askers6 {{ ip6 saddr and ffff:ffff:ffff:ffff:: {per_source} }} counter name {floods} accept
    update @asked {{ esp spi {per_spi} }} counter name {floods} accept
    queue flags bypass to {queue}
  }}
  chain unproven {{
    type filter hook postrouting priority filter; policy accept;
    ip daddr . esp spi @unproven update @spent {{ esp spi {budget} }} counter name {unproven} drop
    ip6 daddr . esp spi @unproven6 update @spent {{ esp spi {budget} }} counter name {unproven} drop
  }}"""

# Verifying costs the daemon some tenths of a millisecond. A terminal that moves in the middle of a fast upload has all
# its packets held until the move is done, some ten milliseconds, hence the burst; of what comes later, one packet is
# enough to move. An IPv6 source is a network of 64 bits: whoever has one address of it has all of them.
PER_SOURCE: Final = "limit rate over 64/second burst 512 packets"
PER_SPI: Final = "limit rate over 256/second burst 1024 packets"
ASKERS: Final = 16384
"""Sources, and SPIs, that are counted at a time. Of more than these the limit of the SPI is what is left."""
# RFC 9000 section 8 allows an address that is not validated three times what came from there. At the moment of a move
# that is one packet, so a download would stop for the round trip that validation takes, and unlike QUIC we can only
# drop. So there is a budget: enough for that round trip at 100 Mbit/s over 300 ms. It is the tunnel's, whatever
# addresses it moves to, and fills up again at 2 Mbit/s: that is what can be made to go to a victim for longer.
BUDGET: Final = "limit rate over 256 kbytes/second burst 4 mbytes"

# Messages carry the same port twice, so that other traffic to that port is left alone. They are taken before the
# kernel's policy check of the inner source: `ipsec in spi` binds the state that decrypted the packet to the inner
# address instead. Without `bypass`: nobody but the daemon is to get them. The other end cannot tell what this daemon
# sends from what a server behind this machine does, so what is forwarded into a tunnel must not look like a message.
RULES: Final = """
table inet {table}
delete table inet {table}
table inet {table} {{
  counter {strangers} {{ }}
  counter {dummies} {{ }}
  counter {cleartext} {{ }}
  counter {smuggled} {{ }}
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
    meta l4proto vmap {{ {jump_held}udp : jump messages, icmp : jump dummies, icmpv6 : jump dummies }}
  }}
  chain smuggled {{
    meta oifkind {{ "xfrm", "vti", "vti6" }} counter name {smuggled} drop
    rt ipsec exists counter name {smuggled} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    udp sport {port} udp dport {port} jump smuggled
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


def counters_of(role: Role) -> tuple[str, ...]:
    """Names of the counters in the rules of a role."""
    return (*COUNTERS, *HOLDING) if role is Role.GATEWAY else COUNTERS


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
        held=_held(queue) if gateway else "",
        jump_held="esp : jump held, " if gateway else "",
        strangers=STRANGERS,
        dummies=DUMMIES,
        cleartext=CLEARTEXT,
        smuggled=SMUGGLED,
        priority=PRIORITY,
        identifier=f"{DUMMY_IDENTIFIER:#x}",
        magic=f"0x{DUMMY_MAGIC.hex()}",
    )


def _held(queue: int) -> str:
    return HELD.format(
        queue=queue,
        askers=ASKERS,
        per_source=PER_SOURCE,
        per_spi=PER_SPI,
        budget=BUDGET,
        floods=FLOODS,
        impossible=IMPOSSIBLE,
        unproven=UNPROVEN,
    )
