"""The lookout: looks at lake and log every half minute, and raises what is news although no threshold was crossed.

*Forecast*: a budget is on course to exceed. *Unpriced*: requests come in for which there is no price. *Meter behind*: a
partition is metered late or not at all. *Reconciliation*: gateways and model nodes tell too differently of a tenant's
requests. Any number of lookouts may run: ids follow from what began, and what is open
already is not raised again. When the reason is gone the alert is resolved.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from meterhouse.ingest.log import USAGE_EVENTS, EventLog, LogError, LogUnavailable
from meterhouse.streams.alert import Alert, AlertKind, resolution_of
from meterhouse.streams.alerts import AlertOutbox, OutboxUnavailable
from meterhouse.streams.budget_state import Window
from meterhouse.streams.control import Budget, Snapshot
from meterhouse.streams.forecast import Forecast, days_between, forecast
from meterhouse.streams.lookout_rules import (
    Patience,
    Standing,
    Waiting,
    forecast_alert,
    forecast_is_over,
    limit_of,
    meter_alert,
    meter_is_back,
    standing_of,
    subject_of,
    unpriced_alerts,
    unpriced_is_over,
)
from meterhouse.streams.reconciliation import Terms, reconciliation_alerts, reconciliation_is_over
from meterhouse.streams.watch import Away, LookoutWatch, Sight, Unwatched
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.lake import Lake, LakeError, LakeMissing
from meterhouse.warehouse.reports.as_of import Freshness, KeptPositions, Positions, as_of
from meterhouse.warehouse.reports.budget_days import BudgetDays, budget_days
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.reconciliation import by_tenant, counted_lines, reach_of
from meterhouse.warehouse.reports.unpriced import unpriced_days

UNPRICED_DAYS: Final = 35
"""How far back a look goes: as far as events may be late. What is older was news when it came."""
FORECAST_EVERY_US: Final = 300 * 1_000_000
"""Eight weeks of roll-ups are read for it, and half a minute changes no forecast. New control data does, at once."""
RECONCILED_US: Final = DAY_US
RECONCILE_EVERY_US: Final = 900 * 1_000_000
"""All requests of a day are put together for it, and one that lacks its other half is given an hour anyway."""
MAX_OPEN: Final = 1_000
"""Open alerts of one kind: more than anyone reads, and model names are the sender's free text."""
MAX_BACKOFF: Final = 4
"""Doublings of the wait while something is away: eight minutes of looks every half minute."""

_TROUBLE: Final = (LakeError, LogError, OutboxUnavailable, ControlUnavailable)

_log = structlog.get_logger("meterhouse.lookout")


@dataclass(frozen=True, slots=True)
class LookoutSettings:
    """Seconds. `stuck_s`: a partition that does not move on with records waiting; `behind_s`: the age of the first.
    `reconciliation`: how the last day's requests are reconciled, and what is too much."""

    every_s: float = 30.0
    stuck_s: float = 60.0
    behind_s: float = 300.0
    reconciliation: Terms = field(default_factory=Terms)

    @property
    def patience(self) -> Patience:
        return Patience(int(self.stuck_s * 1e6), int(self.behind_s * 1e6))


@dataclass(frozen=True, slots=True)
class Views:
    """What a lookout looks at, asked for at every look. `lake` and `log` open what is not open yet: a lake that no
    meter has made is waited for."""

    lake: Callable[[], Lake]
    log: Callable[[], EventLog]
    snapshots: Callable[[], Snapshot]


class Lookout:
    """One thread runs it."""

    def __init__(
        self,
        views: Views,
        outbox: AlertOutbox,
        clock: Callable[[], int],
        settings: LookoutSettings | None = None,
        *,
        watch: LookoutWatch | None = None,
    ) -> None:
        self._views = views
        self._outbox, self._clock = outbox, clock
        self._settings = settings or LookoutSettings()
        self._watch = watch or Unwatched()
        self._patience = self._settings.patience
        self._kept = KeptPositions()
        self._positions: Positions | None = None  # as looked at last
        self._standing: dict[int, Standing] = {}
        self._forecast_at: tuple[int, int] | None = None  # control version and time of the last forecasts
        self._reconciled_at_us: int | None = None

    def run(self, stop: threading.Event) -> None:
        """Looks until `stop` is set, less often while what it needs is away."""
        failures = 0
        while not stop.is_set():
            failures = 0 if self.try_look() else min(failures + 1, MAX_BACKOFF)
            stop.wait(self._settings.every_s * 2**failures)

    def try_look(self) -> bool:
        """`look`; trouble that keeps it from looking is said in the program's log. Returns whether it could."""
        try:
            self.look()
        except LakeMissing as missing:
            _log.info("the lookout waits for the lake", reason=str(missing))
            return False
        except _TROUBLE as trouble:
            self._watch.tries_again(_away(trouble))
            _log.warning("the lookout could not look, will try again", reason=str(trouble))
            return False
        return True

    def look(self) -> None:
        """Raises what is news now, and resolves what no longer is. Raises LakeError, LogError, OutboxUnavailable,
        ControlUnavailable."""
        lake, snapshot, now_us = self._views.lake(), self._views.snapshots(), self._clock()
        unpriced = self._look_at_prices(lake, snapshot, now_us)
        if self._forecast_is_due(snapshot, now_us):
            self._look_at_budgets(lake, snapshot, now_us)
            self._forecast_at = snapshot.version, now_us
        if self._reconciled_at_us is None or now_us - self._reconciled_at_us >= RECONCILE_EVERY_US:
            self._look_at_requests(lake, now_us)
            self._reconciled_at_us = now_us
        waiting = self._look_at_meters(lake, now_us)
        partitions = [each.partition for each in self._positions.committed] if self._positions else []
        self._watch.looked(_sight(partitions, waiting, unpriced, now_us))

    # -- prices ----------------------------------------------------------------------------------------------------

    def _look_at_prices(self, lake: Lake, snapshot: Snapshot, now_us: int) -> int:
        """How many models are without a price."""
        with lake.read() as cursor:
            # A day more: an event may be ahead of the clock.
            days = unpriced_days(cursor, now_us - UNPRICED_DAYS * DAY_US, now_us + DAY_US)
        found = unpriced_alerts(days, snapshot.rate_cards, now_us)
        self._tell("unpriced", found, lambda alert: unpriced_is_over(alert, found, snapshot.rate_cards, now_us), now_us)
        return len(found)

    # -- budgets ---------------------------------------------------------------------------------------------------

    def _forecast_is_due(self, snapshot: Snapshot, now_us: int) -> bool:
        if self._forecast_at is None:
            return True
        version, at_us = self._forecast_at
        return version != snapshot.version or now_us - at_us >= FORECAST_EVERY_US

    def _look_at_budgets(self, lake: Lake, snapshot: Snapshot, now_us: int) -> None:
        with lake.read() as cursor:
            days = budget_days(cursor, snapshot, now_us)
        budgets = {budget.id: budget for budget in snapshot.budgets}
        courses = {id_: _course(budget, days[id_], now_us) for id_, budget in budgets.items()}
        found = {
            id_: alert
            for id_, (window, spent, ahead) in courses.items()
            if (alert := forecast_alert(budgets[id_], snapshot.currency, window, spent, ahead, now_us)) is not None
        }

        def over(alert: Alert) -> str | None:
            window, _, ahead = courses.get(alert.subject, (None, 0, None))
            return forecast_is_over(alert, budgets.get(alert.subject), window, ahead)

        self._tell("forecast", found, over, now_us)

    # -- requests --------------------------------------------------------------------------------------------------

    def _look_at_requests(self, lake: Lake, now_us: int) -> None:
        terms, ends = self._settings.reconciliation, self._views.log().end_offsets(USAGE_EVENTS)
        with lake.read() as cursor:
            told = as_of(lake, cursor, Freshness(now_us, ends))
            lines, *_ = counted_lines(cursor, reach_of(Selection(now_us - RECONCILED_US, now_us), terms, told))
        tenants = by_tenant(lines)
        found = reconciliation_alerts(tenants, terms, now_us)
        self._tell("reconciliation", found, lambda alert: reconciliation_is_over(alert, tenants, terms), now_us)

    # -- meters ----------------------------------------------------------------------------------------------------

    def _look_at_meters(self, lake: Lake, now_us: int) -> Mapping[int, Waiting]:
        """What waits, by partition."""
        before, now, found = self._standing, dict[int, Standing](), dict[str, Alert]()
        waiting = self._waiting(lake)
        for partition, waits in waiting.items():
            standing = standing_of(waits, before.get(partition), self._patience, now_us)
            now[partition] = standing
            alert = meter_alert(partition, waits, before.get(partition), standing, self._patience, now_us)
            if alert is not None:
                found[alert.subject] = alert
        partitions = {subject_of(partition): partition for partition in waiting}

        def back(alert: Alert) -> str | None:
            at = partitions.get(alert.subject)
            waits, standing = (None, None) if at is None else (waiting[at], now[at])
            return meter_is_back(alert, waits, standing, self._patience, now_us)

        self._tell("meter_behind", found, back, now_us)
        self._standing = now
        return waiting

    def _waiting(self, lake: Lake) -> dict[int, Waiting]:
        """By partition that has records which the lake does not hold. The log's end is read first: a meter that runs
        is then never seen further behind than it is."""
        log = self._views.log()
        ends = log.end_offsets(USAGE_EVENTS)
        with lake.read() as cursor:
            self._positions = self._kept.read(lake, cursor)
        committed = {each.partition: each.next_offset for each in self._positions.committed}
        found = {}
        for partition, end in ends.items():
            if (offset := committed.get(partition, 0)) < end:
                try:
                    first = log.read(USAGE_EVENTS, partition, offset, 1)
                except LogUnavailable:
                    raise
                except LogError:  # retention took it: whoever meters it stops there
                    found[partition] = Waiting(offset, end - offset, None)
                else:
                    if len(first):
                        found[partition] = Waiting(offset, end - offset, first.appended_us[0])
        return found

    # -- telling ---------------------------------------------------------------------------------------------------

    def _tell(
        self, kind: AlertKind, found: Mapping[str, Alert], over: Callable[[Alert], str | None], now_us: int
    ) -> None:
        """Raises, by subject, what was found and is not open, and resolves what is open and over."""
        standing = [entry.alert for entry in self._outbox.open(now_us, MAX_OPEN, kind)]
        told = {alert.subject for alert in standing}
        resolved = [resolution_of(alert, now_us, why) for alert in standing if (why := over(alert)) is not None]
        raised = [alert for subject, alert in found.items() if subject not in told]
        room = MAX_OPEN - len(standing)
        if len(raised) > room:
            _log.warning("too many alerts are open: others are not raised", kind=kind, not_raised=len(raised) - room)
        news = [*resolved, *raised[:room]]
        if news:
            self._outbox.add(news)


def _course(budget: Budget, days: BudgetDays, now_us: int) -> tuple[Window, int, Forecast]:
    """The budget's window of now, what was spent in it, and its forecast."""
    window = days.window
    spent = sum(amount for day, amount in days.days if day.start_us >= window[0])
    tiles = days_between(budget.window.time_zone, *window)
    return window, spent, forecast(spent, limit_of(budget), tiles, now_us, days.history)


def _sight(partitions: Sequence[int], waiting: Mapping[int, Waiting], unpriced_models: int, now_us: int) -> Sight:
    """`now_us`: the clock before the log's end was read."""
    arrived_us = [waits.arrived_us for waits in waiting.values()]
    known = [each for each in arrived_us if each is not None]
    uncommitted = dict.fromkeys(partitions, (0, 0.0)) | {
        partition: (
            waits.records,
            math.inf if waits.arrived_us is None else max(0.0, (now_us - waits.arrived_us) / 1e6),
        )
        for partition, waits in waiting.items()
    }
    return Sight(uncommitted, min([now_us, *known]) if len(known) == len(arrived_us) else None, unpriced_models)


def _away(trouble: Exception) -> Away:
    if isinstance(trouble, LakeError):
        return "lake"
    return "log" if isinstance(trouble, LogError) else "control"
