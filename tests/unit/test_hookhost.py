"""HookHost: what one plugin does wrong never reaches another, nor the daemon."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

import pytest

from swanroam.hookhost import HookHost, Limits, PluginState, PluginStatus
from swanroam.hookspecs import hookimpl
from swanroam.hookworker import Runner, ThreadRunner
from swanroam.model.effects import Announcement, TunnelMoved
from swanroam.model.path import LocalAddress, Path
from swanroam.testing import Given, make_address, make_capability, make_key, make_move, make_path, make_rejection

DEADLINE_S = 10.0
PATIENT = Limits(load_s=DEADLINE_S, rank_s=DEADLINE_S, veto_s=DEADLINE_S, close_s=DEADLINE_S)
HASTY = Limits(load_s=DEADLINE_S, rank_s=0.02, veto_s=0.02, close_s=0.02, waiting=2)
MOVE = (make_key(), make_path("192.0.2.10"), make_path("198.51.100.10"))


class Vetoes:
    """Vetoes with a fixed answer, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def swanroam_veto_move(self) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Ranks:
    """Ranks with a fixed answer."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    @hookimpl
    def swanroam_rank_path(self) -> object:
        return self.answer


class Hears:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.threads: set[threading.Thread] = set()
        self.something = threading.Semaphore(0)

    def keep(self, what: object) -> None:
        self.heard.append(what)
        self.threads.add(threading.current_thread())
        self.something.release()

    @hookimpl
    def swanroam_moved(self, move: object) -> None:
        self.keep(move)

    @hookimpl
    def swanroam_capability(self, change: object) -> None:
        self.keep(change)

    @hookimpl
    def swanroam_rejected(self, rejection: object) -> None:
        self.keep(rejection)


class Hangs:
    """Hangs in every call until it is let go."""

    def __init__(self, go: threading.Event) -> None:
        self.go = go
        self.entered = threading.Semaphore(0)

    def hang(self) -> None:
        self.entered.release()
        self.go.wait(60)

    @hookimpl
    def swanroam_rank_path(self) -> int:
        self.hang()
        return 7

    @hookimpl
    def swanroam_veto_move(self) -> str:
        self.hang()
        return "late"

    @hookimpl
    def swanroam_moved(self) -> None:
        self.hang()


class Broken:
    """An entry point whose import fails, or never ends."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name = name
        self.load = load


def raise_import_error() -> object:
    raise ImportError("No module named 'absent'")


@pytest.fixture
def go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def host_of(limits: Limits = PATIENT, **plugins: object) -> HookHost:
    return HookHost([Given(name, plugin) for name, plugin in plugins.items()], limits=limits)


def status_of(host: HookHost, name: str) -> PluginStatus:
    return next(status for status in host.status if status.name == name)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.001)


def test_ranks_are_added_up() -> None:
    host = host_of(a=Ranks(10), b=Ranks(None), c=Ranks(-3))
    assert host.rank_path(make_address()) == 7
    assert not host.errors
    host.close()


def test_reasons_of_all_vetoes_name_their_plugins_in_one_clean_line() -> None:
    host = host_of(a=Vetoes("no\n  way\x1b[2J"), b=Vetoes(None), c=Vetoes("x" * 500))
    reason = host.veto_move(*MOVE)
    assert reason is not None
    assert reason == f"a: no way[2J; c: {'x' * 200}"
    host.close()


def test_a_veto_gets_the_tunnel_by_its_name_and_inner_addresses() -> None:
    seen: list[tuple[str, Path, Path]] = []

    class Sees:
        @hookimpl
        def swanroam_veto_move(self, tunnel: str, old: Path, new: Path) -> None:
            seen.append((tunnel, old, new))

    host = host_of(sees=Sees())
    assert host.veto_move(*MOVE) is None
    assert seen == [("home[10.99.0.1]", MOVE[1], MOVE[2])]
    host.close()


def test_announcements_are_heard_in_order_on_a_thread_of_the_plugin() -> None:
    hears = Hears()
    host = host_of(hears=hears)
    said: list[Announcement] = [make_move(), make_capability(), make_rejection(), make_rejection(known=False)]
    for announcement in said:
        host.announce(announcement)
    host.close()
    assert hears.heard == said
    assert len(hears.threads) == 1
    assert threading.current_thread() not in hears.threads
    assert not host.errors


def test_no_thread_is_made_or_asked_for_hooks_that_nobody_implements() -> None:
    made: list[str] = []

    def runner(name: str, capacity: int) -> Runner:
        made.append(name)
        return ThreadRunner(name, capacity)

    before = set(threading.enumerate())
    host = HookHost([Given("ranks", Ranks(1))], limits=PATIENT, runner=runner)
    assert host.veto_move(*MOVE) is None
    host.announce(make_move())
    assert made == ["hook-ranks"]
    assert status_of(host, "ranks").calls == 0
    host.close()
    empty = HookHost()
    assert empty.veto_move(*MOVE) is None
    assert empty.rank_path(make_address()) == 0
    empty.announce(make_move())
    empty.close()
    assert set(threading.enumerate()) <= before


def test_a_plugin_that_only_hears_keeps_no_answering_thread() -> None:
    host = host_of(hears=Hears())
    until(lambda: "hook-hears" not in {thread.name for thread in threading.enumerate()})
    assert "hook-hears-hear" in {thread.name for thread in threading.enumerate()}
    host.close()


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), KeyError("x"), SystemExit(3), KeyboardInterrupt(), MemoryError()]
)
def test_one_that_raises_is_logged_once_and_counted_and_the_others_go_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    host = host_of(a=Vetoes(error), b=Vetoes("b says no"))
    for _ in range(3):
        assert host.veto_move(*MOVE) == "b: b says no"
    assert status_of(host, "a").failures == 3
    assert status_of(host, "b").failures == 0
    assert [(e.plugin, e.hook) for e in host.errors] == [("a", "swanroam_veto_move")]
    assert type(error).__name__ in status_of(host, "a").problem
    assert len(caplog.records) == 1
    host.close()


def test_one_that_raises_when_it_hears_is_counted_and_hears_the_next() -> None:
    class Raises(Hears):
        def keep(self, what: object) -> None:
            super().keep(what)
            raise SystemExit(what)

    raises, hears = Raises(), Hears()
    host = host_of(raises=raises, hears=hears)
    host.announce(make_move())
    host.announce(make_capability())
    host.close()
    assert len(raises.heard) == len(hears.heard) == 2
    assert status_of(host, "raises").failures == 2
    assert {error.hook for error in host.errors} == {"swanroam_moved", "swanroam_capability"}


@pytest.mark.parametrize("answer", [True, "5", 1.5, [1]])
def test_a_rank_of_a_wrong_type_is_a_failure_and_counts_as_none(answer: object) -> None:
    host = host_of(a=Ranks(answer), b=Ranks(2))
    assert host.rank_path(make_address()) == 2
    assert type(answer).__name__ in status_of(host, "a").problem
    host.close()


@pytest.mark.parametrize("answer", [True, False, 0, "", " \n", b"no", "\x1b"])
def test_a_veto_of_a_wrong_type_or_without_reason_is_a_failure_and_no_veto(answer: object) -> None:
    host = host_of(a=Vetoes(answer))
    assert host.veto_move(*MOVE) is None
    assert status_of(host, "a").failures == 1
    host.close()


def test_one_that_hangs_is_put_aside_with_one_line_until_it_returns(
    go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    host = host_of(Limits(rank_s=1.0, veto_s=1.0), hangs=Hangs(go), ranks=Ranks(1))
    assert host.rank_path(make_address()) == 1
    for _ in range(5):
        assert host.rank_path(make_address()) == 1
        assert host.veto_move(*MOVE) is None
    status = status_of(host, "hangs")
    assert (status.state, status.overdue, status.skipped, status.calls) == (PluginState.ASIDE, 1, 10, 1)
    assert len([record for record in caplog.records if "put aside" in record.message]) == 1
    go.set()
    until(lambda: status_of(host, "hangs").state is PluginState.ACTIVE)
    for _ in range(3):
        assert host.rank_path(make_address()) == 8
    assert len([record for record in caplog.records if "asked again" in record.message]) == 1
    host.close()


def test_what_hangs_in_one_plugin_delays_the_daemon_for_one_deadline_only(go: threading.Event) -> None:
    limits = Limits(veto_s=0.2)
    host = host_of(limits, **{f"h{n}": Hangs(go) for n in range(10)})
    begun_s = time.monotonic()
    assert host.veto_move(*MOVE) is None
    assert time.monotonic() - begun_s < 10 * limits.veto_s
    assert [status.state for status in host.status] == [PluginState.ASIDE] * 10
    host.close()


def test_one_that_hangs_when_it_hears_delays_nobody_and_its_overflow_is_counted(
    go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    hangs, hears = Hangs(go), Hears()
    host = HookHost([Given("hangs", hangs), Given("hears", hears)], limits=HASTY)
    host.announce(make_move())
    assert hangs.entered.acquire(timeout=DEADLINE_S)
    assert hears.something.acquire(timeout=DEADLINE_S)
    for _ in range(5):
        host.announce(make_move())
        assert hears.something.acquire(timeout=DEADLINE_S)
    assert status_of(host, "hangs").dropped == 3
    assert status_of(host, "hears").dropped == 0
    assert len([record for record in caplog.records if "dropped" in record.message]) == 1
    host.close()


def test_close_returns_within_a_second_with_hooks_that_hang(go: threading.Event) -> None:
    hangs = Hangs(go)
    host = HookHost([Given("hangs", hangs)], limits=Limits(veto_s=0.01))
    host.announce(make_move())
    host.veto_move(*MOVE)
    assert hangs.entered.acquire(timeout=DEADLINE_S)
    begun_s = time.monotonic()
    host.close()
    assert time.monotonic() - begun_s < 1
    host.close()


def test_calls_behind_a_hung_one_are_never_made_after_close(go: threading.Event) -> None:
    calls: list[TunnelMoved] = []
    entered = threading.Event()

    class HangsOnce:
        @hookimpl
        def swanroam_moved(self, move: TunnelMoved) -> None:
            calls.append(move)
            entered.set()
            go.wait(60)

    host = host_of(HASTY, once=HangsOnce())
    host.announce(make_move())
    host.announce(make_move())
    assert entered.wait(DEADLINE_S)
    host.close()
    go.set()
    until(lambda: "hook-once-hear" not in {thread.name for thread in threading.enumerate()})
    assert len(calls) == 1


def test_after_close_nothing_is_asked_or_told() -> None:
    hears, vetoes = Hears(), Vetoes("no")
    host = host_of(hears=hears, vetoes=vetoes)
    host.close()
    host.announce(make_move())
    assert host.veto_move(*MOVE) is None
    assert hears.heard == []
    assert status_of(host, "vetoes").calls == 0


def async_veto() -> object:
    class Async:
        @hookimpl
        async def swanroam_veto_move(self) -> None:
            """Never awaited."""

    return Async


def generator() -> object:
    class Generates:
        @hookimpl
        def swanroam_moved(self) -> Iterator[None]:
            yield

    return Generates


def wrapper() -> object:
    class Wraps:
        @hookimpl(wrapper=True)
        def swanroam_veto_move(self) -> Iterator[None]:
            return (yield)

    return Wraps


def wrong_argument() -> object:
    class Wrong:
        @hookimpl
        def swanroam_moved(self, tunnel: str) -> None:
            """Asks for an argument that moved does not have."""

    return Wrong


def unknown_hook() -> object:
    class Unknown:
        @hookimpl
        def swanroam_movd(self) -> None:
            """A typing error."""

    return Unknown


def forgotten_marker() -> object:
    class Forgot:
        def swanroam_moved(self) -> None:
            """Not marked."""

    return Forgot


def raises_when_made() -> object:
    class Raises:
        def __init__(self) -> None:
            raise OSError("no such device")

    return Raises


def exits() -> object:
    raise SystemExit(1)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (raise_import_error, "No module named 'absent'"),
        (exits, "SystemExit"),
        (async_veto, "is async"),
        (generator, "generator"),
        (wrapper, "wrapper"),
        (wrong_argument, "tunnel"),
        (unknown_hook, "swanroam_movd"),
        (forgotten_marker, "not marked"),
        (raises_when_made, "no such device"),
        (object, "implements no hook"),
        (lambda: None, "implements no hook"),
        (lambda: ModuleType("empty"), "implements no hook"),
    ],
)
def test_one_that_cannot_be_loaded_is_left_out_and_the_others_go_on(
    load: Callable[[], object], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = HookHost([Broken("broken", load), Given("good", Vetoes("no"))], limits=PATIENT)
    status = status_of(host, "broken")
    assert status.state is PluginState.FAILED
    assert says in status.problem
    assert "\n" not in status.problem
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "broken" in caplog.records[0].message
    assert host.veto_move(*MOVE) == "good: no"
    host.announce(make_move())
    host.close()


def test_one_whose_import_never_ends_is_left_out(go: threading.Event) -> None:
    limits = Limits(load_s=0.02, veto_s=DEADLINE_S)
    host = HookHost([Broken("stuck", lambda: go.wait(60) and Vetoes("late"))], limits=limits)
    assert status_of(host, "stuck").state is PluginState.FAILED
    assert "not ready within 0.02 s" in status_of(host, "stuck").problem
    go.set()
    until(lambda: "hook-stuck" not in {thread.name for thread in threading.enumerate()})
    assert status_of(host, "stuck").state is PluginState.FAILED
    assert host.veto_move(*MOVE) is None
    host.close()


def test_an_async_implementation_in_disguise_is_a_failure_and_no_warning_of_python() -> None:
    async def never() -> None:
        """Never awaited."""

    class Disguised:
        @hookimpl
        def swanroam_veto_move(self) -> object:
            return never()

        @hookimpl
        def swanroam_moved(self) -> object:
            return never()

    host = host_of(disguised=Disguised())
    assert host.veto_move(*MOVE) is None
    host.announce(make_move())
    host.close()
    assert {error.hook for error in host.errors} == {"swanroam_veto_move", "swanroam_moved"}
    assert all("awaitable" in error.problem for error in host.errors)


def test_a_module_an_object_and_a_class_are_plugins() -> None:
    module = ModuleType("module")

    @hookimpl
    def swanroam_rank_path(address: LocalAddress) -> int:
        return address.prefix_length

    module.__dict__["swanroam_rank_path"] = swanroam_rank_path

    class Made(Ranks):
        def __init__(self) -> None:
            super().__init__(100)

    host = host_of(module=module, object=Ranks(1000), made=Made)
    assert host.rank_path(make_address(prefix_length=24)) == 1124
    host.close()


def test_a_hook_of_a_newer_version_is_no_error_when_marked_optional() -> None:
    class Newer(Ranks):
        @hookimpl(optionalhook=True)
        def swanroam_not_yet(self) -> None:
            """Unknown to this version."""

    host = host_of(newer=Newer(3))
    assert host.rank_path(make_address()) == 3
    assert not host.errors
    host.close()


class Configured(Ranks):
    """Ranks with its option, and refuses or declines some."""

    def __init__(self) -> None:
        super().__init__(None)

    @hookimpl
    def swanroam_configure(self, options: Mapping[str, object]) -> object:
        self.answer = options.get("rank", 1)
        if self.answer == "refuse":
            raise ValueError("rank: a number is needed, not 'refuse'")
        return {"decline": False, "odd": "odd"}.get(str(self.answer))


def configured(table: Mapping[str, object]) -> HookHost:
    return HookHost([Given("c", Configured)], options={"c": table}, limits=PATIENT)


def test_a_plugin_gets_its_own_options_and_cannot_change_them() -> None:
    host = configured({"rank": 42})
    assert host.rank_path(make_address()) == 42
    host.close()

    class Changes:
        @hookimpl
        def swanroam_configure(self, options: dict[str, object]) -> None:
            options["rank"] = 1

    host = HookHost([Given("changes", Changes)], options={"changes": {"rank": 42}}, limits=PATIENT)
    assert "does not support item assignment" in status_of(host, "changes").problem
    host.close()


def test_refused_options_leave_the_plugin_out_with_its_words_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    host = configured({"rank": "refuse"})
    assert status_of(host, "c").state is PluginState.FAILED
    assert [str(error) for error in host.errors] == [
        "hook swanroam_configure of c: rank: a number is needed, not 'refuse'"
    ]
    assert caplog.records[0].exc_info is None
    assert host.rank_path(make_address()) == 0
    host.close()


def test_one_that_has_nothing_to_do_is_never_called() -> None:
    host = configured({"rank": "decline"})
    assert status_of(host, "c").state is PluginState.IDLE
    assert host.rank_path(make_address()) == 0
    assert not host.errors
    host.close()


def test_an_odd_answer_to_configure_is_an_error() -> None:
    host = configured({"rank": "odd"})
    assert status_of(host, "c").problem == "answered str, not bool or None"
    host.close()


def test_options_for_one_that_takes_none_are_an_error() -> None:
    host = HookHost([Given("ranks", Ranks(1))], options={"ranks": {"speed": 1}}, limits=PATIENT)
    assert status_of(host, "ranks").state is PluginState.FAILED
    assert "takes no options, but got speed" in status_of(host, "ranks").problem
    host.close()


def test_a_disabled_plugin_is_not_even_imported() -> None:
    host = HookHost([Broken("off", raise_import_error)], disabled=["off"], options={"off": {"a": 1}})
    assert status_of(host, "off").state is PluginState.DISABLED
    assert not host.errors
    host.close()


def test_names_in_the_configuration_that_no_plugin_has_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    HookHost([], disabled=["metred"], options={"jurnal": {}}).close()
    assert [record.message for record in caplog.records] == [
        "hooks: the configuration names plugin jurnal, which is not installed",
        "hooks: the configuration names plugin metred, which is not installed",
    ]


def test_of_two_plugins_with_one_name_the_first_stays() -> None:
    host = HookHost([Given("twin", Ranks(1)), Given("twin", Ranks(2))], limits=PATIENT)
    assert host.rank_path(make_address()) == 1
    assert "two plugins have this name" in status_of(host, "twin").problem
    host.close()


def test_status_tells_what_a_plugin_implements() -> None:
    host = host_of(hears=Hears(), configured=Configured)
    assert status_of(host, "hears").hooks == ("swanroam_moved", "swanroam_capability", "swanroam_rejected")
    assert status_of(host, "configured").hooks == ("swanroam_configure", "swanroam_rank_path")
    assert status_of(host, "configured").problem == ""
    host.close()
