"""For the tests of hook authors: values with sane defaults, and a host that calls hooks at once, without threads.

    from swanroam.testing import immediate_host, make_move

    def test_moves_are_counted() -> None:
        counter = Counter()
        with immediate_host({"counter": counter}, options={"counter": {"start": 5}}) as host:
            host.announce(make_move())
        assert counter.moves == 6
        assert not host.errors

Outer addresses are from the ranges for documentation (RFC 5737): a terminal that goes from 192.0.2.10 to 198.51.100.10,
and its gateway 203.0.113.1. The inner address is 10.99.0.1.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from queue import Full
from typing import Final

from swanroam.hookhost import HookHost, Limits
from swanroam.model.effects import CapabilityChanged, PacketRejected, Trigger, TunnelMoved
from swanroam.model.events import Reason
from swanroam.model.path import Endpoint, LocalAddress, Path
from swanroam.model.tunnel import Capability, TunnelKey

__all__ = [
    "Given",
    "ImmediateRunner",
    "immediate_host",
    "make_address",
    "make_capability",
    "make_key",
    "make_move",
    "make_path",
    "make_rejection",
]

GATEWAY: Final = "203.0.113.1"
OLD: Final = "192.0.2.10"
NEW: Final = "198.51.100.10"


@dataclass(frozen=True, slots=True)
class Given:
    """A plugin that is at hand, where a HookHost expects an entry point."""

    name: str
    plugin: object

    def load(self) -> object:
        """The plugin itself."""
        return self.plugin


class ImmediateRunner:
    """Runs each call when it is submitted, on the caller's thread: no deadline, no queue."""

    def __init__(self, name: str = "", capacity: int = 0) -> None:
        del name, capacity  # what a thread would need
        self._stopped = False

    def submit(self, call: Callable[[], object]) -> Future[object]:
        """Run a call; what it raises is in the future. Raises queue.Full after `stop`."""
        if self._stopped:
            raise Full
        future: Future[object] = Future()
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - as ThreadRunner does
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """Take no more calls."""
        self._stopped = True

    def join(self, timeout_s: float) -> bool:
        """Nothing ever waits."""
        del timeout_s
        return True


@contextmanager
def immediate_host(
    plugins: Mapping[str, object], *, options: Mapping[str, Mapping[str, object]] | None = None
) -> Iterator[HookHost]:
    """A HookHost with these plugins (modules, objects or classes, by name), called at once on the test's own thread.

    Raises HookError when one cannot be loaded or refuses its options. What a hook raises later is in `host.errors`.
    """
    sources = [Given(name, plugin) for name, plugin in plugins.items()]
    host = HookHost(sources, options=options, limits=Limits(), runner=ImmediateRunner)
    try:
        for error in host.errors:
            raise error
        yield host
    finally:
        host.close()


def make_key(name: str = "home", inner: str = "10.99.0.1") -> TunnelKey:
    """A tunnel by its connection name and one inner address."""
    return TunnelKey(name, (ip_address(inner),))


def make_path(local: str = OLD, remote: str = GATEWAY, *, port: int = 500, encap: bool = False) -> Path:
    """A path between two outer addresses, as the terminal has it."""
    return Path(Endpoint(ip_address(local), port), Endpoint(ip_address(remote), port), encap)


def make_address(
    address: str = NEW,
    interface: str = "eth0",
    *,
    prefix_length: int | None = None,
    usable: bool = True,
    preference: int = 0,
) -> LocalAddress:
    """A source address of the terminal; its prefix has 24 bits, or 64 with IPv6, unless told."""
    parsed = ip_address(address)
    length = prefix_length if prefix_length is not None else (24 if parsed.version == 4 else 64)
    return LocalAddress(address=parsed, prefix_length=length, interface=interface, usable=usable, preference=preference)


def make_move(
    *,
    key: TunnelKey | None = None,
    old: Path | None = None,
    new: Path | None = None,
    trigger: Trigger = Trigger.ADDRESS,
    duration_s: float = 0.012,
) -> TunnelMoved:
    """A move of the terminal to its second address."""
    return TunnelMoved(
        key=key or make_key(),
        old=old or make_path(OLD),
        new=new or make_path(NEW),
        trigger=trigger,
        duration_s=duration_s,
    )


def make_capability(
    *, key: TunnelKey | None = None, capability: Capability = Capability.NEGOTIATED, detail: str = ""
) -> CapabilityChanged:
    """The other end confirmed the capability."""
    return CapabilityChanged(key=key or make_key(), capability=capability, detail=detail)


def make_rejection(
    *,
    key: TunnelKey | None = None,
    reason: Reason = Reason.BAD_ICV,
    source: str | None = NEW,
    detail: str = "",
    known: bool = True,
) -> PacketRejected:
    """A packet with a wrong integrity value; one of no known tunnel when `known` is false."""
    return PacketRejected(
        key=(key or make_key()) if known else None,
        reason=reason,
        source=ip_address(source) if source is not None else None,
        detail=detail,
    )
