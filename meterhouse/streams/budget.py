"""Budgets: cumulative totals, states, alerts. The parts are in three modules; this is what others import.

`budget_scope` which budgets an event counts for · `budget_totals` what a meter says of its partitions ·
`budget_state` what that comes to.
"""

from meterhouse.streams.alert import Alert
from meterhouse.streams.budget_alerts import alerts_of
from meterhouse.streams.budget_scope import definition_of, matches
from meterhouse.streams.budget_state import (
    BudgetState,
    BudgetTable,
    Window,
    counts_still,
    state_from_totals,
    state_of,
)
from meterhouse.streams.budget_totals import BudgetTotal, BudgetTotals

__all__ = [
    "Alert",
    "BudgetState",
    "BudgetTable",
    "BudgetTotal",
    "BudgetTotals",
    "Window",
    "alerts_of",
    "counts_still",
    "definition_of",
    "matches",
    "state_from_totals",
    "state_of",
]
