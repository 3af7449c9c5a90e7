"""Arrow columns as numpy arrays without copies, and rows grouped by packed integer keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

MAX_PACKED: Final = 2**62
"""Packed keys stay below: one bit of int64 to spare."""


def one_chunk(table: pa.Table) -> pa.Table:
    """The table with one dictionary per name column and at most one chunk per column. Free when it is so already."""
    if all(column.num_chunks <= 1 for column in table.columns):
        return table
    return table.unify_dictionaries().combine_chunks()


def chunk(column: pa.ChunkedArray[Any]) -> Any:
    """The column's one chunk. Typed Any: what it may be asked for depends on the column's type."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    raise ValueError("a column of several chunks: call one_chunk on the table first")


def int64s(column: pa.ChunkedArray[Any]) -> Ints:
    """An int64 column without nulls."""
    values: Ints = chunk(column).to_numpy()
    return values


def int32s(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.int32]:
    """An int32 column without nulls."""
    values: npt.NDArray[np.int32] = chunk(column).to_numpy()
    return values


def times_us(column: pa.ChunkedArray[Any]) -> Ints:
    """A timestamp column without nulls, as microseconds since 1970."""
    values: Ints = chunk(column).view(pa.int64()).to_numpy()
    return values


def names_of(column: pa.ChunkedArray[Any]) -> list[str]:
    """The dictionary of a name column; `codes_of` points into it."""
    names: list[str] = chunk(column).dictionary.to_pylist()
    return names


def codes_of(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.int32]:
    """The codes of a name column; null is -1."""
    indices = chunk(column).indices
    codes: npt.NDArray[np.int32] = (indices.fill_null(-1) if indices.null_count else indices).to_numpy()
    return codes


def distinct(keys: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Distinct values in order of appearance, and per row the place of its value among them: a hash, not a sort."""
    encoded: Any = pc.dictionary_encode(pa.array(keys))
    return encoded.dictionary.to_numpy(), encoded.indices.to_numpy()


def one_row_each(group: npt.NDArray[np.int32], groups: int) -> Ints:
    """For each group the number of a row of it."""
    rows = np.empty(groups, dtype=np.int64)
    rows[group] = np.arange(len(group))
    return rows


def pack(columns: Sequence[tuple[npt.NDArray[np.integer[Any]], int]]) -> Ints:
    """One integer per row, equal where all columns are.

    `columns`: (values, size) with 0 <= value < size. Where the sizes' product is beyond int64, what is packed so far
    is first renumbered.
    """
    packed, size = columns[0][0].astype(np.int64), columns[0][1]
    for values, radix in columns[1:]:
        if size * radix > MAX_PACKED:
            known, packed32 = distinct(packed)
            packed, size = packed32.astype(np.int64), max(len(known), 1)
        packed *= radix
        packed += values
        size *= radix
    return packed
