"""Bytes of an Arrow IPC stream → a table of the wire's columns, within limits whatever the bytes are. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

from meterhouse.ingest.arrow_text import Column, pc
from meterhouse.ingest.arrow_wire import WIRE_SCHEMA
from meterhouse.ingest.batch import NAME, TIME, Reason

MAX_ROWS: Final = 65_536
"""Events of one record: what the fast lane reads at a time. An event takes some 100 bytes, so 6 MB."""
MAX_MESSAGES: Final = 256
"""Of one stream: dictionaries and batches. Each costs as much as hundreds of rows, however small it is."""
MAX_COLUMNS: Final = 256
"""The wire has 28; more than that of others is a table of something else."""
MAX_WRITTEN_OUT_BYTES: Final = 64 * 1024 * 1024
"""Of a record's dictionary texts, each as often as it is used: a word of a kilobyte in 65,536 rows."""

_DAMAGE: Final = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, struct.error)
"""What Arrow's reader and ours raise at bytes that are no stream; ArrowInvalid is a ValueError, as is a name that is
not UTF-8."""
_DICTIONARY, _RECORD_BATCH = 2, 3


class Unreadable(ValueError):
    """A whole record is refused; the message says why and what to do."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def read_stream(value: bytes) -> pa.Table:
    """The events of a record: the columns of WIRE_SCHEMA that it has, as they were sent. Raises Unreadable.

    Nothing is allocated for what a record merely claims: compressed buffers are refused, and batches are views of the
    record's own bytes, checked through before anything follows an offset or an index in them.
    """
    try:
        _check_messages(value)
        reader = pa.ipc.open_stream(value)
        schema = reader.schema
        if len(schema) > MAX_COLUMNS:
            raise Unreadable(Reason.TOO_LARGE, f"The stream has {len(schema)} columns, the limit is {MAX_COLUMNS}.")
        known = [at for at, name in enumerate(schema.names) if name in WIRE_SCHEMA.names]
        _check_types(schema, known)
        if len(known) < len(schema):
            reader = pa.ipc.open_stream(value, options=pa.ipc.IpcReadOptions(included_fields=known))
        batches = list(_batches(reader))
    except Unreadable:
        raise
    except _DAMAGE as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        detail = f"The record's bytes are no Arrow IPC stream: {said}. Send what an IPC stream writer wrote, unchanged."
        raise Unreadable(Reason.NOT_A_CLOUDEVENT, detail) from None
    # Without a known column there is nothing to judge a row by, and no row to count.
    if not known:
        detail = f"The stream has none of the columns of usage events: {', '.join(WIRE_SCHEMA.names[:5])}, ..."
        raise Unreadable(Reason.MISSING_FIELD, detail)
    table = pa.Table.from_batches(batches, pa.schema([schema.field(at) for at in known]))
    _check_written_out(table)
    return table


def wire_table(table: pa.Table) -> pa.Table:
    """A table of `read_stream` with all columns of WIRE_SCHEMA, `time` in microseconds as int64; what has no place in
    these types is a number that no row may have."""
    columns = [
        _converted(_whole(table[name]), type_) if name in table.column_names else _nulls(len(table), type_)
        for name, type_ in zip(WIRE_SCHEMA.names, WIRE_SCHEMA.types, strict=True)
    ]
    return pa.table(dict(zip(WIRE_SCHEMA.names, columns, strict=True)))


def _check_messages(value: bytes) -> None:
    reader = pa.ipc.MessageReader.open_stream(value)
    for _ in range(MAX_MESSAGES):
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if _is_compressed(memoryview(message.metadata)):
            detail = "The stream's buffers are compressed: send them plain, the log compresses whole records."
            raise Unreadable(Reason.NOT_A_CLOUDEVENT, detail)
    raise Unreadable(Reason.TOO_LARGE, f"The stream has over {MAX_MESSAGES} messages: send one batch in a record.")


def _is_compressed(metadata: memoryview) -> bool:
    """Whether a message says that its body is compressed. pyarrow does not tell, so the flatbuffer is read here:
    Message {1: header type, 2: header}, DictionaryBatch {1: data}, RecordBatch {3: compression}."""
    message = _target(metadata, 0)
    kind_at, header_at = _field(metadata, message, 1), _field(metadata, message, 2)
    kind = metadata[kind_at] if kind_at else 0
    if kind not in (_DICTIONARY, _RECORD_BATCH) or not header_at:
        return False
    batch = _target(metadata, header_at)
    if kind == _DICTIONARY:
        data_at = _field(metadata, batch, 1)
        if not data_at:
            return False
        batch = _target(metadata, data_at)
    return bool(_field(metadata, batch, 3))


def _field(metadata: memoryview, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table is, 0 if it is absent."""
    lookup = table - struct.unpack_from("<i", metadata, table)[0]
    entry = 4 + 2 * number
    if lookup < 0 or entry + 2 > struct.unpack_from("<H", metadata, lookup)[0]:
        return 0
    offset: int = struct.unpack_from("<H", metadata, lookup + entry)[0]
    return table + offset if offset else 0


def _target(metadata: memoryview, at: int) -> int:
    offset: int = struct.unpack_from("<I", metadata, at)[0]
    return at + offset


def _check_types(schema: pa.Schema, known: list[int]) -> None:
    names = [schema.field(at).name for at in known]
    if len(set(names)) < len(names):
        raise Unreadable(Reason.WRONG_TYPE, "A column stands in the stream twice: name each once.")
    for at in known:
        field = schema.field(at)
        wanted = WIRE_SCHEMA.field(field.name).type
        if not pa.types.is_null(field.type) and not _fits(field.type, wanted):
            detail = f"The column {field.name} is of type {str(field.type)[:80]}: send it as {wanted} or a form of it."
            raise Unreadable(Reason.WRONG_TYPE, detail)


def _fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    if wanted == TIME:
        return isinstance(given, pa.TimestampType) and given.tz is not None
    if pa.types.is_boolean(wanted):
        return pa.types.is_boolean(given)
    if pa.types.is_integer(wanted):
        return pa.types.is_integer(given)
    return _is_text(given.value_type if isinstance(given, pa.DictionaryType) else given)


def _is_text(given: pa.DataType) -> bool:
    return pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in reader:
        rows += batch.num_rows
        if rows > MAX_ROWS:
            raise Unreadable(Reason.TOO_LARGE, f"The stream has over {MAX_ROWS} rows: send several records.")
        batch.validate(full=True)
        yield batch


def _check_written_out(table: pa.Table) -> None:
    parts: list[Any] = [
        part for column in table.columns if isinstance(column.type, pa.DictionaryType) for part in column.chunks
    ]
    # Nearly always enough: every row has the longest word, all of them together.
    if len(table) * sum(part.dictionary.nbytes for part in parts) <= MAX_WRITTEN_OUT_BYTES:
        return
    total = 0
    for part in parts:
        lengths = pc.binary_length(part.dictionary.cast(pa.large_string()))
        total += pc.sum(lengths.take(part.indices)).as_py() or 0
    if total > MAX_WRITTEN_OUT_BYTES:
        detail = f"The stream's texts are {total} bytes written out, the limit is {MAX_WRITTEN_OUT_BYTES}."
        raise Unreadable(Reason.TOO_LARGE, detail)


def _whole(column: Any) -> Column:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _nulls(size: int, wanted: Any) -> Column:
    return pa.nulls(size, pa.int64() if wanted == TIME else wanted)


def _converted(column: Column, wanted: Any) -> Column:
    if pa.types.is_null(column.type):
        return _nulls(len(column), wanted)
    if wanted == TIME:
        return _microseconds(column)
    if wanted == NAME:
        return _encoded(column)
    if pa.types.is_uint64(column.type):
        # Beyond 63 bits they turn out below 0: no row may have such a number either.
        signed = column.fill_null(0).to_numpy().view(np.int64)
        return pa.array(signed, mask=column.is_null().to_numpy(zero_copy_only=False))
    return column.cast(wanted)


def _microseconds(column: Column) -> Column:
    """Times as int64, floored; what 64 bits cannot say in microseconds is the far end of them."""
    values = column.cast(pa.int64())
    match column.type.unit:
        case "us":
            return values
        case "ns":
            floored = values.fill_null(0).to_numpy() // 1_000
        case unit:
            per = {"s": 1_000_000, "ms": 1_000}[unit]
            limit = (2**63 - 1) // per
            floored = np.clip(values.fill_null(0).to_numpy(), -limit, limit) * per
    return pa.array(floored, mask=values.is_null().to_numpy(zero_copy_only=False))


def _encoded(column: Column) -> Column:
    """Text of few values as NAME, each word once."""
    if not pa.types.is_dictionary(column.type):
        return column.cast(pa.string()).dictionary_encode()
    words = column.dictionary.to_pylist()
    if None in words or len(set(words)) < len(words):
        return column.cast(column.type.value_type).cast(pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(column.indices.cast(pa.int32()), column.dictionary.cast(pa.string()))
