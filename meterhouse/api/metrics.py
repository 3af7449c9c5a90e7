"""`/metrics` of a process as Prometheus's text: what its routes, its gate and its workers count (`metrics_workers`)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from meterhouse.api.metrics_workers import (
    SECONDS,
    AlertMetrics,
    BudgetMetrics,
    LookoutMetrics,
    MaintenanceMetrics,
    MeterMetrics,
    counter,
)
from meterhouse.ingest.formats.event_types import DOCUMENTS
from meterhouse.streams.gate_decision import Outcome, Reason

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What else the parser of requests takes, WebDAV's thirty, is counted as `other`."""


def method_of(told: str) -> str:
    """A method, or `other`."""
    return told if told in METHODS else "other"


class Metrics:
    """The metrics of one process; what it runs is made when it is first asked for. Thread-safe once made."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._retries = Counter(
            "meterhouse_retries", "What failed and was tried again, by who and by what was away", ("worker", "away"),
            registry=self.registry,
        )  # fmt: skip

    # -- workers ---------------------------------------------------------------------------------------------------

    @cached_property
    def meter(self) -> MeterMetrics:
        return MeterMetrics(self.registry, self._retries)

    @cached_property
    def maintenance(self) -> MaintenanceMetrics:
        return MaintenanceMetrics(self.registry)

    @cached_property
    def budgets(self) -> BudgetMetrics:
        return BudgetMetrics(self.registry, self._retries)

    @cached_property
    def alerts(self) -> AlertMetrics:
        return AlertMetrics(self.registry, self._retries)

    @cached_property
    def lookout(self) -> LookoutMetrics:
        return LookoutMetrics(self.registry, self._retries)

    # -- what a server does ----------------------------------------------------------------------------------------

    @cached_property
    def http(self) -> HttpMetrics:
        return HttpMetrics(self.registry)

    @cached_property
    def gate(self) -> GateMetrics:
        return GateMetrics(self.registry)

    # -- what every process stands on ------------------------------------------------------------------------------

    @cached_property
    def control(self) -> ControlMetrics:
        return ControlMetrics(self.registry)

    def watch_disk(self, **folders: Path) -> None:
        """From now on the disks of these folders are asked at each scrape."""
        for name, read in (("total", 0), ("free", 2)):
            gauge = Gauge(
                f"meterhouse_disk_{name}_bytes", f"Disk of a folder of this process: {name}", ("folder",),
                registry=self.registry,
            )  # fmt: skip
            for label, folder in folders.items():
                gauge.labels(label).set_function(partial(_disk, folder, read))


def _disk(folder: Path, place: int) -> float:
    """Total, used or free bytes of the disk on which a folder is, or will be."""
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path("/"))
    return float(shutil.disk_usage(there)[place])


class HttpMetrics:
    """Counts answers. `route` is the route's pattern: paths are without number."""

    def __init__(self, here: CollectorRegistry) -> None:
        self._requests = Counter(
            "meterhouse_http_requests", "HTTP requests answered", ("method", "route", "status"), registry=here
        )
        self._request_s = Histogram(
            "meterhouse_http_request_seconds", "Time to answer", ("route",), buckets=SECONDS, registry=here
        )
        self._left_out = counter(
            here, "meterhouse_foreign_left_out", "Elements of foreign bodies that are no tenant's requests", "format",
            DOCUMENTS,
        )  # fmt: skip

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method_of(method), route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def left_out(self, format_: str, elements: int) -> None:
        self._left_out.labels(format_).inc(elements)


class GateMetrics:
    """Counts admissions."""

    def __init__(self, here: CollectorRegistry) -> None:
        self._registry = here
        self._admissions = Counter("meterhouse_admissions", "Admissions decided", ("outcome", "reason"), registry=here)
        self._admissions.labels("allow", "none")
        for reason in get_args(Reason):
            self._admissions.labels("throttle" if reason == "throttled" else "refuse", reason)

    def admitted(self, outcome: Outcome, reason: Reason | None) -> None:
        self._admissions.labels(outcome, reason or "none").inc()

    def watch(self, reservations: Callable[[], int], state_age_s: Callable[[], float | None]) -> None:
        """From now on these are asked at each scrape."""

        def age_s() -> float:
            return math.nan if (age := state_age_s()) is None else age

        Gauge("meterhouse_reservations", "Reservations held", registry=self._registry).set_function(reservations)
        Gauge(
            "meterhouse_budget_state_age_seconds", "Age of the spend that admissions are judged by",
            registry=self._registry,
        ).set_function(age_s)  # fmt: skip


class ControlMetrics:
    """Which control data is in force here."""

    def __init__(self, here: CollectorRegistry) -> None:
        self._version = Gauge("meterhouse_control_version", "Version of the control data in force here", registry=here)
        self._away = Counter(
            "meterhouse_control_away", "Looks for new control data that failed; the last is used", registry=here
        )

    def follows(self, version: int) -> None:
        self._version.set(version)

    def away(self) -> None:
        self._away.inc()
