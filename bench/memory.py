"""Memory and start of `work` with ten million ids in its dedupe window: a lake of that many charges, then the real
command as a process of its own, metering new events on top of it.

`python -m bench.memory`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.chain import fill
from bench.report import Row, show
from bench.workload import MODELS, TENANTS, Workload, records
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.batch import KEY
from meterhouse.ingest.decode import Decoder
from meterhouse.streams.control import EMPTY
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import Position
from meterhouse.streams.pipeline import process
from meterhouse.streams.rate_card import compile_rates
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.lake_ledger import LakeLedger

IDS = 10_000_000
UNIT = 500_000
NEW_EVENTS = 300_000
GOAL_MIB = 1024


def control_text() -> str:
    prices = 'per_million: {input: "2.5", cache_read: "0.25", cache_write: "3", output: "10", reasoning: "10"}'
    lines = ["currency: USD", "tenants:", *(f"  - {{id: {name}, name: {name}}}" for name in TENANTS), "rate_card:"]
    for provider, model in MODELS:
        lines.append(f"  - {{provider: {provider}, model: {model}, valid_from: 2026-01-01T00:00:00Z, {prices}}}")
    return "\n".join(lines)


def fill_lake(house: House) -> None:
    """Commits IDS charges with random keys that arrived within the last hour."""
    run = records(Workload(events=UNIT, start_us=now_us() - 3_600_000_000))
    unit = process(
        [run], Decoder().decode([run], tenants=None), {0: Position()}, {0: DedupeIndex()}, compile_rates(EMPTY)
    )
    ledger, rng = LakeLedger(house.lake), np.random.default_rng(1)
    partitions = house.settings.partitions
    ledger.seed(partitions)
    charges = unit.charges
    for number in range(IDS // len(charges)):
        partition = number % partitions
        keys = pa.Array.from_buffers(KEY, len(charges), [None, pa.py_buffer(rng.bytes(16 * len(charges)))])
        places = pa.array(np.full(len(charges), partition, np.int32))
        changed = charges.set_column(charges.schema.get_field_index("key"), charges.schema.field("key"), keys)
        changed = changed.set_column(
            charges.schema.get_field_index("partition"), charges.schema.field("partition"), places
        )
        stored = ledger.positions()[partition]
        after = replace(unit.after[0], next_offset=stored.next_offset)
        ledger.commit(replace(unit, charges=changed, before={partition: stored}, after={partition: after}))
    ledger.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home")  # type: ignore[call-arg]
        with House(settings, writer=True) as house:
            made = plan(parse(control_text()), house.control.snapshot(), now_us())
            house.control.apply(made, now_us())
            fill_lake(house)
            fill(house, NEW_EVENTS, 100)
        command = [sys.executable, "-m", "meterhouse", "--home", str(settings.home), "work", "--until-idle"]
        began = time.perf_counter()
        subprocess.run(command, check=True, env=os.environ | {"METERHOUSE_MAX_AHEAD_S": "3600"})
        took_s = time.perf_counter() - began
        peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    show(
        f"`work` with {IDS:,} ids in its window, {NEW_EVENTS:,} new events",
        [
            Row("peak resident memory", f"{peak_mib:,.0f} MiB", goal=f"≤ {GOAL_MIB:,} MiB"),
            Row("from start to idle", f"{took_s:.1f} s"),
        ],
    )


if __name__ == "__main__":
    main()
