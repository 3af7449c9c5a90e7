"""The hook, called as LiteLLM calls it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from examples.litellm_hook import DEFAULT_MAX_TOKENS, BudgetHook
from tests.streams.gate_builders import House, terms

PRICES = {"large": {"input": 10, "output": 100}}
MESSAGES = [{"role": "user", "content": "Hi"}]
BOUND = len(json.dumps(MESSAGES)) * 10 + 5 * 100
KEY = SimpleNamespace(team_id="acme", key_alias="assistant")


class Proxy:
    """What LiteLLM's proxy does with a callback: before a request, and at its end."""

    def __init__(self, **changes: Any) -> None:
        self.house = House(terms(**({"limit": "10000"} | changes)))
        self.hook = BudgetHook(self.house.gate, PRICES)

    def ask(self, **changes: Any) -> dict[str, Any]:
        """Returns what the callbacks get at the request's end."""
        data = {"model": "large", "max_tokens": 5, "messages": MESSAGES} | changes
        sent = asyncio.run(self.hook.async_pre_call_hook(KEY, None, data, "completion"))
        names = ("metadata", "litellm_metadata")
        return {"model": "vendor/large-2", "litellm_params": {name: sent[name] for name in names if name in sent}}

    def succeeds(self, kwargs: dict[str, Any], answer: Any) -> None:
        asyncio.run(self.hook.async_log_success_event(kwargs, answer, None, None))

    def fails(self, kwargs: dict[str, Any]) -> None:
        asyncio.run(self.hook.async_log_failure_event(kwargs, None, None, None))

    def own(self) -> int:
        quota = self.house.admit(0).tightest
        assert quota is not None
        return quota.limit - quota.remaining


USAGE = {"prompt_tokens": 8, "completion_tokens": 2}


@pytest.mark.parametrize("answer", [{"usage": USAGE}, SimpleNamespace(usage=SimpleNamespace(**USAGE))])
def test_a_request_is_settled_by_its_usage(answer: Any) -> None:
    proxy = Proxy()
    kwargs = proxy.ask()
    assert proxy.own() == BOUND
    proxy.succeeds(kwargs, answer)
    assert proxy.own() == 8 * 10 + 2 * 100


def test_an_answer_without_usage_counts_as_the_upper_bound() -> None:
    proxy = Proxy()
    proxy.succeeds(proxy.ask(), {})
    assert proxy.own() == BOUND


def test_a_request_that_failed_costs_nothing() -> None:
    proxy = Proxy()
    proxy.fails(proxy.ask())
    assert proxy.own() == 0


def test_a_refusal_is_a_429_with_headers() -> None:
    proxy = Proxy(limit=str(BOUND))
    proxy.ask()
    with pytest.raises(HTTPException) as refused:
        proxy.ask()
    assert refused.value.status_code == 429
    assert refused.value.headers is not None
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} == set(refused.value.headers)
    detail: Any = refused.value.detail
    assert (detail["reason"], detail["retryable"]) == ("reserved", True)
    assert proxy.own() == BOUND


def test_a_model_without_a_price_is_refused() -> None:
    with pytest.raises(HTTPException, match="no price for input tokens"):
        Proxy().ask(model="unknown")


def test_a_callers_metadata_is_kept() -> None:
    kwargs = Proxy().ask(metadata={"trace": 1}, litellm_metadata={"route": 2})
    assert kwargs["litellm_params"]["metadata"] == {"trace": 1}
    assert kwargs["litellm_params"]["litellm_metadata"]["route"] == 2
    assert "meterhouse_reservation" in kwargs["litellm_params"]["litellm_metadata"]


def test_without_max_tokens_a_default_is_the_bound() -> None:
    proxy = Proxy(unit="tokens", limit="1000000")
    proxy.ask(max_tokens=None, n=2)
    assert proxy.own() == len(json.dumps(MESSAGES)) + 2 * DEFAULT_MAX_TOKENS


def test_calls_that_the_hook_did_not_see_are_nobodys() -> None:
    proxy = Proxy()
    for kwargs in ({}, {"litellm_params": None}, {"litellm_params": {"metadata": None}}):
        proxy.succeeds(kwargs, {"usage": USAGE})
        proxy.fails(kwargs)
    assert proxy.own() == 0
