"""Events as an Arrow IPC stream: the wire schema, and how an event is written in it. Pure.

A row is a CloudEvent: its attributes and the fields of its `data` side by side, a null where one is absent, counts
inclusive. `row_json` says which CloudEvent a row is, and so what it means: it is metered, refused or forwarded as that
JSON would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pyarrow as pa

from meterhouse.ingest.batch import NAME, TIME
from meterhouse.ingest.encode import record_key, to_object
from meterhouse.ingest.event import Event
from meterhouse.ingest.fields import FIELDS, Field
from meterhouse.ingest.log import ARROW_STREAM, CONTENT_TYPE, Headers, Message
from meterhouse.ingest.split import MAX_DEPTH, depth

DATA_FIELDS: Final[dict[str, Field]] = {field.name: field for fields in FIELDS.values() for field in fields}
"""Every field of `data`, of either type."""
ENVELOPE: Final = {"id": pa.string(), "source": NAME, "type": NAME, "subject": NAME, "time": TIME}

_TYPES: Final = {
    "name": NAME, "status": NAME, "text": pa.string(), "labels": pa.string(), "flag": pa.bool_(), "count": pa.int64(),
    "http_status": pa.int64(),
}  # fmt: skip
WIRE_SCHEMA: Final = pa.schema(
    [*ENVELOPE.items(), *((field.name, _TYPES[field.kind]) for field in DATA_FIELDS.values())]
)
"""All columns, as `arrow_table` writes them. `labels` is a JSON object as text. A reader also takes text plain or of
any dictionary, whole numbers of any size, times of any unit with a zone; columns that it does not know it ignores."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEADERS: Final[Headers] = ((CONTENT_TYPE, ARROW_STREAM.encode()),)


def arrow_table(events: Sequence[Event]) -> pa.Table:
    """Events as rows of WIRE_SCHEMA, without columns that no event has. Raises ValueError as `to_json` does."""
    rows = []
    for event in events:
        whole = to_object(event)
        data = whole.pop("data")
        if "labels" in data:
            data["labels"] = msgspec.json.encode(data["labels"]).decode()
        rows.append({**whole, **data, "time": event.time})
    present = set().union(*rows)
    return pa.Table.from_pylist(rows, schema=pa.schema([field for field in WIRE_SCHEMA if field.name in present]))


def arrow_message(tenant: str | None, table: pa.Table, appended_us: int | None = None) -> Message:
    """A record of the table's events, all of one tenant, keyed by it. Buffers are plain: the log compresses."""
    if not len(table):
        raise ValueError("a batch of no events: send at least one")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        # One batch: a dictionary that differs from the batch before would be sent again.
        writer.write_table(table.unify_dictionaries().combine_chunks())
    return Message(record_key(tenant), sink.getvalue().to_pybytes(), _HEADERS, appended_us=appended_us)


def row_json(row: Mapping[str, Any]) -> bytes:
    """The CloudEvent that a row is: JSON in UTF-8. `row`: its cells by name, `time` in microseconds since 1970."""
    event: dict[str, Any] = {"specversion": "1.0"}
    for name in ENVELOPE:
        if row.get(name) is not None:
            event[name] = _time_text(row[name]) if name == "time" else row[name]
    data = {name: row[name] for name in DATA_FIELDS if row.get(name) is not None}
    if "labels" in data:
        data["labels"] = _labels(data["labels"])
    event["data"] = data
    return msgspec.json.encode(event)


def _time_text(time_us: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time_us)).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        return f"{time_us} microseconds since 1970"  # beyond the years that RFC 3339 can say


def _labels(text: str) -> object:
    """Labels as JSON where they are an object, else as the text that they are, which no label is."""
    if depth(text) > MAX_DEPTH:
        return text
    try:
        return msgspec.Raw(text.encode()) if isinstance(msgspec.json.decode(text), dict) else text
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text
