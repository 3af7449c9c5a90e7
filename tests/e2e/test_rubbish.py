"""Rubbish costs only itself: it lands in rejects with its bytes and a reason that teaches; neighbours are billed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from meterhouse.ingest.log import BATCH, CONTENT_TYPE, STRUCTURED, USAGE_EVENTS, Message, TopicSpec
from meterhouse.ingest.sqlite_log import SqliteLog
from tests.e2e.house import House
from tests.oracle.books import microseconds

MOMENT = "2026-03-20T12:00:00Z"
TENANT = "acme-retail"
COST_OF_ONE = 1_000 * 2_500_000 + 100 * 10_000_000  # pico: atlas-large, 1,000 input and 100 output tokens


def event(event_id: str, data: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": event_id, "source": "/gateway/1", "type": "meterhouse.request.v1",
        "subject": TENANT, "time": MOMENT,
        "data": {"application": "assistant", "model": "atlas-large", "provider": "atlas", "status": "ok",
                 "input_tokens": 1_000, "output_tokens": 100, **(data or {})},
        **attributes,
    }  # fmt: skip


def as_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def without(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {key: kept for key, kept in value.items() if key != name}


@dataclass(frozen=True)
class Rubbish:
    payload: bytes
    reasons: frozenset[str]
    parses: bool = True  # as JSON: then it may stand in a batch


def rubbish(payload: bytes, *reasons: str, parses: bool = True) -> Rubbish:
    return Rubbish(payload, frozenset(reasons), parses)


GOOD = as_bytes(event("good"))
RUBBISH = {
    "truncated": rubbish(as_bytes(event("truncated"))[:-20], "not_json", parses=False),
    "empty": rubbish(b"", "not_json", parses=False),
    "not UTF-8": rubbish(GOOD.replace(b'"assistant"', b'"assist\xff\xfeant"'), "not_json", parses=False),
    "NaN": rubbish(GOOD.replace(b":1000", b":NaN"), "not_json", "wrong_type", parses=False),
    "1e400": rubbish(GOOD.replace(b":1000", b":1e400"), "wrong_type", "count_out_of_range", "not_json"),
    "300 KiB": rubbish(as_bytes(event("large", prompt="x" * 300 * 1024)), "too_large"),
    "negative": rubbish(as_bytes(event("negative", {"output_tokens": -1})), "count_out_of_range"),
    "more than 2^40": rubbish(as_bytes(event("huge", {"output_tokens": 2**40 + 1})), "count_out_of_range"),
    "more than 2^64": rubbish(as_bytes(event("huger", {"output_tokens": 2**70})), "count_out_of_range", "wrong_type"),
    "cache over input": rubbish(as_bytes(event("cache", {"cache_read_input_tokens": 1_001})), "cache_exceeds_input"),
    "reasoning over output": rubbish(
        as_bytes(event("reasoning", {"reasoning_output_tokens": 101})), "reasoning_exceeds_output"
    ),
    "no tenant": rubbish(as_bytes(without("subject", event("no-tenant"))), "missing_field"),
    "unknown tenant": rubbish(as_bytes(event("stranger", subject="nobody")), "unknown_tenant"),
    "unknown type": rubbish(as_bytes(event("type", type="meterhouse.request.v2")), "unknown_type"),
    "no CloudEvent": rubbish(b'{"hello":"world"}', "not_a_cloudevent"),
    "a number": rubbish(b"42", "not_json", "not_a_cloudevent"),
    "a count as text": rubbish(as_bytes(event("text", {"output_tokens": "100"})), "wrong_type"),
    "no zone": rubbish(as_bytes(event("zone", time="2026-03-20T12:00:00")), "bad_time"),
    "two months late": rubbish(as_bytes(event("late", time="2026-01-10T12:00:00Z")), "too_late"),
    "two hours early": rubbish(as_bytes(event("early", time="2026-03-20T14:00:01Z")), "too_early"),
    "a status nobody knows": rubbish(as_bytes(event("status", {"status": "fine"})), "bad_status"),
}


@contextmanager
def log_of(house: House) -> Iterator[SqliteLog]:
    log = SqliteLog(house.home / "log.sqlite", clock=lambda: microseconds(MOMENT))
    try:
        yield log
    finally:
        log.close()


def publish(house: House, values: Sequence[tuple[bytes, str]]) -> None:
    headers = {kind: ((CONTENT_TYPE, kind.encode()),) for kind in (STRUCTURED, BATCH)}
    messages = [Message(TENANT.encode(), value, headers[kind]) for value, kind in values]
    with log_of(house) as log:
        log.create_topics([TopicSpec(USAGE_EVENTS, partitions=4)])
        log.append(USAGE_EVENTS, messages)


def payload_of(reject: dict[str, Any]) -> bytes:
    text = str(reject["payload"])
    return base64.b64decode(text, validate=True) if reject["payload_encoding"] == "base64" else text.encode()


def bill_of(house: House) -> tuple[int, int, str]:
    total = house.bill(("tenant",))["total"]
    return total["requests"], total["billed_requests"], total["cost"]


def cost_of(events: int) -> str:
    pico = events * COST_OF_ONE
    return f"{pico // 10**12}.{pico % 10**12:012d}"


@pytest.fixture(scope="module")
def metered(applied: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    """Each piece of rubbish in a record of its own, a good event before and after."""
    house = applied.copy(tmp_path_factory.mktemp("metered") / "home")
    values = [(as_bytes(event("first")), STRUCTURED)]
    for number, each in enumerate(RUBBISH.values()):
        values += [(each.payload, STRUCTURED), (as_bytes(event(f"good-{number}")), STRUCTURED)]
    publish(house, values)
    house.run("work", "--until-idle")
    return house


def test_neighbours_of_rubbish_are_billed(metered: House) -> None:
    good = len(RUBBISH) + 1
    assert bill_of(metered) == (good, good, cost_of(good))


def test_the_books_balance_with_rubbish_in_them(metered: House) -> None:
    metered.ask("verify")


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_kept_with_its_bytes_and_a_reason_that_teaches(metered: House, name: str) -> None:
    each = RUBBISH[name]
    found = [reject for reject in metered.listing("rejects") if payload_of(reject) == each.payload]
    assert len(found) == 1
    (reject,) = found
    assert reject["reason"] in each.reasons
    assert reject["topic"] == USAGE_EVENTS
    assert {"partition", "offset", "index"} <= set(reject)
    assert len(reject["detail"].split()) > 4, reject["detail"]


def test_nothing_else_was_rejected(metered: House) -> None:
    assert len(metered.listing("rejects")) == len(RUBBISH)


IN_BATCHES = [name for name, each in RUBBISH.items() if each.parses]


@pytest.fixture(scope="module")
def batched(applied: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    """For each piece of rubbish that may stand in an array a batch of a hundred: 99 good events, it in place 41."""
    house = applied.copy(tmp_path_factory.mktemp("batched") / "home")
    batches = []
    for name in IN_BATCHES:
        good = [as_bytes(event(f"beside {name} {number}")) for number in range(99)]
        batches.append(b"[" + b",".join([*good[:41], RUBBISH[name].payload, *good[41:]]) + b"]")
    publish(house, [(batch, BATCH) for batch in batches])
    house.run("work", "--until-idle")
    return house


def test_a_hundred_events_less_one_are_billed(batched: House) -> None:
    good = 99 * len(IN_BATCHES)
    assert bill_of(batched) == (good, good, cost_of(good))
    assert len(batched.listing("rejects")) == len(IN_BATCHES)


@pytest.mark.parametrize("name", IN_BATCHES)
def test_one_bad_event_among_a_hundred_is_rejected_alone(batched: House, name: str) -> None:
    (reject,) = (reject for reject in batched.listing("rejects") if payload_of(reject) == RUBBISH[name].payload)
    assert (reject["offset"], reject["index"]) == (IN_BATCHES.index(name), 41)
    assert reject["reason"] in RUBBISH[name].reasons


def test_a_batch_that_does_not_parse_is_kept_whole(applied: House, tmp_path: Any) -> None:
    house = applied.copy(tmp_path / "home")
    batch = b"[" + b",".join(as_bytes(event(f"lost-{number}")) for number in range(5))  # no end
    publish(house, [(batch, BATCH), (as_bytes(event("after")), STRUCTURED)])
    house.run("work", "--until-idle")
    (reject,) = house.listing("rejects")
    assert (payload_of(reject), reject["index"], reject["reason"]) == (batch, -1, "not_json")
    assert bill_of(house) == (1, 1, cost_of(1))
