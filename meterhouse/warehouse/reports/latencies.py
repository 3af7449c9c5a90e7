"""Latencies: percentiles of durations and of times to the first token, per bucket of time and any groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import (
    GROUPS,
    Filters,
    Group,
    Selection,
    check_lines,
    check_range,
    chosen,
    in_order,
    one_of,
)
from meterhouse.warehouse.reports.histograms import Percentiles, histogram_rows, percentiles
from meterhouse.warehouse.reports.query import Condition, pieces
from meterhouse.warehouse.reports.removed import check_there

LATENCY_GROUPS: Final = ("tenant", "application", "model", "provider")
"""What a stored histogram knows of its requests."""
Step = Literal["whole", "hour", "day", "month"]

_Key = tuple[int | None, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LatencyLine:
    time_us: int | None  # start of the bucket in UTC, the first and the last may be cut by the range; None: all of it
    groups: Mapping[str, str]
    percentiles_us: Percentiles


@dataclass(frozen=True, slots=True)
class Latencies:
    from_us: int
    to_us: int
    every: Step
    group_by: tuple[str, ...]
    lines: tuple[LatencyLine, ...]  # by time, then groups
    total: Percentiles
    as_of: AsOf


def latencies(
    books: Books,
    selection: Selection,
    group_by: Sequence[str] = (),
    every: Step = "day",
    freshness: Freshness | None = None,
) -> Latencies:
    """A line per bucket of UTC (`whole`: one for the range) and `group_by` that has requests which were not refused.

    Raises ReportError, also for a filter or a group that is none
    of LATENCY_GROUPS.
    """
    check_range(selection.from_us, selection.to_us)
    groups = chosen(group_by, LATENCY_GROUPS)
    window = selection.from_us, selection.to_us
    with books.read() as cursor:
        for part in pieces(*window, "rollup_hour"):
            if part.table != "rollup_hour":  # from charges: there are no histograms of less than an hour
                check_there(cursor, part.from_us, part.to_us)
        rows = histogram_rows(cursor, window, _filtered(selection.filters), _keys(groups, every))
        figures_as_of = as_of(books, cursor, freshness)
    found: dict[_Key, list[tuple[Any, ...]]] = {}
    for row in rows:
        found.setdefault((row[0], tuple(row[1 : 1 + len(groups)])), []).append(row)
    check_lines(len(found))
    lines = [
        LatencyLine(time_us, dict(zip(group_by, values, strict=True)), percentiles(found[time_us, values]))
        for time_us, values in sorted(found, key=lambda key: (key[0] or 0, in_order(key[1])))
    ]
    return Latencies(*window, every, tuple(group_by), tuple(lines), percentiles(rows), figures_as_of)


def _keys(groups: Sequence[Group], every: Step) -> list[str]:
    return ["NULL" if every == "whole" else GROUPS[every].key_sql, *(group.key_sql for group in groups)]


def _filtered(filters: Filters) -> Condition:
    condition = Condition("true")
    for name, values in filters.items():
        if name not in LATENCY_GROUPS:
            raise ReportError(f"latencies are not known by {name!r}: filter by {', '.join(LATENCY_GROUPS)}")
        condition &= one_of(name, f"filter_{name}", values)
    return condition
