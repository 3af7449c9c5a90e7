"""The lake: opening, reading, one writer."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from meterhouse.streams.ledger import LayoutChanged
from meterhouse.warehouse.lake import Lake, LakeBusy, LakeConfig, LakeMissing, table_names
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import TABLES
from tests.ledger_units import Shape, unit
from tests.warehouse.filled import fill


@pytest.fixture
def config(tmp_path: Path) -> LakeConfig:
    return LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)


def test_a_writer_makes_the_tables_that_are_missing(config: LakeConfig) -> None:
    with Lake.open(config) as lake, lake.read() as cursor:
        assert table_names(cursor) == {"positions", "audit_heads", *(table.name for table in TABLES)}
        for table in TABLES:
            rows = cursor.execute(f"SELECT column_name FROM (DESCRIBE {table.name})").fetchall()
            assert [name for (name,) in rows] == table.schema.names


def test_opening_an_existing_lake_again_changes_nothing(config: LakeConfig) -> None:
    with Lake.open(config) as lake, lake.read() as cursor:
        first = lake.snapshot_id(cursor)
    with Lake.open(config) as lake, lake.read() as cursor:
        assert lake.snapshot_id(cursor) == first


def test_a_second_writer_is_refused_with_what_to_do(config: LakeConfig) -> None:
    with Lake.open(config), pytest.raises(LakeBusy, match="has one writer"):
        Lake.open(config)
    Lake.open(config).close()


def test_a_reader_of_a_lake_whose_tables_are_about_to_be_made_is_told_so(
    config: LakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lake, "_create_missing", lambda _: None)
    with Lake.open(config), pytest.raises(LakeMissing, match="run `meterhouse work` once"):
        Lake.open(config, read_only=True)


def test_a_reader_of_a_lake_that_no_writer_made_is_told_so(config: LakeConfig) -> None:
    with pytest.raises(LakeMissing, match="run `meterhouse work` once"):
        Lake.open(config, read_only=True)


def test_a_commit_that_moves_positions_does_not_read_the_extremes_of_all_files(config: LakeConfig) -> None:
    with Lake.open(config) as lake, closing(lake.cursor()) as cursor:
        cursor.execute("CALL enable_logging('QueryLog')")
        fill(lake, [{"tenant": "acme", "offset": 0}])
        said = cursor.execute("SELECT message FROM duckdb_logs WHERE type = 'QueryLog'").fetchall()
    asked = [query for (query,) in said]
    assert any(query.startswith("UPDATE position_") for query in asked)
    assert not [query for query in asked if "ducklake_file_column_stats" in query and "SELECT" in query]


def test_a_position_that_says_no_layout_is_moved_by_nobody(config: LakeConfig) -> None:
    with Lake.open(config) as lake:
        LakeLedger(lake).seed(1)
        with closing(lake.cursor()) as cursor:
            cursor.execute("UPDATE position_0 SET layout = NULL")
        ledger = LakeLedger(lake)
        with pytest.raises(LayoutChanged):
            ledger.commit(unit(Shape(), ledger.positions()[0]))
