"""Is the process alive, and is it ready to serve?"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from meterhouse.api.away import AWAY, told
from meterhouse.api.dependencies import HouseOf
from meterhouse.api.schemas import common as schemas
from meterhouse.api.wiring import House
from meterhouse.ingest.log import USAGE_EVENTS

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=schemas.Health, summary="Alive")
def alive() -> dict[str, Any]:
    """200 while the process can answer at all."""
    return {"status": "ok"}


@router.get("/readyz", response_model=schemas.Health, summary="Ready", responses={503: {"model": schemas.Health}})
def ready(request: Request, response: Response, house: HouseOf) -> dict[str, Any]:
    """200 when log, control data and lake can be read, the gate knows its budgets and the workers run; else 503, and
    which one fails. How old the spend is that admissions go by is said, and no failure: each budget has its policy for
    that."""
    told = readiness(request.app, house)
    response.status_code = 200 if told["status"] == "ok" else 503
    return told


def readiness(app: FastAPI, house: House) -> dict[str, Any]:
    """What `/readyz` says."""
    checks: dict[str, Any] = {}
    try:
        checks["log"] = sum(house.log.end_offsets(USAGE_EVENTS).values())
        checks["control_version"] = house.control.version()
        checks["lake_lag_records"] = app.state.reports.lag_records()
        checks["gate_ready"] = house.admissions.gate.ready
        checks["budget_state_age_s"] = house.admissions.state_age_s()
    except AWAY as trouble:
        checks["trouble"] = told(trouble)
    workers = app.state.workers_alive
    checks["workers"] = workers()
    unready = "trouble" in checks or not checks["workers"] or not checks["gate_ready"]
    return {"status": "unready" if unready else "ok", "checks": checks}


@router.get("/metrics", include_in_schema=False)
def metrics(house: HouseOf) -> Response:
    """What this process counts, for a scraper."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return Response(generate_latest(house.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
