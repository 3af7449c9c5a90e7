"""Reports over HTTP: the shapes of `schemas`, each of one snapshot of the lake."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import FiltersOf, ReportsOf, SpanOf
from meterhouse.api.figures import names_of
from meterhouse.api.problems import responses
from meterhouse.api.schemas import reports as schemas
from meterhouse.warehouse.reports.usage import Every

router = APIRouter(
    prefix="/v1",
    tags=["reports"],
    dependencies=only(Permission.read_reports),
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "unavailable"),
)

GroupBy = Annotated[
    str | None,
    Query(
        description="comma-separated: tenant, org_unit, cost_center, application, environment, model, provider, "
        "operation, kind, day, hour, month",
        examples=["tenant,model"],
    ),
]


@router.get(
    "/chargeback",
    response_model=schemas.Chargeback,
    response_model_exclude_unset=True,
    summary="Chargeback",
)
def chargeback(reports: ReportsOf, span: SpanOf, filters: FiltersOf, group_by: GroupBy = None) -> dict[str, Any]:
    """What was billed per group, exact to the last of twelve decimals. Without a range: the current month (UTC)."""
    return reports.chargeback(span, names_of(group_by), filters)


@router.get("/usage", response_model=schemas.Usage, response_model_exclude_unset=True, summary="Usage")
def usage(
    reports: ReportsOf, span: SpanOf, filters: FiltersOf, every: Every = "day", group_by: GroupBy = None
) -> dict[str, Any]:
    """Requests by status and tokens of every request, in buckets of time. Without a range: the current month (UTC)."""
    return reports.usage(span, every, names_of(group_by), filters)


@router.get("/slo", response_model=schemas.Slo, summary="Service level objectives")
def slo(reports: ReportsOf, span: SpanOf) -> dict[str, Any]:
    """Each objective over its window that ends now, or over the given range: compliance, what is left of its error
    budget, burn rates, percentiles."""
    return reports.slo(span)


@router.get("/budgets", response_model=schemas.Budgets, summary="Budgets")
def budgets(reports: ReportsOf, span: SpanOf) -> dict[str, Any]:
    """Each budget's current window, or all its windows in the given range: limit, spend, state, forecast."""
    return reports.budgets(span)
