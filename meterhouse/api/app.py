"""The HTTP application."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.middleware.base import RequestResponseEndpoint

from meterhouse.api import problems, schemas
from meterhouse.api.alert_desk import NoSuch
from meterhouse.api.figures import Reports
from meterhouse.api.routes import alerts, events, health, reports
from meterhouse.api.wiring import House
from meterhouse.ingest.log import LogError
from meterhouse.streams.alerts import OutboxUnavailable
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.lake import LakeError
from meterhouse.warehouse.reports.errors import ReportError

DESCRIPTION = """The meter and the books of an LLM platform.

Publish one event per request; ask what it cost, how fast it was, and what is left of a budget. Money is text with
twelve decimals, times are RFC 3339 in UTC, ranges are half-open (`from` included, `to` excluded). Every report says in
`as_of` what it includes. Errors are RFC 9457 problem documents.
"""


def create_app(house: House, *, workers_alive: Callable[[], bool] = lambda: True) -> FastAPI:
    """The application over an open house. `workers_alive` tells readiness whether the workers beside it still run."""
    app = FastAPI(
        title="Meterhouse",
        version="1",
        description=DESCRIPTION,
        openapi_tags=[
            {"name": "ingest", "description": "Events in."},
            {"name": "reports", "description": "Figures out."},
            {"name": "alerts", "description": "News for people, and what they do about it."},
            {"name": "health", "description": "For whoever runs this."},
        ],
    )
    app.state.house = house
    app.state.reports = Reports(house)
    app.state.workers_alive = workers_alive
    problems.install(app)
    _count_requests(app, house)
    _install_domain_errors(app)
    for router in (events.router, reports.router, alerts.router, health.router):
        app.include_router(router)
    _add_problem_schema(app)
    return app


def _count_requests(app: FastAPI, house: House) -> None:
    @app.middleware("http")
    async def _count(request: Request, call_next: RequestResponseEndpoint) -> Response:
        begin_s = perf_counter()
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
        finally:
            # The pattern, not the path: paths are without number. Unknown ones have none.
            route = getattr(request.scope.get("route"), "path", "unknown")
            house.metrics.answered(request.method, route, status, perf_counter() - begin_s)
        return response


def _install_domain_errors(app: FastAPI) -> None:
    @app.exception_handler(ReportError)
    async def _wrong(request: Request, error: ReportError) -> Response:
        return problems.document(problems.Problem("invalid-parameter", str(error)), request.url.path)

    async def _unavailable(request: Request, error: Exception) -> Response:
        problem = problems.Problem("unavailable", f"{error}. Try again.", headers={"Retry-After": "1"})
        return problems.document(problem, request.url.path)

    @app.exception_handler(NoSuch)
    async def _no_such(request: Request, error: NoSuch) -> Response:
        return problems.document(problems.Problem("not-found", str(error)), request.url.path)

    for kind in (LogError, LakeError, ControlUnavailable, OutboxUnavailable):
        app.exception_handler(kind)(_unavailable)


def _add_problem_schema(app: FastAPI) -> None:
    """The one schema that no route returns: errors do."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document["components"].setdefault("schemas", {})["Problem"] = schemas.ProblemDocument.model_json_schema()
        return document

    app.openapi = openapi  # type: ignore[method-assign]
