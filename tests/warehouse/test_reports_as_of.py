"""What a report says of its own freshness."""

from __future__ import annotations

from pathlib import Path

from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports import as_of as module
from meterhouse.warehouse.reports.as_of import AsOf, Committed, Freshness, Positions, as_of, positions_of
from meterhouse.warehouse.reports.to_json import as_of_json
from tests.builders import T0_US
from tests.warehouse.filled import fill

NOW = 1_000_000_000


def judged(snapshot: int, committed: list[Committed], freshness: Freshness | None) -> AsOf:
    return module.judged(Positions(snapshot, tuple(committed)), freshness)


def test_a_lake_that_is_level_with_the_log_has_all_that_arrived_before_the_log_was_read() -> None:
    committed = [Committed(0, 5, 100), Committed(1, 0, None)]
    assert judged(7, committed, Freshness(NOW, {0: 5, 1: 0})) == AsOf(7, NOW, 0, {0: 5, 1: 0})


def test_the_slowest_partition_decides_by_its_first_waiting_record() -> None:
    committed = [Committed(0, 5, 100), Committed(1, 8, 200)]
    late = Freshness(NOW, {0: 5, 1: 9}, {1: NOW - 1_500_000})
    assert judged(7, committed, late) == AsOf(7, NOW - 1_500_000, 1_500_000, {0: 5, 1: 8})


def test_without_the_first_waiting_record_the_newest_committed_arrival_bounds_the_lag() -> None:
    assert judged(7, [Committed(0, 5, 100)], Freshness(NOW, {0: 6})) == AsOf(7, 100, NOW - 100, {0: 5})


def test_nothing_is_claimed_while_a_partition_has_events_but_no_commit() -> None:
    committed = [Committed(0, 5, 100)]
    assert judged(7, committed, Freshness(NOW, {0: 5, 1: 3})) == AsOf(7, None, None, {0: 5})
    assert judged(7, [Committed(0, 0, None)], Freshness(NOW, {0: 1})) == AsOf(7, None, None, {0: 0})


def test_a_commit_after_the_log_was_read_does_not_make_the_lag_negative() -> None:
    assert judged(7, [Committed(0, 9, NOW + 5)], Freshness(NOW, {0: 6})) == AsOf(7, NOW, 0, {0: 9})


def test_without_the_log_the_slowest_partition_gives_the_watermark_and_no_lag_is_claimed() -> None:
    assert judged(7, [Committed(0, 5, 100), Committed(1, 8, 50)], None) == AsOf(7, 50, None, {0: 5, 1: 8})


def test_it_reads_as_the_contract_says() -> None:
    assert as_of_json(AsOf(42, 1_793_491_200_000_000, 1_200_000, {10: 3, 2: 1234})) == {
        "snapshot": 42,
        "watermark": "2026-11-01T00:00:00Z",
        "lag_seconds": 1.2,
        "offsets": {"2": 1234, "10": 3},
    }
    assert as_of_json(AsOf(1, None, None, {})) == {
        "snapshot": 1,
        "watermark": None,
        "lag_seconds": None,
        "offsets": {},
    }


def test_positions_are_those_of_the_snapshot_and_are_read_again_only_after_a_commit(tmp_path: Path) -> None:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        fill(lake, [{"offset": 4}, {"offset": 7, "partition": 1, "arrived": T0_US + 5_000_000}])
        with lake.read() as cursor:
            first = positions_of(lake, cursor)
            assert first.committed == (Committed(0, 5, T0_US), Committed(1, 8, T0_US + 5_000_000))
            assert positions_of(lake, cursor, first) is first
            assert as_of(lake, cursor, None) == AsOf(first.snapshot, T0_US, None, {0: 5, 1: 8})
        fill(lake, [{"offset": 9, "arrived": T0_US + 1}])
        fresh = Freshness(T0_US + 10_000_000, {0: 10, 1: 8}, positions=first)
        with lake.read() as cursor:
            assert as_of(lake, cursor, fresh) == AsOf(first.snapshot + 1, T0_US + 10_000_000, 0, {0: 10, 1: 8})
