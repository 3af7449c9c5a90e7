"""The bench's workload on a real Kafka: records of one event, of many as JSON, of many as an Arrow stream."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from bench.workload import APPLICATIONS, MODELS, TENANTS, Workload, records
from meterhouse.api.clock import now_us
from meterhouse.ingest.arrow_wire import ENVELOPE, WIRE_SCHEMA, arrow_message
from meterhouse.ingest.event import REQUEST_TYPE
from meterhouse.ingest.log import USAGE_EVENTS, Message, partition_of

PARTITIONS: Final = 4
HOUR_US: Final = 3_600_000_000
FLUSH_S: Final = 120


def json_messages(events: int, per_record: int) -> Iterator[Message]:
    run = records(Workload(events=events, events_per_record=per_record, start_us=now_us() - HOUR_US))
    for key, value, headers, appended_us in zip(run.keys, run.values, run.headers, run.appended_us, strict=True):
        yield Message(key, value, headers, appended_us=appended_us)


def arrow_messages(events: int, per_record: int, hours_ago: int = 1) -> Iterator[Message]:
    """The same kind of events as `bench.workload.event` makes, made by the column, a millisecond apart."""
    draw, pick = np.random.default_rng(1), random.Random(1)
    start_us = now_us() - hours_ago * HOUR_US
    for first in range(0, events, per_record):
        size = min(per_record, events - first)
        tenant = pick.choice(TENANTS)
        times = start_us + 1_000 * np.arange(first, first + size)
        table = pa.table({name: column.cast(WIRE_SCHEMA.field(name).type) for name, column in _columns(draw, times)})
        assert set(ENVELOPE) - {"subject"} <= set(table.column_names)
        table = table.append_column("subject", pa.array([tenant] * size).dictionary_encode())
        yield arrow_message(tenant, table, int(times[-1]) + 5_000)


def _columns(
    draw: np.random.Generator, times: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> list[tuple[str, pa.Array]]:  # type: ignore[type-arg]
    size = len(times)
    model = draw.integers(0, len(MODELS), size)
    input_tokens = draw.lognormal(6.5, 1.2, size).astype(np.int64) + 1
    output_tokens = draw.lognormal(5, 1, size).astype(np.int64) + 1
    first_us = 50_000 + 30 * input_tokens
    tails = draw.bytes(10 * size).hex()
    ids = [
        f"{(time := f'{time_us // 1000:012x}')[:8]}-{time[8:]}-7{tails[at : at + 3]}-8{tails[at + 3 : at + 6]}-"
        f"{tails[at + 6 : at + 18]}"
        for time_us, at in zip(times.tolist(), range(0, 20 * size, 20), strict=True)
    ]

    def named(words: list[str], codes: np.ndarray) -> pa.Array:  # type: ignore[type-arg]
        return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(words))

    return [
        ("id", pa.array(ids)),
        ("source", named([f"/gateway/{n}" for n in range(8)], draw.integers(0, 8, size))),
        ("type", named([REQUEST_TYPE], np.zeros(size))),
        ("time", pa.array(times).cast(pa.timestamp("us", "UTC"))),
        ("application", named(list(APPLICATIONS), draw.integers(0, len(APPLICATIONS), size))),
        ("environment", named(["prod", "test"], draw.integers(0, 2, size))),
        ("model", named([name for _, name in MODELS], model)),
        ("provider", named([name for name, _ in MODELS], model)),
        ("operation", named(["chat"], np.zeros(size))),
        ("status", named(["ok", "error"], draw.random(size) > 0.97)),
        ("streamed", pa.array(np.ones(size, dtype=np.bool_))),
        ("input_tokens", pa.array(input_tokens)),
        ("output_tokens", pa.array(output_tokens)),
        ("cache_read_input_tokens", pa.array(input_tokens // 3)),
        ("duration_us", pa.array(first_us + 20_000 * output_tokens)),
        ("time_to_first_token_us", pa.array(first_us)),
    ]


def feed(bootstrap: str, messages: Iterator[Message], topic: str = USAGE_EVENTS) -> int:
    """Makes the topic and fills it; returns the bytes of its values."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    return produced(bootstrap, messages, topic)


def produced(bootstrap: str, messages: Iterable[Message], topic: str = USAGE_EVENTS) -> int:
    """Fills a topic of PARTITIONS; returns the bytes of its values."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap, "compression.type": "zstd", "linger.ms": 50, "batch.size": 1_000_000,
            "queue.buffering.max.kbytes": 262_144, "queue.buffering.max.messages": 1_000_000, "acks": "all",
        }
    )  # fmt: skip
    total = 0
    for message in messages:
        total += len(message.value or b"")
        where = partition_of(message.key, PARTITIONS)
        while True:
            try:
                producer.produce(
                    topic, message.value, message.key, where, timestamp=(message.appended_us or 0) // 1000,
                    headers=list(message.headers),
                )  # fmt: skip
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(FLUSH_S):
        raise SystemExit(f"the broker did not take all messages in {FLUSH_S} s")
    return total
