"""Reports over HTTP: the shapes of `schemas`, each of one snapshot of the lake."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from meterhouse.api.answers import FORMS, AnswerOf
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import FiltersOf, PageOf, ReportsOf, SpanOf
from meterhouse.api.figures import names_of
from meterhouse.api.problems import responses
from meterhouse.api.schemas import reports as schemas
from meterhouse.warehouse.reports.groups import Filters
from meterhouse.warehouse.reports.latencies import LATENCY_GROUPS, Step
from meterhouse.warehouse.reports.usage import Every

router = APIRouter(
    prefix="/v1",
    tags=["reports"],
    dependencies=only(Permission.read_reports),
    responses=FORMS
    | responses(
        "invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "not-acceptable", "gone", "unavailable"
    ),
)

GroupBy = Annotated[
    str | None,
    Query(
        description="comma-separated: tenant, org_unit, cost_center, application, environment, model, provider, "
        "operation, kind, day, hour, month",
        examples=["tenant,model"],
    ),
]


async def _measured(
    tenant: Annotated[list[str] | None, Query(description="only these tenants")] = None,
    application: Annotated[list[str] | None, Query(description="only these applications")] = None,
    model: Annotated[list[str] | None, Query(description="only these models")] = None,
    provider: Annotated[list[str] | None, Query(description="only these providers")] = None,
) -> Filters:
    """What histograms can be filtered by."""
    given = {"tenant": tenant, "application": application, "model": model, "provider": provider}
    return {name: list(values) for name, values in given.items() if values}


@router.get(
    "/chargeback",
    response_model=schemas.Chargeback,
    response_model_exclude_unset=True,
    summary="Chargeback",
)
def chargeback(
    answer: AnswerOf, reports: ReportsOf, span: SpanOf, filters: FiltersOf, page: PageOf, group_by: GroupBy = None
) -> Any:
    """What was billed per group, exact to the last of twelve decimals. Without a range: the current month (UTC)."""
    return answer(reports.chargeback(span, names_of(group_by), filters, page))


@router.get("/usage", response_model=schemas.Usage, response_model_exclude_unset=True, summary="Usage")
def usage(
    answer: AnswerOf,
    reports: ReportsOf,
    span: SpanOf,
    filters: FiltersOf,
    page: PageOf,
    every: Every = "day",
    group_by: GroupBy = None,
) -> Any:
    """Requests by status and tokens of every request, in buckets of time. Without a range: the current month (UTC)."""
    return answer(reports.usage(span, every, names_of(group_by), filters, page))


@router.get("/slo", response_model=schemas.Slo, summary="Service level objectives")
def slo(answer: AnswerOf, reports: ReportsOf, span: SpanOf) -> Any:
    """Each objective over its window that ends now, or over the given range: compliance, what is left of its error
    budget, burn rates, percentiles."""
    return answer(reports.slo(span))


@router.get(
    "/slo/burn-down",
    response_model=schemas.BurnDown,
    summary="An objective's error budget, step by step",
    responses=responses("not-found"),
)
def burn_down(
    answer: AnswerOf,
    reports: ReportsOf,
    span: SpanOf,
    objective: Annotated[str, Query(max_length=500, description="its id, as `/v1/slo` has it")],
) -> Any:
    """What was left of the error budget hour by hour or, of more than three days, day by day, over the objective's
    window that ends now or over the given range; and the minutes that took the most of it."""
    return answer(reports.burn_down(objective, span))


@router.get(
    "/latencies",
    response_model=schemas.Latencies,
    response_model_exclude_unset=True,
    summary="Latencies",
)
def latencies(
    answer: AnswerOf,
    reports: ReportsOf,
    span: SpanOf,
    filters: Annotated[Filters, Depends(_measured)],
    every: Step = "day",
    group_by: Annotated[
        str | None,
        Query(description=f"comma-separated: {', '.join(LATENCY_GROUPS)}", examples=["application,model"]),
    ] = None,
) -> Any:
    """Percentiles of durations and of times to the first token per group, in buckets of time or of the whole range.
    Without a range: the current month (UTC). The total is of all its requests; percentiles are never averaged."""
    return answer(reports.latencies(span, names_of(group_by), every, filters))


@router.get("/budgets", response_model=schemas.Budgets, summary="Budgets")
def budgets(answer: AnswerOf, reports: ReportsOf, span: SpanOf) -> Any:
    """Each budget's current window, or all its windows in the given range: limit, spend, state, forecast."""
    return answer(reports.budgets(span))
