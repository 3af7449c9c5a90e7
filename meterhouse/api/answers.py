"""How a report is answered: in the form that was asked for, with what caches and next pages need to know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, Request
from fastapi.responses import Response

from meterhouse.api.auth.caller import Caller
from meterhouse.api.auth.guard import CallerOf
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import SpanOf
from meterhouse.api.forms import Form, file_name, lines_of, negotiated, written
from meterhouse.api.problems import Problem
from meterhouse.warehouse.audit import Deed
from meterhouse.warehouse.view import View

Json = dict[str, Any]

CACHING: Final = {"Vary": "Accept", "Cache-Control": "private, no-cache"}
"""Figures are their caller's own, and are asked for anew each time; what did not change is not sent again."""
_MOVING: Final = frozenset({"as_of", "at", "next"})
"""Members that differ from answer to answer although no figure does."""


class Answer:
    """Answers one request: call it with the report as JSON and return what it returns."""

    def __init__(self, request: Request, response: Response, form: Form, closed: bool, who: Caller) -> None:
        self._request, self._response, self._form, self._closed, self._who = request, response, form, closed, who

    def __call__(self, report: Json) -> Any:
        headers = dict(CACHING)
        following = report.get("next")
        if following is not None:
            headers["Link"] = f'<{self._next_path(following)}>; rel="next"'
        elif self._closed and "after" not in self._request.query_params:
            headers["ETag"] = tag = tag_of(report, self._form, self._who.view)
            if is_known(tag, self._request.headers.get("if-none-match")):
                return Response(status_code=304, headers=headers)
        if not self._form.is_file:
            self._response.headers.update(headers)
            return report
        return self._file(report, headers)

    def _file(self, report: Json, headers: dict[str, str]) -> Response:
        shape = self._request.scope["route"].response_model
        name = self._request.url.path.rsplit("/", 1)[-1]
        # First: what cannot be told to the audit log does not leave.
        deed = export_of(self._request, self._who, self._form, len(report[lines_of(shape)[0]]))
        self._request.app.state.house.audit.record(deed, now_us())
        headers["Content-Disposition"] = f'attachment; filename="{file_name(name, self._form)}"'
        media_type = f"{self._form}; charset=utf-8; header=present" if self._form is Form.csv else str(self._form)
        return Response(written(report, shape, self._form), headers=headers, media_type=media_type)

    def _next_path(self, token: str) -> str:
        kept = [(name, value) for name, value in self._request.query_params.multi_items() if name != "after"]
        return f"{self._request.url.path}?{urlencode([*kept, ('after', token)])}"


def tag_of(report: Mapping[str, Any], form: Form, view: View) -> str:
    """A weak ETag of the figures, in this form and of this view. Made from the figures themselves: late events, a
    tenant that moves and a correction all change it, and nothing else does."""
    figures = {name: value for name, value in report.items() if name not in _MOVING}
    text = json.dumps([form, repr(view), figures], sort_keys=True, ensure_ascii=False)
    return f'W/"{hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]}"'


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Whether a client has what this tag names already: weak comparison (RFC 9110, 8.8.3.2)."""
    if if_none_match is None:
        return False
    known = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return "*" in known or tag.removeprefix("W/") in known


def export_of(request: Request, who: Caller, form: Form, lines: int) -> Deed:
    """What the audit log is to say of a report that leaves the house as a file: what was asked, not what was in it."""
    detail = {"form": form.value, "query": request.url.query, "lines": lines}
    return Deed(who.id, "export.made", request.url.path, detail)


async def form(request: Request) -> Form:
    """The form that the request accepts. Raises Problem (`not-acceptable`) that lists what there is."""
    offered = [each.value for each in Form]
    found = negotiated(", ".join(request.headers.getlist("accept")), offered)
    if found is None:
        raise Problem(
            "not-acceptable",
            f"There is no such form of it: accept one of {', '.join(offered)}.",
            headers={"Vary": "Accept"},
            offered=offered,
        )
    return Form(found)


async def answer(
    request: Request, response: Response, form: Annotated[Form, Depends(form)], span: SpanOf, who: CallerOf
) -> Answer:
    # Closed: an end was given and is over. An end that was not given is that of the current month.
    return Answer(request, response, form, span.to_us is not None and span.to_us <= now_us(), who)


AnswerOf = Annotated[Answer, Depends(answer)]

FORMS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "content": {form.value: {"schema": {"type": "string", "format": "binary"}} for form in Form if form.is_file},
        "headers": {
            "ETag": {"schema": {"type": "string"}, "description": "of a range that is over, answered whole"},
            "Link": {"schema": {"type": "string"}, "description": 'the next page, `rel="next"`'},
        },
    },
    304: {"description": "Nothing changed since"},
}
"""The OpenAPI `responses` of a route that answers by `AnswerOf`."""
