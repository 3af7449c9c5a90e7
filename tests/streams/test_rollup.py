from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams import latency as histogram
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.ledger import LATENCY_SCHEMA, ROLLUP_KEYS, ROLLUP_SCHEMA
from meterhouse.streams.rate_card import compile_rates
from meterhouse.streams.rating import rate
from meterhouse.streams.rollup import hours, latency, merge_rollups, minutes
from tests.builders import HOUR_US, MINUTE_US, SECOND_US, T0_US, events

PRICES = {kind.name: 10**6 for kind in TOKEN_KINDS}  # 1.00 per million of any kind
RATES = compile_rates(
    Snapshot(version=1, currency="USD", rate_cards=(RateCard(1, "atlas", "atlas-large", None, 0, None, PRICES),))
)


def by_minute(*rows: dict[str, Any]) -> pa.Table:
    requests = events(rows)
    return minutes(requests, rate(requests, RATES))


def sums(table: pa.Table, *key: str) -> dict[tuple[Any, ...], tuple[int, int, Decimal]]:
    """Key → (requests, input tokens, input cost). Times are minutes since T0."""
    found = {}
    for row in table.to_pylist():
        row["time"] = round(row["time"].timestamp() - T0_US // SECOND_US) // 60
        found[tuple(row[name] for name in key)] = (row["requests"], row["input_tokens"], row["input_cost"])
    assert len(found) == len(table)
    return found


def test_requests_are_added_up_by_the_minute_and_the_minutes_by_the_hour() -> None:
    table = by_minute(
        {"time": T0_US, "input_tokens": 1},
        {"time": T0_US + MINUTE_US - 1, "input_tokens": 2},
        {"time": T0_US + MINUTE_US, "input_tokens": 4},
        {"time": T0_US + HOUR_US, "input_tokens": 8},
        {"time": T0_US - 1, "input_tokens": 16},
    )
    assert table.schema == ROLLUP_SCHEMA
    assert sums(table, "time") == {
        (0,): (2, 3, Decimal("0.000003000000")),
        (1,): (1, 4, Decimal("0.000004000000")),
        (60,): (1, 8, Decimal("0.000008000000")),
        (-1,): (1, 16, Decimal("0.000016000000")),
    }
    assert sums(hours(table), "time") == {
        (0,): (3, 7, Decimal("0.000007000000")),
        (60,): (1, 8, Decimal("0.000008000000")),
        (-60,): (1, 16, Decimal("0.000016000000")),
    }


def test_tokens_are_of_all_requests_and_cost_of_the_billed_alone() -> None:
    table = by_minute(
        {"input_tokens": 1},
        {"input_tokens": 2, "status": "error"},
        {"input_tokens": 4, "model": "unheard-of"},
    )
    assert sums(table, "disposition", "status", "model") == {
        ("billed", "ok", "atlas-large"): (1, 1, Decimal("0.000001000000")),
        ("unbilled", "error", "atlas-large"): (1, 2, Decimal("0E-12")),
        ("unpriced", "ok", "unheard-of"): (1, 4, Decimal("0E-12")),
    }


@pytest.mark.parametrize("name", [key for key in ROLLUP_KEYS if key not in ("time", "disposition")])
def test_rows_that_differ_in_one_dimension_stay_apart(name: str) -> None:
    values = (0, 1) if name == "partition" else ("ok", "aborted") if name == "status" else ("a", "b")
    assert len(by_minute(*({name: value} for value in (*values, values[0])))) == 2


def test_an_absent_environment_is_a_group_of_its_own() -> None:
    rows = ({"environment": None, "input_tokens": 1}, {"environment": "prod", "input_tokens": 2}, {"input_tokens": 4})
    assert {key: got[:2] for key, got in sums(by_minute(*rows), "environment").items()} == {
        (None,): (2, 5),
        ("prod",): (1, 2),
    }


def test_sums_beyond_64_bits_are_exact() -> None:
    most = 2**63 - 1
    table = by_minute(*({"input_tokens": most // 10**6} for _ in range(5)))
    assert table["input_cost"].to_pylist() == [Decimal(5 * (most // 10**6)) / 10**6]
    merged = merge_rollups([table, table, table])
    assert merged["input_cost"].to_pylist() == [Decimal(15 * (most // 10**6)) / 10**6]


def test_merged_deltas_add_up_whatever_their_dictionaries() -> None:
    a = by_minute({"tenant": "acme", "input_tokens": 1}, {"tenant": "globex", "input_tokens": 2})
    b = by_minute({"tenant": "globex", "input_tokens": 4}, {"tenant": "initech", "environment": "prod"})
    merged = merge_rollups([a, b])
    assert merged.schema == ROLLUP_SCHEMA
    assert {key: got[:2] for key, got in sums(merged, "tenant", "environment").items()} == {
        ("acme", None): (1, 1),
        ("globex", None): (2, 6),
        ("initech", "prod"): (1, 0),
    }


def test_a_damaged_sum_of_tokens_is_not_wrapped() -> None:
    with pytest.raises(OverflowError, match="over 2\\^63"):
        by_minute(*({"input_tokens": 2**62} for _ in range(2)))


def cells(table: pa.Table) -> dict[tuple[Any, ...], int]:
    return {
        (row["metric"], row["bucket"], (round(row["time"].timestamp()) * SECOND_US - T0_US) // HOUR_US): row["requests"]
        for row in table.to_pylist()
    }


def test_histograms_count_requests_by_metric_bucket_and_hour() -> None:
    table = latency(
        events(
            [
                {"duration_us": 1_000_000, "time_to_first_token_us": 0},
                {"duration_us": 1_000_001},
                {"duration_us": 1_000_000, "status": "error"},
                {"duration_us": 1_000_000, "time": T0_US + HOUR_US, "status": "aborted"},
                {"duration_us": 1_000_000, "status": "throttled"},
                {"duration_us": 1_000_000, "status": "blocked"},
                {},
            ]
        )
    )
    second = histogram.bucket_of(1_000_000)
    assert second == histogram.bucket_of(1_000_001)
    assert table.schema == LATENCY_SCHEMA
    assert cells(table) == {
        ("duration", second, 0): 3,
        ("duration", second, 1): 1,
        ("time_to_first_token", 0, 0): 1,
    }


def test_nothing_rolls_up_to_nothing() -> None:
    assert (len(by_minute()), len(hours(by_minute())), len(latency(events([])))) == (0, 0, 0)
    assert len(merge_rollups([by_minute(), by_minute()])) == 0
