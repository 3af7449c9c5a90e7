"""The HTTP application."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meterhouse.api import deprecation, openapi, problems
from meterhouse.api.alert_desk import NoSuch
from meterhouse.api.auth.guard import check_guarded
from meterhouse.api.auth.outside import SecureHeaders, TellRefusals
from meterhouse.api.auth.rates import Rates
from meterhouse.api.away import AWAY, told
from meterhouse.api.downloads import Downloads
from meterhouse.api.figures import Reports
from meterhouse.api.foreign import ForeignTerms
from meterhouse.api.metrics import HttpMetrics
from meterhouse.api.pages import site
from meterhouse.api.paging import ListingGone
from meterhouse.api.routes import (
    admissions,
    alerts,
    audit,
    budget_states,
    charges,
    comparison,
    events,
    exports,
    foreign,
    health,
    keys,
    prices,
    quality,
    reconciliation,
    rejects,
    reports,
)
from meterhouse.api.schemas.admissions import Position
from meterhouse.api.schemas.common import ProblemDocument
from meterhouse.api.streams import Streams
from meterhouse.api.wiring import House
from meterhouse.warehouse.api_keys import KeyOver
from meterhouse.warehouse.audit import BadDeed
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.view import EVERYTHING

if TYPE_CHECKING:
    from meterhouse.api.tracing import RequestSpans

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
        docs_url=None,  # a page of ours, which loads nothing from elsewhere
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
        openapi_tags=[
            {"name": "ingest", "description": "Events in."},
            {"name": "admissions", "description": "What gateways ask before a request runs."},
            {"name": "reports", "description": "Figures out."},
            {"name": "exports", "description": "Whole files out."},
            {"name": "alerts", "description": "News for people, and what they do about it."},
            {"name": "quality", "description": "Whether the data is as it should be."},
            {"name": "audit", "description": "Who did what."},
            {"name": "keys", "description": "Who may ask."},
            {"name": "health", "description": "For whoever runs this."},
        ],
    )
    app.state.house = house
    app.state.reports = Reports(house, EVERYTHING)
    app.state.foreign_terms = ForeignTerms(house)
    app.state.workers_alive = workers_alive
    app.state.streams = Streams()
    app.state.downloads = Downloads()
    app.state.authenticator = house.authentication
    app.state.rates = Rates(house.settings.rates())
    problems.install(app)
    app.add_middleware(TellRefusals, notices=house.authentication.notices)
    spans = None if house.tracing is None else house.tracing.requests()
    app.add_middleware(CountRequests, metrics=house.metrics.http, spans=spans)
    app.add_middleware(SecureHeaders)
    _install_domain_errors(app)
    for routes in (
        admissions, events, foreign, budget_states, prices, reports, charges, comparison, reconciliation, exports,
        rejects, alerts, quality, audit, keys, health,
    ):  # fmt: skip
        app.include_router(routes.router)
    site.install(app)
    check_guarded(app)
    openapi.install(app, UNRETURNED)
    deprecation.install(app, deprecation.DEPRECATIONS)
    return app


class CountRequests:
    """Counts answers, by the time until they begin: a stream has no end. Plain ASGI, since Starlette's own base of
    middleware starts a task for each request."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, spans: RequestSpans | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin_s = perf_counter()
        begun = False

        def answered(status: int) -> None:
            # The pattern, not the path: paths are without number. Unknown ones have none.
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = perf_counter() - begin_s
            self._metrics.answered(scope["method"], route, status, seconds)
            if self._spans is not None:
                self._spans.answered(scope, route, status, seconds)

        async def count(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                answered(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, count)
        finally:
            if not begun:  # it failed, and is answered further out
                answered(500)


def _install_domain_errors(app: FastAPI) -> None:
    async def _wrong(request: Request, error: Exception) -> Response:
        return problems.answer(request, problems.Problem("invalid-parameter", str(error)))

    for wrong in (ReportError, BadDeed):  # what cannot be told to the audit log is not done
        app.exception_handler(wrong)(_wrong)

    @app.exception_handler(sa.exc.DataError)
    async def _not_taken(request: Request, error: sa.exc.DataError) -> Response:
        detail = "A text or number is one that the database does not take: leave out NUL and what is beyond 2^63."
        return problems.answer(request, problems.Problem("invalid-parameter", detail))

    async def _unavailable(request: Request, error: Exception) -> Response:
        problem = problems.Problem("unavailable", f"{told(error)}. Try again.", headers={"Retry-After": "1"})
        return problems.answer(request, problem)

    @app.exception_handler(KeyOver)
    async def _over(request: Request, error: KeyOver) -> Response:
        return problems.answer(request, problems.Problem("conflict", str(error)))

    @app.exception_handler(NoSuch)
    async def _no_such(request: Request, error: NoSuch) -> Response:
        return problems.answer(request, problems.Problem("not-found", str(error)))

    @app.exception_handler(ListingGone)
    async def _gone(request: Request, error: ListingGone) -> Response:
        return problems.answer(request, problems.Problem("gone", str(error)))

    for kind in AWAY:
        app.exception_handler(kind)(_unavailable)


UNRETURNED: Final[Mapping[str, type[BaseModel]]] = {"Problem": ProblemDocument, "Position": Position}
"""Schemas that no route returns: of errors, and within bodies that routes read themselves."""
