"""Budgets: what was spent of each limit, window by window, from the lake's roll-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import duckdb

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.budget import BudgetState, forecast, state_of
from meterhouse.streams.control import Budget, Snapshot
from meterhouse.streams.money import to_pico
from meterhouse.streams.windows import window_of, windows_between
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import check_range, in_scope
from meterhouse.warehouse.reports.query import COST, TOKENS, Condition, Query, facts, pieces

MAX_WINDOWS: Final = 1_000
"""Of all budgets together in one report, a query each: some seconds of work."""

_BILLED: Final = Condition("disposition = 'billed'")


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A budget in one window. Amounts are pico-units of the currency, or tokens (`state.limit_pico` is None then)."""

    budget: Budget
    state: BudgetState
    forecast: int  # spend at the window's end if it goes on as it went

    @property
    def remaining(self) -> int:
        """What is left of the limit; never below 0."""
        return max(0, self.state.limit - self.state.spent)


@dataclass(frozen=True, slots=True)
class Budgets:
    currency: str
    at_us: int
    lines: tuple[BudgetLine, ...]  # by budget in the control file's order, then by window
    as_of: AsOf


def budgets(
    lake: Lake,
    snapshot: Snapshot,
    at_us: int,
    between_us: tuple[int, int] | None = None,
    freshness: Freshness | None = None,
) -> Budgets:
    """Each budget's window that holds `at_us` or, with `between_us`, all its windows that share an instant with it.

    Spend is that of billed requests, exact, as of the lake's snapshot. Forecasts are made at `at_us`. Raises
    ReportError when there are over MAX_WINDOWS windows.
    """
    if between_us is not None:
        check_range(*between_us)
    wanted = [(budget, window) for budget in snapshot.budgets for window in _windows(budget, at_us, between_us)]
    if len(wanted) > MAX_WINDOWS:
        raise ReportError(f"more than {MAX_WINDOWS:,} windows of budgets lie in this range: take a shorter one")
    with lake.read() as cursor:
        lines = tuple(_line(cursor, snapshot, budget, window, at_us) for budget, window in wanted)
        figures_as_of = as_of(lake, cursor, freshness)
    return Budgets(snapshot.currency, at_us, lines, figures_as_of)


def spend_query(snapshot: Snapshot, budget: Budget, window: tuple[int, int]) -> Query:
    """One row: cost (DECIMAL) and tokens of all kinds, of the budget's billed requests in the window."""
    source = facts(pieces(*window), {}, (*TOKENS, COST), _BILLED & in_scope(budget.scope, snapshot))
    tokens = " + ".join(f"coalesce(sum({kind.tokens}), 0)" for kind in TOKEN_KINDS)
    return Query(f"SELECT coalesce(sum(cost), 0)::DECIMAL(38,12), {tokens} FROM (\n{source.sql}\n)", source.params)


def _windows(budget: Budget, at_us: int, between_us: tuple[int, int] | None) -> Sequence[tuple[int, int]]:
    return [window_of(budget.window, at_us)] if between_us is None else windows_between(budget.window, *between_us)


def _line(
    cursor: duckdb.DuckDBPyConnection, snapshot: Snapshot, budget: Budget, window: tuple[int, int], at_us: int
) -> BudgetLine:
    [(cost, tokens)] = spend_query(snapshot, budget, window).rows(cursor)
    state = state_of(budget, window, to_pico(cost), int(tokens))
    return BudgetLine(budget, state, forecast(state.spent, window, at_us))
