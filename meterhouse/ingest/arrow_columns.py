"""The fast lane of Arrow streams: rows of the wire schema → columns, as `columns.py` does it for JSON text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meterhouse.ingest.arrow_read import wire_table
from meterhouse.ingest.arrow_text import Column, Mask, bare_text, present
from meterhouse.ingest.arrow_wire import row_json
from meterhouse.ingest.columns import Chunk, ColumnReader, Columns, only

_SURE_US: Final = range(-5_000_000_000_000_000, 7_000_000_000_000_000)
"""The years 1811 to 2191; others are the slow lane's."""


def read_rows(reader: ColumnReader, tables: Sequence[pa.Table]) -> Columns:
    """Reads the tables of `read_stream`, one after the other, a row each event."""
    whole = _joined([wire_table(table) for table in _joined_alike(tables)])
    columns = {
        name: column.chunk(0) if column.num_chunks else pa.array([], column.type)
        for name, column in zip(whole.column_names, whole.columns, strict=True)
    }
    return TypedChunk(reader, columns["id"], columns).read()


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _joined_alike(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Neighbours of one schema, which are nearly all, as one table: each table costs as much as a thousand rows."""
    for _, group in groupby(tables, key=lambda table: table.schema):
        alike = list(group)
        try:
            yield _joined(alike)
        except pa.ArrowException:
            yield from alike  # a dictionary with a null in it, say


BLOCK_ROWS: Final = 32
"""Rows that are made into Python's values together: one alone costs 300 µs, of a stream of bad ones each some 20."""


class ArrowRows(Sequence[bytes]):
    """The rows of some tables as JSON events, written when they are asked for: few are."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        self._tables = tables
        self._held: tuple[int, int] | None = None  # the table, and the block of its rows, that `_rows` are
        self._rows: list[dict[str, Any]] = []
        self._ends = np.cumsum([len(table) for table in tables])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        which = int(np.searchsorted(self._ends, at, side="right"))
        table = self._tables[which]
        place = at - (int(self._ends[which]) - len(table))
        block = (which, place // BLOCK_ROWS)
        if self._held != block:
            self._rows = _with_time_us(table.slice(block[1] * BLOCK_ROWS, BLOCK_ROWS)).to_pylist()
            self._held = block
        return row_json(self._rows[place % BLOCK_ROWS])


def _with_time_us(table: pa.Table) -> pa.Table:
    """The table with `time` as microseconds: Python's own times end with the year 9999."""
    if "time" not in table.column_names:
        return table
    times = wire_table(table.select(["time"]))["time"]
    return table.set_column(table.column_names.index("time"), "time", times)


class TypedChunk(Chunk):
    """Columns that are what they say: nothing is read out of text."""

    def _version(self) -> None:
        """Rows of the wire schema are of CloudEvents 1.0."""

    def _times(self, column: Column) -> tuple[NDArray[np.int64], Mask]:
        time_us = column.fill_null(0).to_numpy()
        return time_us, present(column) & (time_us >= _SURE_US.start) & (time_us < _SURE_US.stop)

    def _node_columns(self, rows: NDArray[np.int64]) -> dict[str, Column]:
        nodes = np.zeros(len(self._events), dtype=np.bool_)
        nodes[rows] = True
        return {name: only(nodes, self._columns[name]) for name in self.node_names}

    def _text(self, column: Column) -> Column:
        self._good &= bare_text(column)
        return column

    def _flag(self, name: str, column: Column) -> None:
        self._values[name] = column

    def _labels(self, column: Column) -> None:
        """An object as text begins with its brace; any other text is not labels, though "null" reads as none."""
        encoded = column.dictionary_encode()
        unfit = [code for code, word in enumerate(encoded.dictionary.to_pylist()) if not word.startswith("{")]
        if unfit:
            self._good &= ~np.isin(encoded.indices.fill_null(-1).to_numpy(), unfit)
        super()._labels(column)

    def _numbers(self, column: Column) -> Column:
        return column

    def _settle_doubts(self) -> None:
        """A text is a text, whatever it looks like."""
