"""What routes share: the house behind the application, ranges, lists in a query."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from meterhouse.api.clock import BadTime, parse_time
from meterhouse.api.figures import Reports, Span
from meterhouse.api.ingest import Ingest
from meterhouse.api.problems import Problem
from meterhouse.api.wiring import House


def house(request: Request) -> House:
    parts = request.app.state.house
    assert isinstance(parts, House)
    return parts


def reports(request: Request) -> Reports:
    shared = request.app.state.reports
    assert isinstance(shared, Reports)
    return shared


def ingest(request: Request) -> Ingest:
    return Ingest(house(request))


def _time(text: str | None, name: str) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except BadTime as wrong:
        raise Problem("invalid-parameter", f"{name}: {wrong}") from None


def span(
    from_: Annotated[
        str | None,
        Query(alias="from", description="start, included: RFC 3339, or a date in UTC", examples=["2026-11-01"]),
    ] = None,
    to: Annotated[
        str | None, Query(description="end, excluded: RFC 3339, or a date in UTC", examples=["2026-12-01T00:00:00Z"])
    ] = None,
) -> Span:
    return Span(_time(from_, "from"), _time(to, "to"))


def filters(
    tenant: Annotated[list[str] | None, Query(description="only these tenants")] = None,
    application: Annotated[list[str] | None, Query(description="only these applications")] = None,
    model: Annotated[list[str] | None, Query(description="only these models")] = None,
) -> dict[str, list[str]]:
    given = {"tenant": tenant, "application": application, "model": model}
    return {name: values for name, values in given.items() if values}


HouseOf = Annotated[House, Depends(house)]
ReportsOf = Annotated[Reports, Depends(reports)]
IngestOf = Annotated[Ingest, Depends(ingest)]
SpanOf = Annotated[Span, Depends(span)]
FiltersOf = Annotated[dict[str, list[str]], Depends(filters)]
