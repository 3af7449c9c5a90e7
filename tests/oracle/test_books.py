"""The oracle against examples worked by hand."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from tests.oracle import books, traces

CONTROL = """
currency: USD
tenants:
  - {id: one, name: One, org: [group, left], cost_center: CC-1}
  - {id: two, name: Two, org: [group], cost_center: CC-2}
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "2.50", cache_read: "0.25", cache_write: "3.125", output: "10.00", reasoning: "10.00"}
  - provider: atlas
    model: large
    valid_from: 2026-03-28T23:00:00Z
    per_million: {input: "2.000001", cache_read: "0.25", cache_write: "3.125", output: "8.00", reasoning: "8.00"}
  - provider: borea
    model: small
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "1", output: "2"}
  - provider: atlas
    model: large
    tenant: two
    valid_from: 2026-01-01T00:00:00Z
    valid_to: 2026-03-29T00:00:00Z
    per_million: {input: "1.00", cache_read: "0.10", cache_write: "1.00", output: "5.00", reasoning: "5.00"}
budgets:
  - id: left-day
    scope: {org_unit: left}
    window: {every: day, time_zone: Europe/Berlin}
    limit: "0.01"
    thresholds: [50, 80, 100]
    on_exceeded: block
"""
BEFORE = books.microseconds("2026-03-28T22:59:59.999999Z")
CHANGE = books.microseconds("2026-03-28T23:00:00Z")


@pytest.fixture
def control(tmp_path: Path) -> books.Control:
    file = tmp_path / "control.yaml"
    file.write_text(CONTROL, encoding="utf-8")
    return books.read_control(file)


def event(control: books.Control, **changes: object) -> books.Event:
    tokens = dict.fromkeys(books.KINDS, 0) | {"input": 400, "cache_read": 600, "output": 200}
    plain: dict[str, object] = {
        "id": "e", "source": "/s", "tenant": "one", "application": "assistant", "provider": "atlas", "model": "large",
        "time": BEFORE, "status": "ok", "tokens": tokens, "duration": 1_000_000, "time_to_first_token": 100_000,
    }  # fmt: skip
    return books.Event(**(plain | changes))  # type: ignore[arg-type]


def test_the_list_price_of_the_events_time_is_charged(control: books.Control) -> None:
    before = books.charge(control, event(control))
    after = books.charge(control, event(control, time=CHANGE))
    assert books.money(before.cost) == "0.003150000000"  # 400 × 2.5 + 600 × 0.25 + 200 × 10, a million
    assert books.money(after.cost) == "0.002550000400"  # 400 × 2.000001 + 600 × 0.25 + 200 × 8


def test_a_negotiated_price_wins_until_it_ends(control: books.Control) -> None:
    own = books.charge(control, event(control, tenant="two", time=CHANGE))
    ended = books.charge(control, event(control, tenant="two", time=books.microseconds("2026-03-29T00:00:00Z")))
    assert books.money(own.cost) == "0.001460000000"  # 400 × 1 + 600 × 0.1 + 200 × 5
    assert books.money(ended.cost) == "0.002550000400"


def test_tokens_of_a_kind_without_a_price_leave_the_event_unpriced(control: books.Control) -> None:
    small = event(control, provider="borea", model="small")
    assert books.charge(control, small).disposition == "unpriced"
    without_cache = event(control, provider="borea", model="small", tokens=dict.fromkeys(books.KINDS, 0) | {"input": 3})
    assert books.money(books.charge(control, without_cache).cost) == "0.000003000000"


def test_errors_and_refusals_cost_nothing_and_what_was_aborted_costs_its_tokens(control: books.Control) -> None:
    costs = {status: books.charge(control, event(control, status=status)).cost for status in books.STATUSES}
    assert {status for status, cost in costs.items() if cost} == {"ok", "aborted"}


def test_a_repeat_is_the_same_event_and_another_source_or_tenant_is_not(control: books.Control) -> None:
    events = [
        event(control),
        event(control, time=CHANGE),
        event(control, source="/t"),
        event(control, tenant="two"),
    ]
    assert [each.event for each in books.charges(control, events)] == [events[0], *events[2:]]


def test_an_azure_trace_is_given_out_by_the_replay_rule(control: books.Control, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    stamps = ["46.6805900", "46.6805909", "46.6805919", "47.1000000", "50.0000001", "50.1", "51.0", "52.0"]
    rows = [f"2023-11-16 18:15:{stamp},{10 * i + 1},{i + 1}" for i, stamp in enumerate(stamps)]
    file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n", encoding="utf-8")
    events = books.replayed(control, file, "azure-llm", CHANGE)
    assert [each.tenant for each in events] == ["one", "two"] * 4
    assert [each.application for each in events] == [
        "assistant", "assistant", "search", "search", "batch-summaries", "batch-summaries", "assistant", "assistant",
    ]  # fmt: skip
    assert [each.model for each in events] == ["large"] * 6 + ["small"] * 2
    assert [each.time - CHANGE for each in events] == [0, 0, 1, 419_410, 3_319_410, 3_419_410, 4_319_410, 5_319_410]
    assert events[7] == books.Event(
        id="trace-7", source="/replay/trace", tenant="two", application="assistant", provider="borea", model="small",
        time=CHANGE + 5_319_410, status="ok", tokens=dict.fromkeys(books.KINDS, 0) | {"input": 71, "output": 8},
        duration=50_000 + 30 * 71 + 20_000 * 8, time_to_first_token=50_000 + 30 * 71,
    )  # fmt: skip


def test_a_mooncake_prompt_reads_its_leading_known_blocks_from_the_cache(
    control: books.Control, tmp_path: Path
) -> None:
    file = tmp_path / "talk.jsonl"
    rows = [
        {"timestamp": 27, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 30, "input_length": 1400, "output_length": 5, "hash_ids": [0, 1, 2]},  # two known: 1024
        {"timestamp": 30, "input_length": 1300, "output_length": 5, "hash_ids": [9, 1, 2]},  # the first is unknown
        {"timestamp": 31, "input_length": 700, "output_length": 5, "hash_ids": [0, 2]},  # both known: the whole prompt
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    events = books.replayed(control, file, "mooncake", 0)
    assert [(each.tokens["input"], each.tokens["cache_read"]) for each in events] == [
        (1000, 0),
        (376, 1024),
        (1300, 0),
        (0, 700),
    ]
    assert [each.time for each in events] == [0, 3_000, 3_000, 4_000]
    assert events[3].time_to_first_token == 50_000


def test_every_97th_fails_and_every_101st_is_aborted() -> None:
    assert [books.status_of(i) for i in (95, 96, 97, 100, 193)] == ["ok", "error", "ok", "aborted", "error"]
    assert books.status_of(97 * 101 - 1) == "error"  # both: the error is asked first


def test_a_report_adds_up_its_lines(control: books.Control) -> None:
    events = [event(control), event(control, id="f", status="error"), event(control, id="g", tenant="two")]
    report = books.chargeback(control, books.charges(control, events), ["tenant"])
    tokens = {"input": 400, "cache_read": 600, "cache_write": 0, "output": 200, "reasoning": 0}
    assert report["lines"] == [
        {"tenant": "one", "requests": 2, "billed_requests": 1, "unpriced_requests": 0, "tokens": tokens,
         "cost": "0.003150000000"},
        {"tenant": "two", "requests": 1, "billed_requests": 1, "unpriced_requests": 0, "tokens": tokens,
         "cost": "0.001460000000"},
    ]  # fmt: skip
    assert report["total"]["cost"] == "0.004610000000"


def test_a_budgets_day_begins_at_midnight_of_its_zone(control: books.Control) -> None:
    (budget,) = control.budgets
    events = [event(control, time=BEFORE), event(control, id="f", time=CHANGE), event(control, id="g", tenant="two")]
    spent = books.budget_spend(control, books.charges(control, events), budget)
    midnight = CHANGE  # 00:00 in Berlin, still winter time; the day has 23 hours
    assert spent == {
        (midnight - 24 * 3_600_000_000, midnight): Fraction("0.00315"),
        (midnight, midnight + 23 * 3_600_000_000): Fraction("0.0025500004"),
    }
    assert books.crossed(budget, Fraction("0.00799999")) == [50]
    assert books.crossed(budget, Fraction("0.01")) == [50, 80, 100]


@pytest.mark.parametrize(
    ("every", "start", "end"),
    [
        ("day", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("week", "2026-10-18T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("month", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),
    ],
)
def test_windows_follow_the_calendar_over_a_change_of_the_clock(every: str, start: str, end: str) -> None:
    moment = books.microseconds("2026-10-25T12:00:00Z")
    assert tuple(map(books.rfc3339, books.window_of(moment, every, "Europe/Berlin"))) == (start, end)


def test_an_objective_counts_what_reached_a_model(control: books.Control) -> None:
    durations = {"ok": 20_000_000, "error": 1, "aborted": 19_999_999, "throttled": 1, "blocked": 1}
    events = [event(control, id=status, status=status, duration=duration) for status, duration in durations.items()]
    of = books.charges(control, events)
    fast = {"sli": "duration", "below_ms": 20000, "scope": {"application": "assistant"}}
    up = {"sli": "availability", "scope": {"org_unit": "left"}}
    assert books.objective_counts(control, of, fast) == (2, 3)  # exactly 20 s is not below 20 s
    assert books.objective_counts(control, of, up) == (2, 3)
    assert books.objective_counts(control, of, {"sli": "availability", "scope": {"tenant": "two"}}) == (0, 0)


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = list(range(1, 101))
    assert [books.percentile(values, percent) for percent in (1, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert books.percentile([7, 3], 50) == 3
    assert books.percentile([7, 3], 51) == 7


def test_money_has_twelve_decimals_and_no_more() -> None:
    assert books.money(Fraction(0)) == "0.000000000000"
    assert books.money(Fraction(-1, 10**12)) == "-0.000000000001"
    assert books.money(Fraction("12345678.000000000001")) == "12345678.000000000001"
    with pytest.raises(AssertionError, match="more than twelve"):
        books.money(Fraction(1, 3))


@pytest.mark.parametrize("trace_format", sorted(traces.FILES))
def test_a_made_up_trace_reads_like_a_real_one(control: books.Control, tmp_path: Path, trace_format: str) -> None:
    file = tmp_path / traces.FILES[trace_format]
    traces.WRITERS[trace_format](file, 300, 5)
    events = books.replayed(control, file, trace_format, 0)
    assert len(events) == 300
    assert [each.time for each in events] == sorted(each.time for each in events)
    assert any(each.tokens["cache_read"] for each in events) == (trace_format == "mooncake")
