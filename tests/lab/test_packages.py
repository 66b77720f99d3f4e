"""Tunnels between Debian machines that the package is installed on: systemd runs charon and swanroam by their units.

    terminal    Debian 12: strongSwan 5.9.8, Python 3.11
    gateway     Debian 13: strongSwan 6.0.1, Python 3.13

Both daemons are within their AppArmor profile all the time. The package and the machines are made by `sh tests/run.sh
packages`, also as a part of all; the lab alone has none.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from examples.demo import Timeline, perform
from rich.console import Console

from tests.lab.apparmor import AppArmor
from tests.lab.conditions import eventually
from tests.lab.installed import at_once, install, installed, is_made, run_single_file
from tests.lab.stories import survives_a_move
from tests.lab.world import World
from tests.packages.conftest import VARIANTS

ROOTS = ("bookworm-installed", "trixie-installed")
HOOK = """#!/bin/sh
echo "a hook was told: $SWANROAM_EVENT" >&2
"""
pytestmark = pytest.mark.skipif(not is_made(*ROOTS), reason="`sh tests/run.sh packages` makes what is needed")


@pytest.fixture(scope="module")
def apparmor() -> Iterator[AppArmor | None]:
    """The package's profile, in force; None where no guest is: no test confines programs of a kernel in use."""
    with ExitStack() as stack:
        usable = "SWANROAM_LAB_GUEST" in os.environ and AppArmor.is_there()
        yield stack.enter_context(AppArmor()) if usable else None


@pytest.fixture(scope="module")
def debians(make_world: Callable[..., World], apparmor: AppArmor | None) -> Iterator[World]:  # noqa: ARG001 -- in force
    """Both ends agreed that the terminal may roam."""
    world = make_world()
    with install(world, *ROOTS) as machines:
        for machine in machines:
            machine.write("/etc/swanroam/hooks.d/note", HOOK)
            machine.path("/etc/swanroam/hooks.d/note").chmod(0o755)
        world.connect()
        world.roam()
        yield world


def test_the_demo_goes_well_where_the_package_is_installed(debians: World) -> None:
    assert debians.terminal.charon.version == "5.9.8"
    assert debians.gateway.charon.version == "6.0.1"
    said = io.StringIO()
    result = perform(debians, Timeline(Console(file=said, width=140)))
    assert result.verdict == "ok", said.getvalue()
    for end in debians.ends:
        unit = installed(end).machine.unit("swanroam")
        assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "0")
        assert "Traceback" not in installed(end).log


def test_all_that_the_daemon_does_is_within_its_apparmor_profile(debians: World, apparmor: AppArmor | None) -> None:
    if apparmor is None:
        pytest.skip("the guest is what has AppArmor to try")
    for end in debians.ends:
        swanroam = installed(end)
        assert (
            swanroam.machine.run("cat", f"/proc/{swanroam.pid}/attr/apparmor/current").strip() == "swanroam (enforce)"
        )
        assert "a hook was told: moved" in swanroam.log
        swanroam.machine.run("systemctl", "reload", "swanroam")
        eventually(lambda swanroam=swanroam: "configuration reloaded" in swanroam.log, "the reload")  # type: ignore[misc]
    assert apparmor.denied() == []
    # It can deny: what the profile does not name is not to be had.
    assert "Permission denied" in apparmor.attempt("/usr/bin/cat", "/etc/shadow")
    assert ["/etc/shadow" in line for line in apparmor.denied()] == [True]


def test_an_upgrade_loses_no_packet_and_keeps_the_state(debians: World) -> None:
    terminal = debians.terminal
    swanroam = installed(terminal)
    moves, before = swanroam.tunnel(terminal.inner)["moves"], terminal.sa.identity
    assert moves > 0
    with debians.both_ways(interval_ms=20) as (up, down):
        swanroam.machine.install(VARIANTS / "newer.deb")
        assert "8.0.0" in swanroam.command("--version")
        swanroam.ready()
        debians.agreed(terminal)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert terminal.sa.identity == before
    assert swanroam.tunnel(terminal.inner)["moves"] == moves
    survives_a_move(debians)


def test_a_purge_loses_no_packet_and_leaves_charon_its_tunnel(debians: World, apparmor: AppArmor | None) -> None:
    if apparmor is not None:
        assert [line for line in apparmor.denied() if "/etc/shadow" not in line] == []
    before = debians.terminal.sa.identity
    with debians.both_ways(interval_ms=20) as (up, down):
        at_once(lambda swanroam: swanroam.machine.run("dpkg", "--purge", "swanroam"), debians.ends)
        up.flows(packets=20)
        down.flows(packets=20)
    assert (up.outcome().lost, down.outcome().lost) == ((), ())
    assert debians.terminal.sa.identity == before
    for end in debians.ends:
        machine = installed(end).machine
        assert machine.run("nft", "list", "ruleset").strip() == ""
        assert not machine.path("/var/lib/swanroam").exists()
        assert machine.unit("strongswan")["NRestarts"] == "0"


def test_the_single_file_takes_over_where_nothing_is_but_python_strongswan_and_nft(debians: World) -> None:
    before = debians.terminal.sa.identity
    at_once(run_single_file, debians.ends)
    debians.agreed(debians.terminal)
    survives_a_move(debians)
    assert debians.terminal.sa.identity == before
    for end in debians.ends:
        assert "Traceback" not in installed(end).log
        assert installed(end).stop() == 0
        assert installed(end).machine.run("nft", "list", "ruleset").strip() == ""
