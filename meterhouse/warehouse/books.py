"""The lake as reports read it: the whole of it, or as much as someone may see.

Reports say `FROM charges` and know of no views. What they read is cut here, in the one place that all their queries
pass: before a query runs, each table that it names is put in its own name's place as a part of that table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol

import duckdb
import pyarrow as pa

from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Cursor, Lake
from meterhouse.warehouse.lake_reading import Reading
from meterhouse.warehouse.lake_schema import REJECTS, TABLES, LakeTable, quoted, sql_text
from meterhouse.warehouse.reports.query import KeepableSums, Query, with_relation
from meterhouse.warehouse.view import View


class Books(Protocol):
    """What reports read from."""

    def read(self) -> AbstractContextManager[Cursor]:
        """A cursor in a read transaction. Raises LakeUnavailable; SnapshotExpired at the end of a long read."""
        ...

    def snapshot_id(self, cursor: Cursor) -> int:
        """The snapshot that the cursor reads."""
        ...


class SeenBooks:
    """The rows of a lake that `view` sees: as they are now, or as they were in the snapshot `at`. Positions cannot be
    read in the past: who reads it knows them (`Freshness.positions`). `sums`: what is kept of the lake as it is now."""

    def __init__(self, lake: Lake, view: View, at: int | None = None, sums: KeptSums | None = None) -> None:
        self._lake, self._view, self._at = lake, view, at
        self._sums = sums if at is None else None

    @contextmanager
    def read(self) -> Iterator[Cursor]:
        """Raises SnapshotExpired when `at` is no longer kept."""
        try:
            with self._lake.read() as cursor:
                yield self.seen(cursor)
        except duckdb.Error:
            self._check_kept()
            raise
        self._check_kept()

    def seen(self, cursor: duckdb.DuckDBPyConnection | Reading) -> Cursor:
        """What a cursor in a read transaction shows."""
        return _SeenCursor(cursor, self._view, self._at, self._sums)

    def _check_kept(self) -> None:
        if self._at is not None:
            self._lake.check_kept(self._at)

    def snapshot_id(self, cursor: Cursor) -> int:
        return self._lake.snapshot_id(cursor) if self._at is None else self._at


class OneRead:
    """Books whose reads are all within one transaction, which is another's to end: each of its own costs as much as a
    small report."""

    def __init__(self, books: SeenBooks, cursor: Reading) -> None:
        self._books, self._cursor = books, cursor

    def read(self) -> AbstractContextManager[Cursor]:
        return nullcontext(self._books.seen(self._cursor))

    def snapshot_id(self, cursor: Cursor) -> int:
        return self._cursor.snapshot


@dataclass(frozen=True, slots=True)
class _SeenCursor:
    """Runs queries over what is seen of each table. Parameters are named ones."""

    whole: duckdb.DuckDBPyConnection | Reading
    view: View
    past: int | None
    sums: KeptSums | None
    ahead: bool = False  # nobody asks for it now

    def execute(self, query: str, parameters: Mapping[str, Any] | None = None, /) -> duckdb.DuckDBPyConnection:
        named = _named(query)
        if not named:
            return self.whole.execute(query, parameters or {})
        at = self.whole.at() if isinstance(self.whole, Reading) and self.past is None else self.past
        if self.view.is_whole and at is None:
            return self.whole.execute(query, parameters or {})
        parts = ", ".join(_relation(table, self.view, _table(table, at)) for table in named)
        return self._run(with_relation(query, parts), parameters or {})

    def _run(self, sql: str, parameters: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
        params = {**parameters, **_params(self.view)}
        return self.whole.execute(sql, {name: params[name] for name in params if f"${name}" in sql})

    def register(self, view_name: str, python_object: object, /) -> duckdb.DuckDBPyConnection:
        return self.whole.register(view_name, python_object)

    def rows_of(self, query: Query) -> list[tuple[Any, ...]]:
        if self.sums is None or _named(query.sql):
            return query.read(self)
        if not self.ahead:
            self.sums.note_asked(query, self.view)
        return self.sums.rows_of(query, self.view, self.whole, partial(query.read, self))

    def kept(self, sums: KeepableSums) -> pa.Table | None:
        if self.sums is None:
            return None
        if not self.ahead:
            self.sums.note_asked(sums, self.view)
        return self.sums.of(sums, self.view, self.whole, partial(self._sum_files, sums))

    def _sum_files(self, sums: KeepableSums, paths: Sequence[str]) -> pa.Table:
        """The sums over files of their table."""
        return self._over(sums.query, sums.table, paths).to_arrow_table()

    def of_files(self, query: Query, table: str, from_us: int, to_us: int) -> duckdb.DuckDBPyConnection | None:
        paths = None if self.sums is None else self.sums.paths(table, from_us, to_us, self.whole)
        return None if paths is None else self._over(query, table, paths)

    def _over(self, query: Query, name: str, paths: Sequence[str]) -> duckdb.DuckDBPyConnection:
        [table] = [each for each in TABLES if each.name == name]
        source = f"read_parquet([{', '.join(map(sql_text, paths))}], hive_partitioning = false)"
        if not paths:
            source = f"no_{name}"
            self.whole.register(source, table.schema.empty_table())
        return self._run(with_relation(query.sql, _relation(table, self.view, source)), query.params)


ROWS_S: Final = 0.1
"""Of each new snapshot, to make rows ready in: some five reports' beside 10,000 events a second. With a commit a second
it is what they may cost."""


def look_ahead(kept: KeptSums, cursor: duckdb.DuckDBPyConnection) -> None:
    """Keeps of a new snapshot what was asked of earlier ones lately, so that nobody waits for it: sums of all, rows of
    as many queries as there is time for."""
    until_s = monotonic() + ROWS_S
    for asked in kept.asked_lately():
        reading = _SeenCursor(cursor, asked.view, None, kept, ahead=True)
        if not isinstance(asked.what, Query):
            reading.kept(asked.what)
        elif monotonic() < until_s:
            reading.rows_of(asked.what)


def _named(query: str) -> list[LakeTable]:
    return [table for table in TABLES if re.search(rf"\b{table.name}\b", query)]


_TENANTS: Final = "view_tenants"
_APPLICATIONS: Final = "view_applications"


def _params(view: View) -> dict[str, Any]:
    grants = view.grants or ()
    return {
        _TENANTS: [grant.tenant for grant in grants if grant.application is None],
        _APPLICATIONS: [
            {"tenant": grant.tenant, "application": grant.application}
            for grant in grants
            if grant.application is not None
        ],
    }


def _table(table: LakeTable, at: int | None) -> str:
    """A table as it is, or as it was in the snapshot `at`."""
    return f"lake.{table.name}" if at is None else f"lake.{table.name} AT (VERSION => {at:d})"


def _relation(table: LakeTable, view: View, source: str) -> str:
    """The rows of a table, or of a part of it, that are seen: by the table's name.

    What has no application is seen with its whole tenant only; a rejected record may hold events of others than its key
    says, so that whole records are nobody's.
    """
    seen = "true"
    if not view.is_whole:
        seen = f'list_contains(${_TENANTS}::VARCHAR[], "tenant")'
        if "application" in table.schema.names:
            seen += (
                f" OR list_contains(${_APPLICATIONS}::STRUCT(tenant VARCHAR, application VARCHAR)[],"
                " {'tenant': \"tenant\", 'application': \"application\"})"
            )
        if table is REJECTS:
            seen = f"{seen} AND {quoted('index')} >= 0"
    return f"{table.name} AS NOT MATERIALIZED (SELECT * FROM {source} WHERE {seen})"
