"""What pages show of a figure: rounded once, and adding up."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.api.pages import words
from meterhouse.api.pages.chargeback import PARTS, why
from meterhouse.api.pages.charts import MAX_SERIES, OTHERS, over_time
from meterhouse.api.pages.compared import table_of
from meterhouse.api.pages.ranges import NAMES, named
from meterhouse.streams.money import to_text
from meterhouse.warehouse.reports.groups import microseconds_of

PICO = st.integers(-(10**18), 10**18)


def number(shown: str) -> Decimal:
    return Decimal(shown.replace("−", "-").replace(",", "").lstrip("+"))


@given(st.lists(PICO, max_size=20), st.sampled_from([2, 4, 6]))
def test_a_column_adds_up_as_it_is_shown(pico: list[int], decimals: int) -> None:
    lines, total = words.column([to_text(each) for each in pico], decimals)
    assert sum((number(line.shown) for line in lines), Decimal()) == number(total.shown)
    assert total.exact == to_text(sum(pico))
    assert [line.exact for line in lines] == [to_text(each) for each in pico]


def compared(costs: list[tuple[int, int]]) -> dict[str, Any]:
    """A comparison by model, of costs now and before."""

    def figures(now: int, before: int, requests: int) -> dict[str, object]:
        sides = [
            {"cost": to_text(each), "requests": requests, "unpriced_requests": 0, "tokens": {"input": requests}}
            for each in (now, before)
        ]
        return {"now": sides[0], "before": sides[1], "difference": to_text(now - before), "relative": None}

    total = figures(sum(now for now, _ in costs), sum(before for _, before in costs), len(costs))
    lines = [{"model": str(place), "state": "kept", **figures(*each, 1)} for place, each in enumerate(costs)]
    return {"group_by": ["model"], "lines": lines, "total": total}


@given(st.lists(st.tuples(PICO, PICO), min_size=1, max_size=10), st.integers(1, 12), st.booleans())
def test_changes_add_up_down_and_across_however_few_lines_a_table_has(
    costs: list[tuple[int, int]], most: int, by_cost: bool
) -> None:
    table = table_of(compared(costs), by_cost=by_cost, most=most)
    assert len(table.lines) == min(most, len(costs))
    assert table.others == (len(costs) - most + 1 if len(costs) > most else 0)
    assert (table.lines[-1].state == "others") == (table.others > 0)
    for line in (*table.lines, table.total):
        assert number(line.now.shown) - number(line.before.shown) == number(line.change.shown)
    for of in ("now", "before", "change"):
        column = [number(getattr(line, of).shown) for line in table.lines]
        assert sum(column, Decimal()) == number(getattr(table.total, of).shown)
    assert sum(line.requests for line in table.lines) == sum(line.tokens for line in table.lines) == len(costs)


@given(st.lists(st.tuples(PICO, PICO), min_size=1, max_size=10), st.lists(PICO, min_size=6, max_size=6))
def test_causes_add_up_to_the_change_beside_them(costs: list[tuple[int, int]], causes: list[int]) -> None:
    table = table_of(compared(costs))
    parts = [*causes, sum(now - before for now, before in costs) - sum(causes)]
    chart = why({"currency": "USD", "parts": dict(zip(PARTS, map(to_text, parts), strict=True))}, table)
    shown = [number(cell.shown) for row in chart.rows for cell in row.cells]
    assert sum(shown, Decimal()) == number(table.total.change.shown)
    assert f"{table.total.change.shown} USD" in chart.note
    steps = [abs(each - Decimal(to_text(part))) for each, part in zip(shown, filter(None, parts), strict=True)]
    assert all(each < Decimal(2).scaleb(-table.decimals) for each in steps)


@given(st.lists(st.integers(0, 10**18), min_size=1, max_size=20))
def test_shares_add_up_to_a_hundred(pico: list[int]) -> None:
    shown = words.shares([to_text(each) for each in pico])
    if any(pico):
        assert sum(Decimal(each.removesuffix(" %")) for each in shown) == 100
    else:
        assert set(shown) == {words.NOTHING}


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        ("1234567.125000000000", "1,234,567.12"),
        ("1.005000000000", "1.00"),
        ("1.015000000000", "1.02"),
        ("-3.500000000000", "−3.50"),
        ("0.000000000000", "0.00"),
        ("0.012345000000", "0.0123"),
        ("0.000012500000", "0.000012"),
    ],
)
def test_money_is_rounded_half_even_with_as_many_decimals_as_tell_something(exact: str, shown: str) -> None:
    assert words.amount(exact).shown == shown


def test_shares_spans_and_times_are_in_a_readers_words() -> None:
    assert [words.share(each, sign=True) for each in ("0.25", "-0.1234", "0", None)] == [
        "+25.0 %",
        "−12.3 %",
        "0.0 %",
        "–",
    ]
    assert [words.span(each) for each in (0.4, 119, 120, 7_200, 172_800, None)] == [
        "0 s", "119 s", "2 min", "2 h", "2 days", "–",
    ]  # fmt: skip
    shown = words.instant("2026-11-01T23:30:00Z", ZoneInfo("Europe/Berlin"))
    assert shown == '<time datetime="2026-11-01T23:30:00+00:00">2 Nov 2026, 00:30</time>'


def test_what_is_shown_is_escaped() -> None:
    assert words.Amount("<b>", '"').__html__() == '<data value="&#34;">&lt;b&gt;</data>'


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - a zone is given
def test_a_named_range_holds_whole_days_and_begins_before_now(now: datetime) -> None:
    day_us = 86_400_000_000
    for name in set(NAMES) - {"given"}:
        found = named(name, microseconds_of(now))
        assert found.from_us % day_us == found.to_us % day_us == 0
        assert found.from_us < found.to_us
        assert found.from_us <= microseconds_of(now)
        assert (found.to_us > microseconds_of(now)) == (name in ("this-month", "today"))


@given(st.lists(st.tuples(st.sampled_from(["1", "2"]), st.integers(0, 12), st.integers(0, 10**15)), max_size=30))
def test_a_charts_series_are_few_and_lose_nothing(points: list[tuple[str, int, int]]) -> None:
    lines = [{"day": day, "model": str(model), "cost": to_text(cost)} for day, model, cost in points]
    series, rows = over_time(lines, "day", "model")
    assert len(series) <= MAX_SERIES
    assert (OTHERS in series) == (len({model for _, model, _ in points}) > MAX_SERIES)
    cells = [Decimal(cell.exact) for row in rows for cell in row.cells]
    assert sum(cells, Decimal()) == Decimal(to_text(sum(cost for *_, cost in points)))
