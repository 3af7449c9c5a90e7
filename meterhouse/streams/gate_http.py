"""A gate's decision as HTTP says it: a problem document (RFC 9457), and draft-ietf-httpapi-ratelimit-headers' fields.

    RateLimit-Policy: "acme-month";q=250000000;qu="micro-USD";w=2592000
    RateLimit: "acme-month";r=1500000;t=86400

`q` and `r` are the limit and what is left of it, in `qu`; `w` and `t` are seconds: the window's length, and until its
end. They are of the tightest budget that looks at the request. Money is in millionths, rounded down: integers of a
header have 15 digits at most.
"""

from __future__ import annotations

from typing import Any, Final

from meterhouse.streams.gate_decision import Decision, Quota, Reason

STATUS: Final = 429
PROBLEM: Final = "budget-refusal"
TITLE: Final = "A budget does not admit the request now"
MEDIA_TYPE: Final = "application/problem+json"

_MAX_INTEGER: Final = 10**15 - 1  # RFC 9651, 3.3.1
_ADVICE: Final[dict[Reason, str]] = {
    "exceeded": "is spent. Wait for its next window, or ask whoever owns the budget for a higher limit.",
    "does_not_fit": "has less left than this request may cost. Ask for fewer output tokens or a cheaper model, wait for"
    " the next window, or ask whoever owns the budget for a higher limit.",
    "reserved": "is reserved by requests that run now. Try again when some of them have ended, or ask for fewer output"
    " tokens.",
    "stale": "cannot be judged: its spend is not known at the moment, and it is set to refuse then. Try again; if it"
    " stays, see to the budget worker.",
    "throttled": "is spent, and lets requests through at a low rate. Try again later, or ask whoever owns the budget"
    " for a higher limit.",
    "not_ready": "The gate does not know the budgets yet. Try again; if it stays, see to what feeds it.",
    "too_many": "The gate holds as many reservations as it may. Try again when some requests have ended.",
}


def detail_of(decision: Decision) -> str:
    """What to do, for the caller."""
    if decision.reason is None:
        return "The request is admitted."
    advice = _ADVICE[decision.reason]
    return advice if decision.budget_id is None else f"Budget {decision.budget_id} {advice}"


def problem_of(decision: Decision, instance: str | None = None) -> dict[str, Any]:
    """The body of a decision that does not admit. `instance`: the path that was asked for."""
    body: dict[str, Any] = {
        "type": f"/problems/{PROBLEM}",
        "title": TITLE,
        "status": STATUS,
        "detail": detail_of(decision),
        **members_of(decision),
    }
    return body if instance is None else body | {"instance": instance}


def members_of(decision: Decision) -> dict[str, Any]:
    """What stands beside a problem's standard members."""
    members = {
        "reason": decision.reason,
        "budget": decision.budget_id,
        "retryable": decision.retryable,
        "retry_after_s": decision.retry_after_s,
        "throttle_per_minute": decision.throttle_per_minute,
    }
    return {name: value for name, value in members.items() if value is not None}


def headers_of(decision: Decision) -> dict[str, str]:
    """Of any response to the request, admitted or not. `Retry-After` only where trying again may help."""
    headers = {}
    if decision.tightest is not None:
        headers = _ratelimit(decision.tightest, decision.now_us)
    if decision.retryable and decision.retry_after_s is not None:
        headers["Retry-After"] = str(decision.retry_after_s)
    return headers


def _ratelimit(quota: Quota, now_us: int) -> dict[str, str]:
    name = _text(quota.budget_id)
    per_unit, unit = (1, "tokens") if quota.unit == "tokens" else (1_000_000, f"micro-{quota.unit}")
    limit, remaining = (min(each // per_unit, _MAX_INTEGER) for each in (quota.limit, quota.remaining))
    length_s = (quota.window_end_us - quota.window_start_us) // 1_000_000
    left_s = max(0, -((now_us - quota.window_end_us) // 1_000_000))
    return {
        "RateLimit-Policy": f"{name};q={limit};qu={_text(unit)};w={length_s}",
        "RateLimit": f"{name};r={remaining};t={left_s}",
    }


def _text(value: str) -> str:
    """A String of structured fields (RFC 9651, 3.3.3): what it cannot hold becomes a question mark."""
    plain = "".join(each if " " <= each <= "~" else "?" for each in value)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
