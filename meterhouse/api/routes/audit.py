"""The audit log over HTTP, for auditors."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic.config import JsonDict

from meterhouse.api import audit_desk
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import HouseOf, LimitOf, SpanOf
from meterhouse.api.problems import responses
from meterhouse.api.schemas.audit import AuditEntries
from meterhouse.warehouse.audit import AuditFilter
from meterhouse.warehouse.audit_chain import MAX_TEXT

router = APIRouter(
    prefix="/v1",
    tags=["audit"],
    dependencies=only(Permission.read_audit),
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "unavailable"),
)


PLACE: Final[JsonDict] = {"pattern": "^[0-9]{1,18}$"}
"""Our own error says more of a wrong one than a validator's."""


@router.get("/audit", response_model=AuditEntries, summary="The audit log")
def audit(
    house: HouseOf,
    span: SpanOf,
    actor: Annotated[str | None, Query(max_length=MAX_TEXT, description="only what they did")] = None,
    action: Annotated[str | None, Query(max_length=MAX_TEXT, description="only deeds of this kind")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before", json_schema_extra=PLACE)] = None,
    limit: LimitOf = 100,
) -> dict[str, Any]:
    """Who did what, the newest first. Each entry's hash follows from it and the hash of the one before; `meterhouse
    audit verify` checks them all, against the lake too."""
    return audit_desk.page(house, AuditFilter(span.from_us, span.to_us, actor, action), after, limit)
