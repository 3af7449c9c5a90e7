"""Foreign clients' requests through a running server: what they send is billed, once, and nothing private stays."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from corehttp.exceptions import HttpResponseError
from openmeter import Client
from openmeter.aio import Client as AsyncClient
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

from meterhouse.api.auth.caller import LOCAL
from meterhouse.api.clock import now_us
from meterhouse.ingest.log import USAGE_EVENTS, LogFull, Message
from meterhouse.warehouse.view import Grant, View
from tests.api.sites import problem
from tests.clients.house import Site
from tests.ingest.foreign_payloads import (
    CANARIES,
    litellm_call,
    litellm_failure,
    litellm_openmeter,
    otlp_request,
    otlp_span,
)

CAPTURED = Path(__file__).parents[3] / "shared" / "payloads"


def now(seconds_ago: float = 5) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def sent_by_litellm(**changes: Any) -> dict[str, Any]:
    return litellm_openmeter() | {"time": now()} | changes


# -- OpenMeter -----------------------------------------------------------------------------------------------------


def job(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": f"job-{number}", "source": "/jobs", "type": "job.finished", "subject": "acme",
        "time": now(), "data": {"model": "sonnet", "tokens_in": "1000", "tokens_out": 200},
    } | changes  # fmt: skip


def test_openmeters_sdk_publishes_one_event_and_a_batch_and_each_is_billed_once(site: Site) -> None:
    with Client(endpoint=str(site.http.base_url), token="any") as client:
        client.events.ingest_event(job(1))  # type: ignore[arg-type]
        client.events.ingest_events([job(1), job(2)])  # type: ignore[arg-type]
        with pytest.raises(HttpResponseError) as refused:
            client.events.ingest_event(job(3, data="a text"))  # type: ignore[arg-type]
        assert refused.value.status_code == 400
    # 1,000 at 3.00 and 200 at 15.00 a million.
    assert site.bill() == (2, "0.012000000000")
    assert site.rejected() == ["wrong_type"]


def test_openmeters_asynchronous_sdk_publishes_too(site: Site) -> None:
    async def publish() -> None:
        async with AsyncClient(endpoint=str(site.http.base_url), token="any") as client:
            await client.events.ingest_event(job(1))  # type: ignore[arg-type]

    asyncio.run(publish())
    assert site.bill() == (1, "0.006000000000")


@pytest.mark.parametrize(
    "media_type",
    ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8", "application/json",
     "application/cloudevents-batch+json"],
)  # fmt: skip
def test_each_content_type_is_answered_with_204_and_an_empty_body(site: Site, media_type: str) -> None:
    body: Any = [job()] if "batch" in media_type else job()
    answer = site.post("/api/v1/events", body, media_type)
    assert (answer.status_code, answer.content) == (204, b"")
    assert site.post("/api/v1/events", [job(), job(2)]).status_code == 204
    assert site.bill()[0] == 2


def test_binary_mode_carries_an_event_in_headers(site: Site) -> None:
    attributes = {f"ce_{name}": value for name, value in job().items() if name != "data"} | {"ce_source": "/jobs%20a"}
    assert site.post("/api/v1/events", job()["data"], "application/json", **attributes).status_code == 204
    assert site.bill() == (1, "0.006000000000")
    xml = site.post("/api/v1/events", f"<a>{CANARIES['prompt']}</a>".encode(), "application/xml", **attributes)
    assert problem(xml, 400, "malformed-event")["reason"] == "wrong_type"
    assert CANARIES["prompt"].encode() not in site.stored()


@pytest.mark.parametrize("data", ["a text", "<usage/>"])
def test_data_that_is_a_text_or_xml_is_a_400(site: Site, data: str) -> None:
    body = job(data=data, datacontenttype="application/xml")
    assert problem(site.post("/api/v1/events", body), 400, "malformed-event")["reason"] == "wrong_type"


def test_a_body_that_does_not_parse_is_a_400_and_only_its_length_is_kept(site: Site) -> None:
    body = f'{{"prompt": "{CANARIES["prompt"]}'.encode()
    problem(site.post("/api/v1/events", body), 400, "malformed-body")
    assert site.rejected() == ["not_json"]
    [reject] = site.get("/v1/rejects")["rejects"]
    assert reject["payload"] == f"(a body of {len(body)} bytes that does not parse, withheld)"


def test_an_event_of_an_unknown_type_is_kept_among_the_rejects_without_its_text(site: Site) -> None:
    event = job(type="something.else", data={"tokens": 7, "prompt": CANARIES["prompt"]})
    assert problem(site.post("/api/v1/events", event), 400, "malformed-event")["reason"] == "unknown_type"
    assert site.rejected() == ["unknown_type"]
    [reject] = site.get("/v1/rejects")["rejects"]
    assert json.loads(reject["payload"])["data"] == {"tokens": 7, "prompt": {"withheld": "it may be free text"}}


def test_a_foreign_content_type_is_a_415(site: Site) -> None:
    problem(site.post("/api/v1/events", job(), "text/plain"), 415, "unsupported-media-type")
    problem(site.post("/v1/ingest/litellm", [], "text/plain"), 415, "unsupported-media-type")
    problem(site.post("/v1/traces", {}, "text/plain"), 415, "unsupported-media-type")


# -- LiteLLM -------------------------------------------------------------------------------------------------------


def test_litellms_openmeter_event_is_billed_once(site: Site) -> None:
    for _ in range(2):
        assert site.post("/api/v1/events", sent_by_litellm(), "application/cloudevents+json").status_code == 204
    assert site.bill() == (1, "0.006000000000")


def test_a_key_with_one_tenant_stamps_it_whatever_the_subject_says(site: Site) -> None:
    site.caller = replace(LOCAL, view=View((Grant("team-search", "chat"),)))
    assert site.post("/api/v1/events", sent_by_litellm(subject="acme")).status_code == 204
    assert site.post("/api/v1/events", sent_by_litellm(id="2", subject=CANARIES["email"])).status_code == 204
    site.caller = LOCAL
    site.work()
    [line] = site.get("/v1/chargeback", group_by="tenant,application")["lines"]
    assert (line["tenant"], line["application"], line["requests"]) == ("team-search", "chat", 2)


def test_a_call_of_a_tenant_that_a_key_is_not_for_rejects_itself_alone(site: Site) -> None:
    site.caller = replace(LOCAL, view=View((Grant("acme", "assistant"), Grant("team-search"))))
    others = [
        litellm_call("2", metadata={"user_api_key_team_id": "nobody", "user_api_key_team_alias": None}),
        litellm_call("3", metadata={"user_api_key_alias": "batch"}),
    ]
    assert site.post("/v1/ingest/litellm", [litellm_call("1"), *others]).status_code == 204
    site.caller = LOCAL
    assert site.bill()[0] == 1
    assert site.rejected() == ["wrong_type"] * 2
    assert "publishes for" in site.get("/v1/rejects")["rejects"][0]["payload"]


def test_without_such_a_key_a_subject_that_is_no_tenant_is_rejected_without_its_address(site: Site) -> None:
    answer = site.post("/api/v1/events", sent_by_litellm(subject=CANARIES["email"]))
    assert problem(answer, 400, "malformed-event")["reason"] == "unknown_tenant"
    assert site.rejected() == ["unknown_tenant"]
    assert CANARIES["email"].encode() not in site.stored()


def test_litellms_calls_are_billed_once_and_their_failures_counted(site: Site) -> None:
    no_key = {f"user_api_key_{of}": None for of in ("alias", "team_id", "team_alias", "org_id", "user_id")}
    batch = [
        litellm_call("1"),
        litellm_call("1"),
        litellm_failure("429", "RateLimitError", "2"),
        litellm_failure("401", "ProxyException", "3", metadata=no_key),
        litellm_call("4", metadata={"user_api_key_team_id": "nobody", "user_api_key_team_alias": None}),
    ]
    for _ in range(2):
        answer = site.post("/v1/ingest/litellm", batch)
        assert (answer.status_code, answer.content) == (204, b"")
    # 21 at 3.00, 1,500 written at 3.75, 18,000 cached at 0.30, 393 out at 15.00 a million.
    assert site.bill() == (1, "0.016983000000")
    assert site.get("/v1/usage")["total"]["by_status"]["throttled"] == 1
    assert site.rejected() == ["unknown_tenant"] * 2
    assert 'meterhouse_foreign_left_out_total{format="litellm"} 2.0' in site.http.get("/metrics").text


@pytest.mark.skipif(not CAPTURED.is_dir(), reason="no captured payloads beside this repository")
def test_captured_payloads_of_a_real_proxy_are_billed_by_their_usage(site: Site) -> None:
    for name in ("anthropic_messages_stream", "failure_429", "openai_cached"):
        captured = json.loads((CAPTURED / f"litellm.generic_api.{name}.json").read_text())
        assert site.post("/v1/ingest/litellm", captured["body"], captured["content_type"]).status_code == 204
    assert site.bill() == (1, "0.016983000000")
    total = site.get("/v1/chargeback")["total"]
    assert (total["requests"], total["unpriced_requests"]) == (3, 1)
    stored = site.stored()
    for private in (b"secret prompt text", b"hello there", b"alice@example.com", b"127.0.0.1", b"curl"):
        assert private not in stored


# -- OpenTelemetry -------------------------------------------------------------------------------------------------


def test_genai_spans_are_billed_once_and_the_answer_says_what_was_rejected(site: Site) -> None:
    request = otlp_request(otlp_span(1), otlp_span(2, gen_ai__request__model=None), otlp_span(1))
    for _ in range(2):
        answer = site.post("/v1/traces", request)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
        assert "data.model" in answer.json()["partialSuccess"]["errorMessage"]
    assert site.bill() == (1, "0.006000000000")


def test_protobuf_in_gzip_is_answered_in_protobuf(site: Site) -> None:
    request = service.ExportTraceServiceRequest()
    group = request.resource_spans.add()
    pair = group.resource.attributes.add(key="meterhouse.tenant")
    pair.value.string_value = "acme"
    group.resource.attributes.add(key="service.name").value.string_value = "assistant"
    span = group.scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    span.start_time_unix_nano = span.end_time_unix_nano = now_us() * 1_000
    for name, value in {"provider.name": "anthropic", "request.model": "sonnet"}.items():
        span.attributes.add(key=f"gen_ai.{name}").value.string_value = value
    span.attributes.add(key="gen_ai.usage.input_tokens").value.int_value = 1_000_000
    body = gzip.compress(request.SerializeToString())
    answer = site.post("/v1/traces", body, "application/x-protobuf", content_encoding="gzip")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-protobuf")
    assert service.ExportTraceServiceResponse.FromString(answer.content) == service.ExportTraceServiceResponse()
    assert site.bill() == (1, "3.000000000000")


def test_a_small_body_that_unpacks_to_a_large_one_is_a_413(site: Site) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    assert len(bomb) < 100_000
    problem(site.post("/v1/traces", bomb, "application/x-protobuf", content_encoding="gzip"), 413, "too-large")


@pytest.mark.parametrize(
    ("body", "media_type", "encoding"),
    [
        (b"\xff\xff rubbish", "application/x-protobuf", "identity"),
        (b"{", "application/json", "identity"),
        (b"[" * 100_000, "application/json", "identity"),
        (b"not gzip", "application/json", "gzip"),
        (gzip.compress(b"{}")[:-4], "application/json", "gzip"),
    ],
    ids=["protobuf", "json", "nested", "not gzip", "half of gzip"],
)
def test_a_trace_request_that_cannot_be_read_is_a_400(site: Site, body: bytes, media_type: str, encoding: str) -> None:
    problem(site.post("/v1/traces", body, media_type, content_encoding=encoding), 400, "malformed-body")


def test_a_full_log_is_a_503_to_an_exporter_which_then_tries_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(topic: str, messages: list[Message]) -> None:
        raise LogFull("the log is full: raise its limit")

    monkeypatch.setattr(site.house.log, "append", full)
    answer = site.post("/v1/traces", otlp_request(otlp_span()))
    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "30"
    problem(site.post("/v1/ingest/litellm", [litellm_call()]), 507, "log-full")


# -- nothing private -----------------------------------------------------------------------------------------------


def test_no_private_text_reaches_log_lake_or_control_data(site: Site) -> None:
    prompt = CANARIES["prompt"]
    site.post(
        "/v1/ingest/litellm", [litellm_call("1"), litellm_call("2", model=prompt * 50), prompt, {"id": prompt * 20}]
    )
    site.post("/v1/ingest/litellm", f'[{{"messages": "{prompt}"'.encode())
    site.post(
        "/api/v1/events", [sent_by_litellm(subject=CANARIES["email"]), job(type="x", data={"text": prompt}), prompt]
    )
    site.post("/v1/traces", otlp_request(otlp_span(), otlp_span(2, gen_ai__request__model=None)))
    site.work()
    stored = site.stored()
    assert b"sonnet" in stored  # it is not compressed out of sight
    assert [name for name, text in CANARIES.items() if text.encode() in stored] == []
    assert sum(site.house.log.end_offsets(USAGE_EVENTS).values()) > 0
