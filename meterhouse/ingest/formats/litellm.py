"""LiteLLM's `generic_api` callback: an array of its StandardLoggingPayload, one a call → our events.

Counts are inclusive, Anthropic's too: LiteLLM adds the cached tokens to `prompt_tokens`. `cache_hit` is LiteLLM's own
cache: nothing was bought, so such a request counts and has no tokens. A client that left in mid-stream is a success
with the tokens so far; since 1.110 an error code 499 beside it tells, and the event is `aborted`.

A call's identity is its `litellm_call_id` with the moment it began, since a caller may choose the id (the proxy takes
`x-litellm-call-id` as it comes) and would pay for one call of many; a failed try, which shares the id with the try that
then answered, has one of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meterhouse.ingest.formats.event_types import LITELLM, TENANT, EventType
from meterhouse.ingest.formats.paths import look_up
from meterhouse.ingest.formats.translate import (
    CLIENT_CLOSED_REQUEST,
    Stamp,
    Terms,
    Told,
    count_of,
    found,
    microseconds,
    parse,
    text_of,
    time_text,
    usage_event,
    withheld,
)
from meterhouse.ingest.validate import parse_time

SOURCE: Final = "litellm"
_OPERATIONS: Final[Mapping[str, str]] = {
    "completion": "chat",
    "anthropic_messages": "chat",
    "responses": "chat",
    "generate_content": "chat",
    "text_completion": "text_completion",
    "embedding": "embeddings",
}
_USAGE: Final = ("$.metadata.usage_object", "$.response.usage", "$.hidden_params.usage_object")
_READ: Final = (
    "cache_read_input_tokens",
    "prompt_tokens_details.cached_tokens",
    "input_tokens_details.cached_tokens",
)
_WRITTEN: Final = (
    "cache_creation_input_tokens",
    "prompt_tokens_details.cache_write_tokens",
    "prompt_tokens_details.cache_creation_tokens",
)
_REASONING: Final = ("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens")
_BLOCKED_BY: Final = "BudgetExceededError"


def translated(payload: bytes, terms: Terms, stamp: Stamp) -> bytes | None:
    """One call's event, as JSON; None where it is nobody's: an attempt without a known key, model or tenant. The bytes
    must be one JSON value (`split`)."""
    type_ = terms.types[LITELLM]
    try:
        call = parse(payload.decode())
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, Mapping):
        return usage_event({}, type_, Told(None, SOURCE), terms, stamp)
    return None if _is_nobodys(call, type_, stamp) else usage_event(call, type_, _told(call), terms, stamp)


def _told(call: Mapping[str, object]) -> Told:
    start_us, end_us = _time_us(call.get("startTime")), _time_us(call.get("endTime"))
    first_us = _time_us(call.get("completionStartTime"))
    streamed = call.get("stream") is True
    code, status = _error_code(call), _status(call)
    data: dict[str, object] = {
        "status": status,
        "http_status": code if status != "ok" else None,
        "operation": _operation(call.get("call_type")),
        "streamed": streamed,
        "request_id": _name(call.get("id")),
    }
    if start_us is not None and end_us is not None and start_us <= end_us:
        data["duration_us"] = end_us - start_us
        if streamed and first_us is not None and start_us <= first_us <= end_us:
            data["time_to_first_token_us"] = first_us - start_us
    if call.get("cache_hit") is True:
        data["labels"] = {"litellm_cache_hit": "true"}
    else:
        data |= _counts(call)
    time = withheld("it is no time") if end_us is None else time_text(end_us)
    return Told(_identity(call, start_us), SOURCE, time, data)


def _identity(call: Mapping[str, object], start_us: int | None) -> object:
    call_id = text_of(call.get("litellm_call_id"))
    if not isinstance(call_id, str):
        return call_id
    return f"{call_id}/{start_us or 0}" + ("/failure" if call.get("status") == "failure" else "")


def _counts(call: Mapping[str, object]) -> dict[str, object]:
    """Inclusive counts, as on our wire."""
    usage = next((each for each in found(call, _USAGE) if isinstance(each, Mapping)), {})

    def first(*names: str) -> object:
        values = (look_up(usage, f"$.{name}") for name in names)
        return next((value for value in values if value is not None), None)

    def whole(name: str) -> object:
        return first(name) if call.get(name) is None else call[name]

    return {
        "input_tokens": count_of(whole("prompt_tokens")),
        "output_tokens": count_of(whole("completion_tokens")),
        "cache_read_input_tokens": count_of(first(*_READ)),
        "cache_write_input_tokens": count_of(first(*_WRITTEN)),
        "reasoning_output_tokens": count_of(first(*_REASONING)),
    }


def _status(call: Mapping[str, object]) -> object:
    """One of ours for `success` and `failure`. What a failure's HTTP status says more is read from it later."""
    if call.get("status") == "success":
        return "aborted" if _error_code(call) == CLIENT_CLOSED_REQUEST else "ok"
    if call.get("status") != "failure":
        return withheld("it is neither success nor failure")
    by_guardrail = look_up(call, "$.status_fields.guardrail_status") == "guardrail_intervened"
    over_budget = look_up(call, "$.error_information.error_class") == _BLOCKED_BY
    return "blocked" if by_guardrail or over_budget else "error"


def _error_code(call: Mapping[str, object]) -> int | None:
    code = count_of(look_up(call, "$.error_information.error_code"))
    return code if isinstance(code, int) and 100 <= code <= 999 else None


def _is_nobodys(call: Mapping[str, object], type_: EventType, stamp: Stamp) -> bool:
    """Whether this is a failure that no tenant answers for: anyone who reaches the proxy makes as many as they like."""
    if call.get("status") != "failure" or count_of(call.get("total_tokens")) not in (None, 0):
        return False

    def names(field: str) -> bool:
        return any(value not in (None, "") for value in found(call, type_.sources.get(field, ())))

    by_key = any(
        look_up(call, f"$.metadata.user_api_key_{of}") is not None for of in ("alias", "team_id", "org_id", "user_id")
    )
    unknown_key = _error_code(call) == 401 and not by_key
    return unknown_key or not names("model") or (stamp.tenant is None and not names(TENANT))


def _operation(call_type: object) -> str | None:
    name = _name(call_type)
    if name is None:
        return None
    return _OPERATIONS.get(name) or _OPERATIONS.get(name.removeprefix("a"), name)


def _name(value: object) -> str | None:
    text = text_of(value)
    return text if isinstance(text, str) else None


def _time_us(value: object) -> int | None:
    """Seconds since 1970 as LiteLLM writes them, to the last digit; or RFC 3339."""
    return parse_time(value) if isinstance(value, str) else microseconds(value)
