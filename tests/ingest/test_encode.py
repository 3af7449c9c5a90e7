"""Events become CloudEvents, CloudEvents become records."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.ingest.encode import Encoded, batch_message, batches, single_message, to_json
from meterhouse.ingest.event import MAX_EVENT_BYTES, InferenceEvent, UsageEvent
from meterhouse.ingest.log import Message

STRUCTURED_HEADERS = (("content-type", b"application/cloudevents+json"),)
BATCH_HEADERS = (("content-type", b"application/cloudevents-batch+json"),)

REQUEST = UsageEvent(
    id="e-1",
    source="/gateway/1",
    tenant="acme",
    time=datetime(2026, 11, 1, 12, 30, 5, 250, tzinfo=UTC),
    application="assistant",
    model="atlas-large",
    provider="atlas",
)
NODE = InferenceEvent(
    id="n-1",
    source="/node/7",
    tenant="acme",
    time=datetime(2026, 11, 1, tzinfo=UTC),
    request_id="e-1",
    model="atlas-large",
    provider="atlas",
    node="node-7",
)


def test_an_event_with_nothing_optional_is_as_short_as_it_can_be() -> None:
    assert to_json(REQUEST) == (
        b'{"specversion":"1.0","type":"meterhouse.request.v1","id":"e-1","source":"/gateway/1","subject":"acme",'
        b'"time":"2026-11-01T12:30:05.000250Z","data":{"application":"assistant","model":"atlas-large",'
        b'"provider":"atlas","status":"ok"}}'
    )


def test_every_field_of_a_request_is_sent() -> None:
    event = replace(
        REQUEST,
        status="error",
        http_status=503,
        environment="prod",
        operation="chat",
        request_id="r-1",
        user="u-1",
        region="eu",
        streamed=False,
        reservation_id="v-1",
        labels={"team": "búho"},
        input_tokens=5,
        output_tokens=4,
        cache_read_input_tokens=3,
        cache_write_input_tokens=2,
        reasoning_output_tokens=1,
        duration_us=0,
        time_to_first_token_us=10,
        queue_us=20,
    )
    assert json.loads(to_json(event)) == {
        "specversion": "1.0",
        "type": "meterhouse.request.v1",
        "id": "e-1",
        "source": "/gateway/1",
        "subject": "acme",
        "time": "2026-11-01T12:30:05.000250Z",
        "data": {
            "application": "assistant",
            "model": "atlas-large",
            "provider": "atlas",
            "status": "error",
            "http_status": 503,
            "environment": "prod",
            "operation": "chat",
            "request_id": "r-1",
            "user": "u-1",
            "region": "eu",
            "streamed": False,
            "reservation_id": "v-1",
            "labels": {"team": "búho"},
            "input_tokens": 5,
            "output_tokens": 4,
            "cache_read_input_tokens": 3,
            "cache_write_input_tokens": 2,
            "reasoning_output_tokens": 1,
            "duration_us": 0,
            "time_to_first_token_us": 10,
            "queue_us": 20,
        },
    }


def test_every_field_of_a_nodes_event_is_sent() -> None:
    event = replace(
        NODE,
        accelerator="h100",
        accelerator_us=9,
        queue_us=8,
        prefill_us=7,
        decode_us=6,
        input_tokens=5,
        output_tokens=4,
        cache_read_input_tokens=3,
        cache_write_input_tokens=2,
        reasoning_output_tokens=1,
    )
    sent = json.loads(to_json(event))
    assert sent["type"] == "meterhouse.inference.v1"
    assert sent["data"] == {
        "request_id": "e-1",
        "model": "atlas-large",
        "provider": "atlas",
        "node": "node-7",
        "accelerator": "h100",
        "accelerator_us": 9,
        "queue_us": 8,
        "prefill_us": 7,
        "decode_us": 6,
        "input_tokens": 5,
        "output_tokens": 4,
        "cache_read_input_tokens": 3,
        "cache_write_input_tokens": 2,
        "reasoning_output_tokens": 1,
    }


def test_a_time_of_another_zone_is_sent_in_utc() -> None:
    berlin = timezone(timedelta(hours=1))
    event = replace(REQUEST, time=datetime(2026, 11, 1, 0, 30, tzinfo=berlin))
    assert json.loads(to_json(event))["time"] == "2026-10-31T23:30:00.000000Z"


@given(st.datetimes(timezones=st.timezones()).filter(lambda t: 2 <= t.year <= 9998))
def test_a_time_comes_back_to_the_microsecond(time: datetime) -> None:
    assert datetime.fromisoformat(json.loads(to_json(replace(REQUEST, time=time)))["time"]) == time.astimezone(UTC)


def test_a_time_without_a_zone_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"2026-11-01T12:30:00 has no time zone.*use datetime.now\(UTC\)"):
        to_json(replace(REQUEST, time=datetime(2026, 11, 1, 12, 30)))  # noqa: DTZ001 - the mistake under test


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", 7),
        ("source", None),
        ("tenant", ""),
        ("model", b"atlas"),
        ("region", 3),
        ("input_tokens", 1.0),
        ("output_tokens", None),
        ("output_tokens", True),
        ("output_tokens", False),
        ("output_tokens", "5"),
        ("input_tokens", 2**63),
        ("duration_us", 0.5),
        ("http_status", "503"),
        ("streamed", 1),
        ("labels", {"a": 1}),
        ("labels", {1: "a"}),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{'label' if field == 'labels' else field} .*(give|are short texts)"):
        to_json(replace(REQUEST, **{field: value}))


def test_what_a_provider_can_get_wrong_is_sent_and_left_to_the_meter() -> None:
    event = replace(REQUEST, input_tokens=-1, cache_read_input_tokens=5, status="odd")  # type: ignore[arg-type]
    data = json.loads(to_json(event))["data"]
    assert (data["input_tokens"], data["cache_read_input_tokens"], data["status"]) == (-1, 5, "odd")


def test_empty_optional_texts_are_left_out() -> None:
    assert to_json(replace(REQUEST, user="", region="")) == to_json(REQUEST)


def test_an_event_with_a_prompt_in_it_is_refused() -> None:
    with pytest.raises(ValueError, match="leave out prompts and answers"):
        to_json(replace(REQUEST, user="x" * MAX_EVENT_BYTES))


def test_something_that_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="dict is not an event"):
        to_json({})  # type: ignore[arg-type]


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_json_array_keyed_by_its_tenant() -> None:
    assert batch_message("acme", [b'{"a":1}', b"{}"], 5) == Message(
        b"acme", b'[{"a":1},{}]', BATCH_HEADERS, appended_us=5
    )
    with pytest.raises(ValueError, match="at least one"):
        batch_message("acme", [])


def test_a_single_event_is_itself() -> None:
    assert single_message("acme", b"{}") == Message(b"acme", b"{}", STRUCTURED_HEADERS)


@pytest.mark.parametrize("tenant", [None, "x" * 257])
def test_an_event_without_a_sound_tenant_gets_no_key(tenant: str | None) -> None:
    assert single_message(tenant, b"{}").key is None


def test_a_record_has_the_newest_time_of_its_events() -> None:
    [batch] = batches([Encoded("a", b"1", 5), Encoded("a", b"2", 9), Encoded("a", b"3", 7), Encoded("a", b"4")])
    assert batch.message().appended_us == 9


def test_no_events_make_no_records() -> None:
    assert list(batches([])) == []
    with pytest.raises(ValueError, match="at least 1"):
        list(batches([Encoded("a", b"1")], max_events=0))


@given(
    events=st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 10**12)), max_size=120),
    max_events=st.integers(1, 9),
    max_bytes=st.integers(1, 60),
)
def test_records_hold_the_same_events_in_the_order_of_each_tenant(
    events: list[tuple[str | None, int]], max_events: int, max_bytes: int
) -> None:
    encoded = [Encoded(tenant, json.dumps(number).encode()) for tenant, number in events]
    back: dict[bytes | None, list[int]] = {}
    for batch in batches(encoded, max_events=max_events, max_bytes=max_bytes):
        message = batch.message()
        assert message.value is not None
        assert len(batch.payloads) <= max_events
        assert len(batch.payloads) == 1 or batch.payload_bytes <= max_bytes
        parsed = json.loads(message.value)
        numbers = parsed if message.headers == BATCH_HEADERS else [parsed]
        assert message.headers == (BATCH_HEADERS if len(batch.payloads) > 1 else STRUCTURED_HEADERS)
        back.setdefault(message.key, []).extend(numbers)
    expected: dict[bytes | None, list[int]] = {}
    for tenant, number in events:
        expected.setdefault(None if tenant is None else tenant.encode(), []).append(number)
    assert back == expected


@given(st.lists(st.integers(), min_size=1, max_size=500), st.integers(1, 100))
def test_records_are_as_full_as_they_can_be(numbers: list[int], max_events: int) -> None:
    sizes = [len(b.payloads) for b in batches((Encoded("a", b"%d" % n) for n in numbers), max_events=max_events)]
    assert sizes[:-1] == [max_events] * (len(sizes) - 1)
    assert sum(sizes) == len(numbers)
