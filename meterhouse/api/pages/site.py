"""The pages of an application: their templates, what every page has, and problems in a reader's words."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meterhouse.api.auth.caller import LOCAL, Caller
from meterhouse.api.auth.outside import PAGE
from meterhouse.api.auth.sessions import FORM_FIELD, Sessions
from meterhouse.api.pages import (
    application,
    assets,
    audit,
    budgets,
    chargeback,
    charges,
    documentation,
    filtering,
    looks,
    menu,
    objectives,
    overview,
    pipeline,
    rate_cards,
    reject_sweeps,
    rejects,
    sign_in,
    words,
)
from meterhouse.api.pages.checks import Check
from meterhouse.api.pages.links import Query
from meterhouse.api.problems import Problem, is_part

_LEVEL: Final = 5
"""A fifth of the size of a page, for a millisecond or two: beyond it little is won."""
_STATUS_RETRIED: Final = frozenset({429, 503})

_PARTS: Final = frozenset({"risks", "laws", "chain"})
"""Parts of pages that htmx asks for by themselves: in the place of one stands what is wrong with it."""


class Site:
    """What all pages share. May be shared between threads."""

    def __init__(self, sessions: Sessions, behind_s: float) -> None:
        """`behind_s`: figures that lack events so old are shown with a warning."""
        self.sessions = sessions
        self._behind_s = behind_s
        self.assets = assets.Assets()
        self.laws, self.chain = Check("The laws are"), Check("The audit log is")
        self._templates = _environment(self.assets)

    def page(
        self, request: Request, template: str, shown: Mapping[str, Any], *, status: int = 200, as_of: Any = None
    ) -> HTMLResponse:
        """A page. `as_of`: of the report that it shows, whose age the page says."""
        look = looks.look_of(request)
        who: Caller | None = getattr(request.state, "caller", None)
        common = {
            "who": who,
            "is_local": who is LOCAL,
            "menu": menu.menu_of(who),
            "path": request.url.path,
            "here": _here(request),
            "query": Query.of(request),
            "look": look,
            "zones": looks.OFFERED,
            "form_field": FORM_FIELD,
            "form_token": self.sessions.form_token(self.sessions.of(request)),
            "are_built": self.assets.are_built,
            "how_to_build": assets.HOW_TO_BUILD,
            "as_of": as_of,
            "is_behind": as_of is not None and (as_of["lag_seconds"] or 0) > self._behind_s,
            "instant": lambda text: words.instant(text, look.zone_info),
        }
        text = self._templates.get_template(template).render(common | dict(shown))
        headers = {"Cache-Control": "private, no-store", "Vary": "HX-Request, Cookie, Accept-Encoding"}
        if not assets.takes_gzip(request):
            return HTMLResponse(text, status, headers)
        return HTMLResponse(gzip.compress(text.encode(), _LEVEL), status, headers | {"Content-Encoding": "gzip"})

    def problem(self, request: Request, problem: Problem) -> Response:
        """What is wrong, for people: who is not known is led to sign in, and then back."""
        if problem.status == HTTPStatus.UNAUTHORIZED:
            return self._to_sign_in(request)
        retried = problem.status in _STATUS_RETRIED
        part = request.headers.get("HX-Target", "")
        shown = {"problem": problem, "retried": retried, "part": part if part in _PARTS else ""}
        response = self.page(request, "problem.html", shown, status=problem.status)
        response.headers.update(problem.headers)
        # Of a failure nobody foresaw the answer is sent past all middleware.
        response.headers["Content-Security-Policy"] = PAGE
        return response

    def _to_sign_in(self, request: Request) -> Response:
        """Back to the page that is shown, in the end. `htmx` asks for a part of one: the whole page must go on. What a
        form would have done is not done later, so it is filled in again on its page."""
        headers = request.headers
        if is_part(request):
            back = looks.page_of(request, headers.get("HX-Current-URL"))
        else:
            back = _here(request) if request.method == "GET" else looks.page_of(request, headers.get("Referer"))
        there = f"/sign-in?next={quote(back, safe='')}"
        if is_part(request):
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"HX-Redirect": there})
        return RedirectResponse(there, HTTPStatus.SEE_OTHER)


def install(app: FastAPI) -> None:
    """Adds the pages to `app`."""
    house = app.state.house
    app.state.pages = Site(house.authentication.sessions, house.settings.meter_behind_s)
    operating = (rejects, reject_sweeps, rate_cards, pipeline, audit)
    owning = (application, objectives, budgets)
    for part in (assets, sign_in, documentation, overview, chargeback, charges, filtering, *owning, *operating):
        app.include_router(part.router)


def _here(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _environment(files: assets.Assets) -> Environment:
    templates = Environment(
        loader=PackageLoader("meterhouse.api.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(
        amount=words.amount,
        code=words.code,
        count=words.count,
        day=words.day,
        lasting=words.span,
        measured=words.measured,
        of=words.of,
        padded=words.padded,
        seconds=words.seconds,
        share=words.share,
    )
    templates.globals.update(asset=files.path, nothing=Markup(words.NOTHING))
    return templates
