"""The lake's files on an S3-compatible store: what goes wrong there, what is cleaned up, and that no key is shown."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import duckdb
import pytest

from meterhouse.streams.ledger import LedgerUnavailable, Position
from meterhouse.warehouse.lake import Lake, LakeConfig, LakeError, LakeUnavailable
from meterhouse.warehouse.lake_files import files_of
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import ADD_FILES, CHARGES, COMMITTED
from meterhouse.warehouse.lake_store import S3Place
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from tests.ledger_units import DAY_US, HOUR_US, Shape, unit
from tests.services.lakes import MakeLake
from tests.services.postgres import Postgres
from tests.services.s3 import S3, MotoServer, own_s3

SETTINGS = MaintenanceSettings(merge_files=3, merge_files_closed=3)


@pytest.fixture
def config(new_lake: MakeLake) -> LakeConfig:
    return new_lake("postgres-s3")


def place_of(config: LakeConfig) -> S3Place:
    assert isinstance(config.data, S3Place)
    return config.data


def now_us() -> int:
    return time.time_ns() // 1000


def commit(ledger: LakeLedger, units: int) -> None:
    for _ in range(units):
        before = ledger.positions()[0]
        ledger.commit(unit(Shape(seed=before.next_offset), before))


def live(lake: Lake) -> set[str]:
    with lake.read() as cursor:
        return {
            path
            for table in COMMITTED
            for (path,) in cursor.execute(
                "SELECT data_file FROM ducklake_list_files('lake', ?)", [table.name]
            ).fetchall()
        }


def books(lake: Lake) -> list[object]:
    with lake.read() as cursor:
        return cursor.execute(
            "SELECT (SELECT (count(*), count(DISTINCT key), sum(cost_pico)) FROM charges),"
            " (SELECT (sum(requests), sum(output_cost)) FROM rollup_day), (SELECT count(*) FROM rejects)"
        ).fetchall()


def test_merged_expired_and_orphaned_files_go_and_the_books_stay(config: LakeConfig, s3: S3) -> None:
    with Lake.open(config) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        commit(ledger, 3)
        before = books(lake)
        assert maintain(lake, now_us(), SETTINGS).merged_files == 3 * len(COMMITTED)
        maintain(lake, now_us() + HOUR_US, SETTINGS)
        sizes = {path: lake.store.total_bytes([path]) for path in s3.files(place_of(config))}
        deletion = maintain(lake, now_us() + 3 * HOUR_US, SETTINGS)
        assert deletion.deleted_files == 3 * len(COMMITTED)
        gone = sizes.keys() - s3.files(place_of(config))
        assert deletion.deleted_bytes == sum(sizes[path] for path in gone) > 0
        assert lake.store.total_bytes(sorted(gone)) == 0
        lake.store.write(files_of(CHARGES, unit(Shape(seed=9)).charges, config.folder_of(CHARGES)))
        assert len(s3.files(place_of(config)) - live(lake)) == 1
        assert maintain(lake, now_us(), SETTINGS).orphans == 0
        assert maintain(lake, now_us() + 2 * DAY_US, SETTINGS).orphans == 1
        assert s3.files(place_of(config)) == live(lake)
        assert books(lake) == before
        commit(ledger, 1)


@pytest.mark.parametrize("sweeps_anything", [False, True])
def test_only_its_age_saves_the_file_of_another_process_that_has_not_committed(
    config: LakeConfig, sweeps_anything: bool
) -> None:
    """With `sweeps_anything` the sweep has no age limit: what it then takes shows that the limit saves the file."""
    with Lake.open(config) as writer, Lake.open(config) as sweeper:
        LakeLedger(writer).seed(1)
        cursor = writer.cursor()
        cursor.execute("BEGIN TRANSACTION")
        files = files_of(CHARGES, unit(Shape()).charges, config.folder_of(CHARGES))
        writer.store.write(files)
        cursor.execute(ADD_FILES, [CHARGES.name, [file.path for file in files]])
        settings = replace(SETTINGS, orphan_after_us=-DAY_US) if sweeps_anything else SETTINGS
        report = maintain(sweeper, now_us(), settings)
        cursor.execute("COMMIT")
        assert (report.trouble, report.orphans) == ((), 1 if sweeps_anything else 0)
        with sweeper.cursor() as reader:
            if sweeps_anything:
                with pytest.raises(duckdb.IOException):
                    reader.execute("SELECT sum(cost_pico) FROM charges").fetchall()
            else:
                assert reader.execute("SELECT count(*), count(key) FROM charges").fetchall() == [(20, 20)]


WRITER = """
import sys
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_store import S3Place
from tests.ledger_units import Shape, unit
ledger = LakeLedger(Lake.open(LakeConfig(sys.argv[1], S3Place(*sys.argv[2:6]), threads=1)))
ledger.seed(1)
while True:
    before = ledger.positions()[0]
    ledger.commit(unit(Shape(seed=before.next_offset), before))
    print("committed", flush=True)
"""


@pytest.mark.crash
def test_a_writer_killed_at_any_moment_leaves_whole_commits_and_at_most_orphans(config: LakeConfig, s3: S3) -> None:
    place = place_of(config)
    keys = [place.url, place.access_key, place.secret_key, str(place.endpoint)]
    command = [sys.executable, "-c", WRITER, str(config.catalogue), *keys]
    for commits in range(1, 5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(commits):
                assert writer.stdout.readline() == "committed\n"
            writer.kill()
    with Lake.open(config) as lake:
        position = LakeLedger(lake).positions()[0]
        assert position.next_offset >= 10 * 25
        with lake.read() as cursor:
            charges = position.next_offset // 25 * 20
            assert cursor.execute("SELECT count(*), count(DISTINCT key) FROM charges").fetchall() == [
                (charges, charges)
            ]
        maintain(lake, now_us() + 2 * DAY_US, MaintenanceSettings(merge_files=10**6, merge_files_closed=10**6))
        assert s3.files(place) == live(lake)


def test_a_store_that_is_away_is_passing_trouble_and_its_return_is_enough(postgres: Postgres) -> None:
    with own_s3() as server:
        config = LakeConfig(postgres.new_database(), server.new_place(), threads=1)
        with Lake.open(config) as lake:
            ledger = LakeLedger(lake)
            ledger.seed(1)
            commit(ledger, 1)
            with Lake.open(config, read_only=True) as reader:  # which has nothing of them in memory
                stopped_and_tried(server, ledger, reader)
            assert ledger.positions()[0].next_offset == 25


def stopped_and_tried(server: MotoServer, ledger: LakeLedger, reader: Lake) -> None:
    server.stop()
    with pytest.raises(LedgerUnavailable, match="does not answer: see that it runs there") as told:
        commit(ledger, 1)
    assert server.secret_key not in str(told.value)
    assert told.value.__cause__ is None
    with pytest.raises(LakeUnavailable) as unread, reader.read() as cursor:
        cursor.execute("SELECT sum(cost_pico), sum(duration_us) FROM charges").fetchall()
    assert server.secret_key not in str(unread.value)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"secret_key": "c4n4ry-of-a-key"}, "METERHOUSE_S3_SECRET_KEY"),
        ({"access_key": "c4n4ry-of-a-key"}, "METERHOUSE_S3_ACCESS_KEY"),
        ({"url": "s3://no-such-bucket/lake"}, "no such bucket"),
        ({"endpoint": "http://127.0.0.1:1"}, "METERHOUSE_S3_ENDPOINT"),
    ],
    ids=["secret", "access", "bucket", "endpoint"],
)
def test_a_store_that_does_not_let_us_in_is_one_message_without_keys(
    config: LakeConfig, change: dict[str, str], advice: str
) -> None:
    with Lake.open(config) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        commit(ledger, 1)
    wrong = replace(config, data=replace(place_of(config), **change))
    with pytest.raises(LakeError, match=advice) as told:
        Lake.open(wrong)
    with pytest.raises(LakeUnavailable, match=advice) as unread, Lake.open(wrong, read_only=True).read() as cursor:
        cursor.execute("SELECT sum(cost_pico) FROM charges").fetchall()
    said = str(told.value) + repr(told.value) + str(unread.value) + repr(wrong)
    assert "c4n4ry" not in said
    assert place_of(config).secret_key not in said
    assert "not-a-secret" not in said
    assert told.value.__cause__ is None


def test_a_commit_that_could_not_be_written_leaves_no_file(
    config: LakeConfig, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.open(config) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)

        with monkeypatch.context() as patched:
            patched.setattr("meterhouse.warehouse.lake_ledger.ADD_FILES", "CALL no_such_function(?, ?)")
            with pytest.raises(duckdb.Error, match="no_such_function"):
                ledger.commit(unit(Shape()))
        assert s3.files(place_of(config)) == set()
        assert ledger.positions()[0] == Position()
        commit(ledger, 1)
