"""Foreign documents become our CloudEvents, exactly, and carry nothing else with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

from meterhouse.ingest.batch import Reason
from meterhouse.ingest.formats import cloudevents, litellm, otlp
from meterhouse.ingest.formats.event_types import EventType, in_force
from meterhouse.ingest.formats.paths import PathError, look_up, steps
from meterhouse.ingest.formats.translate import Stamp, Terms, microseconds, parse, terms
from meterhouse.ingest.validate import Refusal, Rules, Sound, judge
from tests.ingest.foreign_payloads import (
    CANARIES,
    STARTED,
    litellm_call,
    litellm_failure,
    litellm_openmeter,
    otlp_request,
    otlp_span,
)

NOW_US = (STARTED + 60) * 1_000_000
HERE = Stamp(NOW_US)
MODELS = (("anthropic", "sonnet"), ("openai", "gpt-4o"), ("azure", "gpt-4o"), ("openai", "small"))


def terms_of(*configured: EventType, tenants: frozenset[str] | None = frozenset({"acme", "borea"})) -> Terms:
    return terms(in_force(configured), tenants, MODELS)


TERMS = terms_of()


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def openmeter(document: Any, terms: Terms = TERMS, stamp: Stamp = HERE) -> Any:
    return json.loads(cloudevents.translated(encoded(document), terms, stamp))


def call(document: Any, terms: Terms = TERMS, stamp: Stamp = HERE) -> Any:
    event = litellm.translated(encoded(document), terms, stamp)
    return None if event is None else json.loads(event)


def spans(request: Any, terms: Terms = TERMS, stamp: Stamp = HERE) -> list[Any]:
    events = [otlp.translated(span, terms, stamp) for span in otlp.spans_of_json(encoded(request))]
    return [json.loads(event) for event in events if event is not None]


def verdict(event: Any, terms: Terms = TERMS) -> Sound | Refusal:
    return judge(encoded(event), Rules(NOW_US, terms.tenants))


def reason(event: Any, terms: Terms = TERMS) -> Reason | None:
    found = verdict(event, terms)
    return found.reason if isinstance(found, Refusal) else None


# -- LiteLLM's openmeter callback and other foreign CloudEvents ----------------------------------------------------


def test_litellms_openmeter_event_becomes_ours_with_the_provider_of_the_rate_card() -> None:
    event = openmeter(litellm_openmeter())
    assert event == {
        "specversion": "1.0",
        "type": "meterhouse.request.v1",
        "id": "chatcmpl-1",
        "source": "litellm-proxy",
        "subject": "acme",
        "time": "2026-11-23T05:52:34.339332+00:00",
        "data": {
            "application": "litellm",
            "model": "sonnet",
            "provider": "anthropic",
            "status": "ok",
            "input_tokens": 1_000,
            "output_tokens": 200,
        },
    }
    assert reason(event) is None


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("sonnet", "anthropic", "sonnet"),
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("gpt-4o", "unknown", "gpt-4o"),  # two providers have it
        ("nova/pro", "nova", "pro"),  # not in the rate card
        ("pro", "unknown", "pro"),
    ],
)
def test_a_model_without_a_provider_is_read_by_the_rate_card(model: str, provider: str, name: str) -> None:
    data = openmeter(litellm_openmeter(model=model))["data"]
    assert (data["provider"], data["model"]) == (provider, name)


def test_a_subject_that_is_no_tenant_is_rejected_and_an_address_is_not_kept() -> None:
    event = openmeter(litellm_openmeter(subject="end-user-42"))
    assert (event["subject"], reason(event)) == ("end-user-42", Reason.UNKNOWN_TENANT)
    event = openmeter(litellm_openmeter(subject=CANARIES["email"]))
    assert CANARIES["email"] not in json.dumps(event)
    assert reason(event) == Reason.UNKNOWN_TENANT


def test_without_strict_tenants_an_address_is_no_tenant_either() -> None:
    anyone = terms_of(tenants=None)
    assert reason(openmeter(litellm_openmeter(subject="end-user-42"), anyone), anyone) is None
    assert reason(openmeter(litellm_openmeter(subject=CANARIES["email"]), anyone), anyone) == Reason.WRONG_TYPE


def test_who_publishes_for_one_tenant_only_is_believed_before_the_subject() -> None:
    event = openmeter(litellm_openmeter(subject="borea"), stamp=Stamp(NOW_US, "acme", "gateway"))
    assert (event["subject"], event["data"]["application"]) == ("acme", "gateway")


API_CALL = {
    "specversion": "1.0", "type": "api-call", "id": "1", "source": "/shop", "subject": "acme",
    "data": {"llm": {"name": "gpt-4o"}, "vendor": "azure", "used": "12", "out": 3.0, "ok": "failed", "code": 429,
             "prompt": CANARIES["prompt"]},
}  # fmt: skip
API_TYPE = EventType(
    "api-call",
    {
        "tenant": ("$.subject",),
        "application": ("$.data.app", "shop"),
        "model": ("$.data.llm.name",),
        "provider": ("$.data.vendor",),
        "input_tokens": ("$.data.used",),
        "output_tokens": ("$.data.out",),
        "status": ("$.data.ok",),
        "http_status": ("$.data.code",),
    },
)


def test_a_configured_type_is_translated_field_by_field() -> None:
    event = openmeter(API_CALL, terms_of(API_TYPE))
    assert event["time"] == "2026-11-23T05:53:34.000000Z"  # it has none: when it arrived
    assert event["data"] == {
        "application": "shop",
        "model": "gpt-4o",
        "provider": "azure",
        "status": "throttled",
        "http_status": 429,
        "input_tokens": 12,
        "output_tokens": 3,
    }
    assert reason(event) is None


def test_a_configured_type_is_laid_over_the_built_in_one_field_by_field() -> None:
    changed = terms_of(EventType("litellm_tokens", {"application": ("$.data.cost_center", "chat")}))
    assert openmeter(litellm_openmeter(), changed)["data"]["application"] == "chat"
    assert openmeter(litellm_openmeter(), changed)["data"]["input_tokens"] == 1_000


@pytest.mark.parametrize("count", ["many", 1.5, -0.5, True, [], {}, "1e3", 2**70, "٣"])
def test_a_count_that_is_none_is_rejected_and_never_taken_as_nothing(count: Any) -> None:
    event = openmeter(litellm_openmeter(prompt_tokens=count))
    assert reason(event) == Reason.WRONG_TYPE
    assert "many" not in json.dumps(event)


def test_an_event_of_an_unknown_type_is_kept_without_its_free_text() -> None:
    event = openmeter(API_CALL | {"data": {**API_CALL["data"], "model": "gpt-4o"}})  # type: ignore[dict-item]
    assert reason(event) == Reason.UNKNOWN_TYPE
    assert event["data"]["model"] == "gpt-4o"
    assert event["data"]["code"] == 429
    assert CANARIES["prompt"] not in json.dumps(event)


def test_an_event_of_our_own_type_is_passed_on_byte_for_byte() -> None:
    ours = b'{"type": "meterhouse.request.v1",  "data": {"later": 1.50}}'
    assert cloudevents.translated(ours, TERMS, HERE) == ours


@pytest.mark.parametrize("data", ["a text", "<usage tokens='1'/>", ["list"], None])
def test_data_that_is_no_object_is_rejected_for_that(data: Any) -> None:
    event = openmeter(litellm_openmeter() | {"data": data, "datacontenttype": "application/xml"})
    assert reason(event) in (Reason.WRONG_TYPE, Reason.MISSING_FIELD)
    assert "usage tokens" not in json.dumps(event)


# -- LiteLLM's generic_api callback --------------------------------------------------------------------------------


def test_a_call_of_litellm_becomes_an_event_with_inclusive_counts_and_exact_times() -> None:
    event = call(litellm_call())
    assert event == {
        "specversion": "1.0",
        "type": "meterhouse.request.v1",
        "id": "call-1/1795413154325848",
        "source": "litellm",
        "subject": "acme",
        "time": "2026-11-23T05:52:34.829933Z",
        "data": {
            "application": "assistant",
            "model": "sonnet",
            "provider": "anthropic",
            "operation": "chat",
            "status": "ok",
            "streamed": True,
            "request_id": "msg_call-1",
            "input_tokens": 19_521,
            "output_tokens": 393,
            "cache_read_input_tokens": 18_000,
            "cache_write_input_tokens": 1_500,
            "reasoning_output_tokens": 93,
            "duration_us": 504_085,
            "time_to_first_token_us": 2_477,
        },
    }
    assert reason(event) is None


@given(seconds=st.integers(0, 4_102_444_800), micros=st.integers(0, 999_999))
def test_a_time_in_seconds_keeps_its_microseconds(seconds: int, micros: int) -> None:
    assert microseconds(parse(f"{seconds}.{micros:06d}")) == seconds * 1_000_000 + micros


@pytest.mark.parametrize(
    ("code", "error_class", "status"),
    [
        ("429", "RateLimitError", "throttled"),
        ("500", "InternalServerError", "error"),
        ("", "APIConnectionError", "error"),
        ("400", "BudgetExceededError", "blocked"),
        ("499", "ClientDisconnected", "aborted"),
    ],
)
def test_a_failure_has_the_status_of_its_error(code: str, error_class: str, status: str) -> None:
    event = call(litellm_failure(code, error_class))
    assert event["data"]["status"] == status
    assert event["data"].get("http_status") == (int(code) if code else None)
    assert reason(event) is None


def test_a_client_that_left_in_mid_stream_has_aborted_where_the_payload_tells() -> None:
    left = litellm_call(error_information={"error_code": "499", "error_class": "ClientDisconnected"})
    data = call(left)["data"]
    assert (data["status"], data["output_tokens"]) == ("aborted", 393)


def test_an_answer_from_litellms_own_cache_counts_and_has_no_tokens() -> None:
    event = call(litellm_call(cache_hit=True))
    assert event["data"]["labels"] == {"litellm_cache_hit": "true"}
    assert not [name for name in event["data"] if name.endswith("_tokens")]
    assert reason(event) is None


def test_calls_with_an_id_that_their_caller_chose_are_events_of_their_own() -> None:
    twice = [call(litellm_call("mine", startTime=STARTED + tenths / 10))["id"] for tenths in (1, 1, 2)]
    assert twice[0] == twice[1] != twice[2]
    assert call(litellm_failure("500", "X", "mine", startTime=STARTED + 0.1))["id"] != twice[0]


def test_the_first_claim_that_is_a_tenant_counts() -> None:
    by_alias = {"user_api_key_team_id": "uuid", "user_api_key_team_alias": "borea"}
    assert call(litellm_call(metadata=by_alias))["subject"] == "borea"
    nobody = call(litellm_call(metadata={"user_api_key_team_id": "uuid"}))
    assert (nobody["subject"], reason(nobody)) == ("uuid", Reason.UNKNOWN_TENANT)


def test_failures_that_no_tenant_answers_for_are_left_out() -> None:
    no_key = {f"user_api_key_{of}": None for of in ("alias", "team_id", "team_alias", "org_id", "user_id")}
    assert call(litellm_failure("401", "ProxyException", metadata=no_key)) is None
    assert call(litellm_failure("401", "ProxyException", metadata=no_key), stamp=Stamp(NOW_US, "acme")) is None
    assert call(litellm_failure("400", "BadRequestError", model="", model_group="")) is None
    assert call(litellm_failure("401", "AuthenticationError")) is not None  # the provider's key is wrong


def test_an_element_that_is_no_call_is_rejected() -> None:
    for rubbish in (None, 1, "text", [], {}):
        assert reason(call(rubbish)) is not None


# -- OTLP ----------------------------------------------------------------------------------------------------------

SONNET = {
    "specversion": "1.0",
    "type": "meterhouse.request.v1",
    "id": "5b8efff798038103d269b633813fc60c-0000000000000001",
    "source": "otlp",
    "subject": "acme",
    "time": "2026-11-23T05:52:35.623456Z",
    "data": {
        "application": "assistant",
        "model": "sonnet",
        "provider": "anthropic",
        "operation": "chat",
        "status": "ok",
        "streamed": True,
        "input_tokens": 1_000,
        "output_tokens": 200,
        "cache_read_input_tokens": 600,
        "cache_write_input_tokens": 50,
        "reasoning_output_tokens": 20,
        "duration_us": 1_500_000,
        "time_to_first_token_us": 250_500,
    },
}
FULL = {
    "gen_ai__usage__cache_read__input_tokens": 600,
    "gen_ai__usage__cache_creation__input_tokens": 50,
    "gen_ai__usage__reasoning__output_tokens": 20,
    "gen_ai__response__time_to_first_chunk": 0.2505,
}


def test_a_genai_span_becomes_an_event() -> None:
    assert spans(otlp_request(otlp_span(**FULL))) == [SONNET]
    assert reason(SONNET) is None


def test_protobuf_says_the_same_as_json() -> None:
    request = otlp_request(otlp_span(**FULL))
    [span] = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    ids = {"trace_id": bytes.fromhex(span.pop("traceId")), "span_id": bytes.fromhex(span.pop("spanId"))}
    message = json_format.ParseDict(request, service.ExportTraceServiceRequest())
    for name, id_ in ids.items():
        setattr(message.resource_spans[0].scope_spans[0].spans[0], name, id_)
    [read] = otlp.spans_of_protobuf(message.SerializeToString())
    event = otlp.translated(read, TERMS, HERE)
    assert event is not None
    assert json.loads(event) == SONNET


def test_older_names_of_the_conventions_are_understood() -> None:
    older = otlp_span(
        gen_ai__provider__name=None, gen_ai__system="anthropic", gen_ai__usage__input_tokens=None,
        gen_ai__usage__output_tokens=None, gen_ai__usage__prompt_tokens=7, gen_ai__usage__completion_tokens=3,
    )  # fmt: skip
    [event] = spans(otlp_request(older))
    data = event["data"]
    assert (data["provider"], data["input_tokens"], data["output_tokens"]) == ("anthropic", 7, 3)


def test_the_model_that_has_a_price_is_the_model() -> None:
    dated = otlp_span(gen_ai__response__model="sonnet-20260101")
    assert spans(otlp_request(dated))[0]["data"]["model"] == "sonnet"
    neither = otlp_span(gen_ai__response__model="b-1", gen_ai__request__model="b")
    assert spans(otlp_request(neither))[0]["data"]["model"] == "b-1"


@pytest.mark.parametrize("operation", ["invoke_agent", "execute_tool"])
def test_spans_that_sum_up_others_are_left_out(operation: str) -> None:
    assert spans(otlp_request(otlp_span(gen_ai__operation__name=operation))) == []


def test_spans_of_anything_else_are_left_out() -> None:
    plain = otlp_span(**{name.replace(".", "__"): None for name in (
        "gen_ai.operation.name", "gen_ai.request.model", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
    )})  # fmt: skip
    assert spans(otlp_request(plain)) == []


@pytest.mark.parametrize(
    ("attributes", "status"),
    [({}, "error"), ({"http__response__status_code": 429}, "throttled"), ({"error__type": "500"}, "error"),
     ({"error__type": "timeout"}, "error")],
)  # fmt: skip
def test_a_failed_span_is_an_error_or_throttled(attributes: dict[str, Any], status: str) -> None:
    [event] = spans(otlp_request(otlp_span(status=2, **attributes)))
    assert event["data"]["status"] == status


def test_a_span_without_a_model_or_a_sound_id_is_rejected() -> None:
    [event] = spans(otlp_request(otlp_span(gen_ai__request__model=None)))
    assert reason(event) == Reason.MISSING_FIELD
    [event] = spans(otlp_request(otlp_span() | {"traceId": "none"}))
    assert reason(event) == Reason.NOT_A_CLOUDEVENT


@pytest.mark.parametrize("rubbish", ["12", '{"resourceSpans": 3}', '{"resourceSpans": [3]}', "null", "\ud800", "{"])
def test_a_json_body_that_is_no_trace_request_is_unreadable(rubbish: str) -> None:
    with pytest.raises(otlp.Unreadable):
        otlp.spans_of_json(rubbish.encode(errors="surrogatepass"))
    with pytest.raises(otlp.Unreadable):
        otlp.spans_of_protobuf(b"\xff\xff rubbish")


def test_a_request_of_too_many_spans_is_refused() -> None:
    with pytest.raises(otlp.TooManySpans):
        otlp.spans_of_json(encoded(otlp_request(*[{}] * (otlp.MAX_SPANS + 1))))


# -- paths ---------------------------------------------------------------------------------------------------------


def test_a_path_finds_one_value_or_none() -> None:
    document = {"a": {"b c": [10, {"d": None}]}, "t": "text"}
    assert steps('$.a["b c"][1].d') == ("a", "b c", 1, "d")
    assert look_up(document, '$.a["b c"][0]') == 10
    for nowhere in ("$.a.x.y", '$.a["b c"][9]', "$.t[0]", "$.a[0]", '$.a["b c"].d'):
        assert look_up(document, nowhere) is None


@pytest.mark.parametrize("text", ["$", "$.", "$..a", "$.a[*]", "$.a[?(@.b)]", "$.a[-1]", "$a", "$.a " + ".b" * 9])
def test_what_is_no_path_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(PathError, match=r"\$\.data\.model|at most 8|no step"):
        steps(text)


# -- laws ----------------------------------------------------------------------------------------------------------

_TEXT = st.text('ab:"\\ é𝄞\n', max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
    | st.sampled_from(sorted(CANARIES.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_PRIVATE = ("messages", "response", "end_user", "requester_ip_address", "user_agent", "request_tags", "error_str",
            "model_parameters", "hidden_params", "error_information")  # fmt: skip
_COUNTED = ("prompt_tokens", "completion_tokens", "cache_hit", "stream", "startTime", "endTime", "status_fields")


def leaks(event: bytes | None) -> list[str]:
    return [text for text in CANARIES.values() if event is not None and text.encode() in event]


@given(private=st.dictionaries(st.sampled_from(_PRIVATE + _COUNTED), _JSON))
def test_no_private_text_of_a_call_gets_into_its_event(private: dict[str, Any]) -> None:
    assert leaks(litellm.translated(encoded(litellm_call() | private), TERMS, HERE)) == []


@given(private=st.dictionaries(_TEXT | st.sampled_from(["prompt", "messages", "prompt_tokens"]), _JSON))
def test_no_private_text_of_a_cloudevent_gets_into_its_event(private: dict[str, Any]) -> None:
    for type_ in ("litellm_tokens", "something-else"):
        event = litellm_openmeter() | {"type": type_, "extension": CANARIES["prompt"]}
        event["data"] = {**event["data"], **private}
        assert leaks(cloudevents.translated(encoded(event), TERMS, HERE)) == []


@given(document=_JSON)
def test_any_json_is_translated_and_none_of_it_raises(document: Any) -> None:
    cloudevents.translated(encoded(document), TERMS, HERE)
    litellm.translated(encoded(document), TERMS, HERE)
    for built_in in ("litellm_tokens", "litellm", "otlp"):
        cloudevents.translated(encoded({"specversion": "1.0", "type": built_in, "data": document}), TERMS, HERE)
    try:
        read = otlp.spans_of_json(encoded({"resourceSpans": [{"scopeSpans": [{"spans": [document]}]}]}))
    except otlp.Unreadable:
        return
    for span in read:
        otlp.translated(span, TERMS, HERE)


def test_no_private_text_of_a_span_gets_into_its_event() -> None:
    for span in otlp.spans_of_json(encoded(otlp_request(otlp_span(), otlp_span(2, gen_ai__request__model=None)))):
        assert leaks(otlp.translated(span, TERMS, HERE)) == []
