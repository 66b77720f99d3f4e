"""Wheel and single file on every Python that is supported, as far as this machine has it."""

import json
import subprocess
from pathlib import Path

import pytest

from swanroam import __version__
from tests.packages.commands import TOP, output
from tests.packages.conftest import built
from tests.packages.pythons import VERSIONS, interpreter

VERSION = f"swanroam, version {__version__}\n"
EVERYTHING = ("swanroam.app.daemon", "swanroam.app.cli_status", "swanroam.app.cli_check", "swanroam_hooks.run_parts")


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Path:
    """A Python of each version."""
    return interpreter(request.param)


@pytest.fixture
def wheel() -> Path:
    """The wheel."""
    return built("swanroam-{version}-py3-none-any.whl")


def options() -> list[str]:
    """Options of pip: what was downloaded for the other packages is not downloaded again."""
    folders = sorted((TOP / "build" / "packages").glob("wheels-*/*/"))
    assert folders
    return ["--no-compile", "--prefer-binary", *(f"--find-links={folder}" for folder in folders)]


def works(*command: str | Path, folder: Path) -> None:
    """The commands that need no tunnel do what they should."""
    assert output(*command, "--version") == VERSION
    (folder / "swanroam.toml").write_text('role = "gatway"\n')
    wrong = subprocess.run(
        [*command, "run", "--config", folder / "swanroam.toml"], capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith(f"swanroam: {folder}/swanroam.toml: role: ")
    (folder / "swanroam.toml").write_text('role = "terminal"\n')
    check = [*command, "check", "--json", "--config", folder / "swanroam.toml"]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode in (0, 1), checked.stdout
    assert json.loads(checked.stdout)
    assert checked.stderr == ""


def test_pip_installs_the_wheel_typed_with_its_licence_and_all_of_it_can_be_imported(
    python: Path, wheel: Path, tmp_path: Path
) -> None:
    output(python, "-m", "venv", "--without-pip", tmp_path / "venv")
    inside = tmp_path / "venv/bin"
    # One pip for all of them, which runs itself with the Python that it is told of.
    pip = (TOP / "build/tools/bin/pip", "--python", inside / "python", "--disable-pip-version-check")
    output(*pip, "install", *options(), wheel)
    works(inside / "swanroam", folder=tmp_path)
    program = f"import importlib\nfor name in {EVERYTHING!r}: importlib.import_module(name)"
    assert output(inside / "python", "-W", "error", "-c", program) == ""
    (site,) = (tmp_path / "venv/lib").glob("python3*/site-packages")
    assert (site / "swanroam/py.typed").exists()
    assert (site / f"swanroam-{__version__}.dist-info/licenses/LICENSE").exists()


def test_pipx_installs_the_wheel(
    python: Path, wheel: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # pipx keeps a pip for all that it installs, which is downloaded once.
    home = tmp_path_factory.getbasetemp() / "pipx"
    where = {"PIPX_HOME": str(home), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    more = ("--force", "--python", python, "--pip-args", " ".join(options()))
    output("pipx", "install", *more, wheel, environment=where)
    works(tmp_path / "bin/swanroam", folder=tmp_path)


def test_the_single_file_runs_alone(python: Path, tmp_path: Path) -> None:
    # -I -S: no library but Python's own is in the search path.
    works(python, "-I", "-S", built("swanroam-{version}-x86_64.pyz"), folder=tmp_path)
