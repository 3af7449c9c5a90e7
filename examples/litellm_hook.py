"""A gate inside LiteLLM's proxy, as one of its callbacks.

    # gate_hook.py, beside the proxy's config.yaml:   litellm_settings: {callbacks: gate_hook.hook}
    gate = Gate(now_us)
    feed = HttpFeed("https://meterhouse.example", gate)
    feed.start()
    hook = BudgetHook(gate, prices={"atlas-large": {"input": 2_500_000, "output": 10_000_000}})

The team of the virtual key is the tenant, its alias the application. The reservation travels in the request's metadata,
which LiteLLM hands to the callbacks at its end. A request that LiteLLM tries again, or sends to another model, is
settled once, by the attempt that ended it; prices should be those of the dearest model it may be sent to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from fastapi import HTTPException

from meterhouse.streams.gate import Gate, upper_bound_pico
from meterhouse.streams.gate_http import STATUS, headers_of, problem_of

try:
    from litellm.integrations.custom_logger import CustomLogger  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # not installed: what LiteLLM calls has the same names all the same

    class CustomLogger:  # type: ignore[no-redef]
        pass


RESERVATION: Final = "meterhouse_reservation"
MODEL: Final = "meterhouse_model"  # as the caller named it: LiteLLM goes on with the deployment's name
BOUND: Final = "meterhouse_bound"
METADATA: Final = ("metadata", "litellm_metadata")  # the second one on routes where `metadata` is the caller's
DEFAULT_MAX_TOKENS: Final = 4_096


class BudgetHook(CustomLogger):  # type: ignore[misc]
    """`prices`: model as callers name it → token kind → pico-units of the currency per token."""

    def __init__(self, gate: Gate, prices: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__()
        self._gate = gate
        self._prices = prices

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: MutableMapping[str, Any], call_type: str
    ) -> MutableMapping[str, Any]:
        """Admits the request or raises a 429."""
        model = data.get("model", "")
        # No token is shorter than a byte; what stands around the text in JSON is more than a chat template adds.
        input_tokens = len(json.dumps(data.get("messages") or data.get("input") or data.get("prompt") or ""))
        most = data.get("max_completion_tokens") or data.get("max_tokens") or DEFAULT_MAX_TOKENS
        max_output_tokens = most * (data.get("n") or 1)
        try:
            bound = upper_bound_pico(self._prices.get(model, {}), input_tokens, max_output_tokens)
        except ValueError as wrong:
            raise HTTPException(400, detail=f"model {model}: {wrong}") from wrong
        decision = self._gate.admit(
            user_api_key_dict.team_id or "",
            user_api_key_dict.key_alias or "default",
            model,
            max_cost_pico=bound,
            max_tokens=input_tokens + max_output_tokens,
        )
        if not decision.admitted:
            raise HTTPException(STATUS, detail=problem_of(decision), headers=headers_of(decision))
        name = next((name for name in reversed(METADATA) if name in data), METADATA[0])
        kept = {RESERVATION: decision.reservation, MODEL: model, BOUND: [bound, input_tokens + max_output_tokens]}
        data[name] = {**(data.get(name) or {}), **kept}
        return data

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Settles by the answer's usage; by the upper bound where it has none. The proxy's event should be published by
        now: put this callback behind the one that does it."""
        kept = _kept(kwargs)
        if RESERVATION not in kept:
            return
        cost_pico, tokens = kept[BOUND]
        usage = _field(response_obj, "usage")
        if usage is not None:
            prices = self._prices.get(kept[MODEL])
            input_tokens, output_tokens = _field(usage, "prompt_tokens") or 0, _field(usage, "completion_tokens") or 0
            tokens = input_tokens + output_tokens
            if prices is not None:
                cost_pico = input_tokens * prices["input"] + output_tokens * prices["output"]
        self._gate.settle(kept[RESERVATION], cost_pico, tokens)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A request that failed costs nothing."""
        self._gate.cancel(_kept(kwargs).get(RESERVATION))


def _kept(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `async_pre_call_hook` put into the request's metadata."""
    params = kwargs.get("litellm_params") or {}
    found = [params.get(name) or {} for name in METADATA]
    return next((metadata for metadata in found if RESERVATION in metadata), {})


def _field(of: Any, name: str) -> Any:
    """A field of an answer, which is an object or a mapping."""
    return of.get(name) if isinstance(of, Mapping) else getattr(of, name, None)
