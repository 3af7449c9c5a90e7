"""Ranges as people name them: `range=last-month`, or dates. Days are those of UTC, as on the bill and in the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from meterhouse.warehouse.reports.groups import datetime_of, microseconds_of
from meterhouse.warehouse.reports.to_json import rfc3339

DAY: Final = timedelta(days=1)
NAMES: Final[Mapping[str, str]] = {
    "this-month": "This month",
    "last-month": "Last month",
    "last-7-days": "Last 7 whole days",
    "last-30-days": "Last 30 whole days",
    "today": "Today",
    "given": "Dates",
}
OTHERWISE: Final = "this-month"
MAX_DAYS: Final = 92
"""Bars that a reader tells apart; longer ranges are shown by month."""
Step = Literal["hour", "day", "month"]
AXES: Final[Mapping[Step, str]] = {"hour": "Hour (UTC)", "day": "Day (UTC)", "month": "Month (UTC)"}


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open, microseconds. `name`: of NAMES."""

    name: str
    from_us: int
    to_us: int

    @property
    def first_day(self) -> str:
        return datetime_of(self.from_us).date().isoformat()

    @property
    def end_day(self) -> str:
        """The first day that is not of it."""
        return datetime_of(self.to_us).date().isoformat()

    @property
    def step(self) -> Step:
        """What it is shown by, over time."""
        days = (self.to_us - self.from_us) / 86_400_000_000
        return "hour" if days <= 2 else "day" if days <= MAX_DAYS else "month"

    def seconds_to_go(self, now_us: int) -> int:
        """Of a range that is not over; 0 where it is, or has not begun."""
        return (self.to_us - now_us) // 1_000_000 if self.from_us <= now_us < self.to_us else 0

    def times(self) -> Iterator[str]:
        """The start of each of its hours or days, as the API writes it."""
        step_us = 3_600_000_000 if self.step == "hour" else 86_400_000_000
        for at_us in range(self.from_us // step_us * step_us, self.to_us, step_us):
            yield rfc3339(at_us)

    @property
    def in_words(self) -> str:
        """Its days, both ends included: 1 – 30 Nov 2026."""
        first, last = datetime_of(self.from_us), datetime_of(self.to_us - 1)
        if first.date() == last.date():
            return f"{first:%-d %b %Y}"
        start = f"{first:%-d}" if (first.year, first.month) == (last.year, last.month) else f"{first:%-d %b}"
        return f"{start if first.year == last.year else f'{first:%-d %b %Y}'} – {last:%-d %b %Y}"


def named(name: str, now_us: int) -> Range:
    """The range of this name at this moment; of a name that there is not, this month."""
    today = datetime_of(now_us).date()
    month = today.replace(day=1)
    if name == "last-month":
        return between(name, (month - DAY).replace(day=1), month)
    if name in ("last-7-days", "last-30-days"):
        return between(name, today - timedelta(days=7 if name == "last-7-days" else 30), today)
    if name == "today":
        return between(name, today, today + DAY)
    return between(OTHERWISE, month, next_month(month))


def range_of(said: Mapping[str, str]) -> Range:
    """A range as the API says it."""
    return Range("given", *(microseconds_of(datetime.fromisoformat(said[name])) for name in ("from", "to")))


def between(name: str, first: date, end: date) -> Range:
    return Range(name, *(microseconds_of(datetime.combine(each, time(), UTC)) for each in (first, end)))


def next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def month_before(day: date) -> date:
    return (day.replace(day=1) - DAY).replace(day=1)
