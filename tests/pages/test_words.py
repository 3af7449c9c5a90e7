"""What pages show of a figure: rounded once, and adding up."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.api.pages import words
from meterhouse.api.pages.charts import MAX_SERIES, OTHERS, over_time
from meterhouse.api.pages.compared import lines_of
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


@given(st.lists(st.tuples(PICO, PICO), min_size=1, max_size=10))
def test_changes_add_up_down_and_across(costs: list[tuple[int, int]]) -> None:
    def figures(now: int, before: int) -> dict[str, object]:
        side = [{"cost": to_text(each), "requests": 1, "unpriced_requests": 0, "tokens": {}} for each in (now, before)]
        return {"now": side[0], "before": side[1], "difference": to_text(now - before), "relative": None}

    total = figures(*(sum(side) for side in zip(*costs, strict=True)))
    lines = [{"model": str(place), "state": "kept", **figures(*each)} for place, each in enumerate(costs)]
    shown, shown_total = lines_of({"group_by": ["model"], "lines": lines, "total": total})
    for line in (*shown, shown_total):
        assert number(line.now.shown) - number(line.before.shown) == number(line.change.shown)
    assert sum((number(line.change.shown) for line in shown), Decimal()) == number(shown_total.change.shown)


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
