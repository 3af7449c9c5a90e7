"""The book of one partition of the budget topics: all that its worker knows, and what it has still to say. No I/O.

What is to be said follows from what is known, so a worker that fails half way asks again and says the rest:
`due` changes nothing that is said, `raised` and `said` remember.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alert import Alert
from meterhouse.streams.budget_alerts import AlertBook, BudgetWindow, alerts_of, crossed_ids
from meterhouse.streams.budget_scope import definition_of
from meterhouse.streams.budget_state import BudgetState, BudgetTable, counts_still, state_from_totals
from meterhouse.streams.budget_totals import AsOfMark, BudgetTotal, LayoutMark, Mark, read_total_key
from meterhouse.streams.control import EMPTY, Budget, Snapshot
from meterhouse.streams.gate_wire import Fresh, Terms, is_fresh_key, read_state_key, read_terms_key

K = TypeVar("K")

FRESH_EVERY_US: Final = 500_000
"""Meters say how far they are about once a second, each for itself: said on twice a second, that is soon enough."""


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be said: alerts first (outbox, then topic), then terms and states, and at last how fresh they are."""

    looked_at: frozenset[BudgetWindow]
    alerts: list[Alert]  # never raised before, as far as the book knows
    terms: Mapping[str, bytes | None]  # by budget; None: the budget is gone
    states: Mapping[BudgetWindow, bytes | None]  # changed states as JSON; None: the state is gone
    fresh: Fresh | None

    def __bool__(self) -> bool:
        return bool(self.alerts or self.terms or self.states)


class BudgetBook:
    """Totals, states as last said, alerts raised, of the budgets placed in `partition`. Not shared between threads.

    `is_mine`: is a budget of this id placed here?
    """

    def __init__(
        self, lateness: Lateness | None = None, partition: int = 0, is_mine: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._lateness = lateness or Lateness()
        self._partition = partition
        self._is_mine = is_mine
        self._table = BudgetTable()
        self._alerts = AlertBook(self._lateness)
        self._snapshot = EMPTY
        self._budgets: dict[str, tuple[Budget, str]] = {}  # id → budget, definition
        self._said: dict[BudgetWindow, bytes] = {}
        self._said_terms: dict[str, bytes] = {}
        self._terms: dict[str, bytes | None] = {}  # still to be said
        self._marks: dict[int, AsOfMark] = {}  # in force, by partition of usage events
        self._new_marks: dict[int, AsOfMark] = {}
        self._bound_marks: dict[int, AsOfMark] = {}  # in force as soon as all before `_bound` is read
        self._bound = 0
        self._said_fresh_us: int | None = None  # when
        self._dirty: set[BudgetWindow] = set()
        self._overtaken: dict[bytes, BudgetTotal] = {}
        self._void: dict[bytes, BudgetTotal] = {}  # the last record of its key, unless it is overtaken

    # -- what was said, by the one before or by one who does not know that there is another ---------------------------

    def restore_state(self, key: bytes, value: bytes | None) -> None:
        """Takes in the last record of its key in the topic of states: what differs from it is due. Raises ValueError
        where it is none."""
        if is_fresh_key(key):
            return
        budget_id = read_terms_key(key)
        if budget_id is None:
            which = read_state_key(key)
            if value != self._said.get(which):
                self._dirty.add(which)
            _put(self._said, which, value)
        elif value != self._said_terms.get(budget_id):
            _put(self._said_terms, budget_id, value)
            self._look_at_terms([budget_id])

    def restore_alert(self, value: bytes) -> None:
        """Takes in a record of the topic of alerts. Raises ValueError where it is none."""
        self._alerts.raised([Alert.from_json(value)])

    # -- what comes in -----------------------------------------------------------------------------------------------

    def hear(self, said: BudgetTotal | Mark) -> None:
        """Takes in whatever a meter says."""
        if isinstance(said, BudgetTotal):
            self.apply(said)
        elif isinstance(said, LayoutMark):
            self.mark(said)
        else:
            self._new_marks[said.partition] = said

    def apply(self, total: BudgetTotal) -> None:
        key = total.key()
        if self._table.apply(total):
            self._dirty.add((total.budget_id, (total.window_start_us, total.window_end_us)))
            self._overtaken.pop(key, None)
            self._void.pop(key, None)
            return
        newest = self._table.newest(total)
        if newest is None:
            self._void[key] = total
        elif newest == total:
            self._overtaken.pop(key, None)
        else:
            self._overtaken[key] = newest

    def mark(self, mark: LayoutMark) -> None:
        """Takes in that totals of an older layout are void, and that a meter has begun anew from the lake: what the one
        before it had counted and not committed may be gone from a compacted topic, so how far that one was holds no
        more."""
        for marks in (self._marks, self._new_marks, self._bound_marks):
            marks.pop(mark.partition, None)
        for total in self._table.mark(mark):
            self._void[total.key()] = total
            self._dirty.add((total.budget_id, (total.window_start_us, total.window_end_us)))

    @property
    def waits_for_marks(self) -> bool:
        """Are there marks that are not in force yet?"""
        return bool(self._new_marks or self._bound_marks)

    def reached(self, read_to: int, end: int) -> None:
        """All totals before `read_to` are taken in, and then the topic ended at `end`. Puts marks in force.

        A mark speaks of what stands before it. Compaction may have taken a total from there, since a newer one of its
        key stood behind what was read; it is in the book when all that was there then is.
        """
        if read_to >= self._bound:
            self._marks |= self._bound_marks
            self._bound_marks, self._new_marks, self._bound = self._new_marks, {}, end
        if read_to >= self._bound:
            self._marks |= self._bound_marks
            self._bound_marks = {}

    def forget(self, key: bytes) -> None:
        """Takes in the tombstone of a total. Raises ValueError where the key is no total's."""
        budget_id, start_us, end_us, partition = read_total_key(key)
        self._overtaken.pop(key, None)
        self._void.pop(key, None)
        if self._table.forget(budget_id, (start_us, end_us), partition):
            self._dirty.add((budget_id, (start_us, end_us)))

    def follow(self, snapshot: Snapshot) -> None:
        """Takes over control data; another version has everything looked at again."""
        if snapshot.version == self._snapshot.version:
            return
        self._snapshot = snapshot
        self._budgets = {
            budget.id: (budget, definition_of(budget, snapshot))
            for budget in snapshot.budgets
            if self._is_mine(budget.id)
        }
        self._dirty.update(self._table.windows(), self._said)
        self._look_at_terms([*self._budgets, *self._said_terms])

    # -- what goes out -----------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Of the control data that it follows."""
        return self._snapshot.version

    @property
    def pending(self) -> bool:
        """Has anything changed since it was last looked at and said?"""
        return bool(self._dirty or self._overtaken or self._terms)

    def overtaken(self) -> list[BudgetTotal]:
        """Totals to be published again: the last record of their key is an older one.

        A meter that has lost a partition and does not know it yet says older totals after newer ones. Whoever reads
        both keeps the newer, but a compacted topic keeps the last: without this a restart would see spend go back.
        """
        return list(self._overtaken.values())

    def restored(self, totals: Iterable[BudgetTotal]) -> None:
        """Those of `overtaken` are published again."""
        for total in totals:
            self._overtaken.pop(total.key(), None)

    def due(self, now_us: int, meters: int = 0) -> Due:
        """What is to be said now. The same question has the same answer until `said`.

        `meters`: how many partitions are metered; 0: it is not known, so how fresh the states are is not said, and no
        alert ends because its budget is below the threshold.
        """
        alerts: list[Alert] = []
        states: dict[BudgetWindow, bytes | None] = {}
        marks = self._complete(meters)
        windows = self._dirty | self._alerts.look_again(now_us)
        for which in sorted(windows):
            state = self._state(which, now_us)
            value = None if state is None else state.to_json()
            if value != self._said.get(which):
                states[which] = value
            crossed = [] if state is None else crossed_ids(state)
            raised = partial(self._alerts_of, state, now_us)
            alerts += self._alerts.due(which, crossed, raised, now_us, is_complete=bool(marks))
        return Due(frozenset(windows), alerts, dict(self._terms), states, self._fresh(now_us, marks))

    def raised(self, due: Due) -> None:
        """The alerts of `due` are out."""
        self._alerts.raised(due.alerts)

    def said(self, due: Due, now_us: int) -> None:
        """The rest of `due` is out, after its alerts: nothing of it is due again."""
        for which, value in due.states.items():
            _put(self._said, which, value)
        for budget_id, terms in due.terms.items():
            _put(self._said_terms, budget_id, terms)
        self._terms = {}
        self._dirty -= due.looked_at
        self._alerts.looked(now_us)
        if due.fresh is not None:
            self._said_fresh_us = now_us

    def closed(self, now_us: int) -> list[BudgetTotal]:
        """Totals of windows closed longer than the lateness limit, to be tombstoned; what else the book holds of such
        windows is looked at again, or forgotten."""
        self._dirty.update(which for which in self._said if not counts_still(which[1], now_us, self._lateness))
        self._alerts.closed(now_us)
        void = [
            total
            for total in self._void.values()
            if not counts_still((total.window_start_us, total.window_end_us), now_us, self._lateness)
        ]
        return [*self._table.closed(now_us, self._lateness), *void]

    def _state(self, which: BudgetWindow, now_us: int) -> BudgetState | None:
        """None: an unknown budget, no total of its present definition, or a window that no event can reach any more."""
        budget_id, window = which
        known = self._budgets.get(budget_id)
        if known is None or not counts_still(window, now_us, self._lateness):
            return None
        return state_from_totals(*known, window, self._table.totals(budget_id, window))

    def _alerts_of(self, state: BudgetState | None, now_us: int) -> list[Alert]:
        if state is None:
            return []
        return alerts_of(state, self._budgets[state.budget_id][0], self._snapshot.currency, now_us)

    def _complete(self, meters: int) -> list[AsOfMark]:
        """The marks of all partitions, where the totals are complete up to them. None of them where they are not: a
        partition's meter was never heard or begins anew, or counts under other control data than the states are judged
        by, or under another layout than the others (or than we know of yet)."""
        marks = [mark for p in range(meters) if (mark := self._marks.get(p)) is not None]
        layouts = {mark.layout for mark in marks}
        if len(marks) < meters or len(layouts) != 1 or max(layouts) > meters:
            return []
        return marks if all(mark.control_version == self.version for mark in marks) else []

    def _fresh(self, now_us: int, marks: list[AsOfMark]) -> Fresh | None:
        """None: said a moment ago, or unknown."""
        if self._said_fresh_us is not None and now_us - self._said_fresh_us < FRESH_EVERY_US:
            return None
        if not marks:
            return None
        offsets = {str(mark.partition): mark.offset for mark in marks}
        return Fresh(partition=self._partition, as_of_us=min(mark.as_of_us for mark in marks), offsets=offsets)

    def _look_at_terms(self, budget_ids: Iterable[str]) -> None:
        for budget_id in budget_ids:
            known = self._budgets.get(budget_id)
            wanted = None if known is None else msgspec.json.encode(terms_of(*known, self._snapshot))
            if wanted != self._said_terms.get(budget_id):
                self._terms[budget_id] = wanted
            else:
                self._terms.pop(budget_id, None)


def terms_of(budget: Budget, definition: str, snapshot: Snapshot) -> Terms:
    """A budget as gates need it. A new version of control data that leaves a budget as it is leaves its terms too."""
    scope = budget.scope
    tenants: tuple[str, ...] | None = None if scope.tenant is None else (scope.tenant,)
    if scope.org_unit is not None:
        within = tuple(tenant.id for tenant in snapshot.tenants if scope.org_unit in tenant.org)
        tenants = within if tenants is None else tuple(tenant for tenant in tenants if tenant in within)
    limit = budget.limit_tokens if budget.limit_pico is None else budget.limit_pico
    return Terms(
        budget_id=budget.id,
        definition=definition,
        tenants=tenants,
        application=scope.application,
        model=scope.model,
        every=budget.window.every,
        time_zone=budget.window.time_zone,
        unit="tokens" if budget.limit_pico is None else snapshot.currency,
        limit=str(limit),
        on_exceeded=budget.on_exceeded,
        throttle_per_minute=budget.throttle_per_minute,
        when_stale=budget.when_stale,
        stale_after_s=budget.stale_after_s,
    )


def _put(table: dict[K, bytes], key: K, value: bytes | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
