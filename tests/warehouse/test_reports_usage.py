"""The usage report: every request, whatever its status."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.to_json import rfc3339, to_json
from meterhouse.warehouse.reports.usage import BUCKETS_US, usage
from tests.builders import MINUTE_US, T0_US
from tests.warehouse.filled import KINDS, SNAPSHOT, fill, microseconds

STATUSES = ("ok", "error", "aborted", "throttled", "blocked")
ROWS = [
    {
        "tenant": ("acme", "bolt", "stranger")[i % 3],
        "status": STATUSES[i % 7 % 5],
        "time": T0_US + i * 987_654_321 % DAY_US,
        "input_tokens": i,
        "output_tokens": i % 5,
    }
    for i in range(150)
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS)


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "requests": len(rows),
        "by_status": {status: sum(row["status"] == status for row in rows) for status in STATUSES},
        "tokens": {kind: sum(row[f"{kind}_tokens"] for row in rows) for kind in KINDS},
    }


@pytest.mark.parametrize("every", ["minute", "hour", "day"])
def test_each_bucket_counts_every_request_by_status_and_all_its_tokens(
    lake: Lake, charges: list[dict[str, Any]], every: Any
) -> None:
    # Neither end lies on a bucket's edge.
    selection = Selection(T0_US + 90_000_001, T0_US + DAY_US - 7 * MINUTE_US - 1)
    inside = [row for row in charges if selection.from_us <= microseconds(row) < selection.to_us]
    buckets: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in inside:
        buckets[microseconds(row) // BUCKETS_US[every] * BUCKETS_US[every], row["tenant"]].append(row)
    report = to_json(usage(lake, SNAPSHOT, selection, ("tenant",), every))
    assert report["lines"] == [
        {"time": rfc3339(start), "tenant": tenant, **figures(buckets[start, tenant])}
        for start, tenant in sorted(buckets)
    ]
    assert report["total"] == figures(inside)
    assert (report["every"], report["group_by"]) == (every, ["tenant"])


def test_without_groups_a_line_is_a_bucket(lake: Lake, charges: list[dict[str, Any]]) -> None:
    report = to_json(usage(lake, SNAPSHOT, Selection(T0_US, T0_US + DAY_US, {"tenant": ["acme"]})))
    mine = [row for row in charges if row["tenant"] == "acme"]
    assert report["lines"] == [{"time": "2026-11-01T00:00:00Z", **figures(mine)}]


def test_times_and_kinds_are_no_groups_of_usage(lake: Lake) -> None:
    for name in ("day", "kind"):
        with pytest.raises(ReportError, match="use any of tenant, org_unit"):
            usage(lake, SNAPSHOT, Selection(0, 1), (name,))
    with pytest.raises(ReportError, match="use any of minute, hour, day"):
        usage(lake, SNAPSHOT, Selection(0, 1), (), "week")  # type: ignore[arg-type]
