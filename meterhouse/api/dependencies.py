"""What routes share: the house behind the application, ranges, lists in a query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError, WithJsonSchema

from meterhouse.api.auth.guard import CallerOf
from meterhouse.api.clock import BadTime, parse_time
from meterhouse.api.figures import Reports, Span
from meterhouse.api.ingest import Ingest
from meterhouse.api.paging import MAX_PAGE, MAX_TOKEN, Page
from meterhouse.api.problems import Problem
from meterhouse.api.wiring import House
from meterhouse.warehouse.reports.groups import Filters

MAX_FORM_BYTES: Final = 16 * 2**10
"""A few texts of 500 characters, however they are escaped."""

PAGE: Final = 100
"""Lines of a page where `limit` does not say."""
BODY_S: Final = 30.0
"""Seconds for a body to come: 4 MiB at 140 kB/s. Who sends a byte now and then would hold a connection for ever."""

SCHEMA_REF: Final = "#/components/schemas/{model}"

Form = TypeVar("Form", bound=BaseModel)


# `async`, though they wait for nothing: others are called in a thread, which costs more than an admission.


async def house(request: Request) -> House:
    parts = request.app.state.house
    assert isinstance(parts, House)
    return parts


async def reports(request: Request, who: CallerOf) -> Reports:
    """As the caller sees them."""
    shared = request.app.state.reports
    assert isinstance(shared, Reports)
    return shared.seen_by(who.view)


async def ingest(request: Request, who: CallerOf) -> Ingest:
    return Ingest(await house(request), who.view)


def _time(text: str | None, name: str) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except BadTime as wrong:
        raise Problem("invalid-parameter", f"{name}: {wrong}") from None


TIME_SCHEMA: Final = WithJsonSchema(
    {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}
)
"""What a time in a query may be; our own error says more of a wrong one than a validator's."""


def span(
    from_: Annotated[
        str | None,
        TIME_SCHEMA,
        Query(alias="from", description="start, included: RFC 3339, or a date in UTC", examples=["2026-11-01"]),
    ] = None,
    to: Annotated[
        str | None,
        TIME_SCHEMA,
        Query(description="end, excluded: RFC 3339, or a date in UTC", examples=["2026-12-01T00:00:00Z"]),
    ] = None,
) -> Span:
    return Span(_time(from_, "from"), _time(to, "to"))


def _only(what: str) -> Any:
    return Query(description=f"only these {what}; empty: those without one")


Values = list[str] | None


async def _whose(
    tenant: Annotated[Values, Query(description="only these tenants")] = None,
    org_unit: Annotated[
        Values, _only("org units, each with all below it; a path (`group/consumer`) names one too")
    ] = None,
    cost_center: Annotated[Values, _only("cost centers")] = None,
    application: Annotated[Values, Query(description="only these applications")] = None,
) -> dict[str, Values]:
    return {"tenant": tenant, "org_unit": org_unit, "cost_center": cost_center, "application": application}


async def _what(
    environment: Annotated[Values, _only("environments")] = None,
    model: Annotated[Values, Query(description="only these models")] = None,
    provider: Annotated[Values, Query(description="only these providers")] = None,
    operation: Annotated[Values, _only("operations")] = None,
) -> dict[str, Values]:
    return {"environment": environment, "model": model, "provider": provider, "operation": operation}


async def filters(
    whose: Annotated[dict[str, Values], Depends(_whose)], what: Annotated[dict[str, Values], Depends(_what)]
) -> Filters:
    given = {**whose, **what}
    return {name: [value or None for value in values] for name, values in given.items() if values}


async def page(
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_PAGE, description="lines of a page; without it and `after`: all at once")
    ] = None,
    after: Annotated[
        str | None,
        Query(max_length=MAX_TOKEN, description="`next` of the page before; all else but `limit` must be as it was"),
    ] = None,
) -> Page | None:
    return None if limit is None and after is None else Page(limit or PAGE, after)


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """The whole body, read no further than `limit` bytes; `what` says what to do where it has more."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise Problem("too-large", f"A body may have {limit:,} bytes. {what}")
                chunks.append(chunk)
    except TimeoutError:
        raise Problem("too-slow", f"The body did not come within {BODY_S:.0f} s. Send it again, or less.") from None
    return b"".join(chunks)


JSON: Final = "application/json"


def check_media_type(request: Request, *allowed: str) -> None:
    """Raises Problem (`unsupported-media-type`) unless the body is of one of these."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in allowed:
        raise Problem("unsupported-media-type", f"Send {', '.join(allowed)}; this body says {media_type or 'nothing'}.")


def body_of(model: type[Form]) -> Callable[[Request], Awaitable[Form]]:
    """A dependency: the request's JSON body as `model`, of at most MAX_FORM_BYTES."""

    async def read(request: Request) -> Form:
        check_media_type(request, JSON)
        body = await read_body(request, MAX_FORM_BYTES, "Shorten its texts.")
        try:
            return model.model_validate_json(body)
        except ValidationError as wrong:
            found = wrong.errors(include_url=False, include_context=False, include_input=False)
            if found[0]["type"] == "json_invalid":
                raise Problem("malformed-body", f"{found[0]['msg']}: send one JSON object.") from None
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in found]) from None

    return read


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a route with `body_of(model)`. Models within it are among the document's components."""
    schema = model.model_json_schema(ref_template=SCHEMA_REF)
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


HouseOf = Annotated[House, Depends(house)]
ReportsOf = Annotated[Reports, Depends(reports)]
IngestOf = Annotated[Ingest, Depends(ingest)]
SpanOf = Annotated[Span, Depends(span)]
LimitOf = Annotated[int, Query(ge=1, le=1_000, description="a page has at most so many")]
PageOf = Annotated[Page | None, Depends(page)]
FiltersOf = Annotated[Filters, Depends(filters)]
