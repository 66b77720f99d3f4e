"""What was built, and Debian machines to live with it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from swanroam import __version__
from tests.packages.commands import TOP
from tests.packages.machine import Machine

DIST = TOP / "dist"
VARIANTS = TOP / "build" / "packages" / "variants"
LOGS = TOP / "build" / "packages" / "logs"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there are no machines: say so once, clearly, instead of failing in every story."""
    if os.geteuid() != 0 and any(Path(__file__).parent in item.path.parents for item in items):
        pytest.exit("the stories of the packages need root: sudo sh tests/run.sh packages", returncode=4)


def built(pattern: str) -> Path:
    """The one file of this version that was built and fits."""
    (found,) = DIST.glob(pattern.format(version=__version__))
    return found


@pytest.fixture(scope="session")
def package() -> Path:
    """The Debian package."""
    return built("swanroam_{version}-1_all.deb")


@pytest.fixture(scope="session")
def newer() -> Path:
    """The package in a higher version."""
    return VARIANTS / "newer.deb"


@pytest.fixture(scope="session")
def newest() -> Path:
    """The package in an even higher version, whose state has another format."""
    return VARIANTS / "newest.deb"


@pytest.fixture(scope="session", params=["bookworm", "trixie"])
def suite(request: pytest.FixtureRequest) -> str:
    """Debian 12 and 13."""
    name: str = request.param
    return name


@pytest.fixture
def boot(suite: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Machine]]:
    """Boots machines that are gone after the test."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{request.node.name}.log"
    log.unlink(missing_ok=True)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Machine(TOP / ".roots" / suite, log, **options))


@pytest.fixture
def machine(boot: Callable[..., Machine]) -> Machine:
    """A machine with strongSwan, and without swanroam."""
    return boot()


@pytest.fixture
def installed(machine: Machine, package: Path) -> Machine:
    """A machine on which the package was installed."""
    machine.install(package)
    return machine


@pytest.fixture(scope="session")
def untouched(suite: str, package: Path) -> Iterator[Machine]:
    """A machine on which the package was installed, for stories that only look; without a configuration."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with Machine(TOP / ".roots" / suite, LOGS / f"untouched-{suite}.log", name="untouched") as machine:
        machine.install(package)
        yield machine
