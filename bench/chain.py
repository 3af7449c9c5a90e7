"""The whole embedded chain: events from the SQLite log to the committed lake, on one core, with budgets counted.

Beside it, measured in the same run on the same core: each unavoidable stage alone. The slowest of them is the limit
that no chain can beat.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from threading import Event

from bench.report import Row, show
from bench.workload import APPLICATIONS, MODELS, TENANTS, Workload, records
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.log import USAGE_EVENTS, Message, Records
from meterhouse.streams.control import Budget, RateCard, Scope, Snapshot, Tenant, WindowSpec
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import Position, Processed
from meterhouse.streams.pipeline import merge_all, process
from meterhouse.streams.rate_card import compile_rates
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger

GOAL_PER_S = 300_000
GOAL_SHARE = 0.45
STAGE_EVENTS = 200_000


@dataclass(frozen=True)
class Run:
    events: int
    wall_s: float
    cpu_s: float

    @property
    def per_core(self) -> float:
        return self.events / self.cpu_s


def control() -> Snapshot:
    """What the workload needs: its tenants and models priced, three budgets a tenant."""
    kinds = {"input": 2_500_000, "cache_read": 250_000, "cache_write": 3_125_000, "output": 10**7, "reasoning": 10**7}
    cards = tuple(RateCard(i, provider, model, None, 0, None, kinds) for i, (provider, model) in enumerate(MODELS))
    budgets = tuple(
        Budget(
            f"{tenant}-{every}-{application}", Scope(tenant=tenant, application=application), WindowSpec(every, "UTC"),
            10**18, None, (Decimal(100),), "notify",
        )
        for tenant in TENANTS
        for every, application in (("day", None), ("month", None), ("month", APPLICATIONS[0]))
    )  # fmt: skip
    tenants = tuple(Tenant(name, name) for name in TENANTS)
    return Snapshot(1, "USD", tenants, cards, budgets)


def fill(house: House, events: int, per_record: int) -> list[Records]:
    """Appends the workload to the log, placed by key, and returns a part of it, a run per partition, for the stages."""
    run = records(Workload(events=events, events_per_record=per_record, start_us=now_us() - 3_600_000_000))
    messages = [
        Message(key, value, headers, appended_us=appended_us)
        for key, value, headers, appended_us in zip(run.keys, run.values, run.headers, run.appended_us, strict=True)
    ]
    step = max(1, 20_000 // per_record)
    for start in range(0, len(messages), step):
        house.log.append(USAGE_EVENTS, messages[start : start + step])
    return list(_read(house, min(len(messages), STAGE_EVENTS // per_record)))


def _read(house: House, limit: int) -> Iterator[Records]:
    """About `limit` records, a run per partition."""
    partitions = house.log.partitions(USAGE_EVENTS)
    for partition in range(partitions):
        if len(found := house.log.read(USAGE_EVENTS, partition, 0, limit // partitions)):
            yield found


def chain(house: House, snapshot: Snapshot, events: int) -> Run:
    """One meter from start to idle."""
    house.control.snapshot = lambda: snapshot  # type: ignore[method-assign]
    meter = house.meter()
    wall, cpu = time.perf_counter(), time.process_time()
    meter.run(Event(), until_idle=True)
    done = Run(events, time.perf_counter() - wall, time.process_time() - cpu)
    assert meter.committed == events, f"{meter.committed} of {events} events were committed"
    meter.close()
    return done


def stages(runs: list[Records], snapshot: Snapshot, folder: Path) -> dict[str, Callable[[], object]]:
    """Stages that nothing can leave out, each as a call over all the events."""
    tenants = frozenset(tenant.id for tenant in snapshot.tenants)
    rates = compile_rates(snapshot)
    decoder = Decoder()
    decoded = [(run, decoder.decode([run], tenants=tenants)) for run in runs]
    lake = Lake.open(LakeConfig(folder / "catalogue.sqlite", folder / "data", threads=1))
    ledger = LakeLedger(lake)
    ledger.seed(1 + max(run.partition for run in runs))

    def processed() -> list[Processed]:
        indexes = {run.partition: DedupeIndex() for run in runs}
        positions = {run.partition: Position() for run in runs}
        units = []
        for run, one in decoded:
            unit = process([run], one, {run.partition: positions[run.partition]}, indexes, rates)
            positions.update(unit.after)
            units.append(unit)
        return units

    whole = [merge_all(processed())]

    def commit() -> None:
        stored = ledger.positions()
        unit = whole[0]
        ledger.commit(
            Processed(
                unit.charges, unit.node_events, unit.minutes, unit.hours, unit.latency, unit.rejects,
                {p: stored[p] for p in unit.before},
                {p: Position(stored[p].next_offset + 1) for p in unit.before},
            )
        )  # fmt: skip

    return {
        "decode": lambda: [decoder.decode([run], tenants=tenants) for run in runs],
        "dedupe, rate, roll up": processed,
        "commit (Parquet and catalogue)": commit,
    }


def measured(call: Callable[[], object], events: int, times: int = 3) -> Run:
    """The best of `times`: what the machine can do when nothing disturbs it."""
    best: Run | None = None
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        run = Run(events, time.perf_counter() - wall, time.process_time() - cpu)
        best = run if best is None or run.cpu_s < best.cpu_s else best
    assert best is not None
    return best


def main(events: int = 1_200_000) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    rows: list[Row] = []
    for per_record in (100, 1):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(home=Path(folder) / "home")  # type: ignore[call-arg]
            with House(settings, writer=True) as house:
                snapshot = control()
                runs = fill(house, events, per_record)
                whole = chain(house, snapshot, events)
            count = sum(len(run) for run in runs) * per_record
            alone = {
                name: measured(call, count) for name, call in stages(runs, snapshot, Path(folder) / "alone").items()
            }
        slowest = min(alone.values(), key=lambda run: run.per_core)
        share = whole.per_core / slowest.per_core
        rows += [Row(f"{name}, {per_record} a record", f"{run.per_core / 1e3:,.0f} k/s") for name, run in alone.items()]
        goal = f"≥ {GOAL_PER_S / 1e3:,.0f} k/s, ≥ {GOAL_SHARE:.0%}" if per_record == 100 else ""
        rows.append(
            Row(
                f"log → committed lake, {per_record} a record",
                f"{whole.per_core / 1e3:,.0f} k/s of CPU, {whole.events / whole.wall_s / 1e3:,.0f} k/s by the clock",
                f"{slowest.per_core / 1e3:,.0f} k/s",
                f"{share:.0%}",
                goal,
            )
        )
    show("The embedded chain on one core", rows)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
