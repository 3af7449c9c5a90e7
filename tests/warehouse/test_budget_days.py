"""Spend of budgets by day, from the hours' roll-ups, is that of the charges by each zone's calendar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from meterhouse.streams.budget import Window, matches
from meterhouse.streams.control import Budget, Scope, Snapshot, WindowSpec
from meterhouse.streams.forecast import HISTORY_DAYS
from meterhouse.streams.windows import window_of
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.budget_days import Spend, budget_days
from tests.builders import DAY_US, HOUR_US, T0_US
from tests.warehouse.filled import KINDS, SNAPSHOT, fill, microseconds

ZONES = ("UTC", "Europe/Berlin", "America/New_York")
AT_US = T0_US + 5 * DAY_US + 7 * HOUR_US
ROWS = [
    {
        "tenant": ("acme", "bolt", "cork")[i % 3],
        "application": ("assistant", "search")[i % 2],
        "status": ("ok", "error", "aborted", "ok")[i % 4],
        "model": ("atlas-large", "atlas-small", "no-price")[i % 5 % 3],
        "time": AT_US - i * 7 * HOUR_US - i % 50,  # sixty days, over the change of clocks
        "input_tokens": 10 + i,
        "output_tokens": i % 7,
    }
    for i in range(206)
]
SCOPES = [
    Scope(),
    Scope(tenant="acme"),
    Scope(org_unit="group"),
    Scope(org_unit="group", tenant="bolt"),
    Scope(org_unit="nobody's"),
    Scope(application="search", model="atlas-small"),
    Scope(tenant="bolt", application="assistant"),
    Scope(tenant="cork", model="atlas-large"),
]


def budget(number: int, scope: Scope, zone: str) -> Budget:
    limit, tokens = (10**12, None) if number % 2 else (None, 10**6)
    return Budget(f"b-{number}", scope, WindowSpec("month", zone), limit, tokens, (Decimal(80),), "notify")


CONTROL = replace(
    SNAPSHOT,
    budgets=tuple(budget(n, scope, ZONES[n % len(ZONES)]) for n, scope in enumerate(SCOPES)),
)


def expected(charges: Sequence[dict[str, Any]], snapshot: Snapshot, one: Budget, *spans: Window) -> list[Spend]:
    org = {tenant.id: frozenset(tenant.org) for tenant in snapshot.tenants}
    ours = [
        row
        for row in charges
        if row["disposition"] == "billed"
        and matches(one.scope, row["tenant"], org[row["tenant"]], row["application"], row["model"])
    ]
    within = [[row for row in ours if start_us <= microseconds(row) < end_us] for start_us, end_us in spans]
    return [
        (sum(row["cost_pico"] for row in rows), sum(row[f"{kind}_tokens"] for row in rows for kind in KINDS))
        for rows in within
    ]


def test_each_budget_has_its_days(tmp_path: Path) -> None:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        charges = fill(lake, ROWS)
        with lake.read() as cursor:
            found = budget_days(cursor, CONTROL, AT_US)
            none = budget_days(cursor, replace(CONTROL, budgets=()), AT_US)
    assert none == {}
    assert list(found) == [one.id for one in CONTROL.budgets]
    for one in CONTROL.budgets:
        days, unit = found[one.id].days, 0 if one.limit_pico is not None else 1
        assert len(days) == HISTORY_DAYS + 1
        assert days[-1][0].start_us <= AT_US < days[-1][0].end_us
        spends = expected(charges, CONTROL, one, *((day.start_us, day.end_us) for day, _ in days))
        assert [amount for _, amount in days] == [spend[unit] for spend in spends], one
        window = window_of(one.window, AT_US)
        assert (found[one.id].window, [found[one.id].spent]) == (window, expected(charges, CONTROL, one, window))
    assert found["b-4"].spent == (0, 0)
    assert sum(amount for _, amount in found["b-7"].days) > 0
    assert found["b-0"].history[-1] == (date(2026, 11, 5), found["b-0"].days[-2][1])


def test_a_window_that_cuts_an_hour_of_utc_is_not_summed_from_hours(tmp_path: Path) -> None:
    kathmandu = replace(CONTROL, budgets=(budget(0, Scope(), "Asia/Kathmandu"),))
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        fill(lake, ROWS)
        with lake.read() as cursor:
            found = budget_days(cursor, kathmandu, AT_US)["b-0"]
    assert found.spent is None
    assert sum(amount for _, amount in found.days) > 0
