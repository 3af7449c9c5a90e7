"""Rejected events over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import LimitOf, ReportsOf, SpanOf
from meterhouse.api.problems import responses
from meterhouse.api.schemas import reports as schemas
from meterhouse.ingest.batch import Reason
from meterhouse.warehouse.reports.rejects import RejectFilter

router = APIRouter(
    prefix="/v1",
    tags=["reports"],
    dependencies=only(Permission.read_rejects),
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "unavailable"),
)


@router.get(
    "/rejects",
    response_model=schemas.Rejects,
    summary="Rejected events",
)
def rejects(
    reports: ReportsOf,
    span: SpanOf,
    reason: Annotated[list[Reason] | None, Query(description="only these reasons")] = None,
    tenant: Annotated[str | None, Query(description="only this tenant, as the event claims it")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: LimitOf = 100,
    resolved: Annotated[bool, Query(description="those too that were requeued, repaired or discarded")] = False,
) -> dict[str, Any]:
    """Events that were not taken, with reason and bytes; the newest arrival first. The range is of arrival."""
    matching = RejectFilter(span.from_us, span.to_us, tuple(reason or ()), tenant)
    return reports.rejects(matching, after, limit, resolved=resolved)
