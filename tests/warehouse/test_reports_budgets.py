"""The budgets report: spend per window, exact, billed requests only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from meterhouse.streams.money import from_text, to_text
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports import budgets as module
from meterhouse.warehouse.reports.budgets import budgets, with_limit
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.to_json import rfc3339, to_json
from tests.builders import HOUR_US, MINUTE_US, T0_US
from tests.warehouse.filled import KINDS, SNAPSHOT, fill, microseconds

KATHMANDU_US = 5 * HOUR_US + 45 * MINUTE_US
ROWS = [
    {
        "tenant": ("acme", "bolt", "cork")[i % 3],
        "application": ("assistant", "search")[i % 2],
        "status": ("ok", "error", "aborted", "ok")[i % 4],
        "model": ("atlas-large", "atlas-large", "no-price")[i % 5 % 3],
        "time": T0_US + i * 17 * MINUTE_US,
        "input_tokens": 10 + i,
        "output_tokens": i % 7,
    }
    for i in range(200)
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS)


def acme_spend(charges: list[dict[str, Any]], start_us: int) -> int:
    return sum(
        row["cost_pico"]
        for row in charges
        if row["tenant"] == "acme"
        and row["disposition"] == "billed"
        and start_us <= microseconds(row) < start_us + DAY_US
    )


def test_each_budget_has_its_window_at_a_moment(lake: Lake, charges: list[dict[str, Any]]) -> None:
    start_us = T0_US + DAY_US - KATHMANDU_US  # a day of Kathmandu
    at_us = start_us + DAY_US // 2
    tokens = sum(
        row[f"{kind}_tokens"]
        for row in charges
        for kind in KINDS
        if row["tenant"] in ("acme", "bolt") and row["application"] == "assistant" and row["disposition"] == "billed"
    )
    spent = acme_spend(charges, start_us)
    assert 5_000_000_000 < spent < 9_950_000_000  # over the first threshold, below the limit
    assert tokens > 1_000
    report = to_json(budgets(lake, SNAPSHOT, at_us))
    assert report["budgets"] == [
        {
            "id": "acme-day",
            "scope": {"tenant": "acme"},
            "unit": "USD",
            "window": {
                "start": rfc3339(start_us),
                "end": rfc3339(start_us + DAY_US),
                "every": "day",
                "time_zone": "Asia/Kathmandu",
            },
            "limit": "0.010000000000",
            "spent": to_text(spent),
            "reserved": "0.000000000000",
            "remaining": to_text(10_000_000_000 - spent),
            "state": "warned",
            "thresholds": ["50", "99.5"],
            "thresholds_crossed": ["50"],
            "on_exceeded": "block",
            "forecast": to_text(spent * 2),
            "exceeds_on": "2026-11-02",
        },
        {
            "id": "group-tokens",
            "scope": {"org_unit": "group", "application": "assistant"},
            "unit": "tokens",
            "window": {
                "start": "2026-11-01T00:00:00Z",
                "end": "2026-12-01T00:00:00Z",
                "every": "month",
                "time_zone": "UTC",
            },
            "limit": "1000",
            "spent": str(tokens),
            "reserved": "0",
            "remaining": "0",
            "state": "exceeded",
            "thresholds": ["80"],
            "thresholds_crossed": ["80"],
            "on_exceeded": "notify",
            "forecast": report["budgets"][1]["forecast"],
            "exceeds_on": None,  # it is exceeded
        },
    ]
    assert int(report["budgets"][1]["forecast"]) > tokens
    assert (report["currency"], report["at"]) == ("USD", rfc3339(at_us))


def test_a_range_lists_every_window_that_it_touches(lake: Lake, charges: list[dict[str, Any]]) -> None:
    snapshot = replace(SNAPSHOT, budgets=SNAPSHOT.budgets[:1])
    report = budgets(lake, snapshot, T0_US, (T0_US, T0_US + 2 * DAY_US))
    starts = [T0_US - KATHMANDU_US + n * DAY_US for n in range(3)]
    assert [(line.state.window_start_us, line.state.spent) for line in report.lines] == [
        (start, acme_spend(charges, start)) for start in starts
    ]


def test_too_many_windows_are_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WINDOWS", 3)
    with pytest.raises(ReportError, match="take a shorter"):
        budgets(lake, SNAPSHOT, T0_US, (T0_US, T0_US + 2 * DAY_US))


@pytest.mark.parametrize(("number", "limit"), [(0, "0.0051475"), (0, "12"), (0, "0"), (1, "1000000"), (1, "1")])
def test_a_supposed_limit_changes_what_follows_from_it_and_nothing_else(
    lake: Lake, charges: list[dict[str, Any]], number: int, limit: str
) -> None:
    at_us = T0_US + DAY_US - KATHMANDU_US + DAY_US // 2
    supposed = replace(SNAPSHOT, budgets=(with_limit(SNAPSHOT.budgets[number], limit),))
    now, [line] = budgets(lake, SNAPSHOT, at_us).lines[number], budgets(lake, supposed, at_us).lines
    assert line.state.limit == (int(limit) if number else from_text(limit))
    assert (line.state.spent, line.forecast.amount) == (now.state.spent, now.forecast.amount)
    assert (line.state.state == "exceeded") == (line.state.spent >= line.state.limit)
    assert (line.forecast.exceeds_on is not None) == (line.state.spent < line.state.limit <= line.forecast.amount)


@pytest.mark.parametrize(("number", "limit"), [(0, "-1"), (0, "much"), (0, "1e3"), (1, "0"), (1, "1.5"), (1, "9" * 30)])
def test_a_limit_that_a_control_file_would_not_take_is_told(number: int, limit: str) -> None:
    with pytest.raises(ReportError, match=r"is no limit of .*: write"):
        with_limit(SNAPSHOT.budgets[number], limit)
