"""What each worker counts. A process has the metrics of the workers that it runs and of no others: one that meters
nothing shows no lag of nothing. The names are a contract: Prometheus's rules and the dashboards in `ops` ask for them.

Labels have few values, each for a reason: a partition is one of 64 at most, outcomes and reasons are ours, a channel is
one that is configured. Tenants, models, users and budgets are in no label: how many there are is up to others, and
`/metrics` is read without a key.
"""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from meterhouse.ingest.batch import Reason
from meterhouse.streams.ledger import Counts, Processed
from meterhouse.streams.watch import Away, Delivered, Sight, Stand, Turn
from meterhouse.warehouse.maintenance import MaintenanceReport
from meterhouse.warehouse.retention import RetentionReport

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EVENTS: Final = (1, 10, 100, 1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000)
_OUTCOMES: Final = tuple(field.name for field in fields(Counts) if field.name != "read")
_DELIVERIES: Final[tuple[Delivered, ...]] = ("delivered", "failed", "given_up", "silenced")
_LATE: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 43_200)
"""From an alert's raising to its delivery: within a second, or after half a day of tries."""


def counter(registry: CollectorRegistry, name: str, help_: str, label: str, values: Sequence[str]) -> Counter:
    """A counter with one label, all values of which are there from the start, so that their rates begin at 0."""
    made = Counter(name, help_, (label,), registry=registry)
    for value in values:
        made.labels(value)
    return made


class _Worker:
    """Counts what a worker tries again."""

    def __init__(self, retries: Counter, name: str, aways: Sequence[Away]) -> None:
        self._retries = {away: retries.labels(name, away) for away in aways}

    def tries_again(self, away: Away) -> None:
        self._retries[away].inc()


class MeterMetrics(_Worker):
    """Watches a meter."""

    def __init__(self, here: CollectorRegistry, retries: Counter) -> None:
        super().__init__(retries, "meter", ("lake", "log", "log_full"))
        self._records = Counter("meterhouse_records_read", "Records read from usage.events", registry=here)
        self._poll_events = Histogram("meterhouse_poll_events", "Events of one poll", buckets=_EVENTS, registry=here)
        self._stages = Histogram(
            "meterhouse_stage_seconds", "Stages of one poll: its wait and transfer, decoding, dedupe to roll-up",
            ("stage",), buckets=SECONDS, registry=here,
        )  # fmt: skip
        self._events = counter(
            here, "meterhouse_events", "Events committed, by what became of them", "outcome", _OUTCOMES
        )
        self._rejects = counter(here, "meterhouse_rejects", "Rejects committed", "reason", list(Reason))
        self._commit_s = Histogram("meterhouse_commit_seconds", "Time of a commit", buckets=SECONDS, registry=here)
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

    def processed(self, unit: Processed, turn: Turn) -> None:
        self._records.inc(turn.records)
        self._poll_events.observe(_counts(unit).read)
        for stage, seconds in (("poll", turn.poll_s), ("decode", turn.decode_s), ("process", turn.process_s)):
            self._stages.labels(stage).observe(seconds)

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

    def stands(self, stand: Stand) -> None:
        for gauge, values in ((self._lag_records, stand.lag.records), (self._lag_s, stand.lag.seconds)):
            gauge.clear()  # partitions go to other meters
            for partition, value in values.items():
                gauge.labels(str(partition)).set(value)
        self._buffered.set(stand.buffered_events)
        self._ids.set(stand.dedupe_ids)
        self._id_bytes.set(stand.dedupe_bytes)


def _counts(unit: Processed) -> Counts:
    pairs = ((unit.before[p].counts, position.counts) for p, position in unit.after.items())
    names = Counts.__slots__
    return sum(
        (Counts(*(getattr(after, name) - getattr(before, name) for name in names)) for before, after in pairs), Counts()
    )


class MaintenanceMetrics:
    """Watches the lake's maintenance."""

    def __init__(self, here: CollectorRegistry) -> None:
        self._runs = counter(
            here, "meterhouse_maintenance_runs", "Rounds of maintenance, by how they ended", "outcome",
            ("done", "elsewhere", "troubled"),
        )  # fmt: skip
        self._seconds = Histogram(
            "meterhouse_maintenance_seconds", "Time of a round, commits of this process wait", buckets=SECONDS,
            registry=here,
        )  # fmt: skip
        self._merged = Counter("meterhouse_maintenance_merged_files", "Files merged into others", registry=here)
        self._expired = Counter("meterhouse_maintenance_expired_snapshots", "Lake snapshots let go", registry=here)
        self._deleted = Counter("meterhouse_maintenance_deleted_files", "Files nobody needs, removed", registry=here)
        self._bytes = Counter("meterhouse_maintenance_deleted_bytes", "Size of these", registry=here)
        self._orphans = Counter("meterhouse_maintenance_orphans", "Files of killed writers, removed", registry=here)
        self._succeeded = Gauge(
            "meterhouse_maintenance_success_timestamp_seconds",
            "When this process last did a whole round without trouble; at first, when it began", registry=here,
        )  # fmt: skip
        self._succeeded.set(math.nan)  # most processes do none
        self._removed = counter(
            here, "meterhouse_retention_removed_rows", "Rows that retention removed", "table",
            ("charges", "node_events", "rejects", "quality"),
        )  # fmt: skip

    def begins(self) -> None:
        """Maintenance is this process's from now on."""
        self._succeeded.set_to_current_time()

    def maintained(self, report: MaintenanceReport) -> None:
        self._merged.inc(report.merged_files)
        self._expired.inc(report.expired_snapshots)
        self._deleted.inc(report.deleted_files)
        self._bytes.inc(report.deleted_bytes)
        self._orphans.inc(report.orphans)

    def round_done(self, report: MaintenanceReport) -> None:
        self._runs.labels("elsewhere" if report.elsewhere else "troubled" if report.trouble else "done").inc()
        self._seconds.observe(report.duration_us / 1e6)
        if not report.elsewhere and not report.trouble:
            self._succeeded.set_to_current_time()
        self.maintained(report)

    def retained(self, report: RetentionReport) -> None:
        for table, rows in report.rows.items():
            self._removed.labels(table).inc(rows)


class BudgetMetrics(_Worker):
    """Watches a budget worker."""

    def __init__(self, here: CollectorRegistry, retries: Counter) -> None:
        super().__init__(retries, "budget_worker", ("log", "control"))
        self._totals = Counter("meterhouse_budget_totals_read", "Budget totals read", registry=here)
        self._states = Counter("meterhouse_budget_states_said", "Budget states published", registry=here)
        self._raised = Counter("meterhouse_alerts_raised", "Alerts raised", registry=here)
        self._turn = Gauge("meterhouse_budget_turn_timestamp_seconds", "When the last turn was whole", registry=here)
        self._turn.set(math.nan)  # there was none: 0 would be one of long ago

    def judged(self, totals: int, states: int, alerts: int) -> None:
        self._totals.inc(totals)
        self._states.inc(states)
        self._raised.inc(alerts)
        self._turn.set_to_current_time()


class AlertMetrics(_Worker):
    """Watches an alert sender."""

    def __init__(self, here: CollectorRegistry, retries: Counter) -> None:
        super().__init__(retries, "alert_sender", ("control",))
        self._tries = Counter(
            "meterhouse_alert_deliveries", "Tries to deliver an alert", ("channel", "outcome"), registry=here
        )
        self._delay_s = Histogram(
            "meterhouse_alert_delay_seconds", "From raised to delivered", ("channel",), buckets=_LATE, registry=here
        )
        self._waiting = Gauge("meterhouse_alerts_waiting", "Alerts that a channel has not had yet", registry=here)
        self._oldest_s = Gauge("meterhouse_alerts_waiting_seconds", "Age of the oldest of these", registry=here)

    def has(self, channel: str) -> None:
        """There is such a channel: its rates begin at 0."""
        for outcome in _DELIVERIES:
            self._tries.labels(channel, outcome)
        self._delay_s.labels(channel)

    def tried(self, channel: str, outcome: Delivered, seconds: float) -> None:
        self._tries.labels(channel, outcome).inc()
        if outcome == "delivered":
            self._delay_s.labels(channel).observe(seconds)

    def waits(self, alerts: int, oldest_s: float) -> None:
        self._waiting.set(alerts)
        self._oldest_s.set(oldest_s)


class LookoutMetrics(_Worker):
    """Watches a lookout, which sees how late the lake is although every meter may be gone."""

    def __init__(self, here: CollectorRegistry, retries: Counter) -> None:
        super().__init__(retries, "lookout", ("lake", "log", "control"))
        self._records = Gauge(
            "meterhouse_uncommitted_records", "Records that the lake does not hold", ("partition",), registry=here
        )
        self._seconds = Gauge(
            "meterhouse_uncommitted_seconds", "How long the first of these waits; infinite: the log lost it",
            ("partition",), registry=here,
        )  # fmt: skip
        self._watermark = Gauge(
            "meterhouse_watermark_timestamp_seconds", "Every report includes what arrived before", registry=here
        )
        self._unpriced = Gauge(
            "meterhouse_unpriced_models", "Models that requests come in for, and no rate card prices", registry=here
        )
        self._watermark.set(math.nan)  # until it has looked

    def looked(self, sight: Sight) -> None:
        for gauge in (self._records, self._seconds):
            gauge.clear()
        for partition, (records, seconds) in sight.uncommitted.items():
            self._records.labels(str(partition)).set(records)
            self._seconds.labels(str(partition)).set(seconds)
        self._watermark.set(math.nan if sight.watermark_us is None else sight.watermark_us / 1e6)
        self._unpriced.set(sight.unpriced_models)
