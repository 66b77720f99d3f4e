"""What packaging/build.sh made: the same twice, and clean by the judgement of each distribution's own tools."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from swanroam import __version__
from tests.packages.commands import TOP, output
from tests.packages.conftest import DIST, built
from tests.packages.machine import Machine


def paths(root: Path) -> set[Path]:
    """Every path of a root, but for the files of groups, of which the system's tools keep backups."""
    found = {Path(line) for line in output("find", root, "-print").splitlines()}
    return {path for path in found if path.name.rstrip("-") not in ("group", "gshadow")}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("swanroam*")}


def test_the_same_tree_gives_the_same_files_twice(tmp_path: Path) -> None:
    shown = output("sh", "packaging/build.sh", tmp_path)
    again = hashes(tmp_path)
    assert len(again) == 6
    assert again == hashes(DIST)
    for name, value in again.items():
        assert f"{value}  {name}" in shown


def test_lintian_has_nothing_to_say(package: Path) -> None:
    command = ("lintian", "--allow-root", "--fail-on=error,warning,info,pedantic", "--display-info", "--pedantic")
    assert "swanroam:" not in output(*command, package)


def test_rpmlint_has_nothing_to_say() -> None:
    rpms = sorted(DIST.glob("*.rpm"))
    assert len(rpms) == 2
    said = output("rpmlint", "--config", "packaging/rpm/rpmlint.toml", *rpms, "packaging/rpm/swanroam.spec")
    assert "0 errors, 0 warnings" in said


@pytest.fixture
def changeable(suite: str, tmp_path: Path) -> Iterator[Path]:
    """A root that keeps what is written to it, as long as the test lasts."""
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={TOP / '.roots' / suite},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    output("mount", "-t", "overlay", "-o", layers, "overlay", tmp_path / "root")
    yield tmp_path / "root"
    output("umount", tmp_path / "root")


@pytest.mark.parametrize(("suite", "rpm"), [("bookworm", "el9"), ("trixie", "fc")], indirect=["suite"])
def test_an_rpm_is_installed_started_and_removed_without_a_trace(changeable: Path, tmp_path: Path, rpm: str) -> None:
    """As far as a machine without Fedora tells: dependencies have other names here, the rest is as it is there."""
    before = paths(changeable)
    # --nodeps: the dependencies are there, but by the names that Debian has for them.
    command = ("rpm", "--root", changeable, "--dbpath", "/run/rpm", "--nodeps")
    output(*command, "--install", built(f"swanroam-{{version}}-1.{rpm}.noarch.rpm"))
    with Machine(changeable, tmp_path / "console.log") as machine:
        assert machine.run("swanroam", "--version") == f"swanroam, version {__version__}\n"
        assert machine.run("getent", "group", "swanroam").startswith("swanroam:")
        machine.write("/etc/swanroam/swanroam.toml", 'role = "gatway"\n')
        machine.attempt("systemctl", "start", "swanroam")
        assert machine.unit("swanroam")["ExecMainStatus"] == "2"
        assert "ok      strongSwan" in machine.attempt("swanroam", "check").stdout
    output(*command, "--erase", "swanroam")
    shutil.rmtree(changeable / "run/rpm")
    # Fedora's own packages have that folder.
    assert paths(changeable) ^ before <= {changeable / "usr/share/licenses"}
