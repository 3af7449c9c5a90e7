"""One meter as a process, as `bench.kafka` starts it: reads `usage.events` until all of it is committed, and prints
what it took as a line of JSON.

`python -m bench.kafka_meter BOOTSTRAP CATALOGUE DATA CORE GROUP`
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa

from bench.chain import control
from meterhouse.api.clock import now_us
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.topics import budget_topics
from meterhouse.streams import meter as meter_module
from meterhouse.streams import meter_buffer
from meterhouse.streams.ledger import Processed
from meterhouse.streams.meter import Meter
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain


class Profile:
    """CPU seconds by stage: of the thread that runs it, so that the stages of two threads add up."""

    def __init__(self) -> None:
        self.cpu_s: Counter[str] = Counter()

    def of(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.cpu_s[stage] += time.thread_time() - start

        return timed

    def watch(self, meter: Meter, ledger: TimedLedger) -> None:
        """Puts a clock around the stages of a meter: for a bench, so from outside."""
        meter._consumer.poll = self.of("poll", meter._consumer.poll)  # type: ignore[method-assign]
        meter._decoder.decode = self.of("decode", meter._decoder.decode)  # type: ignore[method-assign]
        meter_module.process_run = self.of("dedupe, rate, roll up", meter_module.process_run)
        meter_buffer.merge_all = self.of("merge", meter_buffer.merge_all)
        ledger.commit = self.of("commit", ledger.commit)  # type: ignore[method-assign]


class TimedLedger(LakeLedger):
    """Notes how long each commit took by the clock."""

    def __init__(self, lake: Lake) -> None:
        super().__init__(lake)
        self.took_s: list[float] = []

    def commit(self, unit: Processed) -> int:
        start = time.perf_counter()
        snapshot = super().commit(unit)
        self.took_s.append(time.perf_counter() - start)
        return snapshot


def lake_figures(lake: Lake) -> dict[str, object]:
    """Files and bytes as the commits left them, and after maintenance."""

    def look() -> tuple[int, int]:
        cursor = lake.cursor()
        tables = [name for (name,) in cursor.execute("SELECT table_name FROM ducklake_table_info('lake')").fetchall()]
        files = [
            size
            for name in tables
            for (size,) in cursor.execute(
                f"SELECT data_file_size_bytes FROM ducklake_list_files('lake', '{name}')"
            ).fetchall()
        ]
        return len(files), sum(files)

    before = look()
    maintain(lake, now_us(), MaintenanceSettings(merge_files=2))
    return {"files": before, "files_after": look()}


def main() -> None:
    bootstrap, catalogue, data, core, group = sys.argv[1:6]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    pa.set_memory_pool(pa.system_memory_pool())
    snapshot = control()
    log = KafkaLog(bootstrap, group=group)
    log.create_topics(budget_topics(partitions=1))
    place = catalogue if "://" in catalogue else Path(catalogue)
    lake = Lake.open(LakeConfig(place, Path(data), threads=1))
    ledger = TimedLedger(lake)
    meter = Meter(log=log, ledger=ledger, snapshots=lambda: snapshot, clock=now_us)
    profile = Profile()
    profile.watch(meter, ledger)
    began_at, start_cpu, start_main, start = time.time(), time.process_time(), time.thread_time(), time.perf_counter()
    meter.run(Event(), until_idle=True)
    cpu_s, main_s = time.process_time() - start_cpu, time.thread_time() - start_main
    stages = profile.cpu_s
    of_main = stages["poll"] + stages["decode"] + stages["dedupe, rate, roll up"]
    # What is on no thread of ours is the client library's.
    stages["poll"] += max(cpu_s - main_s - stages["merge"] - stages["commit"], 0.0)
    stages["the rest"] = max(main_s - of_main, 0.0)
    took = {
        "committed": meter.committed,
        "cpu_s": cpu_s,
        "wall_s": time.perf_counter() - start,
        "began_at": began_at,
        "ended_at": time.time(),
        "commits_s": ledger.took_s,
        "stages_s": stages,
    }
    meter.close()
    log.close()
    if "://" not in catalogue:
        took |= lake_figures(lake)
    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
