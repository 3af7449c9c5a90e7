"""The events behind a chargeback's line over HTTP, and from an event to its place in the log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query

from meterhouse.api.answers import FORMS, AnswerOf
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import PAGE, FiltersOf, PageOf, ReportsOf, SpanOf
from meterhouse.api.paging import Page
from meterhouse.api.problems import responses
from meterhouse.api.schemas import reports as schemas

router = APIRouter(
    prefix="/v1",
    tags=["reports"],
    dependencies=only(Permission.read_reports),
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "unavailable"),
)


@router.get(
    "/charges",
    response_model=schemas.Charges,
    response_model_exclude_unset=True,
    summary="Charges",
    responses=FORMS | responses("not-acceptable", "gone"),
)
def charges(
    answer: AnswerOf,
    reports: ReportsOf,
    span: SpanOf,
    filters: FiltersOf,
    page: PageOf,
    kind: Annotated[
        Literal["input", "cache_read", "cache_write", "output", "reasoning"] | None,
        Query(description="tokens and cost of this kind alone, as in a chargeback's line of it"),
    ] = None,
) -> Any:
    """The events behind a chargeback's line, a page at a time, oldest first: each with its tokens, rate card, prices
    and place in the log. The line's groups are the filters (`environment=` for a line without one), its day, hour or
    month is the range, its kind is `kind`; the costs of all pages add up to the line's, with those that retention
    removed (`removed`). Without a range: the current month (UTC)."""
    return answer(reports.charges(span, filters, kind, page or Page(PAGE)))


@router.get(
    "/charges/{partition}/{offset}/{index}",
    response_model=schemas.ChargeAndRecord,
    response_model_exclude_unset=True,
    summary="One charge",
    responses=responses("not-found"),
)
def charge(
    reports: ReportsOf,
    partition: Annotated[int, Path(ge=0, lt=2**31)],
    offset: Annotated[int, Path(ge=0, lt=2**63)],
    index: Annotated[int, Path(ge=0, lt=2**31)],
) -> Any:
    """The charge of the event at this place in the log, and whether the log still has its record."""
    return reports.charge(partition, offset, index)
