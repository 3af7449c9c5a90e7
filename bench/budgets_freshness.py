"""Event published → total → state → readable at a gate, through the real meter, worker and broker.

`python -m bench.budgets_freshness [SECONDS]`. 2,000 events a second in records of ten, of 50 and of 500 tenants with a
budget each. A state is an event's when its offset of the event's partition is above the event's: the first such is
taken. Totals and states carry the millisecond at which their producer took them, so the steps add up but for that.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final

from bench.budgets_load import Flow, Heard, Listener, Published
from bench.report import Row, show
from bench.town import Town, awaited, budget_of, control_file, cpu_s
from meterhouse.ingest.log import BUDGET_TOTALS, EventLog
from meterhouse.streams.budget_totals import BudgetTotal, read_total
from meterhouse.streams.gate_wire import State, read_said
from tools.kafka.cluster import KafkaCluster

SECONDS: Final = 15.0
WARM_S: Final = 3.0  # of each run, not counted
READY_S: Final = 60.0
EVENTS_PER_S: Final = 2_000
TENANTS: Final = (50, 500)
GOAL_MS: Final = (25.0, 50.0)  # p50, p99


@dataclass(frozen=True)
class Steps:
    """Milliseconds of each record: until its total was said, then its state, then until it was read; and all of it."""

    to_total: list[float]
    to_state: list[float]
    to_gate: list[float]
    whole: list[float]


class Firsts:
    """Finds the first that was said of a budget with an offset above a record's."""

    def __init__(self, said: Iterable[tuple[str, int, int, Heard]]) -> None:
        self._offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._heard: dict[tuple[str, int], list[Heard]] = defaultdict(list)
        for budget, partition, offset, heard in said:
            key = budget, partition
            if not self._offsets[key] or offset > self._offsets[key][-1]:
                self._offsets[key].append(offset)
                self._heard[key].append(heard)

    def of(self, record: Published) -> Heard | None:
        key = record.tenant, record.partition
        at = bisect_right(self._offsets[key], record.offset)
        return self._heard[key][at] if at < len(self._heard[key]) else None


def totals_of(log: EventLog, begins: dict[int, int]) -> Iterable[tuple[str, int, int, Heard]]:
    for partition, end in log.end_offsets(BUDGET_TOTALS).items():
        at = begins[partition]
        while at < end and (records := log.read(BUDGET_TOTALS, partition, at, 10_000)):
            for said_us, key, value in zip(records.appended_us, records.keys, records.values, strict=True):
                total = read_total(key or b"", value) if value else None
                if isinstance(total, BudgetTotal):
                    yield total.budget_id, total.partition, total.offset, Heard(0, said_us, b"", None)
            at = records.next_offset


def states_of(heard: Iterable[Heard]) -> Iterable[tuple[str, int, int, Heard]]:
    for one in heard:
        said = read_said(one.key, one.value) if one.value else None
        if isinstance(said, State):
            for partition, offset in said.offsets.items():
                yield said.budget_id, int(partition), offset, one


def steps_of(records: list[Published], totals: Firsts, states: Firsts) -> Steps:
    steps = Steps([], [], [], [])
    for record in records:
        total, state = totals.of(record), states.of(record)
        if total is None or state is None:
            raise SystemExit(f"no state came of a record of {record.tenant} (offset {record.offset})")
        steps.to_total.append((total.said_us - record.at_us) / 1e3)
        steps.to_state.append((state.said_us - total.said_us) / 1e3)
        steps.to_gate.append((state.at_us - state.said_us) / 1e3)
        steps.whole.append((state.at_us - record.at_us) / 1e3)
    return steps


def percentiles(values: list[float]) -> tuple[float, float]:
    """p50, p99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def measured(kafka: KafkaCluster, folder: Path, tenants: int, seconds: float) -> list[Row]:
    names = [f"tenant-{n:03d}" for n in range(tenants)]
    town = Town(kafka.bootstrap, folder / "home")
    town.run("topics", "apply", "--yes")
    town.apply(control_file(names, [budget_of(name) for name in names]))
    log = town.log()
    try:
        begins = log.end_offsets(BUDGET_TOTALS)
        with Listener(log) as gate:
            meter, worker = town.start("meter"), town.start("budget-worker")
            Flow(names, 1_000, len(names) / 100).publish(log)
            awaited("first states", lambda: len({one.key for one in gate.heard}) >= 2 * tenants, READY_S)
            town.refuse_dead()
            pids = {"broker": kafka.pids, "meter": [meter.pid], "worker": [worker.pid]}
            before, begin_s = {name: cpu_s(of) for name, of in pids.items()}, time.monotonic()
            published = Flow(names, EVENTS_PER_S, WARM_S + seconds).publish(log)
            took_s = time.monotonic() - begin_s
            cpu = {name: (cpu_s(of) - before[name]) / took_s for name, of in pids.items()}
            counted = [one for one in published if one.at_us > published[0].at_us + WARM_S * 1e6]
            awaited("the last state", lambda: Firsts(states_of(gate.heard[-5_000:])).of(counted[-1]), READY_S)
        steps = steps_of(counted, Firsts(totals_of(log, begins)), Firsts(states_of(gate.heard)))
    finally:
        town.stop()
        log.close()
    return rows_of(tenants, steps, cpu)


def rows_of(tenants: int, steps: Steps, cpu: dict[str, float]) -> list[Row]:
    def row(name: str, values: list[float], goal: str = "") -> Row:
        p50, p99 = percentiles(values)
        return Row(name, f"{p50:.1f} / {p99:.1f} ms", "", "", goal)

    goal = f"{GOAL_MS[0]:.0f} / {GOAL_MS[1]:.0f} ms"
    share = ", ".join(f"{name} {of:.0%}" for name, of in cpu.items())
    return [
        row(f"{tenants} budgets: published → readable at the gate", steps.whole, goal),
        row("  published → total", steps.to_total),
        row("  total → state", steps.to_state),
        row("  state → gate", steps.to_gate),
        Row("  of a core meanwhile", share),
    ]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    rows: list[Row] = []
    for tenants in [int(one) for one in sys.argv[2:]] or TENANTS:
        with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
            rows += measured(kafka, Path(folder), tenants, seconds)
    load = os.getloadavg()[0]
    show(f"Freshness, p50 / p99: {EVENTS_PER_S:,} events/s in records of ten (load {load:.1f})", rows)


if __name__ == "__main__":
    main()
