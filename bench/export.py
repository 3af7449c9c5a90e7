"""The FOCUS export of some 576,000 rows out of three million charges: rows per second, time to the first rows, peak
memory, each form in a process of its own. The limit is the same rows as Arrow, written nowhere.

Run: python -m bench.export
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.chargeback import FROM_US
from bench.report import Row, show
from bench.workload import APPLICATIONS, MODELS, TENANTS
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import RateCard, Snapshot, Tenant
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import ROLLUP_DAY, ROLLUP_HOUR, ROLLUP_MINUTE, delta_sum_sql
from meterhouse.warehouse.reports.focus import FocusExport, focus
from meterhouse.warehouse.reports.focus_files import csv_pieces, parquet_pieces
from meterhouse.warehouse.reports.focus_query import BillingAccount, FocusQuery
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import DAY_US

DAYS: Final = 6
CHARGES: Final = 3_000_000
GOAL_MIB: Final = 1024
BUILD: Final = "build"
PRICES: Final = {
    "input": 2_500_000,
    "cache_read": 250_000,
    "cache_write": 3_125_000,
    "output": 10**7,
    "reasoning": 10**7,
}
CONTROL: Final = Snapshot(
    1,
    "USD",
    tuple(Tenant(name, name.title(), ("group",), "CC-1") for name in TENANTS),
    tuple(RateCard(i, provider, model, None, 0, None, PRICES) for i, (provider, model) in enumerate(MODELS)),
)
FORMS: Final[dict[str, Callable[[FocusExport], Iterator[Sized]]]] = {
    "limit: rows as Arrow": lambda export: export.typed(),
    "csv": csv_pieces,
    "parquet": parquet_pieces,
}


def build(folder: Path) -> dict[str, Any]:
    """Charges of every tenant, application and model in every hour, and the roll-ups that belong to them."""
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data")) as lake:
        fill(lake)
    return {}


def fill(lake: Lake) -> None:
    ledger = LakeLedger(lake)
    ledger.seed(4)
    ledger.close()
    tokens = {kind.tokens: f"(1 + hash(i, '{kind.name}') % 5000)::BIGINT" for kind in TOKEN_KINDS}
    cost = " + ".join(f"{kind.tokens} * {PRICES[kind.name]}" for kind in TOKEN_KINDS)
    columns = (
        '"key", "partition", "offset", "index", arrived, "time", tenant, source, application, model, provider, status,'
        f" disposition, control_version, {', '.join(tokens)}, cost_pico, card"
    )
    moment = "make_timestamptz($from_us + (i * $step_us)::BIGINT)"
    made = ", ".join(f"{sql} AS {name}" for name, sql in tokens.items())
    source = (
        "SELECT i, i % 40 AS t, i // 40 % 4 AS a, i // 160 % 5 AS m, "
        f"{moment} AS moment, {made} FROM range($charges) AS charges(i)"
    )
    with lake.borrowed() as cursor:
        cursor.execute(
            f"INSERT INTO charges ({columns}) SELECT gen_random_uuid(), (t % 4)::INTEGER, i, 0, moment, moment,"
            " $tenants[t + 1], '/gateway/1', $applications[a + 1], $models[m + 1], $providers[m + 1], 'ok', 'billed',"
            f" 1, {', '.join(tokens)}, {cost}, m FROM ({source})",
            {
                "from_us": FROM_US,
                "step_us": DAYS * DAY_US // CHARGES,
                "charges": CHARGES,
                "tenants": list(TENANTS),
                "applications": list(APPLICATIONS),
                "models": [model for _, model in MODELS],
                "providers": [provider for provider, _ in MODELS],
            },
        )
        costs = ", ".join(
            f"({kind.tokens} * {PRICES[kind.name]})::DECIMAL(26,0) * 0.000000000001 AS {kind.cost}"
            for kind in TOKEN_KINDS
        )
        for table in (ROLLUP_MINUTE, ROLLUP_HOUR, ROLLUP_DAY):
            rows = f"(SELECT *, 1 AS requests, {costs} FROM charges)"
            cursor.execute(f"INSERT INTO {table.name} {delta_sum_sql(table, rows)}")


def export(folder: Path, form: str) -> dict[str, Any]:
    """Writes one form to nowhere: what it took."""
    config = LakeConfig(folder / "lake.sqlite", folder / "data")
    query = FocusQuery(
        CONTROL, CONTROL.rate_cards, BillingAccount("m", "M"), Selection(FROM_US, FROM_US + DAYS * DAY_US)
    )
    with Lake.open(config, read_only=True) as lake:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, first_s, size = time.perf_counter(), 0.0, 0
        with focus(lake, query) as made:
            for number, piece in enumerate(FORMS[form](made)):
                size += len(piece)
                if number == 1:  # the first is the header, or no row
                    first_s = time.perf_counter() - began
        took_s = time.perf_counter() - began
    return {
        "rows": made.rows,
        "took_s": took_s,
        "first_s": first_s,
        "bytes": size,
        "before_mib": before_kib / 1024,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def alone(folder: Path, what: str) -> dict[str, Any]:
    """Does it in a process of its own."""
    command = [sys.executable, "-m", "bench.export", str(folder), what]
    said: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return said


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A child's peak begins at what its parent holds, so nothing is done in this process.
        alone(folder, BUILD)
        results = {form: alone(folder, form) for form in FORMS}
    limit, *_ = results.values()
    rows = []
    for form, of in results.items():
        share = f"{limit['took_s'] / of['took_s']:.0%}"
        size = "" if of is limit else f", {of['bytes'] / 1e6:,.0f} MB"
        reached = f"{of['rows'] / of['took_s']:,.0f} rows/s{size}"
        rows.append(Row(f"{form}: {of['rows']:,} rows", reached, share="" if of is limit else share))
        rows.append(Row("  to the first rows", f"{of['first_s']:.2f} s"))
        peak = f"{of['peak_mib']:,.0f} MiB ({of['before_mib']:,.0f} before)"
        rows.append(Row("  peak resident memory", peak, goal=f"≤ {GOAL_MIB:,} MiB"))
    show(f"FOCUS export of {CHARGES:,} charges in {DAYS} days", rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps({BUILD: build}.get(sys.argv[2], partial(export, form=sys.argv[2]))(Path(sys.argv[1]))))
    else:
        main()
