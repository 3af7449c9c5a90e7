"""What extracts are made from, and how: a query of the lake, or rows that were worked out, become a small table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from meterhouse.ingest.event import Lateness
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.quality.checks import MAX_ROWS, Extract
from meterhouse.warehouse.quality.suites import DAYS
from meterhouse.warehouse.reports.as_of import AsOf, Freshness
from meterhouse.warehouse.reports.query import DAY_US, Query

MODEL: Final = "concat(provider, '/', model)"
"""A model as it is named everywhere: `provider/model`."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a run looks at: one snapshot of the lake, control data, and the clock as it began."""

    cursor: Cursor
    snapshot: Snapshot
    cards: Sequence[RateCard]  # every one there ever was: charges name them
    versions: Sequence[tuple[int, int]]  # of control data, the newest: number, and when it was recorded
    as_of: AsOf
    freshness: Freshness
    lateness: Lateness

    @property
    def now_us(self) -> int:
        return self.freshness.read_at_us

    @property
    def from_us(self) -> int:
        """The start of the first of DAYS days."""
        return self.to_us - (DAYS + 1) * DAY_US

    @property
    def to_us(self) -> int:
        """The end of tomorrow: an event may be ahead of the clock."""
        return self.now_us // DAY_US * DAY_US + 2 * DAY_US

    @property
    def last_day_us(self) -> int:
        """The start of the newest day of UTC that is over, and all in the lake."""
        until_us = self.now_us if self.as_of.watermark_us is None else min(self.as_of.watermark_us, self.now_us)
        return until_us // DAY_US * DAY_US - DAY_US


def extract(name: str, keys: tuple[str, ...], query: Query, sources: Sources) -> Extract:
    """The first MAX_ROWS rows of a query."""
    limited = replace(query, sql=f"SELECT * FROM (\n{query.sql}\n) LIMIT {MAX_ROWS + 1}")
    table = limited.batches(sources.cursor, MAX_ROWS + 1).read_all()
    return Extract(name, keys, table.slice(0, MAX_ROWS), len(table) <= MAX_ROWS)


def made(
    name: str, keys: tuple[str, ...], columns: Mapping[str, type[int] | type[str]], rows: Iterable[Mapping[str, Any]]
) -> Extract:
    """An extract of rows that were worked out."""
    schema = pa.schema([pa.field(name, pa.int64() if kind is int else pa.string()) for name, kind in columns.items()])
    table = pa.Table.from_pylist(list(rows), schema=schema)
    return Extract(name, keys, table.slice(0, MAX_ROWS), len(table) <= MAX_ROWS)


def day_sql(time_us: str) -> str:
    """A day of UTC as text."""
    return f"strftime(make_timestamp({time_us}), '%Y-%m-%d')"


def percent(now: Any, before: Any) -> int | None:
    """Whole percents that `now` is of `before`, exactly, rounded down; None: there was nothing before."""
    return int(now * 100 // before) if before > 0 else None
