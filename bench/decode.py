"""Decode: records → EventBatch on one pinned core, beside what no decoder of this kind can leave out.

`python -m bench.decode` prints thousand events a second of CPU time, median of interleaved runs, so that a busy machine
slows decode and its limits alike. Limits: `split`, msgspec finding each event in its record and checking its JSON;
`parse`, DuckDB's yyjson reading each event.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import duckdb
import pyarrow as pa

from bench.report import Row, show
from bench.workload import Workload, records
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.log import Records
from meterhouse.ingest.split import Splitter, split_exactly

EVENTS: Final = 50_000
ROUNDS: Final = 11
GOAL_PER_SECOND: Final = {100: 700_000, 1: 0}


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of CPU time of each call; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(runs[1:]) for name, runs in seconds.items()}


def poisoned(run: Records) -> Records:
    """The same run with a NaN in one event of every tenth record."""
    values = [
        value.replace(b'"input_tokens":', b'"input_tokens":NaN,"x":', 1) if value and n % 10 == 0 else value
        for n, value in enumerate(run.values)
    ]
    return Records(run.topic, run.partition, run.offsets, run.appended_us, run.keys, values, run.headers)


def measure(per_record: int) -> list[Row]:
    run = records(Workload(EVENTS, per_record))
    rotten = poisoned(run)
    values = [value for value in run.values if value is not None]
    events = pa.table({"event": [event.decode() for value in values for event in split_exactly(value)]})
    decoder, splitter = Decoder(), Splitter()
    parser = duckdb.connect(config={"threads": 1})
    parser.register("events", events)
    done = decoder.decode([run], tenants=None)
    assert done.events.num_rows == EVENTS, done.rejects[:1]
    seconds = interleaved(
        {
            "decode": lambda: decoder.decode([run], tenants=None),
            "rotten": lambda: decoder.decode([rotten], tenants=None),
            "split": lambda: [splitter.split(value) for value in values],
            "parse": lambda: parser.sql("SELECT count(*) FROM events WHERE json_valid(event)").fetchall(),
        }
    )
    decoder.close()
    parser.close()

    def row(figure: str, name: str, limit: str, goal: int = 0) -> Row:
        share = f"{seconds[limit] / seconds[name]:.0%}"
        return Row(figure, _speed(seconds[name]), f"{_speed(seconds[limit])} {limit}", share, _thousands(goal))

    goal = GOAL_PER_SECOND[per_record]
    title = "1 event a record" if per_record == 1 else f"{per_record} events a record"
    return [
        row(f"decode, {title}", "decode", "split", goal),
        row(f"decode, {title}", "decode", "parse"),
        row(f"decode, {title}, a NaN in every tenth record", "rotten", "decode"),
    ]


def _speed(seconds: float) -> str:
    return _thousands(EVENTS / seconds)


def _thousands(per_second: float) -> str:
    return f"{per_second / 1e3:,.0f} k/s" if per_second else ""


def main() -> None:
    pinned = hasattr(os, "sched_setaffinity")
    if pinned:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bytes_each = sum(len(value or b"") for value in records(Workload(1_000)).values) // 1_000
    title = (
        f"Decode: {EVENTS:,} events of {bytes_each} bytes, {'one pinned core' if pinned else 'not pinned'}, CPU time"
    )
    show(title, [row for per_record in (100, 1) for row in measure(per_record)])


if __name__ == "__main__":
    main()
