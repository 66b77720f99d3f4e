"""`swanroam run`."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import click

from swanroam.app.check import immovable, obstacles
from swanroam.app.cli import config_option, fail, resolve
from swanroam.app.config import Config, load
from swanroam.app.logs import setup
from swanroam.app.probes import MachineProbes
from swanroam.app.secrecy import keep_secrets
from swanroam.errors import ConfigError, KernelRefused, SwanroamError

__all__ = ["run"]


@click.command()
@config_option
def run(file: Path) -> None:
    """Run the daemon in the foreground: SIGTERM stops it and leaves every tunnel working, SIGHUP reloads FILE."""
    try:
        config = load(file)
    except ConfigError as error:
        fail(error, 2)
    setup(config.log_level)
    keep_secrets()
    probes = MachineProbes(config.vici)
    if reason := immovable(probes):
        fail(reason, 1)
    # After the configuration was checked: the daemon and its libraries take seconds to load on a small machine.
    daemon = cast("Callable[[Config, Path], int]", resolve("swanroam.app.daemon:run"))
    try:
        status = daemon(config, file)
    except KernelRefused as error:
        lacks = obstacles(probes)
        fail(f"{error}; {f'{lacks}; ' if lacks else ''}`swanroam check` says what this machine lacks", 1)
    except SwanroamError as error:
        fail(error, 1)
    raise SystemExit(status)
