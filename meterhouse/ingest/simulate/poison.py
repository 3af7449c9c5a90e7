"""Poison: for each reason of rejection, what a broken client would send. Every payload here must be rejected for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from meterhouse.ingest.batch import Reason
from meterhouse.ingest.event import MAX_COUNT, MAX_EVENT_BYTES, Lateness

UNKNOWN_TENANT: Final = "nobody-knows-this-tenant"
MARGIN_US: Final = 3_600 * 1_000_000
"""Beyond what lateness allows, so that a time is out of bounds whatever small delay a record has."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Event = dict[str, Any]


def poisoned(sound: bytes, reason: Reason, variant: int, arrived_us: int) -> tuple[str, bytes]:
    """(tenant, bytes): a sound request event made wrong for one reason, arriving then. `variant` picks among the ways.

    All but NOT_JSON are one JSON value.
    """
    event: Event = msgspec.json.decode(sound)
    tenant: str = event["subject"]
    if reason is Reason.NOT_JSON:
        broken = (sound[: len(sound) // 2], sound.replace(b'"data"', b'"data\xff"'), b"", b"<event/>")
        return tenant, broken[variant % len(broken)]
    if reason in (Reason.TOO_EARLY, Reason.TOO_LATE):
        lateness = Lateness()
        ahead_us = lateness.ahead_us + MARGIN_US if reason is Reason.TOO_EARLY else -lateness.behind_us - MARGIN_US
        event["time"] = (_EPOCH + timedelta(microseconds=arrived_us + ahead_us)).isoformat()
    else:
        ways = _WAYS[reason]
        ways[variant % len(ways)](event)
    return event.get("subject", tenant), msgspec.json.encode(event)


def _set(*path_and_value: Any) -> Callable[[Event], None]:
    *path, last, value = path_and_value

    def change(event: Event) -> None:
        for key in path:
            event = event[key]
        event[last] = value

    return change


def _without(*path: str) -> Callable[[Event], None]:
    def change(event: Event) -> None:
        for key in path[:-1]:
            event = event[key]
        event.pop(path[-1], None)

    return change


def _more_cached_than_given(event: Event) -> None:
    event["data"]["cache_read_input_tokens"] = event["data"].get("input_tokens", 0) + 1


def _more_reasoning_than_output(event: Event) -> None:
    event["data"]["reasoning_output_tokens"] = event["data"].get("output_tokens", 0) + 1


_WAYS: Final[Mapping[Reason, tuple[Callable[[Event], None], ...]]] = {
    Reason.NOT_A_CLOUDEVENT: (_without("specversion"), _set("specversion", "0.3"), _without("id"), _set("source", 7)),
    Reason.UNKNOWN_TYPE: (_set("type", "meterhouse.request.v9"), _set("type", "com.example.order")),
    Reason.MISSING_FIELD: (_without("data", "model"), _without("data", "application"), _without("data", "provider")),
    Reason.WRONG_TYPE: (_set("data", "input_tokens", "many"), _set("data", "model", ["atlas"])),
    Reason.BAD_TIME: (
        _set("time", "yesterday"),
        _set("time", "2026-11-23T10:00:00"),
        _set("time", "2026-13-01T00:00:00Z"),
    ),
    Reason.BAD_STATUS: (_set("data", "status", "fine"),),
    Reason.COUNT_OUT_OF_RANGE: (_set("data", "output_tokens", -1), _set("data", "input_tokens", MAX_COUNT + 1)),
    Reason.CACHE_EXCEEDS_INPUT: (_more_cached_than_given,),
    Reason.REASONING_EXCEEDS_OUTPUT: (_more_reasoning_than_output,),
    Reason.UNKNOWN_TENANT: (_set("subject", UNKNOWN_TENANT),),
    Reason.TOO_LARGE: (_set("data", "prompt", "x" * (MAX_EVENT_BYTES + 1)),),
}

REASONS: Final = tuple(reason for reason in Reason if reason is not Reason.TOO_LARGE)
LARGE_ONE_IN: Final = 200
"""One poisoned event in so many is a large one: a quarter of a megabyte each, they would drown the rest."""
