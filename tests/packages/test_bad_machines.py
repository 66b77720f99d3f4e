"""Where something is missing it is installed all the same, `check` names what, and the unit fails with a sentence.

Without charon the daemon does not fail but waits for it, on a kernel that can run it: tests/lab/test_packages.py.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packages.machine import Machine
from tests.packages.test_lifecycle import start

END = "`swanroam check` says what this machine lacks"


def lacking(machine: Machine) -> list[dict[str, str]]:
    """What `check` calls required and missing."""
    checked = machine.attempt("swanroam", "check", "--json")
    report = json.loads(checked.stdout)
    found: list[dict[str, str]] = [one for one in report["checks"] if not one["ok"] and one["level"] == "required"]
    assert checked.returncode == (1 if found else 0)
    assert all(one["remedy"] for one in found)
    return found


def sentence(machine: Machine) -> str:
    """The only thing that the daemon says, however often systemd tries."""
    unit = machine.unit("swanroam")
    assert (unit["ExecMainStatus"], unit["Result"]) == ("1", "exit-code")
    (said,) = set(machine.journal("swanroam"))
    assert said.startswith("swanroam: ")
    return said


def test_without_cap_net_admin_the_unit_fails_with_a_sentence(boot: Callable[..., Machine], package: Path) -> None:
    machine = boot(capabilities=False)
    machine.install(package)
    start(machine, role="gateway")
    said = sentence(machine)
    assert "EPERM" in said
    assert "CAP_NET_ADMIN not effective" in said
    assert said.endswith(END)
    assert {"CAP_NET_ADMIN", "CAP_NET_RAW"} <= {one["name"] for one in lacking(machine)}


@pytest.mark.parametrize("role", ["gateway", "terminal"])
def test_on_a_kernel_without_a_part_that_it_needs_the_unit_fails_with_the_name_of_it(
    installed: Machine, role: str
) -> None:
    start(installed, role=role)
    parts = [one for one in lacking(installed) if one["name"].startswith("kernel: ")]
    if not parts:
        pytest.skip("this kernel has all that is needed")
    said = sentence(installed)
    for part in parts:
        assert f"{part['name']} {part['found']}" in said
        assert "use a kernel that has it" in part["remedy"]
    assert said.endswith(END)


def test_without_strongswan_it_is_installed_and_check_says_what_to_install(machine: Machine, package: Path) -> None:
    machine.run("dpkg", "--purge", "--force-depends", "charon-systemd", "strongswan-swanctl")
    machine.path("/run/swanroam.deb").write_bytes(package.read_bytes())
    said = machine.run("dpkg", "--install", "--force-depends", "/run/swanroam.deb")
    assert "swanroam depends on strongswan-swanctl" in said
    start(machine)
    (one,) = (one for one in lacking(machine) if one["name"] == "strongSwan")
    assert "install strongSwan (charon-systemd and strongswan-swanctl)" in one["remedy"]
    assert "Traceback" not in "\n".join(machine.journal("swanroam"))


def test_without_a_running_charon_check_says_that_it_is_to_be_started(installed: Machine) -> None:
    installed.write("/etc/swanroam/swanroam.toml", 'role = "terminal"\n')
    assert "strongSwan" not in {one["name"] for one in lacking(installed)}
    installed.run("systemctl", "stop", "strongswan")
    (one,) = (one for one in lacking(installed) if one["name"] == "strongSwan")
    assert one["found"] == "charon is not running: nobody answers on /run/charon.vici"
    assert one["remedy"].endswith("and start it")
