"""The store: what is put is there after a restart, and a bad disk or a bad file stops nobody."""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path as FilePath

import pytest

from swanroam.app.database import APPLICATION_ID, SCHEMA_VERSION, connect
from swanroam.app.store import FILE_NAME, Record, Store
from swanroam.core.tunnel import LastMove
from swanroam.errors import StoreError
from swanroam.model.effects import Trigger
from swanroam.model.events import Reason
from swanroam.model.path import Endpoint, Path
from swanroam.model.tunnel import Capability, TunnelKey

DEADLINE_S = 20.0

OLD = Path(Endpoint(IPv4Address("192.0.2.1"), 500), Endpoint(IPv4Address("198.51.100.1"), 500))
NEW = Path(Endpoint(IPv6Address("2001:db8::1"), 4500), Endpoint(IPv6Address("2001:db8::2"), 4500), encap=True)
HOME = Record(
    key=TunnelKey("home", (IPv4Address("10.0.0.1"), IPv6Address("fd00::1"))),
    capability=Capability.NEGOTIATED,
    highest={0xC0000001: 2**64 - 1, 1: 0},
    moves=3,
    last_move=LastMove(at_s=1.5e9, old=OLD, new=NEW, trigger=Trigger.PACKET, duration_s=0.01, validated=None),
    rejected={Reason.REPLAYED: 7},
    update_sequence=2**63,
)
OFFICE = Record(key=TunnelKey("office"), capability=Capability.NONE)


def reopened(folder: FilePath) -> list[Record]:
    store, records, message = Store.open(folder)
    store.close(DEADLINE_S)
    assert message is None
    return sorted(records, key=lambda record: record.key.name)


def write(folder: FilePath, *records: Record) -> FilePath:
    store, _, _ = Store.open(folder)
    for record in records:
        store.put(record)
    store.close(DEADLINE_S)
    return folder / FILE_NAME


def set_aside(folder: FilePath) -> StoreError:
    """Open a store whose file must be set aside, see that it works, and return the message."""
    before = (folder / FILE_NAME).read_bytes() if (folder / FILE_NAME).is_file() else None
    store, records, message = Store.open(folder)
    store.put(OFFICE)
    store.close(DEADLINE_S)
    assert records == []
    assert message is not None
    assert message.kept is not None
    assert message.kept.parent == folder
    assert before is None or message.kept.read_bytes() == before
    assert str(message.kept) in str(message)
    assert reopened(folder) == [OFFICE]
    return message


@pytest.fixture
def edit(tmp_path: FilePath) -> Callable[[str], None]:
    """Run SQL on the file of a store that holds HOME."""
    file = write(tmp_path, HOME)

    def run(statements: str) -> None:
        with closing(sqlite3.connect(file)) as database:
            database.executescript(statements)

    return run


def test_a_record_is_read_back_as_it_was_put(tmp_path: FilePath) -> None:
    write(tmp_path, HOME, OFFICE)
    assert reopened(tmp_path) == [HOME, OFFICE]


def test_a_new_store_is_empty_and_says_nothing(tmp_path: FilePath) -> None:
    assert reopened(tmp_path / "a" / "b") == []


def test_file_and_folder_are_for_their_owner_only(tmp_path: FilePath) -> None:
    umask = os.umask(0)
    try:
        file = write(tmp_path / "state", HOME)
    finally:
        os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: FilePath) -> None:
    file = write(tmp_path, HOME)
    file.chmod(0o644)
    assert reopened(tmp_path) == [HOME]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_removed_record_is_gone(tmp_path: FilePath) -> None:
    write(tmp_path, HOME, OFFICE)
    store, _, _ = Store.open(tmp_path)
    store.remove(HOME.key)
    store.remove(TunnelKey("never-there"))
    store.close(DEADLINE_S)
    assert reopened(tmp_path) == [OFFICE]


def test_all_is_on_disk_after_a_flush_without_a_close(tmp_path: FilePath) -> None:
    store, _, _ = Store.open(tmp_path)
    store.put(HOME)
    assert store.flush(DEADLINE_S)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes())
    assert reopened(copy) == [HOME]
    store.close(DEADLINE_S)


def test_records_of_one_tunnel_that_come_faster_than_the_disk_replace_each_other(tmp_path: FilePath) -> None:
    started, released, inserts = threading.Event(), threading.Event(), []

    def slow(file: FilePath) -> sqlite3.Connection:
        def trace(statement: str) -> None:
            if statement.startswith("INSERT"):
                inserts.append(statement)
                started.set()
                released.wait(DEADLINE_S)

        connection = connect(file)
        connection.set_trace_callback(trace)
        return connection

    store, _, _ = Store.open(tmp_path, connect=slow)
    store.put(OFFICE)
    assert started.wait(DEADLINE_S)
    for moves in range(100):
        store.put(replace(HOME, moves=moves))
    released.set()
    assert store.flush(DEADLINE_S)
    store.close(DEADLINE_S)
    assert len(inserts) == 2
    assert reopened(tmp_path) == [replace(HOME, moves=99), OFFICE]


def test_a_store_in_use_is_an_error_that_names_it_and_is_left_alone(tmp_path: FilePath) -> None:
    store, _, _ = Store.open(tmp_path)
    with pytest.raises(StoreError, match="in use by another process") as caught:
        Store.open(tmp_path)
    assert caught.value.kept is None
    assert str(tmp_path / FILE_NAME) in str(caught.value)
    store.put(HOME)
    store.close(DEADLINE_S)
    assert reopened(tmp_path) == [HOME]


@pytest.mark.parametrize("garbage", [b"garbage", b"SQLite format 3\0" + b"\xff" * 4096, b"\0" * 100, os.urandom(8192)])
def test_garbage_is_set_aside(tmp_path: FilePath, garbage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(garbage)
    assert "cannot be trusted" in str(set_aside(tmp_path))


def test_a_truncated_file_is_set_aside(tmp_path: FilePath) -> None:
    file = write(tmp_path, HOME)
    os.truncate(file, file.stat().st_size - 1000)
    set_aside(tmp_path)


def test_an_empty_file_is_a_new_store(tmp_path: FilePath) -> None:
    (tmp_path / FILE_NAME).touch()
    assert reopened(tmp_path) == []


def test_a_changed_record_is_set_aside(tmp_path: FilePath) -> None:
    file = write(tmp_path, HOME)
    data = file.read_bytes()
    assert data.count(b'"moves": 3') == 1
    file.write_bytes(data.replace(b'"moves": 3', b'"moves": 4'))
    assert "digest" in set_aside(tmp_path).problem


def test_a_file_of_a_newer_version_is_set_aside(tmp_path: FilePath, edit: Callable[[str], None]) -> None:
    edit(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert f"newer version wrote it (its format is {SCHEMA_VERSION + 1}" in set_aside(tmp_path).problem


def test_a_file_of_another_program_is_set_aside(tmp_path: FilePath, edit: Callable[[str], None]) -> None:
    edit(f"PRAGMA application_id = {APPLICATION_ID + 1}")
    assert "another program" in set_aside(tmp_path).problem


@pytest.mark.parametrize(
    "statements",
    [
        "DROP TABLE tunnel",
        "CREATE TABLE other (a)",
        "CREATE TRIGGER t AFTER DELETE ON tunnel BEGIN DELETE FROM tunnel; END",
        "DROP TABLE tunnel; CREATE VIEW tunnel AS SELECT 1 AS key, 2 AS record, 3 AS digest",
        "PRAGMA user_version = 0",
    ],
)
def test_a_file_with_other_tables_is_set_aside(
    tmp_path: FilePath, edit: Callable[[str], None], statements: str
) -> None:
    edit(statements)
    assert "tables are not those" in set_aside(tmp_path).problem


@pytest.mark.parametrize("change", ["record = '{}'", "key = '[]'", "digest = x'00'"])
def test_a_row_that_this_version_did_not_write_is_set_aside(
    tmp_path: FilePath, edit: Callable[[str], None], change: str
) -> None:
    edit(f"UPDATE tunnel SET {change}")  # noqa: S608 - the changes are those above
    set_aside(tmp_path)


def test_what_is_no_file_is_set_aside(tmp_path: FilePath) -> None:
    (tmp_path / FILE_NAME).mkdir()
    assert "not a regular file" in set_aside(tmp_path).problem


def test_a_second_bad_file_does_not_replace_the_first(tmp_path: FilePath) -> None:
    kept = []
    for content in (b"first bad one", b"second bad one"):
        (tmp_path / FILE_NAME).write_bytes(content)
        kept.append(set_aside(tmp_path).kept)
    assert [file.read_bytes() for file in kept if file] == [b"first bad one", b"second bad one"]


class Disk:
    """Opens databases whose disk is full or read-only while it is told so."""

    def __init__(self) -> None:
        self.trouble: str | None = None

    def connect(self, file: FilePath) -> sqlite3.Connection:
        connection = connect(file)
        if self.trouble is not None:
            connection.execute(self.trouble)
        return connection


TROUBLE = {"full": "PRAGMA max_page_count = 1", "read-only": "PRAGMA query_only = ON"}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_a_disk_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: FilePath, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    disk = Disk()
    disk.trouble = trouble
    store, records, message = Store.open(tmp_path, connect=disk.connect, retry_s=0.001)
    assert records == []
    assert message is not None
    assert message.kept is None
    store.put(HOME)
    assert not store.flush(0.2)
    assert store.failures > 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    disk.trouble = None
    assert store.flush(DEADLINE_S)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    store.close(DEADLINE_S)
    assert reopened(tmp_path) == [HOME]


def test_a_disk_that_fills_up_later_loses_nothing_once_it_has_room(tmp_path: FilePath) -> None:
    write(tmp_path, OFFICE)
    disk = Disk()
    disk.trouble = "PRAGMA max_page_count = 5"
    store, records, message = Store.open(tmp_path, connect=disk.connect, retry_s=0.001)
    assert (records, message) == ([OFFICE], None)
    many = [Record(key=TunnelKey(f"{number}" * 500), capability=Capability.PENDING) for number in range(50)]
    for record in many:
        store.put(record)
    assert not store.flush(0.2)
    assert store.failures
    store.remove(many[0].key)
    disk.trouble = None
    assert store.flush(DEADLINE_S)
    store.close(DEADLINE_S)
    assert {record.key for record in reopened(tmp_path)} == {record.key for record in [OFFICE, *many[1:]]}


def test_what_a_read_only_disk_holds_is_read(tmp_path: FilePath) -> None:
    write(tmp_path, HOME)
    disk = Disk()
    disk.trouble = TROUBLE["read-only"]
    store, records, _ = Store.open(tmp_path, connect=disk.connect)
    store.close(DEADLINE_S)
    assert records == [HOME]


def test_a_folder_that_cannot_be_made_gives_a_store_that_keeps_trying(tmp_path: FilePath) -> None:
    (tmp_path / "file").touch()
    store, records, message = Store.open(tmp_path / "file" / "state", retry_s=0.001)
    assert records == []
    assert message is not None
    store.put(HOME)
    assert not store.flush(0.05)
    (tmp_path / "file").unlink()
    assert store.flush(DEADLINE_S)
    store.close(DEADLINE_S)
    assert reopened(tmp_path / "file" / "state") == [HOME]


def test_a_file_damaged_while_the_disk_was_in_trouble_is_set_aside_and_written_anew(
    tmp_path: FilePath, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    disk.trouble = TROUBLE["read-only"]
    write(tmp_path, OFFICE)
    store, _, _ = Store.open(tmp_path, connect=disk.connect, retry_s=0.001)
    store.put(HOME)
    assert not store.flush(0.1)
    (tmp_path / FILE_NAME).write_bytes(b"garbage")
    disk.trouble = None
    assert store.flush(DEADLINE_S)
    store.close(DEADLINE_S)
    assert "cannot be trusted" in caplog.text
    assert (tmp_path / f"{FILE_NAME}.set-aside-1").read_bytes() == b"garbage"
    assert reopened(tmp_path) == [HOME, OFFICE]


def test_closing_writes_what_is_left_and_closing_twice_does_nothing(tmp_path: FilePath) -> None:
    store, _, _ = Store.open(tmp_path)
    store.put(HOME)
    store.close(DEADLINE_S)
    store.close(DEADLINE_S)
    assert reopened(tmp_path) == [HOME]


def test_closing_does_not_wait_for_a_disk_that_fails(tmp_path: FilePath) -> None:
    disk = Disk()
    disk.trouble = TROUBLE["read-only"]
    store, _, _ = Store.open(tmp_path, connect=disk.connect, retry_s=3600)
    store.put(HOME)
    store.close(DEADLINE_S)
    assert store.failures
