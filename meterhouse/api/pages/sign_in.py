"""Signing in and out, and how pages look to a reader."""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from meterhouse.api.auth.authentication import Authentication
from meterhouse.api.auth.caller import Caller, NotAuthenticated, Role
from meterhouse.api.auth.code_flow import RETURN, Answer
from meterhouse.api.auth.notices import Notice
from meterhouse.api.auth.sessions import SessionTooLarge, is_secure
from meterhouse.api.dependencies import MAX_FORM_BYTES
from meterhouse.api.operations import PAGES
from meterhouse.api.pages import looks
from meterhouse.api.pages.forms import FieldsOf, fields_of
from meterhouse.api.problems import Problem
from meterhouse.warehouse.control import ControlUnavailable

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
async def sign_in_page(request: Request, next: str | None = None, signed_out: bool = False) -> Response:
    return _page(request, looks.within(next), signed_out=signed_out)


@router.post("/sign-in")
async def sign_in(request: Request, fields: FieldsOf) -> Response:
    """With a key or a token, in place of whoever was signed in. It is told to the audit log, and so is a refusal."""
    finding = _authentication(request).holder_of(fields.get("credentials", "").strip())
    return await _begun(request, looks.within(fields.get("next")), finding)


@router.get("/sign-in/oidc")
async def to_issuer(request: Request, next: str | None = None) -> Response:
    """Leads to the identity provider."""
    flow, back = _authentication(request).flow(), looks.within(next)
    attempt = flow.attempts.new(back)
    try:
        response = RedirectResponse(await flow.address(attempt), HTTPStatus.FOUND)
    except ControlUnavailable as away:
        return _away(request, back, away)
    flow.attempts.begin(request, response, attempt)
    return response


@router.get(RETURN)
async def from_issuer(
    request: Request,
    state: str | None = None,
    code: str | None = None,
    iss: str | None = None,
    error: str | None = None,
    error_description: str | None = None,
) -> Response:
    """Whoever comes back from there is signed in, in place of whoever was."""
    authentication = _authentication(request)
    attempts = authentication.flow().attempts
    attempt = attempts.of(request)
    answer = Answer(state, code, iss, error, error_description)
    back = looks.within(None if attempt is None else attempt.back)
    response = await _begun(request, back, authentication.returned(attempt, answer))
    if response.status_code == HTTPStatus.SEE_OTHER:
        attempts.take_back(request, response)
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Who is signed out already, by the clock say, needs no form of a session."""
    sessions = _authentication(request).sessions
    session = sessions.of(request)
    if session is not None:
        await fields_of(MAX_FORM_BYTES)(request)
    by_token = session is not None and session.via == "token"
    response = RedirectResponse("/sign-in?signed_out=true" if by_token else "/sign-in", HTTPStatus.SEE_OTHER)
    sessions.end(request, response)
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


def _authentication(request: Request) -> Authentication:
    authentication = request.app.state.house.authentication
    assert isinstance(authentication, Authentication)
    return authentication


async def _begun(request: Request, back: str, finding: Awaitable[Caller]) -> Response:
    """A session of whoever is found, in place of the one before; else the page, with what is wrong."""
    sessions = _authentication(request).sessions
    try:
        who = await finding
        response = RedirectResponse(back, HTTPStatus.SEE_OTHER)
        sessions.end(request, response)
        sessions.begin(request, response, sessions.new(who))
        _authentication(request).notices.note(_begun_by(who, request))
    except NotAuthenticated as failed:
        request.state.failed = failed
        return _page(request, back, failed.said or _NOT_KNOWN, HTTPStatus.UNAUTHORIZED)
    except SessionTooLarge:
        return _page(request, back, _TOO_LARGE, HTTPStatus.UNAUTHORIZED)
    except ControlUnavailable as away:
        return _away(request, back, away)
    except Problem as refused:
        return _page(request, back, refused.detail, refused.status)
    return response


def _begun_by(who: Caller, request: Request) -> Notice:
    address = request.client.host if request.client else "unknown"
    return Notice(who.id, "session.begun", request.url.path, who.id, address)


def _away(request: Request, back: str, away: ControlUnavailable) -> Response:
    wrong = f"Nobody can sign in this way now: {away}. Try again in half a minute, or sign in another way."
    return _page(request, back, wrong, HTTPStatus.SERVICE_UNAVAILABLE)


def _page(
    request: Request, back: str, wrong: str | None = None, status: int = HTTPStatus.OK, *, signed_out: bool = False
) -> Response:
    flow = _authentication(request).code_flow
    shown = {
        "next": back,
        "here": f"/sign-in?next={quote(back, safe='')}",  # and not where an issuer led to, with a code
        "wrong": wrong,
        "issuer": None if flow is None else flow.host,
        "leave": flow.sign_out_address if signed_out and flow is not None else None,
    }
    response: Response = request.app.state.pages.page(request, "sign_in.html", shown, status=status)
    return response
