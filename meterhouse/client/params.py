"""What is asked, as it stands in a request's path and query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from urllib.parse import quote

from meterhouse.client.transport import Params

When = datetime | date | str
"""An aware datetime, a date in UTC, or RFC 3339."""
Filters = Mapping[str, str | Sequence[str]]
"""`{"tenant": "acme-retail", "model": ["atlas-large", "atlas-small"]}`"""


def part_of(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def range_of(from_: When | None, to: When | None) -> dict[str, str | None]:
    return {"from": _time(from_), "to": _time(to)}


def report_of(from_: When | None, to: When | None, group_by: Sequence[str], where: Filters | None) -> Params:
    return {**(where or {}), **range_of(from_, to), "group_by": ",".join(group_by) or None}


def _time(when: When | None) -> str | None:
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(f"{when} has no time zone: give an aware datetime, as datetime.now(UTC)")
        return when.isoformat()
    return when.isoformat() if isinstance(when, date) else when
