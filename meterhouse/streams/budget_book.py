"""The book of a budget worker: all that it knows, and what it has still to say. No I/O; each runtime is a shell of it.

What is to be said follows from what is known, so a runtime that fails half way asks again and says the rest:
`due` changes nothing, `raised` and `said` remember.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alert import Alert
from meterhouse.streams.budget_scope import definition_of
from meterhouse.streams.budget_state import (
    BudgetState,
    BudgetTable,
    Window,
    alerts_of,
    counts_still,
    state_from_totals,
)
from meterhouse.streams.budget_totals import BudgetTotal, LayoutMark, read_total_key
from meterhouse.streams.control import EMPTY, Budget, Snapshot
from meterhouse.streams.gate_wire import read_state_key, state_key

BudgetWindow = tuple[str, Window]


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be said: alerts first (outbox, then topic), then states."""

    looked_at: frozenset[BudgetWindow]
    alerts: list[Alert]  # never raised before, as far as the book knows
    states: Mapping[BudgetWindow, bytes | None]  # changed states as JSON; None: the state is gone

    def __bool__(self) -> bool:
        return bool(self.alerts or self.states)


class BudgetBook:
    """Totals, states as last said, alerts raised. Not shared between threads."""

    def __init__(self, lateness: Lateness | None = None) -> None:
        self._lateness = lateness or Lateness()
        self._table = BudgetTable()
        self._snapshot = EMPTY
        self._budgets: dict[str, tuple[Budget, str]] = {}  # id → budget, definition
        self._said: dict[BudgetWindow, bytes] = {}
        self._raised: dict[str, int] = {}  # alert id → its window's end
        self._dirty: set[BudgetWindow] = set()
        self._overtaken: dict[bytes, BudgetTotal] = {}
        self._void: dict[bytes, BudgetTotal] = {}  # the last record of its key, unless it is overtaken

    # -- what was said before this process began ---------------------------------------------------------------------

    def restore_state(self, key: bytes, value: bytes | None) -> None:
        """Takes in a record of the topic of states. Raises ValueError where it is none."""
        which = read_state_key(key)
        if value is None:
            self._said.pop(which, None)
        else:
            self._said[which] = value
        self._dirty.add(which)

    def restore_alert(self, value: bytes) -> None:
        """Takes in a record of the topic of alerts. Raises ValueError where it is none."""
        alert = Alert.from_json(value)
        if alert.window_end_us is not None:
            self._raised[alert.id] = alert.window_end_us

    # -- what comes in -----------------------------------------------------------------------------------------------

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
        """Takes in that totals of an older layout are void."""
        for total in self._table.mark(mark):
            self._void[total.key()] = total
            self._dirty.add((total.budget_id, (total.window_start_us, total.window_end_us)))

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
        self._budgets = {budget.id: (budget, definition_of(budget, snapshot)) for budget in snapshot.budgets}
        self._dirty.update(self._table.windows(), self._said)

    # -- what goes out -----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Has anything changed since it was last looked at and said?"""
        return bool(self._dirty or self._overtaken)

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

    def due(self, now_us: int) -> Due:
        """What is to be said now. The same question has the same answer until `said`."""
        alerts: list[Alert] = []
        states: dict[BudgetWindow, bytes | None] = {}
        for which in sorted(self._dirty):
            state = self._state(which, now_us)
            value = None if state is None else state.to_json()
            if value != self._said.get(which):
                states[which] = value
            if state is not None:
                found = alerts_of(state, self._budgets[which[0]][0], self._snapshot.currency, now_us)
                alerts += [alert for alert in found if alert.id not in self._raised]
        return Due(frozenset(self._dirty), alerts, states)

    def raised(self, due: Due) -> None:
        """The alerts of `due` are out."""
        for alert in due.alerts:
            if alert.window_end_us is not None:
                self._raised[alert.id] = alert.window_end_us

    def said(self, due: Due) -> None:
        """The states of `due` are out, after its alerts: nothing of it is due again."""
        for which, value in due.states.items():
            if value is None:
                self._said.pop(which, None)
            else:
                self._said[which] = value
        self._dirty -= due.looked_at

    def closed(self, now_us: int) -> list[BudgetTotal]:
        """Totals of windows closed longer than the lateness limit, to be tombstoned; what else the book holds of such
        windows is looked at again, or forgotten."""
        self._dirty.update(which for which in self._said if not counts_still(which[1], now_us, self._lateness))
        self._raised = {
            alert_id: end_us
            for alert_id, end_us in self._raised.items()
            if counts_still((end_us, end_us), now_us, self._lateness)
        }
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


def state_record_key(which: BudgetWindow) -> bytes:
    """The key of a state's record, also where the state is gone."""
    return state_key(*which)
