"""From usage events to bytes and records. Pure.

What can only be a mistake in a publisher's code is refused here: a time without a zone, a wrong type, a missing id,
an event with a text in it. What a provider's answer can get wrong at run time (a count out of range, more cached
tokens than input, an unknown status) is sent as it is: the meter rejects it with its bytes, from where it can be
repaired; refused here it would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from meterhouse.ingest.batch import Reject
from meterhouse.ingest.event import (
    INFERENCE_TYPE,
    MAX_EVENT_BYTES,
    MAX_TEXT,
    REQUEST_TYPE,
    WIRE_TOKEN_COUNTS,
    Event,
    InferenceEvent,
    UsageEvent,
)
from meterhouse.ingest.log import BATCH, CONTENT_TYPE, STRUCTURED, Headers, Message
from meterhouse.ingest.log_limits import MAX_RECORD_BYTES

BATCH_EVENTS: Final = 100
"""Events in one record: from there on a record's own cost is under a hundredth of its events' cost."""
BATCH_BYTES: Final = 512 * 1024
"""Of one batch record: one event of 256 KiB and its neighbours fit, and twice of it fits Kafka's default of 1 MB."""

MAX_REJECT_BYTES: Final = MAX_RECORD_BYTES - 64 * 1024
"""Of a reject's payload in its record: what is left is for headers."""
REJECT_HEADER: Final = "meterhouse-"
"""In front of the headers of `usage.rejected`: reason, detail, topic, partition, offset, index, arrived_us."""

_STRUCTURED: Final[Headers] = ((CONTENT_TYPE, STRUCTURED.encode()),)
_BATCH: Final[Headers] = ((CONTENT_TYPE, BATCH.encode()),)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which attributes of an event class go into `data`, by JSON type."""

    type: str
    texts: tuple[str, ...]  # required
    optional_texts: tuple[str, ...]
    counts: tuple[str, ...]  # absent means 0
    optional_counts: tuple[str, ...]


_REQUEST: Final = _Shape(
    REQUEST_TYPE,
    ("application", "model", "provider", "status"),
    ("environment", "operation", "request_id", "user", "region", "reservation_id"),
    WIRE_TOKEN_COUNTS,
    ("http_status", "duration_us", "time_to_first_token_us", "queue_us"),
)
_INFERENCE: Final = _Shape(
    INFERENCE_TYPE,
    ("request_id", "model", "provider", "node"),
    ("accelerator",),
    WIRE_TOKEN_COUNTS,
    ("accelerator_us", "queue_us", "prefill_us", "decode_us"),
)


def to_json(event: Event) -> bytes:
    """The event as a structured CloudEvent 1.0, compact JSON in UTF-8: what `to_object` says.

    Raises ValueError, with what to do, for what a publisher may not send (see the module).
    """
    encoded = msgspec.json.encode(to_object(event))
    if len(encoded) > MAX_EVENT_BYTES:
        raise ValueError(
            f"event {event.id} has {len(encoded)} bytes, at most {MAX_EVENT_BYTES}: leave out prompts and answers"
        )
    return encoded


def to_object(event: Event) -> dict[str, Any]:
    """The event's CloudEvent as plain values. Optional fields that are None or empty and counts of 0 are left out;
    `subject` is the tenant; `time` has microseconds and a Z. Raises ValueError as `to_json` does."""
    if isinstance(event, UsageEvent):
        data = _data(event, _REQUEST)
        if event.streamed is not None:
            data["streamed"] = _flag("streamed", event.streamed)
        if event.labels:
            data["labels"] = _labels(event.labels)
        type_ = REQUEST_TYPE
    elif isinstance(event, InferenceEvent):
        data = _data(event, _INFERENCE)
        type_ = INFERENCE_TYPE
    else:
        raise ValueError(f"{type(event).__name__} is not an event: build a UsageEvent or an InferenceEvent")
    return {
        "specversion": "1.0",
        "type": type_,
        "id": _text("id", event.id),
        "source": _text("source", event.source),
        "subject": _text("tenant", event.tenant),
        "time": _time(event.time),
        "data": data,
    }


def _data(event: Event, shape: _Shape) -> dict[str, Any]:
    data: dict[str, Any] = {name: _text(name, getattr(event, name)) for name in shape.texts}
    for name in shape.optional_texts:
        if (value := getattr(event, name)) is not None and value != "":
            data[name] = _text(name, value)
    for name in shape.counts:
        # False is equal to 0 and not a count.
        if (value := getattr(event, name)) != 0 or value is False:
            data[name] = _count(name, value)
    for name in shape.optional_counts:
        if (value := getattr(event, name)) is not None:
            data[name] = _count(name, value)
    return data


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}: give a text of 1 to {MAX_TEXT} characters")
    return value


def _count(name: str, value: object) -> int:
    # A bool is an int to Python and a defect to a bill.
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value!r}: give a whole number of 64 bits (int)")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}: give True or False")
    return value


def _labels(labels: Mapping[Any, Any]) -> dict[str, str]:
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"label {key!r} is {value!r}: keys and values of labels are short texts")
    return dict(labels)


def _time(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError(
            f"time {time.isoformat()} has no time zone, so it could be any hour's price: "
            "use datetime.now(UTC), or say which zone it is in with time.replace(tzinfo=...)"
        )
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


# --- records ---------------------------------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """An event as it goes on the wire. `payload` must be one JSON value: a batch puts commas between them.

    `appended_us`: the time that its record gets; None: the log's clock.
    """

    tenant: str | None  # None: not known; its record has no key
    payload: bytes
    appended_us: int | None = None


def single_message(tenant: str | None, event: bytes, appended_us: int | None = None) -> Message:
    """A record of one event, keyed by its tenant."""
    return Message(record_key(tenant), event, _STRUCTURED, appended_us=appended_us)


def reject_message(reject: Reject) -> Message:
    """A reject as a record of `usage.rejected`, keyed by its tenant: the bytes as they came, and why and whence as
    headers. Of a payload that no record holds, whatever let it into the log, the first part, and how long it is: the
    lake has all of it, under the same place."""
    place = {"topic": reject.topic, "partition": reject.partition, "offset": reject.offset, "index": reject.index}
    told = {"reason": reject.reason.value, "detail": reject.detail, **place, "arrived_us": reject.arrived_us}
    if len(reject.payload) > MAX_REJECT_BYTES:
        told["cut_from_bytes"] = len(reject.payload)
    headers = tuple((f"{REJECT_HEADER}{name}", str(value).encode()) for name, value in told.items())
    return Message(record_key(reject.tenant), reject.payload[:MAX_REJECT_BYTES], headers)


def batch_message(tenant: str | None, events: Sequence[bytes], appended_us: int | None = None) -> Message:
    """A record of several events of one tenant, a JSON array, keyed by the tenant."""
    if not events:
        raise ValueError("a batch of no events: send at least one")
    return Message(record_key(tenant), b"[" + b",".join(events) + b"]", _BATCH, appended_us=appended_us)


def record_key(tenant: str | None) -> bytes | None:
    """The key of a tenant's records."""
    # An id beyond the limit is no tenant's: its event goes to where it is rejected, whatever its partition.
    return None if tenant is None or len(tenant) > MAX_TEXT else tenant.encode(errors="replace")


@dataclass(slots=True)
class Batch:
    """Events of one tenant that make up one record."""

    tenant: str | None
    payloads: list[bytes] = field(default_factory=list)
    payload_bytes: int = 0
    appended_us: int | None = None  # the newest of its events

    def add(self, event: Encoded) -> None:
        self.payloads.append(event.payload)
        self.payload_bytes += len(event.payload)
        if event.appended_us is not None:
            self.appended_us = (
                event.appended_us if self.appended_us is None else max(event.appended_us, self.appended_us)
            )

    def message(self) -> Message:
        """The record: one event as it is, several as an array."""
        if len(self.payloads) == 1:
            return single_message(self.tenant, self.payloads[0], self.appended_us)
        return batch_message(self.tenant, self.payloads, self.appended_us)


def batches(
    events: Iterable[Encoded], *, max_events: int = BATCH_EVENTS, max_bytes: int = BATCH_BYTES
) -> Iterator[Batch]:
    """Groups events by tenant into batches of at most `max_events` events and `max_bytes` bytes of them (an event that
    alone is larger gets a record of its own). Each tenant's events keep their order.
    """
    if max_events < 1:
        raise ValueError(f"max_events is {max_events}: give at least 1")
    filling: dict[str | None, Batch] = {}
    for event in events:
        batch = filling.get(event.tenant)
        if batch is not None and batch.payload_bytes + len(event.payload) > max_bytes:
            yield filling.pop(event.tenant)
            batch = None
        if batch is None:
            batch = filling[event.tenant] = Batch(event.tenant)
        batch.add(event)
        if len(batch.payloads) == max_events:
            yield filling.pop(event.tenant)
    yield from filling.values()


def to_messages(
    events: Iterable[Encoded], *, max_events: int = BATCH_EVENTS, max_bytes: int = BATCH_BYTES
) -> Iterator[Message]:
    """The records of `batches`."""
    return (batch.message() for batch in batches(events, max_events=max_events, max_bytes=max_bytes))
