"""Erasing a user from the lake: files that name the user are written again without, and the former ones are gone.

Some files at a time, each time in one transaction that changes no sum, as a merge does. At the end no other snapshot is
kept, nor any file that only they had, nor extremes of personal columns in the catalogue.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import duckdb
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.conninfo import make_conninfo

from meterhouse.warehouse.erasing import erased_rejects, erased_rows, renamed, renamed_requests
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_files import merged_file
from meterhouse.warehouse.lake_schema import (
    ADD_FILES,
    CHARGES,
    NODE_EVENTS,
    PERSONAL,
    REJECTS,
    LakeTable,
    quoted,
)
from meterhouse.warehouse.lake_trouble import roll_back
from meterhouse.warehouse.lake_turns import LakeBusy, LakeError, turn
from meterhouse.warehouse.maintenance import GROUP_ROWS, PAYLOAD_ROWS
from meterhouse.warehouse.postgres import LINK

_BATCH_BYTES: Final = 64 * 2**20
"""Rewritten at a time, as by a merge: commits wait for some 3 s."""
_TURN_S: Final = 60.0
_BUSY_S: Final = 60.0
_STATS: Final = ("ducklake_file_column_stats", "ducklake_table_column_stats")
"""Where the catalogue keeps the least and the greatest value of each column."""
_MAX_ROUNDS: Final = 10
"""Looks for rows that name the user: a second finds none, unless other meters are behind with what they know."""

Rewrite = Callable[[pa.Table], pa.Table]
Told = Callable[[str, int], None]
"""Hears which table is written again, and how many of its files are."""


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """What was rewritten: rows that named the user, by table, and files that held them."""

    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0


def erase(lake: Lake, tenant: str, user: str, key: bytes, told: Told = lambda _what, _files: None) -> ErasedRows:
    """Takes a user out of all rows of a tenant. `key`: of digests. Asked for again it goes on where it was interrupted.

    Raises LakeBusy while another process maintains the lake; LakeError.
    """
    work = _Erasing(lake, tenant, user, key, told)
    with turn(lake.config.catalogue, "maintenance", wait_s=_TURN_S) as ours:
        if not ours:
            raise LakeBusy("the lake is being maintained by another process: try again in a minute")
        for _ in range(_MAX_ROUNDS):
            if not work.round():
                break
        else:
            raise LakeError("rows that name the user keep coming: see that every meter is of this version; try again")
        with lake.writing, lake.passage.through(alone=True), closing(lake.cursor()) as cursor:
            _forget(lake, cursor)
    return ErasedRows(work.rows, work.files)


def compact(config: LakeConfig) -> None:
    """Overwrites what deleted rows leave in the catalogue's own file. The lake must be closed in this process.

    Of PostgreSQL room is only given back to be used again: its pages, and its log, are its operator's.
    """
    if isinstance(config.catalogue, Path):
        compact_file(config.catalogue)
        return
    try:
        with psycopg.connect(make_conninfo(config.catalogue, **LINK), autocommit=True) as server:
            for stats in _STATS:
                server.execute(sql.SQL("VACUUM {}").format(sql.Identifier(stats)))
    except psycopg.Error as trouble:
        raise LakeError(f"the catalogue could not be compacted ({config.told(trouble)}): ask again") from None


def compact_file(path: Path) -> None:
    """The same of a SQLite file, which others may have open."""
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as trouble:
        raise LakeError(f"{path} could not be compacted ({trouble}): ask again") from None


class _Erasing:
    """One user's erasure under way."""

    def __init__(self, lake: Lake, tenant: str, user: str, key: bytes, told: Told) -> None:
        self._lake, self._tenant, self._user, self._key, self._told = lake, tenant, user, key, told
        self.rows: dict[str, int] = {}
        self.files = 0

    def round(self) -> bool:
        """Writes every file that names the user again; False: there was none. Node events first: which requests they
        are is known from the charges."""
        requests: dict[str, str] = {}
        with self._lake.borrowed() as cursor:
            # A function of the column, so that no file is left out by extremes that the catalogue does not know.
            of_user = f"tenant = $tenant AND coalesce({quoted('user')}, '') = $user"
            who = {"tenant": self._tenant, "user": self._user}
            asked = cursor.execute(
                f"SELECT DISTINCT tenant, {quoted('user')}, request_id FROM charges WHERE {of_user}", who
            )
            requests = renamed_requests(asked.to_arrow_table(), self._key)
            cursor.register("renamed", pa.table({"request": pa.array(list(requests), pa.string())}))
            of_nodes = "tenant = $tenant AND request_id IN (SELECT request FROM renamed)"
            work: list[tuple[LakeTable, list[str], Rewrite]] = [
                (NODE_EVENTS, _named(cursor, NODE_EVENTS, of_nodes, {"tenant": self._tenant}), self._nodes(requests)),
                (CHARGES, _named(cursor, CHARGES, of_user, who), self._charges),
                (REJECTS, self._rejects_files(cursor), self._rejects),
            ]
        for table, files, rewrite in work:
            for group in self._groups(table, files):
                self._rewrite(table, group, rewrite)
        return any(files for _, files, _ in work)

    def _nodes(self, requests: dict[str, str]) -> Rewrite:
        def rewrite(rows: pa.Table) -> pa.Table:
            return renamed(rows, requests, self._tenant)

        return rewrite

    def _charges(self, rows: pa.Table) -> pa.Table:
        mine = pc.and_(
            pc.is_in(rows["tenant"], pa.array([self._tenant])), pc.is_in(rows["user"], pa.array([self._user]))
        )
        return erased_rows(rows, np.flatnonzero(mine.to_numpy(zero_copy_only=False)), self._key)

    def _rejects(self, rows: pa.Table) -> pa.Table:
        return erased_rejects(rows, self._tenant, self._user)

    def _rejects_files(self, cursor: duckdb.DuckDBPyConnection) -> list[str]:
        """Payloads are looked at as the rewriting does, file by file: there are few."""
        found = []
        for (path,) in cursor.execute("SELECT data_file FROM ducklake_list_files('lake', 'rejects')").fetchall():
            batches = cursor.execute("SELECT * FROM rejects WHERE filename = ?", [path]).to_arrow_reader(PAYLOAD_ROWS)
            tables = (pa.Table.from_batches([batch]) for batch in batches)
            if any(not self._rejects(rows).equals(rows) for rows in tables):
                found.append(str(path))
        return found

    def _groups(self, table: LakeTable, files: Sequence[str]) -> list[list[str]]:
        """Files of one folder each, of some 64 MiB together."""
        groups: dict[str, list[list[str]]] = {}
        sizes: dict[str, int] = {}
        for path in sorted(files):
            folder, size = path.rpartition("/")[0], self._lake.store.total_bytes([path])
            if folder not in groups or sizes[folder] + size > _BATCH_BYTES:
                groups.setdefault(folder, []).append([])
                sizes[folder] = 0
            groups[folder][-1].append(path)
            sizes[folder] += size
        return [group for of_folder in groups.values() for group in of_folder]

    def _rewrite(self, table: LakeTable, names: Sequence[str], rewrite: Rewrite) -> None:
        changed = 0

        def erased(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
            nonlocal changed
            for batch in batches:
                before = pa.Table.from_batches([batch])
                after = rewrite(before)
                changed += _differing(table, before, after)
                yield from after.combine_chunks().to_batches()

        path = f"{names[0].rpartition('/')[0]}/{uuid4()}.parquet"
        with self._lake.writing, self._lake.passage.through(alone=True), self._lake.borrowed() as cursor:
            try:
                cursor.execute("BEGIN TRANSACTION")
                sums = _sums(cursor, table, names)
                rows = PAYLOAD_ROWS if table is REJECTS else GROUP_ROWS
                reader = cursor.execute(f"SELECT * FROM {table.name} WHERE filename IN ?", [names])
                batches = reader.to_arrow_reader(rows)
                made = pa.RecordBatchReader.from_batches(batches.schema, erased(batches))
                self._lake.store.write([merged_file(table, path, made)])
                cursor.execute(f"DELETE FROM {table.name} WHERE filename IN ?", [names])
                cursor.execute(ADD_FILES, [table.name, [path]])
                if (after := _sums(cursor, table, [path])) != sums:
                    raise AssertionError(f"erasing from {len(names)} files changed {table.name}: {sums} → {after}")
                cursor.execute("COMMIT")
            except BaseException:
                roll_back(cursor)
                with suppress(OSError):  # an orphan then
                    self._lake.store.remove(path)
                raise
        self.rows[table.name] = self.rows.get(table.name, 0) + changed
        self.files += len(names)
        self._told(table.name, self.files)


def _differing(table: LakeTable, before: pa.Table, after: pa.Table) -> int:
    """Rows that were changed: by the column that each table's rewriting never leaves."""
    name = {CHARGES.name: "user", NODE_EVENTS.name: "request_id", REJECTS.name: "detail"}[table.name]
    other = pc.sum(pc.not_equal(before[name], after[name]).cast(pa.int64())).as_py() or 0  # of texts in both
    return int(other) + after[name].null_count - before[name].null_count


def _named(cursor: duckdb.DuckDBPyConnection, table: LakeTable, where: str, params: dict[str, str]) -> list[str]:
    rows = cursor.execute(f"SELECT DISTINCT filename FROM {table.name} WHERE {where}", params).fetchall()
    return [str(name) for (name,) in rows]


def _sums(cursor: duckdb.DuckDBPyConnection, table: LakeTable, names: Sequence[str]) -> tuple[object, ...] | None:
    """Everything that must stay: the number of rows and, of every column that names nobody, what it holds, whatever the
    order of the rows."""
    kept = ", ".join(quoted(name) for name in table.schema.names if name not in PERSONAL)
    sql = f"SELECT count(*), sum(hash({kept})::HUGEINT) FROM {table.name} WHERE filename IN ?"
    return cursor.execute(sql, [names]).fetchone()


def _forget(lake: Lake, cursor: duckdb.DuckDBPyConnection) -> None:
    """Lets all snapshots but the newest go, with their files, and what the catalogue knew of these. A report that reads
    an older snapshot meanwhile, or page by page, is told to ask again."""
    newest = lake.snapshot_id(cursor)
    found = cursor.execute("SELECT snapshot_id FROM ducklake_snapshots('lake') WHERE snapshot_id < ?", [newest])
    if older := [id_ for (id_,) in found.fetchall()]:
        cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => {older})")
    cursor.execute("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)")
