"""Errors of the HTTP API as RFC 9457 problem documents: a stable `type`, and a `detail` that says what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from meterhouse.api.operations import routes_of
from meterhouse.streams import gate_http

MEDIA_TYPE: Final = gate_http.MEDIA_TYPE
TYPES: Final[Mapping[str, tuple[int, str]]] = {
    "malformed-event": (400, "The event is malformed"),
    "malformed-body": (400, "The body does not parse"),
    "invalid-parameter": (400, "A parameter is invalid"),
    "unauthenticated": (401, "Who asks is not known"),
    "forbidden": (403, "This is not permitted"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "not-acceptable": (406, "There is no such form of it"),
    "too-slow": (408, "The body did not come in time"),
    "conflict": (409, "It does not fit what was done before"),
    "gone": (410, "It is no longer there"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The content type is not supported"),
    "rate-limited": (429, "Too many requests"),
    gate_http.PROBLEM: (gate_http.STATUS, gate_http.TITLE),
    "internal-error": (500, "Something failed on our side"),
    "unavailable": (503, "Not able to do this now"),
    "log-full": (507, "The event log is full"),
}
"""Every problem there is: its name (type `/problems/<name>`), status and title."""

_log = structlog.get_logger("meterhouse.api")


class Problem(Exception):
    """Raise to answer with a problem document. Further `members` stand beside the standard ones."""

    def __init__(self, name: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.name, self.detail, self.members = name, detail, members
        self.headers = dict(headers or {})
        self.status, self.title = TYPES[name]


class PagesOfProblems(Protocol):
    def problem(self, request: Request, problem: Problem) -> Response:
        """A page that says what is wrong and what to do."""
        ...


def document(problem: Problem, instance: str) -> Response:
    body = {
        "type": f"/problems/{problem.name}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        **problem.members,
    }
    return Response(json.dumps(body), problem.status, problem.headers, MEDIA_TYPE)


def answer(request: Request, problem: Problem) -> Response:
    """The problem as whoever asks reads it: people as a page, where there are pages; programs as a document."""
    pages: PagesOfProblems | None = getattr(request.app.state, "pages", None)
    if pages is not None and is_for_people(request):
        return pages.problem(request, problem)
    return document(problem, request.url.path)


def is_for_people(request: Request) -> bool:
    """Browsers that show a page say that they take HTML; programs do not. htmx asks for parts of pages and says so."""
    return "text/html" in request.headers.get("accept", "") or is_part(request)


def is_part(request: Request) -> bool:
    """Whether htmx asks, for a part of the page that it is in."""
    return request.headers.get("HX-Request") == "true"


def responses(*names: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that may answer with these problems."""
    said: dict[int | str, dict[str, Any]] = {}
    for name in names:
        add_response(said, name)
    return said


def add_response(said: MutableMapping[Any, dict[str, Any]], name: str) -> None:
    """Adds a problem to OpenAPI `responses`, whose keys are numbers or texts. One status may stand for several."""
    status, title = TYPES[name]
    line = f"{title}: `{name}`."
    answer = said.setdefault(status if any(isinstance(each, int) for each in said) else str(status), {})
    content = answer.setdefault("content", {})
    content.setdefault(MEDIA_TYPE, {"schema": {"$ref": "#/components/schemas/Problem"}})
    if line not in answer.setdefault("description", ""):
        answer["description"] = f"{answer['description']} {line}".lstrip()


def install(app: FastAPI) -> None:
    """Makes every error of `app` a problem document."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        return answer(request, problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _from_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return answer(request, _method_not_allowed(request))
        return answer(request, _from_status(error))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        _log.error("request failed", path=request.url.path, method=request.method, error=type(error).__name__)
        detail = "The request was not at fault. Try again; if it stays, look in the server's log."
        return answer(request, Problem("internal-error", detail))


def _from_validation(errors: Sequence[Mapping[str, Any]]) -> Problem:
    found = [{"parameter": ".".join(str(part) for part in e["loc"][1:]), "reason": e["msg"]} for e in errors]
    said = "; ".join(f"{item['parameter']}: {item['reason']}" for item in found)
    return Problem("invalid-parameter", f"{said}. See /docs for what each parameter takes.", errors=found)


def _method_not_allowed(request: Request) -> Problem:
    """A router names the methods of the first route of a path; a path may have several."""
    routes = [each for each in routes_of(request.app) if each.matches(request.scope)[0] is not Match.NONE]
    allowed = ", ".join(sorted({method for each in routes for method in each.methods or ()}))
    return Problem("method-not-allowed", f"Use {allowed} on this path.", headers={"Allow": allowed})


def _from_status(error: HTTPException) -> Problem:
    headers = error.headers or {}
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem("not-found", "No such resource. The paths are listed at /docs.", headers=headers)
    if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Problem("malformed-body", str(error.detail), headers=headers)
    return Problem("unavailable", str(error.detail), headers=headers)
