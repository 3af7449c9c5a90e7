"""Ingest from clients that know nothing of Meterhouse: OpenMeter's, LiteLLM, OpenTelemetry."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import HouseOf, IngestOf, read_body
from meterhouse.api.foreign import ForeignIngest, ForeignTerms, bounded_json, unpacked
from meterhouse.api.problems import Problem, responses
from meterhouse.ingest import log as event_log
from meterhouse.ingest.binary_mode import is_binary, structured
from meterhouse.ingest.formats import otlp
from meterhouse.ingest.split import Unparsable

router = APIRouter(tags=["ingest"], dependencies=only(Permission.publish))

JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
CLOUDEVENTS: Final = (event_log.STRUCTURED, event_log.BATCH, JSON)
MAX_LITELLM_BYTES: Final = 32 * 2**20
"""LiteLLM sends up to 512 calls at once, each of 15 KiB and its messages; what is refused it does not send again."""
_ATTRIBUTE: Final = "ce-"
_WRONG: Final = ("malformed-body", "too-large", "unsupported-media-type", "unavailable", "log-full")


async def foreign_ingest(request: Request, house: HouseOf, ingest: IngestOf, caller: CallerOf) -> ForeignIngest:
    terms: ForeignTerms = request.app.state.foreign_terms
    return ForeignIngest(house, ingest, terms, caller)


ForeignOf = Annotated[ForeignIngest, Depends(foreign_ingest)]


def _body(description: str, *media_types: str) -> dict[str, Any]:
    content: dict[str, Any] = {type_: {"schema": {"type": ["object", "array"]}} for type_ in media_types}
    if PROTOBUF in content:
        content[PROTOBUF] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


@router.post(
    "/api/v1/events",
    status_code=204,
    summary="Publish events with OpenMeter's clients",
    openapi_extra=_body("One CloudEvent 1.0, or an array.", *CLOUDEVENTS),
    responses=responses("malformed-event", *_WRONG),
)
async def openmeter(request: Request, house: HouseOf, ingest: ForeignOf) -> Response:
    """Takes CloudEvents as OpenMeter does, in structured, batch and binary mode (`ce-` headers), and answers 204 once
    the log has them durably. Types of ours are taken as by `/v1/events`; foreign ones are translated by the control
    file's `event_types`, and of what is refused its free text is not kept.
    """
    media_type = _media_type(request)
    attributes = _attributes(request)
    binary = is_binary(attributes)
    if not binary and media_type not in CLOUDEVENTS:
        raise _unsupported(media_type, CLOUDEVENTS)
    body = await read_body(request, house.settings.max_body_bytes, "Send the events in several batches.")
    if binary:
        is_json = media_type == JSON or media_type.endswith("+json")
        body = structured(attributes, body if is_json else b'"(withheld)"') or b""
    await run_in_threadpool(ingest.take_cloudevents, body)
    return Response(status_code=204)


@router.post(
    "/v1/ingest/litellm",
    status_code=204,
    summary="Publish LiteLLM's calls",
    openapi_extra=_body("LiteLLM's StandardLoggingPayload, or an array.", JSON),
    responses=responses("malformed-event", *_WRONG),
)
async def from_litellm(request: Request, ingest: ForeignOf) -> Response:
    """Takes what LiteLLM's `generic_api` callback sends. A call is billed once however often it is sent. Prompts,
    answers, e-mail addresses and IP addresses are not kept. Failures that no tenant answers for (an unknown key) are
    left out.
    """
    media_type = _media_type(request)
    if media_type != JSON:
        raise _unsupported(media_type, (JSON,))
    body = await read_body(request, MAX_LITELLM_BYTES, "Set DEFAULT_BATCH_SIZE to less, or leave messages out.")
    await run_in_threadpool(ingest.take_litellm, body)
    return Response(status_code=204)


@router.post(
    "/v1/traces",
    summary="Publish OpenTelemetry's GenAI spans",
    response_class=Response,
    openapi_extra=_body("An ExportTraceServiceRequest; `Content-Encoding: gzip` is understood.", PROTOBUF, JSON),
    responses={
        200: {"description": "An ExportTraceServiceResponse", "content": {PROTOBUF: {}, JSON: {}}},
        **responses("malformed-body", "too-large", "unsupported-media-type", "unavailable"),
    },
)
async def traces(request: Request, house: HouseOf, ingest: ForeignOf) -> Response:
    """Takes OTLP/HTTP trace requests, as SDKs and the Collector export them. Spans of requests to models become
    events, all others are left out. A span that is rejected is counted in `partial_success` and kept in `/v1/rejects`.
    """
    media_type = _media_type(request)
    if media_type not in (PROTOBUF, JSON):
        raise _unsupported(media_type, (PROTOBUF, JSON))
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("gzip", "identity"):
        raise Problem("unsupported-media-type", f"Send it as it is, or with gzip; this body says {encoding}.")
    limit = house.settings.max_body_bytes
    body = await read_body(request, limit, "Export smaller batches.")
    answer = await run_in_threadpool(_traced, ingest, unpacked(body, limit) if encoding == "gzip" else body, media_type)
    return Response(answer, media_type=media_type)


def _traced(ingest: ForeignIngest, body: bytes, media_type: str) -> bytes:
    try:
        spans = otlp.spans_of_json(bounded_json(body)) if media_type == JSON else otlp.spans_of_protobuf(body)
    except otlp.TooManySpans as wrong:
        raise Problem("too-large", str(wrong)) from None
    except (otlp.Unreadable, Unparsable) as wrong:
        raise ingest.withhold(str(wrong), len(body)) from None
    return otlp.answer(*ingest.take_spans(spans), json=media_type == JSON)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _unsupported(media_type: str, known: tuple[str, ...]) -> Problem:
    return Problem("unsupported-media-type", f"Send {', '.join(known)}; this body says {media_type or 'nothing'}.")


def _attributes(request: Request) -> event_log.Headers:
    """The attributes of an event in HTTP's binary mode, as headers of a record in Kafka's."""
    return tuple(
        (f"ce_{name.removeprefix(_ATTRIBUTE)}", unquote(text).encode())
        for name, text in request.headers.items()
        if name.startswith(_ATTRIBUTE)
    )
