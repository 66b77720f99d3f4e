"""What packaging/build.sh made: the same twice, and clean by the judgement of each distribution's own tools."""

import hashlib
from pathlib import Path

from tests.packages.commands import output
from tests.packages.conftest import DIST


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
