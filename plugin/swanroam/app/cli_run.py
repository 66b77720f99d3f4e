"""`swanroam run`."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import click

from swanroam.app.cli import config_option, fail, resolve
from swanroam.app.config import Config, load
from swanroam.app.logs import setup
from swanroam.app.secrecy import keep_secrets
from swanroam.errors import ConfigError, SwanroamError

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
    # After the configuration was checked: the daemon and its libraries take seconds to load on a small machine.
    daemon = cast("Callable[[Config, Path], int]", resolve("swanroam.app.daemon:run"))
    try:
        status = daemon(config, file)
    except SwanroamError as error:
        fail(error, 1)
    raise SystemExit(status)
