"""The lake on a PostgreSQL catalogue: many writers, one fence, and a catalogue that goes and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from meterhouse.streams.ledger import Fenced, LedgerUnavailable
from meterhouse.warehouse.lake import Lake, LakeConfig, LakeUnavailable
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_turns import Passage, turn
from meterhouse.warehouse.maintenance import MaintenanceReport, MaintenanceSettings, maintain
from tests.ledger_units import DAY_US, START_US, Shape, unit
from tests.services.postgres import Postgres, own_postgres
from tests.warehouse.test_lake_trouble import interrupted


def test_two_lakes_write_and_of_one_partition_only_the_first_commits(postgres: Postgres, tmp_path: Path) -> None:
    config = LakeConfig(postgres.new_database(), tmp_path, threads=1)
    with Lake.open(config) as first, Lake.open(config) as second:
        one, other = LakeLedger(first), LakeLedger(second)
        one.seed(2)
        one.commit(unit(Shape()))
        other.commit(unit(Shape(partition=1)))
        with pytest.raises(Fenced):
            other.commit(unit(Shape()))
        assert [one.positions()[p].next_offset for p in range(2)] == [25, 25]
        with first.read() as cursor:
            assert cursor.execute("SELECT count(*) FROM charges").fetchone() == (40,)


def test_a_catalogue_that_is_down_is_told_without_its_password_and_its_return_is_enough(tmp_path: Path) -> None:
    with own_postgres() as server, Lake.open(LakeConfig(server.url("lake"), tmp_path, threads=1)) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        server.kill()
        with pytest.raises(LedgerUnavailable) as told:
            ledger.commit(unit(Shape()))
        assert "not-a-secret" not in str(told.value)
        server.start()
        ledger.commit(unit(Shape()))
        assert ledger.positions()[0].next_offset == 25


def test_whatever_is_asked_while_the_catalogue_is_down_is_unavailable_and_comes_back_by_itself(tmp_path: Path) -> None:
    with own_postgres() as server, Lake.open(LakeConfig(server.url("lake"), tmp_path, threads=1)) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(2)
        ledger.commit(unit(Shape()))
        made = unit(Shape(), ledger.positions()[0])
        calls: list[Callable[[], object]] = [
            lambda: ledger.commit(made),
            ledger.positions,
            lambda: ledger.seed(4),
            lambda: list(ledger.accepted_keys(0, 0)),
            lambda: ledger.spend([START_US, START_US + DAY_US]),
        ]
        for strike in (server.kill, server.stop):
            strike()
            for call in calls:
                with pytest.raises(LedgerUnavailable) as told:
                    call()
                assert "not-a-secret" not in str(told.value)
                assert told.value.__cause__ is None
            with pytest.raises(LakeUnavailable, match="try again"), lake.read():
                pass
            assert maintain(lake, START_US).trouble
            server.start()
            for call in calls[1:]:
                call()
        server.restart()
        ledger.commit(made)
        assert ledger.positions()[0] == made.after[0]


def test_a_catalogue_that_goes_between_update_and_commit_leaves_the_unit_to_be_tried_again(tmp_path: Path) -> None:
    """Whether PostgreSQL took a COMMIT without an answer is not known at once: the files stay until they are old."""
    with own_postgres() as server, Lake.open(LakeConfig(server.url("lake"), tmp_path, threads=1)) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        made = unit(Shape())
        with pytest.raises(LedgerUnavailable):
            interrupted(ledger, before=server.restart).commit(made)
        kept = set(tmp_path.rglob("*.parquet"))
        assert kept
        ledger.commit(made)
        assert ledger.positions()[0] == made.after[0]
        assert kept < set(tmp_path.rglob("*.parquet"))


def test_a_duckdb_that_broke_down_is_replaced(postgres: Postgres, tmp_path: Path) -> None:
    with Lake.open(LakeConfig(postgres.new_database(), tmp_path, threads=1)) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        ledger._cursor = Broken()  # type: ignore[assignment]
        with pytest.raises(LedgerUnavailable, match="invalidated"):
            ledger.positions()
        ledger.commit(unit(Shape()))
        lake._connection = Broken()  # type: ignore[assignment]
        with lake.read() as cursor:
            assert cursor.execute("SELECT count(*) FROM charges").fetchone() == (20,)


class Broken:
    """A DuckDB after an assertion of its own failed."""

    def cursor(self) -> Broken:
        return self

    def execute(self, *_: object) -> None:
        raise duckdb.FatalException("database has been invalidated because of a previous fatal error")


def test_commits_and_maintenance_of_two_meters_lose_nothing_and_fence_nobody(
    postgres: Postgres, tmp_path: Path
) -> None:
    config = LakeConfig(postgres.new_database(), tmp_path, threads=1)
    settings = MaintenanceSettings(merge_files=3, merge_files_closed=3, keep_all_us=1, delete_after_us=1)
    with Lake.open(config) as first, Lake.open(config) as second, ThreadPoolExecutor(2) as pool:
        LakeLedger(first).seed(2)

        def meter(lake: Lake, partition: int) -> list[MaintenanceReport]:
            ledger, reports = LakeLedger(lake), []
            for seed in range(12):
                made = unit(Shape(partition=partition, seed=2 * seed + partition), ledger.positions()[partition])
                for _ in range(20):  # a conflict is tried again, as the meter does
                    with suppress(LedgerUnavailable):
                        ledger.commit(made)
                        break
                reports.append(maintain(lake, time.time_ns() // 1000, settings))
            return reports

        running = [pool.submit(meter, lake, partition) for partition, lake in enumerate((first, second))]
        reports = [report for future in running for report in future.result()]
        assert [position.next_offset for position in LakeLedger(first).positions().values()] == [300, 300]
        assert sum(report.merged_into for report in reports) > 0
        assert sum(report.deleted_files for report in reports) > 0
        with first.read() as cursor:
            assert cursor.execute("SELECT count(*), count(DISTINCT key) FROM charges").fetchone() == (480, 480)
            assert cursor.execute("SELECT sum(requests) FROM rollup_day").fetchone() == (480,)


def test_one_process_at_a_time_does_maintenance(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    with Lake.open(LakeConfig(url, tmp_path, threads=1)) as lake:
        with turn(url, "maintenance") as ours:
            assert ours
            assert maintain(lake, time.time_ns() // 1000).elsewhere
        assert not maintain(lake, time.time_ns() // 1000).elsewhere


def test_a_merge_that_conflicts_with_a_commit_gives_way(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the passage, as when its holder is paused for too long: DuckLake's own conflict keeps the books."""
    config = LakeConfig(postgres.new_database(), tmp_path, threads=1)
    settings = MaintenanceSettings(merge_files=3, merge_files_closed=3)
    with Lake.open(config) as first, Lake.open(config) as second:
        ledger, other = LakeLedger(first), LakeLedger(second)
        ledger.seed(2)
        for seed in range(3):
            ledger.commit(unit(Shape(seed=seed), ledger.positions()[0]))
        monkeypatch.setattr(Passage, "_ask", lambda *_: False)
        made = unit(Shape(partition=1, seed=9))

        def merge() -> None:
            assert maintain(first, time.time_ns() // 1000, settings).merged_into > 0

        with pytest.raises(LedgerUnavailable, match="conflict"):  # to be tried again: nobody else has the partition
            interrupted(other, before=merge).commit(made)
        other.commit(made)
        with first.read() as cursor:
            assert cursor.execute("SELECT count(*), count(DISTINCT key) FROM charges").fetchone() == (80, 80)


def test_lakes_that_open_and_seed_at_once_make_their_tables_once(postgres: Postgres, tmp_path: Path) -> None:
    config = LakeConfig(postgres.new_database(), tmp_path, threads=1)

    def open_and_seed(partitions: int) -> int:
        with Lake.open(config) as lake:
            return LakeLedger(lake).seed(partitions)

    with ThreadPoolExecutor(3) as pool:
        assert max(pool.map(open_and_seed, (2, 4, 3))) == 4
    with Lake.open(config) as lake:
        assert set(LakeLedger(lake).positions()) == set(range(4))
