"""Housekeeping between the meter's commits."""

from __future__ import annotations

from pathlib import Path

from meterhouse.api.clock import now_us
from meterhouse.api.housekeeping import DELTAS_EVERY_US, Housekeeping
from meterhouse.api.metrics import Metrics
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.ingest.topics import DAY_US, embedded
from meterhouse.streams.ledger import Position
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.retention import RetentionReport
from tests.ledger_units import HOUR_US, START_US, Shape, unit

COMMITS = 4  # files that are enough for a merge of a month that is over


class Clock:
    def __init__(self) -> None:
        self.now_us = START_US + 40 * DAY_US

    def __call__(self) -> int:
        return self.now_us


def files_of(lake: Lake, table: str) -> int:
    with lake.read() as cursor:
        [(count,)] = cursor.execute("SELECT count(*) FROM ducklake_list_files('lake', ?)", [table]).fetchall()
        return int(count)


def test_deltas_are_merged_every_few_seconds_and_charges_in_a_round(tmp_path: Path) -> None:
    clock, metrics = Clock(), Metrics()
    log = SqliteLog(tmp_path / "log.sqlite", clock=clock)
    log.create_topics(embedded(partitions=1, retention_us=DAY_US))
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data")) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        keeping = Housekeeping(
            every_s=60, lake=lake, ledger=ledger, log=log, clock=clock, held=lambda _: (), watch=metrics.maintenance
        )
        before = Position()
        for _ in range(COMMITS):
            done = unit(Shape(seed=before.next_offset, span_us=HOUR_US), before)
            ledger.commit(done)
            before = done.after[0]
            keeping.between_commits()
        assert (files_of(lake, "rollup_day"), files_of(lake, "charges")) == (COMMITS, COMMITS)
        clock.now_us += DELTAS_EVERY_US
        keeping.between_commits()
        assert (files_of(lake, "rollup_day"), files_of(lake, "charges")) == (1, COMMITS)
        clock.now_us += 60_000_000
        keeping.between_commits()
        assert (files_of(lake, "rollup_day"), files_of(lake, "charges")) == (1, 1)
        clock.now_us = now_us() + 2 * HOUR_US  # the lake's snapshots have the machine's time
        keeping.between_commits()
        clock.now_us += 2 * HOUR_US
        keeping.between_commits()
        value = metrics.registry.get_sample_value
        merged = value("meterhouse_maintenance_merged_files_total") or 0
        assert merged > 0
        assert value("meterhouse_maintenance_deleted_files_total") == merged
        assert (value("meterhouse_maintenance_deleted_bytes_total") or 0) > 1_000 * merged  # Parquet's own words alone
        assert (value("meterhouse_maintenance_expired_snapshots_total") or 0) > COMMITS
        assert value("meterhouse_maintenance_runs_total", {"outcome": "done"}) == 3
        ledger.close()
    log.close()


def test_retention_is_looked_at_once_an_hour_and_told(tmp_path: Path) -> None:
    clock, metrics, asked = Clock(), Metrics(), list[int]()

    def retain(now_us: int) -> RetentionReport:
        asked.append(now_us)
        return RetentionReport({"charges": 7})

    log = SqliteLog(tmp_path / "log.sqlite", clock=clock)
    log.create_topics(embedded(partitions=1, retention_us=DAY_US))
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data")) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        keeping = Housekeeping(
            every_s=60, lake=lake, ledger=ledger, log=log, clock=clock, held=lambda _: (), watch=metrics.maintenance,
            retain=retain,
        )  # fmt: skip
        for _ in range(100):
            clock.now_us += 60_000_000
            keeping.between_commits()
        ledger.close()
    log.close()
    assert len(asked) == 2
    assert asked[1] - asked[0] == HOUR_US
    value = metrics.registry.get_sample_value
    assert value("meterhouse_retention_removed_rows_total", {"table": "charges"}) == 14
    assert (value("meterhouse_maintenance_success_timestamp_seconds") or 0) > 0
