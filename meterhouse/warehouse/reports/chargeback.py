"""Chargeback: what was billed, per any groups, over any time range, exact to the last pico-unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Snapshot
from meterhouse.streams.money import to_pico
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.errors import BooksError
from meterhouse.warehouse.reports.groups import (
    MAX_LINES,
    Group,
    Selection,
    check_lines,
    check_range,
    chosen,
    fact_keys,
    month_of,
    source_of,
)
from meterhouse.warehouse.reports.query import COST, KIND_COSTS, REQUESTS, TOKENS, Query, keepable_facts
from meterhouse.warehouse.reports.removed import check_pieces

default_range = month_of
"""default_range(now_us) → (from_us, to_us): the current month of UTC, whole."""


@dataclass(frozen=True, slots=True)
class Figures:
    requests: int  # whatever became of them
    billed_requests: int
    unpriced_requests: int  # billable, but no price was in force: not free, priced later
    tokens: Mapping[str, int]  # by kind, of billed requests, so that tokens × price = cost
    cost: Decimal  # currency, twelve decimals


@dataclass(frozen=True, slots=True)
class Line:
    groups: Mapping[str, str | None]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Chargeback:
    currency: str
    from_us: int
    to_us: int
    group_by: tuple[str, ...]
    lines: tuple[Line, ...]
    total: Figures
    as_of: AsOf


def chargeback(
    books: Books,
    snapshot: Snapshot,
    selection: Selection,
    group_by: Sequence[str] = (),
    freshness: Freshness | None = None,
) -> Chargeback:
    """Lines per `group_by` (names of `groups.GROUPS`), sorted by them in that order, absent values first.

    Times are UTC: a `day`, `hour` or `month` is UTC's. `org_unit` is the tenant's whole path (`group/consumer`), so
    that lines add up. What a tenant spent counts for the org unit and the cost center where it stood at the request's
    time, to the microsecond: a tenant that moved within the range is in the lines of both.

    With `kind` there is a line per token kind: its tokens and cost are that kind's alone, while its requests are all
    the requests of the other groups, and stand in each of the five kinds' lines. Tokens and cost of the lines always
    add up to the total, which is summed without the groups; requests do so too unless `kind` is among them.

    Raises ReportError on unknown groups or filters, an empty range or too many lines; BooksError when lines and total
    differ.
    """
    check_range(selection.from_us, selection.to_us)
    groups = chosen(group_by)
    with books.read() as cursor:
        lines, total = lines_of(cursor, snapshot, selection, groups)
        figures_as_of = as_of(books, cursor, freshness)
    return Chargeback(
        snapshot.currency, selection.from_us, selection.to_us, tuple(group_by), lines, total, figures_as_of
    )


def lines_of(
    cursor: Cursor, snapshot: Snapshot, selection: Selection, groups: Sequence[Group]
) -> tuple[tuple[Line, ...], Figures]:
    """Lines and total as `chargeback` has them: for reports of several ranges in one snapshot of the lake."""
    check_range(selection.from_us, selection.to_us)
    check_pieces(cursor, source_of(selection, snapshot, groups, "rollup_day").parts)
    rows = chargeback_query(snapshot, selection, groups).rows(cursor)
    check_lines(len(rows) - 1)
    *line_rows, total_row = rows
    lines = tuple(_line(groups, row) for row in line_rows)
    total = _figures(total_row[1 + len(groups) :], None)
    _check_sums(lines, total)
    return lines, total


def billed_total(cursor: Cursor, snapshot: Snapshot, selection: Selection) -> Figures:
    """The total alone, within the caller's read."""
    (row,) = chargeback_query(snapshot, selection, ()).rows(cursor)
    return _figures(row[1:], None)


def chargeback_query(
    snapshot: Snapshot, selection: Selection, groups: Sequence[Group], max_lines: int | None = MAX_LINES
) -> Query:
    """Rows: is it the total, the groups' values, requests, billed, unpriced, tokens per kind, cost. The total is last.

    There is at most one line more than `max_lines` (None: all). With a group `kind` only the first token column of a
    line counts: the tokens of its kind.
    """
    by_kind = any(group.name == "kind" for group in groups)
    measures = (REQUESTS, *TOKENS, COST, *(KIND_COSTS if by_kind else ()))
    keys = {**fact_keys(groups), "disposition": "disposition"}
    coarsest = "rollup_hour" if any(group.name == "hour" for group in groups) else "rollup_day"
    beside = source_of(selection, snapshot, groups, coarsest)
    source = keepable_facts(beside.parts, keys, measures, beside.where, snapshot.rate_cards if by_kind else None)
    names = [f"group_{number}" for number in range(len(groups))]
    values = [f"{group.line_sql} AS {name}" for group, name in zip(groups, names, strict=True)]
    nulls = [f"NULL AS {name}" for name in names]
    sums = _sums([_of_kind("tokens"), *["0"] * 4], _of_kind("cost")) if by_kind else _sums(_TOKEN_COLUMNS, "cost")
    lines = ", ".join(["false AS is_total", *values, *sums])
    total = ", ".join(["true AS is_total", *nulls, *_sums(_TOKEN_COLUMNS, "cost")])
    order = ", ".join(["is_total", *(f"{name} NULLS FIRST" for name in names)])
    # Without groups there are no lines, only the total.
    limit = "" if max_lines is None else f" LIMIT {max_lines + 1}"
    line_block = f"(SELECT {lines} FROM {beside.joined} GROUP BY ALL{limit}) UNION ALL " if groups else ""
    sql = (
        f"WITH facts AS MATERIALIZED (\n{source.sql}\n)\n"
        f"SELECT * FROM ({line_block}(SELECT {total} FROM facts))\nORDER BY {order}"
    )
    return Query(sql, {**source.params, **beside.params}, source.keepable)


_KIND_NAMES: Final = [kind.name for kind in TOKEN_KINDS]
_TOKEN_COLUMNS: Final = [kind.tokens for kind in TOKEN_KINDS]


def _of_kind(what: str) -> str:
    """The column of the row's kind."""
    cases = " ".join(f"WHEN '{k.name}' THEN {k.name}_{what}" for k in TOKEN_KINDS)
    return f"CASE kind {cases} END"


def _sums(tokens: Sequence[str], cost: str) -> list[str]:
    billed = "FILTER (disposition = 'billed')"
    return [
        "coalesce(sum(requests), 0) AS requests",
        f"coalesce(sum(requests) {billed}, 0) AS billed",
        "coalesce(sum(requests) FILTER (disposition = 'unpriced'), 0) AS unpriced",
        *(f"coalesce(sum({column}) {billed}, 0) AS tokens_{n}" for n, column in enumerate(tokens)),
        f"coalesce(sum({cost}), 0)::DECIMAL(38,12) AS cost",
    ]


def _line(groups: Sequence[Group], row: Sequence[Any]) -> Line:
    values = row[1 : 1 + len(groups)]
    labels = {group.name: group.label(value) for group, value in zip(groups, values, strict=True)}
    return Line(labels, _figures(row[1 + len(groups) :], labels.get("kind")))


def _figures(columns: Sequence[Any], kind: str | None) -> Figures:
    requests, billed, unpriced, *tokens, cost = columns
    names = (kind,) if kind else _KIND_NAMES
    return Figures(int(requests), int(billed), int(unpriced), dict(zip(names, map(int, tokens), strict=False)), cost)


def _check_sums(lines: Sequence[Line], total: Figures) -> None:
    """The lines are grouped and joined, the total is not: they can only agree when nothing was lost on the way."""
    if not lines:
        return
    cost = sum(to_pico(line.figures.cost) for line in lines)
    tokens = sum(count for line in lines for count in line.figures.tokens.values())
    if cost != to_pico(total.cost) or tokens != sum(total.tokens.values()):
        raise BooksError(
            f"chargeback lines add up to {cost} pico-units and {tokens} tokens, the total is {to_pico(total.cost)} and"
            f" {sum(total.tokens.values())}: run `meterhouse verify`, which names the rows that differ"
        )
