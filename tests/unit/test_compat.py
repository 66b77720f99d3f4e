"""The table of the lab on each combination of a Debian, a kernel and a Python."""

from pathlib import Path

from tests.lab.compat import read, table

RESULTS = """<testsuites><testsuite name="pytest" timestamp="2026-11-26T23:00:00+00:00">
<properties><property name="strongSwan" value="6.0.1"/><property name="Linux" value="6.12.117"/></properties>
<testcase classname="tests.lab.test_streams" name="test_a_story"/>
<testcase classname="tests.lab.test_streams" name="test_another"><skipped message="no ESP"/></testcase>
<testcase classname="tests.lab.test_nat" name="test_one"><failure message="it broke">...</failure></testcase>
<testcase classname="tests.lab.test_nat" name="test_one"><error message="so did its world">...</error></testcase>
<testcase classname="tests.lab.test_nat.TestBoth" name="test_two[a.b]"/>
</testsuite></testsuites>"""


def test_each_story_counts_once_and_what_failed_is_named(tmp_path: Path) -> None:
    file = tmp_path / "trixie-6.12-3.13.xml"
    file.write_text(RESULTS)
    column = read(file)
    assert column.versions == {"strongSwan": "6.0.1", "Linux": "6.12.117"}
    assert column.modules == {"test_nat": {"failed": 1, "passed": 1}, "test_streams": {"passed": 1, "skipped": 1}}
    assert column.failed == {"test_nat": ["test_one"]}


def test_the_table_has_a_column_for_each_combination_and_says_where_nothing_was_told(tmp_path: Path) -> None:
    other = tmp_path / "bookworm-6.1-3.11.xml"
    other.write_text("\n".join(line for line in RESULTS.splitlines() if "test_nat" not in line))
    file = tmp_path / "trixie-6.12-3.13.xml"
    file.write_text(RESULTS)
    lines = table([read(other), read(file)]).splitlines()
    assert lines[0] == "|  | bookworm-6.1-3.11 | trixie-6.12-3.13 |"
    assert "| `test_nat` | - | 1, 1 failed |" in lines
    assert "| all | 1, 1 skipped | 2, 1 failed, 1 skipped |" in lines
    assert lines[-1] == "- trixie-6.12-3.13: `test_nat::test_one`"
