"""Builders of what foreign clients send: LiteLLM's logging payload, its OpenMeter event, OTLP's trace request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CANARIES: Final = {
    "prompt": "CANARY-prompt-7f3a",
    "answer": "CANARY-answer-91bc",
    "email": "canary.person@example.com",
    "address": "203.0.113.77",
    "agent": "CANARY-agent/1.0",
}
"""Texts that stand where clients write prompts, answers, people and addresses: none may ever be stored."""

STARTED: Final = 1_795_413_154
"""2026-11-23T05:52:34Z, in seconds."""


def litellm_call(call_id: str = "call-1", **changes: Any) -> dict[str, Any]:
    """A streamed Anthropic call through LiteLLM's proxy: 21 + 1,500 written + 18,000 cached tokens in. `metadata` and
    `usage` change members of these."""
    usage = {
        "prompt_tokens": 19_521,
        "completion_tokens": 393,
        "total_tokens": 19_914,
        "completion_tokens_details": {"reasoning_tokens": 93, "text_tokens": 300},
        "prompt_tokens_details": {"cached_tokens": 18_000, "cache_write_tokens": 1_500, "cache_creation_tokens": 1_500},
        "cache_creation_input_tokens": 1_500,
        "cache_read_input_tokens": 18_000,
    } | changes.pop("usage", {})
    metadata = {
        "user_api_key_hash": "0992",
        "user_api_key_alias": "assistant",
        "user_api_key_team_id": "acme",
        "user_api_key_team_alias": "Acme",
        "user_api_key_org_id": "org-1",
        "user_api_key_user_id": CANARIES["email"],
        "user_api_key_user_email": CANARIES["email"],
        "requester_ip_address": CANARIES["address"],
        "user_agent": CANARIES["agent"],
        "usage_object": usage,
    } | changes.pop("metadata", {})
    return {
        "id": f"msg_{call_id}",
        "litellm_call_id": call_id,
        "call_type": "anthropic_messages",
        "cache_hit": False,
        "stream": True,
        "status": "success",
        "status_fields": {"llm_api_status": "success", "guardrail_status": "not_run"},
        "custom_llm_provider": "anthropic",
        "startTime": STARTED + 0.325848,
        "endTime": STARTED + 0.829933,
        "completionStartTime": STARTED + 0.328325,
        "model": "anthropic/sonnet",
        "model_group": "sonnet-group",
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "request_tags": [f"User-Agent: {CANARIES['agent']}", "feature:chat"],
        "end_user": CANARIES["email"],
        "requester_ip_address": CANARIES["address"],
        "user_agent": CANARIES["agent"],
        "messages": [{"role": "user", "content": CANARIES["prompt"]}],
        "response": {"choices": [{"message": {"content": CANARIES["answer"]}}], "usage": usage},
        "metadata": metadata,
    } | changes


def litellm_failure(code: str, error_class: str, call_id: str = "call-1", **changes: Any) -> dict[str, Any]:
    none = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "cache_read_input_tokens": 0,
                      "cache_creation_input_tokens": 0, "completion_tokens_details": None,
                      "prompt_tokens_details": None}}  # fmt: skip
    error = {"error_code": code, "error_class": error_class, "error_message": CANARIES["prompt"]}
    failed = {"status": "failure", "id": call_id, "stream": None, "error_information": error}
    return litellm_call(call_id, **none, **(failed | changes))


def litellm_openmeter(event_id: str = "chatcmpl-1", subject: str = "acme", **data: Any) -> dict[str, Any]:
    """What LiteLLM's `openmeter` callback sends."""
    return {
        "specversion": "1.0",
        "type": "litellm_tokens",
        "id": event_id,
        "time": "2026-11-23T05:52:34.339332+00:00",
        "subject": subject,
        "source": "litellm-proxy",
        "data": {"model": "sonnet", "cost": 0.019233, "prompt_tokens": 1_000, "completion_tokens": 200} | data,
    }


SPAN: Final[Mapping[str, Any]] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "sonnet",
    "gen_ai.usage.input_tokens": 1_000,
    "gen_ai.usage.output_tokens": 200,
    "gen_ai.input.messages": CANARIES["prompt"],
    "gen_ai.output.messages": CANARIES["answer"],
    "client.address": CANARIES["address"],
    "user.email": CANARIES["email"],
}
RESOURCE: Final[Mapping[str, Any]] = {"meterhouse.tenant": "acme", "service.name": "assistant"}


def otlp_request(*spans: Mapping[str, Any], resource: Mapping[str, Any] = RESOURCE) -> dict[str, Any]:
    """A trace request in OTLP's JSON, of `otlp_span`s."""
    scoped = [{"scope": {"name": "instrumentation"}, "spans": list(spans)}]
    return {"resourceSpans": [{"resource": {"attributes": _pairs(resource)}, "scopeSpans": scoped}]}


def otlp_span(number: int = 1, *, status: int = 0, **attributes: Any) -> dict[str, Any]:
    """A span that began at STARTED and took 1.5 s. Attributes are those of SPAN and these, with `__` for a dot; None
    leaves one out."""
    changed = SPAN | {name.replace("__", "."): value for name, value in attributes.items()}
    return {
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "spanId": f"{number:016x}",
        "name": "chat sonnet",
        "kind": 3,
        "startTimeUnixNano": str(STARTED * 10**9 + 123_456_789),
        "endTimeUnixNano": str(STARTED * 10**9 + 1_623_456_789),
        "attributes": _pairs({name: value for name, value in changed.items() if value is not None}),
        "status": {"code": status},
    }


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
    return {"stringValue": value}
