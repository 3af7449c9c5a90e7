"""The SQLite file under the embedded log: its schema, its connections, its errors.

A topic is one table whose INTEGER PRIMARY KEY packs partition and offset, so that a read is one range scan of the
rows as they lie in the file. A partition's next offset stands in a table of its own: it outlives retention.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from meterhouse.ingest.log import LogError, LogFull, LogUnavailable

PAGE_BYTES: Final = 32 * 1024
"""A record of a hundred events (40-50 KB) is two pages: it reads twice as fast as with 16 KiB pages. With 64 KiB a page
holds one such record and the file is 1.4 times as large. A small append writes two or three pages."""
CHECKPOINT_PAGES: Final = 512
"""The write-ahead log is folded into the file about every 16 MiB: rare enough to write a page once, small enough that
the commit that does it takes tens of milliseconds."""
BUSY_S: Final = 10.0
"""How long a writer waits for another process's transaction, which takes milliseconds: longer means that it hangs."""
IDLE_CONNECTIONS: Final = 4
"""Connections kept open between uses; a few threads read at once, each open file costs memory."""

_APPLICATION_ID: Final = 0x4D54_484C  # "MTHL": tells our file from any other SQLite file
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    retention_us INTEGER,
    compacted INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS partitions (
    topic INTEGER NOT NULL REFERENCES topics (id),
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0,
    kept_from INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""


# --- errors ----------------------------------------------------------------------------------------------------------

_PASSING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_ADVICE: Final = {
    sqlite3.SQLITE_CANTOPEN: "check that its folder exists and may be written to",
    sqlite3.SQLITE_READONLY: "give this user write access to the file and its folder",
    sqlite3.SQLITE_IOERR: "check the disk; the file must be on a local one (no NFS)",
    sqlite3.SQLITE_NOTADB: "it is not a log of ours; name another path",
    sqlite3.SQLITE_CORRUPT: "stop all processes that use it and restore it from a backup",
}


def _translated(path: Path, error: sqlite3.Error) -> LogError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _PASSING:
        return LogUnavailable(f"the log {path} was locked by another process for {BUSY_S:.0f} s ({error}): try again")
    if code == sqlite3.SQLITE_FULL:
        return LogFull(
            f"the log {path} is at its size limit, or its disk is full: let the meter catch up and enforce retention, "
            "keep records for a shorter time, or raise the limit (max_bytes)"
        )
    advice = _ADVICE.get(code, "this is a defect of Meterhouse, please report it")
    return LogError(f"the log {path} cannot be used ({error}): {advice}")


@contextmanager
def log_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as the port's."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(path, error) from error


# --- connections -----------------------------------------------------------------------------------------------------


def connect(path: Path, *, max_bytes: int | None = None) -> sqlite3.Connection:
    """A connection in autocommit mode that may be handed from thread to thread (used by one at a time).

    `max_bytes`: the file does not grow beyond it (None: no limit, for what makes room).
    """
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # counts for a new file only
        _use_write_ahead_log(connection)
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1_000)}")
        # FULL: a commit returns after its bytes are on the disk, so an acknowledged append survives a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "PRAGMA secure_delete = OFF"
        )  # some builds overwrite what retention removes: it costs writes
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {4 * CHECKPOINT_PAGES * PAGE_BYTES}")
        if max_bytes is not None:
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_bytes)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switches a new file over.

    Processes that start at once each hold a lock that the others wait for, so nobody waits inside SQLite: whoever
    is refused lets go and tries again.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _PASSING or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.01))


def prepare(path: Path) -> None:
    """Makes the file and its tables where they are missing. Raises LogError when the file is something else's."""
    with log_errors(path):
        _refuse_foreign(path)
        connection = connect(path)
        try:
            # Two processes that start at once both do it; the second finds it done.
            with transaction(connection):
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        finally:
            connection.close()


def _refuse_foreign(path: Path) -> None:
    """Looks before anything is changed."""
    connection = sqlite3.connect(path, timeout=BUSY_S)
    try:
        application, version, tables = connection.execute(
            "SELECT a.application_id, u.user_version, (SELECT count(*) FROM sqlite_master) "
            "FROM pragma_application_id AS a, pragma_user_version AS u"
        ).fetchone()
    finally:
        connection.close()
    if tables and (application, version) != (_APPLICATION_ID, _VERSION):
        raise LogError(
            f"{path} is not a log of this version of Meterhouse (application {application:#x}, version {version}): "
            "name another path, or use the version that wrote it"
        )


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All or nothing. IMMEDIATE takes the write lock at once; DEFERRED reads one state of the file."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some errors
            with suppress(sqlite3.Error):  # the first error is the one to tell
                connection.execute("ROLLBACK")
        raise


class Pool:
    """Connections for reading, lent to one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction that sees one state of the file."""
        with log_errors(self._path):
            connection = self._take()
            try:
                with transaction(connection, "DEFERRED"):
                    yield connection
            finally:
                self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise LogError(f"the log {self._path} is closed: open it again")
            if self._idle:
                return self._idle.pop()
        return connect(self._path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
