"""The Arrow lane's limits, each refused as a whole record with its bytes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from meterhouse.ingest.arrow_read import MAX_MESSAGES, MAX_ROWS, MAX_WRITTEN_OUT_BYTES
from meterhouse.ingest.arrow_wire import WIRE_SCHEMA, arrow_message, arrow_table
from meterhouse.ingest.batch import Reason, Reject
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.log import ARROW_STREAM, CONTENT_TYPE, Records
from tests.builders import records
from tests.properties.test_arrow_properties import SOUND, sent, stream


def refused(value: bytes) -> Reject:
    run = records([value])
    headers = [((CONTENT_TYPE, ARROW_STREAM.encode()),)]
    with Decoder() as decoder:
        done = decoder.decode(
            [Records(run.topic, run.partition, run.offsets, run.appended_us, run.keys, run.values, headers)],
            tenants=None,
        )
    assert not done.events.num_rows
    assert not done.forwards
    [reject] = done.rejects
    assert (reject.index, reject.payload, reject.tenant) == (-1, value, "acme")
    return reject


def one(**columns: Any) -> pa.Table:
    return pa.table({"id": ["e-1"], "source": ["/g"], **columns})


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_buffers_are_refused_before_they_are_opened(codec: str) -> None:
    reject = refused(stream(one(id=["x" * 10_000]), compression=codec))
    assert (reject.reason, "compressed" in reject.detail) == (Reason.NOT_A_CLOUDEVENT, True)


def test_a_compressed_dictionary_is_refused_too() -> None:
    table = one(model=pa.array(["x" * 10_000]).dictionary_encode())
    assert "compressed" in refused(stream(table, compression="zstd")).detail


def test_more_rows_than_the_limit_are_refused_whatever_they_cost() -> None:
    assert refused(stream(pa.table({"id": pa.nulls(MAX_ROWS + 1)}))).reason is Reason.TOO_LARGE


def test_many_little_batches_are_refused() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, one().schema) as writer:
        for _ in range(MAX_MESSAGES):
            writer.write_table(one())
    assert refused(sink.getvalue().to_pybytes()).reason is Reason.TOO_LARGE


def test_a_word_used_by_every_row_counts_as_often_as_it_is_used() -> None:
    word = "x" * (MAX_WRITTEN_OUT_BYTES // 1_000)
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 1_001), pa.array([word]))
    assert refused(stream(pa.table({"id": words}))).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "columns",
    [
        {"time": pa.array([0], pa.timestamp("us"))},
        {"time": ["2026-01-01T00:00:00Z"]},
        {"input_tokens": [1.0]},
        {"input_tokens": ["1"]},
        {"streamed": [1]},
        {"model": [b"atlas"]},
        {"model": [["atlas"]]},
        {"labels": [{"a": "1"}]},
    ],
)
def test_a_column_of_another_type_is_refused_by_name(columns: dict[str, Any]) -> None:
    reject = refused(stream(one(**columns)))
    assert (reject.reason, next(iter(columns)) in reject.detail) == (Reason.WRONG_TYPE, True)


def test_a_column_that_stands_twice_is_refused() -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"])
    assert refused(stream(table)).reason is Reason.WRONG_TYPE


def test_a_stream_of_something_else_is_refused() -> None:
    assert refused(stream(pa.table({"price": [1]}))).reason is Reason.MISSING_FIELD


def test_a_stream_of_no_rows_holds_no_event() -> None:
    run = records([stream(WIRE_SCHEMA.empty_table())])
    headers = [((CONTENT_TYPE, ARROW_STREAM.encode()),)]
    with Decoder() as decoder:
        done = decoder.decode([Records("t", 0, [0], [0], run.keys, run.values, headers)], tenants=None)
    assert (done.events.num_rows, done.rejects, done.forwards) == (0, [], [])


def test_numbers_beyond_64_bits_are_out_of_range_for_their_row_alone() -> None:
    big = pa.array([2**64 - 1, 5], pa.uint64())
    table = pa.Table.from_pylist([SOUND, {**SOUND, "id": "e-2"}], schema=WIRE_SCHEMA)
    table = table.set_column(table.column_names.index("duration_us"), "duration_us", big)
    run = records([stream(table)])
    headers = [((CONTENT_TYPE, ARROW_STREAM.encode()),)]
    with Decoder() as decoder:
        done = decoder.decode([Records("t", 0, [0], run.appended_us, run.keys, run.values, headers)], tenants=None)
    assert [reject.reason for reject in done.rejects] == [Reason.COUNT_OUT_OF_RANGE]
    assert done.events["duration_us"].to_pylist() == [5]


@pytest.mark.parametrize(
    ("time", "expected_us"),
    [
        (pa.array([1_793_491_200_123_456_789], pa.timestamp("ns", "UTC")), 1_793_491_200_123_456),
        (pa.array([1_793_491_200_123], pa.timestamp("ms", "UTC")), 1_793_491_200_123_000),
        (pa.array([1_793_491_200], pa.timestamp("s", "UTC")), 1_793_491_200_000_000),
    ],
)
def test_a_time_of_another_unit_is_floored_to_microseconds(time: Any, expected_us: int) -> None:
    table = pa.Table.from_pylist([SOUND], schema=WIRE_SCHEMA)
    table = table.set_column(table.column_names.index("time"), "time", time)
    headers = [((CONTENT_TYPE, ARROW_STREAM.encode()),)]
    with Decoder() as decoder:
        done = decoder.decode([Records("t", 0, [0], [expected_us], [b"acme"], [stream(table)], headers)], tenants=None)
    assert done.events["time"].cast(pa.int64()).to_pylist() == [expected_us]


def test_a_message_of_no_events_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no events"):
        arrow_message("acme", arrow_table([sent("e-1")]).slice(0, 0))
