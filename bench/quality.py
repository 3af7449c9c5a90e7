"""Data quality over ten million charges of eight days: 40 tenants, 5 models, 4 partitions, with their roll-ups.

What a run of each suite takes, its extracts in DuckDB and its checks in Great Expectations apart, and the process's
memory at most. The limit is one scan of the columns that the extract of events reads. Run: python -m bench.quality
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from bench.report import Row, show
from meterhouse.ingest.event import TOKEN_KINDS, Lateness
from meterhouse.streams.control import EMPTY
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import ROLLUP_DAY, ROLLUP_HOUR, delta_sum_sql, position_table
from meterhouse.warehouse.quality.expectations import Expectations
from meterhouse.warehouse.quality.runs import checked, extracts_of
from meterhouse.warehouse.quality.sources import Sources
from meterhouse.warehouse.quality.suites import DAYS, SUITES
from meterhouse.warehouse.reports.as_of import Freshness, as_of
from meterhouse.warehouse.reports.query import DAY_US

FROM_US: Final = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
NOW_US: Final = FROM_US + DAYS * DAY_US - 1
CHARGES: Final = 10_000_000
PARTITIONS: Final = 4
_TOKENS: Final = ", ".join(kind.tokens for kind in TOKEN_KINDS)
_KEYS: Final = '"partition", "time", tenant, application, environment, model, provider, operation, status, disposition'

Answer = TypeVar("Answer")


def build(lake: Lake) -> None:
    ledger = LakeLedger(lake)
    ledger.seed(PARTITIONS)
    ledger.close()
    cursor = lake.cursor()
    moment = f"make_timestamptz({FROM_US} + i * {DAYS * DAY_US // CHARGES})"
    for first in range(0, CHARGES, CHARGES // DAYS):
        cursor.execute(
            f"""
            INSERT INTO charges ("key", "partition", "offset", "index", arrived, "time", tenant, source, application,
                environment, model, provider, operation, status, disposition, control_version, cost_pico, card,
                duration_us, time_to_first_token_us, http_status, {_TOKENS})
            SELECT gen_random_uuid(), (i % {PARTITIONS})::INTEGER, i // {PARTITIONS}, 0, {moment}, {moment},
                concat('tenant-', i % 40), '/gateway/1', 'assistant', 'prod', concat('model-', r % 5), 'atlas', 'chat',
                'ok', 'billed', 0, r % 1000000, 1, r % 9000000 + 1000, r % 1000, 200, r % 4000, r % 300, 0, r % 900, 0
            FROM (SELECT i, (hash(i) % 1000000007)::BIGINT AS r FROM range({first}, {first + CHARGES // DAYS}) AS n(i))
            """
        )
    sums = ", ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)
    minutes = _KEYS.replace('"time"', "date_trunc('minute', \"time\")")
    cursor.execute(
        f"INSERT INTO rollup_minute SELECT {minutes}, count(*), {sums},"
        " sum(cost_pico)::DECIMAL(26,0) * 0.000000000001, 0, 0, 0, 0 FROM charges GROUP BY ALL"
    )
    for table in (ROLLUP_HOUR, ROLLUP_DAY):
        source = f'(SELECT * REPLACE (date_trunc(\'{table.unit}\', "time") AS "time") FROM rollup_minute)'
        cursor.execute(f"INSERT INTO {table.name} {delta_sum_sql(table, source)}")
    each = CHARGES // PARTITIONS
    for partition in range(PARTITIONS):
        cursor.execute(
            f"UPDATE {position_table(partition)} SET next_offset = {each}, read = {each}, billed = {each},"
            f" arrived_us = {NOW_US}"
        )


def timed(run: Callable[[], Answer]) -> tuple[Answer, float]:
    start_s = time.perf_counter()
    answer = run()
    return answer, time.perf_counter() - start_s


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")
        with Lake.open(config) as lake:
            build(lake)
        with Lake.open(config, read_only=True) as lake, lake.read() as cursor:
            fresh = Freshness(NOW_US, dict.fromkeys(range(PARTITIONS), CHARGES // PARTITIONS))
            sources = Sources(cursor, EMPTY, (), (), as_of(lake, cursor, fresh), fresh, Lateness())
            scanned = (
                "tenant, provider, model, duration_us, time_to_first_token_us, queue_us, http_status, cost_pico,"
                f' "time", arrived, {_TOKENS}'
            )
            columns = ", ".join(f"max({name})" for name in scanned.split(","))
            _, scan_s = timed(lambda: cursor.execute(f"SELECT {columns} FROM charges").fetchall())
            for suite in SUITES:
                extracts, extracts_s = timed(partial(extracts_of, [suite], sources))
                largest = max(len(each.table) for each in extracts.values())
                result, checks_s = timed(partial(checked, suite, sources, extracts, Expectations().validate))
                of_events = (f"{scan_s:.2f} s", f"{scan_s / extracts_s:.0%}") if suite == "events" else ()
                rows.append(
                    Row(f"{suite}: extracts, the largest of {largest:,} rows", f"{extracts_s:.2f} s", *of_events)
                )
                rows.append(
                    Row(f"{suite}: {len(result.checks)} checks, {len(result.failed)} fail", f"{checks_s:.2f} s")
                )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.append(Row("memory", f"{peak_mib:,.0f} MiB"))
    show(f"Data quality over {CHARGES:,} charges", rows)


if __name__ == "__main__":
    main()
