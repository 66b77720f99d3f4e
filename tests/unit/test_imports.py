"""Imports go one way: model <- wire, core <- kernel, charon <- app; and what decides does no I/O."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugin"
HOOKS = ROOT / "hooks"

LAYERS = {
    "swanroam": set(),
    "swanroam.errors": set(),
    "swanroam.model": {"swanroam.errors"},
    "swanroam.wire": {"swanroam.errors", "swanroam.model"},
    "swanroam.core": {"swanroam.errors", "swanroam.model"},
    "swanroam.kernel": {"swanroam.errors", "swanroam.model", "swanroam.wire"},
    "swanroam.charon": {"swanroam.errors", "swanroam.model", "swanroam.wire"},
    "swanroam.hookspecs": {"swanroam.errors", "swanroam.model"},
}
"""What each part may import besides itself; parts that are not named are on top and may import all."""
DECIDING = ("swanroam.model", "swanroam.core", "swanroam.wire")
IMPURE = frozenset(
    [
        "asyncio",
        "concurrent",
        "fcntl",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "pluggy",
        "pyroute2",
        "queue",
        "random",
        "sched",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "uuid",
        "vici",
    ]
)
"""Modules of I/O, clocks, randomness and threads."""
PURE = {
    "socket": {"AF_INET", "AF_INET6", "AF_UNSPEC", "htonl", "htons", "ntohl", "ntohs"},
    "sys": {"byteorder"},
}
"""What may be used of such modules all the same: numbers and byte order of the platform, which do nothing."""
FOR_HOOKS = ("swanroam.hookspecs", "swanroam.model", "swanroam.testing")


def modules(folder: Path) -> dict[str, Path]:
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(file: Path) -> Iterator[str]:
    """Modules named in the imports of a file, wherever in it they are; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def impure(text: str) -> list[str]:
    """Uses of IMPURE modules beyond PURE, and imports under another name, which would hide uses."""
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                roots = [(alias.name, alias.asname) for alias in names if alias.name.partition(".")[0] in IMPURE]
                found += [name for name, other in roots if name not in PURE or other]
            case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] in IMPURE:
                found += [f"{module}.{alias.name}" for alias in names if alias.name not in PURE.get(module, ())]
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in PURE:
                found += [] if attribute in PURE[name] else [f"{name}.{attribute}"]
    members = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    bare = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in members]
    return found + [name for name in bare if name in PURE]


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def part_of(module: str) -> str | None:
    fitting = [part for part in LAYERS if part != "swanroam" and within(module, part)]
    return max(fitting, key=len) if fitting else "swanroam" if module == "swanroam" else None


OURS = modules(PLUGIN)
ALL = OURS | modules(HOOKS)


def test_the_parts_are_all_there() -> None:
    assert {part_of(module) for module in OURS} >= set(LAYERS)
    assert {"swanroam.app.daemon", "swanroam.app.cli", "swanroam_hooks.journal"} <= ALL.keys()


@pytest.mark.parametrize("module", [module for module in OURS if part_of(module)])
def test_a_part_imports_only_itself_and_what_is_below_it(module: str) -> None:
    part = part_of(module)
    assert part is not None
    allowed = {part, *LAYERS[part]} - {"swanroam"}
    upward = [
        name
        for name in imported(OURS[module])
        if within(name, "swanroam") and not any(within(name, below) for below in allowed)
    ]
    assert upward == []


@pytest.mark.parametrize("module", [module for module in OURS if any(within(module, part) for part in DECIDING)])
def test_what_decides_uses_nothing_that_reads_a_clock_draws_randomness_or_does_io(module: str) -> None:
    assert impure(OURS[module].read_text()) == []


@pytest.mark.parametrize("module", sorted(modules(HOOKS)))
def test_shipped_hooks_import_only_what_a_third_party_may(module: str) -> None:
    inner = [name for name in imported(ALL[module]) if within(name, "swanroam")]
    assert [name for name in inner if not any(within(name, part) for part in FOR_HOOKS)] == []


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("import time", ["time"]),
        ("import os.path", ["os.path"]),
        ("def f():\n    from random import choice", ["random.choice"]),
        ("import socket\nx = socket.socket()", ["socket.socket"]),
        ("import socket as s\nx = s.socket()", ["socket"]),
        ("from socket import AF_INET, create_connection", ["socket.create_connection"]),
        ("import sys\nf(sys)", ["sys"]),
        ("import socket, struct\nx = socket.htons(socket.AF_INET)", []),
        ("from sys import byteorder", []),
    ],
)
def test_the_check_sees_what_it_forbids(text: str, uses: list[str]) -> None:
    assert impure(text) == uses


def test_the_check_sees_imports_wherever_they_are(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("import a.b\nfrom swanroam.app import config\ndef f():\n    from c import d\n")
    assert list(imported(file)) == ["a.b", "swanroam.app.config", "c.d"]
    assert IMPURE - {"pyroute2", "vici", "pluggy"} <= sys.stdlib_module_names
