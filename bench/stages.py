"""The pure stages after decode, one pinned core: dedupe against 10 M ids, rating, roll-up, and all of `process`.

`python -m bench.stages` prints thousand events a second per stage beside the goal, the best and the median of several
batches of 50,000 events.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from meterhouse.ingest.batch import EVENT_SCHEMA, TIME, Decoded
from meterhouse.ingest.event import REQUEST_TYPE, TOKEN_KINDS
from meterhouse.ingest.log import USAGE_EVENTS, Records
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import Position
from meterhouse.streams.pipeline import merge_all, process
from meterhouse.streams.rate_card import compile_rates
from meterhouse.streams.rating import rate
from meterhouse.streams.rollup import hours, latency, minutes

BATCH: Final = 50_000
ROUNDS: Final = 15
IDS: Final = 10_000_000
START_US: Final = 1_767_225_600_000_000
TENANTS, MODELS = 40, 5
BATCH_SPAN_US: Final = 50_000_000
"""1,000 requests a second."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A stage's speed in thousand events a second."""

    stage: str
    best: float
    median: float
    goal: float


def events(batch: int, random: np.random.Generator) -> pa.Table:
    """A batch of requests: 40 tenants, 4 applications, 5 models, 3 % errors, 50 seconds long."""
    times = START_US + batch * BATCH_SPAN_US + np.sort(random.integers(0, BATCH_SPAN_US, BATCH))
    tokens = random.lognormal(6, 1.3, (len(TOKEN_KINDS), BATCH)).astype(np.int64)
    first_us = random.lognormal(12, 1, BATCH).astype(np.int64)
    names = {
        "tenant": random.integers(0, TENANTS, BATCH),
        "application": random.integers(0, 4, BATCH),
        "model": random.integers(0, MODELS, BATCH),
        "environment": random.integers(0, 2, BATCH),
        "source": random.integers(0, 8, BATCH),
    }
    columns: dict[str, Any] = {
        "key": pa.Array.from_buffers(pa.binary(16), BATCH, [None, pa.py_buffer(random.bytes(16 * BATCH))]),
        "partition": np.zeros(BATCH, dtype=np.int32),
        "offset": batch * BATCH + np.arange(BATCH),
        "index": np.zeros(BATCH, dtype=np.int32),
        "arrived": pa.array(times).view(TIME),
        "time": pa.array(times).view(TIME),
        "type": _name(np.zeros(BATCH), [REQUEST_TYPE]),
        "provider": _name(np.zeros(BATCH), ["atlas"]),
        "operation": _name(np.zeros(BATCH), ["chat"]),
        "status": _name(random.random(BATCH) < 0.03, ["ok", "error"]),
        "duration_us": first_us + 20_000 * tokens[3],
        "time_to_first_token_us": first_us,
        **{name: _name(codes, [f"{name}-{n}" for n in range(codes.max() + 1)]) for name, codes in names.items()},
        **{kind.tokens: count for kind, count in zip(TOKEN_KINDS, tokens, strict=True)},
    }
    nothing = {field.name: pa.nulls(BATCH, field.type) for field in EVENT_SCHEMA if field.name not in columns}
    return pa.table({**columns, **nothing}).select(EVENT_SCHEMA.names).cast(EVENT_SCHEMA)


def _name(codes: np.ndarray[Any, Any], names: Sequence[str]) -> pa.Array[Any]:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(names))


def snapshot() -> Snapshot:
    """Each model with a list price that changes within the workload, and a negotiated price of one tenant."""
    cards = [
        RateCard(2 * n + part, "atlas", f"model-{n}", tenant, since, None, {k.name: 2_500_000 for k in TOKEN_KINDS})
        for n in range(MODELS)
        for part, tenant, since in ((0, None, 0), (1, "tenant-1", START_US + BATCH_SPAN_US // 2))
    ]
    return Snapshot(version=1, currency="USD", rate_cards=tuple(cards))


def timed(stage: str, goal: float, runs: Sequence[Callable[[], object]]) -> Figure:
    """Each run once, after a first one that does not count."""
    seconds = []
    for run in runs:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])
    return Figure(stage, BATCH / seconds[0] / 1e3, BATCH / seconds[len(seconds) // 2] / 1e3, goal)


def figures() -> list[Figure]:
    random = np.random.default_rng(1)
    index = DedupeIndex()
    hour = np.zeros(BATCH, dtype=np.int32)
    filled_s = 0.0
    for _ in range(IDS // BATCH):
        keys = random.integers(0, 2**64, (BATCH, 2), dtype=np.uint64)
        start = time.perf_counter()
        index.filter(keys, hour)
        filled_s += time.perf_counter() - start
    print(f"dedupe index: {len(index):,} ids, {index.nbytes / 1e6:.0f} MB, {index.nbytes / len(index):.1f} bytes an id")
    fresh = [random.integers(0, 2**64, (BATCH, 2), dtype=np.uint64) for _ in range(ROUNDS)]
    batches = [events(n, random) for n in range(ROUNDS)]
    rates = compile_rates(snapshot())
    rated = [rate(batch, rates) for batch in batches]
    by_minute = [minutes(*pair) for pair in zip(batches, rated, strict=True)]
    results = [
        timed("dedupe, new ids", 5_000, [lambda k=k: index.filter(k, hour) for k in fresh]),  # type: ignore[misc]
        timed("dedupe, repeated ids", 5_000, [lambda k=k: index.filter(k, hour) for k in fresh]),  # type: ignore[misc]
        Figure("dedupe, filling from empty, growth included", IDS / filled_s / 1e3, IDS / filled_s / 1e3, 0),
        timed("rate", 10_000, [lambda b=b: rate(b, rates) for b in batches]),  # type: ignore[misc]
        timed(
            "roll up by minute and hour + histograms",
            4_000,
            [
                lambda b=b, r=r: (hours(minutes(b, r)), latency(b))  # type: ignore[misc]
                for b, r in zip(batches, rated, strict=True)
            ],
        ),
        timed("  minutes", 0, [lambda b=b, r=r: minutes(b, r) for b, r in zip(batches, rated, strict=True)]),  # type: ignore[misc]
        timed("  hours", 0, [lambda m=m: hours(m) for m in by_minute]),  # type: ignore[misc]
        timed("  histograms", 0, [lambda b=b: latency(b) for b in batches]),  # type: ignore[misc]
    ]
    return [*results, *_whole(batches)]


def _whole(batches: Sequence[pa.Table]) -> list[Figure]:
    """`process` from an empty index on, then the merge of two units into one commit."""
    rates, indexes, position = compile_rates(snapshot()), {0: DedupeIndex(expected_ids=BATCH * ROUNDS)}, Position()
    units = []

    def step(batch: pa.Table) -> None:
        nonlocal position
        first = position.next_offset
        run = Records(
            topic=USAGE_EVENTS,
            partition=0,
            offsets=range(first, first + BATCH),
            appended_us=batch["arrived"].cast(pa.int64()).to_numpy(),  # type: ignore[arg-type]
            keys=[None] * BATCH,
            values=[None] * BATCH,
            headers=[()] * BATCH,
        )
        unit = process([run], Decoded(batch, [], []), {0: position}, indexes, rates)
        units.append(unit)
        position = unit.after[0]

    whole = timed("process: all of it, with its checks", 0, [lambda b=b: step(b) for b in batches])  # type: ignore[misc]
    pairs = [units[n : n + 2] for n in range(0, len(units) - 1, 2)]
    merged = timed("merge two units (per unit)", 0, [lambda p=p: merge_all(p) for p in pairs])  # type: ignore[misc]
    return [whole, Figure(merged.stage, 2 * merged.best, 2 * merged.median, 0)]


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    print(f"{'stage':<46}{'best':>9}{'median':>9}{'goal':>9}  thousand events a second, one core")
    for figure in figures():
        goal = f"{figure.goal:,.0f}" if figure.goal else ""
        print(f"{figure.stage:<46}{figure.best:>9,.0f}{figure.median:>9,.0f}{goal:>9}")


if __name__ == "__main__":
    main()
