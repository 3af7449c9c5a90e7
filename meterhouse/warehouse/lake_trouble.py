"""Trouble of the lake: which may pass, and what to do with a DuckDB that broke down."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

import duckdb

from meterhouse.warehouse.lake_turns import LakeError


class LakeUnavailable(LakeError):
    """Passing trouble of the catalogue or of the files: trying again may help."""


TROUBLE: Final = (duckdb.Error, OSError, LakeUnavailable)
"""What a lake in trouble raises; `passing` says whether it may pass."""

BROKEN: Final = (duckdb.FatalException, duckdb.InternalException)
_PASSING: Final = (
    duckdb.TransactionException, duckdb.IOException, duckdb.OutOfMemoryException, OSError, LakeUnavailable, *BROKEN,
)  # fmt: skip

_SIGNS: Final = ("TransactionContext Error", "server closed the connection", "Failed to prepare", "Failed to execute")


def passing(trouble: Exception) -> bool:
    """Whether trouble may pass: a conflict, a catalogue that is locked or down, a store that does not answer, a full
    disk. PostgreSQL that goes in the middle of a statement shows as whatever DuckDB was about to do, even as a broken
    assertion: then by its words."""
    if isinstance(trouble, _PASSING) or type(trouble) is duckdb.Error:
        return True
    return any(sign in str(trouble) for sign in _SIGNS)


def broken(trouble: Exception) -> bool:
    """Whether DuckDB broke down: this cursor will do nothing more."""
    return isinstance(trouble, BROKEN)


def put_away(cursor: duckdb.DuckDBPyConnection) -> None:
    """Closes a cursor, if it can be. Its transaction is ended before: where the catalogue is gone that fails, and to
    close it while the transaction is open would end the process."""
    try:
        cursor.execute("ROLLBACK")
    except BROKEN:
        bury(cursor)
    except duckdb.Error:
        cursor.close()
    else:
        cursor.close()


def bury(connection: duckdb.DuckDBPyConnection) -> None:
    """Keeps a connection of a DuckDB that broke down for ever: to close it in a transaction would end the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    """Ends a transaction that failed."""
    with suppress(duckdb.Error):  # after a failed COMMIT it is gone already; so it is when the catalogue is
        cursor.execute("ROLLBACK")
