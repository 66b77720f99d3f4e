"""The sqlite file of the store: opened, checked, written, and set aside when it cannot be trusted.

One table holds key and record as JSON, so that 64-bit unsigned numbers fit and a record is written whole or not at all.
sqlite's own check looks at structure and not at content, so each row has a digest of its own.
"""

import contextlib
import hashlib
import itertools
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from swanroam.app.records import Malformed, Record, decode_record
from swanroam.errors import StoreError

__all__ = ["APPLICATION_ID", "SCHEMA", "SCHEMA_VERSION", "Connect", "Damaged", "Database", "connect", "in_use"]

APPLICATION_ID: Final = 0x73776E72  # "swnr"
SCHEMA_VERSION: Final = 1
SCHEMA: Final = "CREATE TABLE tunnel (key TEXT PRIMARY KEY NOT NULL, record TEXT NOT NULL, digest BLOB NOT NULL) STRICT"
SMALLEST_BYTES: Final = 512  # one page of the smallest size (sqlite.org/fileformat.html, section 1.3.2)
PAGE_SIZE_AT: Final = slice(16, 18)
COMPANIONS: Final = ("-journal", "-wal", "-shm")
PRIMARY_CODE: Final = 0xFF  # the upper bits say more of the same (sqlite.org/rescode.html)
IN_USE: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
MACHINE: Final = IN_USE | {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_INTERRUPT,
}
"""Result codes that speak of disk, memory or permission; all others are the fault of what is in the file."""

Connect = Callable[[Path], sqlite3.Connection]


class Damaged(Exception):
    """The file is not one that this version wrote; caught by the store, which sets it aside."""


def connect(file: Path) -> sqlite3.Connection:
    """Open a file, with transactions as they are written here, for use by one thread at a time."""
    return sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False)


def in_use(error: Exception) -> bool:
    """Whether another process has the file open."""
    return _code(error) in IN_USE


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & PRIMARY_CODE


@contextlib.contextmanager
def _damage_told_from_trouble() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if _code(error) in MACHINE:
            raise
        raise Damaged(str(error)) from error
    except UnicodeDecodeError as error:
        # The library's own message quotes what is in the file.
        raise Damaged("its schema is not UTF-8") from error


class Database:
    """The file, open or closed. All but `close` and `set_aside` raise Damaged, OSError or sqlite3.Error."""

    def __init__(self, file: Path, connect: Connect) -> None:
        self.file = file
        self._connect = connect
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether the file was opened and checked."""
        return self._connection is not None

    def open(self) -> list[Record]:
        """Open and check the file, and read it all; an absent one is begun, readable for its owner only."""
        self.close()
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            status = self.file.stat()
        except FileNotFoundError:
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        else:
            if not stat.S_ISREG(status.st_mode):
                raise Damaged("it is not a regular file")
            # sqlite takes less than a page for an empty file, and begins it anew. Nobody has it open yet who would be
            # in the middle of writing a page.
            if status.st_size % _page_bytes(self.file):
                raise Damaged(f"it was cut off after {status.st_size} bytes")
            if stat.S_IMODE(status.st_mode) & 0o077:
                with contextlib.suppress(OSError):
                    self.file.chmod(0o600)
        with _damage_told_from_trouble():
            connection = self._connect(self.file)
            try:
                records = _read(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        return records

    def write(self, changes: Mapping[str, str | None], *, anew: bool = False) -> None:
        """Write records by key, None removes one; with `anew` they replace all that is there. All or nothing."""
        connection = self._connection
        if connection is None:
            raise OSError("the file is not open")
        with _damage_told_from_trouble(), _transaction(connection):
            if anew:
                connection.execute("DELETE FROM tunnel")
            for key, record in changes.items():
                if record is None:
                    connection.execute("DELETE FROM tunnel WHERE key = ?", (key,))
                else:
                    connection.execute("INSERT OR REPLACE INTO tunnel VALUES (?, ?, ?)", _row(key, record))

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def set_aside(self, problem: str) -> StoreError:
        """Rename the file, so that a new one can be begun, and say so."""
        self.close()
        names = (self.file.with_name(f"{self.file.name}.set-aside-{number}") for number in itertools.count(1))
        kept = next(name for name in names if not os.path.lexists(name))
        try:
            self.file.rename(kept)
        except OSError as error:
            return StoreError(f"{self.file} cannot be trusted: {problem}; nor set aside: {error.strerror}", None)
        for companion in COMPANIONS:
            with contextlib.suppress(OSError):
                Path(f"{self.file}{companion}").rename(f"{kept}{companion}")
        return StoreError(f"{self.file} cannot be trusted: {problem}", kept)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _page_bytes(file: Path) -> int:
    """The size of the pages of a file, by its header; the smallest there is where that says nothing."""
    with file.open("rb") as stream:
        header = stream.read(PAGE_SIZE_AT.stop)
    size = int.from_bytes(header[PAGE_SIZE_AT])
    return (1 << 16) if size == 1 else max(size, SMALLEST_BYTES)


def _row(key: str, record: str) -> tuple[str, str, bytes]:
    return key, record, _digest(key.encode(), record.encode())


def _digest(key: bytes, record: bytes) -> bytes:
    return hashlib.sha256(b"%d:%b%b" % (len(key), key, record)).digest()


def _read(connection: sqlite3.Connection) -> list[Record]:
    # Text that is not UTF-8 is ours to judge, not an error of the library's that tells nothing.
    connection.text_factory = bytes
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    try:
        connection.execute("BEGIN EXCLUSIVE").execute("COMMIT")
    except sqlite3.OperationalError as error:
        # What can be read is worth having also where nothing can be written now.
        if _code(error) != sqlite3.SQLITE_READONLY:
            raise
    application, version = (_number(connection, name) for name in ("application_id", "user_version"))
    objects = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    if (application, version, objects) == (0, 0, []):
        with _transaction(connection):
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return []
    if application != APPLICATION_ID:
        raise Damaged("it is a database of another program")
    if version > SCHEMA_VERSION:
        raise Damaged(f"a newer version wrote it (its format is {version}, this version knows {SCHEMA_VERSION})")
    if version != SCHEMA_VERSION or objects != [(SCHEMA.encode(),)]:
        raise Damaged("its tables are not those of this version")
    findings = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if findings != [(b"ok",)]:
        raise Damaged(f"integrity check: {findings[0][0]!r}")
    records: list[Record] = []
    for key, record, digest in connection.execute("SELECT key, record, digest FROM tunnel"):
        if not isinstance(key, bytes) or not isinstance(record, bytes) or digest != _digest(key, record):
            raise Damaged("a row does not match its digest")
        try:
            records.append(decode_record(key, record))
        except Malformed as malformed:
            raise Damaged(f"a record that this version did not write: {malformed}") from malformed
    return records


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
