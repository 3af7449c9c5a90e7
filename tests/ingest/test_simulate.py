"""The simulator: the same bytes for the same seed, the shares and rhythms it promises, poison that is rejected."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from meterhouse.ingest.batch import Reason
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.encode import to_json
from meterhouse.ingest.event import INFERENCE_TYPE, REQUEST_TYPE, InferenceEvent, UsageEvent
from meterhouse.ingest.log import USAGE_EVENTS, Message, Records
from meterhouse.ingest.simulate import Arrival, Workload, arrivals, records
from meterhouse.ingest.simulate.poison import REASONS, UNKNOWN_TENANT, poisoned
from meterhouse.ingest.simulate.rhythm import load
from tests.builders import DAY_US, HOUR_US, MINUTE_US, SECOND_US, T0_US

W = Workload(
    seed=7,
    events=40_000,
    start_us=T0_US,
    tenants=("acme", "bank", "north", "lab"),
    models=(("atlas", "large"), ("atlas", "small"), ("atlas", "atlas-embed"), ("borea", "pro")),
    rate=100.0,
)


@pytest.fixture(scope="module")
def stream() -> list[Arrival]:
    return list(arrivals(W))


@pytest.fixture(scope="module")
def sound(stream: list[Arrival]) -> list[tuple[Arrival, dict[str, Any]]]:
    """The sound arrivals and what they say."""
    return [(arrival, json.loads(arrival.payload)) for arrival in stream if arrival.poison is None]


def requests(sound: list[tuple[Arrival, dict[str, Any]]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Request events by source and id: the first of each."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, event in sound:
        if event["type"] == REQUEST_TYPE:
            found.setdefault((event["source"], event["id"]), event)
    return found


def at_us(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")) // timedelta(microseconds=1)


def digest(workload: Workload) -> str:
    sha = hashlib.sha256()
    for arrival in arrivals(workload):
        sha.update(repr(arrival).encode())
    return sha.hexdigest()


DIGEST = """
from tests.ingest.test_simulate import W, digest
import dataclasses
print(digest(dataclasses.replace(W, events=3_000)))
"""


def test_the_same_workload_is_the_same_bytes_in_any_process() -> None:
    short = dataclasses.replace(W, events=3_000)
    told = [
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        for seed in ("1", "2")
    ]
    assert {done.stdout.decode().strip() for done in told} == {digest(short)}


def test_another_seed_or_start_is_another_stream_with_other_ids() -> None:
    def ids(workload: Workload) -> set[str]:
        return {
            json.loads(a.payload)["id"] for a in arrivals(dataclasses.replace(workload, events=500)) if a.poison is None
        }

    mine = ids(W)
    assert mine.isdisjoint(ids(dataclasses.replace(W, seed=8)))
    assert mine.isdisjoint(ids(dataclasses.replace(W, start_us=T0_US + HOUR_US)))


def test_a_shorter_workload_is_the_beginning_of_a_longer_one(stream: list[Arrival]) -> None:
    assert list(arrivals(dataclasses.replace(W, events=1_234))) == stream[:1_234]
    assert list(arrivals(dataclasses.replace(W, events=0))) == []


def test_arrivals_are_in_order_and_never_before_what_they_tell_of(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    assert all(earlier.arrived_us <= later.arrived_us for (earlier, _), (later, _) in pairwise(sound))
    assert all(T0_US <= at_us(event["time"]) <= arrival.arrived_us for arrival, event in sound)


def test_neighbours_overtake_each_other(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    times = [event["time"] for _, event in sound]
    assert sum(later < earlier for earlier, later in pairwise(times)) > len(times) / 10


def test_what_arrives_after_its_slice_is_not_lost() -> None:
    # The network draws as many random numbers whatever its delay, so both streams hold the same requests.
    at_once = dataclasses.replace(W, network_us=0, retry_share=0.0, late_share=0.0, node_share=0.0, poison_share=0.0)
    delayed = dataclasses.replace(at_once, network_us=2 * SECOND_US)
    first = [arrival.payload for arrival in arrivals(dataclasses.replace(at_once, events=20_000))]
    assert set(first) <= {arrival.payload for arrival in arrivals(dataclasses.replace(delayed, events=24_000))}
    assert len(set(first)) == len(first)


def test_the_rate_is_kept_over_a_week_of_ups_and_downs() -> None:
    week = dataclasses.replace(W, rate=30_000 / 7 / 86_400, events=30_000, late_share=0.0)
    arrived_us = np.array([arrival.arrived_us for arrival in arrivals(week)])
    assert abs((arrived_us[-1] - T0_US) / (7 * DAY_US) - 1) < 0.05
    by_hour = np.bincount((arrived_us - T0_US) // HOUR_US, minlength=168)[:168].reshape(7, 24)
    # 2026-11-01 is a Sunday. The first tenant, half of all, keeps office hours; with the others the nights stay lively.
    assert by_hour[1:6].sum() / 5 > 1.5 * by_hour[0].sum()
    assert by_hour[1:6, 9:17].mean() > 2 * by_hour[1:6, :6].mean()


def test_without_rhythm_every_hour_is_the_same() -> None:
    assert np.allclose(load(dataclasses.replace(W, rhythm=0.0)).sum(axis=0), 1.0)
    assert np.allclose(load(W).sum(axis=0).mean(), 1.0)


def test_shares_are_as_their_knobs_say(stream: list[Arrival], sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    unique = requests(sound)
    count = len(unique)
    data = [event["data"] for event in unique.values()]
    chat = [d for d in data if d["operation"] == "chat" and d["status"] in ("ok", "aborted")]
    reached = [d for d in data if d["status"] not in ("throttled", "blocked")]
    statuses = Counter(d["status"] for d in data)
    nodes = sum(event["type"] == INFERENCE_TYPE for _, event in sound)
    again = len(sound) - nodes - count
    late = sum(a.arrived_us - at_us(e["time"]) >= MINUTE_US for a, e in sound)
    shares = {
        "cache_read": (sum("cache_read_input_tokens" in d for d in reached) / len(reached), W.cache_read_share),
        "cache_write": (sum("cache_write_input_tokens" in d for d in reached) / len(reached), W.cache_write_share),
        "reasoning": (sum("reasoning_output_tokens" in d for d in chat) / len(chat), W.reasoning_share),
        "error": (statuses["error"] / count, W.error_share),
        "aborted": (statuses["aborted"] / count, W.aborted_share),
        "throttled": (statuses["throttled"] / count, W.throttled_share),
        "blocked": (statuses["blocked"] / count, W.blocked_share),
        "node": (nodes / sum(d["provider"] == "atlas" for d in reached), W.node_share),
        "own": (sum(d["provider"] == "atlas" for d in data) / count, W.own_share),
        "retry": (again / count, W.retry_share),
        "poison": (sum(a.poison is not None for a in stream) / count, W.poison_share),
    }
    wrong = {name: pair for name, pair in shares.items() if abs(pair[0] / pair[1] - 1) > 0.35}
    assert wrong == {}
    assert 0 < late < 2 * W.late_share * count  # most late ones arrive after the last of these


def test_a_resend_has_the_same_id_and_source_and_maybe_another_time(
    sound: list[tuple[Arrival, dict[str, Any]]],
) -> None:
    times: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _, event in sound:
        times.setdefault((event["source"], event["id"]), []).append(event)
    twice = [events for events in times.values() if len(events) > 1]
    same = sum(first == again for first, again in twice)
    assert len(twice) / 4 < same < 3 * len(twice) / 4
    assert all({**first, "time": ""} == {**again, "time": ""} for first, again in twice)


def test_token_counts_have_a_long_tail(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    given = np.array([e["data"].get("input_tokens", 0) for e in requests(sound).values()])
    given = given[given > 0]
    assert np.percentile(given, 99) > 10 * np.median(given)
    assert given.max() <= 200_000


def test_refused_requests_have_no_tokens_and_errors_no_answer(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    for event in requests(sound).values():
        data = event["data"]
        counted = {name for name in data if name.endswith("_tokens")}
        if data["status"] in ("throttled", "blocked"):
            assert counted == set()
        elif data["status"] == "error":
            assert counted <= {"input_tokens", "cache_read_input_tokens", "cache_write_input_tokens"}
            assert "time_to_first_token_us" not in data


def test_a_nodes_event_tells_of_a_request_that_was_made(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    made = {event["data"]["request_id"]: event for event in requests(sound).values()}
    node_events = [event for _, event in sound if event["type"] == INFERENCE_TYPE]
    known = [event for event in node_events if event["data"]["request_id"] in made]
    # The others belong to requests that are late or still under way.
    assert len(known) > 0.98 * len(node_events)
    for event in known:
        request = made[event["data"]["request_id"]]
        for name in ("model", "provider", "input_tokens", "output_tokens"):
            assert event["data"].get(name) == request["data"].get(name)
        assert event["subject"] == request["subject"]
        assert event["data"]["prefill_us"] + event["data"]["decode_us"] == event["data"]["accelerator_us"]


def test_a_payload_is_what_the_publisher_would_send(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    kinds = {REQUEST_TYPE: UsageEvent, INFERENCE_TYPE: InferenceEvent}
    for arrival, event in sound[::37]:
        built = kinds[event["type"]](
            id=event["id"],
            source=event["source"],
            tenant=event["subject"],
            time=datetime.fromisoformat(event["time"]),
            **event["data"],
        )
        assert to_json(built) == arrival.payload
        assert arrival.tenant == event["subject"]


# --- poison -----------------------------------------------------------------------------------------------------------


def as_records(messages: list[Message]) -> Records:
    times = []
    for message in messages:
        assert message.appended_us is not None
        times.append(message.appended_us)
    return Records(
        topic=USAGE_EVENTS,
        partition=0,
        offsets=range(len(messages)),
        appended_us=times,
        keys=[message.key for message in messages],
        values=[message.value for message in messages],
        headers=[message.headers for message in messages],
    )


def test_each_way_of_poison_is_rejected_for_its_reason(sound: list[tuple[Arrival, dict[str, Any]]]) -> None:
    base = next(a.payload for a, e in sound if e["type"] == REQUEST_TYPE and e["data"]["status"] == "ok")
    asked = [(reason, variant) for reason in (*REASONS, Reason.TOO_LARGE) for variant in range(12)]
    arrivals = [Arrival(T0_US + DAY_US, *poisoned(base, *way, T0_US + DAY_US), way[0]) for way in asked]
    with Decoder() as decoder:
        decoded = decoder.decode([as_records(list(records(arrivals)))], tenants=set(W.tenants))
    assert (decoded.events.num_rows, decoded.forwards) == (0, [])
    assert [reject.reason for reject in decoded.rejects] == [reason for reason, _ in asked]
    assert [reject.payload for reject in decoded.rejects] == [arrival.payload for arrival in arrivals]


def test_every_reason_has_its_poison() -> None:
    assert {*REASONS, Reason.TOO_LARGE} == set(Reason)


def test_of_a_stream_the_poison_is_rejected_and_all_the_rest_is_accepted() -> None:
    bad = dataclasses.replace(W, events=6_000, poison_share=0.1)
    stream = list(arrivals(bad))
    with Decoder() as decoder:
        decoded = decoder.decode([as_records(list(records(stream)))], tenants=set(W.tenants))
    assert Counter(reject.reason for reject in decoded.rejects) == Counter(a.poison for a in stream if a.poison)
    assert decoded.events.num_rows == sum(arrival.poison is None for arrival in stream)
    assert decoded.forwards == []
    assert {a.tenant for a in stream} == {*W.tenants, UNKNOWN_TENANT}


def test_records_hold_all_arrivals_in_time_and_poison_alone(stream: list[Arrival]) -> None:
    messages = list(records(stream, max_events=10, linger_us=SECOND_US // 2))
    times = [message.appended_us or 0 for message in messages]
    assert times == sorted(times)
    held = 0
    for message in messages:
        assert message.value is not None
        if message.value.startswith(b"[") and message.value.endswith(b"]"):
            events = msgspec.json.decode(message.value)
            assert {event["subject"].encode() for event in events} == {message.key}
            assert len(events) <= 10
            held += len(events)
        else:
            held += 1
    assert held == len(stream)


# --- knobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"tenants": ()}, "tenants is empty"),
        ({"models": ()}, "models is empty"),
        ({"rate": 0.0}, "raise the rate"),
        ({"rate": 1e-9}, "raise the rate"),
        ({"events": -1}, "events is -1"),
        ({"late_share": 1.1}, "late_share is 1.1"),
        ({"error_share": 0.6, "aborted_share": 0.6}, "add up to more than 1"),
        ({"rhythm": 2.0}, "rhythm"),
        ({"gateways": 0}, "gateways is 0"),
    ],
)
def test_a_knob_that_cannot_be_is_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(W, **knobs)


def test_one_tenant_one_model_and_every_share_at_its_end_still_make_a_stream() -> None:
    least = dataclasses.replace(
        W, events=300, tenants=("a",), models=(("p", "m"),), applications=("x", "y", "z", "w"), gateways=1, nodes=1,
        poison_share=1.0, retry_share=1.0, node_share=1.0, late_share=1.0, error_share=1.0, aborted_share=0.0,
        throttled_share=0.0, blocked_share=0.0,
    )  # fmt: skip
    assert len(list(arrivals(least))) == 300
    none = dataclasses.replace(least, poison_share=0.0, retry_share=0.0, node_share=0.0, error_share=0.0, network_us=0)
    assert len(list(arrivals(none))) == 300
