"""Data quality over HTTP: what `meterhouse quality` found last."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meterhouse.api import quality_desk
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import HouseOf
from meterhouse.api.problems import responses
from meterhouse.api.schemas.quality import Quality
from meterhouse.warehouse.quality.checks import SUITE_NAMES, Suite

router = APIRouter(
    prefix="/v1",
    tags=["quality"],
    dependencies=only(Permission.read_quality),
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "unavailable"),
)


@router.get("/quality", response_model=Quality, summary="Data quality")
def quality(
    house: HouseOf, suite: Annotated[Suite | None, Query(description="only this suite")] = None
) -> dict[str, Any]:
    """What each suite came to when `meterhouse quality` last ran it: checks, the rows that fail them, what to do."""
    return quality_desk.report(house, SUITE_NAMES if suite is None else (suite,))
