"""The configuration file in TOML: keys, defaults and what they accept.

role = "terminal" | "gateway"                      required
vici = "/run/charon.vici"                          charon's vici socket
control_socket = "/run/swanroam/control.sock"      where `swanroam status` asks
state_dir = "/var/lib/swanroam"                    what a restarted daemon knows
port = 4555                                        UDP port of in-tunnel messages
queue = 4555                                       NFQUEUE number of held packets
log_level = "debug" | "info" | "warning" | "error" "info" by default
preference = { "eth*" = 20, "wlan*" = 10 }         terminal: by interface pattern, the first that matches; 0 if none

[tunnels.NAME]                                     a swanctl connection, or "*" for what is not said of a name
capability = "negotiate" | "configured" | "off"    "negotiate" by default
path_validation = "after" | "off"                  "after" by default
mobike = true | false                              what swanctl.conf says; told apart by itself but behind a NAT
allow = ["192.0.2.0/24", ...]                      gateway: networks that the terminal may be in; any by default
gateway_addresses = ["2001:db8::1", ...]           terminal: all that the gateway has, besides those that it tells;
                                                   gateway: those that it tells; on the tunnel's interface by default

[hooks]
disable = ["NAME", ...]                            implementations that are not loaded
[hooks.NAME]                                       options, handed to the implementation as they are

Unknown keys are errors. A connection without a table, and without "*", has the defaults.
"""

import fnmatch
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from swanroam.app.checker import Problems, Table
from swanroam.core.settings import Agreement, Settings, TunnelSettings
from swanroam.errors import ConfigError
from swanroam.model.tunnel import Role

__all__ = ["DEFAULT_FILE", "Changes", "Config", "LogLevel", "diff", "load", "parse"]

DEFAULT_FILE: Final = Path("/etc/swanroam/swanroam.toml")
FILE_BYTES: Final = 1 << 20
SOCKET_PATH_BYTES: Final = 107  # sun_path has 108, the last of them NUL (man 7 unix)
PREFERENCE_LIMIT: Final = 1_000_000
LINE: Final = re.compile(r"^(?P<problem>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)$", re.DOTALL)


class LogLevel(StrEnum):
    """The least important messages that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class PathValidation(StrEnum):
    """When the gateway challenges a terminal on its new path."""

    AFTER = "after"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that was checked."""

    settings: Settings
    """Role, and what was decided for each connection."""
    vici: Path = Path("/run/charon.vici")
    control_socket: Path = Path("/run/swanroam/control.sock")
    state_dir: Path = Path("/var/lib/swanroam")
    port: int = 4555
    """UDP port of in-tunnel messages."""
    queue: int = 4555
    """NFQUEUE number of held packets; messages, IKE, late packets and packets for terminals have the four after it."""
    log_level: LogLevel = LogLevel.INFO
    preference: tuple[tuple[str, int], ...] = ()
    """(interface pattern, preference), in the order of the file."""
    hooks_disabled: frozenset[str] = frozenset()
    hook_options: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: MappingProxyType({}))
    """Options by the entry-point name of the implementation."""

    @property
    def role(self) -> Role:
        """Which end of the tunnels this machine is."""
        return self.settings.role

    def preference_of(self, interface: str) -> int:
        """What the operator adds to the rank of an interface: of the first pattern that matches, 0 without one."""
        return next((value for pattern, value in self.preference if fnmatch.fnmatchcase(interface, pattern)), 0)


class Changes(NamedTuple):
    """Names of settings that differ: those that a running daemon can take over, and those that need a new one."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


NEEDS_RESTART: Final = ("role", "vici", "control_socket", "state_dir", "port", "queue")


def diff(old: Config, new: Config) -> Changes:
    """What a reload changed."""
    live = {
        "log_level": old.log_level != new.log_level,
        "preference": old.preference != new.preference,
        "tunnels": old.settings.tunnels != new.settings.tunnels,
        "hooks": (old.hooks_disabled, old.hook_options) != (new.hooks_disabled, new.hook_options),
    }
    return Changes(
        live=tuple(name for name, changed in live.items() if changed),
        restart=tuple(name for name in NEEDS_RESTART if getattr(old, name) != getattr(new, name)),
    )


def load(file: Path) -> Config:
    """Read and check a file. Raises ConfigError, which names the file, the line or key, and every problem found."""
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(file, "", f"cannot be read: {reason}") from error
    if len(data) > FILE_BYTES:
        raise ConfigError(file, "", f"is larger than {FILE_BYTES >> 20} MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(file, f"line {line}", f"is not UTF-8: byte 0x{data[error.start]:02x}") from error
    return parse(text, file)


def parse(text: str, file: Path) -> Config:
    """Check the text of a file. `file` is for messages only. Raises ConfigError."""
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(file, "", "is not valid TOML: nested too deeply") from error
    except ValueError as error:
        # TOMLDecodeError, or of the integer conversion for one with thousands of digits
        match = LINE.match(str(error))
        last = text.rstrip("\n").count("\n") + 1
        where = f"line {match['line'] or last}" if match else ""
        raise ConfigError(file, where, f"is not valid TOML: {match['problem'] if match else error}") from error
    problems = Problems()
    config = _config(Table(values, problems))
    if problems.found or config is None:
        (where, first), *others = problems.found
        raise ConfigError(file, where, "; ".join([first, *(f"{key}: {problem}" for key, problem in others)]))
    return config


def _config(top: Table) -> Config | None:
    role = top.word("role", Role, None)
    vici = _socket(top, "vici", "/run/charon.vici")
    control = _socket(top, "control_socket", "/run/swanroam/control.sock")
    if vici == control:
        top.complain("control_socket", "is the same as vici; accepted: a path of its own")
    state_dir = _path(top, "state_dir", "/var/lib/swanroam")
    port = top.integer("port", 4555, 1, 65535)
    queue = top.integer("queue", 4555, 0, 65531)  # and the next four
    log_level = top.word("log_level", LogLevel, LogLevel.INFO)
    tunnels = _tunnels(top.table("tunnels"))
    if top.has("preference") and role is Role.GATEWAY:
        top.complain("preference", "is for a terminal; a gateway has none")
    preference = _preference(top.table("preference"))
    disabled, options = _hooks(top.table("hooks"))
    top.finish()
    if role is None or log_level is None:
        return None
    return Config(
        settings=Settings(role=role, tunnels=tunnels),
        vici=vici,
        control_socket=control,
        state_dir=state_dir,
        port=port,
        queue=queue,
        log_level=log_level,
        preference=preference,
        hooks_disabled=disabled,
        hook_options=options,
    )


def _path(table: Table, key: str, default: str) -> Path:
    text = table.text(key, default)
    if text.startswith("/") and text.isprintable():
        return Path(text)
    table.complain(key, f"is {text!a}; accepted: an absolute path")
    return Path(default)


def _socket(table: Table, key: str, default: str) -> Path:
    path = _path(table, key, default)
    if (length := len(os.fsencode(path))) <= SOCKET_PATH_BYTES:
        return path
    table.complain(key, f"has {length} bytes; accepted: at most {SOCKET_PATH_BYTES}, the limit for Unix sockets")
    return Path(default)


def _tunnels(tunnels: Table) -> Mapping[str, TunnelSettings]:
    """Settings by connection; what is not said of a connection is taken from "*"."""
    found: dict[str, TunnelSettings] = {}
    # "*" first, as the others build on it
    for name in sorted(tunnels.rest(), key=lambda name: name != "*"):
        if "*" in name and name != "*":
            tunnels.complain(name, 'is not a connection; accepted: a swanctl connection name, or "*" for all others')
        common = found.get("*", TunnelSettings())
        validation = PathValidation.AFTER if common.path_validation else PathValidation.OFF
        table = tunnels.table(name)
        agreement = table.word("capability", Agreement, common.agreement)
        validation = table.word("path_validation", PathValidation, validation) or validation
        mobike = table.flag("mobike", common.mobike)
        allow = table.networks("allow", common.allow)
        gateways = table.addresses("gateway_addresses", common.gateways)
        table.finish()
        found[name] = TunnelSettings(
            agreement=agreement or common.agreement,
            path_validation=validation is PathValidation.AFTER,
            mobike=mobike,
            allow=allow,
            gateways=gateways,
        )
    return MappingProxyType(found)


def _preference(table: Table) -> tuple[tuple[str, int], ...]:
    return tuple((pattern, table.integer(pattern, 0, -PREFERENCE_LIMIT, PREFERENCE_LIMIT)) for pattern in table.rest())


def _hooks(table: Table) -> tuple[frozenset[str], Mapping[str, Mapping[str, object]]]:
    disabled = frozenset(table.texts("disable"))
    options = {name: MappingProxyType(table.table(name).raw()) for name in table.rest()}
    return disabled, MappingProxyType(options)
