"""Admissions over HTTP: may this request run? Answered from this server's gate; nothing is waited for."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response

from meterhouse.api.admissions import answer_of
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import HouseOf, body_of, request_body
from meterhouse.api.problems import MEDIA_TYPE, Problem, responses
from meterhouse.api.schemas import admissions as schemas
from meterhouse.streams import gate_http

router = APIRouter(
    prefix="/v1/admissions",
    tags=["admissions"],
    dependencies=only(Permission.admit),
    responses=responses("unauthenticated", "forbidden", "rate-limited", "unavailable"),
)

JSON: Final = "application/json"
_WRONG: Final = ("malformed-body", "invalid-parameter", "too-large", "too-slow", "unsupported-media-type")
_encode: Final = msgspec.json.Encoder().encode
_request: Final = body_of(schemas.AdmissionRequest)
_settlement: Final = body_of(schemas.Settlement)


@router.post(
    "",
    response_model=schemas.Admission,
    summary="Admit a request",
    openapi_extra=request_body(schemas.AdmissionRequest),
    responses=responses(gate_http.PROBLEM, *_WRONG, "unavailable"),
)
async def admit(request: Request, house: HouseOf, who: CallerOf) -> Response:
    """May this request run now? 200 admits it and holds its upper bound in every budget that looks at it, until it is
    settled or cancelled, or taken as spent after a quarter of an hour. Both answers have RateLimit fields.

    429 refuses it: `reason` and `budget` say why, `retryable` whether trying again may help, and `Retry-After` when.
    """
    _check_media_type(request)
    decision, bound_pico = house.admissions.admit(await _request(request), who)
    headers = gate_http.headers_of(decision)
    if decision.admitted:
        return Response(_encode(answer_of(decision, bound_pico)), 200, headers, JSON)
    return Response(_encode(gate_http.problem_of(decision, request.url.path)), gate_http.STATUS, headers, MEDIA_TYPE)


@router.post(
    "/{reservation}/settlement",
    status_code=204,
    summary="Settle a reservation",
    openapi_extra=request_body(schemas.Settlement),
    responses=responses("not-found", *_WRONG),
)
async def settle(request: Request, house: HouseOf, who: CallerOf, reservation: str) -> Response:
    """The request has ended and its event is published: what it came to takes the place of what was reserved, until
    budget states cover it."""
    _check_media_type(request)
    house.admissions.settle(reservation, await _settlement(request), who)
    return Response(status_code=204)


@router.delete("/{reservation}", status_code=204, summary="Cancel a reservation", responses=responses("not-found"))
async def cancel(house: HouseOf, who: CallerOf, reservation: str) -> Response:
    """Nothing was spent: the request did not run, and there is no event."""
    house.admissions.cancel(reservation, who)
    return Response(status_code=204)


def _check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != JSON:
        raise Problem("unsupported-media-type", f"Send {JSON}; this body says {media_type or 'nothing'}.")
