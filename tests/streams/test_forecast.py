"""Forecasts: by weekday shape where there is history, as it went where there is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import pytest

from meterhouse.streams.forecast import HISTORY_DAYS, Day, Forecast, days_between, forecast
from tests.builders import DAY_US, HOUR_US
from tests.streams.budget_builders import us

BERLIN = "Europe/Berlin"
NOVEMBER = days_between(BERLIN, us("2026-10-31T23:00"), us("2026-11-30T23:00"))
HUNDRED = [Day(start, start + 10, date(2026, 11, 1) + timedelta(days=start // 10)) for start in range(0, 100, 10)]
"""A window of a hundred microseconds, in ten days."""


def repeated(spend: Callable[[date], int], before: date, days: int = HISTORY_DAYS) -> list[tuple[date, int]]:
    """A history in which each day brought what `spend` says."""
    dates = [before - timedelta(days=n) for n in range(days, 0, -1)]
    return [(day, spend(day)) for day in dates]


def on_working_days(day: date) -> int:
    return 100 if day.weekday() < 5 else 0


@pytest.mark.parametrize(
    ("now_us", "expected"), [(-1, 7), (0, 7), (1, 700), (50, 14), (30, 23), (99, 7), (100, 7), (1000, 7)]
)
def test_without_history_spend_goes_on_as_it_went(now_us: int, expected: int) -> None:
    assert forecast(7, 10**9, HUNDRED, now_us) == Forecast(expected, None)


def test_a_forecast_rounds_half_to_even() -> None:
    window = [Day(0, 5, date(2026, 11, 1))]
    assert [forecast(spent, 10**9, window, 2).amount for spent in (1, 3, 5)] == [2, 8, 12]


def test_the_day_is_named_on_which_the_limit_is_reached() -> None:
    assert forecast(30, 100, HUNDRED, 30) == Forecast(100, date(2026, 11, 10))
    assert forecast(30, 61, HUNDRED, 30) == Forecast(100, date(2026, 11, 7))
    assert forecast(30, 31, HUNDRED, 35) == Forecast(86, date(2026, 11, 4))  # of the running day, its rest
    assert forecast(30, 101, HUNDRED, 30) == Forecast(100, None)


def test_of_a_limit_that_is_reached_no_day_is_named() -> None:
    assert forecast(30, 30, HUNDRED, 30) == Forecast(100, None)
    assert forecast(0, 0, HUNDRED, 30) == Forecast(0, None)


def test_work_on_weekdays_does_not_alarm_on_a_monday() -> None:
    # Monday 2 November at midnight of Tuesday: 100 of 21 working days' 2,100 are spent, of a limit of 2,200.
    tuesday = next(day for day in NOVEMBER if day.date == date(2026, 11, 3))
    history = repeated(on_working_days, tuesday.date)
    assert forecast(100, 2_200, NOVEMBER, tuesday.start_us, history) == Forecast(2_100, None)
    # After Friday the 13th, going on as it went would come to 2,307, and alarm.
    saturday = next(day for day in NOVEMBER if day.date == date(2026, 11, 14))
    history = repeated(on_working_days, saturday.date)
    assert forecast(1_000, 2_200, NOVEMBER, saturday.start_us, history) == Forecast(2_100, None)
    assert forecast(1_000, 2_200, NOVEMBER, saturday.start_us).exceeds_on is not None


def test_the_limit_is_reached_on_a_day_that_has_work() -> None:
    saturday = next(day for day in NOVEMBER if day.date == date(2026, 11, 14))
    history = repeated(on_working_days, saturday.date)
    assert forecast(1_000, 1_001, NOVEMBER, saturday.start_us, history).exceeds_on == date(2026, 11, 16)


def test_one_wild_day_in_the_history_changes_nothing() -> None:
    saturday = next(day for day in NOVEMBER if day.date == date(2026, 11, 14))
    history = repeated(on_working_days, saturday.date)
    history[-2] = (history[-2][0], 10**6)
    assert forecast(1_000, 10**9, NOVEMBER, saturday.start_us, history).amount == 2_100


def test_working_days_that_wake_up_do_not_lift_the_weekend() -> None:
    saturday = next(day for day in NOVEMBER if day.date == date(2026, 11, 14))
    history = repeated(lambda day: 1_000 if day.weekday() > 4 else 1, saturday.date)
    history[-5:] = [(day, 1_000) for day, _ in history[-5:]]
    amount = forecast(1_000 * 3 + 5 + 5_000, 10**12, NOVEMBER, saturday.start_us, history).amount
    assert 14_000 < amount < 30_000  # six days of weekends are ahead


def test_a_window_that_brings_twice_as_much_is_soon_believed() -> None:
    end = next(day for day in NOVEMBER if day.date == date(2026, 11, 21))
    history = repeated(on_working_days, date(2026, 11, 2)) + [
        (day.date, 2 * on_working_days(day.date)) for day in NOVEMBER if date(2026, 11, 2) <= day.date < end.date
    ]
    amount = forecast(3_000, 10**9, NOVEMBER, end.start_us, history[-HISTORY_DAYS:]).amount
    assert 4_000 < amount <= 4_200


def test_days_before_the_first_spend_are_no_history() -> None:
    saturday = next(day for day in NOVEMBER if day.date == date(2026, 11, 14))
    as_it_went = forecast(1_000, 10**9, NOVEMBER, saturday.start_us)
    for days in (HISTORY_DAYS - 1, 18, 7, 6):
        newest = repeated(lambda day: day.day, saturday.date, days)
        before = repeated(lambda _: 0, newest[0][0], HISTORY_DAYS - days)
        found = forecast(1_000, 10**9, NOVEMBER, saturday.start_us, before + newest)
        assert found == forecast(1_000, 10**9, NOVEMBER, saturday.start_us, newest)
        assert (found == as_it_went) == (days < 7)
    nothing = repeated(lambda _: 0, saturday.date)
    assert forecast(1_000, 10**9, NOVEMBER, saturday.start_us, nothing) == as_it_went


def test_few_weeks_speak_for_their_weekdays_in_part() -> None:
    saturday = next(day for day in NOVEMBER if day.date == date(2026, 11, 14))
    linear = forecast(1_000, 10**9, NOVEMBER, saturday.start_us).amount
    one, two, three = (
        forecast(1_000, 10**9, NOVEMBER, saturday.start_us, repeated(on_working_days, saturday.date, days)).amount
        for days in (9, 16, 23)  # the first is a working day
    )
    assert linear > one > two > three == 2_100


def test_days_are_those_of_the_zone_with_23_or_25_hours() -> None:
    days = days_between(BERLIN, us("2026-10-24T22:00"), us("2026-10-26T23:00"))
    assert [(day.date, day.end_us - day.start_us) for day in days] == [
        (date(2026, 10, 25), 25 * HOUR_US),
        (date(2026, 10, 26), DAY_US),
    ]
    assert days_between(BERLIN, us("2026-03-28T23:00"), us("2026-03-29T22:00")) == (
        Day(us("2026-03-28T23:00"), us("2026-03-29T22:00"), date(2026, 3, 29)),
    )
    # Midnight of 29 March 2026 is skipped in Beirut.
    assert [day.date for day in days_between("Asia/Beirut", us("2026-03-27T22:00"), us("2026-03-29T21:00"))] == [
        date(2026, 3, 28),
        date(2026, 3, 29),
    ]


def test_a_day_of_25_hours_is_one_day_of_its_weekday() -> None:
    week = days_between(BERLIN, us("2026-10-18T22:00"), us("2026-10-25T23:00"))
    history = repeated(lambda day: 10 * (1 + day.weekday()), week[6].date)
    halfway_us = week[6].start_us + 25 * HOUR_US // 2
    assert forecast(210 + 35, 10**9, week, halfway_us, history).amount == 280
