"""Retention: rows of whole days (rejects: months) go, and what they came to stays, written in the same transaction.

So the books go on to balance: what the positions counted, and what roll-ups hold, is rows that are there and rows that
were removed. Roll-ups are never removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import duckdb

from meterhouse.ingest.event import REFUSED_STATUSES, TOKEN_KINDS
from meterhouse.streams.latency import LOWER_US
from meterhouse.streams.ledger import LATENCY_KEYS, ROLLUP_KEYS
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.lake_files import files_of
from meterhouse.warehouse.lake_schema import (
    ADD_FILES,
    CHARGES,
    NODE_EVENTS,
    REJECTS,
    REMOVED,
    REMOVED_LATENCY,
    LakeTable,
    columns_sql,
    quoted,
)
from meterhouse.warehouse.lake_trouble import TROUBLE, passing, roll_back
from meterhouse.warehouse.lake_turns import turn
from meterhouse.warehouse.maintenance import folder_end_us
from meterhouse.warehouse.retention_terms import Retention

_DAY_US: Final = 86_400 * 1_000_000
_HOUR_US: Final = 3_600 * 1_000_000
MOST_PERIODS: Final = 8
"""Removed in a run, oldest first: commits wait for each of them, and the next run goes on."""
RETAINED: Final = (CHARGES, NODE_EVENTS, REJECTS)


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What a run removed: rows by table."""

    rows: Mapping[str, int] = field(default_factory=dict)
    trouble: str | None = None


def retain(lake: Lake, now_us: int, retention: Retention, window_hours: int, objective_days: int) -> RetentionReport:
    """Removes what is due. Of charges and node events nothing goes that arrived within the dedupe window, whose keys
    are read from them; nor charges that objectives look at, of windows up to `objective_days`.

    Of several processes one at a time does it. Passing trouble is told in the report.
    """
    rows: dict[str, int] = {}
    try:
        with turn(lake.config.catalogue, "maintenance") as ours:
            if ours:
                for table in RETAINED:
                    days = getattr(retention, table.name)
                    if days is not None:
                        kept = max(days, objective_days + 1) if table is CHARGES else days
                        rows[table.name] = _removed(lake, table, now_us - kept * _DAY_US, now_us, window_hours)
    except TROUBLE as trouble:
        if not passing(trouble):
            raise
        return RetentionReport(rows, lake.config.told(trouble))
    return RetentionReport(rows)


def _removed(lake: Lake, table: LakeTable, before_us: int, now_us: int, window_hours: int) -> int:
    """Rows removed of a table."""
    with lake.borrowed() as cursor:
        found = cursor.execute("SELECT data_file FROM ducklake_list_files('lake', ?)", [table.name]).fetchall()
    folders: dict[str, list[str]] = defaultdict(list)
    for (path,) in found:
        folders[str(path).rpartition("/")[0]].append(str(path))
    due = sorted((folder_end_us(folder), folder) for folder in folders if folder_end_us(folder) <= before_us)
    since_us = now_us - window_hours * _HOUR_US
    count = 0
    for _, folder in due[:MOST_PERIODS]:
        with lake.writing, lake.passage.through(alone=True), lake.borrowed() as cursor:
            count += _remove(lake, cursor, table, folders[folder], since_us)
    return count


def _remove(
    lake: Lake, cursor: duckdb.DuckDBPyConnection, table: LakeTable, names: Collection[str], since_us: int
) -> int:
    """Removes the rows of files, all of one period; 0: some of them are still needed."""
    written: list[str] = []
    files = [*names]
    try:
        cursor.execute("BEGIN TRANSACTION")
        count, newest_us = _one(
            cursor, f"SELECT count(*), epoch_us(max(arrived)) FROM {table.name} WHERE filename IN ?", files
        )
        if table is not REJECTS and newest_us is not None and newest_us >= since_us:
            cursor.execute("ROLLBACK")
            return 0
        sums = [(REMOVED, _SUMS[table.name])] + ([(REMOVED_LATENCY, latency_sql())] if table is CHARGES else [])
        for into, sql in sums:
            source = f"(SELECT * FROM {table.name} WHERE filename IN $files)"
            rows = cursor.execute(sql.format(source=source), {"files": files, **_params(sql)}).to_arrow_table()
            made = files_of(into, rows.cast(into.schema), lake.config.folder_of(into))
            written += [file.path for file in made]
            lake.store.write(made)
            if made:
                cursor.execute(ADD_FILES, [into.name, [file.path for file in made]])
        cursor.execute(f"DELETE FROM {table.name} WHERE filename IN ?", [files])
        cursor.execute("COMMIT")
    except BaseException:
        roll_back(cursor)
        for path in written:
            with suppress(OSError):  # an orphan then
                lake.store.remove(path)
        raise
    return int(count)


def _one(cursor: duckdb.DuckDBPyConnection, sql: str, files: Sequence[str]) -> tuple[int, int | None]:
    row = cursor.execute(sql, [files]).fetchone()
    assert row is not None
    return row[0], row[1]


_TOKENS: Final = ", ".join(f"sum({kind.tokens})::BIGINT AS {kind.tokens}" for kind in TOKEN_KINDS)
_DAY: Final = "date_trunc('day', {time}) AS \"time\""
_COST: Final = "0.000000000001"
_TEXTS: Final = [name for name in ROLLUP_KEYS if name not in ("partition", "time")]


def _sums_sql(keys: Mapping[str, str], tokens: str, cost: str, time: str = '"time"') -> str:
    """A select of REMOVED's rows; `keys`: what stands for each text column."""
    texts = ", ".join(f"{keys[name]} AS {quoted(name)}" for name in _TEXTS)
    return (
        f'SELECT "partition", {_DAY.format(time=time)}, {texts}, count(*)::BIGINT AS requests, {tokens},'
        f" ({cost})::DECIMAL(38,12) AS cost FROM {{source}} GROUP BY ALL"
    )


_NONE: Final = dict.fromkeys(_TEXTS, "''") | dict.fromkeys(("environment", "operation"), "NULL::VARCHAR")
_SUMS: Final = {
    "charges": _sums_sql(
        {name: quoted(name) for name in _TEXTS},
        _TOKENS,
        f"coalesce(sum(cost_pico), 0)::DECIMAL(26,0) * {_COST}",
    ),
    "node_events": _sums_sql(
        _NONE | {"tenant": "tenant", "model": "model", "provider": "provider", "disposition": "'informational'"},
        _TOKENS,
        "0",
    ),
    "rejects": _sums_sql(
        _NONE | {"tenant": "coalesce(tenant, '')", "disposition": "'rejected'"},
        ", ".join(f"0::BIGINT AS {kind.tokens}" for kind in TOKEN_KINDS),
        "0",
        "arrived",
    ),
}


def latency_sql() -> str:
    """A select of REMOVED_LATENCY's rows, of `{source}`; parameters: `latency_params`."""
    names = columns_sql([name for name in LATENCY_KEYS if name not in ("time", "metric", "bucket")])
    measured = " UNION ALL ".join(
        f"SELECT {names}, {_DAY.format(time=quoted('time'))}, '{metric}' AS metric, {metric}_us AS value_us"
        f" FROM {{source}} WHERE {metric}_us IS NOT NULL AND NOT list_contains($refused::VARCHAR[], status)"
        for metric in ("duration", "time_to_first_token")
    )
    buckets = "(SELECT unnest($lower_us::BIGINT[]) AS lower_us, unnest(range(len($lower_us)))::INTEGER AS bucket)"
    return (
        f"SELECT {columns_sql(LATENCY_KEYS)}, count(*)::BIGINT AS requests"
        f" FROM ({measured}) ASOF JOIN {buckets} ON value_us >= lower_us GROUP BY ALL"
    )


def _params(sql: str) -> dict[str, object]:
    known: dict[str, object] = {"refused": sorted(REFUSED_STATUSES), "lower_us": list(LOWER_US)}
    return {name: value for name, value in known.items() if f"${name}" in sql}
