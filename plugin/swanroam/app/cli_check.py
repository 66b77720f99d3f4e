"""`swanroam check`."""

import json
from pathlib import Path

import click

from swanroam.app.check import Check, Level, evaluate, passed, report
from swanroam.app.cli import config_option, json_option
from swanroam.app.config import Config, load
from swanroam.app.logs import escape
from swanroam.app.probes import MachineProbes
from swanroam.errors import ConfigError

__all__ = ["check"]


@click.command()
@json_option
@config_option
def check(file: Path, *, as_json: bool) -> None:
    """Say what this machine lacks for its role, and what to do about it. Nothing is changed.

    Exit status: 0 the role can run, 1 something is missing, 2 the configuration cannot be used.
    """
    config, configuration = _configuration(file)
    role = config.role if config else None
    vici = config.vici if config else Path("/run/charon.vici")
    checks = (configuration, *evaluate(role, MachineProbes(vici)))
    if as_json:
        click.echo(json.dumps(report(role, checks), indent=2))
    else:
        for line in _lines(checks):
            click.echo(line)
    raise SystemExit(2 if config is None else 0 if passed(checks) else 1)


def _configuration(file: Path) -> tuple[Config | None, Check]:
    try:
        config = load(file)
    except ConfigError as error:
        remedy = 'write it; the one line role = "terminal" or role = "gateway" is enough'
        return None, Check(name="configuration", ok=False, found=str(error), remedy=remedy)
    return config, Check(name="configuration", ok=True, found=f"{file}: role {config.role}", remedy="")


def _lines(checks: tuple[Check, ...]) -> list[str]:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        word, colour = ("ok", "green") if check.ok else ("advice", "yellow")
        if not check.ok and check.level is Level.REQUIRED:
            word, colour = "MISSING", "red"
        lines.append(f"{click.style(f'{word:7}', fg=colour)} {check.name:{width}}  {escape(check.found)}")
        if not check.ok:
            lines.append(f"{'':7} {'':{width}}  -> {escape(check.remedy)}")
    return lines
