"""A writer killed at any moment leaves whole commits; readers beside a writer see whole commits."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import duckdb
import pytest

from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import COMMITTED
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from tests.ledger_units import DAY_US, Shape, unit
from tests.warehouse.committing import lake_config

KILLS = 10
STATES_SEEN = 4  # by readers, before the writer beside them may stop
MOST_COMMITS = 400  # of that writer: a reader that a busy machine forgets has some 20 s to see them
READ = {
    "charges": "SELECT count(*), count(DISTINCT key) FROM charges",
    "node_events": "SELECT count(*), count(DISTINCT key) FROM node_events",
    "rejects": "SELECT count(*), count(payload) FROM rejects",
    "rollup_minute": "SELECT sum(requests) FROM rollup_minute",
    "rollup_hour": "SELECT sum(requests) FROM rollup_hour",
    "rollup_day": "SELECT sum(requests) FROM rollup_day",
    "positions": "SELECT sum(billed + unpriced + unbilled), sum(informational), sum(rejected) FROM positions",
}


def what_it_holds(cursor: duckdb.DuckDBPyConnection) -> dict[str, tuple[object, ...]]:
    return {name: cursor.execute(sql).fetchall()[0] for name, sql in READ.items()}


def what_it_should_hold(positions: tuple[object, ...]) -> dict[str, tuple[object, ...]]:
    charges, node_events, rejects = positions
    rollups = ("rollup_minute", "rollup_hour", "rollup_day")
    return {
        "charges": (charges or 0, charges or 0),
        "node_events": (node_events or 0, node_events or 0),
        "rejects": (rejects or 0, rejects or 0),
        **dict.fromkeys(rollups, (charges or None,)),
        "positions": positions,
    }


@pytest.mark.crash
def test_a_writer_killed_at_any_moment_leaves_whole_commits(tmp_path: Path) -> None:
    moment = random.Random(5)
    config = lake_config(tmp_path)
    commits = 0
    for _ in range(KILLS):
        command = [sys.executable, "-m", "tests.warehouse.committing", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "committed\n"
            with suppress(subprocess.TimeoutExpired):
                writer.wait(timeout=moment.uniform(0, 0.4))
            writer.kill()
        with Lake.open(config) as lake, lake.read() as cursor:
            holds = what_it_holds(cursor)
            assert holds == what_it_should_hold(holds["positions"])
            charges = int(str(holds["charges"][0]))
            assert charges % 40 == 0
            assert charges >= 40 * (commits + 1)
            commits = charges // 40
    days_later_us = time.time_ns() // 1000 + 2 * DAY_US
    with Lake.open(config) as lake:  # all writers are dead: whatever the catalogue does not name is an orphan
        maintain(lake, days_later_us, MaintenanceSettings(merge_files=10**6, merge_files_closed=10**6))
        with lake.read() as cursor:
            live = {
                path
                for table in COMMITTED
                for (path,) in cursor.execute(
                    "SELECT data_file FROM ducklake_list_files('lake', ?)", [table.name]
                ).fetchall()
            }
            assert what_it_holds(cursor) == holds
        assert {str(path) for path in config.data.rglob("*.parquet")} == live


def test_readers_beside_a_writer_see_whole_commits(tmp_path: Path) -> None:
    config = LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data")
    with Lake.open(config) as lake, ThreadPoolExecutor(1) as pool:
        ledger = LakeLedger(lake)
        ledger.seed(1)

        enough = Event()

        def write() -> None:
            for seed in range(MOST_COMMITS):
                if enough.is_set():
                    return
                ledger.commit(unit(Shape(seed=seed), ledger.positions()[0]))

        seen: list[int] = []
        with Lake.open(config, read_only=True) as elsewhere:
            writing = pool.submit(write)
            while len(set(seen)) < STATES_SEEN and not writing.done():
                for reader in (elsewhere, lake):
                    with reader.read() as cursor:
                        holds = what_it_holds(cursor)
                    assert holds == what_it_should_hold(holds["positions"])
                    seen.append(int(str(holds["charges"][0])))
            enough.set()
            writing.result()
        assert len(set(seen)) >= STATES_SEEN
        assert seen == sorted(seen)
