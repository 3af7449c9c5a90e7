"""Alerts over HTTP: the list, one with its history, acknowledgements, silences."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from meterhouse.api.alert_desk import AlertDesk
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import HouseOf, LimitOf, SpanOf, body_of, request_body
from meterhouse.api.once import OnceOf
from meterhouse.api.problems import responses
from meterhouse.api.schemas import alerts as schemas
from meterhouse.streams.alert import AlertKind
from meterhouse.streams.alerts import AlertFilter, AlertStatus
from meterhouse.warehouse.idempotency import Keep
from meterhouse.warehouse.reports.groups import microseconds_of

router = APIRouter(
    prefix="/v1",
    tags=["alerts"],
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "unavailable"),
)


def _desk(house: HouseOf, who: CallerOf) -> AlertDesk:
    return AlertDesk(house, who.view, who.id)


READ: Final = only(Permission.read_alerts)
ANSWER: Final = only(Permission.answer_alerts)

DeskOf = Annotated[AlertDesk, Depends(_desk)]


@router.get("/alerts", dependencies=READ, response_model=schemas.Alerts, summary="Alerts")
def alerts(
    desk: DeskOf,
    span: SpanOf,
    status: Annotated[AlertStatus | None, Query(description="only those that are this now")] = None,
    kind: Annotated[AlertKind | None, Query(description="only alerts of this kind")] = None,
    subject: Annotated[str | None, Query(description="only what is about this")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: LimitOf = 100,
) -> dict[str, Any]:
    """The newest first, each with the story of its delivery."""
    matching = AlertFilter(
        from_us=span.from_us, to_us=span.to_us, kind=kind, subject=subject, status=status, at_us=now_us()
    )
    return desk.page(matching, after, limit)


@router.get(
    "/alerts/{alert_id}",
    dependencies=READ,
    response_model=schemas.AlertStory,
    summary="One alert",
    responses=responses("not-found"),
)
def alert(desk: DeskOf, alert_id: str) -> dict[str, Any]:
    """An alert with its history: raised, delivered by channel, acknowledged, resolved."""
    return desk.alert(alert_id)


@router.post(
    "/alerts/{alert_id}/acknowledgement",
    dependencies=ANSWER,
    response_model=schemas.AlertStory,
    summary="Acknowledge an alert",
    responses=responses("not-found", "too-large", "too-slow"),
    openapi_extra=request_body(schemas.Acknowledgement),
)
def acknowledge(
    desk: DeskOf,
    who: CallerOf,
    alert_id: str,
    said: Annotated[schemas.Acknowledgement, Depends(body_of(schemas.Acknowledgement))],
) -> dict[str, Any]:
    """Says who looks after an alert, which stays open until its reason is gone. Said otherwise, the last one stands;
    the same again changes nothing."""
    return desk.acknowledge(alert_id, who.signs(said.by), said.note)


@router.get("/silences", dependencies=READ, response_model=schemas.Silences, summary="Silences")
def silences(desk: DeskOf) -> dict[str, Any]:
    """Those that are not over, the first to end first; at most a thousand stand."""
    return desk.silences()


@router.post(
    "/silences",
    dependencies=ANSWER,
    response_model=schemas.Silence,
    status_code=201,
    summary="Silence alerts",
    responses=responses("too-large", "too-slow", "conflict"),
    openapi_extra=request_body(schemas.NewSilence),
)
def silence(
    desk: DeskOf,
    who: CallerOf,
    once: OnceOf,
    asked: Annotated[schemas.NewSilence, Depends(body_of(schemas.NewSilence))],
) -> Response:
    """Alerts of a kind, about a subject, or both, are listed as ever and not posted until the silence ends, at most 90
    days later. What was posted before is told to its end. With an `Idempotency-Key` it is made once, however often this
    is sent."""
    span_us = None if asked.from_ is None else microseconds_of(asked.from_), microseconds_of(asked.until)

    def make(keep: Keep) -> dict[str, Any]:
        return desk.silence(asked.subject, asked.kind, span_us, who.signs(asked.by), asked.reason, keep)

    return once.answered(asked, make, 201)


@router.delete(
    "/silences/{silence_id}",
    dependencies=ANSWER,
    status_code=204,
    summary="End a silence",
    responses=responses("not-found"),
)
def end_silence(desk: DeskOf, silence_id: str) -> Response:
    """It is over from now on. What it kept quiet is not posted later. Of one that is over it is a 404."""
    desk.end_silence(silence_id)
    return Response(status_code=204)
