"""Which budgets an event counts for: scopes matched against (tenant, application, model), many rows at a time."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.streams.control import Budget, Scope, Snapshot

MAX_COMBINATIONS: Final = 200_000
"""Combinations of (tenant, application, model) remembered, about 100 MB at the worst. Applications are the sender's
free text, so their number has no bound; beyond this the memory starts anew."""

Ints = npt.NDArray[np.int64]


def matches(scope: Scope, tenant: str, org: frozenset[str], application: str, model: str) -> bool:
    """Does `scope` look at an event of this tenant, application and model? Each part that is set must match;
    an org unit matches when `org`, the units that the tenant belongs to, contains it."""
    return (
        (scope.tenant is None or scope.tenant == tenant)
        and (scope.org_unit is None or scope.org_unit in org)
        and (scope.application is None or scope.application == application)
        and (scope.model is None or scope.model == model)
    )


def definition_of(budget: Budget, snapshot: Snapshot) -> str:
    """A short digest of what a budget counts and over which windows; its limit and thresholds are not in it.

    A total carries the digest, so that sums made under another scope or time zone are never mixed with today's. An
    org unit stands for the tenants in it: moving a tenant changes the digest.
    """
    scope, window = budget.scope, budget.window
    members = sorted(t.id for t in snapshot.tenants if scope.org_unit in t.org) if scope.org_unit is not None else None
    parts = [scope.tenant, scope.org_unit, members, scope.application, scope.model, window.every, window.time_zone]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class ScopeIndex:
    """The budgets of one snapshot, by what they match. Budgets are numbered by their place in the snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._budgets = snapshot.budgets
        self._org_of = {tenant.id: frozenset(tenant.org) for tenant in snapshot.tenants}
        self._any_tenant = [i for i, b in enumerate(self._budgets) if b.scope.tenant is None]
        self._of_tenant: dict[str, list[int]] = {}
        for i, budget in enumerate(self._budgets):
            if budget.scope.tenant is not None:
                self._of_tenant.setdefault(budget.scope.tenant, []).append(i)
        self._reset()

    def _reset(self) -> None:
        self._ids: dict[tuple[str, str, str], int] = {}  # combination → its number
        self._lists: list[list[int]] = []  # by number: the budgets that match
        self._flat: Ints = np.empty(0, np.int64)
        self._starts: Ints = np.empty(0, np.int64)
        self._counts: Ints = np.empty(0, np.int64)

    def pairs(self, rows: pa.Table) -> tuple[Ints, Ints]:
        """Each (row, budget) such that the budget looks at the row, as two columns in row order.

        `rows` has columns tenant, application, model: text without nulls, dictionary-encoded or plain.
        """
        numbers = self._numbers(rows)
        counts = self._counts[numbers]
        row = np.repeat(np.arange(len(numbers)), counts)
        place_in_list = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self._flat[np.repeat(self._starts[numbers], counts) + place_in_list]

    def _numbers(self, rows: pa.Table) -> Ints:
        """The combination's number of each row; new combinations are matched here, once."""
        tenants, tenant = text_codes(rows["tenant"])
        applications, application = text_codes(rows["application"])
        models, model = text_codes(rows["model"])
        packed = (tenant * len(applications) + application) * len(models) + model
        distinct, inverse = np.unique(packed, return_inverse=True)
        if len(self._ids) + len(distinct) > MAX_COMBINATIONS:
            self._reset()
        known = len(self._ids)
        numbers = np.empty(len(distinct), np.int64)
        for i, code in enumerate(distinct.tolist()):
            rest, m = divmod(code, len(models))
            t, a = divmod(rest, len(applications))
            numbers[i] = self._number(tenants[t], applications[a], models[m])
        new = self._lists[known:]
        if new:
            self._flat = np.concatenate((self._flat, np.array([i for found in new for i in found], np.int64)))
            self._counts = np.concatenate((self._counts, np.array([len(found) for found in new], np.int64)))
            self._starts = np.cumsum(self._counts) - self._counts
        return numbers[inverse]

    def _number(self, tenant: str, application: str, model: str) -> int:
        combination = (tenant, application, model)
        number = self._ids.get(combination)
        if number is None:
            org = self._org_of.get(tenant, frozenset())
            candidates = sorted([*self._any_tenant, *self._of_tenant.get(tenant, ())])
            number = self._ids[combination] = len(self._lists)
            self._lists.append(
                [i for i in candidates if matches(self._budgets[i].scope, tenant, org, application, model)]
            )
        return number


def text_codes(column: pa.ChunkedArray[Any]) -> tuple[list[str], Ints]:
    """Distinct texts of a column and, per row, which of them it is. Nulls are refused."""
    if column.null_count:
        raise ValueError("a roll-up's tenant, application and model have no nulls; node events do not belong here")
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array: Any = encoded.unify_dictionaries().combine_chunks()
    return array.dictionary.to_pylist(), array.indices.to_numpy(zero_copy_only=False).astype(np.int64)
