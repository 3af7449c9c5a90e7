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
        self._begun: tuple[duckdb.DuckDBPyConnection, int] | None = None
        self.snapshot = self._begin()[1] if assumed is None else assumed

    def _begin(self) -> tuple[duckdb.DuckDBPyConnection, int]:
        """The cursor, whose transaction begins at the latest now, and the snapshot that this one sees."""
        if self._begun is None:
            self._begun = self._until.enter_context(self._lake.begun())
        return self._begun

    def at(self) -> int | None:
        """The snapshot that tables are to be read at. None: they are as the transaction, which begins, sees them."""
        return None if self._begin()[1] == self.snapshot else self.snapshot

    def execute(self, query: str, parameters: Any = None, /) -> duckdb.DuckDBPyConnection:
        """Names no table as it was unless the query says so: see `at`."""
        return self._begin()[0].execute(query, parameters)

    def register(self, view_name: str, python_object: object, /) -> duckdb.DuckDBPyConnection:
        return self._begin()[0].register(view_name, python_object)


@contextmanager
def reading(lake: Lake, assumed: int | None) -> Iterator[Reading]:
    """A read of the newest snapshot, or of the one that is `assumed` to be that (`Writing.newest`): then its
    transaction begins when it is needed. Raises what `Lake.read` raises."""
    with ExitStack() as until:
        yield Reading(lake, until, assumed)
