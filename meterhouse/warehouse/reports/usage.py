"""Usage: every request and its tokens, whatever its status, per time bucket and any groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from meterhouse.ingest.event import STATUSES, TOKEN_KINDS
from meterhouse.streams.control import Snapshot
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import (
    FILTERS,
    MAX_LINES,
    Group,
    Selection,
    check_lines,
    check_range,
    chosen,
    fact_keys,
    floor_sql,
    source_of,
)
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, MINUTE_US, REQUESTS, TOKENS, Query, keepable_facts
from meterhouse.warehouse.reports.removed import check_pieces

Every = Literal["minute", "hour", "day"]
BUCKETS_US: Final[Mapping[str, int]] = {"minute": MINUTE_US, "hour": HOUR_US, "day": DAY_US}
USAGE_GROUPS: Final = FILTERS
"""Time is in the buckets, and a request has tokens of all kinds at once: neither is a group here."""


@dataclass(frozen=True, slots=True)
class UsageFigures:
    requests: int
    by_status: Mapping[str, int]  # each of STATUSES
    tokens: Mapping[str, int]  # by kind, of every request


@dataclass(frozen=True, slots=True)
class UsageLine:
    time_us: int  # start of the bucket in UTC; the first and the last bucket may be cut by the range
    groups: Mapping[str, str | None]
    figures: UsageFigures


@dataclass(frozen=True, slots=True)
class Usage:
    from_us: int
    to_us: int
    every: Every
    group_by: tuple[str, ...]
    lines: tuple[UsageLine, ...]
    total: UsageFigures
    as_of: AsOf


def usage(
    books: Books,
    snapshot: Snapshot,
    selection: Selection,
    group_by: Sequence[str] = (),
    every: Every = "day",
    freshness: Freshness | None = None,
) -> Usage:
    """A line per bucket of UTC and `group_by` (names of USAGE_GROUPS) that has requests; sorted by time, then groups.

    Raises ReportError on unknown groups, filters or buckets, an empty range or too many lines.
    """
    check_range(selection.from_us, selection.to_us)
    if every not in BUCKETS_US:
        raise ReportError(f"there are no buckets of a {every!r}: use any of {', '.join(BUCKETS_US)}")
    groups = chosen(group_by, USAGE_GROUPS)
    with books.read() as cursor:
        check_pieces(cursor, source_of(selection, snapshot, groups, f"rollup_{every}").parts)
        rows = usage_query(snapshot, selection, groups, every).rows(cursor)
        figures_as_of = as_of(books, cursor, freshness)
    check_lines(len(rows) - 1)
    *line_rows, total_row = rows
    return Usage(
        selection.from_us,
        selection.to_us,
        every,
        tuple(group_by),
        tuple(_line(groups, row) for row in line_rows),
        _figures(total_row[2 + len(groups) :]),
        figures_as_of,
    )


def usage_query(snapshot: Snapshot, selection: Selection, groups: Sequence[Group], every: Every) -> Query:
    """Rows: is it the total, bucket, the groups' values, requests, requests per status, tokens per kind; total last."""
    keys = {**fact_keys(groups), "bucket_us": floor_sql(BUCKETS_US[every]), "status": '"status"'}
    beside = source_of(selection, snapshot, groups, f"rollup_{every}")
    source = keepable_facts(beside.parts, keys, (REQUESTS, *TOKENS), beside.where)
    names = [f"group_{number}" for number in range(len(groups))]
    values = [f"{group.line_sql} AS {name}" for group, name in zip(groups, names, strict=True)]
    sums = [
        "coalesce(sum(requests), 0) AS requests",
        *(f"coalesce(sum(requests) FILTER (status = '{s}'), 0) AS requests_{s}" for s in STATUSES),
        *(f"coalesce(sum({kind.tokens}), 0) AS {kind.tokens}" for kind in TOKEN_KINDS),
    ]
    lines = ", ".join(["false AS is_total", "bucket_us", *values, *sums])
    total = ", ".join(["true AS is_total", "NULL AS bucket_us", *(f"NULL AS {name}" for name in names), *sums])
    order = ", ".join(["is_total", "bucket_us", *(f"{name} NULLS FIRST" for name in names)])
    sql = (
        f"WITH facts AS MATERIALIZED (\n{source.sql}\n)\n"
        f"SELECT * FROM ((SELECT {lines} FROM {beside.joined} GROUP BY ALL LIMIT {MAX_LINES + 1})"
        f" UNION ALL (SELECT {total} FROM facts))\nORDER BY {order}"
    )
    return Query(sql, {**source.params, **beside.params}, source.keepable)


def _line(groups: Sequence[Group], row: Sequence[Any]) -> UsageLine:
    values = row[2 : 2 + len(groups)]
    labels = {group.name: group.label(value) for group, value in zip(groups, values, strict=True)}
    return UsageLine(int(row[1]), labels, _figures(row[2 + len(groups) :]))


def _figures(columns: Sequence[Any]) -> UsageFigures:
    requests, *counts = (int(count) for count in columns)
    by_status: dict[str, int] = dict(zip(STATUSES, counts[: len(STATUSES)], strict=True))
    tokens = {kind.name: count for kind, count in zip(TOKEN_KINDS, counts[len(STATUSES) :], strict=True)}
    return UsageFigures(requests, by_status, tokens)
