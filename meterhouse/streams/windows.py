"""Windows: half-open spans [start, end) of a calendar day, week or month in a stated time zone.

A window starts at local midnight (a week's on Monday, a month's on the 1st) and ends where the next one starts, so
windows tile time, and a day lasts 23 or 25 hours where the clock changes. Midnight that the clock skips is taken with
the offset before the change, midnight that it repeats is taken the first time (PEP 495, fold 0).
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from meterhouse.streams.control import WindowSpec

MAX_WINDOWS: Final = 100_000
"""Of one question: 270 years of days. More is a unit mistaken (seconds for microseconds, say)."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
MIN_US: Final = (datetime(2, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
MAX_US: Final = (datetime(9998, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""Where `date` can hold the window's neighbours too."""


def window_of(spec: WindowSpec, time_us: int) -> tuple[int, int]:
    """The window (start_us, end_us) that holds the instant. ValueError: unknown zone, no such year."""
    edges = _edges(spec, time_us, time_us)
    i = bisect_right(edges, time_us)
    return edges[i - 1], edges[i]


def windows_between(spec: WindowSpec, from_us: int, to_us: int) -> list[tuple[int, int]]:
    """The windows that share an instant with [from_us, to_us), ascending; none when it is empty."""
    if from_us >= to_us:
        return []
    edges = _edges(spec, from_us, to_us - 1)
    first, last = bisect_right(edges, from_us) - 1, bisect_right(edges, to_us - 1)
    return list(zip(edges[first:last], edges[first + 1 : last + 1], strict=True))


def window_starts(spec: WindowSpec, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The start of each instant's window: (n,) microseconds → (n,) microseconds."""
    if not len(times_us):
        return np.empty(0, dtype=np.int64)
    edges = np.array(_edges(spec, int(times_us.min()), int(times_us.max())), dtype=np.int64)
    starts: npt.NDArray[np.int64] = edges[np.searchsorted(edges, times_us, side="right") - 1]
    return starts


def _edges(spec: WindowSpec, first_us: int, last_us: int) -> list[int]:
    """Window starts, strictly ascending, from one at or before `first_us` to one after `last_us`."""
    if first_us < MIN_US or last_us >= MAX_US:
        raise ValueError(
            f"{first_us} to {last_us} us since 1970 is outside the calendar (years 2 to 9997): check the unit"
        )
    zone = time_zone(spec.time_zone)
    day = _first_day(spec, (_EPOCH + timedelta(microseconds=first_us)).astimezone(zone).date())
    # One window back: where the clock skips midnight, the local date can be ahead of the window (Toronto, 1919).
    day = _first_day(spec, day - timedelta(days=1))
    edges = [_midnight_us(day, zone)]
    while edges[-1] <= last_us:
        day = _next_day(spec, day)
        start_us = _midnight_us(day, zone)
        if start_us > edges[-1]:  # a date that the zone skipped whole has no window
            edges.append(start_us)
        if len(edges) > MAX_WINDOWS:
            raise ValueError(
                f"more than {MAX_WINDOWS} windows between {first_us} and {last_us}: ask for less, "
                "and check that both are microseconds since 1970"
            )
    return edges


def time_zone(name: str) -> ZoneInfo:
    """The IANA zone. ValueError when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}: write an IANA name, such as Europe/Berlin or UTC") from error


def _midnight_us(day: date, zone: ZoneInfo) -> int:
    return (datetime.combine(day, time(), tzinfo=zone) - _EPOCH) // _MICROSECOND


def _first_day(spec: WindowSpec, day: date) -> date:
    match spec.every:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)


def _next_day(spec: WindowSpec, first: date) -> date:
    match spec.every:
        case "day":
            return first + timedelta(days=1)
        case "week":
            return first + timedelta(days=7)
        case "month":
            return (first + timedelta(days=31)).replace(day=1)
