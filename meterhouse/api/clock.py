"""Time for people and for the parts: microseconds since the epoch, UTC."""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadTime(ValueError):
    """A text is no time; the message says how to write one."""


def to_us(moment: datetime) -> int:
    """Exact (a float of seconds would round)."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def now_us() -> int:
    return to_us(datetime.now(UTC))


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
        return to_us(moment)
    except OverflowError:
        raise BadTime(f"{text!r} is outside the calendar: years are 1 to 9999") from None
