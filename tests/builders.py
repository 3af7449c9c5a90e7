"""Builders of the values that tests start from: a short dict says what matters, defaults fill the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from meterhouse.ingest.batch import EVENT_SCHEMA, Decoded, Forward, Reject
from meterhouse.ingest.event import INFERENCE_TYPE, REQUEST_TYPE
from meterhouse.ingest.log import STRUCTURED, USAGE_EVENTS, Headers, Records

T0_US: Final = 1_793_491_200_000_000
"""2026-11-01T00:00:00Z."""
SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 3_600 * SECOND_US
DAY_US: Final = 24 * HOUR_US

_REQUEST: Final[Mapping[str, Any]] = {
    "partition": 0,
    "index": 0,
    "type": REQUEST_TYPE,
    "tenant": "acme",
    "source": "/gateway/1",
    "application": "assistant",
    "model": "atlas-large",
    "provider": "atlas",
    "status": "ok",
    "input_tokens": 0,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 0,
    "reasoning_tokens": 0,
}
_NODE: Final[Mapping[str, Any]] = {**_REQUEST, "type": INFERENCE_TYPE, "application": None, "status": None}


def key(tenant: str, source: str, event_id: str) -> bytes:
    """A stand-in of the dedupe key: equal for equal tuples, 16 bytes."""
    return hashlib.blake2b(f"{tenant}\0{source}\0{event_id}".encode(), digest_size=16).digest()


def events(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """EVENT_SCHEMA from short dicts, in the given order.

    `id` (default: the row's number) makes the key; `offset` defaults to the row's number; `time` and `arrived` are
    microseconds and default to T0_US. A row with `node` is a model node's event.
    """
    return pa.Table.from_pylist([_event(i, row) for i, row in enumerate(rows)], schema=EVENT_SCHEMA)


def _event(i: int, row: Mapping[str, Any]) -> dict[str, Any]:
    full = {**(_NODE if "node" in row else _REQUEST), "offset": i, "time": T0_US, "arrived": T0_US, **row}
    event_id = str(full.pop("id", i))
    full.setdefault("key", key(full["tenant"], full["source"], event_id))
    unknown = set(full) - set(EVENT_SCHEMA.names)
    if unknown:
        raise ValueError(f"no such columns of an event: {sorted(unknown)}")
    return full


def records(
    values: Sequence[bytes | None],
    *,
    partition: int = 0,
    first_offset: int = 0,
    appended_us: Sequence[int] | int = T0_US,
    keys: Sequence[bytes | None] | bytes | None = b"acme",
    content_type: str = STRUCTURED,
) -> Records:
    """A run of records of `usage.events` without gaps; a single time, key or content type stands for all."""
    n = len(values)
    headers: Headers = (("content-type", content_type.encode()),)
    return Records(
        topic=USAGE_EVENTS,
        partition=partition,
        offsets=range(first_offset, first_offset + n),
        appended_us=[appended_us] * n if isinstance(appended_us, int) else appended_us,
        keys=[keys] * n if keys is None or isinstance(keys, bytes) else keys,
        values=values,
        headers=[headers] * n,
    )


def decoded(table: pa.Table, rejects: Sequence[Reject] = (), forwards: Sequence[Forward] = ()) -> Decoded:
    return Decoded(events=table, rejects=list(rejects), forwards=list(forwards))
