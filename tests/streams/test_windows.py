from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from meterhouse.streams.control import WindowSpec
from meterhouse.streams.windows import window_of, window_starts, windows_between


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000


def shown(window: tuple[int, int]) -> list[str]:
    return [f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=edge):%Y-%m-%dT%H:%M}" for edge in window]


HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("every", "zone", "time", "window"),
    [
        ("day", "UTC", "2026-11-23T12:00Z", ["2026-11-23T00:00", "2026-11-24T00:00"]),
        ("day", "Asia/Kolkata", "2026-11-23T18:29Z", ["2026-11-22T18:30", "2026-11-23T18:30"]),
        ("week", "UTC", "2026-11-22T23:59Z", ["2026-11-16T00:00", "2026-11-23T00:00"]),
        ("week", "UTC", "2026-11-23T00:00Z", ["2026-11-23T00:00", "2026-11-30T00:00"]),
        ("month", "Europe/Berlin", "2026-10-31T23:30Z", ["2026-10-31T23:00", "2026-11-30T23:00"]),
        ("month", "Europe/Berlin", "2026-10-15T00:00Z", ["2026-09-30T22:00", "2026-10-31T23:00"]),
        ("month", "America/New_York", "2027-01-01T04:59Z", ["2026-12-01T05:00", "2027-01-01T05:00"]),
    ],
)
def test_a_window_is_a_day_week_or_month_of_its_zone(every: str, zone: str, time: str, window: list[str]) -> None:
    assert shown(window_of(WindowSpec(every, zone), us(time))) == window  # type: ignore[arg-type]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-01", 24)])
def test_a_day_on_which_the_clock_changes_has_23_or_25_hours(day: str, hours: int) -> None:
    start, end = window_of(WindowSpec("day", "Europe/Berlin"), us(f"{day}T12:00Z"))
    assert end - start == hours * HOUR_US


def test_a_day_whose_midnight_is_skipped_starts_when_the_clock_jumps() -> None:
    # Beirut: 2025-03-30 00:00 became 01:00.
    start, end = window_of(WindowSpec("day", "Asia/Beirut"), us("2025-03-30T10:00Z"))
    assert (shown((start, end)), (end - start) // HOUR_US) == (["2025-03-29T22:00", "2025-03-30T21:00"], 23)


def test_a_day_whose_midnight_repeats_starts_the_first_time() -> None:
    # Havana: 2025-11-02 01:00 became 00:00.
    start, end = window_of(WindowSpec("day", "America/Havana"), us("2025-11-02T05:30Z"))
    assert (shown((start, end)), (end - start) // HOUR_US) == (["2025-11-02T04:00", "2025-11-03T05:00"], 25)


def test_an_instant_of_the_new_date_before_its_window_belongs_to_the_window_before() -> None:
    # Toronto: 1919-03-30 23:30 became 00:30; midnight with the offset before is 05:00Z, half an hour later.
    instant = us("1919-03-31T04:45Z")
    assert shown(window_of(WindowSpec("day", "America/Toronto"), instant)) == ["1919-03-30T05:00", "1919-03-31T05:00"]


def test_a_date_that_a_zone_skipped_has_no_window() -> None:
    # Samoa went from 29 to 31 December 2011.
    days = windows_between(WindowSpec("day", "Pacific/Apia"), us("2011-12-29T20:00Z"), us("2011-12-31T09:00Z"))
    assert list(map(shown, days)) == [
        ["2011-12-29T10:00", "2011-12-30T10:00"],
        ["2011-12-30T10:00", "2011-12-31T10:00"],
    ]


def test_windows_between_are_those_that_share_an_instant_with_the_span() -> None:
    spec = WindowSpec("day", "UTC")
    noon, midnight = us("2026-11-23T12:00Z"), us("2026-11-24T00:00Z")
    assert [shown(w)[0] for w in windows_between(spec, noon, midnight)] == ["2026-11-23T00:00"]
    assert [shown(w)[0] for w in windows_between(spec, noon, midnight + 1)] == ["2026-11-23T00:00", "2026-11-24T00:00"]
    assert windows_between(spec, noon, noon) == []


def test_no_times_have_no_windows() -> None:
    assert window_starts(WindowSpec("day", "UTC"), np.empty(0, dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "../etc/passwd", "Europe"])
def test_an_unknown_zone_says_what_to_write(zone: str) -> None:
    with pytest.raises(ValueError, match=r"unknown time zone.*write an IANA name, such as Europe/Berlin"):
        window_of(WindowSpec("day", zone), 0)


def test_a_time_outside_the_calendar_says_to_check_the_unit() -> None:
    with pytest.raises(ValueError, match=r"outside the calendar.*check the unit"):
        window_of(WindowSpec("day", "UTC"), 2**62)


def test_a_span_of_too_many_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 100000 windows"):
        windows_between(WindowSpec("day", "UTC"), us("1000-01-01T00:00Z"), us("2000-01-01T00:00Z"))
