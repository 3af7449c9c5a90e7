"""An edit of a budget → what gates go by follows, through the real meter and worker, while events flow.

`python -m bench.budgets_control [ROUNDS]`. The way begins when `apply` writes the new version. A raised limit and a
deletion have arrived when the gate has the terms; a new scope or time zone when it has the terms and a state of them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.budgets_load import READY_S, ClockedGate, Flow, clocked_gate, load
from bench.report import Row, show
from bench.town import Town, awaited, budget_of, control_file
from bench.workload import APPLICATIONS
from meterhouse.api.clock import now_us
from meterhouse.api.wiring import House
from meterhouse.streams.gate_wire import State, Terms, read_said, read_terms_key
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tools.kafka.cluster import KafkaCluster

ROUNDS: Final = 5  # of four edits each
EVENTS_PER_S: Final = 500
PAUSE_S: Final = 0.37  # between two edits: no multiple of any worker's pace
LIMIT_S: Final = 30.0
TENANTS: Final = tuple(f"tenant-{n:03d}" for n in range(20))
ZONES: Final = ("Europe/Berlin", "Asia/Tokyo", "America/New_York", "Europe/Paris", "Asia/Kolkata")
GOAL: Final = "≤ 1,000 ms"

Budgets = dict[str, dict[str, Any]]
Edit = tuple[str, str, Budgets]
"""What it is, whose budget, and the budgets after it."""


def edits(budgets: Budgets, rounds: int) -> Iterator[Edit]:
    """One after another, each to another budget."""
    for number in range(rounds):
        raised, scoped, moved, gone = TENANTS[4 * (number % 5) : 4 * (number % 5) + 4]
        budgets = budgets | {raised: budgets[raised] | {"limit": str(2_000_000_000 + number)}}
        yield "a raised limit", raised, budgets
        application = APPLICATIONS[number % len(APPLICATIONS)]
        budgets = budgets | {scoped: budgets[scoped] | {"scope": {"tenant": scoped, "application": application}}}
        yield "an edited scope", scoped, budgets
        window = {"every": "month", "time_zone": ZONES[(number + number // 5) % len(ZONES)]}
        budgets = budgets | {moved: budgets[moved] | {"window": window}}
        yield "another time zone", moved, budgets
        kept = budgets[gone]
        budgets = {name: budget for name, budget in budgets.items() if name != gone}
        yield "a deletion", gone, budgets
        budgets = budgets | {gone: kept}


def arrived(gate: ClockedGate, since: int, what: str, budget: str) -> int | None:
    """When the gate had all of an edit, microseconds; None: not yet. `since`: records heard before the edit."""
    terms: Terms | None = None
    stated: set[str] = set()
    for one in gate.heard[since:]:
        if read_terms_key(one.key) == budget and one.value is None and what == "a deletion":
            return one.at_us
        said = read_said(one.key, one.value) if one.value else None
        if isinstance(said, Terms) and said.budget_id == budget:
            terms = said
            if what == "a raised limit":
                return one.at_us
        elif isinstance(said, State) and said.budget_id == budget:
            stated.add(said.definition)
        if terms is not None and terms.definition in stated:
            return one.at_us
    return None


def applied(house: House, budgets: Budgets) -> int:
    """Applies the control file; returns when the new version was about to be written, microseconds."""
    file = parse(control_file(TENANTS, list(budgets.values())).encode())
    made = plan(file, house.control.snapshot(), now_us())
    at_us = now_us()
    house.control.apply(made, at_us)
    return at_us


def waited(gate: ClockedGate, house: House, edit: Edit, town: Town) -> float:
    """Milliseconds until an edit had arrived."""
    what, budget, budgets = edit
    since = len(gate.heard)
    at_us = applied(house, budgets)
    awaited(what, lambda: arrived(gate, since, what, budget), LIMIT_S, town)
    return ((arrived(gate, since, what, budget) or 0) - at_us) / 1e3


def measured(kafka: KafkaCluster, folder: Path, rounds: int) -> list[Row]:
    budgets: Budgets = {name: budget_of(name) for name in TENANTS}
    town = Town(kafka.bootstrap, folder / "home")
    town.run("topics", "apply", "--yes")
    town.apply(control_file(TENANTS, list(budgets.values())))
    log = town.log()
    took: dict[str, list[float]] = defaultdict(list)
    try:
        with clocked_gate(log) as gate, House(town.settings) as house:
            town.start("meter")
            town.start("budget-worker")
            Flow(TENANTS, EVENTS_PER_S, 1).publish(log)
            awaited("first states", lambda: len({one.key for one in gate.heard}) >= 2 * len(TENANTS), READY_S, town)
            with Flow(TENANTS, EVENTS_PER_S, rounds * 4 * (PAUSE_S + 0.8)).beside(log):
                for edit in edits(budgets, rounds):
                    took[edit[0]].append(waited(gate, house, edit, town))
                    time.sleep(PAUSE_S)
    finally:
        town.stop()
        log.close()
    return [row_of(what, ms) for what, ms in took.items()]


def row_of(what: str, ms: list[float]) -> Row:
    return Row(f"{what} ({len(ms)})", f"{sorted(ms)[len(ms) // 2]:,.0f} / {max(ms):,.0f} ms", "", "", GOAL)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        rows = measured(kafka, Path(folder), rounds)
    show(f"Edits of budgets, median / longest, while {EVENTS_PER_S} events/s flow {load()}", rows)


if __name__ == "__main__":
    main()
