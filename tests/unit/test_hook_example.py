"""examples/hook as pip would install it, found and called by a program of its own; and the hooks that are shipped."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from shutil import copy
from typing import Final

import pytest

from swanroam.hookhost import HookHost, PluginState

ROOT: Final = Path(__file__).parents[2]
EXAMPLE: Final = ROOT / "examples" / "hook"
PROGRAM: Final = """
import json, sys
from swanroam.hookhost import HookHost
from swanroam.testing import make_move
host = HookHost.load(options=json.loads(sys.argv[1]))
host.announce(make_move())
host.close()
print(json.dumps([[s.name, s.state, s.calls, s.problem] for s in host.status]))
"""


def project(file: Path) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    with file.open("rb") as text:
        return tomllib.load(text)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: the example's module and its dist-info, made from its pyproject.toml."""
    metadata = project(EXAMPLE / "pyproject.toml")["project"]
    info = tmp_path / "site" / "swanroam_history-1.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: 1.0.0\n")
    points = [f"{name} = {value}" for name, value in metadata["entry-points"]["swanroam"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[swanroam]", *points, ""]))
    copy(EXAMPLE / "swanroam_history.py", info.parent)
    return info.parent


def run(site: Path, options: dict[str, dict[str, object]]) -> list[list[object]]:
    search = os.pathsep.join(map(str, (site, ROOT / "plugin", ROOT / "hooks")))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(options)],
        env={**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: list[list[object]] = json.loads(done.stdout)
    return found


def test_the_example_is_found_where_it_is_installed_and_writes_moves(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    assert ["history", "active", 2, ""] in run(site, {"history": {"file": str(file)}})
    (entry,) = map(json.loads, file.read_text().splitlines())
    assert entry.pop("at").endswith("+00:00")
    assert entry == {
        "tunnel": "home[10.99.0.1]",
        "from": "192.0.2.10",
        "to": "198.51.100.10",
        "trigger": "address",
        "duration_ms": 12.0,
    }


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"file": "history.jsonl"}, "file: an absolute path is needed, not 'history.jsonl'"),
        ({"path": "/x"}, "path: unknown option; known is file"),
    ],
)
def test_the_example_refuses_wrong_options(site: Path, table: dict[str, object], says: str) -> None:
    assert ["history", "failed", 1, says] in run(site, {"history": table})


def test_the_readme_of_the_example_shows_the_entry_point_as_it_is(site: Path) -> None:
    (point,) = next(iter(Distribution.discover(path=[str(site)]))).entry_points
    text = (EXAMPLE / "README.md").read_text()
    assert f'{point.name} = "{point.value}"' in text
    assert f"[hooks.{point.name}]" in text


def test_the_entry_points_of_swanroam_are_plugins() -> None:
    points = project(ROOT / "pyproject.toml")["project"]["entry-points"]["swanroam"]
    assert sorted(points) == ["journal", "metered", "run-parts"]
    host = HookHost([EntryPoint(name, value, "swanroam") for name, value in points.items()])
    host.close()
    assert not host.errors
    assert {status.name: status.state for status in host.status} == {
        "journal": PluginState.ACTIVE,
        "metered": PluginState.IDLE,
        "run-parts": PluginState.ACTIVE,
    }
