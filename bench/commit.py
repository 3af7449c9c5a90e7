"""A commit to the lake on one core, beside the same charges written to plain Parquet; bytes an event takes.

`python -m bench.commit`. The limit is the faster of Arrow's and DuckDB's Parquet writer (zstd level 1), with neither
catalogue nor roll-ups nor fence.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bench.chain import control
from bench.report import Row, show
from bench.workload import Workload, records
from meterhouse.ingest.decode import Decoder
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import Position, Processed
from meterhouse.streams.pipeline import process
from meterhouse.streams.rate_card import compile_rates
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import CHARGES
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain

EVENTS = 100_000
SMALL = 1_000
TIMES = 9
GOAL_BYTES = 32


@dataclass(frozen=True)
class Took:
    """Seconds: the best by the processor, the median by the clock."""

    cpu_s: float
    wall_s: float


def took(call: Callable[[], object]) -> Took:
    cpus, walls = [], []
    for _ in range(TIMES):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        cpus.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    return Took(min(cpus), sorted(walls)[TIMES // 2])


def unit_of(events: int) -> Processed:
    """What the pipeline makes of `events` of the bench's workload."""
    run = records(Workload(events=events))
    decoded = Decoder().decode([run], tenants=None)
    return process([run], decoded, {0: Position()}, {0: DedupeIndex()}, compile_rates(control()))


class Commits:
    """Commits the same rows again and again, each time from where the partition stands."""

    def __init__(self, ledger: LakeLedger, unit: Processed) -> None:
        self._ledger, self._unit = ledger, unit
        self._position = ledger.positions()[0]

    def __call__(self) -> None:
        after = replace(self._position, next_offset=self._position.next_offset + 1)
        self._ledger.commit(replace(self._unit, before={0: self._position}, after={0: after}))
        self._position = after


def plain_writers(charges: pa.Table, path: Path) -> dict[str, Callable[[], object]]:
    """The same rows as plain Parquet."""
    names = [field.name for field in charges.schema if pa.types.is_dictionary(field.type)]
    connection = duckdb.connect(config={"threads": 1})
    connection.register("charges", charges)
    copy = f"COPY charges TO '{path}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION v2)"
    return {
        "plain Parquet by Arrow": lambda: pq.write_table(
            charges,
            path,
            compression="zstd",
            compression_level=1,
            use_dictionary=names,  # type: ignore[arg-type]  # the stubs know no list
        ),
        "plain Parquet by DuckDB": lambda: connection.execute(copy),
    }


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    unit, small = unit_of(EVENTS), unit_of(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        plain = {name: took(call) for name, call in plain_writers(unit.charges, Path(folder) / "plain.parquet").items()}
        config = LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")
        with Lake.open(config) as lake:
            ledger = LakeLedger(lake)
            ledger.seed(1)
            whole = took(Commits(ledger, unit))
            rows = TIMES * len(unit.charges)
            charge_bytes = size_bytes(Path(config.folder_of(CHARGES))) / rows
            all_bytes = size_bytes(config.data) / rows
            little = took(Commits(ledger, small))
            upkeep = maintain(lake, time.time_ns() // 1000, MaintenanceSettings(merge_files=TIMES))
    limit = min(each.cpu_s for each in plain.values())
    show(
        f"Commits on one core, {EVENTS:,} events unless said, best of {TIMES} by the processor",
        [
            *(Row(name, f"{EVENTS / each.cpu_s / 1e3:,.0f} k/s") for name, each in plain.items()),
            Row(
                "commit: charges, roll-ups, histograms, position",
                f"{EVENTS / whole.cpu_s / 1e3:,.0f} k/s, {whole.wall_s * 1e3:,.0f} ms by the clock",
                f"{EVENTS / limit / 1e3:,.0f} k/s",
                f"{limit / whole.cpu_s:.0%}",
            ),
            Row(
                f"commit of {SMALL:,} events",
                f"{little.cpu_s * 1e3:,.0f} ms, {little.wall_s * 1e3:,.0f} ms by the clock",
            ),
            Row("bytes an event, charges", f"{charge_bytes:.1f}", "16 are the key", "", f"≤ {GOAL_BYTES}"),
            Row("bytes an event, with roll-ups before they are merged", f"{all_bytes:.1f}"),
            Row(
                f"maintenance after {2 * TIMES} commits",
                f"{upkeep.duration_us / 1e3:,.0f} ms: {upkeep.merged_files} files → {upkeep.merged_into},"
                f" {upkeep.rows_before:,} rows → {upkeep.rows_after:,}",
            ),
        ],
    )


if __name__ == "__main__":
    main()
