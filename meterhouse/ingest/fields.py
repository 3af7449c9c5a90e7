"""The fields of an event's `data`: one table that both lanes of decode go by."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from meterhouse.ingest.event import INFERENCE_TYPE, REQUEST_TYPE, WIRE_TOKEN_COUNTS

FieldKind = Literal["name", "text", "status", "http_status", "flag", "labels", "count"]
"""`name`: text of few values; `text`: text of many values; `count`: 0 to MAX_COUNT of tokens or microseconds."""


class Field(NamedTuple):
    """One field of `data`. `null` and absent are the same; of a text, so is the empty text."""

    name: str
    kind: FieldKind
    required: bool = False


_TOKENS: Final = tuple(Field(name, "count") for name in WIRE_TOKEN_COUNTS)

REQUEST_FIELDS: Final = (
    Field("application", "name", required=True),
    Field("environment", "name"),
    Field("model", "name", required=True),
    Field("provider", "name", required=True),
    Field("operation", "name"),
    Field("region", "name"),
    Field("status", "status", required=True),
    Field("http_status", "http_status"),
    Field("streamed", "flag"),
    Field("request_id", "text"),
    Field("user", "text"),
    Field("reservation_id", "text"),
    Field("labels", "labels"),
    *_TOKENS,
    Field("duration_us", "count"),
    Field("time_to_first_token_us", "count"),
    Field("queue_us", "count"),
)
INFERENCE_FIELDS: Final = (
    Field("request_id", "text", required=True),
    Field("model", "name", required=True),
    Field("provider", "name", required=True),
    Field("node", "name", required=True),
    Field("accelerator", "name"),
    *_TOKENS,
    Field("queue_us", "count"),
    Field("accelerator_us", "count"),
    Field("prefill_us", "count"),
    Field("decode_us", "count"),
)
FIELDS: Final = {REQUEST_TYPE: REQUEST_FIELDS, INFERENCE_TYPE: INFERENCE_FIELDS}

HTTP_STATUSES: Final = range(100, 1000)
"""Three digits; beyond RFC 9110's 599 because proxies use them."""
