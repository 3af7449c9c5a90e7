"""Spend of all budgets day by day, each by the calendar of its own time zone, in one query: what forecasts work from.

It is read from the hours' roll-ups. Where a zone's midnight cuts an hour of UTC (Kathmandu's does) that hour counts for
the day in which it begins: near enough for the shape of a week, and exact in all other zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import duckdb
import pyarrow as pa

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Budget, Snapshot
from meterhouse.streams.forecast import HISTORY_DAYS, Day, days_between
from meterhouse.streams.money import to_pico
from meterhouse.warehouse.reports.query import COST, DAY_US, HOUR_US, Condition, Query, between

Days = tuple[tuple[Day, int], ...]
"""HISTORY_DAYS and the running day, ascending, each with its spend in the unit of the budget's limit."""

_SCOPED: Final = ("tenant", "application", "model")
_ALL_TOKENS: Final = " + ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)
_BILLED: Final = Condition("disposition = 'billed'")


def budget_days(cursor: duckdb.DuckDBPyConnection, snapshot: Snapshot, at_us: int) -> Mapping[str, Days]:
    """By budget id: its billed requests' spend by day, up to the day that holds `at_us`."""
    if not snapshot.budgets:
        return {}
    calendars = {zone: _calendar(zone, at_us) for zone in {budget.window.time_zone for budget in snapshot.budgets}}
    spent: dict[tuple[int, int], int] = {}
    query, relations = _query(snapshot, calendars)
    for name, rows in relations.items():
        # Not as parameters: thousands of values in a plan take longer to plan than to run.
        cursor.register(name, rows)
    for number, day, cost, tokens in query.rows(cursor):
        in_money = snapshot.budgets[number].limit_pico is not None
        spent[number, day] = to_pico(cost) if in_money else int(tokens)
    return {
        budget.id: tuple((day, spent.get((n, i), 0)) for i, day in enumerate(calendars[budget.window.time_zone]))
        for n, budget in enumerate(snapshot.budgets)
    }


def history_of(days: Days) -> Sequence[tuple[date, int]]:
    """The complete days, as `forecast` takes them."""
    return [(day.date, amount) for day, amount in days[:-1]]


def _calendar(zone: str, at_us: int) -> tuple[Day, ...]:
    # Two days more than asked for: days may be short, and the zone ahead of UTC.
    return days_between(zone, at_us - (HISTORY_DAYS + 2) * DAY_US, at_us + 1)[-HISTORY_DAYS - 1 :]


def _query(snapshot: Snapshot, calendars: Mapping[str, Sequence[Day]]) -> tuple[Query, dict[str, pa.Table]]:
    """Rows (number of the budget, number of the day, cost, tokens), and the tables that it reads beside the lake's.
    Budgets whose scopes set the same parts are joined by these at once: a join per kind of scope, never budgets times
    rows."""
    scopes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for number, budget in enumerate(snapshot.budgets):
        for parts in _tenants_of(budget, snapshot):
            given = tuple(name for name in _SCOPED if parts[name] is not None)
            scopes.setdefault(given, []).append((number, budget.window.time_zone, *(parts[name] for name in given)))
    edges = [(zone, n, day.start_us, day.end_us) for zone, days in calendars.items() for n, day in enumerate(days)]
    if not scopes:
        return Query("SELECT 0, 0, 0, 0 WHERE false"), {}
    span = between(min(edge[2] for edge in edges) // HOUR_US * HOUR_US, max(edge[3] for edge in edges))
    condition = span & _BILLED
    relations = {"edges": _table(("zone", "day", "start_us", "end_us"), edges)}
    matches = []
    for shape, (given, rows) in enumerate(scopes.items()):
        relations[f"scopes_{shape}"] = _table(("number", "zone", *given), rows)
        shared = ", ".join(("zone", *given))
        matches.append(f"SELECT number, day, cost, tokens FROM daily JOIN scopes_{shape} USING ({shared})")
    sql = f"""
        WITH hours AS (
            SELECT zone, day, make_timestamptz(hour_us) AS hour
            FROM range($from_us, $to_us, {HOUR_US}) AS all_hours(hour_us)
            JOIN edges ON hour_us >= start_us AND hour_us < end_us
        ),
        hourly AS (
            SELECT "time", {", ".join(_SCOPED)}, {COST.of_rollups} AS cost, {_ALL_TOKENS} AS tokens
            FROM rollup_hour WHERE {condition.sql} GROUP BY ALL
        ),
        daily AS (
            SELECT zone, day, {", ".join(_SCOPED)}, sum(cost) AS cost, sum(tokens) AS tokens
            FROM hourly JOIN hours ON "time" = hour GROUP BY ALL
        )
        SELECT number, day, sum(cost)::DECIMAL(38,12), sum(tokens) FROM ({" UNION ALL ".join(matches)}) GROUP BY ALL
    """
    return Query(sql, condition.params), relations


def _tenants_of(budget: Budget, snapshot: Snapshot) -> list[dict[str, str | None]]:
    """The budget's scope with its org unit as tenants: none where the unit has none."""
    scope = budget.scope
    rest = {"application": scope.application, "model": scope.model}
    if scope.org_unit is None:
        return [{"tenant": scope.tenant, **rest}]
    members = [tenant.id for tenant in snapshot.tenants if scope.org_unit in tenant.org]
    return [{"tenant": member, **rest} for member in members if scope.tenant in (None, member)]


def _table(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
