"""The packet filter's rules, as text for `nft -f -` (man 8 nft). Set elements are added later, over netlink.

    set       key                      packets
    known     source . own . SPI       ESP that goes on untouched: from this outer source to this address of our own
    leaving   source . own . SPI       the same, for sources that a tunnel has just left; the kernel forgets them
    waiting   source . own . SPI       ESP that is held without being verified, while charon follows a move
    roaming   SPI                      other ESP of these SPIs is held for the daemon, which verifies it
    askers    outer source             how much of that there was from each source, and
    asked     SPI                      of each SPI; what is beyond the limits goes on as if there were no daemon
    unproven  outer destination . SPI  ESP that leaves for an address that has not answered a challenge, and
    spent     SPI                      how much of that there was; what is beyond the limit is dropped
    down      inner address            packets for a terminal that wait while its states move, or charon follows
    late      own address . SPI        ESP to an address that the tunnel has left, which the daemon sends on to it, or
                                       where it will be in a moment, until which it waits
    bound     SPI . inner address      in-tunnel messages that the daemon may read, and
    speakers  SPI                      how many of them came by each SPI; what is beyond the limit is dropped
    carried   initiator SPI            IKE messages that the daemon takes through a NAT which charon does not know of,
    departing outer addresses          the same, for IKE_SAs that are not listed yet, or not any more, on their way out
    arriving  outer source             and in: the daemon knows which it is to take, and
    carriers  initiator SPI            how many came in of these, and
    arrivers  outer source             of those; what is beyond the limit goes on unseen
    (known6, leaving6, and so on: the same for IPv6; known_udp, leaving_udp6 and so on: for ESP in UDP, where the outer
    source is an address and a port)

On a terminal two maps are for the tunnels in UDP that go on with an address which it has left (kernel/kept.py):

    away      that address . gateway   the address that it has instead, where packets leave
    home      address . gateway        the one that it has left, where packets arrive
    (away6, home6: the same for IPv6)

The kernel decides all but few packets with one or two hash lookups each; only ESP of a roaming SPI from an unknown
source, in-tunnel messages, and what comes in the moment of a move reach the daemon.
"""

from typing import Final

from swanroam.model.path import IKE_PORT, NATT_PORT
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
    "down_queue",
    "ike_queue",
    "late_queue",
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
"""Counts what was beyond the limits: ESP of a roaming SPI from an unknown source and IKE messages, which went on
unseen, and in-tunnel messages, which were dropped."""
IMPOSSIBLE: Final = "impossible"
"""Counts ESP of a roaming SPI from an address of this machine's own, or from a broadcast or multicast address."""
UNPROVEN: Final = "unproven"
"""Counts ESP that was not sent to an address which had not answered a challenge yet."""
SMUGGLED: Final = "smuggled"
"""Counts messages that somebody behind this machine wanted to send through a tunnel."""
COUNTERS: Final = (STRANGERS, DUMMIES, CLEARTEXT, SMUGGLED, FLOODS)
HOLDING: Final = (IMPOSSIBLE, UNPROVEN)
"""Those of the gateway only."""

# Before connection tracking (-200), so that what is consumed here leaves no trace there.
PRIORITY: Final = "raw"

SETS: Final = """
  set known{form} {{ typeof {source} . {own} . {spi}; }}
  set leaving{form} {{ typeof {source} . {own} . {spi}; flags timeout; }}
  set waiting{form} {{ typeof {source} . {own} . {spi}; }}
  set unproven{form} {{ typeof {target} . {spi}; flags timeout; }}"""

# After the source translation of anybody else, and before connection tracking sees what arrives. Stateless: what a
# connection is tracked by is the address that it began with. The checksum of UDP covers addresses: the kernel mends it.
KEPT: Final = """
  map away {{ typeof ip saddr . ip daddr : ip saddr; }}
  map away6 {{ typeof ip6 saddr . ip6 daddr : ip6 saddr; }}
  map home {{ typeof ip daddr . ip saddr : ip daddr; }}
  map home6 {{ typeof ip6 daddr . ip6 saddr : ip6 daddr; }}
  chain away {{
    type filter hook postrouting priority srcnat + 10; policy accept;
    udp sport {{ {ike_port}, {natt} }} ip saddr set ip saddr . ip daddr map @away
    udp sport {{ {ike_port}, {natt} }} ip6 saddr set ip6 saddr . ip6 daddr map @away6
  }}
  chain home {{
    type filter hook prerouting priority {priority} - 10; policy accept;
    udp dport {{ {ike_port}, {natt} }} ip daddr set ip daddr . ip saddr map @home
    udp dport {{ {ike_port}, {natt} }} ip6 daddr set ip6 daddr . ip6 saddr map @home6
  }}"""

HELD: Final = """{sets}
  set down {{ typeof ip daddr; }}
  set down6 {{ typeof ip6 daddr; }}
  set roaming {{ typeof esp spi; }}
  set roaming_udp {{ typeof {udp_spi}; }}
  set askers {{ type ipv4_addr; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set askers6 {{ type ipv6_addr; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set asked {{ typeof esp spi; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set asked_udp {{ typeof {udp_spi}; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set spent {{ typeof esp spi; size {askers}; flags dynamic,timeout; timeout 1m; }}
  set spent_udp {{ typeof {udp_spi}; size {askers}; flags dynamic,timeout; timeout 1m; }}
  counter {impossible} {{ }}
  counter {unproven} {{ }}
  chain limited {{
    fib daddr type != local accept
    fib saddr type {{ local, broadcast, multicast }} counter name {impossible} accept
    update @askers {{ ip saddr {per_source} }} counter name {floods} accept
    update @askers6 {{ ip6 saddr and ffff:ffff:ffff:ffff:: {per_source} }} counter name {floods} accept
  }}{chains}
  chain unproven {{
    type filter hook postrouting priority filter; policy accept;
    ip daddr . esp spi @unproven update @spent {{ esp spi {budget} }} counter name {unproven} drop
    ip6 daddr . esp spi @unproven6 update @spent {{ esp spi {budget} }} counter name {unproven} drop
    udp sport != {natt} accept
    ip daddr . udp dport . {udp_spi} @unproven_udp update @spent_udp {{ {udp_spi} {budget} }} \
      counter name {unproven} drop
    ip6 daddr . udp dport . {udp_spi} @unproven_udp6 update @spent_udp {{ {udp_spi} {budget} }} \
      counter name {unproven} drop
  }}"""

CHAIN: Final = """
  chain {name} {{
    {arrival} @known{form} accept
    {arrival6} @known{form}6 accept
    {arrival} @leaving{form} accept
    {arrival6} @leaving{form}6 accept
    {arrival} @waiting{form} queue flags bypass to {queue}
    {arrival6} @waiting{form}6 queue flags bypass to {queue}
    {spi} != @roaming{form} accept
    jump limited
    update @asked{form} {{ {spi} {per_spi} }} counter name {floods} accept
    queue flags bypass to {queue}
  }}"""

HELD_DOWN: Final = """ip daddr @down queue flags bypass to {down}
    ip6 daddr @down6 queue flags bypass to {down}
    """

# The kernel looks a state up by destination and SPI, and it has left this destination. With `bypass`: without a daemon
# the packet is lost, as it would be without the rule.
LATE: Final = """
  set late {{ typeof ip daddr . esp spi; }}
  set late6 {{ typeof ip6 daddr . esp spi; }}
  chain late {{
    ip daddr . esp spi @late queue flags bypass to {late}
    ip6 daddr . esp spi @late6 queue flags bypass to {late}
  }}"""

# Verifying costs the daemon some tenths of a millisecond. A terminal that moves in the middle of a fast upload has all
# its packets held until the move is done, some ten milliseconds, hence the burst; of what comes later, one packet is
# enough to move. It is also how many forged packets a good one may have to wait for. An IPv6 source is a network of 64
# bits: whoever has one address of it has all of them.
PER_SOURCE: Final = "limit rate over 64/second burst 256 packets"
PER_SPI: Final = "limit rate over 128/second burst 256 packets"
ASKERS: Final = 16384
"""Sources, and SPIs, that are counted at a time. Of more than these the limit of the SPI is what is left."""
# A move takes two or three messages of each end, more where some are lost. Whoever sends many more, from a tunnel of
# his own or with an initiator SPI that he saw, would keep the daemon from those of the others.
PER_SPEAKER: Final = "limit rate over 64/second burst 128 packets"
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
  counter {floods} {{ }}
  set speakers {{ typeof esp spi; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set carriers {{ typeof @th,64,64; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set arrivers {{ typeof ip saddr . udp sport; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set arrivers6 {{ typeof ip6 saddr . udp sport; size {askers}; flags dynamic,timeout; timeout 10s; }}
  set bound {{ typeof esp spi . ip saddr; }}
  set bound6 {{ typeof esp spi . ip6 saddr; }}
  set carried {{ typeof @th,64,64; }}
  set departing {{ typeof ip saddr . ip daddr; }}
  set departing6 {{ typeof ip6 saddr . ip6 daddr; }}
  set arriving {{ typeof ip saddr . udp sport; }}
  set arriving6 {{ typeof ip6 saddr . udp sport; }}{held}
  chain spoken {{
    update @speakers {{ ipsec in spi {per_speaker} }} counter name {floods} drop
    queue to {messages}
  }}
  chain messages {{
    meta ipsec missing accept
    udp sport != {port} accept
    udp dport != {port} accept
    ipsec in spi . ip {inner} @bound goto spoken
    ipsec in spi . ip6 {inner} @bound6 goto spoken
    counter name {strangers} drop
  }}
  chain dummies {{
    meta ipsec exists icmp type echo-reply icmp id {identifier} @th,64,64 {magic} counter name {dummies} drop
    meta ipsec exists icmpv6 type echo-reply icmpv6 id {identifier} @th,64,64 {magic} counter name {dummies} drop
  }}
  chain carried {{
    update @carriers {{ @th,96,64 {per_speaker} }} counter name {floods} accept
    queue flags bypass to {ike}
  }}
  chain arrived {{
    update @arrivers {{ ip saddr . udp sport {per_speaker} }} counter name {floods} accept
    queue flags bypass to {ike}
  }}
  chain arrived6 {{
    update @arrivers6 {{ ip6 saddr . udp sport {per_speaker} }} counter name {floods} accept
    queue flags bypass to {ike}
  }}
  chain prerouting {{
    type filter hook prerouting priority {priority}; policy accept;
    {held_down}udp dport {natt} @th,64,32 0 @th,96,64 @carried jump carried
    udp dport {natt} @th,64,32 0 ip saddr . udp sport @arriving jump arrived
    udp dport {natt} @th,64,32 0 ip6 saddr . udp sport @arriving6 jump arrived6
    {held_udp}meta l4proto vmap {{ {jump_held}udp : jump messages, icmp : jump dummies, icmpv6 : jump dummies }}
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
    udp sport 500 udp dport 500 @th,64,64 @carried queue flags bypass to {ike}
    udp sport 500 udp dport 500 ip saddr . ip daddr @departing queue flags bypass to {ike}
    udp sport 500 udp dport 500 ip6 saddr . ip6 daddr @departing6 queue flags bypass to {ike}
    udp sport {port} udp dport {port} jump sent
    icmp type echo-reply icmp id {identifier} @th,64,64 {magic} jump sent
    icmpv6 type echo-reply icmpv6 id {identifier} @th,64,64 {magic} jump sent
  }}
}}
"""


def ike_queue(queue: int) -> int:
    """The queue for IKE messages that go with ESP in UDP."""
    return queue + 2


def late_queue(queue: int) -> int:
    """The queue for ESP that comes to an address which its tunnel has left."""
    return queue + 3


def down_queue(queue: int) -> int:
    """The queue for what waits on its way to a terminal."""
    return queue + 4


def messages_queue(queue: int) -> int:
    """The queue for in-tunnel messages: next to that for held ESP, so that a flood of one leaves the other alone."""
    return queue + 1


def counters_of(role: Role) -> tuple[str, ...]:
    """Names of the counters in the rules of a role."""
    return (*COUNTERS, *HOLDING) if role is Role.GATEWAY else COUNTERS


def ruleset(role: Role, *, table: str, queue: int, port: int) -> str:
    """The rules of one role, replacing a table of that name in the same transaction.

    Only the gateway holds ESP to verify it: a terminal's peer does not roam. What this machine sends must leave through
    a tunnel, because no policy may be there at the moment; xfrm and vti interfaces encrypt later and never pass clear
    text. It is not tracked, so that no source translation takes it out of its policy.
    """
    gateway = role is Role.GATEWAY
    return RULES.format(
        table=table,
        port=port,
        messages=messages_queue(queue),
        ike=ike_queue(queue),
        natt=NATT_PORT,
        # The terminal's inner address: it sends from it to the gateway, and receives on it from the gateway.
        inner="saddr" if gateway else "daddr",
        held=_held(queue) if gateway else _kept(queue),
        jump_held="esp : jump held, " if gateway else "esp : jump late, ",
        # Before the route of a packet, and the policy with it, is looked up.
        held_down=HELD_DOWN.format(down=down_queue(queue)) if gateway else "",
        # The SPI is where IKE has four bytes of zero (RFC 3948 section 2.2), and a keepalive has nothing.
        held_udp=f"meta ipsec missing udp dport {NATT_PORT} jump held_udp\n    " if gateway else "",
        strangers=STRANGERS,
        dummies=DUMMIES,
        cleartext=CLEARTEXT,
        smuggled=SMUGGLED,
        floods=FLOODS,
        askers=ASKERS,
        per_speaker=PER_SPEAKER,
        priority=PRIORITY,
        identifier=f"{DUMMY_IDENTIFIER:#x}",
        magic=f"0x{DUMMY_MAGIC.hex()}",
    )


PLAIN: Final = "esp spi"
IN_UDP: Final = "@th,64,32"
"""The SPI behind a UDP header."""


def _kept(queue: int) -> str:
    return KEPT.format(priority=PRIORITY, natt=NATT_PORT, ike_port=IKE_PORT) + LATE.format(late=late_queue(queue))


def _held(queue: int) -> str:
    sets, chains = "", ""
    for form, port, target_port, spi in (("", "", "", PLAIN), ("_udp", " . udp sport", " . udp dport", IN_UDP)):
        for version in ("", "6"):
            source, target = f"ip{version} saddr{port}", f"ip{version} daddr{target_port}"
            sets += SETS.format(form=form + version, source=source, own=f"ip{version} daddr", target=target, spi=spi)
        chains += CHAIN.format(
            name=f"held{form}",
            form=form,
            arrival=f"ip saddr{port} . ip daddr . {spi}",
            arrival6=f"ip6 saddr{port} . ip6 daddr . {spi}",
            spi=spi,
            queue=queue,
            per_spi=PER_SPI,
            floods=FLOODS,
        )
    return HELD.format(
        sets=sets,
        chains=chains,
        udp_spi=IN_UDP,
        natt=NATT_PORT,
        askers=ASKERS,
        per_source=PER_SOURCE,
        budget=BUDGET,
        floods=FLOODS,
        impossible=IMPOSSIBLE,
        unproven=UNPROVEN,
    )
