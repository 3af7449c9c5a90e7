"""Which budgets look at a request: found by its tenant, application and model, in a time that does not grow with the
number of budgets."""

from __future__ import annotations

from itertools import product
from operator import itemgetter
from typing import Final, Generic, TypeVar

from meterhouse.streams.gate_wire import Terms

MAX_REMEMBERED: Final = 100_000
"""Combinations of (tenant, application, model) whose budgets are remembered, some 30 MB. Applications are the caller's
free text, so their number has no bound; beyond this the memory starts anew."""

Of = TypeVar("Of")
Scope = tuple[str | None, str | None, str | None]
"""(tenant, application, model); None: any."""


class BudgetIndex(Generic[Of]):
    """What is kept of each budget, by the scope in its terms."""

    def __init__(self) -> None:
        self._by_scope: dict[Scope, dict[str, Of]] = {}
        self._remembered: dict[tuple[str, str, str], tuple[Of, ...]] = {}

    def put(self, terms: Terms, kept: Of) -> None:
        for scope in _scopes(terms):
            self._by_scope.setdefault(scope, {})[terms.budget_id] = kept
        self._remembered.clear()

    def remove(self, terms: Terms) -> None:
        """Takes out what was put in under these terms."""
        for scope in _scopes(terms):
            budgets = self._by_scope.get(scope, {})
            budgets.pop(terms.budget_id, None)
            if not budgets:
                self._by_scope.pop(scope, None)
        self._remembered.clear()

    def find(self, tenant: str, application: str, model: str) -> tuple[Of, ...]:
        """What is kept of the budgets that look at such a request, by budget id."""
        request = (tenant, application, model)
        found = self._remembered.get(request)
        if found is None:
            budgets: list[tuple[str, Of]] = []
            for scope in product((tenant, None), (application, None), (model, None)):
                if scope in self._by_scope:
                    budgets += self._by_scope[scope].items()
            budgets.sort(key=itemgetter(0))
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[request] = tuple(kept for _, kept in budgets)
        return found


def _scopes(terms: Terms) -> list[Scope]:
    tenants = (None,) if terms.tenants is None else terms.tenants
    return [(tenant, terms.application, terms.model) for tenant in tenants]
