"""Budgets: what was spent of each limit, window by window, from the lake's roll-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.budget import BudgetState, Window, state_of
from meterhouse.streams.control import Budget, Snapshot
from meterhouse.streams.forecast import Forecast, days_between, forecast
from meterhouse.streams.money import from_text, to_pico
from meterhouse.streams.windows import window_of, windows_between
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.budget_days import BudgetDays, Spend, budget_days
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import check_range, in_scope
from meterhouse.warehouse.reports.query import COST, TOKENS, Condition, Query, keepable_facts, pieces

MAX_WINDOWS: Final = 1_000
"""Of all budgets together in one report, a query each: some seconds of work."""
MAX_TOKENS: Final = 2**62
"""As a control file takes it."""

_BILLED: Final = Condition("disposition = 'billed'")


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A budget in one window. Amounts are pico-units of the currency, or tokens (`state.limit_pico` is None then)."""

    budget: Budget
    state: BudgetState
    forecast: Forecast  # at the window's end, in the unit of the limit

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
    books: Books,
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
    with books.read() as cursor:
        running = any(start_us < at_us < end_us for _, (start_us, end_us) in wanted)
        days = budget_days(cursor, snapshot, at_us) if running else {}
        spends = [_spent(cursor, snapshot, budget, window, days.get(budget.id)) for budget, window in wanted]
        figures_as_of = as_of(books, cursor, freshness)
    lines = tuple(
        BudgetLine(budget, state, forecast_of(state, budget, days.get(budget.id), at_us))
        for (budget, window), spent in zip(wanted, spends, strict=True)
        for state in (state_of(budget, window, *spent),)
    )
    return Budgets(snapshot.currency, at_us, lines, figures_as_of)


def with_limit(budget: Budget, limit: str) -> Budget:
    """The budget as it would be with another limit, in its own unit. Raises ReportError where that is none."""
    try:
        if budget.limit_pico is not None:
            pico = from_text(limit)
            if pico >= 0:
                return replace(budget, limit_pico=pico)
        elif 1 <= int(limit) <= MAX_TOKENS:
            return replace(budget, limit_tokens=int(limit))
    except ValueError:
        pass  # said below, with what to write instead
    unit = 'money, as "250.00"' if budget.limit_pico is not None else 'a whole number of tokens, as "1500000"'
    raise ReportError(f"{limit!r} is no limit of {budget.id}: write {unit}")


def forecast_of(state: BudgetState, budget: Budget, days: BudgetDays | None, at_us: int) -> Forecast:
    """Of the window that the state is of, by the budget's days up to now."""
    window = state.window_start_us, state.window_end_us
    if days is None or days.window != window:
        return Forecast(state.spent, None)
    return forecast(state.spent, state.limit, days_between(budget.window.time_zone, *window), at_us, days.history)


def spend_query(snapshot: Snapshot, budget: Budget, window: Window) -> Query:
    """One row: cost (DECIMAL) and tokens of all kinds, of the budget's billed requests in the window."""
    source = keepable_facts(pieces(*window), {}, (*TOKENS, COST), _BILLED & in_scope(budget.scope, snapshot))
    tokens = " + ".join(f"coalesce(sum({kind.tokens}), 0)" for kind in TOKEN_KINDS)
    return Query(
        f"SELECT coalesce(sum(cost), 0)::DECIMAL(38,12), {tokens} FROM (\n{source.sql}\n)",
        source.params,
        source.keepable,
    )


def _windows(budget: Budget, at_us: int, between_us: tuple[int, int] | None) -> Sequence[Window]:
    return [window_of(budget.window, at_us)] if between_us is None else windows_between(budget.window, *between_us)


def _spent(cursor: Cursor, snapshot: Snapshot, budget: Budget, window: Window, days: BudgetDays | None) -> Spend:
    """All budgets' current windows are read together; the others one by one, each from the coarsest roll-ups."""
    if days is not None and days.window == window and days.spent is not None:
        return days.spent
    [(cost, tokens)] = spend_query(snapshot, budget, window).rows(cursor)
    return to_pico(cost), int(tokens)
