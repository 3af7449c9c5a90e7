"""Laws of forecasts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from meterhouse.streams.control import Every, WindowSpec
from meterhouse.streams.forecast import HISTORY_DAYS, Day, days_between, forecast
from meterhouse.streams.windows import window_of

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Asia/Beirut")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNLIMITED = 10**40
YEAR_US = range(1_767_225_600_000_000, 1_798_761_600_000_000)

Case = tuple[tuple[Day, ...], int, list[tuple[date, int]]]
"""A window's days, an instant in it, and a history up to that day."""


def days_before(now_us: int, zone: str, window: tuple[Day, ...]) -> list[date]:
    today = next(day.date for day in window if day.end_us > now_us)
    return [today - timedelta(days=n) for n in range(HISTORY_DAYS, 0, -1)]


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[Day, ...], int, str]:
    zone = draw(st.sampled_from(ZONES))
    every: Every = draw(st.sampled_from(["day", "week", "month"]))
    now_us = draw(st.integers(YEAR_US.start, YEAR_US.stop))
    return days_between(zone, *window_of(WindowSpec(every, zone), now_us)), now_us, zone


@st.composite
def cases(draw: st.DrawFn) -> Case:
    window, now_us, zone = draw(windows())
    amounts = draw(
        st.one_of(
            st.just([]),
            st.lists(st.integers(0, 10**20), min_size=HISTORY_DAYS, max_size=HISTORY_DAYS),
            st.lists(st.sampled_from([0, 0, 0, 1, 10**12]), min_size=HISTORY_DAYS, max_size=HISTORY_DAYS),
        )
    )
    return window, now_us, list(zip(days_before(now_us, zone, window), amounts, strict=False))


spends = st.integers(0, 10**24)


@given(cases(), spends, st.integers(0, 10**12))
def test_a_forecast_is_never_below_what_was_spent_and_grows_with_it(case: Case, spent: int, more: int) -> None:
    window, now_us, history = case
    low, high = (forecast(amount, UNLIMITED, window, now_us, history).amount for amount in (spent, spent + more))
    assert spent <= low <= high


@given(cases(), spends, st.integers(0, 10**15))
def test_outside_of_its_window_a_forecast_is_what_was_spent(case: Case, spent: int, beyond_us: int) -> None:
    window, _, history = case
    for now_us in (window[-1].end_us + beyond_us, window[0].start_us - beyond_us):
        assert forecast(spent, UNLIMITED, window, now_us, history).amount == spent


@given(cases(), spends)
def test_the_last_instant_of_a_window_adds_next_to_nothing(case: Case, spent: int) -> None:
    window, _, history = case
    highest = max((amount for _, amount in history), default=0)
    amount = forecast(spent, UNLIMITED, window, window[-1].end_us - 1, history).amount
    assert amount - spent <= (spent + 31 * highest) // 10**6 + 1


@given(cases(), spends, st.integers(1, 10**9))
def test_a_forecast_is_the_same_in_any_unit(case: Case, spent: int, factor: int) -> None:
    window, now_us, history = case
    one = forecast(spent, UNLIMITED, window, now_us, history).amount
    other = forecast(
        spent * factor, UNLIMITED, window, now_us, [(day, amount * factor) for day, amount in history]
    ).amount
    assert abs(other - one * factor) <= factor // 2 + 1


@given(windows(), st.lists(st.integers(0, 10**15), min_size=7, max_size=7), st.integers(0, 10**6 - 1))
def test_a_week_that_repeats_is_forecast_exactly(
    at: tuple[tuple[Day, ...], int, str], week: list[int], part: int
) -> None:
    window, now_us, zone = at
    assume(any(week))
    today = next(day for day in window if day.end_us > now_us)
    now_us = today.start_us + (today.end_us - today.start_us) * part // 10**6
    assume(now_us > window[0].start_us)
    history = [(day, week[day.weekday()]) for day in days_before(now_us, zone, window)]
    spent = Fraction(sum(week[day.date.weekday()] for day in window if day.end_us <= now_us))
    spent += Fraction(week[today.date.weekday()] * (now_us - today.start_us), today.end_us - today.start_us)
    # The running day has brought as much of its spend as of its time; spend is in whole units, so scaled till it is.
    unit = spent.denominator
    amount = forecast(
        int(spent * unit), UNLIMITED, window, now_us, [(day, amount * unit) for day, amount in history]
    ).amount
    assert amount == unit * sum(week[day.date.weekday()] for day in window)


@given(cases(), spends, st.integers(1, 10**25))
def test_a_day_is_named_exactly_when_the_forecast_reaches_the_limit(case: Case, spent: int, limit: int) -> None:
    window, now_us, history = case
    found = forecast(spent, limit, window, now_us, history)
    assert (found.exceeds_on is not None) == (spent < limit <= found.amount)
    if found.exceeds_on is not None:
        assert found.exceeds_on in {day.date for day in window if day.end_us > now_us}
        sooner = forecast(spent, (spent + limit + 1) // 2, window, now_us, history).exceeds_on
        assert sooner is None or sooner <= found.exceeds_on
