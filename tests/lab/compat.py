"""The table of what holds where: `python -m tests.lab.compat RESULTS.xml...`, from what pytest wrote for each column.

A combination is of a Debian, a kernel and a Python, and its file is named after it. The table goes to compat.md and
compat.json beside the first file, and the former to standard output, too.
"""

import json
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Column", "read", "table"]

OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What was seen on a combination."""

    combination: str
    day: str
    versions: dict[str, str]
    """As the programs and the kernel themselves say."""
    modules: dict[str, dict[str, int]]
    """How many stories of each module "passed", "failed" or were "skipped"."""
    failed: dict[str, list[str]] = field(default_factory=dict)
    """The stories that failed, by module."""

    def total(self) -> Counter[str]:
        """Over all modules."""
        return sum((Counter(counts) for counts in self.modules.values()), Counter())


def read(path: Path) -> Column:
    """What pytest wrote with --junitxml."""
    suite = ET.parse(path).getroot().find("testsuite")  # noqa: S314 -- written by our own pytest
    assert suite is not None
    modules: dict[str, Counter[str]] = {}
    failed: dict[str, list[str]] = {}
    for case in suite.iter("testcase"):
        # tests.lab.test_x, or tests.lab.test_x.TestY
        module = next(part for part in case.attrib["classname"].split(".") if part.startswith("test_"))
        name = case.attrib["name"]
        outcomes = {OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES}
        # Of a story that failed and whose world could not be taken down there are two entries.
        outcome = min(outcomes, default="passed")
        if outcome == "failed":
            if name in failed.setdefault(module, []):
                continue
            failed[module].append(name)
        modules.setdefault(module, Counter())[outcome] += 1
    return Column(
        combination=path.stem,
        day=suite.attrib["timestamp"][:10],
        versions={entry.attrib["name"]: entry.attrib["value"] for entry in suite.iter("property")},
        modules={module: dict(counts) for module, counts in sorted(modules.items())},
        failed=failed,
    )


def table(columns: Sequence[Column]) -> str:
    """A row for each version and module, a column for each combination, and below that what failed; Markdown."""
    versions = dict.fromkeys(name for column in columns for name in column.versions)
    modules = sorted({module for column in columns for module in column.modules})
    lines = [
        _row("", (column.combination for column in columns)),
        _row("---", ("---" for _ in columns)),
        *(_row(name, (column.versions.get(name, "") for column in columns)) for name in versions),
        _row("seen on", (column.day for column in columns)),
        *(_row(f"`{name}`", (_counts(column.modules.get(name, {})) for column in columns)) for name in modules),
        _row("all", (_counts(column.total()) for column in columns)),
    ]
    failed = [
        f"- {column.combination}: `{module}::{name}`"
        for column in columns
        for module, names in column.failed.items()
        for name in names
    ]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])]) + "\n"


def _row(title: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([title, *cells])} |"


def _counts(counts: dict[str, int]) -> str:
    """`12`, or `10, 1 failed, 1 skipped`; nothing was told here: `-`."""
    words = [f"{counts[name]} {name}" for name in ("failed", "skipped") if counts.get(name)]
    return ", ".join([str(counts.get("passed", 0)), *words]) if counts else "-"


def main() -> None:
    """Write the table."""
    files = [Path(argument) for argument in sys.argv[1:]]
    columns = [read(path) for path in files]
    text = table(columns)
    files[0].with_name("compat.md").write_text(text)
    files[0].with_name("compat.json").write_text(json.dumps([asdict(column) for column in columns], indent=2) + "\n")
    print(text, end="")


if __name__ == "__main__":
    main()
