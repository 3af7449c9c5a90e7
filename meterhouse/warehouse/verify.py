"""Do the books balance? Every law of the house, checked against every table of one snapshot of the lake.

Law 1: per partition, events read are what became of them, and the rows are there. Law 2: charges, roll-ups, the
chargeback report and budget totals add up to the same, exactly. Law 3: disjoint token kinds could come from inclusive
counts. Law 4, replay, needs the log and is a test; what it rests on is checked here: no key twice, no place in the log
twice, nothing beyond the position. Law 5 (a charge is never changed) shows as a difference of law 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import duckdb

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.budget import BudgetTotal, definition_of
from meterhouse.streams.control import Snapshot
from meterhouse.streams.dedupe import WINDOW_HOURS
from meterhouse.streams.money import to_decimal, to_pico
from meterhouse.warehouse import verify_removed_sql as removed
from meterhouse.warehouse import verify_sql as laws
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.groups import in_scope
from meterhouse.warehouse.reports.query import COST, DAY_US, LAYERS, Condition, Query, between
from meterhouse.warehouse.verify_sql import MAX_ROWS, Comparison, Quantity


@dataclass(frozen=True, slots=True)
class LawResult:
    """One law, or a part of it, checked. Balanced when nothing differs."""

    law: int  # of architecture.md
    name: str  # what is compared
    left: int | Decimal  # Decimal: money
    right: int | Decimal
    difference: int | Decimal  # sum of absolute differences over all keys: no two make up for each other
    offending: int  # keys or rows that differ
    rows: tuple[str, ...] = ()  # the first MAX_ROWS of them, named

    @property
    def balanced(self) -> bool:
        return not self.difference and not self.offending


@dataclass(frozen=True, slots=True)
class Verification:
    laws: tuple[LawResult, ...]
    as_of: AsOf

    @property
    def balanced(self) -> bool:
        return all(law.balanced for law in self.laws)


def verify(
    lake: Lake,
    snapshot: Snapshot,
    totals: Sequence[BudgetTotal] = (),
    window_hours: int = WINDOW_HOURS,
    freshness: Freshness | None = None,
) -> Verification:
    """Checks all laws over the whole lake, in one snapshot; reads every charge, so it takes seconds per ten million.

    `totals` are the newest budget totals of the compacted topic: those that the lake has reached (its position is at
    or beyond their offset) and that count what today's control data counts must equal the lake at their offsets; others
    can't be compared and are left out, as those of windows that retention removed charges of. `window_hours` is the
    dedupe window.
    """
    with lake.read() as cursor:
        results = [
            result for comparison in _comparisons(cursor, snapshot, window_hours) for result in _run(cursor, comparison)
        ]
        if totals:
            days_us = [int(day_us) for (day_us,) in removed.removed_days().rows(cursor)]
            gone_us = days_us[-1] + DAY_US if days_us else 0  # charges of windows that began before are not all there
            whole = [total for total in totals if total.window_start_us >= gone_us]
            results += _budget_totals(cursor, snapshot, whole)
        return Verification(tuple(sorted(results, key=lambda result: result.law)), as_of(lake, cursor, freshness))


def _comparisons(cursor: duckdb.DuckDBPyConnection, snapshot: Snapshot, window_hours: int) -> Iterator[Comparison]:
    [(first_us, last_us)] = laws.bounds().rows(cursor)
    # Whole days around all that there is.
    span_us = (0, DAY_US) if first_us is None else (first_us // DAY_US * DAY_US, (last_us // DAY_US + 1) * DAY_US)
    days_us = [int(day_us) for (day_us,) in removed.removed_days().rows(cursor)]
    yield laws.counts_balance()
    yield laws.counts_are_rows()
    yield laws.priced(snapshot)
    yield laws.none_may(2, "a charge's card is one of its model and tenant", laws.cards_fit(snapshot))
    yield laws.none_may(2, "disposition, cost and card follow the status", laws.dispositions_follow())
    tables = ("charges", *reversed(LAYERS))
    for finer, coarser in pairwise(tables):
        where = removed.kept(days_us) if finer == "charges" else Condition()
        yield laws.rolled_up(finer, coarser, span_us, snapshot, where)
    yield laws.charged_back(span_us, snapshot)
    yield removed.latencies(days_us)
    if days_us:
        yield removed.removed_rolled_up(days_us)
        yield removed.removed_latencies(days_us)
    yield laws.none_may(3, "token kinds are parts of inclusive counts", laws.kinds_are_counts())
    yield laws.none_may(4, "no key twice within the dedupe window", laws.keys_once(window_hours))
    yield laws.none_may(4, "no place in the log twice", laws.places_once())
    yield laws.none_may(4, "no row beyond its partition's position", laws.places_committed())


def _run(cursor: duckdb.DuckDBPyConnection, comparison: Comparison) -> Iterator[LawResult]:
    [row] = comparison.query.rows(cursor)
    for number, quantity in enumerate(comparison.quantities):
        left, right, difference, offending, texts = row[5 * number : 5 * number + 5]
        as_number = _money if quantity.money else int
        yield LawResult(
            comparison.law,
            f"{comparison.name}: {quantity.name}",
            as_number(left),
            as_number(right),
            as_number(difference),
            int(offending),
            tuple(sorted(texts or ())),
        )


def _money(amount: Any) -> Decimal:
    return Decimal(amount)


# -- budget totals -----------------------------------------------------------------------------------------------------

_BUDGETS = (Quantity("cost", (), money=True), Quantity("tokens", ()))


def _budget_totals(
    cursor: duckdb.DuckDBPyConnection, snapshot: Snapshot, totals: Sequence[BudgetTotal]
) -> list[LawResult]:
    """Law 2 for the fast path: totals against charges before their offsets."""
    reached = dict(Query('SELECT "partition", next_offset FROM positions').rows(cursor))
    definitions = {budget.id: definition_of(budget, snapshot) for budget in snapshot.budgets}
    compared: list[tuple[BudgetTotal, int, int]] = []
    for total in totals:
        if total.offset <= reached.get(total.partition, -1) and definitions.get(total.budget_id) == total.definition:
            [(cost, tokens)] = _spend_before(snapshot, total).rows(cursor)
            compared.append((total, to_pico(cost), int(tokens)))
    costs = [(total, total.cost_pico, cost) for total, cost, _ in compared]
    tokens_of = [(total, total.tokens, tokens) for total, _, tokens in compared]
    return [_totals_result("cost", costs, money=True), _totals_result("tokens", tokens_of, money=False)]


def _spend_before(snapshot: Snapshot, total: BudgetTotal) -> Query:
    """One row: cost and tokens of what the total counts, from charges."""
    budget = next(budget for budget in snapshot.budgets if budget.id == total.budget_id)
    condition = (
        Condition(
            'disposition = \'billed\' AND "partition" = $partition::INTEGER AND "offset" < $offset::BIGINT',
            {"partition": total.partition, "offset": total.offset},
        )
        & between(total.window_start_us, total.window_end_us)
        & in_scope(budget.scope, snapshot)
    )
    tokens = " + ".join(f"coalesce(sum({kind.tokens}), 0)" for kind in TOKEN_KINDS)
    return Query(f"SELECT {COST.of_charges}, {tokens} FROM charges WHERE {condition.sql}", condition.params)


def _totals_result(what: str, sides: Sequence[tuple[BudgetTotal, int, int]], *, money: bool) -> LawResult:
    shown = to_decimal if money else int
    rows = [
        f"budget {total.budget_id}, window {total.window_start_us}, partition {total.partition}, offset {total.offset}:"
        f" {shown(left)} against {shown(right)}"
        for total, left, right in sides
        if left != right
    ]
    return LawResult(
        2,
        f"budget totals = charges before their offsets: {what}",
        shown(sum(left for _, left, _ in sides)),
        shown(sum(right for _, _, right in sides)),
        shown(sum(abs(left - right) for _, left, right in sides)),
        len(rows),
        tuple(sorted(rows)[:MAX_ROWS]),
    )
