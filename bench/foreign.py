"""What it costs to translate foreign events, in processor time an element: the edge pays it once for each.

`python -m bench.foreign`. A LiteLLM call has some 15 KiB, most of them LiteLLM's own prices of the model.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

from bench.report import Row, show
from meterhouse.ingest.formats import cloudevents, litellm, otlp
from meterhouse.ingest.formats.event_types import in_force
from meterhouse.ingest.formats.translate import Stamp, terms
from meterhouse.ingest.split import split_exactly

ELEMENTS: Final = 512
"""Of a body: as many as LiteLLM and OpenTelemetry's SDKs send at once."""
RUNS: Final = 5
NOW_US: Final = 1_795_413_200_000_000
TERMS: Final = terms(in_force(()), frozenset({"acme"}), [("anthropic", "sonnet")])
STAMP: Final = Stamp(NOW_US)


def of_openmeter() -> bytes:
    data = {"model": "sonnet", "cost": 0.019233, "prompt_tokens": 1_000, "completion_tokens": 200}
    event = {"specversion": "1.0", "type": "litellm_tokens", "source": "litellm-proxy", "subject": "acme", "data": data}
    return json.dumps(
        [event | {"id": f"chatcmpl-{i}", "time": "2026-11-23T05:52:34.339Z"} for i in range(ELEMENTS)]
    ).encode()


def of_litellm() -> bytes:
    usage = {"prompt_tokens": 2_006, "completion_tokens": 300, "total_tokens": 2_306}
    call: dict[str, Any] = {
        "call_type": "acompletion", "status": "success", "stream": None, "custom_llm_provider": "anthropic",
        "startTime": 1795413134.614579, "endTime": 1795413135.540582, "model": "anthropic/sonnet", **usage,
        "metadata": {"user_api_key_team_id": "acme", "user_api_key_alias": "chat", "usage_object": usage},
        "messages": [{"role": "user", "content": "x" * 4_000}],
        "model_map_information": {"model_map_value": {f"input_cost_per_token_of_kind_{i}": None for i in range(250)}},
    }  # fmt: skip
    return json.dumps([call | {"id": f"r-{i}", "litellm_call_id": f"call-{i}"} for i in range(ELEMENTS)]).encode()


def of_otlp() -> bytes:
    named = {"gen_ai.provider.name": "anthropic", "gen_ai.request.model": "sonnet", "gen_ai.operation.name": "chat"}
    attributes = [{"key": name, "value": {"stringValue": value}} for name, value in named.items()]
    attributes += [{"key": f"gen_ai.usage.{of}_tokens", "value": {"intValue": "100"}} for of in ("input", "output")]
    spans = [
        {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": f"{i + 1:016x}", "attributes": attributes,
         "startTimeUnixNano": "1795413154123456789", "endTimeUnixNano": "1795413155623456789"}
        for i in range(ELEMENTS)
    ]  # fmt: skip
    resource = {"attributes": [{"key": "meterhouse.tenant", "value": {"stringValue": "acme"}}]}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).encode()


def measured(name: str, body: bytes, translate: Callable[[bytes], list[bytes | None]]) -> Row:
    best_s = float("inf")
    for _ in range(RUNS):
        begin_s = time.process_time()
        events = translate(body)
        best_s = min(best_s, time.process_time() - begin_s)
        assert len(events) == ELEMENTS
        assert None not in events
    tracemalloc.start()
    translate(body)
    peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    reached = f"{best_s / ELEMENTS * 1e6:.0f} µs an element, {peak_mib:.1f} MiB at once"
    return Row(f"{name}, {len(body) / 2**20:.1f} MiB", reached)


def main() -> None:
    rows = [
        measured(
            "OpenMeter's", of_openmeter(), lambda b: [cloudevents.translated(p, TERMS, STAMP) for p in split_exactly(b)]
        ),
        measured("LiteLLM's", of_litellm(), lambda b: [litellm.translated(p, TERMS, STAMP) for p in split_exactly(b)]),
        measured(
            "OTLP's in JSON", of_otlp(), lambda b: [otlp.translated(s, TERMS, STAMP) for s in otlp.spans_of_json(b)]
        ),
    ]
    show(f"foreign bodies of {ELEMENTS} elements, translated: processor time, best of {RUNS}", rows)


if __name__ == "__main__":
    main()
