"""Rows as the lake's Parquet files.

Arrow writes them in a quarter of the time that an INSERT into a partitioned table takes; the catalogue is then told of
them in the transaction that they belong to. They are safe in their store before that: a catalogue that survives a power
cut must not name files that did not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.batch import KEY, NAME, TIME
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.warehouse.lake_schema import PERSONAL, LakeTable
from meterhouse.warehouse.lake_store import NewFile

_UNITS: Final = {"day": "D", "month": "M"}
_INTEGERS: Final = (pa.int64(), TIME)
_CODES: Final = (NAME, pa.int16(), pa.int32())
# Of one event, and of few different values: the time to the first token follows the input's length.
_MEASURED: Final = (*(kind.tokens for kind in TOKEN_KINDS), "cost_pico", "time_to_first_token_us")


def files_of(table: LakeTable, rows: pa.Table, folder: str) -> list[NewFile]:
    """Rows of the table's schema as files below `folder`, one for each calendar period that they touch."""
    return [
        NewFile(f"{folder}/{part}/{uuid4()}.parquet", part_rows, _options(table))
        for part, part_rows in _by_period(table, rows)
    ]


def merged_file(table: LakeTable, path: str, rows: pa.RecordBatchReader) -> NewFile:
    """Rows of the table as DuckDB hands them over, as the file `path`."""
    # Without loss of types a truth value comes as a byte of a type that Parquet does not know.
    truths = [field.type == pa.bool8() for field in rows.schema]
    fields = [field.with_type(pa.bool_()) if truth else field for field, truth in zip(rows.schema, truths, strict=True)]
    schema = pa.schema(fields)

    def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = zip(batch.columns, truths, strict=True)
        arrays = [column.storage.cast(pa.bool_()) if truth else column for column, truth in columns]  # type: ignore[attr-defined]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    return NewFile(path, pa.RecordBatchReader.from_batches(schema, map(plain, rows)), _options(table))


def _by_period(table: LakeTable, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each period, in their order, and the folder that belongs to it."""
    if rows.num_rows == 0:
        return
    rows = _with_uuids(rows)
    times = pc.cast(rows[table.time_column], pa.int64()).to_numpy().view("datetime64[us]")
    unit = f"datetime64[{_UNITS[table.period]}]"
    earliest, latest = times.min().astype(unit), times.max().astype(unit)
    if earliest == latest:  # nearly always, and numpy takes 40 ns for a time's day
        yield _part(earliest, table.period), rows
        return
    periods = times.astype(unit)
    order = np.argsort(periods, kind="stable")
    found, first = np.unique(periods[order], return_index=True)
    sorted_rows = rows.take(order)
    for period, start, stop in zip(found, first, [*first[1:], len(order)], strict=True):
        yield _part(period, table.period), sorted_rows.slice(int(start), int(stop - start))


def _part(period: np.datetime64, unit: str) -> str:
    """A period's folder, named as the catalogue names partitions: it reads the values from there."""
    year, month, *day = str(period).split("-")
    parts = [f"year={int(year)}", f"month={int(month)}"]
    return "/".join([*parts, f"day={int(day[0])}"] if unit == "day" else parts)


def _with_uuids(rows: pa.Table) -> pa.Table:
    """The same rows with keys as UUIDs: the same 16 bytes, in a type that the lake stores as such."""
    for place, field in enumerate(rows.schema):
        if field.type == KEY:
            uuids = [pa.ExtensionArray.from_storage(pa.uuid(), chunk) for chunk in rows.column(place).chunks]
            column = pa.chunked_array(uuids, pa.uuid())  # type: ignore[call-overload]  # stubs know no extension types
            return rows.set_column(place, field.name, column)
    return rows


def _options(table: LakeTable) -> dict[str, Any]:
    """How columns are encoded: as codes where values repeat, as differences where integers are times, places in the log
    or sums. 4 bytes an event smaller than plain, and faster."""
    measured = () if table.keys else _MEASURED
    codes = [field.name for field in table.schema if field.type in _CODES or field.name in measured]
    return {
        "compression": "zstd",
        "compression_level": 3,  # half a per cent smaller than 1, for 3 % of the time
        "use_dictionary": codes,
        "column_encoding": {
            field.name: "DELTA_BINARY_PACKED"
            for field in table.schema
            if field.type in _INTEGERS and field.name not in codes
        },
        "write_statistics": [name for name in table.schema.names if name not in PERSONAL],
        "store_schema": False,
    }
