"""The lake as reports read it: the whole of it, or as much as someone may see.

Reports say `FROM charges` and know of no views. What they read is cut here, in the one place that all their queries
pass: before a query runs, each table that it names is put in its own name's place as a part of that table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import duckdb

from meterhouse.warehouse.lake import Cursor, Lake
from meterhouse.warehouse.lake_schema import REJECTS, TABLES, LakeTable, quoted
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
    read in the past: who reads it knows them (`Freshness.positions`)."""

    def __init__(self, lake: Lake, view: View, at: int | None = None) -> None:
        self._lake, self._view, self._at = lake, view, at

    @contextmanager
    def read(self) -> Iterator[Cursor]:
        """Raises SnapshotExpired when `at` is no longer kept."""
        try:
            with self._lake.read() as cursor:
                whole = self._view.is_whole and self._at is None
                yield cursor if whole else _CutCursor(cursor, self._view, self._at)
        except duckdb.Error:
            self._check_kept()
            raise
        self._check_kept()

    def _check_kept(self) -> None:
        if self._at is not None:
            self._lake.check_kept(self._at)

    def snapshot_id(self, cursor: Cursor) -> int:
        return self._lake.snapshot_id(cursor) if self._at is None else self._at


@dataclass(frozen=True, slots=True)
class _CutCursor:
    """Runs queries over what is seen of each table. Parameters are named ones."""

    whole: duckdb.DuckDBPyConnection
    view: View
    at: int | None

    def execute(self, query: str, parameters: Mapping[str, Any] | None = None, /) -> duckdb.DuckDBPyConnection:
        named = [table for table in TABLES if re.search(rf"\b{table.name}\b", query)]
        if not named:
            return self.whole.execute(query, parameters or {})
        parts = ", ".join(f"{table.name} AS NOT MATERIALIZED ({_part(table, self.view, self.at)})" for table in named)
        params = {**(parameters or {}), **_params(self.view)}
        asked = query.lstrip()
        joined = f"WITH {parts}, {asked[5:]}" if asked.startswith("WITH ") else f"WITH {parts}\n{asked}"
        return self.whole.execute(joined, {name: params[name] for name in params if f"${name}" in joined})

    def register(self, view_name: str, python_object: object, /) -> duckdb.DuckDBPyConnection:
        return self.whole.register(view_name, python_object)


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


def _part(table: LakeTable, view: View, at: int | None) -> str:
    """The rows of a table that are seen, as it is or as it was in the snapshot `at`.

    What has no application is seen with its whole tenant only; a rejected record may hold events of others than its key
    says, so that whole records are nobody's.
    """
    source = f"lake.{table.name}" if at is None else f"lake.{table.name} AT (VERSION => {at:d})"
    if view.is_whole:
        return f"SELECT * FROM {source}"
    seen = f'list_contains(${_TENANTS}::VARCHAR[], "tenant")'
    if "application" in table.schema.names:
        seen += (
            f" OR list_contains(${_APPLICATIONS}::STRUCT(tenant VARCHAR, application VARCHAR)[],"
            " {'tenant': \"tenant\", 'application': \"application\"})"
        )
    if table is REJECTS:
        seen = f"{seen} AND {quoted('index')} >= 0"
    return f"SELECT * FROM {source} WHERE {seen}"
