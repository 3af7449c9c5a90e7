"""The lake: DuckLake over a catalogue of metadata and a store of Parquet files.

A `Lake` is one DuckDB instance with the lake attached. Threads take a cursor each. On a SQLite catalogue one process at
a time may write, on PostgreSQL any number; any number of processes may read, and a reader sees one snapshot for as long
as its transaction lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Final, Protocol, Self, runtime_checkable

import duckdb

from meterhouse.warehouse.extensions import extension_file
from meterhouse.warehouse.lake_config import ALIAS, LakeConfig
from meterhouse.warehouse.lake_readers import Readers
from meterhouse.warehouse.lake_schema import (
    AUDIT_HEADS,
    TABLES,
    create_audit_heads_sql,
    create_positions_view_sql,
    create_table_sql,
    options_sql,
    sql_text,
)
from meterhouse.warehouse.lake_store import LakeStore, S3Place, StoreTrouble, store_of
from meterhouse.warehouse.lake_trouble import (
    BROKEN,
    TROUBLE,
    LakeUnavailable,
    bury,
    passing,
    put_away,
)
from meterhouse.warehouse.lake_turns import LakeBusy, LakeError, Passage, WriterLock, turn
from meterhouse.warehouse.lake_writing import Writing

__all__ = ["Lake", "LakeBusy", "LakeConfig", "LakeError", "LakeMissing", "LakeUnavailable", "WriterLock"]

_MAKING_S: Final = 60.0  # another process makes the tables meanwhile: seconds, on a busy machine
_LONG_READ_S: Final = 60.0  # well below the time that maintenance keeps every snapshot

_ADVICE: Final = {
    False: "If another program holds it, end that; if the file is damaged, restore it with its data folder from one"
    " back-up",
    True: "See that PostgreSQL runs there and lets this user in",
}


class LakeMissing(LakeError):
    """There is no lake yet."""


class SnapshotExpired(LakeError):
    """Maintenance let a snapshot go that is, or was, read: what was read of it may lack rows."""


class Cursor(Protocol):
    """What queries run on, within one read: all of it is of one snapshot."""

    def execute(self, query: str, parameters: Any = None, /) -> duckdb.DuckDBPyConnection: ...

    def register(self, view_name: str, python_object: object, /) -> duckdb.DuckDBPyConnection: ...


@runtime_checkable
class OfSnapshot(Protocol):
    """A cursor that knows which snapshot it is to read."""

    snapshot: int


class Lake:
    """An open lake. `cursor` and `read` may be called from any thread; a cursor stays with the thread that took it."""

    def __init__(
        self, config: LakeConfig, store: LakeStore, *, read_only: bool, lock: WriterLock | None = None
    ) -> None:
        self.config = config
        self.store = store
        self._read_only = read_only
        self._opening = Lock()
        self._connection = attach(config, store, read_only=read_only)
        self._lock = lock
        self._readers = Readers()
        self.writing = Writing(is_alone=lock is not None)  # held by a commit or by maintenance of this process
        self.passage = Passage(config.catalogue)

    @classmethod
    def open(cls, config: LakeConfig, *, read_only: bool = False) -> Self:
        """Opens the lake; a writer makes it, and its tables, when missing.

        Raises LakeBusy (a second writer), LakeMissing (a reader of a lake that no writer has made yet), LakeError.
        """
        store = store_of(config.data)
        if read_only:
            missing = LakeMissing(f"no lake is at {config.named} yet, or an older one: run `meterhouse work` once")
            if isinstance(config.catalogue, Path) and not config.catalogue.exists():
                raise missing
            lake = cls(config, store, read_only=True)
            with closing(lake.cursor()) as cursor:
                if table_names(cursor) >= {"positions", *(table.name for table in TABLES)}:
                    return lake
            lake.close()  # its writer is about to make the tables
            raise missing
        lock = None
        if isinstance(config.catalogue, Path):
            config.catalogue.parent.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(config.catalogue)
            lock.acquire()
        try:
            return cls._open_writer(config, store, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def _open_writer(cls, config: LakeConfig, store: LakeStore, lock: WriterLock | None) -> Self:
        try:
            store.make_ready()
            with turn(config.catalogue, "tables", wait_s=_MAKING_S) as ours:
                if not ours:
                    raise LakeBusy(f"another process has been making the tables at {config.named}: try again")
                lake = cls(config, store, read_only=False, lock=lock)
                try:
                    lake._create_missing()
                except BaseException:
                    lake._connection.close()
                    raise
                return lake
        except TROUBLE as trouble:
            raise _does_not_open(config, trouble) from (None if config.has_secrets else trouble)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same lake, whose tables need no prefix. Raises LakeUnavailable."""
        connection = self._connection
        try:
            return _using(connection)
        except BROKEN:
            return _using(self._anew(connection))
        except duckdb.Error as trouble:
            raise self._unavailable(trouble) from (None if self.config.has_secrets else trouble)

    @contextmanager
    def borrowed(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor that is closed at the end."""
        cursor = self.cursor()
        try:
            yield cursor
        finally:
            put_away(cursor)

    def _anew(self, broken: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        """A DuckDB in place of one that broke down, which it does for good. Its cursors fail with it."""
        with self._opening:
            if self._connection is broken:
                try:
                    self._connection = attach(self.config, self.store, read_only=self._read_only)
                except LakeError as trouble:
                    raise LakeUnavailable(str(trouble)) from None
                bury(broken)
            return self._connection

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The cursor of `begun`."""
        with self.begun() as (cursor, _):
            yield cursor

    @contextmanager
    def begun(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, int]]:
        """A cursor in a read transaction, and the one snapshot that all it reads is of.

        Raises SnapshotExpired at the end when the snapshot did not last as long as the read, LakeUnavailable when
        catalogue or files could not be read.
        """
        started_s, connection = monotonic(), self._connection
        taken = self._readers.take(connection, self._begin)
        cursor, snapshot = taken or (self.cursor(), None)
        is_over = False
        try:
            snapshot = self._begin(cursor) if snapshot is None else snapshot
            yield cursor, snapshot
            cursor.execute("ROLLBACK")
            is_over = True
        except duckdb.Error as trouble:
            if not passing(trouble):
                raise
            raise self._unavailable(trouble) from (None if self.config.has_secrets else trouble)
        finally:
            if is_over:
                self._readers.give_back(connection, cursor)
            else:
                put_away(cursor)  # rolls back
        if monotonic() - started_s > _LONG_READ_S:
            self.check_kept(snapshot)

    def _begin(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """Begins a transaction: its snapshot is that of its first look."""
        times = self.writing.times
        cursor.execute("BEGIN TRANSACTION")
        snapshot = self.snapshot_id(cursor)
        self.writing.note(times, snapshot)
        return snapshot

    def _unavailable(self, trouble: Exception) -> LakeUnavailable:
        return LakeUnavailable(
            f"the lake at {self.config.named} cannot be read, try again: {self.config.told(trouble)}"
        )

    def check_kept(self, snapshot: int) -> None:
        """Raises SnapshotExpired when maintenance let this snapshot go: what was read of it may lack rows."""
        with closing(self.cursor()) as cursor:
            kept = cursor.execute(
                f"SELECT count(*) FROM ducklake_snapshots('{ALIAS}') WHERE snapshot_id = ?", [snapshot]
            ).fetchone()
        if kept != (1,):
            raise SnapshotExpired(
                f"this read outlived its snapshot {snapshot}, and may lack rows: ask for a shorter time, or keep"
                " snapshots longer"
            )

    def snapshot_id(self, cursor: Cursor) -> int:
        """The snapshot that this cursor's transaction sees, or is to see."""
        if isinstance(cursor, OfSnapshot):
            return cursor.snapshot
        row = cursor.execute(f"FROM ducklake_current_snapshot('{ALIAS}')").fetchone()
        assert row is not None
        return int(row[0])

    def identity(self, cursor: duckdb.DuckDBPyConnection) -> str:
        """What the catalogue calls its table of charges: made with the lake, and no other lake's."""
        row = cursor.execute(
            f"SELECT table_uuid::VARCHAR FROM {self.config.metadata}.ducklake_table"
            " WHERE table_name = 'charges' AND end_snapshot IS NULL"
        ).fetchone()
        assert row is not None
        return str(row[0])

    def close(self) -> None:
        self._readers.close()
        self._connection.close()
        self.passage.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create_missing(self) -> None:
        cursor = self.cursor()
        cursor.execute("BEGIN TRANSACTION")
        present = table_names(cursor)
        missing = [table for table in TABLES if table.name not in present]
        for table in missing:
            for statement in create_table_sql(table):
                cursor.execute(statement)
        if "positions" not in present:
            cursor.execute(create_positions_view_sql(0))
        if AUDIT_HEADS not in present:  # nor do lakes have it that were made before there was one
            cursor.execute(create_audit_heads_sql())
        cursor.execute("COMMIT")
        row = cursor.execute(f"SELECT count(*) FROM ducklake_options('{ALIAS}') WHERE scope = 'TABLE'").fetchone()
        if row is None or row[0] < len(TABLES):
            for statement in options_sql():
                cursor.execute(statement)
        cursor.close()


def _using(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    cursor = connection.cursor()
    try:
        cursor.execute(f"USE {ALIAS}")
    except duckdb.Error:
        put_away(cursor)
        raise
    return cursor


def table_names(cursor: duckdb.DuckDBPyConnection) -> set[str]:
    """Names of the lake's tables and views, as this cursor's transaction sees them."""
    rows = cursor.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = ?", [ALIAS]
    ).fetchall()
    return {str(name) for (name,) in rows}


def attach(config: LakeConfig, store: LakeStore, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own with the lake attached, made when missing. Asks for no lock. Raises LakeError."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        # Extensions come with the packages that we depend on: nothing is ever fetched.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "secret_directory": str(config.scratch / "secrets"),  # there are none: those in somebody's home are not ours
        "memory_limit": f"{config.memory_limit_mb}MB",
        "temp_directory": str(config.scratch),
        "enable_external_file_cache": str(isinstance(config.data, S3Place)),  # a folder's files the system keeps
    }
    # A commit is some fifty small queries of the catalogue: more threads only wait for each other's locks and double
    # its processor time.
    threads = config.threads or (None if read_only else 1)
    if threads is not None:
        settings["threads"] = threads
    connection = duckdb.connect(":memory:", config=settings)
    try:
        for name in ("postgres_scanner" if config.on_postgres else "sqlite_scanner", "ducklake", *store.extensions):
            connection.execute(f"LOAD {sql_text(str(extension_file(name)))}")
        store.teach(connection)
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET GLOBAL disabled_optimizers = 'statistics_propagation'")  # decision 0049: stale extremes
        # Keys come as 16 bytes, not as text. The setting holds for all cursors, so it is made once and for all.
        connection.execute("SET GLOBAL arrow_lossless_conversion = true")
        connection.execute(config.attach_sql(read_only=read_only))
    except duckdb.Error as trouble:
        connection.close()
        raise _does_not_open(config, trouble) from (None if config.has_secrets else trouble)
    except LakeError:
        connection.close()
        raise
    return connection


def _does_not_open(config: LakeConfig, trouble: Exception) -> LakeError:
    told = config.told(trouble)
    advice = "" if isinstance(trouble, StoreTrouble) else f". {_ADVICE[config.on_postgres]}"
    return LakeError(f"the lake at {config.named} does not open: {told}{advice}")
