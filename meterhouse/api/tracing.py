"""Traces by OpenTelemetry, where METERHOUSE_TRACES_URL says where they go: what a poll, a commit, a request took.

The meter's spans are made of what it tells its watch anyway, after the fact: where nobody asked for traces nothing here
is imported, and nothing is done. No span holds a tenant, a model, a path, a query, a header or a body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meterhouse.api.metrics import method_of
from meterhouse.streams.ledger import Processed
from meterhouse.streams.meter_buffer import events_read
from meterhouse.streams.watch import Away, MeterWatch, Stand, Turn

QUEUED: Final = 1_024
"""Spans that wait for the collector, a megabyte; beyond it they are dropped."""
BATCH: Final = 512
EXPORT_S: Final = 5.0
"""A batch that the collector does not take is dropped then. A process that ends waits for two of them at most."""
_CARRIED: Final = (b"traceparent", b"tracestate")


class Tracing:
    """The spans of one process. `share` of the traces that begin here is kept; one that a caller began is kept if the
    caller keeps it. `clock`: microseconds UTC."""

    def __init__(self, processor: SpanProcessor, share: float, clock: Callable[[], int]) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": "meterhouse"}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._clock = clock
        self._tracer = self._provider.get_tracer("meterhouse")

    def meter(self, watch: MeterWatch) -> MeterSpans:
        return MeterSpans(self._tracer, watch, self._clock)

    def requests(self) -> RequestSpans:
        return RequestSpans(self._tracer, self._clock)

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def sending_to(url: str) -> SpanProcessor:
    """Sends spans to a collector (OTLP over HTTP) from a thread of its own."""
    exporter = OTLPSpanExporter(url, timeout=EXPORT_S)
    return BatchSpanProcessor(exporter, max_queue_size=QUEUED, max_export_batch_size=BATCH)


class MeterSpans:
    """Watches a meter for another watch, and makes spans of what it hears: a turn with its stages, a commit."""

    def __init__(self, tracer: Tracer, watch: MeterWatch, clock: Callable[[], int]) -> None:
        self._tracer, self._watch, self._clock = tracer, watch, clock

    def processed(self, unit: Processed, turn: Turn) -> None:
        self._watch.processed(unit, turn)
        stages = (("meter.poll", turn.poll_s), ("meter.decode", turn.decode_s), ("meter.process", turn.process_s))
        counts = {"meterhouse.records": turn.records, "meterhouse.events": events_read(unit)}
        end_ns = self._clock() * 1_000
        at_ns = end_ns - sum(_ns(seconds) for _, seconds in stages)
        root = self._tracer.start_span("meter.turn", start_time=at_ns, attributes=counts)
        within = trace.set_span_in_context(root)
        for name, seconds in stages:
            stage = self._tracer.start_span(name, within, start_time=at_ns)
            at_ns += _ns(seconds)
            stage.end(at_ns)
        root.end(end_ns)

    def committed(self, unit: Processed, seconds: float) -> None:
        self._watch.committed(unit, seconds)
        end_ns = self._clock() * 1_000
        counts = {
            "meterhouse.events": events_read(unit),
            "meterhouse.partitions": len(unit.after),
            "meterhouse.rejects": len(unit.rejects),
        }
        span = self._tracer.start_span("meter.commit", start_time=end_ns - _ns(seconds), attributes=counts)
        span.end(end_ns)

    def fenced(self, partitions: int) -> None:
        self._watch.fenced(partitions)

    def stands(self, stand: Stand) -> None:
        self._watch.stands(stand)

    def tries_again(self, away: Away) -> None:
        self._watch.tries_again(away)


class RequestSpans:
    """Makes a span of each answer, within the caller's trace where its `traceparent` names one."""

    def __init__(self, tracer: Tracer, clock: Callable[[], int]) -> None:
        self._tracer, self._clock = tracer, clock
        self._propagator = TraceContextTextMapPropagator()

    def answered(self, scope: Any, route: str, status: int, seconds: float) -> None:
        """`scope`: ASGI's, of which the method and the two headers of W3C's trace context are read."""
        end_ns, method = self._clock() * 1_000, method_of(scope["method"])
        span = self._tracer.start_span(
            f"{method} {route}",
            self._propagator.extract(_carried(scope["headers"])),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route, "http.response.status_code": status},
            start_time=end_ns - _ns(seconds),
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)


def _carried(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in headers if name in _CARRIED}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
