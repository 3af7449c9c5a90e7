"""Retention as settings and control data say it: what a meter's process removes, and when it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from meterhouse.streams.control import Objective, Snapshot
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.quality.results import QualityResults
from meterhouse.warehouse.retention import RetentionReport, retain
from meterhouse.warehouse.retention_terms import Retention

_DAY_US: Final = 86_400 * 1_000_000


def retaining(
    lake: Lake,
    retention: Retention,
    window_hours: int,
    snapshots: Callable[[], Snapshot],
    results: QualityResults,
) -> Callable[[int], RetentionReport]:
    """A function of the time now, which removes what is due. It raises ControlUnavailable."""

    def run(now_us: int) -> RetentionReport:
        if retention == Retention():
            return RetentionReport()
        report = retain(lake, now_us, retention, window_hours, longest_window(snapshots().objectives))
        if retention.quality is None:
            return report
        forgotten = results.forget(now_us - retention.quality * _DAY_US)
        return replace(report, rows={**report.rows, "quality": forgotten})

    return run


def longest_window(objectives: Sequence[Objective]) -> int:
    """Days that objectives look back; 0: there are none."""
    return max((objective.window_days for objective in objectives), default=0)
