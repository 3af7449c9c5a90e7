"""Alerts of budgets: which are due, which were raised, whose reason is gone.

A threshold's alert is raised once per budget and window, and resolved once at most: when its window ends, or when spend
has been below the threshold for a minute (a raised limit, a budget that was removed) and all totals are there. Until
the meters have counted anew, after an edited scope or when the topic grew, spend falls for a while, a long one where
meters do not get far; and what was resolved is not raised again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Final

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alert import Alert, alert_id, resolution_of
from meterhouse.streams.budget_state import BudgetState, Window, counts_still, plain
from meterhouse.streams.control import Budget
from meterhouse.streams.money import to_text

BudgetWindow = tuple[str, Window]

RESOLVE_AFTER_US: Final = 60 * 1_000_000
LOOK_EVERY_US: Final = 1_000_000
"""Ends of windows, and that minute, are seen within a second; a look goes over all open alerts."""


def alerts_of(state: BudgetState, budget: Budget, currency: str, now_us: int) -> list[Alert]:
    """An alert per threshold reached, ascending. Which of them were raised before is the caller's to know, by id."""
    in_money = state.limit_pico is not None
    share = state.share_percent
    payload = {
        **budget_details(budget, currency),
        "state": state.state,
        "share_percent": None if share is None else plain(share),
    }
    window = (state.window_start_us, state.window_end_us)
    return [
        Alert(
            id=threshold_alert_id(budget.id, window, threshold),
            kind="threshold",
            subject=budget.id,
            summary=f"budget {budget.id} has reached {plain(threshold)} % of its limit",
            budget_id=budget.id,
            window_start_us=window[0],
            window_end_us=window[1],
            threshold=plain(threshold),
            spent=to_text(state.spent) if in_money else str(state.spent),
            limit=to_text(state.limit) if in_money else str(state.limit),
            created_us=now_us,
            payload=payload,
        )
        for threshold in state.crossed
    ]


def budget_details(budget: Budget, currency: str) -> dict[str, object]:
    """What alerts about a budget tell of it."""
    scope = {part: value for part in budget.scope.__slots__ if (value := getattr(budget.scope, part)) is not None}
    return {
        "unit": "tokens" if budget.limit_pico is None else currency,
        "scope": scope,
        "window": {"every": budget.window.every, "time_zone": budget.window.time_zone},
        "on_exceeded": budget.on_exceeded,
    }


def crossed_ids(state: BudgetState) -> list[str]:
    """The ids of the alerts of all thresholds reached, ascending by threshold."""
    window = (state.window_start_us, state.window_end_us)
    return [threshold_alert_id(state.budget_id, window, threshold) for threshold in state.crossed]


@lru_cache(100_000)  # thresholds that are reached, of one worker's budgets; some 20 MB
def threshold_alert_id(budget_id: str, window: Window, threshold: Decimal) -> str:
    return alert_id("threshold", budget_id, *window, plain(threshold))


class AlertBook:
    """Alerts raised and not yet resolved. No I/O. Not shared between threads."""

    def __init__(self, lateness: Lateness) -> None:
        self._lateness = lateness
        self._raised: dict[str, int] = {}  # id → its window's end; of resolutions too
        self._open: dict[BudgetWindow, dict[str, Alert]] = {}
        self._below_since: dict[str, int] = {}  # id of an open alert → since when its reason is gone
        self._looked_us: int | None = None

    def raised(self, alerts: Iterable[Alert]) -> None:
        """These are out, now or before this process began."""
        for alert in alerts:
            if alert.budget_id is None or alert.window_start_us is None or alert.window_end_us is None:
                continue
            self._raised[alert.id] = alert.window_end_us
            which = alert.budget_id, (alert.window_start_us, alert.window_end_us)
            if alert.resolves is None and resolution_of(alert, 0, "").id not in self._raised:
                self._open.setdefault(which, {})[alert.id] = alert
            elif alert.resolves is not None:
                self._resolved(which, alert.resolves)

    def look_again(self, now_us: int) -> set[BudgetWindow]:
        """Windows with alerts that time alone may resolve; none within LOOK_EVERY_US after `looked`."""
        if self._looked_us is not None and now_us - self._looked_us < LOOK_EVERY_US:
            return set()
        due_us = now_us - RESOLVE_AFTER_US
        return {
            which
            for which, alerts in self._open.items()
            if which[1][1] <= now_us or any(self._below_since.get(id_, due_us + 1) <= due_us for id_ in alerts)
        }

    def looked(self, now_us: int) -> None:
        """What `look_again` gave is dealt with."""
        if self._looked_us is None or now_us - self._looked_us >= LOOK_EVERY_US:
            self._looked_us = now_us

    def due(
        self,
        which: BudgetWindow,
        crossed: Collection[str],
        alerts: Callable[[], Iterable[Alert]],
        now_us: int,
        *,
        is_complete: bool,
    ) -> list[Alert]:
        """What is news of a budget's window. `crossed`: ids of the alerts of the thresholds it has reached; `alerts`:
        these alerts, asked for where one of them is news; `is_complete`: no total is missing, so that what is below a
        threshold is truly below it."""
        news = {id_ for id_ in crossed if id_ not in self._raised}
        fresh = [alert for alert in alerts() if alert.id in news] if news else []
        for id_, alert in self._open.get(which, {}).items():
            why = self._gone(alert, id_ in crossed, now_us, is_complete=is_complete)
            if why is not None:
                fresh.append(resolution_of(alert, now_us, why))
        return fresh

    def closed(self, now_us: int) -> None:
        """Forgets alerts of windows that no event can reach any more."""
        gone = [
            id_ for id_, end_us in self._raised.items() if not counts_still((end_us, end_us), now_us, self._lateness)
        ]
        for id_ in gone:
            del self._raised[id_]

    def _gone(self, alert: Alert, is_crossed: bool, now_us: int, *, is_complete: bool) -> str | None:
        """Why an open alert's reason is gone; None: it is not, or not for long enough."""
        if alert.window_end_us is not None and alert.window_end_us <= now_us:
            return "its window has ended"
        if is_crossed:
            self._below_since.pop(alert.id, None)
            return None
        if not is_complete:
            self._below_since[alert.id] = now_us  # the minute begins anew, so it is looked at again
            return None
        since_us = self._below_since.setdefault(alert.id, now_us)
        return f"it is below {alert.threshold} % of its limit" if now_us - since_us >= RESOLVE_AFTER_US else None

    def _resolved(self, which: BudgetWindow, alert_id_: str) -> None:
        self._below_since.pop(alert_id_, None)
        alerts = self._open.get(which, {})
        alerts.pop(alert_id_, None)
        if not alerts:
            self._open.pop(which, None)
