"""The lake: DuckLake over a catalogue of metadata and a folder of Parquet files.

A `Lake` is one DuckDB instance with the lake attached. Threads take a cursor each. On a SQLite catalogue one process at
a time may write, on PostgreSQL any number; any number of processes may read, and a reader sees one snapshot for as long
as its transaction lasts.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final, Self

import duckdb
from filelock import FileLock, Timeout
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from meterhouse.warehouse.lake_schema import TABLES, LakeTable, create_positions_view_sql, create_table_sql, options_sql

_CONNECT_TIMEOUT_S: Final = 5  # to PostgreSQL: a commit meets a catalogue that is down as trouble, not as silence
_ALIAS: Final = "lake"
_BUSY_TIMEOUT_MS: Final = 5000  # a reader's wait for the catalogue while a commit is written: far beyond any commit
_LONG_READ_S: Final = 60.0  # well below the time that maintenance keeps every snapshot

_ADVICE: Final = {
    False: "If another program holds it, end that; if the file is damaged, restore it with its data folder from one"
    " back-up",
    True: "See that PostgreSQL runs there and lets this user in",
}

TRANSIENT: Final = (duckdb.TransactionException, duckdb.IOException, duckdb.OutOfMemoryException, OSError)
"""Trouble that may pass: a conflict, a locked catalogue, a full disk."""


class LakeError(Exception):
    """The lake cannot do what was asked; the message says what to do."""


class LakeMissing(LakeError):
    """There is no lake yet."""


class LakeBusy(LakeError):
    """Another process writes to this lake."""


class SnapshotExpired(LakeError):
    """A read lasted so long that maintenance let its snapshot go: what it read may lack rows."""


@dataclass(frozen=True, slots=True)
class LakeConfig:
    """Where a lake is. The one place that knows how it is attached."""

    catalogue: Path | str  # SQLite file, or postgresql:// URL
    data: Path  # folder of Parquet files
    memory_limit_mb: int = 512  # of DuckDB: sorts beyond it spill to `scratch`; the meter as a whole stays under 1 GiB
    threads: int | None = None  # None: one for a writer, one per core for a reader

    @property
    def on_postgres(self) -> bool:
        return isinstance(self.catalogue, str)

    @property
    def named(self) -> str:
        """The catalogue as a message may name it: without user, password and options."""
        if isinstance(self.catalogue, Path):
            return str(self.catalogue)
        known = conninfo_to_dict(self.catalogue)
        return f"PostgreSQL {known.get('host')}:{known.get('port')}/{known.get('dbname')}"

    @property
    def metadata(self) -> str:
        """The schema of DuckLake's own tables."""
        return f"__ducklake_metadata_{_ALIAS}.{'public' if self.on_postgres else 'main'}"

    @property
    def scratch(self) -> Path:
        """Where DuckDB spills what does not fit in memory."""
        if isinstance(self.catalogue, Path):
            return self.catalogue.with_name(self.catalogue.name + ".tmp")
        return Path(tempfile.gettempdir()) / "meterhouse-lake.tmp"  # DuckDB's files there carry names of their own

    def without_secrets(self, text: str) -> str:
        """A message of DuckDB, which may quote how it connects."""
        password = conninfo_to_dict(self.catalogue).get("password") if isinstance(self.catalogue, str) else None
        return text.replace(str(password), "***") if password else text

    def folder_of(self, table: LakeTable) -> Path:
        """Where the catalogue keeps a table's files."""
        return self.data / "main" / table.name

    def attach_sql(self, *, read_only: bool) -> str:
        options = [
            f"DATA_PATH {sql_text(str(self.data))}",
            "OVERRIDE_DATA_PATH true",  # the catalogue remembers where its files were; a home may be moved or copied
            *(["READ_ONLY"] if read_only else []),
        ]
        if isinstance(self.catalogue, str):
            place = make_conninfo(self.catalogue, connect_timeout=_CONNECT_TIMEOUT_S)
            return f"ATTACH {sql_text(f'ducklake:postgres:{place}')} AS {_ALIAS} ({', '.join(options)})"
        options += ["META_JOURNAL_MODE 'WAL'", f"META_BUSY_TIMEOUT {_BUSY_TIMEOUT_MS}"]
        return f"ATTACH {sql_text(f'ducklake:sqlite:{self.catalogue}')} AS {_ALIAS} ({', '.join(options)})"


class WriterLock:
    """Says who may write: a file beside the catalogue, locked for as long as its process lives."""

    def __init__(self, catalogue: Path) -> None:
        self._lock = FileLock(catalogue.with_name(catalogue.name + ".lock"), blocking=False)

    def acquire(self) -> None:
        """Raises LakeBusy when another process, or another Lake of this one, holds it."""
        try:
            self._lock.acquire()
        except Timeout:
            raise LakeBusy(
                f"another process writes to this lake (it holds {self._lock.lock_file}): a lake with a SQLite catalogue"
                " has one writer. Stop the other `meterhouse work` or `serve` first, or open the lake read-only"
            ) from None

    def release(self) -> None:
        self._lock.release()


class Lake:
    """An open lake. `cursor` and `read` may be called from any thread; a cursor stays with the thread that took it."""

    def __init__(
        self, config: LakeConfig, connection: duckdb.DuckDBPyConnection, *, lock: WriterLock | None, read_only: bool
    ) -> None:
        self.config = config
        self.read_only = read_only
        self._connection = connection
        self._lock = lock
        self.writing = Lock()  # held by a commit or by maintenance of this process

    @classmethod
    def open(cls, config: LakeConfig, *, read_only: bool = False) -> Self:
        """Opens the lake; a writer makes it, and its tables, when missing.

        Raises LakeBusy (a second writer), LakeMissing (a reader of a lake that no writer has made yet).
        """
        if read_only:
            if isinstance(config.catalogue, Path) and not config.catalogue.exists():
                raise LakeMissing(f"there is no lake at {config.catalogue} yet: run `meterhouse work` once to make it")
            return cls(config, _attach(config, read_only=True), lock=None, read_only=True)
        config.data.mkdir(parents=True, exist_ok=True)
        lock = None
        if isinstance(config.catalogue, Path):
            config.catalogue.parent.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(config.catalogue)
            lock.acquire()
        try:
            lake = cls(config, _attach(config, read_only=False), lock=lock, read_only=False)
            lake._create_missing()
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        return lake

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same lake, whose tables need no prefix."""
        cursor = self._connection.cursor()
        cursor.execute(f"USE {_ALIAS}")
        return cursor

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor in a read transaction: all it reads is of one snapshot.

        Raises SnapshotExpired at the end when the snapshot did not last as long as the read.
        """
        cursor = self.cursor()
        started_s = monotonic()
        try:
            cursor.execute("BEGIN TRANSACTION")
            snapshot = self.snapshot_id(cursor)  # the transaction's snapshot is that of its first look
            yield cursor
        finally:
            cursor.close()  # rolls back
        if monotonic() - started_s > _LONG_READ_S:
            self._check_kept(snapshot)

    def _check_kept(self, snapshot: int) -> None:
        with closing(self.cursor()) as cursor:
            kept = cursor.execute(
                f"SELECT count(*) FROM ducklake_snapshots('{_ALIAS}') WHERE snapshot_id = ?", [snapshot]
            ).fetchone()
        if kept != (1,):
            raise SnapshotExpired(
                f"this read outlived its snapshot {snapshot}, and may lack rows: ask for a shorter time, or keep"
                " snapshots longer"
            )

    def snapshot_id(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """The snapshot that this cursor's transaction sees."""
        row = cursor.execute(f"FROM ducklake_current_snapshot('{_ALIAS}')").fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self._connection.close()
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
        cursor.execute("COMMIT")
        row = cursor.execute(f"SELECT count(*) FROM ducklake_options('{_ALIAS}') WHERE scope = 'TABLE'").fetchone()
        if row is None or row[0] < len(TABLES):
            for statement in options_sql():
                cursor.execute(statement)
        cursor.close()


def roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    """Ends a transaction that failed."""
    with suppress(duckdb.TransactionException):  # after a failed COMMIT it is gone already
        cursor.execute("ROLLBACK")


def table_names(cursor: duckdb.DuckDBPyConnection) -> set[str]:
    """Names of the lake's tables and views, as this cursor's transaction sees them."""
    rows = cursor.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = ?", [_ALIAS]
    ).fetchall()
    return {str(name) for (name,) in rows}


def _attach(config: LakeConfig, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        # Extensions come with the packages that we depend on: nothing is ever fetched.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": f"{config.memory_limit_mb}MB",
        "temp_directory": str(config.scratch),
    }
    # A commit is some fifty small queries of the catalogue: more threads only wait for each other's locks and double
    # its processor time.
    threads = config.threads or (None if read_only else 1)
    if threads is not None:
        settings["threads"] = threads
    connection = duckdb.connect(":memory:", config=settings)
    try:
        for name in ("postgres_scanner" if config.on_postgres else "sqlite_scanner", "ducklake"):
            connection.execute(f"LOAD {sql_text(str(_extension(name)))}")
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        # Keys come as 16 bytes, not as text. The setting holds for all cursors, so it is made once and for all.
        connection.execute("SET GLOBAL arrow_lossless_conversion = true")
        connection.execute(config.attach_sql(read_only=read_only))
    except duckdb.Error as trouble:
        connection.close()
        raise LakeError(
            f"the lake at {config.named} does not open: {config.without_secrets(str(trouble))}."
            f" {_ADVICE[config.on_postgres]}"
        ) from (None if config.on_postgres else trouble)  # DuckDB's own message may quote a password
    except LakeError:
        connection.close()
        raise
    return connection


def _extension(name: str) -> Path:
    """The file of a DuckDB extension, out of its package and for the DuckDB that is running."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if path.exists():
            return path
    raise LakeError(
        f"no extension {name} for DuckDB {duckdb.__version__}: install"
        f" duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
    )


def sql_text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"
