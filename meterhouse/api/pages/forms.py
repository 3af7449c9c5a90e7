"""Forms of pages: read within a limit, and taken only from our own pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request

from meterhouse.api.auth.sessions import FORM_FIELD, Sessions
from meterhouse.api.dependencies import MAX_FORM_BYTES, check_media_type, read_body
from meterhouse.api.problems import Problem

FORM: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 40
"""More than any form of ours has."""


def fields_of(limit: int) -> Callable[[Request], Awaitable[Mapping[str, str]]]:
    """A dependency: what a form of at most `limit` bytes says. Raises Problem (`forbidden`: it comes from elsewhere, or
    of another session)."""

    async def fields(request: Request) -> Mapping[str, str]:
        check_media_type(request, FORM)
        _check_origin(request)
        return _read(request, await read_body(request, limit, "Shorten its texts."))

    return fields


def _read(request: Request, body: bytes) -> Mapping[str, str]:
    try:
        said = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise Problem("malformed-body", "The form does not parse: send it from its page.") from None
    sessions: Sessions = request.app.state.pages.sessions
    if not sessions.is_form_token(sessions.of(request), said.pop(FORM_FIELD, "")):
        raise Problem("forbidden", "This form is of another session. Go back, load its page anew and send it again.")
    return said


def _check_origin(request: Request) -> None:
    """Browsers say which page sends a form. One that does not say is not trusted with it."""
    origin = request.headers.get("origin", "")
    if not origin or urlsplit(origin).netloc != request.headers.get("host"):
        raise Problem("forbidden", "A form of another site is not taken. Open this server's own page and use its form.")


FieldsOf = Annotated[Mapping[str, str], Depends(fields_of(MAX_FORM_BYTES))]
