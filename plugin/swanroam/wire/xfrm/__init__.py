"""XFRM messages (include/uapi/linux/xfrm.h, NETLINK_XFRM): bytes to frozen values and back, no sockets.

structs: numbers of messages and attributes, and the structs they share. algorithms, replay, states, aevents: states
(SAs), keys, sequence numbers. policies: policies and templates. migrate: XFRM_MSG_MIGRATE. events: what is multicast.

A unit that is decoded is the payload of a netlink message: what follows struct nlmsghdr. Every malformed one raises
WireError with the name of the C struct or attribute and the offset in the payload.
"""

from swanroam.wire.xfrm.algorithms import Algorithm, Key
from swanroam.wire.xfrm.replay import EsnReplay, Replay
from swanroam.wire.xfrm.states import Encap, SaId, SaState

__all__ = ["Algorithm", "Encap", "EsnReplay", "Key", "Replay", "SaId", "SaState"]
