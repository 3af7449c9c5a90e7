"""What gateways and model nodes say of the same requests, over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from meterhouse.api.answers import FORMS, AnswerOf
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import PAGE, PageOf, ReportsOf, SpanOf
from meterhouse.api.paging import Page
from meterhouse.api.problems import responses
from meterhouse.api.schemas import reconciliation as schemas
from meterhouse.warehouse.reports.groups import Filters

router = APIRouter(
    prefix="/v1",
    tags=["reports"],
    dependencies=only(Permission.read_reports),
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "unavailable"),
)


async def _filters(
    tenant: Annotated[list[str] | None, Query(description="only these tenants")] = None,
    provider: Annotated[list[str] | None, Query(description="only requests of these providers")] = None,
    model: Annotated[list[str] | None, Query(description="only requests of these models")] = None,
) -> Filters:
    given = {"tenant": tenant, "provider": provider, "model": model}
    return {name: values for name, values in given.items() if values}


RequestFilters = Annotated[Filters, Depends(_filters)]


@router.get(
    "/reconciliation",
    response_model=schemas.Reconciliation,
    summary="Reconciliation of gateways and nodes",
    responses=FORMS | responses("not-acceptable"),
)
def reconciliation(answer: AnswerOf, reports: ReportsOf, span: SpanOf, filters: RequestFilters) -> Any:
    """Requests by what gateways and model nodes say of them, brought together by tenant and `request_id`: counts that
    differ, requests that only one side saw, device time without a request; and which tenants exceed a limit. Every
    request is of one kind, and the kinds add up to the events of both sides. Of tenants that the caller sees whole.
    Without a range: the current month (UTC)."""
    return answer(reports.reconciliation(span, filters))


@router.get(
    "/reconciliation/requests",
    response_model=schemas.ReconciledRequests,
    summary="Requests behind a reconciliation",
    responses=FORMS | responses("not-acceptable", "gone"),
)
def reconciled_requests(
    answer: AnswerOf,
    reports: ReportsOf,
    span: SpanOf,
    filters: RequestFilters,
    page: PageOf,
    kind: Annotated[
        schemas.RequestKind | None, Query(description="only requests of this kind; without it: every gap")
    ] = None,
) -> Any:
    """The requests behind a reconciliation's counts, a page at a time, the oldest first: what either side says of each,
    and where its events stand in the log. Without a range: the current month (UTC)."""
    return answer(reports.reconciled_requests(span, filters, kind, page or Page(PAGE)))
