"""No key in a core dump, in a log, in a traceback, or in what a value says of itself."""

import logging
import subprocess
import sys
from io import StringIO
from ipaddress import IPv4Address

import pytest

from swanroam.app import logs
from swanroam.app.verify import EspVerifier, esp_state
from swanroam.wire.esppacket import EspPacket
from swanroam.wire.netlink import NetlinkMessage
from swanroam.wire.xfrm import SaState
from swanroam.wire.xfrm.algorithms import Algorithm, Key
from swanroam.wire.xfrm.structs import XfrmSelector

GATEWAY, TERMINAL = IPv4Address("203.0.113.1"), IPv4Address("192.0.2.10")
SECRET = b"a key that nobody may see, 36 bytes!"
SHOWN = (SECRET, SECRET.hex().encode(), repr(SECRET)[2:-1].encode(), str(list(SECRET)).encode())
PACKET = EspPacket(TERMINAL, GATEWAY, 0x1234, 1, bytes(96))
STATE = SaState(
    source=TERMINAL,
    destination=GATEWAY,
    spi=0x1234,
    selector=XfrmSelector(family=2, destination=GATEWAY, source=TERMINAL),
    aead=Algorithm(name="rfc7539esp(chacha20,poly1305)", key=Key(SECRET), icv_bits=128),
    auth=Algorithm(name="hmac(sha256)", key=Key(SECRET), icv_bits=128),
    crypt=Algorithm(name="cbc(aes)", key=Key(SECRET)),
    others=((99, SECRET),),
)


def holds_a_key(text: str) -> bool:
    return any(form in text.encode() for form in SHOWN)


def test_a_process_that_keeps_secrets_leaves_no_core() -> None:
    script = (
        "import ctypes, resource; from swanroam.app.secrecy import keep_secrets; keep_secrets();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "0 (0, 0)\n"


@pytest.mark.parametrize("value", [STATE, esp_state(STATE), NetlinkMessage(0x10, 0, 1, 0, SECRET)])
def test_values_with_keys_do_not_show_them(value: object) -> None:
    for text in (repr(value), str(value), f"{value}"):
        assert not holds_a_key(text)


class Broken:
    """A kernel adapter with a defect."""

    def state(self, destination: IPv4Address, spi: int) -> SaState:
        assert (destination, spi) == (GATEWAY, 0x1234)
        raise ZeroDivisionError(STATE)


def test_a_traceback_with_the_state_in_it_shows_no_key() -> None:
    stream = StringIO()
    handler = logs.setup("debug", stream, {})
    try:
        try:
            EspVerifier(Broken()).verify(1, PACKET, 0.0)  # type: ignore[arg-type]
        except ZeroDivisionError:
            logging.getLogger("swanroam").exception("a defect with %r and %s", STATE, esp_state(STATE))
    finally:
        logging.getLogger().removeHandler(handler)
    assert "Traceback" in stream.getvalue()
    assert not holds_a_key(stream.getvalue())
