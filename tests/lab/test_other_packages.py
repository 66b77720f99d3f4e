"""More of the packages, between Debian 13 and a machine that has Fedora's RPM.

    terminal    Debian 13 with its package
    gateway     Debian 13 with the RPM, whose dependencies are there by Debian's names

Asked for by name, as a part of `sh tests/run.sh packages`.
"""

import io
from collections.abc import Callable, Iterator

import pytest
from examples.demo import Timeline, perform
from rich.console import Console

from tests.lab.conditions import eventually
from tests.lab.installed import at_once, install, installed, is_made, run_single_file
from tests.lab.stories import survives_a_move
from tests.lab.world import World
from tests.packages.conftest import VARIANTS, built

ROOTS = ("trixie-installed", "trixie-rpm")
pytestmark = pytest.mark.skipif(not is_made(*ROOTS), reason="`sh tests/run.sh packages` makes what is needed")


@pytest.fixture(scope="module")
def mixed(make_world: Callable[..., World]) -> Iterator[World]:
    """Both ends agreed that the terminal may roam."""
    world = make_world()
    with install(world, *ROOTS):
        world.connect()
        world.roam()
        yield world


def test_the_demo_goes_well_between_the_two_packages(mixed: World) -> None:
    said = io.StringIO()
    result = perform(mixed, Timeline(Console(file=said, width=140)))
    assert result.verdict == "ok", said.getvalue()
    for end in mixed.ends:
        assert "Traceback" not in installed(end).log


def test_without_charon_it_waits_says_so_and_goes_on_when_charon_is_back(mixed: World) -> None:
    terminal = mixed.terminal
    swanroam = installed(terminal)
    swanroam.machine.run("systemctl", "stop", "strongswan")
    eventually(lambda: "charon is not there" in swanroam.log, "the daemon says what it waits for")
    assert swanroam.running
    assert "charon is not running" in swanroam.machine.attempt("swanroam", "check").stdout
    terminal.charon.start()
    terminal.charon.ready()
    terminal.connect()
    swanroam.ready()
    mixed.agreed(terminal)
    survives_a_move(mixed)
    assert swanroam.machine.unit("swanroam")["NRestarts"] == "0"


def test_an_upgrade_of_the_rpm_loses_no_packet(mixed: World) -> None:
    gateway = installed(mixed.gateway)
    package, pid = built("swanroam-{version}-1.fc.noarch.rpm"), gateway.pid
    gateway.machine.path("/run/swanroam.rpm").write_bytes(package.read_bytes())
    with mixed.both_ways(interval_ms=20) as (up, down):
        gateway.machine.run("rpm", "--dbpath", "/var/lib/rpm", "--nodeps", "--upgrade", "--force", "/run/swanroam.rpm")
        assert gateway.pid not in (0, pid)
        gateway.ready()
        mixed.agreed(mixed.terminal)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())


def test_a_downgrade_sets_the_state_aside_and_loses_no_packet(mixed: World) -> None:
    terminal = mixed.terminal
    swanroam = installed(terminal)
    before = terminal.sa.identity
    with mixed.both_ways(interval_ms=20) as (up, down):
        for package in (VARIANTS / "newest.deb", built("swanroam_{version}-1_all.deb")):
            swanroam.machine.install(package)
            swanroam.ready()
            mixed.agreed(terminal)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert terminal.sa.identity == before
    assert "a newer version wrote it" in swanroam.log
    assert len([path for path in swanroam.state_dir.iterdir() if not path.name.endswith(("-wal", "-shm"))]) == 3
    survives_a_move(mixed)


def test_both_packages_are_removed_without_losing_a_packet_and_the_single_file_takes_over(mixed: World) -> None:
    terminal, gateway = installed(mixed.terminal), installed(mixed.gateway)
    before = mixed.terminal.sa.identity
    with mixed.both_ways(interval_ms=20) as (up, down):
        terminal.machine.run("dpkg", "--purge", "swanroam")
        gateway.machine.run("rpm", "--dbpath", "/var/lib/rpm", "--erase", "swanroam")
        for swanroam in (terminal, gateway):
            assert swanroam.machine.run("nft", "list", "ruleset").strip() == ""
        at_once(run_single_file, mixed.ends)
        mixed.agreed(mixed.terminal)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    survives_a_move(mixed)
    assert mixed.terminal.sa.identity == before
    for end in mixed.ends:
        assert end.charon.running
        assert "Traceback" not in installed(end).log
