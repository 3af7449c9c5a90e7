"""What changed, why, and what will be; and chargeback by the tree of org units."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meterhouse.api.answers import FORMS, AnswerOf
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import FiltersOf, ReportsOf, SpanOf
from meterhouse.api.figures import names_of
from meterhouse.api.problems import responses
from meterhouse.api.schemas import comparison as schemas

router = APIRouter(
    prefix="/v1",
    tags=["reports"],
    dependencies=only(Permission.read_reports),
    responses=FORMS
    | responses("invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "not-acceptable", "unavailable"),
)

GroupBy = Annotated[
    str | None,
    Query(
        description="comma-separated: tenant, org_unit, cost_center, application, environment, model, provider, "
        "operation, kind",
        examples=["tenant,model"],
    ),
]


@router.get("/chargeback/org-tree", response_model=schemas.OrgTree, summary="Chargeback by org unit")
def org_tree(answer: AnswerOf, reports: ReportsOf, span: SpanOf, filters: FiltersOf) -> Any:
    """Each org unit with what was spent in it and in all units below. A tenant that moved is in each unit with what it
    spent while it stood there. Without a range: the current month (UTC)."""
    return answer(reports.org_tree(span, filters))


@router.get(
    "/chargeback/comparison",
    response_model=schemas.Comparison,
    response_model_exclude_unset=True,
    summary="Chargeback against the period before",
)
def comparison(answer: AnswerOf, reports: ReportsOf, span: SpanOf, filters: FiltersOf, group_by: GroupBy = None) -> Any:
    """What each group cost now and before: a whole calendar month (UTC) against the month before, any other range
    against the one of the same length just before it."""
    return answer(reports.comparison(span, names_of(group_by), filters))


@router.get("/chargeback/explanation", response_model=schemas.Explanation, summary="Why the bill changed")
def explanation(answer: AnswerOf, reports: ReportsOf, span: SpanOf, filters: FiltersOf) -> Any:
    """The difference to the period before, split into price, volume, model mix, output share, cache share, new and
    gone models, per tenant and model. The parts add up to the difference, exactly."""
    return answer(reports.explanation(span, filters))


@router.get(
    "/forecast", response_model=schemas.Forecast, response_model_exclude_unset=True, summary="Spend at the range's end"
)
def forecast(answer: AnswerOf, reports: ReportsOf, span: SpanOf, filters: FiltersOf, group_by: GroupBy = None) -> Any:
    """What will have been spent when the range ends, per group, as weekdays of the last eight weeks went. Without a
    range: the current month (UTC). The total is the sum of the lines."""
    return answer(reports.forecast(span, names_of(group_by), filters))
