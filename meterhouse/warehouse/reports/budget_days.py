"""Spend of all budgets day by day, each by the calendar of its own time zone, in one query: what forecasts work from.

Whole days of UTC are read from the days' roll-ups; days of other zones from the hours', which are twenty times as many
rows. Where a zone's midnight cuts an hour of UTC (Kathmandu's does) that hour counts for the day in which it begins:
near enough for the shape of a week, and exact in all other zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import pyarrow as pa

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.budget_state import Window
from meterhouse.streams.control import Budget, Snapshot, WindowSpec
from meterhouse.streams.forecast import HISTORY_DAYS, Day, days_between
from meterhouse.streams.money import to_pico
from meterhouse.streams.windows import window_of
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.query import COST, DAY_US, HOUR_US, Condition, KeepableSums, Query, between

Spend = tuple[int, int]
"""In pico-units, and in tokens of all kinds."""


@dataclass(frozen=True, slots=True)
class BudgetDays:
    """A budget's billed requests, of its window that holds a moment and day by day up to then."""

    days: tuple[tuple[Day, int], ...]
    """HISTORY_DAYS and the running day, ascending, each with its spend in the unit of the budget's limit."""
    window: Window
    spent: Spend | None  # in the window, exact; None: the window begins or ends within an hour of UTC

    @property
    def history(self) -> Sequence[tuple[date, int]]:
        """The complete days, as `forecast` takes them."""
        return [(day.date, amount) for day, amount in self.days[:-1]]


_SCOPED: Final = ("tenant", "application", "model")
_LAYERS: Final = {"rollup_day": DAY_US, "rollup_hour": HOUR_US}
_ALL_TOKENS: Final = " + ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)
_BILLED: Final = Condition("disposition = 'billed'")


def budget_days(cursor: Cursor, snapshot: Snapshot, at_us: int) -> Mapping[str, BudgetDays]:
    """By budget id. The window and the running day are those that hold `at_us`."""
    specs = {budget.window for budget in snapshot.budgets}
    calendars = {spec.time_zone: _calendar(spec.time_zone, at_us) for spec in specs}
    windows = {spec: window_of(spec, at_us) for spec in specs}
    spans = [(zone, n, day.start_us, day.end_us) for zone, days in calendars.items() for n, day in enumerate(days)]
    spans += [(_name(spec), 0, *window) for spec, window in windows.items()]
    spends = _spends(cursor, snapshot, spans)

    def of(number: int, budget: Budget) -> BudgetDays:
        spec, window = budget.window, windows[budget.window]
        unit = 1 if budget.limit_pico is None else 0
        days = enumerate(calendars[spec.time_zone])
        exact = all(edge_us % HOUR_US == 0 for edge_us in window)
        return BudgetDays(
            tuple((day, spends.get((number, spec.time_zone, n), (0, 0))[unit]) for n, day in days),
            window,
            spends.get((number, _name(spec), 0), (0, 0)) if exact else None,
        )

    return {budget.id: of(number, budget) for number, budget in enumerate(snapshot.budgets)}


def _name(spec: WindowSpec) -> str:
    return f"{spec.every} {spec.time_zone}"


def _calendar(zone: str, at_us: int) -> tuple[Day, ...]:
    # Two days more than asked for: days may be short, and the zone ahead of UTC.
    return days_between(zone, at_us - (HISTORY_DAYS + 2) * DAY_US, at_us + 1)[-HISTORY_DAYS - 1 :]


def _spends(
    cursor: Cursor, snapshot: Snapshot, spans: Sequence[tuple[str, int, int, int]]
) -> dict[tuple[int, str, int], Spend]:
    """By (budget's number, calendar, number in it), where there is any. `spans`: (calendar, number in it, start, end);
    a budget's calendars are its zone and its kind of window."""
    query, relations = _query(snapshot, spans)
    for name, rows in relations.items():
        # Not as parameters: thousands of values in a plan take longer to plan than to run.
        cursor.register(name, rows)
    return {
        (number, calendar, step): (to_pico(cost), int(tokens))
        for number, calendar, step, cost, tokens in query.rows(cursor)
    }


def _query(snapshot: Snapshot, spans: Sequence[tuple[str, int, int, int]]) -> tuple[Query, dict[str, pa.Table]]:
    """The query of `_spends`, and the tables that it reads beside the lake's. Budgets whose scopes set the same parts
    are joined by these at once: a join per kind of scope, never budgets times rows."""
    scopes: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for number, budget in enumerate(snapshot.budgets):
        for parts in _tenants_of(budget, snapshot):
            given = tuple(name for name in _SCOPED if parts[name] is not None)
            values = tuple(parts[name] for name in given)
            names = budget.window.time_zone, _name(budget.window)
            scopes.setdefault(given, []).extend((number, name, *values) for name in names)
    if not scopes:
        return Query("SELECT 0, '', 0, 0, 0 WHERE false"), {}
    named = tuple(name for name in _SCOPED if any(name in given for given in scopes))
    relations: dict[str, pa.Table] = {}
    params: dict[str, Any] = {}
    keepable: dict[str, KeepableSums] = {}
    summed = []
    for table, unit_us in _LAYERS.items():
        if of_table := [span for span in spans if _table_of(span) == table]:
            relations[f"spans_{table}"] = _table(("calendar", "step", "start_us", "end_us"), of_table)
            part = _summed(table, unit_us, named, (min(s[2] for s in of_table), max(s[3] for s in of_table)))
            summed.append(part.sql)
            params |= part.params
            keepable |= part.keepable
    matches = []
    for shape, (given, rows) in enumerate(scopes.items()):
        relations[f"scopes_{shape}"] = _table(("number", "calendar", *given), rows)
        shared = ", ".join(("calendar", *given))
        matches.append(f"SELECT number, calendar, step, cost, tokens FROM summed JOIN scopes_{shape} USING ({shared})")
    sql = f"""
        WITH summed AS ({" UNION ALL ".join(summed)})
        SELECT number, calendar, step, sum(cost)::DECIMAL(38,12), sum(tokens)
        FROM ({" UNION ALL ".join(matches)}) GROUP BY ALL
    """
    return Query(sql, params, keepable), relations


def _table_of(span: tuple[str, int, int, int]) -> str:
    return "rollup_day" if span[2] % DAY_US == span[3] % DAY_US == 0 else "rollup_hour"


def _summed(table: str, unit_us: int, named: Sequence[str], bounds_us: tuple[int, int]) -> Query:
    """Sums of the spans that are read from this table, by calendar, step and `named` parts of scopes."""
    first, last = bounds_us
    condition = between(first, last, f"_{table}") & _BILLED
    columns = "".join(f", {name}" for name in named)
    sums = Query(
        f'SELECT "time"{columns}, {COST.of_rollups} AS cost, {_ALL_TOKENS} AS tokens'
        f" FROM {table} WHERE {condition.sql} GROUP BY ALL",
        condition.params,
    )
    return Query(
        f"""
        SELECT calendar, step{columns}, sum(cost) AS cost, sum(tokens) AS tokens
        FROM kept_{table}
        JOIN (
            SELECT calendar, step, make_timestamptz(at_us) AS "time"
            FROM range({first // unit_us * unit_us}, {last}, {unit_us}) AS steps(at_us)
            JOIN spans_{table} ON at_us >= start_us AND at_us < end_us
        ) USING ("time")
        GROUP BY ALL
        """,
        keepable={f"kept_{table}": KeepableSums(sums, table, first, last)},
    )


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
