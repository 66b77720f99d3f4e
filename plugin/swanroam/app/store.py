"""What a restarted daemon has to know of its tunnels, kept in sqlite without the caller ever waiting for a disk.

Writing happens in a thread of its own. Records of the same tunnel that come faster than the disk takes them replace
each other. The memory of this process is the truth and the file its copy: after a failure all is written anew.
"""

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Final, Self

from swanroam.app.database import Connect, Damaged, Database, connect, in_use
from swanroam.app.records import Record, encode_key, encode_record
from swanroam.errors import StoreError
from swanroam.model.tunnel import TunnelKey

__all__ = ["FILE_NAME", "Record", "Store"]

FILE_NAME: Final = "swanroam.sqlite3"
RETRY_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 1.0

log = logging.getLogger(__name__)


class Store:
    """Records on disk. `put` and `remove` neither wait nor fail."""

    def __init__(self, database: Database, records: list[Record], retry_s: float) -> None:
        """Use `open` instead."""
        self._database, self._retry_s = database, retry_s
        self._all = {encode_key(record.key): encode_record(record) for record in records}
        self._changed: dict[str, str | None] = {}
        self._condition = threading.Condition()
        self._closing = False
        self._writing = False
        self._failing = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls, state_dir: Path, *, connect: Connect = connect, retry_s: float = RETRY_S
    ) -> tuple[Self, list[Record], StoreError | None]:
        """The store in a folder, what it holds, and what was wrong with it, if anything was.

        The folder is made if need be. A file that cannot be trusted is set aside and an empty one begun. A disk that
        cannot be read or written gives a store that keeps trying. Raises StoreError, with nothing set aside, when
        another process has the file open. `connect` opens the database, `retry_s` is the time between two attempts.
        """
        database = Database(state_dir / FILE_NAME, connect)
        records: list[Record] = []
        message: StoreError | None = None
        try:
            records = database.open()
        except Damaged as damaged:
            message = database.set_aside(str(damaged))
        except (OSError, sqlite3.Error) as error:
            if in_use(error):
                raise StoreError(f"{database.file} is in use by another process", None) from error
            message = StoreError(f"{database.file} cannot be used: {error}; it is tried again", None)
        return cls(database, records, retry_s), records, message

    @property
    def failures(self) -> int:
        """How often writing failed."""
        return self._failures

    def put(self, record: Record) -> None:
        """Write a record, replacing that of the same tunnel, as soon as the disk allows."""
        self._change(encode_key(record.key), encode_record(record))

    def remove(self, key: TunnelKey) -> None:
        """Remove the record of a tunnel; without one nothing happens."""
        self._change(encode_key(key), None)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is on disk; False when it is not after `timeout_s`."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._changed and not self._writing, timeout_s)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is left, trying once, and stop. A disk that hangs is not waited for beyond `timeout_s`."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(timeout_s)

    def _change(self, key: str, record: str | None) -> None:
        with self._condition:
            if self._all.get(key) == record:
                return
            if record is None:
                del self._all[key]
            else:
                self._all[key] = record
            self._changed[key] = record
            self._condition.notify_all()

    def _run(self) -> None:
        """The thread; it alone uses the database once it runs."""
        closing = False
        while not closing:
            with self._condition:
                self._condition.wait_for(lambda: self._changed or self._closing)
                closing, changed = self._closing, self._changed
                self._changed, self._writing = {}, True
            written = not changed or self._write(changed)
            with self._condition:
                self._writing = False
                if not written:
                    self._changed = {**changed, **self._changed}
                self._condition.notify_all()
                if not written and not closing:
                    self._condition.wait_for(lambda: self._closing, self._retry_s)
        self._database.close()

    def _write(self, changed: dict[str, str | None]) -> bool:
        try:
            try:
                self._write_once(changed)
            except Damaged as damaged:
                log.warning("%s", self._database.set_aside(str(damaged)))
                self._write_once(changed)
        except (OSError, sqlite3.Error, Damaged) as error:
            # Opened anew the next time: what is open may be a file that was deleted, or opened for reading only.
            self._database.close()
            self._failures += 1
            if not self._failing:
                log.warning("%s cannot be written: %s; it is tried again", self._database.file, error)
            self._failing = True
            return False
        if self._failing:
            log.info("%s is written again", self._database.file)
        self._failing = False
        return True

    def _write_once(self, changed: dict[str, str | None]) -> None:
        if self._database.is_open:
            self._database.write(changed)
            return
        self._database.open()
        with self._condition:
            everything = dict(self._all)
        self._database.write(everything, anew=True)
