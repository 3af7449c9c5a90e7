"""Objectives with a month of single requests behind them: what /v1/slo and a burn-down cost, first and again.

The lake is as maintenance leaves it: charges in files of a day, each with its latencies, histograms by the hour beside
them. Ten objectives look at tenants, an application, an org unit and everything; their windows end now, and so cut a
minute and an hour. First: by a process that has kept nothing yet. Again: as who polls sees it. After a commit: with new
files that nobody has looked at. The limit is to count all of it anew.
Run: python -m bench.objectives [MILLIONS OF CHARGES, 100 if not given]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import duckdb

from bench.report import Row, show
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Objective, Scope, Snapshot, Tenant
from meterhouse.streams.latency import LOWER_US
from meterhouse.warehouse.books import Books, SeenBooks
from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.reports.as_of import Freshness, positions_of
from meterhouse.warehouse.reports.burn_down import burn_down
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US
from meterhouse.warehouse.reports.slo import slo
from meterhouse.warehouse.view import EVERYTHING

FROM_US: Final = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
DAYS: Final = 29
NOW_US: Final = FROM_US + (DAYS - 1) * DAY_US + 17 * HOUR_US + 1_234_567_891
ASKED: Final = 20
GOAL_MS: Final = 300
TENANTS: Final = tuple(Tenant(f"tenant-{t}", f"Tenant {t}", (f"unit-{t % 5}",), None) for t in range(50))
_SCOPES: Final = (
    Scope(),
    Scope(application="application-1"),
    Scope(org_unit="unit-3"),
    *(Scope(tenant=f"tenant-{t}") for t in range(7)),
)
_SLIS: Final = (("availability", None), ("duration", 4_000), ("time_to_first_token", 400))
CONTROL: Final = Snapshot(
    version=1,
    currency="USD",
    tenants=TENANTS,
    objectives=tuple(
        Objective(f"slo-{n}", scope, *_SLIS[n % 3], Decimal("0.99"), 28)  # type: ignore[arg-type]
        for n, scope in enumerate(_SCOPES)
    ),
)


def build(lake: Lake, charges: int) -> tuple[int, int]:
    """Rows of charges and of histograms."""
    ledger = LakeLedger(lake)
    ledger.seed(4)
    ledger.close()
    with lake.borrowed() as cursor:
        cursor.execute("SELECT setseed(0.25)")
        for day in range(DAYS):
            until_us = min(DAY_US, NOW_US - FROM_US - day * DAY_US)
            add(cursor, charges // DAYS * until_us // DAY_US, FROM_US + day * DAY_US, until_us)
        counted = [cursor.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("charges", "latency_hour")]
    first, second = (row[0] for row in counted if row)
    return first, second


def add(cursor: duckdb.DuckDBPyConnection, count: int, start_us: int, length_us: int) -> None:
    """`count` requests in the order of their time, evenly over a span within a day, with their histograms."""
    tokens = ", ".join(kind.tokens for kind in TOKEN_KINDS)
    cursor.execute("BEGIN TRANSACTION")
    cursor.execute(
        f"""
        INSERT INTO charges ("key", "partition", "offset", "index", arrived, "time", tenant, source, application,
            environment, model, provider, operation, status, disposition, control_version, cost_pico, card, {tokens},
            duration_us, time_to_first_token_us)
        SELECT uuid(), n % 4, $start + n, 0, moment, moment, concat('tenant-', (r * 50)::INTEGER % 50), '/gateway/1',
            concat('application-', n % 3), 'prod', concat('model-', (r * 977)::INTEGER % 4),
            concat('provider-', (r * 977)::INTEGER % 2), 'chat', CASE n % 97 WHEN 0 THEN 'error' ELSE 'ok' END,
            'billed', 1, (r * 1e9)::BIGINT, 1, (r * 4000)::INTEGER, (s * 300)::INTEGER, 0, 0, 0,
            (300000 * exp(1.5 * (r + s)))::BIGINT, (50000 * exp(2 * s))::BIGINT
        FROM (SELECT n, random() AS r, random() AS s, make_timestamptz($start + n * $length // $count) AS moment
              FROM range($count) AS numbers(n))
        ORDER BY n
        """,
        {"start": start_us, "length": length_us, "count": count},
    )
    measured = " UNION ALL ".join(
        f"""SELECT "partition", date_trunc('hour', "time") AS hour, tenant, application, model, provider,
            '{metric}' AS metric, {metric}_us AS value_us FROM charges
            WHERE "time" >= make_timestamptz($start) AND "time" < make_timestamptz($start + $length)"""
        for metric in ("duration", "time_to_first_token")
    )
    cursor.execute(
        f"""
        INSERT INTO latency_hour
        SELECT "partition", hour, tenant, application, model, provider, metric, bucket, count(*)
        FROM ({measured}) ASOF JOIN (
            SELECT unnest($lower_us::BIGINT[]) AS lower_us, unnest(range(len($lower_us)))::INTEGER AS bucket
        ) ON value_us >= lower_us
        GROUP BY ALL ORDER BY hour, tenant
        """,
        {"start": start_us, "length": length_us, "lower_us": list(LOWER_US)},
    )
    cursor.execute("COMMIT")


def asked(run: Callable[[], object], times: int = ASKED) -> tuple[float, float]:
    """p50 and p95, milliseconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return median(taken), taken[len(taken) * 95 // 100 - 1] if times > 1 else taken[0]


def main(millions: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Lake.open(LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data", threads=2)) as lake,
    ):
        charges, buckets = build(lake, millions * 1_000_000)
        print(f"{charges:,} charges, {buckets:,} rows of histograms, duckdb {duckdb.__version__}")
        measure(lake)


def fresh(lake: Lake) -> Freshness:
    """As the API does: positions are kept for as long as the snapshot is the newest."""
    with lake.read() as cursor:
        return Freshness(NOW_US, {}, positions=positions_of(lake, cursor))


def measure(lake: Lake) -> None:
    kept = SeenBooks(lake, EVERYTHING, sums=KeptSums(lake))
    first, lines = CONTROL.objectives[0], []
    reports: dict[str, Callable[[Books, Freshness], object]] = {
        "slo": lambda books, known: slo(books, CONTROL, NOW_US, None, known),
        "burn-down": lambda books, known: burn_down(books, CONTROL, first, NOW_US, None, known),
    }
    for name, report in reports.items():
        known = fresh(lake)
        limit = asked(partial(report, SeenBooks(lake, EVERYTHING), known), 1)
        lines.append(_line(f"{name}, first", asked(partial(report, kept, known), 1), limit))
        lines.append(_line(f"{name}, again", asked(partial(report, kept, known)), limit))
        with lake.borrowed() as cursor:
            add(cursor, 10_000, NOW_US - 1_000_000, 1_000_000)
        lines.append(_line(f"{name}, after a commit", asked(partial(report, kept, fresh(lake)), 1), limit))
    show("Objectives (limit: all of it counted anew)", lines)


def _line(name: str, taken: tuple[float, float], limit: tuple[float, float]) -> Row:
    p50, p95 = taken
    reached = f"{p50:,.0f} ms" if p50 == p95 else f"p50 {p50:,.0f} ms, p95 {p95:,.0f} ms"
    return Row(name, reached, f"{limit[0]:,.0f} ms", goal=f"{GOAL_MS} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
