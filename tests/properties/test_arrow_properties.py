"""Laws of the Arrow lane: a row means what its CloudEvent means, and no bytes do harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meterhouse.ingest.arrow_wire import DATA_FIELDS, WIRE_SCHEMA, arrow_message, arrow_table
from meterhouse.ingest.batch import Decoded
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.encode import to_json
from meterhouse.ingest.event import INFERENCE_TYPE, MAX_COUNT, REQUEST_TYPE, UsageEvent
from meterhouse.ingest.log import ARROW_STREAM, CONTENT_TYPE, Headers, Records
from tests.builders import T0_US, records

MODERATE: Final = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ARROW: Final[Headers] = ((CONTENT_TYPE, ARROW_STREAM.encode()),)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Decoder, Decoder]]:
    with Decoder(lanes="all") as normal, Decoder(lanes="slow") as slow:
        yield normal, slow


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def sent(id_: str) -> UsageEvent:
    time = EPOCH + timedelta(microseconds=T0_US)
    return UsageEvent(
        id=id_, source="/g", tenant="acme", time=time, application="a", model="m", provider="p", labels={"b": "1"},
        input_tokens=7, duration_us=5, streamed=False,
    )  # fmt: skip


def arrow_records(*values: bytes | None, key: bytes | None = b"acme") -> Records:
    run = records(values, keys=[key] * len(values))
    return Records(run.topic, run.partition, run.offsets, run.appended_us, run.keys, run.values, [ARROW] * len(run))


# --- a row and its CloudEvent ----------------------------------------------------------------------------------------

TEXTS: Final = (
    "acme",
    "atlas",
    "12",
    "true",
    "",
    "é",
    "a\nb",
    "x\x7f",
    "\\",
    '"',
    "[1]",
    "x" * 256,
    "x" * 257,
    "é" * 129,
)
CELLS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "name": st.sampled_from(TEXTS),
    "text": st.sampled_from(TEXTS),
    "status": st.sampled_from(("ok", "error", "fine", "")),
    "flag": st.booleans(),
    "labels": st.sampled_from(
        (
            "{}",
            '{"b":"1","a":"2"}',
            '{"a":"1","a":"2"}',
            '{"a":1}',
            "[1]",
            "no",
            "",
            "null",
            '{"a":"\\u0001"}',
            "{" * 99,
        )
    ),
    "http_status": st.sampled_from((200, 99, 1000, 65_636, -1)),
    "count": st.sampled_from((0, 1, 30, 100, MAX_COUNT, MAX_COUNT + 1, -1, 2**63 - 1)),
}
SOUND: Final = {
    "id": "e-1", "source": "/gateway/1", "type": REQUEST_TYPE, "subject": "acme", "time": T0_US, "application": "a",
    "model": "atlas", "provider": "p", "status": "ok", "request_id": "r-1", "input_tokens": 100, "output_tokens": 50,
    "node": "n7",
}  # fmt: skip
TIMES: Final = (T0_US, T0_US + 1, T0_US + 3_600_000_000, T0_US + 3_600_000_001, -1, 0, 10**15, 2**60, T0_US - 10**13)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    row = dict(SOUND)
    if draw(st.integers(0, 3)) == 0:
        row["type"] = INFERENCE_TYPE
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(WIRE_SCHEMA.names))
        match name:
            case "time":
                cell: Any = draw(st.sampled_from(TIMES))
            case "type":
                cell = draw(st.sampled_from((REQUEST_TYPE, INFERENCE_TYPE, "other", "")))
            case _:
                cell = draw(CELLS[DATA_FIELDS[name].kind if name in DATA_FIELDS else "text"])
        row[name] = draw(st.sampled_from((cell, cell, None)))
    return row


def cloud_event(row: dict[str, Any]) -> bytes:
    """The row as JSON, written here by other means than the product's."""
    cells = {name: cell for name, cell in row.items() if cell is not None}
    whole = {"specversion": "1.0", **{n: c for n, c in cells.items() if n not in DATA_FIELDS}}
    if "time" in whole:
        try:
            moment = EPOCH + timedelta(microseconds=whole["time"])
            whole["time"] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
        except OverflowError:
            whole["time"] = f"{whole['time']} microseconds since 1970"
    data = {name: cell for name, cell in cells.items() if name in DATA_FIELDS}
    labels = data.get("labels", "")
    text = json.dumps({**whole, "data": data})
    if labels.startswith("{") and labels.endswith("}"):
        text = text.replace(f'"labels": {json.dumps(labels)}', f'"labels": {labels}')
    return text.encode()


@st.composite
def tables(draw: st.DrawFn, of: list[dict[str, Any]]) -> pa.Table:
    """The rows in some of the forms that a column may have."""
    columns: dict[str, pa.Array[Any]] = {}
    for field in WIRE_SCHEMA:
        cells = [row.get(field.name) for row in of]
        if all(cell is None for cell in cells) and draw(st.booleans()):
            continue
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name == "time":
            plain = pa.timestamp("us", draw(st.sampled_from(("UTC", "Europe/Berlin"))))
        array: Any = pa.array(cells, plain)
        if plain == pa.string():
            array = array.cast(draw(st.sampled_from((pa.string(), pa.large_string(), pa.string_view()))))
            if draw(st.booleans()) and not pa.types.is_string_view(array.type):
                array = array.dictionary_encode()
            elif draw(st.booleans()):
                indices: Any = pa.array(range(len(cells)), draw(st.sampled_from((pa.int8(), pa.uint32(), pa.int64()))))
                array = pa.DictionaryArray.from_arrays(indices, pa.array(cells, pa.string()))
        columns[field.name] = array
    columns["unknown"] = pa.array([{"prompt": ["text"]}] * len(of))
    table = pa.table(columns)
    cut = draw(st.integers(0, len(table)))
    parts = [table.slice(0, cut), table.slice(cut)]
    return pa.concat_tables(parts) if draw(st.booleans()) else table


def told(done: Decoded) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    def plain(payload: bytes) -> Any:
        return json.loads(payload)

    return (
        done.events.to_pylist(),
        [(r.offset, r.index, r.arrived_us, r.reason, r.detail, r.tenant, plain(r.payload)) for r in done.rejects],
        [(f.tenant, f.partition, f.offset, f.index, plain(f.payload)) for f in done.forwards],
    )


@settings(MODERATE, max_examples=300)
@given(
    st.lists(rows(), min_size=1, max_size=5),
    st.data(),
    st.sampled_from([None, {"acme"}]),
    st.sampled_from([b"acme", None]),
)
def test_a_row_is_metered_refused_or_forwarded_as_its_json_is(
    both: tuple[Decoder, Decoder], of: list[dict[str, Any]], data: st.DataObject, tenants: set[str] | None, key: bytes
) -> None:
    table = data.draw(tables(of))
    json_record = records([b"[" + b",".join(map(cloud_event, of)) + b"]"], keys=[key])
    by_json = told(both[1].decode([json_record], tenants=tenants))
    for decoder in both:
        assert told(decoder.decode([arrow_records(stream(table), key=key)], tenants=tenants)) == by_json


@MODERATE
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_json_and_arrow_records_may_stand_in_any_order(
    both: tuple[Decoder, Decoder], shapes: list[list[bool]], data: st.DataObject
) -> None:
    """True: a sound row."""
    payloads, values, headers = [], [], []
    for number, shape in enumerate(shapes):
        of = [{**SOUND, "id": f"{number}-{n}", "status": "ok" if sound else "x"} for n, sound in enumerate(shape)]
        as_json = b"[" + b",".join(map(cloud_event, of)) + b"]"
        is_arrow = data.draw(st.booleans())
        payloads.append(as_json)
        values.append(stream(pa.Table.from_pylist(of, schema=WIRE_SCHEMA)) if is_arrow else as_json)
        headers.append(ARROW if is_arrow else ())
    mixed = records(values)
    mixed = Records(mixed.topic, 0, mixed.offsets, mixed.appended_us, mixed.keys, mixed.values, headers)
    expected = told(both[1].decode([records(payloads)], tenants=None))
    for decoder in both:
        assert told(decoder.decode([mixed], tenants=None)) == expected


@MODERATE
@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4, unique=True))
def test_an_event_sent_as_json_and_as_arrow_has_one_key(both: tuple[Decoder, Decoder], ids: list[str]) -> None:
    events = [sent(id_) for id_ in ids]
    as_json = records([b"[" + b",".join(map(to_json, events)) + b"]"], keys=[events[0].tenant.encode()])
    message = arrow_message(events[0].tenant, arrow_table(events))
    as_arrow = arrow_records(message.value, key=message.key)
    assert message.headers == ARROW
    assert told(both[0].decode([as_json], tenants=None)) == told(both[0].decode([as_arrow], tenants=None))


# --- bytes that do harm ----------------------------------------------------------------------------------------------

GOOD: Final = stream(pa.Table.from_pylist([SOUND, {**SOUND, "id": "e-2"}], schema=WIRE_SCHEMA))


@settings(MODERATE, max_examples=1000)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8)), max_size=3), st.data())
@example([], None)
def test_damaged_streams_harm_nobody(
    both: tuple[Decoder, Decoder], spots: list[tuple[int, bytes]], data: st.DataObject | None
) -> None:
    damaged = bytearray(GOOD)
    for at, with_ in spots:
        damaged[at : at + len(with_)] = with_
    value = bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data and data.draw(st.booleans()) else damaged)
    normal, slow = (decoder.decode([arrow_records(value, GOOD)], tenants=None) for decoder in both)
    assert normal.events.to_pylist() == slow.events.to_pylist()
    assert [(r.index, r.reason, r.payload) for r in normal.rejects] == [
        (r.index, r.reason, r.payload) for r in slow.rejects
    ]
    assert normal.events.num_rows >= 2
    for reject in normal.rejects:
        assert reject.index >= 0 or reject.payload == value
