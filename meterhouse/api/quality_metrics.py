"""Metrics of the process that checks data quality. The names are a contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from meterhouse.warehouse.quality.checks import SuiteResult

_SECONDS: Final = (1, 2.5, 5, 10, 30, 60, 300, 900)


class QualityMetrics:
    """What the last run of each suite came to, and how runs go."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("suite", "check", "kind")
        self._failing = Gauge("meterhouse_quality_check_failing", "1: the check fails", labels, registry=registry)
        self._offending = Gauge("meterhouse_quality_check_offending", "Rows that fail it", labels, registry=registry)
        self._run_at = Gauge(
            "meterhouse_quality_run_timestamp_seconds", "When the suite was last run", ("suite",), registry=registry
        )
        self._run_s = Histogram("meterhouse_quality_run_seconds", "Time of a run", buckets=_SECONDS, registry=registry)
        self._broken = Counter("meterhouse_quality_runs_broken", "Runs that could not be made", registry=registry)

    def ran(self, results: Iterable[SuiteResult], seconds: float) -> None:
        self._run_s.observe(seconds)
        for result in results:
            self._run_at.labels(result.suite).set(result.at_us / 1_000_000)
            for each in result.checks:
                labels = (result.suite, each.check.id, each.check.kind)
                self._failing.labels(*labels).set(not each.finding.passed)
                self._offending.labels(*labels).set(each.finding.offending)

    def broke(self) -> None:
        self._broken.inc()
