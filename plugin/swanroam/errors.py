"""Every error swanroam raises on purpose.

    SwanroamError
    ├── ConfigError          the configuration file cannot be used: file, line or key, and why
    ├── WireError            bytes that are not what they claim to be: what, offset, and why
    │   └── Unsupported      well-formed, but of a kind that this side does not implement
    ├── KernelRefused        the kernel answered a netlink request with an error
    ├── CharonError          charon could not be asked, or said no
    │   ├── CharonGone       the vici socket is absent, closed or stalled
    │   └── CharonRefused    the command was answered with success = no
    ├── ControlError         the control socket cannot be made, or the daemon behind it cannot be asked
    ├── StoreError           the state on disk cannot be used and was set aside
    └── HookError            a hook implementation raised, hung or failed to load

Errors carry data, not only text, so that the caller can count, retry or report them.
"""

import errno
import os
from pathlib import Path

__all__ = [
    "CharonError",
    "CharonGone",
    "CharonRefused",
    "ConfigError",
    "ControlError",
    "HookError",
    "KernelRefused",
    "StoreError",
    "SwanroamError",
    "Unsupported",
    "WireError",
]


class SwanroamError(Exception):
    """Base of all errors that swanroam raises on purpose."""


class ConfigError(SwanroamError):
    """The configuration cannot be used.

    `where` is a line ("line 7") or a dotted key ("tunnels.home.capability"), or empty when the whole file is meant.
    """

    def __init__(self, file: Path, where: str, problem: str) -> None:
        super().__init__(f"{file}: {where}: {problem}" if where else f"{file}: {problem}")
        self.file, self.where, self.problem = file, where, problem


class WireError(SwanroamError):
    """Bytes that are not what they claim to be. `offset` counts bytes from the start of the decoded unit."""

    def __init__(self, what: str, offset: int, problem: str) -> None:
        super().__init__(f"{what}: at byte {offset}: {problem}")
        self.what, self.offset, self.problem = what, offset, problem


class Unsupported(WireError):
    """Well-formed bytes of a kind that this side does not implement."""


class KernelRefused(SwanroamError):
    """The kernel answered a netlink request with an error; `code` is a positive errno."""

    def __init__(self, operation: str, code: int) -> None:
        super().__init__(f"{operation}: {errno.errorcode.get(code, str(code))} ({os.strerror(code)})")
        self.operation, self.code = operation, code


class CharonError(SwanroamError):
    """charon could not be asked, or said no."""


class CharonGone(CharonError):
    """The vici socket is absent, was closed, or did not answer in time."""


class CharonRefused(CharonError):
    """charon answered a command with success = no; `reason` is its own text."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"charon refused {command}: {reason}")
        self.command, self.reason = command, reason

    @property
    def unknown(self) -> bool:
        """Whether that is because its configuration has nothing of the name (vici_control.c, initiate)."""
        return self.reason.endswith("not found")


class ControlError(SwanroamError):
    """The control socket cannot be made, or the daemon behind it cannot be asked."""


class StoreError(SwanroamError):
    """The state on disk cannot be used; it was set aside under `kept`, never trusted."""

    def __init__(self, problem: str, kept: Path | None) -> None:
        super().__init__(f"{problem}; set aside as {kept}" if kept else problem)
        self.problem, self.kept = problem, kept


class HookError(SwanroamError):
    """A hook implementation raised, hung or failed to load; `plugin` is its entry-point name."""

    def __init__(self, plugin: str, hook: str, problem: str) -> None:
        super().__init__(f"hook {hook} of {plugin}: {problem}")
        self.plugin, self.hook, self.problem = plugin, hook, problem
