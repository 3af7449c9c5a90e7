"""Arrow columns as numpy arrays without copies, and rows grouped by packed integer keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

Coded = tuple[npt.NDArray[np.integer[Any]], int]
"""A column of integers from 0 and their bound."""

MAX_PACKED: Final = 2**62
"""Packed keys stay below: one bit of int64 to spare."""
MAX_SPACE_PER_ROW: Final = 16
MIN_SPACE: Final = 2**16
"""Keys that a table of five bytes each may have: where clearing it still costs less than hashing the rows."""


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


def distinct(columns: Sequence[Coded]) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Groups rows that agree in all columns: (a row number for each group, the group of each row).

    Exact and unsorted. A small key space is looked up in a table, a large one hashed.
    """
    packed, size = pack(columns)
    if size <= max(len(packed) * MAX_SPACE_PER_ROW, MIN_SPACE):
        present = np.zeros(size, dtype=np.bool_)
        present[packed] = True
        groups = np.flatnonzero(present)
        group_of_key = np.empty(size, dtype=np.int32)
        group_of_key[groups] = np.arange(len(groups), dtype=np.int32)
        group = group_of_key.take(packed)
        return _row_of_each(group, len(groups)), group
    known, group = _hashed(packed)
    return _row_of_each(group, known), group


def pack(columns: Sequence[Coded]) -> tuple[Ints, int]:
    """One integer per row, equal where all columns are, and the bound of these integers.

    Where the sizes' product is beyond int64, what is packed so far is first renumbered.
    """
    first, size = columns[0]
    packed = first.astype(np.int64)
    for values, radix in columns[1:]:
        if radix == 1:
            continue
        if size * radix > MAX_PACKED:
            known, group = _hashed(packed)
            packed, size = group.astype(np.int64), max(known, 1)
        packed *= radix
        packed += values
        size *= radix
    return packed, size


def _hashed(keys: Ints) -> tuple[int, npt.NDArray[np.int32]]:
    """How many distinct keys there are, and for each row the place of its key among them."""
    encoded: Any = pc.dictionary_encode(pa.array(keys))
    return len(encoded.dictionary), encoded.indices.to_numpy()


def _row_of_each(group: npt.NDArray[np.int32], groups: int) -> Ints:
    rows = np.empty(groups, dtype=np.int64)
    rows[group] = np.arange(len(group))
    return rows
