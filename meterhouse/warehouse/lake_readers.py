"""Cursors that reads have used and others will use: to make one and to close it costs as much as a small query."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import duckdb

from meterhouse.warehouse.lake_trouble import put_away

MOST_IDLE: Final = 8
"""Requests that are answered at once, on a machine of a few cores; each keeps what the last read gave it, some MB at
most."""


class Readers:
    """Idle cursors of one lake. May be shared between threads; a cursor is one thread's while it is taken."""

    def __init__(self) -> None:
        self._idle: deque[tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection]] = deque()

    def take(
        self, connection: duckdb.DuckDBPyConnection, begin: Callable[[duckdb.DuckDBPyConnection], int]
    ) -> tuple[duckdb.DuckDBPyConnection, int] | None:
        """An idle cursor of this connection, and what `begin` gives for it. None: there is none that still works."""
        while self._idle:
            try:
                of, cursor = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if of is connection:
                try:
                    return cursor, begin(cursor)
                except duckdb.Error:
                    pass  # of a link that broke, or a DuckDB that did: one that is made anew tells
            put_away(cursor)
        return None

    def give_back(self, connection: duckdb.DuckDBPyConnection, cursor: duckdb.DuckDBPyConnection) -> None:
        """For a cursor whose transaction is over."""
        if len(self._idle) < MOST_IDLE:
            self._idle.append((connection, cursor))
        else:
            put_away(cursor)

    def close(self) -> None:
        while self._idle:
            put_away(self._idle.pop()[1])
