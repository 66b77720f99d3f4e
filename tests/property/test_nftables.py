"""After any sequence of watched and forgotten tunnels the kernel's sets are what is wanted, and no change fails."""

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from swanroam.kernel.elements import WantedElements
from swanroam.model.effects import Watch
from swanroam.model.tunnel import TunnelKey
from swanroam.wire.nftables import Element, ElementChange

addresses = st.lists(st.sampled_from([IPv4Address(number) for number in (1, 2, 3)]), max_size=2, unique=True).map(tuple)
watches = st.builds(
    Watch,
    key=st.sampled_from([TunnelKey("a"), TunnelKey("b", (IPv4Address(1),)), TunnelKey("c", (IPv4Address(1),))]),
    inner=addresses,
    spis=st.lists(st.integers(1, 3), max_size=2, unique=True).map(tuple),
    own=addresses,
    sources=addresses,
    leaving=addresses,
    waiting=addresses,
)
done = st.sampled_from(["watch", "unwatch", "hold down", "let down", "expire"])
steps = st.lists(st.tuples(done, watches), max_size=30)


class Sets:
    """The kernel's side: refuses to remove what is not there, and forgets what has a timeout."""

    def __init__(self) -> None:
        self.elements: dict[Element, int | None] = {}

    def apply(self, changes: list[ElementChange]) -> None:
        for change in changes:
            if change.add:
                self.elements.setdefault(change.element, change.timeout_ms)
            else:
                del self.elements[change.element]

    def expire(self) -> None:
        self.elements = {element: timeout for element, timeout in self.elements.items() if timeout is None}


@given(steps, st.booleans())
def test_the_sets_follow_the_tunnels(taken: list[tuple[str, Watch]], holds: bool) -> None:
    wanted, kernel, tunnels = WantedElements(holds=holds, leaving_ms=1000), Sets(), dict[TunnelKey, Watch]()
    waiting = set[TunnelKey]()
    for step, watch in taken:
        match step:
            case "watch":
                kernel.apply(wanted.watch(watch))
                tunnels[watch.key] = watch
            case "unwatch":
                kernel.apply(wanted.unwatch(watch.key))
                tunnels.pop(watch.key, None)
            case "hold down":
                kernel.apply(wanted.hold_down(watch.key))
                waiting.add(watch.key)
            case "let down":
                kernel.apply(wanted.let_down(watch.key))
                waiting.discard(watch.key)
            case _:
                kernel.expire()
        fresh = WantedElements(holds=holds, leaving_ms=1000)
        for tunnel in tunnels.values():
            fresh.watch(tunnel)
        for key in waiting:
            fresh.hold_down(key)
        expected = {change.element for change in fresh.everything()}
        assert {change.element for change in wanted.everything()} == expected
        lasting = {element for element in expected if not element.set_name.startswith("leaving")}
        assert lasting <= set(kernel.elements) <= expected
