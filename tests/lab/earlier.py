"""swanroam as of before gateways told their addresses: `python -m tests.lab.earlier run ...`.

What it sends has no ADDRESSES, and what it does not know it takes as that release did: an attribute that is not
critical is skipped, a type of message ignored.
"""

import sys

from swanroam.app import daemon, performer
from swanroam.app.cli_run import run
from swanroam.errors import Unsupported
from swanroam.model.messages import GatewayMoved, GatewayMovedAck, HelloAck, Message
from swanroam.wire.control import decode, encode


def encode_as_then(message: Message) -> bytes:
    """A HELLO-ACK as it was; there was no GATEWAY-MOVED."""
    assert not isinstance(message, GatewayMoved | GatewayMovedAck), "a gateway that told nothing has nothing to add"
    return encode(
        HelloAck(nonce=message.nonce, features=message.features) if isinstance(message, HelloAck) else message
    )


def decode_as_then(data: bytes) -> Message:
    """As the decoder of that release: Unsupported for what it did not know."""
    message = decode(data)
    if isinstance(message, GatewayMoved | GatewayMovedAck):
        raise Unsupported("in-tunnel message", 3, f"type {data[3]}")
    return HelloAck(nonce=message.nonce, features=message.features) if isinstance(message, HelloAck) else message


if __name__ == "__main__":
    performer.encode = encode_as_then  # type: ignore[attr-defined]
    daemon.decode = decode_as_then  # type: ignore[attr-defined]
    run(args=sys.argv[2:])
