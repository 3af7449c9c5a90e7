"""How many active budgets one worker keeps up with, at ten updates a second each: totals go straight into the topic.

`python -m bench.budgets_worker [SECONDS]`. Each step doubles the budgets. A step is kept up with when the newest total
of every budget is in a state that a gate has read within a second of the step's end. The generator's CPU is on the same
two cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from bench.budgets_load import READY_S, ClockedGate, clocked_gate, load
from bench.report import Row, show
from bench.town import Town, awaited, budget_of, control_file, cpu_s
from meterhouse.api.clock import now_us
from meterhouse.api.wiring import House
from meterhouse.ingest.log import BUDGET_TOTALS
from meterhouse.ingest.topics import BUDGET_PARTITIONS
from meterhouse.streams.budget import BudgetTotal, definition_of
from meterhouse.streams.control import Budget, Snapshot
from meterhouse.streams.gate_wire import State, read_said
from meterhouse.streams.windows import window_of
from tools.kafka.cluster import KafkaCluster

SECONDS: Final = 5.0  # of a step
UPDATES_PER_S: Final = 10  # of each budget
STEPS: Final = (250, 500, 1_000, 2_000, 4_000, 8_000)
BEHIND_S: Final = 1.0  # a step that ends further behind was too much
DRAIN_S: Final = 120.0


@dataclass(frozen=True)
class Step:
    budgets: int
    updates: int
    seconds: float  # of publishing: more than asked for where the generator did not keep up
    behind_s: float
    states: int
    cpu_s: float

    @property
    def kept_up(self) -> bool:
        return self.behind_s <= BEHIND_S


class Totals:
    """Totals of so many budgets, each update a little more than the one before."""

    def __init__(self, snapshot: Snapshot) -> None:
        at_us = now_us()
        self._of = {budget.id: self._first(budget, snapshot, at_us) for budget in snapshot.budgets}
        self._offset = 0

    def _first(self, budget: Budget, snapshot: Snapshot, at_us: int) -> BudgetTotal:
        window = window_of(budget.window, at_us)
        return BudgetTotal(budget.id, *window, 0, snapshot.version, 0, 0, 0, definition_of(budget, snapshot))

    def round(self, producer: Producer, budgets: Sequence[str]) -> int:
        """One more total of each; returns their offset."""
        self._offset += 1
        for name in budgets:
            first = self._of[name]
            total = replace(first, offset=self._offset, cost_pico=self._offset * 10**9, tokens=self._offset)
            message = total.message(BUDGET_PARTITIONS)
            producer.produce(BUDGET_TOTALS, message.value, message.key, message.partition or 0)
        producer.poll(0)
        return self._offset


def behind(gate: ClockedGate, since: int, offset: int) -> tuple[set[str], int]:
    """Budgets that the gate knows to be at `offset`, and how many states came."""
    there, states = set(), 0
    for one in gate.heard[since:]:
        said = read_said(one.key, one.value) if one.value else None
        if isinstance(said, State):
            states += 1
            if said.offsets.get("0", 0) >= offset:
                there.add(said.budget_id)
    return there, states


def step(
    names: Sequence[str], totals: Totals, producer: Producer, gate: ClockedGate, town: Town, seconds: float
) -> Step:
    pid = town.workers["budget-worker"].pid
    since, before_s, begin_s, offset = len(gate.heard), cpu_s([pid]), time.monotonic(), 0
    rounds = int(seconds * UPDATES_PER_S)
    per_tick = max(1, len(names) // 10)
    for number in range(rounds):
        for part in range(0, len(names), per_tick):  # spread over the round
            offset = totals.round(producer, names[part : part + per_tick])
            due_s = (number + (part + per_tick) / len(names)) / UPDATES_PER_S
            time.sleep(max(0.0, begin_s + due_s - time.monotonic()))
    producer.flush(READY_S)
    took_s = time.monotonic() - begin_s
    first_of_last = offset - (len(names) - 1) // per_tick
    wanted = len(names)
    behind_s = awaited("the last states", lambda: len(behind(gate, since, first_of_last)[0]) >= wanted, DRAIN_S, town)
    states = behind(gate, since, first_of_last)[1]
    return Step(len(names), rounds * len(names), took_s, behind_s, states, cpu_s([pid]) - before_s)


def measured(kafka: KafkaCluster, folder: Path, seconds: float) -> list[Step]:
    names = [f"tenant-{n:05d}" for n in range(STEPS[-1])]
    town = Town(kafka.bootstrap, folder / "home")
    town.run("topics", "apply", "--yes")
    town.apply(control_file(names, [budget_of(name) for name in names]))
    with House(town.settings) as house:
        totals = Totals(house.control.snapshot())
    log = town.log()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5, "compression.type": "zstd"})
    steps: list[Step] = []
    try:
        with clocked_gate(log) as gate:
            town.start("budget-worker")
            offset = totals.round(producer, names)
            awaited("first states", lambda: len(behind(gate, 0, offset)[0]) >= len(names), READY_S, town)
            for budgets in STEPS:
                steps.append(step(names[:budgets], totals, producer, gate, town, seconds))
                if not steps[-1].kept_up:
                    break
    finally:
        town.stop()
        log.close()
    return steps


def row_of(step: Step) -> Row:
    updates_per_s, states_per_s = step.updates / step.seconds, step.states / step.seconds
    return Row(
        f"{step.budgets:,} budgets: {updates_per_s:,.0f} updates/s, {states_per_s:,.0f} states/s",
        f"{step.behind_s:.2f} s behind",
        f"{step.cpu_s / step.updates * 1e6:.0f} µs CPU an update",
        f"{step.cpu_s / (step.seconds + step.behind_s):.0%} of a core",
        f"≤ {BEHIND_S:.0f} s",
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        steps = measured(kafka, Path(folder), seconds)
    most = max((one.budgets for one in steps if one.kept_up), default=0)
    show(
        f"One worker, {UPDATES_PER_S} updates a second of each budget {load()}",
        [*map(row_of, steps), Row("active budgets kept up with, at least", f"{most:,}")],
    )


if __name__ == "__main__":
    main()
