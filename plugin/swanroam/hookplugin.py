"""One plugin: loaded, checked and configured, its counters, and what is shown of it.

Each plugin has a pluggy manager of its own: one manager for all would stop at the first implementation that raises, and
would keep half of a plugin that it refuses.
"""

import inspect
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

import pluggy

from swanroam import hookspecs
from swanroam.errors import HookError
from swanroam.hookworker import Runner
from swanroam.model.effects import Announcement, CapabilityChanged, PacketRejected, TunnelMoved

__all__ = [
    "CONFIGURE",
    "HEARD",
    "LOAD",
    "RANK",
    "SPECS",
    "VETO",
    "Plugin",
    "PluginSource",
    "PluginState",
    "PluginStatus",
]

logger: Final = logging.getLogger(__name__)

LOAD: Final = "load"
"""Stands where errors name a hook, for what happens before there are hooks."""
CONFIGURE: Final = "swanroam_configure"
RANK: Final = "swanroam_rank_path"
VETO: Final = "swanroam_veto_move"
HEARD: Final[Mapping[type[Announcement], tuple[str, str]]] = MappingProxyType(
    {
        TunnelMoved: ("swanroam_moved", "move"),
        CapabilityChanged: ("swanroam_capability", "change"),
        PacketRejected: ("swanroam_rejected", "rejection"),
    }
)
"""The hook that hears of each kind of announcement, and the name of its argument."""
SPECS: Final = (CONFIGURE, RANK, VETO, *(hook for hook, _ in HEARD.values()))


class PluginSource(Protocol):
    """Where a plugin comes from: an importlib.metadata.EntryPoint, or anything else with these two."""

    @property
    def name(self) -> str:
        """The plugin's name, as in `[hooks.NAME]`."""

    def load(self) -> object:
        """The plugin: a module, an object or a class. May raise anything, or never return."""


class PluginState(StrEnum):
    """What became of a plugin."""

    ACTIVE = "active"
    IDLE = "idle"
    """It said that it has nothing to do with its options."""
    ASIDE = "aside"
    """It is overdue with an answer: not asked until it returns."""
    DISABLED = "disabled"
    """By the configuration."""
    FAILED = "failed"
    """It could not be loaded or configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginStatus:
    """A plugin, for `swanroam status`."""

    name: str
    state: PluginState
    hooks: tuple[str, ...]
    """What it implements, in the order of the specs."""
    calls: int
    failures: int
    """Calls that raised or answered with a wrong type, and failures to load."""
    overdue: int
    """Answers that did not come in time."""
    skipped: int
    """Answers not asked for while it was put aside."""
    dropped: int
    """Announcements that its queue had no room for."""
    problem: str
    """The first thing that went wrong, for people; empty when nothing did."""


@dataclass(slots=True, kw_only=True, eq=False)
class Plugin:
    """A plugin of the daemon. `calls`, `failures` and `errors` change on its threads, under `lock`."""

    name: str
    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(hookspecs.PROJECT))
    hooks: tuple[str, ...] = ()
    state: PluginState = PluginState.ACTIVE
    answering: Runner | None = None
    hearing: Runner | None = None
    late: tuple[str, Future[object]] | None = None
    """The hook and the answer that the plugin is overdue with."""
    calls: int = 0
    failures: int = 0
    overdue: int = 0
    skipped: int = 0
    dropped: int = 0
    errors: dict[str, HookError] = field(default_factory=dict)
    """The first failure of each hook."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def prepare(self, source: PluginSource, options: Mapping[str, object]) -> object:
        """Load, check and configure; returns the answer of swanroam_configure.

        Raises HookError, or whatever the import raises.
        """
        target = source.load()
        self._register(target() if inspect.isclass(target) else target)
        if CONFIGURE not in self.hooks:
            if options:
                raise HookError(self.name, CONFIGURE, f"takes no options, but got {', '.join(sorted(options))}")
            return None
        try:
            answer = self.call(CONFIGURE, {"options": MappingProxyType(dict(options))})
        except (ValueError, TypeError) as error:
            raise HookError(self.name, CONFIGURE, str(error)) from error
        if answer is not None and not isinstance(answer, bool):
            raise HookError(self.name, CONFIGURE, f"answered {type(answer).__name__}, not bool or None")
        return answer

    def call(self, hook: str, arguments: Mapping[str, object]) -> object:
        """Call the implementation of `hook`; raises what it raises."""
        with self.lock:
            self.calls += 1
        answer: object = getattr(self.manager.hook, hook)(**arguments)
        if inspect.iscoroutine(answer):
            answer.close()  # or Python warns that nobody awaited it
        if inspect.isawaitable(answer):
            raise TypeError("answered with an awaitable; implementations are plain functions")
        return answer

    def failed(self, hook: str, problem: str, cause: BaseException | None = None) -> None:
        """Count a failure, and log the first of each hook."""
        with self.lock:
            self.failures += 1
            if hook in self.errors:
                return
            self.errors[hook] = error = HookError(self.name, hook, problem)
            error.__cause__ = cause
        # What the operator wrote wrong needs no traceback; what the plugin's author wrote wrong does.
        logger.warning("%s", error, exc_info=None if hook == CONFIGURE else cause)

    def raised(self, hook: str, error: BaseException) -> None:
        """Count and log what a call, or the load, raised."""
        if isinstance(error, HookError):
            self.failed(error.hook, error.problem, error.__cause__)
        else:
            self.failed(hook, f"{type(error).__name__}: {error}", error)

    def status(self) -> PluginStatus:
        """What is shown of the plugin."""
        aside = self.state is PluginState.ACTIVE and self.late is not None and not self.late[1].done()
        with self.lock:
            return PluginStatus(
                name=self.name,
                state=PluginState.ASIDE if aside else self.state,
                hooks=self.hooks,
                calls=self.calls,
                failures=self.failures,
                overdue=self.overdue,
                skipped=self.skipped,
                dropped=self.dropped,
                problem=next((error.problem for error in self.errors.values()), ""),
            )

    def _register(self, target: object) -> None:
        self.manager.add_hookspecs(hookspecs)
        try:
            self.manager.register(target, self.name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError, TypeError) as error:
            raise HookError(self.name, LOAD, " ".join(str(error).split())) from None  # the text says all
        hooks = tuple(hook for hook in SPECS if self._implements(target, hook))
        if not hooks:
            raise HookError(self.name, LOAD, f"implements no hook; known are {', '.join(SPECS)}")
        self.hooks = hooks

    def _implements(self, target: object, hook: str) -> bool:
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        for function in (implementation.function for implementation in implementations):
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise HookError(self.name, hook, "is async; implementations are plain functions")
            if inspect.isgeneratorfunction(function):
                raise HookError(self.name, hook, "is a generator or wrapper; implementations are plain functions")
        if not implementations and callable(getattr(target, hook, None)):
            raise HookError(self.name, hook, "is not marked with swanroam.hookspecs.hookimpl")
        return bool(implementations)
