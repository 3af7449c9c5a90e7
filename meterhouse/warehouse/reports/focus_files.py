"""A FOCUS export as the bytes of a file, a piece at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from meterhouse.warehouse.reports.focus import FocusExport
from meterhouse.warehouse.reports.focus_columns import FOCUS_VERSION, HEADER

GROUP_ROWS: Final = 65_536
"""Of a row group of Parquet: some 40 MB while it is gathered, and small enough to be read in parallel."""


def csv_pieces(export: FocusExport) -> Iterator[bytes]:
    """RFC 4180 in UTF-8 with a header. Values stand as they are: a file for programs may not be altered for the sake of
    spreadsheets, which take a cell that begins with = for a formula unless it is imported as text."""
    yield HEADER.encode()
    for lines in export.lines():
        if lines:
            yield lines.encode()


def parquet_pieces(export: FocusExport) -> Iterator[bytes]:
    """Parquet of Zstandard pages; beside its schema it says what it includes (`facts`). Cut short, it does not open."""
    sink, batches = io.BytesIO(), export.typed()
    empty = next(batches)
    metadata = {"focus_version": FOCUS_VERSION, **{f"meterhouse.{name}": v for name, v in facts(export).items()}}
    with pq.ParquetWriter(sink, empty.schema.with_metadata(metadata), compression="zstd") as writer:
        group: list[pa.RecordBatch] = []
        for batch in batches:
            group.append(batch)
            if sum(map(len, group)) >= GROUP_ROWS:
                yield from _written(writer, group, sink)
        yield from _written(writer, group, sink)
    yield sink.getvalue()


def facts(export: FocusExport) -> dict[str, str]:
    """What is to be known about a file beside its rows."""
    return {"snapshot": str(export.as_of.snapshot), "unpriced_requests": str(export.total.unpriced_requests)}


def _written(writer: pq.ParquetWriter, group: list[pa.RecordBatch], sink: io.BytesIO) -> Iterator[bytes]:
    """Writes a row group and hands over what came of it."""
    if group:
        writer.write_table(pa.Table.from_batches(group), row_group_size=2 * GROUP_ROWS)
        group.clear()
    if piece := sink.getvalue():
        yield piece
        sink.seek(0)
        sink.truncate()
