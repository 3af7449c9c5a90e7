"""Forecast: what a budget will have spent when its window ends, and the day on which it reaches its limit.

A day is expected to bring what its weekday typically brings: the median of that weekday in the history, drawn to the
mean of all days while there are few weeks of it. How much more or less than that the window has brought so far is its
*level*, with the last week's beside it as a prior; the rest of the window is expected at that level. Whole numbers and
fractions only: amounts are exact until they are rounded, once, half-even.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Final

from meterhouse.streams.control import WindowSpec
from meterhouse.streams.windows import time_zone, windows_between

HISTORY_DAYS: Final = 56
"""Eight weeks: enough for a median of each weekday, and few enough to follow a season."""
MIN_HISTORY_DAYS: Final = 7
"""Each weekday was seen. With fewer days the forecast goes on as the window went."""
FULL_WEEKS: Final = 3
"""So many of a weekday speak for themselves: the least of which the median leaves an outlier out."""
PRIOR: Final = 4
"""A quarter of what the window is expected to bring, a month's week, stands beside what it has brought: so the first
hours of a window do not decide its level."""

RECENT_DAYS: Final = 7
"""A median of eight weeks is what was usual a month ago; the last week says how much there is of it now."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Day:
    """A calendar day of a time zone: [start_us, end_us), of 23 or 25 hours where the clock changes."""

    start_us: int
    end_us: int
    date: date


@dataclass(frozen=True, slots=True)
class Forecast:
    """Amounts are in the unit of what was spent."""

    amount: int  # spend at the window's end
    exceeds_on: date | None  # the day on which it reaches the limit; None: it does not, or has already


def days_between(zone: str, from_us: int, to_us: int) -> tuple[Day, ...]:
    """The days of an IANA time zone that share an instant with [from_us, to_us). ValueError: no such zone."""
    local = time_zone(zone)
    return tuple(
        # By its middle: where the clock skips midnight, the start may show the day before.
        Day(start, end, (_EPOCH + timedelta(microseconds=(start + end) // 2)).astimezone(local).date())
        for start, end in windows_between(WindowSpec("day", zone), from_us, to_us)
    )


def forecast(
    spent: int, limit: int | None, window: Sequence[Day], now_us: int, history: Sequence[tuple[date, int]] = ()
) -> Forecast:
    """Of a budget, or of anything without a limit, that has spent so much in the window that these days tile.

    `history`: spend by complete day before the day of `now_us`, ascending, each day there, those without spend as 0.
    Days before the first spend are not history: the scope was not there yet. With too little of it
    (MIN_HISTORY_DAYS) the window goes on as it went: spent × length / elapsed. At or before the window's start, and
    from its end on, the amount is what was spent.
    """
    if not window[0].start_us < now_us < window[-1].end_us:
        return Forecast(spent, None)
    ahead = [day for day in window if day.end_us > now_us]
    level, expected = _by_weekday(spent, window, ahead, now_us, history) or _as_it_went(spent, window, ahead, now_us)
    amount = round(spent + level * sum(expected))
    if limit is None or spent >= limit or amount < limit:
        return Forecast(amount, None)
    so_far = Fraction(0)
    for day, more in zip(ahead, expected, strict=True):
        so_far += more
        if round(spent + level * so_far) >= limit:
            return Forecast(amount, day.date)
    raise AssertionError("the last day comes to the amount, which reaches the limit")


Course = tuple[Fraction, list[int | Fraction]]
"""The window's level, and what each day ahead is expected to bring at level 1; of the running day, its rest."""


def _as_it_went(spent: int, window: Sequence[Day], ahead: Sequence[Day], now_us: int) -> Course:
    return Fraction(spent, now_us - window[0].start_us), [day.end_us - max(day.start_us, now_us) for day in ahead]


def _by_weekday(
    spent: int, window: Sequence[Day], ahead: Sequence[Day], now_us: int, history: Sequence[tuple[date, int]]
) -> Course | None:
    first = next((n for n, (_, amount) in enumerate(history) if amount), len(history))
    known = history[first:]
    if len(known) < MIN_HISTORY_DAYS:
        return None
    typical, unit = _typical(known)
    today = ahead[0]
    rest_of_today = Fraction(today.end_us - now_us, today.end_us - today.start_us)
    expected: list[int | Fraction] = [typical[day.date.weekday()] for day in ahead]
    expected[0] *= rest_of_today
    whole = sum(typical[day.date.weekday()] for day in window)
    if whole == 0:
        return None
    prior = Fraction(whole, PRIOR)
    level = (spent * unit + prior * _recent_level(known, typical, unit)) / (whole - sum(expected) + prior)
    return level / unit, expected


def _recent_level(history: Sequence[tuple[date, int]], typical: Sequence[int], unit: int) -> Fraction:
    """How the last RECENT_DAYS compare with what is typical; 1 where that is all there is.

    By the day, their median, which leaves out a wild day; or all together, which is not fooled by weekdays that hardly
    had any spend: the lower.
    """
    recent = [(amount * unit, typical[day.weekday()]) for day, amount in history[-RECENT_DAYS:]]
    levels = sorted(Fraction(amount, usual) for amount, usual in recent if usual)
    if len(history) < 7 * FULL_WEEKS or not levels:
        return Fraction(1)
    median = (levels[(len(levels) - 1) // 2] + levels[len(levels) // 2]) / 2
    return min(median, Fraction(sum(amount for amount, _ in recent), sum(usual for _, usual in recent)))


def _typical(history: Sequence[tuple[date, int]]) -> tuple[list[int], int]:
    """What each weekday brings, Monday first, in whole numbers of 1/unit; and that unit."""
    total, count = sum(amount for _, amount in history), len(history)
    typical = []
    for weekday in range(7):
        amounts = sorted(amount for day, amount in history if day.weekday() == weekday)
        weeks = min(len(amounts), FULL_WEEKS)
        twice_median = amounts[(len(amounts) - 1) // 2] + amounts[len(amounts) // 2] if amounts else 0
        typical.append(weeks * twice_median * count + (FULL_WEEKS - weeks) * 2 * total)
    return typical, 2 * FULL_WEEKS * count
