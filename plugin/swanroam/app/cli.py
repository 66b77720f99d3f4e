"""The command `swanroam`: each subcommand is loaded when it is called, so that `run` loads no table printer.

Exit status: 0 done, 1 it could not be done, 2 wrong usage or configuration.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

import click

from swanroam import __version__
from swanroam.app.config import DEFAULT_FILE
from swanroam.app.logs import escape

__all__ = ["config_option", "fail", "json_option", "main", "resolve"]

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "check": ("swanroam.app.cli_check:check", "Say what this machine lacks, and what to do about it."),
    "run": ("swanroam.app.cli_run:run", "Run the daemon in the foreground."),
    "status": ("swanroam.app.cli_status:status", "Show the tunnels of the running daemon."),
}
"""Where each subcommand is, and its line in the help."""

config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    metavar="FILE",
    help="Configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def fail(problem: object, status: int) -> NoReturn:
    """Say in one line what is wrong, and end with an exit status."""
    click.echo(f"swanroam: {escape(str(problem))}", err=True)
    raise SystemExit(status)


def resolve(target: str) -> object:
    """What "module:name" stands for. Ends the program with a sentence when a package that it needs is missing."""
    module, _, name = target.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), name)
    except ImportError as error:
        fail(f"cannot start: {error}; `swanroam check` says what is missing", 1)
    return found


class LazyGroup(click.Group):
    """Subcommands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is the library's
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        command = resolve(COMMANDS[cmd_name][0])
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name][0]} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """The list of the help text, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=LazyGroup)
@click.version_option(__version__, prog_name="swanroam")
def main() -> None:
    """Keep strongSwan tunnels alive, without renegotiation, when the terminal's outer address changes."""
