"""Traces: what is in them, what never is, and that nothing happens where nobody asked for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meterhouse.api import wiring
from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.tracing import Tracing
from meterhouse.api.wiring import House
from tests.api.serving import served
from tests.api.sites import Site, event
from tests.commands import invoked
from tests.services.receiver import Receiver

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(tmp_path: Path, kept: InMemorySpanExporter) -> Iterator[Site]:
    """A house whose spans are kept, whoever began the trace."""
    with House(Settings(home=tmp_path / "home"), writer=True) as house:
        house.tracing = Tracing(SimpleSpanProcessor(kept), 1.0, now_us)
        with served(create_app(house)) as client:
            client.timeout = httpx.Timeout(60)
            yield Site(house, client)
        house.tracing.close()


def tree(spans: list[ReadableSpan]) -> set[tuple[str, str | None]]:
    """Each span's name with that of the span that it is within."""
    names = {span.context.span_id: span.name for span in spans if span.context}
    return {(span.name, names.get(span.parent.span_id) if span.parent else None) for span in spans}


def test_a_turn_of_the_meter_is_a_span_with_its_stages_and_a_commit_one_of_its_own(
    traced: Site, kept: InMemorySpanExporter
) -> None:
    traced.publish(event(1), event(2))
    kept.clear()
    traced.work()
    spans = list(kept.get_finished_spans())
    assert tree(spans) == {
        ("meter.turn", None),
        ("meter.poll", "meter.turn"),
        ("meter.decode", "meter.turn"),
        ("meter.process", "meter.turn"),
        ("meter.commit", None),
    }
    turn, commit = (next(span for span in spans if span.name == name) for name in ("meter.turn", "meter.commit"))
    assert dict(turn.attributes or {}) == {"meterhouse.records": 1, "meterhouse.events": 2}
    assert dict(commit.attributes or {}) == {
        "meterhouse.events": 2,
        "meterhouse.partitions": 1,
        "meterhouse.rejects": 2,
    }
    stages = sorted((span for span in spans if span.parent), key=lambda span: span.start_time or 0)
    assert [stage.name for stage in stages] == ["meter.poll", "meter.decode", "meter.process"]
    assert (stages[0].start_time, stages[-1].end_time) == (turn.start_time, turn.end_time)


def test_a_request_is_a_span_of_its_callers_trace_and_holds_nothing_of_what_was_asked(
    traced: Site, kept: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "authorization": "Bearer mhk_secret"}
    traced.http.get("/v1/alerts/secret-id", params={"q": "secret"}, headers=headers)
    (span,) = kept.get_finished_spans()
    assert (span.name, span.context and f"{span.context.trace_id:032x}") == ("GET /v1/alerts/{alert_id}", TRACE)
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/v1/alerts/{alert_id}",
        "http.response.status_code": 404,
    }
    assert "secret" not in span.to_json()


def test_a_callers_trace_that_is_not_kept_is_not_kept_here(traced: Site, kept: InMemorySpanExporter) -> None:
    traced.http.get("/healthz", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert kept.get_finished_spans() == ()
    traced.http.get("/healthz", headers={"traceparent": "rubbish"})
    (span,) = kept.get_finished_spans()
    assert (span.name, span.parent) == ("GET /healthz", None)


def test_spans_are_posted_to_the_collector_when_the_house_is_closed_at_the_latest(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answers = [200]
    with House(Settings(home=tmp_path / "home", traces_url=receiver.url, traces_share=1.0), writer=True) as house:
        site = Site(house, httpx.Client())
        with site.http, served(create_app(house)) as client:
            Site(house, client).publish(event())
        site.work()
    names = {
        span.name
        for request in receiver.requests
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert names == {"POST /v1/events", "meter.turn", "meter.poll", "meter.decode", "meter.process", "meter.commit"}


def test_where_nobody_asked_for_traces_nothing_of_them_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(wiring.__file__).parents[1]
    loading = [file.name for file in package.rglob("*.py") if "from opentelemetry import" in file.read_text()]
    assert loading == ["tracing.py"]
    monkeypatch.setitem(sys.modules, "meterhouse.api.tracing", None)  # to import it now would fail
    with House(Settings(home=tmp_path / "home"), writer=True) as house, served(create_app(house)) as client:
        site = Site(house, client)
        site.publish(event())
        site.work()
        assert house.tracing is None


def test_what_sends_traces_is_an_extra_and_its_lack_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "meterhouse.api.tracing", None)
    monkeypatch.setenv("METERHOUSE_TRACES_URL", "http://127.0.0.1:9/v1/traces")
    done = invoked(tmp_path / "home", "work", "--until-idle")
    assert (done.exit_code, "pip install 'meterhouse[traces]'" in done.output) == (1, True)
