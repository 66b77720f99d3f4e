"""The command line: what it prints and how it ends."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from swanroam import __version__
from swanroam.app.cli import COMMANDS, main
from swanroam.app.control import ControlServer
from swanroam.app.status import Status

DEADLINE_S = 60.0
PLUGIN = Path(__file__).parents[2] / "plugin"
STATUS: Status = {
    "role": "gateway",
    "charon": {"version": "5.9.8", "connected": True},
    "tunnels": [
        {
            "name": "home",
            "inner": ["10.3.0.1"],
            "local": {"address": "203.0.113.1", "port": 500},
            "remote": {"address": "198.51.100.9", "port": 500},
            "encap": False,
            "mobike": None,
            "ike_version": 2,
            "nat": "none",
            "capability": "negotiated",
            "children": [],
            "moves": 0,
            "last_move": None,
            "rejected": {},
        }
    ],
    "rejected": {},
    "left_alone": [],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "swanroam.toml"
    made.write_text(f'role = "gateway"\ncontrol_socket = "{tmp_path}/control.sock"\nvici = "{tmp_path}/vici"\n')
    return made


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="swanroam")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def call_with_daemon(file: Path, answer: Mapping[str, object], *arguments: str) -> Result:
    async def run() -> Result:
        async with ControlServer(file.parent / "control.sock", {"status": lambda: answer}):
            return await asyncio.to_thread(call, *arguments, "--config", file)

    return asyncio.run(run())


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PLUGIN)},
    )


def test_status_json_is_what_the_daemon_answers(file: Path) -> None:
    result = call_with_daemon(file, STATUS, "status", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == STATUS


def test_status_for_people_names_the_tunnels(file: Path) -> None:
    result = call_with_daemon(file, STATUS, "status")
    assert result.exit_code == 0
    assert "home" in result.stdout
    assert "198.51.100.9" in result.stdout


@pytest.mark.parametrize(
    "answer", [{"role": "gateway"}, {**STATUS, "tunnels": [{}]}, {**STATUS, "tunnels": 3}, {**STATUS, "role": None}]
)
def test_a_daemon_of_another_version_is_a_sentence(file: Path, answer: Mapping[str, object]) -> None:
    result = call_with_daemon(file, answer, "status")
    assert result.exit_code == 1
    assert "of another version" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_status_without_a_daemon_is_a_sentence_and_status_1(file: Path) -> None:
    result = call("status", "--config", file)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"swanroam: swanroam is not running: no daemon at {file.parent}/control.sock\n"


@pytest.mark.parametrize("command", ["run", "status"])
def test_a_bad_configuration_is_one_line_and_status_2(file: Path, command: str) -> None:
    file.write_text('role = "gatway"\nport = 0\n')
    result = call(command, "--config", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"swanroam: {file}: role: ")
    assert "port: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_configuration_is_one_line_and_status_2_in_a_process_of_its_own(tmp_path: Path) -> None:
    ended = python("-m", "swanroam", "run", "--config", tmp_path / "none.toml")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == f"swanroam: {tmp_path}/none.toml: cannot be read: No such file or directory\n"


def test_a_name_with_control_characters_stays_on_one_line(tmp_path: Path) -> None:
    result = call("run", "--config", tmp_path / "a\nb\x1b[2J")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("arguments", [["explode"], ["run", "--fast"], ["status", "extra"], ["--nonsense"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Usage: swanroam" in result.stderr


def test_the_version_is_that_of_the_package() -> None:
    ended = python("-m", "swanroam", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"swanroam, version {__version__}\n")


def test_the_help_names_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in result.stdout
        assert line in result.stdout
        assert call(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("swanroam.app.cli", ("rich", "asyncio", "sqlite3", "pyroute2", "vici")),
        ("swanroam.app.cli_run", ("rich", "sqlite3", "pyroute2", "vici")),
        ("swanroam.app.cli_status", ("pyroute2", "vici", "sqlite3")),
        ("swanroam.app.cli_check", ("pyroute2", "vici", "rich", "cryptography")),
    ],
)
def test_a_command_loads_no_library_that_it_does_not_need(module: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    ended = python("-c", program)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr


def test_the_daemon_loads_no_table_printer() -> None:
    ended = python("-c", "import sys, swanroam.app.daemon; print('rich' in sys.modules)")
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr


def test_a_missing_package_is_a_sentence(file: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['vici'] = None\n"  # as if it were not installed
        "from swanroam.app.cli import main\n"
        f"main(['run', '--config', {str(file)!r}], prog_name='swanroam')\n"
    )
    ended = python("-c", program)
    assert ended.returncode == 1
    assert ended.stderr.startswith("swanroam: cannot start: ")
    assert "vici" in ended.stderr
    assert "`swanroam check` says what is missing" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_check_works_without_a_configuration_and_names_that_too(tmp_path: Path) -> None:
    result = call("check", "--json", "--config", tmp_path / "none.toml")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    assert (report["role"], report["ok"]) == (None, False)
    assert report["checks"][0]["name"] == "configuration"
    assert "No such file" in report["checks"][0]["found"]


def test_check_says_what_is_missing_and_what_to_do(file: Path) -> None:
    result = call("check", "--json", "--config", file)
    assert result.exit_code == 1  # there is no charon at that vici socket
    report = json.loads(result.stdout)
    assert (report["role"], report["ok"]) == ("gateway", False)
    for check in report["checks"]:
        assert check.keys() == {"name", "ok", "level", "found", "remedy"}
        assert bool(check["remedy"]) is not check["ok"]
    strongswan = next(check for check in report["checks"] if check["name"] == "strongSwan")
    assert strongswan["found"] == f"no vici socket at {file.parent}/vici"
    people = call("check", "--config", file)
    assert people.exit_code == 1
    assert f"no vici socket at {file.parent}/vici" in people.stdout
    assert "-> install strongSwan" in people.stdout
