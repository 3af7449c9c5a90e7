"""Chargeback of a month by tenant and model with ten million events behind it, on a warm connection.

The lake is as maintenance leaves it: 50 tenants × 3 applications × 4 models × 30 days, roll-ups by day and hour whole,
by minute and charge by charge for the last day, which is all that an open range touches. The limit is the bare
aggregate over an in-memory copy of the same days. Run: python -m bench.chargeback
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import EMPTY
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import ROLLUP_DAY, delta_sum_sql
from meterhouse.warehouse.reports.as_of import Freshness, positions_of
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import COST, DAY_US, HOUR_US, MINUTE_US, REQUESTS, TOKENS, Query, pieces
from meterhouse.warehouse.reports.to_json import to_json

FROM_US: Final = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
DAYS: Final = 30
TO_US: Final = FROM_US + DAYS * DAY_US
TARGET_MS: Final = 50
RUNS: Final = 100
WARM_UP: Final = 10

_KEYS: Final = (
    "(t % 4)::INTEGER, make_timestamptz($from_us + step * $unit_us), concat('tenant-', t), concat('application-', a),"
    " 'prod', concat('model-', m), concat('provider-', m % 2), 'chat', status,"
    " CASE status WHEN 'error' THEN 'unbilled' ELSE 'billed' END"
)
_COUNTS: Final = "r % 90000, r % 20000, 0, r % 7000, r % 500"
_COSTS: Final = ", ".join(
    f"(CASE status WHEN 'error' THEN 0 ELSE {tokens} * {price} END)::DECIMAL(38,12)"
    for tokens, price in (
        ("(r % 90000)", "0.0000025"),
        ("(r % 20000)", "0.00000025"),
        ("0", "0"),
        ("(r % 7000)", "0.00001"),
        ("(r % 500)", "0.00001"),
    )
)
_ROWS: Final = """
    (SELECT *, (random() * 1e9)::BIGINT AS r
     FROM range($first, $last) AS steps(step), range(50) AS tenants(t), range(3) AS applications(a),
          range(4) AS models(m), (VALUES ('ok', 1), ('error', 4), ('aborted', 10)) AS statuses(status, one_in)
     WHERE hash(step, t, a, m, status) % one_in = 0)
"""


def build(lake: Lake, from_us: int = FROM_US, requests: int = 40, *, charges: bool = True) -> dict[str, int]:
    """Fills the lake with DAYS days from `from_us` on, and returns the rows of each table. `requests`: the most of a
    group in an hour; without `charges` there are roll-ups alone."""
    ledger = LakeLedger(lake)
    ledger.seed(4)
    ledger.close()
    cursor = lake.cursor()
    cursor.execute("SELECT setseed(0.25)")
    roll_up = f"SELECT {_KEYS}, r % {requests} + 1, {_COUNTS}, {_COSTS} FROM {_ROWS}"
    hours = {"from_us": from_us, "unit_us": HOUR_US, "first": 0, "last": DAYS * 24}
    cursor.execute(f"INSERT INTO rollup_hour {roll_up}", hours)
    in_days = 'SELECT * REPLACE (date_trunc(\'day\', "time") AS "time") FROM rollup_hour'
    cursor.execute(f"INSERT INTO rollup_day {delta_sum_sql(ROLLUP_DAY, f'({in_days})')}")
    last_day = {"from_us": from_us, "unit_us": MINUTE_US, "first": (DAYS - 1) * 1440, "last": DAYS * 1440}
    # A tenth of the combinations has a request in a minute: 330,000 a day are 10 million a month.
    cursor.execute(f"INSERT INTO rollup_minute {roll_up} WHERE r % 10 = 0", last_day)
    if charges:
        cursor.execute(_charges_sql(), last_day)
    tables = ("rollup_day", "rollup_hour", "rollup_minute", "charges")
    return {table: cursor.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] for table in tables}


def _charges_sql() -> str:
    columns = (
        '"key", "partition", "offset", "index", arrived, "time", tenant, source, application, environment, model,'
        " provider, operation, status, disposition, control_version, cost_pico, card, "
        + ", ".join(kind.tokens for kind in TOKEN_KINDS)
    )
    moment = "make_timestamptz($from_us + step * $unit_us + r % 60000000)"
    return (
        f"INSERT INTO charges ({columns}) SELECT gen_random_uuid(), (t % 4)::INTEGER, r, 0, {moment}, {moment},"
        " concat('tenant-', t), '/gateway/1', concat('application-', a), 'prod', concat('model-', m),"
        " concat('provider-', m % 2), 'chat', 'ok', 'billed', 1, r % 1000000000, 1, r % 4000, r % 300, 0, r % 900, 0"
        f" FROM {_ROWS} WHERE r % 7 = 0 AND status = 'ok' ORDER BY step"
    )


@dataclass(frozen=True)
class Timing:
    p50_ms: float
    p95_ms: float


def timed(run: Callable[[], object]) -> Timing:
    for _ in range(WARM_UP):
        run()
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1000)
    taken.sort()
    return Timing(taken[RUNS // 2], taken[RUNS * 95 // 100])


def bare(lake: Lake, table: str) -> Callable[[], object]:
    """The aggregate alone, over a copy of the table in memory."""
    cursor = lake.cursor()
    cursor.execute(f"CREATE TABLE memory.main.{table} AS FROM {table}")
    sums = ", ".join(f"{m.of_rollups} AS {m.name}" for m in (REQUESTS, *TOKENS, COST))
    query = Query(f"SELECT tenant, model, disposition, {sums} FROM memory.main.{table} GROUP BY ALL")
    return lambda: query.rows(cursor)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")
        with Lake.open(config) as lake:
            rows = build(lake)
            print(
                ", ".join(f"{table} {count:,} rows" for table, count in rows.items()), f"· DuckDB {duckdb.__version__}"
            )
            cut_us = TO_US - 5 * HOUR_US - 17 * MINUTE_US - 12_345_678
            whole, cut = Selection(FROM_US, TO_US), Selection(FROM_US + 1, cut_us)
            by = ("tenant", "model")
            with lake.read() as cursor:  # as the API does: positions are kept for as long as the snapshot is the newest
                positions = positions_of(lake, cursor)
            ends = {position.partition: position.next_offset for position in positions.committed}
            fresh = Freshness(TO_US, ends, positions=positions)
            cases: dict[str, Callable[[], object]] = {
                "limit: bare aggregate of the days, in memory": bare(lake, "rollup_day"),
                "a month by tenant, model": lambda: to_json(chargeback(lake, EMPTY, whole, by, fresh)),
                f"an open range ({len(pieces(cut.from_us, cut.to_us))} pieces) by tenant, model": lambda: to_json(
                    chargeback(lake, EMPTY, cut, by, fresh)
                ),
                "a month by tenant, day": lambda: to_json(chargeback(lake, EMPTY, whole, ("tenant", "day"), fresh)),
                "bare aggregate of the hours, in memory": bare(lake, "rollup_hour"),
            }
            timings = {name: timed(run) for name, run in cases.items()}
    limit, month = (timings[name] for name in list(cases)[:2])
    for name, timing in timings.items():
        print(f"{name:<55} p50 {timing.p50_ms:6.1f} ms   p95 {timing.p95_ms:6.1f} ms")
    print(f"target p95 {TARGET_MS} ms: {'met' if month.p95_ms <= TARGET_MS else 'MISSED'};", end=" ")
    print(f"limit / reached at p50: {limit.p50_ms / month.p50_ms:.0%}")


if __name__ == "__main__":
    main()
