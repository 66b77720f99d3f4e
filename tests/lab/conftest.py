"""Fixtures of the lab: worlds, shared by the stories of a module, and what is kept of a story that failed."""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import figures, nat_figures, tables
from tests.lab.charon import Charon, TunnelOptions
from tests.lab.claims import is_ours
from tests.lab.hosts import Host
from tests.lab.topology import Topology
from tests.lab.world import World

pytest.register_assert_rewrite("tests.lab.stories", "tests.lab.journeys")

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "lab-logs"
SHOWN_LINES = 60
COMMANDS = (
    "ip -brief address",
    "ip route show table all",
    "ip xfrm state list nokeys",
    "ip xfrm policy",
    "nft list ruleset",
)

living: list[World] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there is no lab: say so once, clearly, instead of failing in every story."""
    if os.geteuid() != 0 and any(Path(__file__).parent in item.path.parents for item in items):
        pytest.exit("the lab needs root: sudo sh tests/run.sh lab", returncode=4)


@pytest.fixture(scope="session", autouse=True)
def _versions(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Note for the table of `compat` what the parts of this system say they are."""
    said = subprocess.run(["swanctl", "--help"], capture_output=True, text=True, check=True).stdout
    record_testsuite_property("strongSwan", said.split()[1])
    record_testsuite_property("Linux", platform.release())
    record_testsuite_property("Python", platform.python_version())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Pass over a story that another guest tells."""
    return None if is_ours(item) else True


@pytest.fixture(scope="module")
def make_world() -> Iterator[Callable[..., World]]:
    """Makes worlds that last as long as the module's stories."""
    with contextlib.ExitStack() as stack:

        def make(
            topology: Topology | None = None,
            tunnel: TunnelOptions | None = None,
            gateway: Callable[[Host, TunnelOptions], Charon] | None = None,
        ) -> World:
            world = stack.enter_context(World(topology, tunnel, gateway))
            living.append(world)
            stack.callback(living.remove, world)
            stack.callback(_no_key_anywhere, world)
            return world

        yield make


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """One terminal, and swanroam on both ends with the capability negotiated; a module may define another."""
    world = make_world()
    world.connect()
    world.roam()
    return world


@pytest.fixture(autouse=True)
def _story(request: pytest.FixtureRequest) -> Iterator[None]:
    """Begin in a world that works, whatever the story before did; end with no traceback in any log of swanroam."""
    if "world" not in request.fixturenames:
        yield
        return
    world: World = request.getfixturevalue("world")
    world.steady()
    _ = world.capture
    before = {end.name: len(end.swanroam.log) for end in world.ends}
    yield
    for end in world.ends:
        written = end.swanroam.log[before[end.name] :]
        assert "Traceback" not in written, f"swanroam on {end.name} logged a traceback:\n{written[-4000:]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep and print the logs of a story that failed, and the state of every host, without keys."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and living and "lab" in item.path.parts:
        folder = LOGS / item.name.replace("/", "_")
        for world in living:
            for log in world.keep_logs(folder):
                lines = log.read_text(errors="replace").splitlines()
                report.sections.append(
                    (f"{log.name} (whole in {folder.relative_to(ROOT)})", "\n".join(lines[-SHOWN_LINES:]))
                )
            for host in world.hosts:
                (folder / f"{host.namespace.name}.state").write_text(_state(host.show))
    return report  # type: ignore[return-value]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures and tables that this run filled; they are left in build/, too."""
    if figures.measured:
        terminalreporter.section("figures")
        terminalreporter.write_line(figures.table(figures.measured))
    if nat_figures.every:
        terminalreporter.section("figures of NATs")
        terminalreporter.write_line(nat_figures.report(ROOT / "build" / "nat-figures.json"))
    for name, rows in (("attacks", tables.ATTACKS), ("faults", tables.FAULTS)):
        if rows:
            terminalreporter.section(name)
            terminalreporter.write_line(tables.keep(name, rows, ROOT / "build"))


def _no_key_anywhere(world: World) -> None:
    """No log, store, capture or other file that the world left holds a key that a kernel of it ever had."""
    world.secrets.note()
    assert world.secrets.keys, "there was no tunnel, so nothing was shown"
    assert not (found := world.secrets.found_in(world.folder)), f"keys are in {found}"


def _state(show: Callable[[str], str]) -> str:
    text = f"monotonic {time.monotonic():.3f}\n"
    for command in COMMANDS:
        try:
            text += f"--- {command}\n{show(command)}"
        except Exception as error:  # noqa: BLE001 -- what cannot be shown must not hide the failure
            text += f"{error}\n"
    return text
