"""The budgets report and its forecasts with many budgets, on a warm connection, over the lake of `bench.chargeback`.

Run: python -m bench.budgets
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Final

from bench.chargeback import TO_US, build
from bench.report import Row, show
from meterhouse.streams.control import Budget, Every, Scope, Snapshot, Tenant, WindowSpec
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.as_of import Freshness, positions_of
from meterhouse.warehouse.reports.budget_days import budget_days
from meterhouse.warehouse.reports.budgets import budgets
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, MINUTE_US

AT_US: Final = TO_US - 5 * DAY_US - 7 * HOUR_US - 13 * MINUTE_US
COUNTS: Final = (10, 100, 1_000)
RUNS: Final = 3
_ZONES: Final = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Tokyo")
_EVERY: Final[tuple[Every, ...]] = ("month", "week", "day")


def snapshot(count: int) -> Snapshot:
    tenants = tuple(Tenant(f"tenant-{n}", f"Tenant {n}", ("group", f"unit-{n % 5}")) for n in range(50))
    made = tuple(
        Budget(
            f"budget-{n}", _scope(n), WindowSpec(_EVERY[n % 3], _ZONES[n % 5]), 10**18, None, (Decimal(80),), "notify"
        )
        for n in range(count)
    )
    return Snapshot(version=1, currency="USD", tenants=tenants, budgets=made)


def _scope(n: int) -> Scope:
    tenant, application, model = f"tenant-{n % 50}", f"application-{n % 3}", f"model-{n % 4}"
    match n % 4:
        case 0:
            return Scope(tenant=tenant)
        case 1:
            return Scope(tenant=tenant, application=application)
        case 2:
            return Scope(org_unit=f"unit-{n % 5}", model=model)
        case _:
            return Scope(tenant=tenant, application=application, model=model)


def median_ms(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1000)
    return sorted(taken)[RUNS // 2]


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Lake.open(LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")) as lake,
    ):
        rows = build(lake)
        with lake.read() as cursor:
            fresh = Freshness(TO_US, {}, positions=positions_of(lake, cursor))
        figures = []
        for count in COUNTS:
            control = snapshot(count)
            report_ms = median_ms(lambda control=control: budgets(lake, control, AT_US, None, fresh))
            days_ms = median_ms(lambda control=control: _days(lake, control))
            figures += [
                Row(f"{count:,} budgets: report", f"{report_ms:,.0f} ms", share=f"{report_ms / count:.1f} ms each"),
                Row(f"{count:,} budgets: their days alone", f"{days_ms:,.0f} ms"),
            ]
    show(f"The budgets report, {rows['rollup_hour']:,} rows of hours", figures)


def _days(lake: Lake, control: Snapshot) -> None:
    with lake.read() as cursor:
        budget_days(cursor, control, AT_US)


if __name__ == "__main__":
    main()
