"""Signing in and out, and how pages look to a reader."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from meterhouse.api.auth.authentication import Authentication
from meterhouse.api.auth.caller import NotAuthenticated, Role
from meterhouse.api.auth.sessions import SessionTooLarge, is_secure
from meterhouse.api.operations import PAGES
from meterhouse.api.pages import looks
from meterhouse.api.pages.forms import FieldsOf
from meterhouse.api.problems import Problem

router = APIRouter(include_in_schema=False, tags=[PAGES])

_NOT_KNOWN: Final = "This key or token is not valid, or no more. Ask whoever runs this server for a new one."
_TOO_LARGE: Final = "This token names more tenants than a browser keeps. Ask for one with fewer, or for a key."


@router.get("/")
async def home(request: Request) -> Response:
    """Where a reader begins: product owners at their applications."""
    session = request.app.state.house.authentication.sessions.of(request)
    is_owner = session is not None and session.role is Role.product_owner
    return RedirectResponse("/application" if is_owner else "/overview", HTTPStatus.SEE_OTHER)


@router.get("/sign-in")
async def sign_in_page(request: Request, next: str | None = None) -> Response:
    return _page(request, next)


@router.post("/sign-in")
async def sign_in(request: Request, fields: FieldsOf) -> Response:
    """With a key or a token, in place of whoever was signed in. A refusal is told to the audit log as any other."""
    authentication: Authentication = request.app.state.house.authentication
    back = fields.get("next")
    try:
        who = await authentication.holder_of(fields.get("credentials", "").strip())
        response = RedirectResponse(looks.within(back), HTTPStatus.SEE_OTHER)
        authentication.sessions.end(request, response)
        authentication.sessions.begin(request, response, authentication.sessions.new(who))
    except NotAuthenticated as failed:
        request.state.failed = failed
        return _page(request, back, failed.said or _NOT_KNOWN)
    except SessionTooLarge:
        return _page(request, back, _TOO_LARGE)
    except Problem as refused:
        return _page(request, back, refused.detail)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, fields: FieldsOf) -> Response:
    response = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    request.app.state.house.authentication.sessions.end(request, response)
    return response


@router.get("/look")
async def look(
    request: Request, zone: str | None = None, theme: str | None = None, next: str | None = None
) -> Response:
    """Keeps a time zone and a theme in a cookie: nothing that another site could harm anyone with."""
    chosen = looks.chosen(zone, theme)
    response = RedirectResponse(looks.within(next), HTTPStatus.SEE_OTHER)
    response.set_cookie(
        looks.COOKIE, chosen.cookie, max_age=looks.LASTS_S, secure=is_secure(request), httponly=True, samesite="lax"
    )
    return response


def _page(request: Request, back: str | None, wrong: str | None = None) -> Response:
    site = request.app.state.pages
    shown = {"next": looks.within(back), "wrong": wrong}
    status = HTTPStatus.OK if wrong is None else HTTPStatus.UNAUTHORIZED
    response: Response = site.page(request, "sign_in.html", shown, status=status)
    return response
