"""The Debian package from installation to purge, with systemd as the first process, on the kernel that runs here.

Where that kernel lacks ESP or the nftables queue the daemon says so and ends: what is told here is what holds on any
kernel. Tunnels are part of tests/lab/test_packages.py.
"""

from pathlib import Path

from swanroam.wire.rtnetlink import RTPROT_SWANROAM
from tests.lab.conditions import eventually
from tests.packages.conftest import built
from tests.packages.machine import Machine

CONFIGURATION = "/etc/swanroam/swanroam.toml"
SETTING = "/etc/strongswan.d/swanroam.conf"
STATE = "/var/lib/swanroam"
KEPT_BY_OTHERS = (
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",  # noqa: S108 -- only left out
    "/var/log",
    "/var/cache",
    "/var/lib/dpkg",
    "/var/lib/systemd",
)
BACKUPS = frozenset({"/etc/group-", "/etc/gshadow", "/etc/gshadow-"})
"""What the system's own tools leave behind when groups change."""


def start(machine: Machine, role: str = "terminal") -> None:
    """Configure and start, and wait until it has started or failed."""
    machine.write(CONFIGURATION, f'role = "{role}"\n')
    # A unit that nothing refers to is not loaded, and has not failed.
    machine.attempt("systemctl", "reset-failed", "swanroam")
    machine.attempt("systemctl", "restart", "swanroam")


def wrote(machine: Machine, text: str) -> str:
    """The line of the journal that has a text."""

    def line() -> str:
        return next((line for line in machine.journal("swanroam") if text in line), "")

    return eventually(line, f"the journal has {text!r}")


def states(machine: Machine) -> set[str]:
    """The files of the daemon's state, without those that sqlite has while it is open."""
    return {path.name for path in machine.path(STATE).iterdir() if not path.name.endswith(("-wal", "-shm"))}


def test_it_is_installed_without_a_role_and_waits_for_one(untouched: Machine) -> None:
    unit = untouched.unit("swanroam")
    assert (unit["ActiveState"], unit["ConditionResult"], unit["UnitFileState"]) == ("inactive", "no", "enabled")
    assert untouched.run("systemctl", "is-system-running").strip() == "running"
    assert untouched.run("swanroam", "--version").startswith("swanroam, version ")


def test_nothing_of_it_is_in_the_search_path_of_other_programs(untouched: Machine) -> None:
    for module in ("swanroam", "swanroam_hooks", "vici", "pyroute2"):
        assert "ModuleNotFoundError" in untouched.attempt("python3", "-c", f"import {module}").stdout


def test_the_unit_is_as_systemd_wants_it(untouched: Machine) -> None:
    """The exposure was 2.3 when this was written; it is not to grow unnoticed."""
    file = untouched.run("systemctl", "show", "--property=FragmentPath", "--value", "swanroam").strip()
    assert untouched.run("systemd-analyze", "verify", "--man=no", file) == ""
    untouched.run("systemd-analyze", "security", "--threshold=25", "swanroam.service")


def test_the_control_socket_is_for_the_group_that_the_package_makes(untouched: Machine) -> None:
    assert untouched.run("getent", "group", "swanroam").startswith("swanroam:")
    assert untouched.run("stat", "--format=%a %U %G", STATE, "/run/swanroam").split("\n")[:2] == [
        "700 root root",
        "755 root root",
    ]


def test_a_wrong_configuration_is_one_line_and_no_second_try(installed: Machine) -> None:
    start(installed, role="gatway")
    unit = installed.unit("swanroam")
    assert (unit["ActiveState"], unit["ExecMainStatus"], unit["NRestarts"]) == ("failed", "2", "0")
    (line,) = installed.journal("swanroam")
    assert line.startswith(f"swanroam: {CONFIGURATION}: role: ")


def test_the_setting_for_terminals_is_linked_and_goes_with_the_package(installed: Machine) -> None:
    installed.write(CONFIGURATION, 'role = "terminal"\n')
    assert "advice  roam_events" in installed.attempt("swanroam", "check").stdout
    installed.run("ln", "-s", "/usr/share/swanroam/strongswan.d/terminal.conf", SETTING)
    installed.run("systemctl", "restart", "strongswan")
    assert "ok      roam_events" in installed.attempt("swanroam", "check").stdout
    installed.run("dpkg", "--remove", "swanroam")
    assert installed.attempt("test", "-L", SETTING).returncode == 1
    installed.run("systemctl", "restart", "strongswan")


def test_an_upgrade_keeps_the_state_and_a_downgrade_sets_it_aside(
    installed: Machine, package: Path, newer: Path, newest: Path
) -> None:
    start(installed)
    eventually(lambda: states(installed) == {"swanroam.sqlite3"}, "the daemon wrote its state")
    inode = installed.path(f"{STATE}/swanroam.sqlite3").stat().st_ino

    installed.install(newer)
    assert "8.0.0" in installed.run("swanroam", "--version")
    start(installed)
    assert states(installed) == {"swanroam.sqlite3"}
    assert installed.path(f"{STATE}/swanroam.sqlite3").stat().st_ino == inode

    installed.install(newest)
    start(installed)
    eventually(lambda: len(states(installed)) == 2, "the state of another format is set aside")
    assert "set aside" in wrote(installed, "cannot be trusted")

    installed.install(package)
    start(installed)
    eventually(lambda: len(states(installed)) == 3, "the state of a newer version is set aside")
    assert "a newer version wrote it" in wrote(installed, "a newer version")
    assert installed.path(CONFIGURATION).exists()


def test_removed_it_keeps_what_the_operator_wrote_and_purged_nothing(machine: Machine, package: Path) -> None:
    before = machine.files(*KEPT_BY_OTHERS)
    machine.install(package)
    start(machine)
    machine.run("dpkg", "--remove", "swanroam")
    assert machine.path(CONFIGURATION).exists()
    assert machine.path(STATE).exists()
    assert machine.attempt("nft", "list", "table", "inet", "swanroam").returncode == 1
    machine.run("dpkg", "--purge", "swanroam")
    assert machine.files(*KEPT_BY_OTHERS) ^ before <= BACKUPS
    assert machine.attempt("getent", "group", "swanroam").returncode == 2
    assert not machine.path("/run/swanroam").exists()
    assert machine.unit("strongswan")["ActiveState"] == "active"


def test_what_a_killed_daemon_left_in_the_network_goes_with_the_package(installed: Machine) -> None:
    def shown() -> str:
        commands = ("nft list ruleset", "ip -4 address show dev lo", "ip route show table local")
        return "".join(installed.run(*command.split()) for command in commands)

    before = shown()
    for command in (
        "nft add table inet swanroam",
        "ip address add 192.0.2.7/32 dev lo label lo:swanroam",
        f"ip route append local 192.0.2.8 dev lo table local proto {RTPROT_SWANROAM}",
    ):
        installed.run(*command.split())
    assert shown() != before
    installed.run("dpkg", "--remove", "swanroam")
    assert shown() == before


def test_the_single_file_needs_no_library_of_the_machine(machine: Machine) -> None:
    machine.path("/run/swanroam.pyz").write_bytes(built("swanroam-{version}-x86_64.pyz").read_bytes())
    # -S: not even the distribution's libraries are in the search path.
    alone = ("python3", "-I", "-S", "/run/swanroam.pyz")
    assert machine.run(*alone, "--version").startswith("swanroam, version ")
    checked = machine.attempt(*alone, "check").stdout
    assert "ok      strongSwan" in checked
    assert "ok      Python package cryptography" in checked
    machine.write("/run/swanroam.toml", 'role = "gatway"\n')
    assert machine.attempt(*alone, "run", "--config", "/run/swanroam.toml").returncode == 2
