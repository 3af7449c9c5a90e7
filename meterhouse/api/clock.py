"""Time for people and for the parts: microseconds since the epoch, UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from meterhouse.warehouse.reports.groups import microseconds_of


class BadTime(ValueError):
    """A text is no time; the message says how to write one."""


def now_us() -> int:
    return microseconds_of(datetime.now(UTC))


def parse_time(text: str) -> int:
    """An RFC 3339 time, or a date (its midnight in UTC). Raises BadTime."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadTime(f"{text!r} is not a time: write 2026-11-01 or 2026-11-01T00:00:00Z") from None
    if moment.tzinfo is None:
        if len(text) > len("2026-11-01"):
            raise BadTime(f"{text!r} has no time zone: add Z for UTC")
        moment = moment.replace(tzinfo=UTC)
    try:
        return microseconds_of(moment)
    except OverflowError:
        raise BadTime(f"{text!r} is outside the calendar: years are 1 to 9999") from None
