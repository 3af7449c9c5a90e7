"""The shape of a usage event on the wire, as OpenAPI shows it. What refuses events is `ingest.validate`."""

from __future__ import annotations

from typing import Any, Final

from meterhouse.ingest.event import (
    INFERENCE_TYPE,
    MAX_COUNT,
    MAX_LABEL_TEXT,
    MAX_LABELS,
    MAX_TEXT,
    REQUEST_TYPE,
    STATUSES,
    WIRE_TOKEN_COUNTS,
)

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
_COUNTS: Final = dict.fromkeys(WIRE_TOKEN_COUNTS, _COUNT)
_LABELS: Final[Schema] = {
    "type": "object",
    "maxProperties": MAX_LABELS,
    "propertyNames": {"minLength": 1, "maxLength": MAX_LABEL_TEXT},
    "additionalProperties": {"type": "string", "maxLength": MAX_LABEL_TEXT},
}


def _of_type(kind: str, required: list[str], optional: Schema) -> Schema:
    """A CloudEvent whose data has `required` texts and may have the `optional` fields."""
    return {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**_TEXT, "description": "with `source` and `subject`: the same again is the same event"},
            "source": _TEXT,
            "type": {"const": kind},
            "subject": {**_TEXT, "description": "the tenant", "examples": ["acme-retail"]},
            "time": {"type": "string", "format": "date-time", "description": "when the request ended"},
            "data": {
                "type": "object",
                "required": required,
                "properties": {**dict.fromkeys(required, _TEXT), **optional, **_COUNTS},
            },
        },
    }


REQUEST: Final = _of_type(
    REQUEST_TYPE,
    ["application", "model", "provider"],
    {
        "status": {"enum": list(STATUSES)},
        "http_status": {"type": "integer", "minimum": 100, "maximum": 599},
        **dict.fromkeys(("environment", "operation", "request_id", "user", "region", "reservation_id"), _TEXT),
        "streamed": {"type": "boolean"},
        "labels": _LABELS,
        **dict.fromkeys(("duration_us", "time_to_first_token_us", "queue_us"), _COUNT),
    },
)
INFERENCE: Final = _of_type(
    INFERENCE_TYPE,
    ["request_id", "model", "provider", "node"],
    {
        "accelerator": _TEXT,
        **dict.fromkeys(("accelerator_us", "queue_us", "prefill_us", "decode_us"), _COUNT),
    },
)
ONE: Final[Schema] = {"oneOf": [REQUEST, INFERENCE]}
MANY: Final[Schema] = {"type": "array", "items": {}, "description": "events; each stands for itself"}
"""Of an array a malformed event rejects itself alone, so that any array of JSON is taken."""
ANY: Final[Schema] = {"anyOf": [ONE, MANY]}
