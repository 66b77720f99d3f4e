"""Calls the hooks of all plugins so that none of them can harm another or delay the daemon.

Answers (rank, veto) are asked on each plugin's answering thread, of all plugins at once, with one deadline; a plugin
that is overdue is put aside until it returns. What is only to be heard of goes through a bounded queue to each plugin's
hearing thread.
"""

import functools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from importlib.metadata import entry_points
from queue import Full
from typing import Final, Self

from swanroam import hookspecs
from swanroam.errors import HookError
from swanroam.hookplugin import HEARD, LOAD, RANK, SPECS, VETO, Plugin, PluginSource, PluginState, PluginStatus
from swanroam.hookworker import Runner, ThreadRunner
from swanroam.model.effects import Announcement
from swanroam.model.path import LocalAddress, Path
from swanroam.model.tunnel import TunnelKey

__all__ = ["HookHost", "Limits", "PluginSource", "PluginState", "PluginStatus"]

logger: Final = logging.getLogger(__name__)

REASON_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the daemon waits for plugins, and how much it keeps for them."""

    load_s: float = 5.0
    """Import and swanroam_configure of one plugin."""
    rank_s: float = 0.25
    veto_s: float = 0.05
    close_s: float = 0.5
    waiting: int = 256
    """Announcements that wait for one plugin."""


class HookHost:
    """The plugins of one daemon. Its methods are called from one thread, the daemon's, and raise nothing.

    Without an implementation of a hook its method returns at once, and no thread is involved.
    """

    def __init__(
        self,
        sources: Iterable[PluginSource] = (),
        *,
        disabled: Collection[str] = (),
        options: Mapping[str, Mapping[str, object]] | None = None,
        limits: Limits | None = None,
        runner: Callable[[str, int], Runner] = ThreadRunner,
    ) -> None:
        """Load plugins from `sources`; `runner` gets a thread's name and how many calls may wait for it."""
        self._limits = limits or Limits()
        self._runner = runner
        self._plugins: dict[str, Plugin] = {}
        options = options or {}
        for source in sources:
            if source.name in self._plugins:
                self._plugins[source.name].failed(LOAD, "two plugins have this name; the second is not loaded")
            elif source.name in disabled:
                self._plugins[source.name] = Plugin(name=source.name, state=PluginState.DISABLED)
            else:
                self._plugins[source.name] = self._load(source, options.get(source.name, {}))
        for name in sorted({*disabled, *options} - self._plugins.keys()):
            logger.warning("hooks: the configuration names plugin %s, which is not installed", name)
        active = [plugin for plugin in self._plugins.values() if plugin.state is PluginState.ACTIVE]
        self._implementing = {hook: tuple(plugin for plugin in active if hook in plugin.hooks) for hook in SPECS}

    @classmethod
    def load(
        cls,
        *,
        disabled: Collection[str] = (),
        options: Mapping[str, Mapping[str, object]] | None = None,
        limits: Limits | None = None,
    ) -> Self:
        """Load the plugins that are installed: the entry points of the group "swanroam", in the order of their names.

        `disabled` names plugins that are not even imported; `options` has the tables `[hooks.NAME]` by name.
        """
        found = sorted(entry_points(group=hookspecs.ENTRY_POINT_GROUP), key=lambda point: point.name)
        return cls(found, disabled=disabled, options=options, limits=limits)

    @property
    def status(self) -> tuple[PluginStatus, ...]:
        """All plugins that are installed, also those that are not in use."""
        return tuple(plugin.status() for plugin in self._plugins.values())

    @property
    def errors(self) -> tuple[HookError, ...]:
        """The first failure of each hook of each plugin; those of swanroam_configure are the operator's to mend."""
        return tuple(error for plugin in self._plugins.values() for error in tuple(plugin.errors.values()))

    def rank_path(self, address: LocalAddress) -> int:
        """What plugins add to the preference of a source: the sum. Keep it until the address or its link changes."""
        if not (plugins := self._implementing[RANK]):
            return 0
        total = 0
        for plugin, answer in self._ask(plugins, RANK, {"address": address}, self._limits.rank_s):
            if isinstance(answer, int) and not isinstance(answer, bool):
                total += answer
            else:
                plugin.failed(RANK, f"answered {type(answer).__name__}, not int or None")
        return total

    def veto_move(self, key: TunnelKey, old: Path, new: Path) -> str | None:
        """Why the move must not be made, in one line that names the plugins; None when nobody minds."""
        if not (plugins := self._implementing[VETO]):
            return None
        arguments = {"tunnel": str(key), "old": old, "new": new}
        reasons = []
        for plugin, answer in self._ask(plugins, VETO, arguments, self._limits.veto_s):
            if not isinstance(answer, str):
                plugin.failed(VETO, f"answered {type(answer).__name__}, not str or None")
            elif not (reason := _one_line(answer)):
                plugin.failed(VETO, "answered an empty reason")
            else:
                reasons.append(f"{plugin.name}: {reason}")
        return "; ".join(reasons) or None

    def announce(self, announcement: Announcement) -> None:
        """Let plugins hear of something, soon and on their own threads."""
        hook, argument = HEARD[type(announcement)]
        for plugin in self._implementing[hook]:
            if plugin.hearing is None:
                continue
            try:
                plugin.hearing.submit(functools.partial(_tell, plugin, hook, {argument: announcement}))
            except Full:
                plugin.dropped += 1
                if plugin.dropped == 1:
                    logger.warning("hook %s of %s: too slow, calls are dropped", hook, plugin.name)

    def close(self) -> None:
        """Deliver what waits and end the threads, in less than a second; those that hang are left behind."""
        self._implementing = dict.fromkeys(SPECS, ())
        runners = [r for plugin in self._plugins.values() for r in (plugin.answering, plugin.hearing) if r is not None]
        for runner in runners:
            runner.stop()
        deadline_s = time.monotonic() + self._limits.close_s
        hung = sum(not runner.join(deadline_s - time.monotonic()) for runner in runners)
        if hung:
            logger.warning("hooks: %d threads of plugins hang and are left behind", hung)

    def _load(self, source: PluginSource, options: Mapping[str, object]) -> Plugin:
        plugin = Plugin(name=source.name)
        answering = self._runner(f"hook-{plugin.name}", 1)
        prepared = answering.submit(functools.partial(plugin.prepare, source, options))
        wait((prepared,), self._limits.load_s)
        if not prepared.done():
            answering.stop()
            # A new object: the thread may still change the old one, whenever it returns.
            plugin = Plugin(name=source.name, state=PluginState.FAILED)
            plugin.failed(LOAD, f"not ready within {self._limits.load_s:g} s")
            return plugin
        if (error := prepared.exception()) is not None:
            plugin.state = PluginState.FAILED
            plugin.raised(LOAD, error)
        elif prepared.result() is False:
            plugin.state = PluginState.IDLE
        if plugin.state is PluginState.ACTIVE and {RANK, VETO} & set(plugin.hooks):
            plugin.answering = answering
        else:
            answering.stop()
        if plugin.state is PluginState.ACTIVE and {hook for hook, _ in HEARD.values()} & set(plugin.hooks):
            plugin.hearing = self._runner(f"hook-{plugin.name}-hear", self._limits.waiting)
        return plugin

    def _ask(
        self, plugins: Iterable[Plugin], hook: str, arguments: Mapping[str, object], deadline_s: float
    ) -> list[tuple[Plugin, object]]:
        """The answers that came in time and are not None."""
        asked: list[tuple[Plugin, Future[object]]] = []
        for plugin in plugins:
            if plugin.answering is None:
                continue
            if _still_late(plugin):
                plugin.skipped += 1
            else:
                asked.append((plugin, plugin.answering.submit(functools.partial(plugin.call, hook, arguments))))
        wait([future for _, future in asked], deadline_s)
        answers: list[tuple[Plugin, object]] = []
        for plugin, future in asked:
            if not future.done():
                plugin.late = (hook, future)
                plugin.overdue += 1
                text = "hook %s of %s: no answer within %g ms, put aside until it returns"
                logger.warning(text, hook, plugin.name, deadline_s * 1000)
            elif (error := future.exception()) is not None:
                plugin.raised(hook, error)
            elif (answer := future.result()) is not None:
                answers.append((plugin, answer))
        return answers


def _still_late(plugin: Plugin) -> bool:
    if plugin.late is None:
        return False
    hook, future = plugin.late
    if not future.done():
        return True
    plugin.late = None
    logger.warning("hook %s of %s: returned, and is asked again", hook, plugin.name)
    if (error := future.exception()) is not None:
        plugin.raised(hook, error)
    return False


def _tell(plugin: Plugin, hook: str, arguments: Mapping[str, object]) -> None:
    try:
        plugin.call(hook, arguments)
    except BaseException as error:  # noqa: BLE001 - whatever a third party raises, SystemExit too
        plugin.raised(hook, error)


def _one_line(text: str) -> str:
    """Text of a plugin, safe to log and to show in a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:REASON_CHARACTERS]
