"""What pages are asked with: a range by its name or its days, and what to group by."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Query

from meterhouse.api.clock import BadTime, now_us, parse_time
from meterhouse.api.figures import Span
from meterhouse.api.pages.ranges import Range, named
from meterhouse.api.problems import Problem
from meterhouse.warehouse.reports.groups import datetime_of

GROUPS: Final = {
    "tenant": "Tenant",
    "org_unit": "Org unit",
    "cost_center": "Cost center",
    "application": "Application",
    "environment": "Environment",
    "model": "Model",
    "provider": "Provider",
    "operation": "Operation",
    "kind": "Token kind",
}
"""What costs are laid out by, in a reader's words."""


async def range_asked(
    range: str | None = None, from_: Annotated[str | None, Query(alias="from")] = None, to: str | None = None
) -> Range:
    """Days that are given count where no other range is named. Raises Problem (`invalid-parameter`)."""
    days = (from_ or None, to or None)
    if range not in (None, "", "given") or days == (None, None):
        return named(range or "", now_us())
    month = named("", now_us())
    start_us, end_us = (_time(text, name) for text, name in zip(days, ("from", "to"), strict=True))
    found = Range("given", month.from_us if start_us is None else start_us, month.to_us if end_us is None else end_us)
    if found.from_us >= found.to_us:
        raise Problem("invalid-parameter", "The range is empty: its first day must be before the day it ends on.")
    return found


async def days_asked(from_: Annotated[str | None, Query(alias="from")] = None, to: str | None = None) -> Span:
    """What was given, and no end where none was: of lists that people look through from the newest on. Raises Problem
    (`invalid-parameter`)."""
    return Span(_time(from_ or None, "from"), _time(to or None, "to"))


async def groups_asked(
    by: Annotated[str | None, Query(max_length=40)] = None, then: Annotated[str | None, Query(max_length=40)] = None
) -> tuple[str, ...]:
    """One or two of GROUPS, tenants where nothing is said. Raises Problem (`invalid-parameter`)."""
    asked = tuple(dict.fromkeys(name for name in (by or "tenant", then) if name))
    for name in asked:
        if name not in GROUPS:
            raise Problem("invalid-parameter", f"{name!r} is nothing to lay costs out by: {', '.join(GROUPS)} are.")
    return asked


def days_of(span: Span) -> dict[str, str]:
    """The days that a form shows for what it was asked with."""
    ends = (("from", span.from_us), ("to", span.to_us))
    return {name: "" if at_us is None else datetime_of(at_us).date().isoformat() for name, at_us in ends}


def span_of(chosen: Range) -> Span:
    return Span(chosen.from_us, chosen.to_us)


def _time(text: str | None, name: str) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except BadTime as wrong:
        raise Problem("invalid-parameter", f"{name}: {wrong}") from None


DaysOf = Annotated[Span, Depends(days_asked)]
RangeOf = Annotated[Range, Depends(range_asked)]
GroupsOf = Annotated[tuple[str, ...], Depends(groups_asked)]
