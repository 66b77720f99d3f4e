"""XFRM messages (include/uapi/linux/xfrm.h, NETLINK_XFRM): bytes to frozen values and back, no sockets.

structs: numbers of messages and attributes, and the structs they share. states: states (SAs) and their replay state.
policies: policies and templates. migrate: XFRM_MSG_MIGRATE. events: what the kernel multicasts.

A unit that is decoded is the payload of a netlink message: what follows struct nlmsghdr. Every malformed one raises
WireError with the name of the C struct or attribute and the offset in the payload.
"""
