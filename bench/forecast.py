"""How far forecasts are from what a month came to: by weekday shape, beside going on as it went.

Months of the simulator's rhythm (office hours, evenings, nights), each tenant a budget, eight weeks of history before
it. Spend of an hour: a Poisson number of requests with log-normal costs; days differ by a factor of their own, and load
grows from week to week. Run: python -m bench.forecast
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from statistics import mean, median
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.report import Row, show
from meterhouse.ingest.simulate.rhythm import load
from meterhouse.ingest.simulate.workload import Workload
from meterhouse.streams.forecast import HISTORY_DAYS, Day, days_between, forecast

MONTHS: Final = tuple((2026, month) for month in range(1, 13))
TENANTS: Final = 12
ELAPSED: Final = (0.05, 0.10, 0.25, 0.50, 0.75)
REQUESTS_PER_HOUR: Final = 40.0
DAY_SIGMA: Final = 0.15
WEEKLY_GROWTHS: Final = (0.0, 0.05)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True)
class Month:
    """A tenant's spend by hour, from HISTORY_DAYS before the month to its end."""

    days: tuple[Day, ...]
    hours: npt.NDArray[np.int64]
    first_us: int

    def spent(self, from_us: int, to_us: int) -> int:
        return int(self.hours[(from_us - self.first_us) // _HOUR_US : (to_us - self.first_us) // _HOUR_US].sum())

    def history(self, now_us: int) -> list[tuple[date, int]]:
        day_us = 24 * _HOUR_US
        today_us = now_us // day_us * day_us
        starts = range(today_us - HISTORY_DAYS * day_us, today_us, day_us)
        return [((_EPOCH + timedelta(microseconds=us)).date(), self.spent(us, us + day_us)) for us in starts]


def months(growth: float) -> list[Month]:
    random = np.random.default_rng(7)
    tenants = tuple(f"tenant-{n}" for n in range(TENANTS))
    workload = Workload(seed=7, events=1, start_us=0, tenants=tenants, models=(("atlas", "large"),), tenant_skew=0.3)
    loads = load(workload) * TENANTS * REQUESTS_PER_HOUR
    made = []
    for year, month in MONTHS:
        start = datetime(year, month, 1, tzinfo=UTC)
        end = (start + timedelta(days=31)).replace(day=1)
        first = start - timedelta(days=HISTORY_DAYS)
        hours = np.arange((end - first) // timedelta(hours=1))
        week_hour = (hours + first.weekday() * 24) % 168
        start_us, end_us, first_us = ((each - _EPOCH) // timedelta(microseconds=1) for each in (start, end, first))
        grown = (1 + growth) ** (hours / 168)
        for tenant in range(TENANTS):
            by_day = random.lognormal(0, DAY_SIGMA, len(hours) // 24).repeat(24)
            requests = random.poisson(loads[tenant, week_hour] * grown * by_day)
            costs = [int(random.lognormal(23, 1, n).sum()) for n in requests]
            made.append(Month(days_between("UTC", start_us, end_us), np.array(costs, dtype=np.int64), first_us))
    return made


def errors(of: list[Month], share: float) -> tuple[list[float], list[float]]:
    """Relative errors of both rules at this share of the month: (by weekday shape, as it went)."""
    shaped, linear = [], []
    for month in of:
        start_us, end_us = month.days[0].start_us, month.days[-1].end_us
        now_us = start_us + int((end_us - start_us) * share) // _HOUR_US * _HOUR_US
        actual, spent = month.spent(start_us, end_us), month.spent(start_us, now_us)
        for found, history in ((shaped, month.history(now_us)), (linear, [])):
            found.append(abs(forecast(spent, 0, month.days, now_us, history).amount / actual - 1))
    return shaped, linear


def main() -> None:
    for growth in WEEKLY_GROWTHS:
        made, rows = months(growth), []
        for share in ELAPSED:
            shaped, linear = errors(made, share)
            rows.append(
                Row(
                    f"{share:.0%} of the month elapsed",
                    f"mean {mean(shaped):.1%}, median {median(shaped):.1%}, worst {max(shaped):.0%}",
                    f"mean {mean(linear):.1%}, median {median(linear):.1%}, worst {max(linear):.0%}",
                    f"{mean(shaped) / mean(linear):.0%}",
                )
            )
        show(
            f"Error of the forecast, {len(made)} budgets of a month, load grows {growth:.0%} a week"
            " (reached: by weekday shape; limit: as it went)",
            rows,
        )


if __name__ == "__main__":
    main()
