"""`swanroam status`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import click
from rich.console import Console

from swanroam.app.cli import config_option, fail, json_option
from swanroam.app.config import load
from swanroam.app.control import ask
from swanroam.app.render import render
from swanroam.app.status import Status
from swanroam.errors import ConfigError, ControlError

__all__ = ["status"]


@click.command()
@json_option
@config_option
def status(file: Path, *, as_json: bool) -> None:
    """Show the tunnels of the running daemon: where they run, and when and why they moved."""
    try:
        answer = ask(load(file).control_socket, "status")
    except ConfigError as error:
        fail(error, 2)
    except ControlError as error:
        fail(error, 1)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    console = Console(highlight=False)
    try:
        shown = render(cast("Status", answer), console.width, datetime.now(UTC))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fail(f"the daemon is of another version, its answer cannot be shown ({error!r}); try --json", 1)
    console.print(shown)
