"""A decision as a client of HTTP sees it."""

from __future__ import annotations

import pytest

from meterhouse.streams.gate import Decision, Quota
from meterhouse.streams.gate_http import detail_of, headers_of, problem_of
from tests.streams.gate_builders import DAY, NOW, House, state, terms


def test_a_refusal_for_now_says_when_to_come_back() -> None:
    house = House(terms(limit=str(250 * 10**12)), state(240 * 10**12))
    house.admit(9 * 10**12)
    decision = house.admit(2 * 10**12)
    assert headers_of(decision) == {
        "RateLimit-Policy": '"day";q=250000000;qu="micro-USD";w=86400',
        "RateLimit": '"day";r=1000000;t=43200',
        "Retry-After": "1",
    }
    assert problem_of(decision, "/v1/chat/completions") == {
        "type": "/problems/budget-refusal",
        "title": "A budget does not admit the request now",
        "status": 429,
        "detail": "Budget day is reserved by requests that run now. Try again when some of them have ended, or ask for"
        " fewer output tokens.",
        "reason": "reserved",
        "budget": "day",
        "retryable": True,
        "retry_after_s": 1,
        "instance": "/v1/chat/completions",
    }


def test_a_refusal_for_the_window_says_so() -> None:
    decision = House(terms(unit="tokens", limit="7"), state(0, spent_tokens=7)).admit(0, 1)
    assert headers_of(decision) == {
        "RateLimit-Policy": '"day";q=7;qu="tokens";w=86400',
        "RateLimit": '"day";r=0;t=43200',
    }
    problem = problem_of(decision)
    assert (problem["reason"], problem["retryable"], "retry_after_s" in problem) == ("exceeded", False, False)


def test_a_request_that_no_budget_looks_at_has_no_headers() -> None:
    decision = House().admit(1)
    assert (headers_of(decision), detail_of(decision)) == ({}, "The request is admitted.")


def test_headers_hold_whatever_a_budget_is_called_and_however_high_its_limit() -> None:
    quota = Quota('a"b\\c ü', "USD", 10**30, 10**21 - 1, *DAY)
    assert headers_of(Decision(outcome="allow", tightest=quota, now_us=NOW)) == {
        "RateLimit-Policy": r'"a\"b\\c ?";q=999999999999999;qu="micro-USD";w=86400',
        "RateLimit": r'"a\"b\\c ?";r=999999999999999;t=43200',
    }


@pytest.mark.parametrize(("now_us", "left_s"), [(DAY[1] - 1, 1), (DAY[1] - 1_000_000, 1), (DAY[1] - 1_000_001, 2)])
def test_what_is_left_of_a_window_is_rounded_up(now_us: int, left_s: int) -> None:
    decision = Decision(outcome="allow", tightest=Quota("day", "tokens", 1, 1, *DAY), now_us=now_us)
    assert headers_of(decision)["RateLimit"] == f'"day";r=1;t={left_s}'
