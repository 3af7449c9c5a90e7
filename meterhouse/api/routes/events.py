"""Ingest over HTTP: CloudEvents into the event log."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import HouseOf, IngestOf, check_media_type, read_body
from meterhouse.api.problems import responses
from meterhouse.api.schemas import events as schemas
from meterhouse.ingest import log as event_log

router = APIRouter(tags=["ingest"], dependencies=only(Permission.publish))

MEDIA_TYPES: Final = (event_log.STRUCTURED, event_log.BATCH, "application/json")
_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "One CloudEvent 1.0 of type `meterhouse.request.v1` or `meterhouse.inference.v1`, or an array.",
        "content": {
            event_log.STRUCTURED: {"schema": schemas.ANY},
            event_log.BATCH: {"schema": schemas.MANY},
            "application/json": {"schema": schemas.ANY},
        },
    }
}


@router.post(
    "/v1/events",
    status_code=204,
    summary="Publish events",
    openapi_extra=_BODY,
    responses=responses(
        "malformed-event",
        "malformed-body",
        "unauthenticated",
        "forbidden",
        "rate-limited",
        "too-large",
        "too-slow",
        "unsupported-media-type",
        "unavailable",
        "log-full",
    ),
)
async def publish(request: Request, house: HouseOf, ingest: IngestOf) -> Response:
    """Takes one event or an array of them and answers 204 once the log has them durably.

    A body that does not parse, or a single event that is malformed, is answered with 400; its bytes are kept among the
    rejects all the same. In an array a malformed event rejects itself alone: see `/v1/rejects`. Sending the same event
    (tenant, source, id) again is safe: it is billed once.
    """
    check_media_type(request, *MEDIA_TYPES)
    body = await read_body(request, house.settings.max_body_bytes, "Send the events in several batches.")
    await run_in_threadpool(ingest.take, body)
    return Response(status_code=204)
