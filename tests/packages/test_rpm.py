"""The RPMs from installation to removal, on Debian machines: dependencies have other names there, the rest is the same.

EL 9's on Debian 12, because both have Python 3.11, Fedora's on Debian 13. Tunnels are part of
tests/lab/test_other_packages.py.
"""

from collections.abc import Callable

import pytest

from swanroam import __version__
from tests.lab.conditions import eventually
from tests.packages.conftest import built
from tests.packages.machine import Machine
from tests.packages.test_lifecycle import BACKUPS, CONFIGURATION, KEPT_BY_OTHERS, STATE, start

Rpm = Callable[..., str]
SETTING = "/etc/strongswan/strongswan.d/swanroam.conf"
FOREVER = "[Service]\nType=simple\nExecStart=\nExecStart=/usr/bin/sleep infinity\n"
"""A drop-in: what is started and stopped by the scripts of the package, on any kernel."""


@pytest.fixture
def rpm(machine: Machine, suite: str) -> Rpm:
    """Runs rpm in the machine, about the package: about its file, with --nodeps, where it is to `install`."""
    file = built(f"swanroam-{{version}}-1.{'el9' if suite == 'bookworm' else 'fc'}.noarch.rpm")
    machine.path("/run/swanroam.rpm").write_bytes(file.read_bytes())

    def run(*command: str, install: bool = True) -> str:
        more = ("--nodeps", "/run/swanroam.rpm") if install else ("swanroam",)
        return machine.run("rpm", "--dbpath", "/run/rpm", *command, *more)

    return run


def test_an_rpm_is_installed_and_waits_for_its_role(machine: Machine, rpm: Rpm) -> None:
    said = rpm("--install")
    assert "warning" not in said
    assert "error" not in said
    assert machine.run("swanroam", "--version") == f"swanroam, version {__version__}\n"
    assert machine.run("getent", "group", "swanroam").startswith("swanroam:")
    machine.attempt("systemctl", "start", "swanroam")
    unit = machine.unit("swanroam")
    assert (unit["ActiveState"], unit["ConditionResult"]) == ("inactive", "no")
    assert machine.run("stat", "--format=%a %U %G", STATE) == "700 root root\n"
    for module in ("swanroam", "swanroam_hooks", "vici", "pyroute2"):
        assert "ModuleNotFoundError" in machine.attempt("python3", "-c", f"import {module}").stdout
    file = machine.run("systemctl", "show", "--property=FragmentPath", "--value", "swanroam").strip()
    assert machine.run("systemd-analyze", "verify", "--man=no", file) == ""


def test_an_rpm_starts_its_daemon_as_far_as_the_kernel_lets_it(machine: Machine, rpm: Rpm) -> None:
    rpm("--install")
    start(machine, role="gatway")
    assert machine.unit("swanroam")["ExecMainStatus"] == "2"
    (line,) = machine.journal("swanroam")
    assert line.startswith(f"swanroam: {CONFIGURATION}: role: ")
    checked = machine.attempt("swanroam", "check").stdout
    assert "ok      strongSwan" in checked
    for library in ("vici", "pyroute2", "cryptography", "pluggy", "click", "rich"):
        assert f"ok      Python package {library}" in checked
    start(machine, role="gateway")
    if "MISSING kernel" in checked:
        assert machine.unit("swanroam")["ExecMainStatus"] == "1"
        assert "`swanroam check` says what this machine lacks" in machine.journal("swanroam")[-1]
    else:
        assert machine.unit("swanroam")["ActiveState"] == "active"


def test_an_rpm_restarts_what_runs_when_it_is_upgraded_and_leaves_no_trace_when_it_is_removed(
    machine: Machine, rpm: Rpm
) -> None:
    before = machine.files(*KEPT_BY_OTHERS)
    rpm("--install")
    machine.write("/etc/systemd/system/swanroam.service.d/test.conf", FOREVER)
    machine.run("systemctl", "daemon-reload")
    start(machine)
    pid = machine.unit("swanroam")["MainPID"]
    assert machine.unit("swanroam")["ActiveState"] == "active"
    machine.run("mkdir", "--parents", "/etc/strongswan/strongswan.d")
    machine.run("ln", "-s", "/usr/share/swanroam/strongswan.d/terminal.conf", SETTING)

    rpm("--upgrade", "--force")
    eventually(lambda: machine.unit("swanroam")["MainPID"] not in (pid, "0"), "another process runs")
    assert machine.attempt("test", "-L", SETTING).returncode == 0

    rpm("--erase", install=False)
    assert machine.unit("swanroam")["ActiveState"] == "inactive"
    assert machine.attempt("test", "-L", SETTING).returncode == 1
    machine.run("rm", "-r", "/etc/systemd/system/swanroam.service.d", "/etc/strongswan")
    # The operator's configuration and the state are his; Fedora's own packages have the folder of licences.
    kept = {"/etc/swanroam", CONFIGURATION, STATE, "/usr/share/licenses"}
    assert machine.files(*KEPT_BY_OTHERS) ^ before <= BACKUPS | kept
    assert machine.unit("strongswan")["ActiveState"] == "active"
