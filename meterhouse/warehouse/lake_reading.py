"""Reads that begin when something is asked of them.

To begin a read transaction costs DuckLake a query of its catalogue, 3 to 5 ms. A report whose rows are all kept asks
the lake only which snapshot is the newest, which the one process that writes it knows (`lake_writing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import duckdb

from meterhouse.warehouse.lake import Lake


class Reading:
    """A read of one snapshot: a cursor whose transaction begins when it is first used. A commit may come before that:
    then the transaction sees a later snapshot, and tables are to be read as they were `at` this one."""

    def __init__(self, lake: Lake, until: ExitStack, assumed: int | None) -> None:
        self._lake, self._until = lake, until
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._seen = -1
        self.snapshot = self._begin() if assumed is None else assumed

    def _begin(self) -> int:
        self._cursor = self._until.enter_context(self._lake.read())
        self._seen = self._lake.snapshot_id(self._cursor)
        return self._seen

    def at(self) -> int | None:
        """The snapshot that tables are to be read at. None: they are as the transaction, which begins, sees them."""
        if self._cursor is None:
            self._begin()
        return None if self._seen == self.snapshot else self.snapshot

    def execute(self, query: str, parameters: Any = None, /) -> duckdb.DuckDBPyConnection:
        """Names no table as it was unless the query says so: see `at`."""
        return self._begun().execute(query, parameters)

    def register(self, view_name: str, python_object: object, /) -> duckdb.DuckDBPyConnection:
        return self._begun().register(view_name, python_object)

    def _begun(self) -> duckdb.DuckDBPyConnection:
        if self._cursor is None:
            self._begin()
        assert self._cursor is not None
        return self._cursor


@contextmanager
def reading(lake: Lake, assumed: int | None) -> Iterator[Reading]:
    """A read of the newest snapshot, or of the one that is `assumed` to be that (`Writing.newest`): then its
    transaction begins when it is needed. Raises what `Lake.read` raises."""
    with ExitStack() as until:
        yield Reading(lake, until, assumed)
