"""`/metrics` of a process: what its workers and routes count, as Prometheus's text. The names are a contract."""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from meterhouse.streams.gate_decision import Outcome, Reason
from meterhouse.streams.ledger import Counts, Processed
from meterhouse.streams.watch import Delivered, Lag

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EVENTS: Final = (1, 10, 100, 1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000)
_OUTCOMES: Final = tuple(field.name for field in fields(Counts) if field.name != "read")


class Metrics:
    """The metrics of one process: it watches meter, budget worker, alert sender and routes. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._make_meter()
        self._make_budgets()
        here = self.registry
        self._admissions = Counter("meterhouse_admissions", "Admissions decided", ("outcome", "reason"), registry=here)
        self._requests = Counter(
            "meterhouse_http_requests", "HTTP requests answered", ("method", "route", "status"), registry=here
        )
        self._request_s = Histogram(
            "meterhouse_http_request_seconds", "Time to answer", ("route",), buckets=_SECONDS, registry=here
        )

        self._left_out = Counter(
            "meterhouse_foreign_left_out", "Elements of foreign bodies that are no tenant's requests", ("format",),
            registry=here,
        )  # fmt: skip

    def _make_meter(self) -> None:
        here = self.registry
        self._records = Counter("meterhouse_records_read", "Records read from usage.events", registry=here)
        self._poll_events = Histogram("meterhouse_poll_events", "Events of one poll", buckets=_EVENTS, registry=here)
        self._process_s = Histogram(
            "meterhouse_process_seconds", "Decode to roll-up of one poll", buckets=_SECONDS, registry=here
        )
        self._events = Counter(
            "meterhouse_events", "Events committed, by what became of them", ("outcome",), registry=here
        )
        self._rejects = Counter("meterhouse_rejects", "Rejects committed", ("reason",), registry=here)
        self._commit_s = Histogram("meterhouse_commit_seconds", "Time of a commit", buckets=_SECONDS, registry=here)
        self._commit_events = Histogram(
            "meterhouse_commit_events", "Events of a commit", buckets=_EVENTS, registry=here
        )
        self._fenced = Counter("meterhouse_fenced_commits", "Commits that another meter fenced", registry=here)
        self._lag_records = Gauge("meterhouse_lag_records", "Records not yet processed", ("partition",), registry=here)
        self._lag_s = Gauge(
            "meterhouse_lag_seconds", "Age of the last record processed, while others wait", ("partition",),
            registry=here,
        )  # fmt: skip
        self._buffered = Gauge("meterhouse_buffered_events", "Events processed and not committed", registry=here)
        self._ids = Gauge("meterhouse_dedupe_ids", "Ids in the dedupe indexes", registry=here)
        self._id_bytes = Gauge("meterhouse_dedupe_bytes", "Memory of the dedupe indexes", registry=here)
        for outcome in _OUTCOMES:
            self._events.labels(outcome)  # there from the start, so that a rate begins at 0

    def _make_budgets(self) -> None:
        here = self.registry
        self._totals = Counter("meterhouse_budget_totals_read", "Budget totals read", registry=here)
        self._states = Counter("meterhouse_budget_states_said", "Budget states published", registry=here)
        self._raised = Counter("meterhouse_alerts_raised", "Alerts raised", registry=here)
        self._alerts = Counter(
            "meterhouse_alert_deliveries", "Tries to deliver an alert", ("channel", "outcome"), registry=here
        )
        self._alert_s = Histogram(
            "meterhouse_alert_delay_seconds", "From raised to delivered", ("channel",), buckets=_SECONDS, registry=here
        )

    # -- the meter -------------------------------------------------------------------------------------------------

    def processed(self, unit: Processed, records: int, seconds: float) -> None:
        self._records.inc(records)
        self._poll_events.observe(_counts(unit).read)
        self._process_s.observe(seconds)

    def committed(self, unit: Processed, seconds: float) -> None:
        counts = _counts(unit)
        self._commit_s.observe(seconds)
        self._commit_events.observe(counts.read)
        for outcome in _OUTCOMES:
            self._events.labels(outcome).inc(getattr(counts, outcome))
        for reason, number in Tally(reject.reason.value for reject in unit.rejects).items():
            self._rejects.labels(reason).inc(number)

    def fenced(self, partitions: int) -> None:
        self._fenced.inc()

    def stands(self, lag: Lag, buffered_events: int, ids: int, id_bytes: int) -> None:
        for gauge, values in ((self._lag_records, lag.records), (self._lag_s, lag.seconds)):
            gauge.clear()  # partitions go to other meters
            for partition, value in values.items():
                gauge.labels(str(partition)).set(value)
        self._buffered.set(buffered_events)
        self._ids.set(ids)
        self._id_bytes.set(id_bytes)

    # -- the others ------------------------------------------------------------------------------------------------

    def judged(self, totals: int, states: int, alerts: int) -> None:
        self._totals.inc(totals)
        self._states.inc(states)
        self._raised.inc(alerts)

    def tried(self, channel: str, outcome: Delivered, seconds: float) -> None:
        self._alerts.labels(channel, outcome).inc()
        if outcome == "delivered":
            self._alert_s.labels(channel).observe(seconds)

    # -- the gate --------------------------------------------------------------------------------------------------

    def admitted(self, outcome: Outcome, reason: Reason | None) -> None:
        self._admissions.labels(outcome, reason or "none").inc()

    def watch_gate(self, reservations: Callable[[], int], state_age_s: Callable[[], float | None]) -> None:
        """From now on these are asked at each scrape."""

        def age_s() -> float:
            return math.nan if (age := state_age_s()) is None else age

        Gauge("meterhouse_reservations", "Reservations held", registry=self.registry).set_function(reservations)
        Gauge(
            "meterhouse_budget_state_age_seconds", "Age of the spend that admissions are judged by",
            registry=self.registry,
        ).set_function(age_s)  # fmt: skip

    def left_out(self, format_: str, elements: int) -> None:
        self._left_out.labels(format_).inc(elements)

    # -- routes ----------------------------------------------------------------------------------------------------

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the route's pattern: paths are without number."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)


def _counts(unit: Processed) -> Counts:
    pairs = ((unit.before[p].counts, position.counts) for p, position in unit.after.items())
    names = Counts.__slots__
    return sum(
        (Counts(*(getattr(after, name) - getattr(before, name) for name in names)) for before, after in pairs), Counts()
    )
