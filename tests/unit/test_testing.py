"""swanroam.testing: what it promises to hook authors."""

import threading
from collections.abc import Mapping

import pytest

from swanroam import testing
from swanroam.errors import HookError
from swanroam.hookspecs import hookimpl
from swanroam.model.effects import Trigger, TunnelMoved
from swanroam.model.path import LocalAddress
from swanroam.model.tunnel import Capability
from swanroam.testing import (
    immediate_host,
    make_address,
    make_capability,
    make_key,
    make_move,
    make_path,
    make_rejection,
)


class Counter:
    """The plugin of the module's docstring."""

    def __init__(self) -> None:
        self.moves = 0
        self.thread: threading.Thread | None = None

    @hookimpl
    def swanroam_configure(self, options: Mapping[str, object]) -> None:
        start = options.get("start", 0)
        if not isinstance(start, int):
            raise TypeError("start: a number is needed")
        self.moves = start

    @hookimpl
    def swanroam_rank_path(self, address: LocalAddress) -> int:
        if address.preference == 0:
            raise ValueError("no preference")
        return 1

    @hookimpl
    def swanroam_moved(self, move: TunnelMoved) -> None:
        self.thread = threading.current_thread()
        self.moves += 1 if move.trigger is not Trigger.REVERT else -1


def test_the_example_of_the_docstring_works() -> None:
    counter = Counter()
    with immediate_host({"counter": counter}, options={"counter": {"start": 5}}) as host:
        host.announce(make_move())
    assert counter.moves == 6
    assert not host.errors
    assert "host.announce(make_move())" in (testing.__doc__ or "")


def test_hooks_are_called_at_once_on_the_tests_own_thread() -> None:
    counter = Counter()
    threads = threading.active_count()
    with immediate_host({"counter": counter}) as host:
        host.announce(make_move(trigger=Trigger.REVERT))
        assert counter.moves == -1
        assert counter.thread is threading.current_thread()
        assert threading.active_count() == threads
        host.close()
        host.announce(make_move())
    assert counter.moves == -1


def test_a_plugin_that_cannot_be_configured_raises() -> None:
    with (
        pytest.raises(HookError, match="hook swanroam_configure of counter: start: a number is needed"),
        immediate_host({"counter": Counter}, options={"counter": {"start": "5"}}),
    ):
        pass


def test_what_a_hook_raises_is_in_errors() -> None:
    with immediate_host({"counter": Counter}) as host:
        assert host.rank_path(make_address(preference=0)) == 0
        assert [str(error) for error in host.errors] == [
            "hook swanroam_rank_path of counter: ValueError: no preference"
        ]
        assert isinstance(host.errors[0].__cause__, ValueError)


def test_values_have_defaults_that_fit_together_and_can_be_changed() -> None:
    move = make_move()
    assert move.key == make_capability().key == make_rejection().key == make_key()
    assert move.old != move.new
    assert move.old.remote == move.new.remote
    assert make_address().address == move.new.local.address == make_rejection().source
    assert make_address("2001:db8::1").prefix_length == 64
    assert make_address(prefix_length=30, usable=False).prefix_length == 30
    assert make_rejection(known=False, source=None).key is None
    assert make_capability(capability=Capability.NONE).capability is Capability.NONE
    in_udp = make_path("2001:db8::1", "2001:db8::2", port=4500, encap=True)
    assert str(in_udp) == "[2001:db8::1]:4500...[2001:db8::2]:4500 in UDP"
