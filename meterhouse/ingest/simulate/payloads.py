"""A slice's requests as bytes on the wire: gateways' events, their resends, and model nodes' events.

These are the bytes of `encode.to_json`, made from columns with msgspec: several times faster than by way of a
`UsageEvent` each. A test holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Final

import msgspec
import numpy as np

from meterhouse.ingest.event import INFERENCE_TYPE, REQUEST_TYPE
from meterhouse.ingest.simulate import draws
from meterhouse.ingest.simulate.draws import Flags, Generator, Ints, Requests
from meterhouse.ingest.simulate.workload import Workload

REGIONS: Final = ("eu-central", "us-east", "ap-south")
ACCELERATORS: Final = ("h100", "b200")
_TEAM: Final = {"team": "growth"}


class _RequestData(msgspec.Struct, omit_defaults=True):
    """Fields in the order of `encode.to_json`, which leaves out the same defaults."""

    application: str
    model: str
    provider: str
    status: str
    environment: str
    operation: str
    request_id: str
    user: str
    region: str
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0
    http_status: int | None = None
    duration_us: int | None = None
    time_to_first_token_us: int | None = None
    queue_us: int | None = None
    streamed: bool | None = None
    labels: dict[str, str] | None = None


class _InferenceData(msgspec.Struct, omit_defaults=True):
    request_id: str
    model: str
    provider: str
    node: str
    accelerator: str
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0
    accelerator_us: int | None = None
    queue_us: int | None = None
    prefill_us: int | None = None
    decode_us: int | None = None


class _CloudEvent(msgspec.Struct):
    specversion: str
    type: str
    id: str
    source: str
    subject: str
    time: str
    data: _RequestData | _InferenceData


def request_payloads(workload: Workload, requests: Requests) -> list[bytes]:
    """Each request's event, as its gateway sends it."""
    none = np.full(len(requests), None, dtype=object)
    data = map(
        _RequestData,
        _pick(workload.applications, requests.application),
        _pick([model for _, model in workload.models], requests.model),
        _pick([provider for provider, _ in workload.models], requests.model),
        _pick(draws.STATUS_TEXTS, requests.status),
        _pick(("staging", "production"), requests.production),
        _pick(("chat", "embeddings"), requests.embedding),
        map(request_id, requests.ids),
        [f"user-{number}" for number in requests.user.tolist()],
        _pick(REGIONS, requests.gateway % len(REGIONS)),
        *requests.tokens.tolist(),
        draws.HTTP_STATUSES[requests.status].tolist(),
        requests.duration_us.tolist(),
        np.where(requests.first_token_us < 0, none, requests.first_token_us).tolist(),
        requests.queue_us.tolist(),
        requests.streamed.tolist(),
        np.where(requests.labelled, np.array(_TEAM, dtype=object), none).tolist(),
    )
    sources = [f"/gateways/{REGIONS[n % len(REGIONS)]}/{n // len(REGIONS)}" for n in range(workload.gateways)]
    events = map(
        _CloudEvent,
        repeat("1.0"),
        repeat(REQUEST_TYPE),
        requests.ids,
        _pick(sources, requests.gateway),
        _pick(workload.tenants, requests.tenant),
        draws.time_texts(requests.time_us),
        data,
    )
    return list(map(msgspec.json.Encoder().encode, events))


def node_payloads(workload: Workload, requests: Requests, chosen: Ints, rng: Generator) -> list[bytes]:
    """The model nodes' events of the requests at places `chosen`: device time, a little shorter than what a gateway
    measured."""
    node = rng.integers(0, workload.nodes, len(chosen))
    names = [f"node-{number:02d}" for number in range(workload.nodes)]
    queue_us = requests.queue_us[chosen]
    work_us = np.maximum(requests.duration_us[chosen] - queue_us - 1_000, 0)
    prefill_us = np.clip(requests.first_token_us[chosen] - queue_us, 0, work_us)
    data = map(
        _InferenceData,
        [request_id(requests.ids[place]) for place in chosen.tolist()],
        _pick([model for _, model in workload.models], requests.model[chosen]),
        _pick([provider for provider, _ in workload.models], requests.model[chosen]),
        _pick(names, node),
        _pick(ACCELERATORS, node % len(ACCELERATORS)),
        *requests.tokens[:, chosen].tolist(),
        *(column.tolist() for column in (work_us, queue_us, prefill_us, work_us - prefill_us)),
    )
    events = map(
        _CloudEvent,
        repeat("1.0"),
        repeat(INFERENCE_TYPE),
        draws.uuids(requests.time_us[chosen], rng),
        _pick([f"/nodes/{name}" for name in names], node),
        _pick(workload.tenants, requests.tenant[chosen]),
        draws.time_texts(requests.time_us[chosen]),
        data,
    )
    return list(map(msgspec.json.Encoder().encode, events))


def request_id(event_id: str) -> str:
    """What a gateway and a node both call the request."""
    return f"req-{event_id[19:]}"


def with_other_time(payload: bytes, time_text: str) -> bytes:
    """The same event, sent again with another `time`."""
    begin = payload.index(b'"time":"') + len(b'"time":"')
    return payload[:begin] + time_text.encode() + payload[payload.index(b'"', begin) :]


def _pick(words: Sequence[str], numbers: Ints | Flags) -> list[str]:
    """The words at these places."""
    picked: list[str] = np.array(words, dtype=object)[numbers.astype(np.intp)].tolist()
    return picked
