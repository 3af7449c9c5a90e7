"""Maintenance: fewer files, fewer rows, the same books."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.streams.ledger import Fenced
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_files import files_of
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import ADD_FILES, CHARGES, COMMITTED, columns_sql, delta_sum_sql
from meterhouse.warehouse.maintenance import (
    DataFile,
    MaintenanceReport,
    MaintenanceSettings,
    due_merges,
    expirable,
    folder_end_us,
    maintain,
    merge_deltas,
    within,
)
from tests.ledger_units import DAY_US, HOUR_US, START_US, Shape, unit

SETTINGS = MaintenanceSettings(merge_files=3, merge_files_closed=3)
MIB = 1 << 20


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data")) as lake:
        yield lake


@pytest.fixture
def ledger(lake: Lake) -> LakeLedger:
    ledger = LakeLedger(lake)
    ledger.seed(2)
    return ledger


def test_merging_leaves_fewer_files_and_rows_and_the_same_books(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 4)
    books, before = the_books(lake), files(lake)
    report = maintain(lake, now_us(), SETTINGS)
    assert report.trouble == ()
    assert the_books(lake) == books
    assert {name: len(paths) for name, paths in files(lake).items()} == dict.fromkeys(before, 1)
    assert report.merged_files == sum(map(len, before.values())) == 4 * len(before)
    assert report.merged_into == len(before) == len(COMMITTED)
    assert report.rows_after < report.rows_before
    assert report.duration_us > 0
    with lake.read() as cursor:  # one row per key is left of the deltas
        for table in COMMITTED:
            if table.keys:
                keys = columns_sql(table.keys)
                assert (
                    cursor.execute(f"SELECT 1 FROM {table.name} GROUP BY {keys} HAVING count(*) > 1").fetchall() == []
                )


def test_deltas_alone_are_merged_when_there_are_a_few_files_of_them(lake: Lake, ledger: LakeLedger) -> None:
    settings = replace(SETTINGS, merge_files_closed=5)
    commit(ledger, 4)
    assert merge_deltas(lake, now_us(), settings) == MaintenanceReport()
    commit(ledger, 1)
    books = the_books(lake)
    report = merge_deltas(lake, now_us(), settings)
    assert report.trouble == ()
    assert the_books(lake) == books
    deltas = {table.name for table in COMMITTED if table.keys}
    assert {name: len(paths) for name, paths in files(lake).items()} == {
        table.name: 1 if table.name in deltas else 5 for table in COMMITTED
    }
    assert report.merged_files == 5 * len(deltas)


def test_days_and_months_are_merged_apart(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 3, start_us=START_US + 29 * DAY_US, span_us=3 * DAY_US)
    books = the_books(lake)
    maintain(lake, now_us(), SETTINGS)
    assert the_books(lake) == books
    assert {path.parent.name for path in files(lake)["rollup_day"]} == {"month=1", "month=2"}
    for path in files(lake)["charges"]:
        day = "-".join(part.partition("=")[2].zfill(2) for part in path.parent.parts[-3:])
        with lake.read() as cursor:
            sql = "SELECT DISTINCT strftime(time, '%Y-%m-%d') FROM charges WHERE filename = ?"
            assert cursor.execute(sql, [str(path)]).fetchall() == [(day,)]


def test_a_second_run_finds_nothing_to_do(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 3)
    maintain(lake, now_us(), SETTINGS)
    assert replace(maintain(lake, now_us(), SETTINGS), duration_us=0) == MaintenanceReport()


def test_a_reader_sees_its_snapshot_while_files_are_merged(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 3)
    books = the_books(lake)
    with Lake.open(lake.config, read_only=True) as elsewhere, elsewhere.read() as other, lake.read() as same:
        commit(ledger, 3)
        assert maintain(lake, now_us(), SETTINGS).merged_into > 0
        assert books_of(same) == books
        assert books_of(other) == books
    assert the_books(lake) != books


def test_commits_go_on_after_maintenance_and_the_fence_holds(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 3)
    maintain(lake, now_us() + DAY_US, SETTINGS)
    with pytest.raises(Fenced):
        ledger.commit(unit(Shape()))
    commit(ledger, 1)
    assert ledger.positions()[0].next_offset == 4 * 25
    with lake.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM charges").fetchall() == [(80,)]


def test_old_snapshots_and_their_files_go_and_the_books_stay(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 4)
    maintain(lake, now_us(), SETTINGS)
    books, live = the_books(lake), sum(map(len, files(lake).values()))
    assert len(parquet(lake)) == 5 * live
    expiry = maintain(lake, now_us() + HOUR_US // 2, SETTINGS)
    assert expiry.expired_snapshots > 0
    assert expiry.deleted_files == 0  # a scan may still read them
    assert expiry.dropped_positions == 4
    sizes = {path: path.stat().st_size for path in parquet(lake)}
    deletion = maintain(lake, now_us() + 2 * HOUR_US, SETTINGS)
    assert deletion.deleted_files == 4 * live
    assert deletion.deleted_bytes == sum(size for path, size in sizes.items() if not path.exists())
    assert len(parquet(lake)) == live
    assert the_books(lake) == books
    assert ledger.positions()[0].next_offset == 100


def test_a_killed_writers_file_is_removed_when_it_is_old(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 1)
    books = the_books(lake)
    orphans = [Path(path) for path in written(lake)]
    assert maintain(lake, now_us(), SETTINGS).orphans == 0
    os.utime(orphans[0], times=(time.time() - 2 * 86_400,) * 2)
    assert maintain(lake, now_us(), SETTINGS).orphans == 1
    assert not orphans[0].exists()
    assert the_books(lake) == books


@pytest.mark.parametrize("sweeps_anything", [False, True])
def test_the_file_of_an_open_writer_is_left_alone(lake: Lake, ledger: LakeLedger, sweeps_anything: bool) -> None:
    """With `sweeps_anything` the sweep has no age limit: what it then takes shows that the limit saves the file."""
    commit(ledger, 1)
    writer = lake.cursor()
    writer.execute("BEGIN TRANSACTION")
    writer.execute(ADD_FILES, [CHARGES.name, written(lake)])
    settings = replace(SETTINGS, orphan_after_us=-DAY_US) if sweeps_anything else SETTINGS
    report = maintain(lake, now_us(), settings)
    writer.execute("COMMIT")
    with lake.read() as cursor:
        if sweeps_anything:
            assert report.orphans == 1
            with pytest.raises(duckdb.IOException):
                cursor.execute("SELECT sum(cost_pico) FROM charges").fetchall()
        else:
            assert report.orphans == 0
            assert cursor.execute("SELECT count(*), count(key) FROM charges").fetchall() == [(40, 40)]


def test_maintenance_waits_for_a_commit_in_progress(lake: Lake, ledger: LakeLedger) -> None:
    with ThreadPoolExecutor(1) as pool:
        with lake.writing:
            waiting = pool.submit(maintain, lake, now_us(), SETTINGS)
            with pytest.raises(NotYet):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=60).trouble == ()


def test_a_locked_catalogue_is_told_and_left_for_the_next_run(lake: Lake, ledger: LakeLedger) -> None:
    commit(ledger, 3)
    books = the_books(lake)
    other = duckdb.connect()
    other.execute(f"LOAD '{sqlite_extension()}'")
    other.execute(f"ATTACH '{lake.config.catalogue}' AS catalogue (TYPE sqlite)")
    other.execute("BEGIN TRANSACTION")
    other.execute("CREATE TABLE catalogue.in_the_way (i INTEGER)")  # holds SQLite's write lock
    try:
        report = maintain(lake, now_us(), SETTINGS)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert report.trouble
    assert "merge: " in report.trouble[0]
    assert "locked" in report.trouble[0]
    assert the_books(lake) == books
    assert maintain(lake, now_us(), SETTINGS).trouble == ()
    assert the_books(lake) == books


def test_a_merge_that_would_change_a_sum_is_not_kept(
    lake: Lake, ledger: LakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(ledger, 3)
    books = the_books(lake)
    loses_a_row = "SELECT * FROM charges WHERE filename IN ? LIMIT 59"
    monkeypatch.setattr("meterhouse.warehouse.maintenance._merged_sql", lambda table: loses_a_row)
    with pytest.raises(AssertionError, match="merging 3 files of charges changed its sums"):
        maintain(lake, now_us(), SETTINGS)
    assert the_books(lake) == books
    assert len(parquet(lake)) == sum(map(len, files(lake).values()))


# -- the decisions ---------------------------------------------------------------------------------------------------


def test_files_are_merged_with_others_of_their_folder_and_size() -> None:
    january, february = "rollup_day/year=2026/month=1", "rollup_day/year=2026/month=2"
    small = [DataFile(f"{january}/{i}.parquet", 1000 + i) for i in range(3)]
    middling = [DataFile(f"{january}/m{i}.parquet", 2 * MIB) for i in range(3)]
    large = [DataFile(f"{january}/l{i}.parquet", 40 * MIB) for i in range(9)]
    elsewhere = [DataFile(f"{february}/{i}.parquet", 1000) for i in range(2)]
    assert due_merges([*large, *small, *middling, *elsewhere], START_US, SETTINGS) == [small, middling]


def test_a_month_that_is_over_needs_fewer_files_to_be_merged() -> None:
    settings = MaintenanceSettings(merge_files=9, merge_files_closed=2)
    group = [DataFile(f"rollup_day/year=2025/month=12/{i}.parquet", 1000) for i in range(2)]
    assert due_merges(group, START_US, settings) == []
    assert due_merges(group, START_US + DAY_US, settings) == [group]


def test_a_run_rewrites_a_bounded_number_of_bytes() -> None:
    group = [DataFile(f"{i}.parquet", size) for i, size in enumerate((5, 1, 9, 2))]
    assert [file.size_bytes for file in within(group, 8)] == [1, 2, 5]
    assert within(group, 0) == []


@pytest.mark.parametrize(
    ("folder", "end"),
    [
        ("year=2025/month=12", START_US),
        ("year=2025/month=12/day=31", START_US),
        ("year=2026/month=1/day=1", START_US + DAY_US),
    ],
)
def test_a_folder_says_when_its_period_ends(folder: str, end: int) -> None:
    assert folder_end_us(f"s3://bucket/data/main/charges/{folder}") == end


@given(
    gaps_us=st.lists(st.integers(1, DAY_US), min_size=1, max_size=40),
    now_after_us=st.integers(0, 12 * DAY_US),
)
def test_of_old_snapshots_the_last_of_each_day_stays(gaps_us: list[int], now_after_us: int) -> None:
    settings = MaintenanceSettings()
    snapshots = [(i, START_US + sum(gaps_us[: i + 1])) for i in range(len(gaps_us))]
    now = snapshots[-1][1] + now_after_us
    gone = set(expirable(snapshots, now, settings))
    kept = [(id_, at) for id_, at in snapshots if id_ not in gone]
    assert kept[-1] == snapshots[-1]
    assert {id_ for id_, at in snapshots if at > now - settings.keep_all_us} <= {id_ for id_, _ in kept}
    recent_days = {at // DAY_US for _, at in snapshots if at > now - settings.keep_daily_us}
    assert recent_days <= {at // DAY_US for _, at in kept}
    old = [at for id_, at in kept[:-1] if at <= now - settings.keep_all_us]
    assert len({at // DAY_US for at in old}) == len(old)
    assert all(at > now - settings.keep_daily_us for at in old)


# -- what the lake holds ---------------------------------------------------------------------------------------------


def commit(ledger: LakeLedger, units: int, *, start_us: int = START_US + HOUR_US, span_us: int = HOUR_US) -> None:
    for _ in range(units):
        before = ledger.positions()[0]
        shape = Shape(seed=before.next_offset, span_us=span_us, start_us=start_us)
        ledger.commit(unit(shape, before))


def written(lake: Lake) -> list[str]:
    """Files of charges that no catalogue knows of."""
    files = files_of(CHARGES, unit(Shape(seed=9)).charges, lake.config.folder_of(CHARGES))
    lake.store.write(files)
    return [file.path for file in files]


def the_books(lake: Lake) -> list[object]:
    with lake.read() as cursor:
        return books_of(cursor)


def books_of(cursor: duckdb.DuckDBPyConnection) -> list[object]:
    """Every row of every table, deltas added up, and the positions."""
    books: list[object] = []
    for table in COMMITTED:
        sql = delta_sum_sql(table, table.name) if table.keys else f"FROM {table.name}"
        books.append(sorted(cursor.execute(sql).to_arrow_table().to_pylist(), key=repr))
    books.append(cursor.execute("FROM positions ORDER BY 1").fetchall())
    return books


def files(lake: Lake) -> dict[str, list[Path]]:
    """The live files of each table."""
    with lake.read() as cursor:
        return {
            table.name: [
                Path(path)
                for (path,) in cursor.execute(
                    "SELECT data_file FROM ducklake_list_files('lake', ?)", [table.name]
                ).fetchall()
            ]
            for table in COMMITTED
        }


def parquet(lake: Lake) -> list[Path]:
    return list(lake.config.data.rglob("*.parquet"))


def now_us() -> int:
    """The clock that DuckLake's snapshots have."""
    return time.time_ns() // 1000


def sqlite_extension() -> str:
    import duckdb_extension_sqlite_scanner

    (path,) = Path(duckdb_extension_sqlite_scanner.__file__).parent.rglob("sqlite_scanner.duckdb_extension")
    return str(path)
