"""Tunnels on Debian machines that the package is installed on: systemd runs charon and swanroam as their units say.

The package and the machines are made by `sh tests/run.sh packages`, also as a part of all; the lab alone has none.
"""

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.demo import Timeline, perform
from rich.console import Console

from tests.lab.ends import End
from tests.lab.installed import InstalledSwanroam, install
from tests.lab.stories import survives_a_move
from tests.lab.world import World
from tests.packages.conftest import VARIANTS

TOP = Path(__file__).resolve().parents[2]
PROFILE = TOP / "packaging/apparmor/usr.bin.swanroam"
pytestmark = pytest.mark.skipif(
    not ((TOP / ".roots/bookworm-installed").is_dir() and (VARIANTS / "newer.deb").exists()),
    reason="`sh tests/run.sh packages` makes what is needed",
)


@pytest.fixture(scope="module")
def debians() -> Iterator[World]:
    """A world whose ends are Debian 12 with the package, which agreed that the terminal may roam."""
    with World() as world, install(world, "bookworm", world.terminal, world.gateway):
        world.connect()
        world.roam()
        yield world


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Path]:
    """The package's AppArmor profile; only in the guest: no test confines programs of a kernel in use."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if "SWANROAM_LAB_GUEST" not in os.environ or not enabled.exists() or enabled.read_text().strip() != "Y":
        pytest.skip("the guest is what has AppArmor to try")
    # The guest's root is in a folder, and AppArmor looks at whole paths.
    guest = tmp_path / "usr.bin.swanroam"
    guest.write_text(PROFILE.read_text().replace("profile swanroam", "alias / -> /run/root/,\n\nprofile swanroam", 1))
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache", str(guest)], check=True)
    yield guest
    subprocess.run(["apparmor_parser", "--remove", str(guest)], check=True)


def installed(end: End) -> InstalledSwanroam:
    assert isinstance(end.swanroam, InstalledSwanroam)
    return end.swanroam


def test_the_demo_goes_well_where_the_package_is_installed(debians: World) -> None:
    said = io.StringIO()
    result = perform(debians, Timeline(Console(file=said, width=140)))
    assert result.verdict == "ok", said.getvalue()
    for end in debians.ends:
        unit = installed(end).machine.unit("swanroam")
        assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "0")
        assert "Traceback" not in installed(end).log


def test_an_upgrade_loses_no_packet_and_keeps_the_state(debians: World) -> None:
    terminal = installed(debians.terminal)
    moves = terminal.tunnel(debians.terminal.inner)["moves"]
    assert moves > 0
    with debians.both_ways() as (up, down):
        terminal.machine.install(VARIANTS / "newer.deb")
        assert "8.0.0" in terminal.command("--version")
        terminal.ready()
        debians.agreed(debians.terminal)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert terminal.tunnel(debians.terminal.inner)["moves"] == moves
    survives_a_move(debians)


def test_it_moves_within_its_apparmor_profile(debians: World, profile: Path) -> None:  # noqa: ARG001 -- in force
    for end in debians.ends:
        installed(end).machine.run("systemctl", "restart", "swanroam")
    for end in debians.ends:
        installed(end).ready()
        pid = installed(end).machine.unit("swanroam")["MainPID"]
        label = installed(end).machine.run("cat", f"/proc/{pid}/attr/apparmor/current")
        assert label.strip() == "swanroam (complain)"
    debians.agreed(debians.terminal)
    survives_a_move(debians)


def test_a_purge_loses_no_packet_and_leaves_charon_its_tunnel(debians: World) -> None:
    before = debians.terminal.sa.identity
    with debians.both_ways() as (up, down):
        for end in debians.ends:
            installed(end).machine.run("dpkg", "--purge", "swanroam")
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert debians.terminal.sa.identity == before
    for end in debians.ends:
        machine = installed(end).machine
        assert machine.run("nft", "list", "ruleset").strip() == ""
        assert not machine.path("/var/lib/swanroam").exists()
        assert machine.unit("strongswan")["NRestarts"] == "0"
