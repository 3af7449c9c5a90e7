"""Event published → total → state → readable at a gate, through the real meter, worker and broker.

`python -m bench.budgets_freshness [SECONDS [TENANTS ...]]`. 2,000 events a second in records of ten, of 50 and of 500
tenants with a budget each. A state is an event's when its offset of the event's partition is above the event's: the
first such is taken. Totals and states carry the millisecond at which their producer took them: so exact are the steps.
"""

from __future__ import annotations

import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.budgets_load import READY_S, Flow, Heard, Published, appended, clocked_gate, load, shown
from bench.report import Row, show
from bench.town import Town, awaited, budget_of, control_file, cpu_s
from meterhouse.ingest.log import BUDGET_STATES, BUDGET_TOTALS, EventLog
from meterhouse.streams.budget_totals import BudgetTotal, read_total
from meterhouse.streams.gate_wire import State, read_said
from tools.kafka.cluster import KafkaCluster

SECONDS: Final = 12.0
WARM_S: Final = 3.0  # of each run, not counted
EVENTS_PER_S: Final = 2_000
TENANTS: Final = (50, 500)
GOAL: Final = "25 / 50 ms"

Said = tuple[str, int, int, int]
"""Budget, partition of events, offset, when (microseconds)."""


@dataclass(frozen=True)
class Steps:
    """Milliseconds of each record: until its total was said, then its state, then until it was read; and all of it."""

    to_total: list[float]
    to_state: list[float]
    to_gate: list[float]
    whole: list[float]


class Firsts:
    """Finds when a budget's spend was first said to be beyond a record."""

    def __init__(self, said: Iterable[Said]) -> None:
        self._offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._at_us: dict[tuple[str, int], list[int]] = defaultdict(list)
        for budget, partition, offset, at_us in said:
            key = budget, partition
            if not self._offsets[key] or offset > self._offsets[key][-1]:
                self._offsets[key].append(offset)
                self._at_us[key].append(at_us)

    def of(self, record: Published) -> int | None:
        key = record.tenant, record.partition
        at = bisect_right(self._offsets[key], record.offset)
        return self._at_us[key][at] if at < len(self._at_us[key]) else None


def totals_of(log: EventLog, begins: dict[int, int]) -> Iterator[Said]:
    for at_us, key, value in appended(log, BUDGET_TOTALS, begins):
        total = read_total(key, value) if value else None
        if isinstance(total, BudgetTotal):
            yield total.budget_id, total.partition, total.offset, at_us


def states_of(heard: Iterable[tuple[int, bytes, bytes | None]]) -> Iterator[Said]:
    for at_us, key, value in heard:
        said = read_said(key, value) if value else None
        if isinstance(said, State):
            for partition, offset in said.offsets.items():
                yield said.budget_id, int(partition), offset, at_us


def gated(heard: Iterable[Heard]) -> Firsts:
    return Firsts(states_of((one.at_us, one.key, one.value) for one in heard))


def steps_of(records: list[Published], totals: Firsts, states: Firsts, at_gate: Firsts) -> Steps:
    steps = Steps([], [], [], [])
    for record in records:
        total_us, state_us, gate_us = totals.of(record), states.of(record), at_gate.of(record)
        if total_us is None or state_us is None or gate_us is None:
            raise SystemExit(f"no state came of a record of {record.tenant} (offset {record.offset})")
        steps.to_total.append((total_us - record.at_us) / 1e3)
        steps.to_state.append((state_us - total_us) / 1e3)
        steps.to_gate.append((gate_us - state_us) / 1e3)
        steps.whole.append((gate_us - record.at_us) / 1e3)
    return steps


def measured(kafka: KafkaCluster, folder: Path, tenants: int, seconds: float) -> list[Row]:
    names = [f"tenant-{n:03d}" for n in range(tenants)]
    town = Town(kafka.bootstrap, folder / "home")
    town.run("topics", "apply", "--yes")
    town.apply(control_file(names, [budget_of(name) for name in names]))
    log = town.log()
    try:
        begins = {topic: log.end_offsets(topic) for topic in (BUDGET_TOTALS, BUDGET_STATES)}
        with clocked_gate(log) as gate:
            town.start("meter")
            town.start("budget-worker")
            last = Flow(names, 1_000, len(names) / 100).publish(log)[-1]
            awaited("first states", lambda: gated(gate.heard).of(last), READY_S, town)
            pids = {"broker": kafka.pids} | {name: [worker.pid] for name, worker in town.workers.items()}
            before, begin_s = {name: cpu_s(of) for name, of in pids.items()}, time.monotonic()
            published = Flow(names, EVENTS_PER_S, WARM_S + seconds).publish(log)
            took_s = time.monotonic() - begin_s
            cpu = {name: (cpu_s(of) - before[name]) / took_s for name, of in pids.items()}
            counted = [one for one in published if one.at_us > published[0].at_us + WARM_S * 1e6]
            awaited("the last state", lambda: gated(gate.heard[-5_000:]).of(counted[-1]), READY_S, town)
        totals, states = (
            totals_of(log, begins[BUDGET_TOTALS]),
            states_of(appended(log, BUDGET_STATES, begins[BUDGET_STATES])),
        )
        steps = steps_of(counted, Firsts(totals), Firsts(states), gated(gate.heard))
    finally:
        town.stop()
        log.close()
    return rows_of(tenants, steps, cpu)


def rows_of(tenants: int, steps: Steps, cpu: dict[str, float]) -> list[Row]:
    return [
        Row(f"{tenants} budgets: published → readable at the gate", shown(steps.whole), "", "", GOAL),
        Row("  published → total", shown(steps.to_total)),
        Row("  total → state", shown(steps.to_state)),
        Row("  state → gate", shown(steps.to_gate)),
        Row("  of a core meanwhile", ", ".join(f"{name} {of:.0%}" for name, of in cpu.items())),
    ]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    rows: list[Row] = []
    for tenants in [int(one) for one in sys.argv[2:]] or TENANTS:
        with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
            rows += measured(kafka, Path(folder), tenants, seconds)
    show(f"Freshness, p50 / p99: {EVENTS_PER_S:,} events/s in records of ten {load()}", rows)


if __name__ == "__main__":
    main()
