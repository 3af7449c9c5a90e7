"""How quickly gateways' and nodes' events are brought together by request, in a lake of millions of them.

A day of requests of 40 tenants, each with a gateway's event and, but for one in a thousand, a node's. A reader as
reports have it: 512 MB for DuckDB, beyond which it spills. Beside the report: the bare full outer join of both sides'
sums, without ranges, names, kinds and lines.
Run: python -m bench.reconciliation [REQUESTS]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.report import Row, show
from meterhouse.streams.reconciliation import GAPS, Terms
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.reports.as_of import Freshness
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.reconciliation import reconciliation
from meterhouse.warehouse.reports.reconciliation_requests import WantedRequests, reconciled_requests

REQUESTS: Final = 2_000_000
LOST_ONE_IN: Final = 1_000
RUNS: Final = 3
FROM_US: Final = 1_793_491_200_000_000
"""2026-11-01T00:00:00Z."""
DAY_US: Final = 86_400 * 1_000_000
SELECTION: Final = Selection(FROM_US, FROM_US + DAY_US)
LONG_AGO: Final = Freshness(FROM_US + 3 * DAY_US, {0: 0})
BATCH: Final = 500_000
"""Rows of one insert: as many as a commit may have."""

_SHARED: Final = """
gen_random_uuid() AS "key", 0 AS "partition", r AS "offset", 0 AS "index", moment AS arrived, moment AS "time",
concat('tenant-', r % 40) AS tenant, concat('model-', r % 12) AS model, concat('provider-', r % 3) AS provider,
printf('req-%x-%012x', hash(r) % 65536, hash(r + 1) % 281474976710656) AS request_id, 1 + r % 4000 AS input_tokens,
r % 300 AS cache_read_tokens, 0 AS cache_write_tokens, 1 + r % 900 AS output_tokens, 0 AS reasoning_tokens"""
_ROWS: Final = """(SELECT r, make_timestamptz($from_us + (r * $step_us)::BIGINT) AS moment
FROM range($first::BIGINT, $last::BIGINT) AS numbers(r))"""
_CHARGES: Final = f"""INSERT INTO charges BY NAME SELECT {_SHARED}, '/gateway/1' AS source, 'assistant' AS application,
'ok' AS status, 'billed' AS disposition, r % 1000000 AS cost_pico, 1 AS card, 1 AS control_version FROM {_ROWS}"""
_NODES: Final = f"""INSERT INTO node_events BY NAME SELECT {_SHARED}, '/nodes/1' AS source,
concat('node-', r % 64) AS node, 1000000 AS accelerator_us FROM {_ROWS} WHERE r % {LOST_ONE_IN} <> 0"""

_SUMS: Final = """SELECT tenant, request_id, count(*) AS events, sum(input_tokens + cache_read_tokens) AS input,
    sum(output_tokens) AS output, min("time") AS first, max(arrived) AS arrived"""
_JOINED: Final = f"""SELECT count(*), count(*) FILTER (g.input IS DISTINCT FROM n.input), max(g.first), max(n.arrived)
FROM ({_SUMS} FROM charges GROUP BY ALL) g FULL JOIN ({_SUMS} FROM node_events GROUP BY ALL) n
USING (tenant, request_id)"""


def build(lake: Lake, requests: int) -> int:
    """Fills the lake and returns the rows that a report reads."""
    ledger = LakeLedger(lake)
    ledger.seed(1)
    ledger.close()
    cursor = lake.cursor()
    for first in range(0, requests, BATCH):
        span = {"first": first, "last": min(first + BATCH, requests)}
        for statement in (_CHARGES, _NODES):
            cursor.execute(statement, {**span, "from_us": FROM_US, "step_us": DAY_US / requests})
    counts = (cursor.execute(f"SELECT count(*) FROM {table}").fetchall() for table in ("charges", "node_events"))
    return sum(int(rows[0][0]) for rows in counts)


def best_s(run: Callable[[], object]) -> float:
    """The best of RUNS: others use the machine too."""
    taken = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def measured(lake: Lake, rows: int) -> list[Row]:
    terms = Terms()

    def sql(statement: str) -> Callable[[], object]:
        def run() -> object:
            with lake.read() as cursor:
                return cursor.execute(statement).fetchall()

        return run

    report = reconciliation(lake, SELECTION, terms, LONG_AGO)
    assert report.total.gaps == report.total.kinds["gateway_only"].requests > 0
    gaps = WantedRequests(SELECTION)
    first = reconciled_requests(lake, gaps, terms, LONG_AGO)
    assert {line.kind for line in first.lines} <= set(GAPS)
    assert first.next is not None
    late = first.next._replace(time_us=FROM_US + DAY_US * 9 // 10)
    bare_s = best_s(sql(_JOINED))
    figures = {
        "report": best_s(lambda: reconciliation(lake, SELECTION, terms, LONG_AGO)),
        "first page of gaps": best_s(lambda: reconciled_requests(lake, gaps, terms, LONG_AGO)),
        "page of gaps in the last tenth": best_s(
            lambda: reconciled_requests(lake, replace(gaps, after=late), terms, LONG_AGO)
        ),
    }
    return [
        Row(name, f"{rows / taken_s / 1e6:.2f} M rows/s, {taken_s:.2f} s", f"{bare_s:.2f} s", f"{bare_s / taken_s:.0%}")
        for name, taken_s in figures.items()
    ]


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    with tempfile.TemporaryDirectory(prefix="bench-reconciliation-") as folder:
        config = LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")
        with Lake.open(config) as writer:
            rows = build(writer, requests)
        with Lake.open(config, read_only=True) as lake:
            before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            found = measured(lake, rows)
            after_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    show(f"{rows:,} events of {requests:,} requests (limit: the bare join)", found)
    print(f"memory of the process: at most {after_mib:,.0f} MiB ({before_mib:,.0f} MiB after filling the lake)")


if __name__ == "__main__":
    main()
