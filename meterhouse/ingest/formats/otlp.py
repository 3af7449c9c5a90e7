"""OTLP's trace requests, in protobuf or JSON → their GenAI spans → our events.

A span is a request where it names a model or tokens by the GenAI conventions and is not an agent's or a tool's, which
sum up those below them. All others are left out. An event's identity is trace id and span id. Attributes that hold
messages are never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, cast

import msgspec
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

from meterhouse.ingest.formats.event_types import OTLP
from meterhouse.ingest.formats.translate import (
    Stamp,
    Terms,
    Told,
    count_of,
    microseconds,
    parse,
    time_text,
    usage_event,
    withheld,
)

SOURCE: Final = "otlp"
MAX_SPANS: Final = 10_000
"""Of one request: SDKs send 512 at a time, the Collector 8,192."""
MAX_ATTRIBUTES: Final = 1_000
"""Of one span or resource; SDKs stop at 128."""
STATUS_ERROR: Final = 2
TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8

_SUMS: Final = frozenset(
    {"create_agent", "invoke_agent", "invoke_workflow", "execute_tool", "plan", "search_memory", "retrieval"}
)
"""Operations that call models through spans of their own, or call none."""
_COUNTS: Final[Mapping[str, tuple[str, ...]]] = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "cache_read_input_tokens": ("cache_read.input_tokens", "cache_read_input_tokens"),
    "cache_write_input_tokens": (
        "cache_write.input_tokens", "cache_creation.input_tokens", "cache_creation_input_tokens",
    ),
    "reasoning_output_tokens": ("reasoning.output_tokens", "reasoning_tokens"),
}  # fmt: skip
_FIRST_TOKEN: Final = ("gen_ai.response.time_to_first_chunk", "gen_ai.response.time_to_first_token")
_HTTP_STATUS: Final = ("http.response.status_code", "http.status_code", "error.type")
_HEX: Final = re.compile(r"[0-9A-Fa-f]{16}|[0-9A-Fa-f]{32}")
_MODELS: Final = ("gen_ai.request.model", "gen_ai.response.model")

Attributes = Mapping[str, object]


class Unreadable(ValueError):
    """The bytes are no trace request."""


class TooManySpans(ValueError):
    """The request has more than MAX_SPANS."""


@dataclass(frozen=True, slots=True)
class Span:
    """What is read of a span. Values of attributes are texts, whole numbers, Decimals and truths; others are None."""

    trace_id: str  # lower-case hex, as is the other
    span_id: str
    start_ns: int
    end_ns: int
    status: int
    attributes: Attributes
    resource: Attributes
    scope: Attributes


def spans_of_protobuf(body: bytes) -> list[Span]:
    """Raises Unreadable, TooManySpans."""
    request = service.ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise Unreadable("The body is no ExportTraceServiceRequest in protobuf.") from None
    return _bounded(_protobuf_spans(request))


def spans_of_json(body: bytes) -> list[Span]:
    """By OTLP's rules for JSON: ids in hex, 64-bit numbers as texts or numbers, enumerations as numbers. Raises
    Unreadable, TooManySpans. Nesting must be bounded before (`split`)."""
    try:
        return _bounded(_json_spans(parse(body.decode())))
    except UnicodeDecodeError:
        raise Unreadable("The body is not UTF-8.") from None
    except (AttributeError, TypeError, RecursionError, ValueError) as wrong:
        if isinstance(wrong, TooManySpans):
            raise
        raise Unreadable("The body is no ExportTraceServiceRequest in OTLP's JSON.") from None


def translated(span: Span, terms: Terms, stamp: Stamp) -> bytes | None:
    """The span's event, as JSON; None where it is no request to a model."""
    if not _is_request(span.attributes):
        return None
    document = {"attributes": span.attributes, "resource": span.resource, "scope": span.scope}
    return usage_event(document, terms.types[OTLP], _told(span), terms, stamp)


def answer(rejected: int, why: str, json: bool) -> bytes:
    """An ExportTraceServiceResponse: with a partial success where spans were rejected."""
    if json:
        partial = {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": why}}
        return msgspec.json.encode(partial if rejected else {})
    response = service.ExportTraceServiceResponse()
    if rejected:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = why
    return cast(bytes, response.SerializeToString())


def _is_request(attributes: Attributes) -> bool:
    if attributes.get("gen_ai.operation.name") in _SUMS:
        return False
    return any(name in attributes for name in _MODELS) or any(name.startswith("gen_ai.usage.") for name in attributes)


def _told(span: Span) -> Told:
    attributes = span.attributes
    data: dict[str, object] = {
        name: count_of(_first(attributes, (f"gen_ai.usage.{short}" for short in shorts)))
        for name, shorts in _COUNTS.items()
    }
    first_us = microseconds(_first(attributes, _FIRST_TOKEN))
    if span.start_ns <= span.end_ns:
        data["duration_us"] = (span.end_ns - span.start_ns) // 1_000
    if first_us is not None and first_us >= 0:
        data |= {"time_to_first_token_us": first_us, "streamed": True}
    if span.status == STATUS_ERROR:
        codes = (count_of(attributes.get(name)) for name in _HTTP_STATUS)
        code = next((code for code in codes if isinstance(code, int) and 100 <= code <= 999), None)
        data |= {"status": "error", "http_status": code}
    else:
        data["status"] = "ok"
    sound = len(span.trace_id) == 2 * TRACE_ID_BYTES and len(span.span_id) == 2 * SPAN_ID_BYTES
    id_ = f"{span.trace_id}-{span.span_id}" if sound else withheld("its trace id and span id are none")
    return Told(id_, SOURCE, time_text(span.end_ns // 1_000), data)


def _first(attributes: Attributes, names: Iterable[str]) -> object:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _bounded(spans: Iterable[Span]) -> list[Span]:
    taken = []
    for span in spans:
        taken.append(span)
        if len(taken) > MAX_SPANS:
            raise TooManySpans(f"A request may have {MAX_SPANS:,} spans: export smaller batches.")
    return taken


def _protobuf_spans(request: service.ExportTraceServiceRequest) -> Iterator[Span]:
    for group in request.resource_spans:
        resource = _protobuf_attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            scope = _protobuf_attributes(scoped.scope.attributes)
            for span in scoped.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code,
                    _protobuf_attributes(span.attributes),
                    resource,
                    scope,
                )


def _protobuf_attributes(pairs: Sequence[Any]) -> Attributes:
    found: dict[str, object] = {}
    for pair in pairs[:MAX_ATTRIBUTES]:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "bool_value", "int_value"):
            found[pair.key] = getattr(pair.value, kind)
        elif kind == "double_value":
            found[pair.key] = Decimal(repr(pair.value.double_value))
    return found


def _json_spans(request: Any) -> Iterator[Span]:
    for group in request.get("resourceSpans") or ():
        resource = _json_attributes(group.get("resource") or {})
        for scoped in group.get("scopeSpans") or ():
            scope = _json_attributes(scoped.get("scope") or {})
            for span in scoped.get("spans") or ():
                yield Span(
                    _hex(span.get("traceId")),
                    _hex(span.get("spanId")),
                    _nanoseconds(span.get("startTimeUnixNano")),
                    _nanoseconds(span.get("endTimeUnixNano")),
                    (span.get("status") or {}).get("code") or 0,
                    _json_attributes(span),
                    resource,
                    scope,
                )


def _json_attributes(owner: Any) -> Attributes:
    found: dict[str, object] = {}
    for pair in (owner.get("attributes") or ())[:MAX_ATTRIBUTES]:
        value = pair.get("value") or {}
        if isinstance(text := value.get("stringValue"), str):
            found[pair["key"]] = text
        elif isinstance(truth := value.get("boolValue"), bool):
            found[pair["key"]] = truth
        elif (number := value.get("intValue")) is not None:
            found[pair["key"]] = count_of(number)
        elif isinstance(number := value.get("doubleValue"), int | Decimal):
            found[pair["key"]] = number
    return found


def _hex(text: object) -> str:
    """An id; none where it is not hex."""
    return text.lower() if isinstance(text, str) and _HEX.fullmatch(text) else ""


def _nanoseconds(value: object) -> int:
    count = count_of(value or 0)
    return count if isinstance(count, int) else 0
