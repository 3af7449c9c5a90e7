"""Draws of one slice's requests as columns: all that is random about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from meterhouse.ingest.formats.replay_rule import FIRST_TOKEN_US, PER_OUTPUT_TOKEN_US, PER_UNCACHED_TOKEN_US
from meterhouse.ingest.simulate.rhythm import Slice
from meterhouse.ingest.simulate.workload import Workload

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Generator = np.random.Generator

OK, ERROR, ABORTED, THROTTLED, BLOCKED = range(5)
STATUS_TEXTS: Final = ("ok", "error", "aborted", "throttled", "blocked")
HTTP_STATUSES: Final = np.array([200, 503, 499, 429, 403])

MAX_INPUT: Final = 200_000
MAX_OUTPUT: Final = 32_000
"""Tokens: the windows of the models."""

# Median and spread (sigma) of log-normal token counts, by application; their tails are long.
_INPUT: Final = ((900, 1.1), (2_400, 0.9), (7_500, 1.2))
_OUTPUT: Final = ((220, 0.9), (120, 0.8), (650, 0.7))
_RETRY_MEAN_US: Final = 5_000_000
_RETRY_MOST_US: Final = 30_000_000
_LATE_LEAST_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns of equal length, in order of time. Counts are inclusive, as on the wire."""

    time_us: Ints
    arrived_us: Ints
    ids: list[str]
    tenant: Ints
    model: Ints
    application: Ints
    gateway: Ints
    user: Ints
    status: Ints
    production: Flags
    streamed: Flags
    labelled: Flags
    embedding: Flags
    tokens: Ints  # (5, n): input, cache read, cache write, output, reasoning, as in event.WIRE_TOKEN_COUNTS
    queue_us: Ints
    first_token_us: Ints  # -1: none was sent
    duration_us: Ints

    def __len__(self) -> int:
        return len(self.time_us)


def draw_requests(workload: Workload, part: Slice, rng: Generator) -> Requests:
    """The requests that end in a slice."""
    count = int(rng.poisson(part.expected))
    time_us = np.sort(part.begin_us + (rng.random(count) * (part.end_us - part.begin_us)).astype(np.int64))
    tenant = np.searchsorted(part.tenant_edges, rng.random(count), side="right")
    model = _models(workload, tenant, rng)
    application = rng.integers(0, len(workload.applications), count)
    embeds = np.array(["embed" in name for _, name in workload.models])
    status = _statuses(workload, count, rng)
    tokens = _tokens(workload, application, embeds[model], status, rng)
    queue_us, first_token_us, duration_us = _latency(tokens, model, embeds[model], status, rng)
    return Requests(
        time_us=time_us,
        arrived_us=time_us + _delays(workload, count, rng),
        ids=uuids(time_us, rng),
        tenant=tenant,
        model=model,
        application=application,
        gateway=rng.integers(0, workload.gateways, count),
        user=(rng.random(count) ** 3 * 5_000).astype(np.int64),  # some people ask far more than others
        status=status,
        production=rng.random(count) < 0.9,
        streamed=(rng.random(count) < 0.7) & ~embeds[model],
        labelled=rng.random(count) < 0.2,
        embedding=embeds[model],
        tokens=tokens,
        queue_us=queue_us,
        first_token_us=first_token_us,
        duration_us=duration_us,
    )


def _models(workload: Workload, tenant: Ints, rng: Generator) -> Ints:
    """Each tenant's order of favourites begins one model later than that of the tenant before it."""
    count = len(workload.models)
    weights = 1 / np.arange(1, count + 1) ** workload.model_skew
    edges = np.cumsum(weights / weights.sum())
    rank = np.minimum(np.searchsorted(edges, rng.random(len(tenant)), side="right"), count - 1)
    return np.asarray((rank + tenant) % count)


def _statuses(workload: Workload, count: int, rng: Generator) -> Ints:
    shares = (workload.error_share, workload.aborted_share, workload.throttled_share, workload.blocked_share)
    edges = np.cumsum((1 - workload.refused_or_failed_share, *shares))
    return np.minimum(np.searchsorted(edges, rng.random(count), side="right"), BLOCKED)


def _log_normal(parameters: tuple[tuple[int, float], ...], which: Ints, most: int, rng: Generator) -> Ints:
    median, sigma = np.array(parameters, dtype=float)[which % len(parameters)].T
    drawn = median * np.exp(sigma * rng.standard_normal(len(which)))
    return np.asarray(np.clip(drawn, 1, most).astype(np.int64))


def _part(of: Ints, share: float, low: float, high: float, rng: Generator) -> Ints:
    """For a share of the rows low-high of `of`, rounded down; else 0."""
    chosen = rng.random(len(of)) < share
    return np.where(chosen, (of * (low + (high - low) * rng.random(len(of)))).astype(np.int64), 0)


def _tokens(workload: Workload, application: Ints, embeds: Flags, status: Ints, rng: Generator) -> Ints:
    given = _log_normal(_INPUT, application, MAX_INPUT, rng)
    output = _log_normal(_OUTPUT, application, MAX_OUTPUT, rng)
    output = np.where(status == ABORTED, (output * rng.random(len(output))).astype(np.int64), output)
    output = np.where(embeds | (status == ERROR), 0, output)
    cache_read = _part(given, workload.cache_read_share, 0.30, 0.95, rng)
    cache_write = _part(given - cache_read, workload.cache_write_share, 0.20, 0.80, rng)
    reasoning = _part(output, workload.reasoning_share, 0.20, 0.80, rng)
    tokens = np.stack([given, cache_read, cache_write, output, reasoning])
    return np.where(status >= THROTTLED, 0, tokens)  # refused ones never reached a model


def _latency(tokens: Ints, model: Ints, embeds: Flags, status: Ints, rng: Generator) -> tuple[Ints, Ints, Ints]:
    """(queue, time to first token or -1, duration), microseconds: the replay rule's latency with noise and queueing."""
    noise = np.exp(0.35 * rng.standard_normal((3, len(status))))
    pace = 0.5 + (model % 4) * 0.25  # a fast model, a slower one ...
    refused = status >= THROTTLED
    queue_us = np.where(refused, 0, (8_000 * noise[0] ** 3).astype(np.int64))
    prefill_us = (FIRST_TOKEN_US + PER_UNCACHED_TOKEN_US * (tokens[0] - tokens[1])) * pace * noise[1]
    decode_us = PER_OUTPUT_TOKEN_US * tokens[3] * pace * noise[2]
    first_us = queue_us + prefill_us.astype(np.int64)
    duration_us = np.where(refused, (2_000 * noise[1]).astype(np.int64), first_us + decode_us.astype(np.int64))
    silent = embeds | (status == ERROR) | refused
    return queue_us, np.where(silent, -1, first_us), duration_us


def _delays(workload: Workload, count: int, rng: Generator) -> Ints:
    """From the end of a request to the log: a network's time, or for a few a gateway that was cut off for hours."""
    network = rng.standard_exponential(count) * workload.network_us
    spread = np.log(workload.late_up_to_us / _LATE_LEAST_US)
    late = _LATE_LEAST_US * np.exp(spread * rng.random(count))
    return np.where(rng.random(count) < workload.late_share, late, network).astype(np.int64)


def retry_delays(count: int, rng: Generator) -> Ints:
    """From the first arrival to the second, microseconds."""
    drawn = 50_000 + rng.standard_exponential(count) * _RETRY_MEAN_US
    return np.minimum(drawn, _RETRY_MOST_US).astype(np.int64)


def network_delays(workload: Workload, count: int, rng: Generator) -> Ints:
    return (rng.standard_exponential(count) * workload.network_us).astype(np.int64)


_HEX: Final = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint8).reshape(256, 2)
_DASHES: Final = (8, 13, 18, 23)
_DIGITS: Final = np.array([place for place in range(36) if place not in _DASHES])


def uuids(time_us: Ints, rng: Generator) -> list[str]:
    """A UUIDv7 (RFC 9562) for each time, like the publisher's own ids."""
    count = len(time_us)
    random: Any = rng.integers(0, 2**64, size=(2, count), dtype=np.uint64)
    high = ((time_us // 1000).astype(np.uint64) << np.uint64(16)) | np.uint64(0x7000) | (random[0] & np.uint64(0xFFF))
    low = (random[1] >> np.uint64(2)) | np.uint64(1 << 63)
    octets = np.stack([high, low], axis=1).astype(">u8").view(np.uint8).reshape(count, 16)
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS] = _HEX[octets].reshape(count, 32)
    ids: list[str] = text.reshape(-1).view("S36").astype("U36").tolist()
    return ids


def time_texts(time_us: Ints) -> list[str]:
    """RFC 3339 with microseconds and a Z."""
    texts: list[str] = np.char.add(np.datetime_as_string(time_us.astype("datetime64[us]")), "Z").tolist()
    return texts
