"""Commits that go wrong: what is known afterwards, and what is left behind. Reads that outlive their snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from meterhouse.streams.ledger import Fenced, LedgerUnavailable, Position
from meterhouse.warehouse import lake as lake_module
from meterhouse.warehouse.lake import Lake, LakeConfig, SnapshotExpired
from meterhouse.warehouse.lake_ledger import LakeLedger
from tests.ledger_units import Shape, unit


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data")) as lake:
        yield lake


@pytest.fixture
def ledger(lake: Lake) -> LakeLedger:
    ledger = LakeLedger(lake)
    ledger.seed(2)
    return ledger


class Interrupted:
    """A cursor that does something else before or after a COMMIT."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        *,
        before: Callable[[], None] | None = None,
        after: Exception | None = None,
    ) -> None:
        self._cursor, self._before, self._after = cursor, before, after

    def execute(self, sql: str, *parameters: Any) -> duckdb.DuckDBPyConnection:
        commit = sql == "COMMIT"
        if commit and self._before is not None:
            before, self._before = self._before, None
            before()
        done = self._cursor.execute(sql, *parameters)
        if commit and self._after is not None:
            raise self._after
        return done


def interrupted(ledger: LakeLedger, **what: Any) -> LakeLedger:
    ledger._cursor = Interrupted(ledger._cursor, **what)  # type: ignore[assignment]
    return ledger


def other_writer(lake: Lake) -> duckdb.DuckDBPyConnection:
    """A writer that does not ask for the lock: what a lock file on a broken disk would let through."""
    return lake_module.attach(lake.config, lake.store, read_only=False)


def parquet(lake: Lake) -> list[Path]:
    return list(lake.config.data.rglob("*.parquet"))


def test_a_position_moved_between_update_and_commit_fences(lake: Lake, ledger: LakeLedger) -> None:
    with closing(other_writer(lake)) as other:

        def move() -> None:
            other.execute("UPDATE lake.position_0 SET next_offset = 7 WHERE next_offset = 0")

        with pytest.raises(Fenced) as fenced:
            interrupted(ledger, before=move).commit(unit(Shape()))
    assert (fenced.value.expected, fenced.value.stored) == (0, 7)
    assert parquet(lake) == []
    with lake.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM charges").fetchall() == [(0,)]


def test_a_locked_catalogue_is_passing_trouble_and_the_unit_can_be_tried_again(lake: Lake, ledger: LakeLedger) -> None:
    made = unit(Shape())
    with closing(other_writer(lake)) as other:

        def lock() -> None:
            other.execute("BEGIN TRANSACTION")
            other.execute("CREATE TABLE __ducklake_metadata_lake.main.in_the_way (i INTEGER)")

        with pytest.raises(LedgerUnavailable, match="nothing was committed"):
            interrupted(ledger, before=lock).commit(made)
        assert parquet(lake) == []
        other.execute("ROLLBACK")
    assert ledger.positions()[0] == Position()
    ledger.commit(made)
    assert ledger.positions()[0] == made.after[0]


def test_a_commit_whose_answer_is_lost_is_found_in_the_lake(lake: Lake, ledger: LakeLedger) -> None:
    made = unit(Shape())
    snapshot = interrupted(ledger, after=duckdb.IOException("the connection broke")).commit(made)
    with lake.read() as cursor:
        assert lake.snapshot_id(cursor) == snapshot
        assert cursor.execute("SELECT count(*), count(key) FROM charges").fetchall() == [(20, 20)]
    assert ledger.positions()[0] == made.after[0]


def test_a_full_disk_is_passing_trouble(lake: Lake, ledger: LakeLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("meterhouse.warehouse.lake_store.sync_file", full)
        with pytest.raises(LedgerUnavailable, match="No space left"):
            ledger.commit(unit(Shape()))
    assert parquet(lake) == []
    ledger.commit(unit(Shape()))


def test_a_unit_that_breaks_the_schema_is_told_as_it_is(lake: Lake, ledger: LakeLedger) -> None:
    made = unit(Shape(partition=1))
    object.__setattr__(made, "charges", made.charges.drop_columns(["tenant"]))
    with pytest.raises(duckdb.Error, match="tenant"):
        ledger.commit(made)
    assert ledger.positions()[1] == Position()
    assert parquet(lake) == []


def test_a_read_that_outlived_its_snapshot_says_so(
    lake: Lake, ledger: LakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_module, "_LONG_READ_S", -1.0)
    ledger.commit(unit(Shape()))
    with lake.read() as cursor:  # long, but its snapshot is kept
        old = lake.snapshot_id(cursor)

    def expire() -> None:
        ledger.commit(unit(Shape(), ledger.positions()[0]))
        with closing(lake.cursor()) as cursor:
            cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{old}])")

    with pytest.raises(SnapshotExpired, match=f"outlived its snapshot {old}"), lake.read():
        expire()
