"""EventBatch: decoded events as an Arrow table of one fixed schema, and the rejects beside them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

from meterhouse.ingest.event import TOKEN_KINDS

TIME: Final = pa.timestamp("us", tz="UTC")
NAME: Final = pa.dictionary(pa.int32(), pa.string())
"""Text of few values; kept as codes from decode to Parquet."""
KEY: Final = pa.binary(16)
"""Dedupe key: the tuple (tenant, source, id) hashed to 128 bits (`decode.event_key`)."""

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("key", KEY, nullable=False),
    # Where the bytes are: a charge leads back to its place in the log.
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("index", pa.int32(), nullable=False),  # place in the record's array; 0 for a record of one event
    pa.field("arrived", TIME, nullable=False),  # the record's append time
    pa.field("type", NAME, nullable=False),
    pa.field("time", TIME, nullable=False),
    pa.field("tenant", NAME, nullable=False),
    pa.field("source", NAME, nullable=False),
    pa.field("application", NAME),  # null for a node's event, as are environment ... labels
    pa.field("environment", NAME),
    pa.field("model", NAME, nullable=False),
    pa.field("provider", NAME, nullable=False),
    pa.field("operation", NAME),
    pa.field("region", NAME),
    pa.field("status", NAME),
    pa.field("http_status", pa.int16()),
    pa.field("streamed", pa.bool_()),
    pa.field("request_id", pa.string()),
    pa.field("user", pa.string()),
    pa.field("reservation_id", pa.string()),
    pa.field("labels", pa.string()),  # a JSON object of texts, as canonical text
    *(pa.field(kind.tokens, pa.int64(), nullable=False) for kind in TOKEN_KINDS),  # disjoint
    pa.field("duration_us", pa.int64()),
    pa.field("time_to_first_token_us", pa.int64()),
    pa.field("queue_us", pa.int64()),
    # Only a node's event has these.
    pa.field("node", NAME),
    pa.field("accelerator", NAME),
    pa.field("accelerator_us", pa.int64()),
    pa.field("prefill_us", pa.int64()),
    pa.field("decode_us", pa.int64()),
]
EVENT_SCHEMA: Final = pa.schema(_FIELDS)
"""Rows are in log order within a partition: by offset, then index. Partitions stand one after another."""


class Reason(StrEnum):
    """Why an event was rejected: stable codes, one each."""

    NOT_JSON = "not_json"  # the record's bytes do not parse, or are not an object or an array
    # No specversion 1.0, or id, source, type missing or not text; or the record is no Arrow stream and says that it is.
    NOT_A_CLOUDEVENT = "not_a_cloudevent"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"  # a field of another JSON type than it must have, or a text beyond its limit
    BAD_TIME = "bad_time"  # not RFC 3339 with a zone
    BAD_STATUS = "bad_status"
    COUNT_OUT_OF_RANGE = "count_out_of_range"  # negative or over 2^40
    CACHE_EXCEEDS_INPUT = "cache_exceeds_input"
    REASONING_EXCEEDS_OUTPUT = "reasoning_exceeds_output"
    TOO_EARLY = "too_early"  # time too far ahead of the record's arrival
    TOO_LATE = "too_late"  # time too far behind
    UNKNOWN_TENANT = "unknown_tenant"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Reject:
    """One rejected event (or a whole record whose bytes do not parse), kept with all its bytes."""

    topic: str
    partition: int
    offset: int
    index: int  # place in the record's array; -1 when the whole record is rejected
    arrived_us: int
    reason: Reason
    detail: str  # a sentence that says what is wrong and what to do
    tenant: str | None  # as claimed by the event or, failing that, the record's key
    payload: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """A sound event in a record whose key or partition is not its tenant's: publish it again under `tenant`."""

    tenant: str
    partition: int  # where it stood
    offset: int
    index: int
    payload: bytes  # the event alone, structured JSON


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a run of records. Every event read is in exactly one of the three."""

    events: pa.Table  # EVENT_SCHEMA
    rejects: list[Reject]
    forwards: list[Forward]
