"""What a report says of its own freshness."""

from __future__ import annotations

from meterhouse.warehouse.reports.as_of import AsOf, Committed, Freshness, judged
from meterhouse.warehouse.reports.to_json import as_of_json

NOW = 1_000_000_000


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
