"""Data quality as JSON: one way for the command line and the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meterhouse.api.figures import Reports
from meterhouse.api.wiring import House
from meterhouse.streams.alert import rfc3339
from meterhouse.warehouse.view import EVERYTHING

if TYPE_CHECKING:
    from meterhouse.warehouse.quality.checks import Suite, SuiteResult
    from meterhouse.warehouse.quality.expectations import Expectations
    from meterhouse.warehouse.quality.results import QualityRun

Json = dict[str, Any]


class QualityMissing(Exception):
    """Great Expectations is not installed; the message says how it is."""


def expectations() -> Expectations:
    """What checks are made with; importing it takes seconds. Raises QualityMissing."""
    try:
        from meterhouse.warehouse.quality.expectations import Expectations
    except ImportError as missing:
        raise QualityMissing("Great Expectations is not installed: pip install 'meterhouse[quality]'") from missing
    return Expectations()


def run(house: House, suites: Sequence[Suite], docs: Path | None = None) -> list[SuiteResult]:
    """Runs the suites now; with `docs` their Data Docs are written below it.

    Raises QualityMissing, LakeError, LogError, ControlUnavailable, OutboxUnavailable.
    """
    making = expectations()
    results = house.quality.run(suites, Reports(house, EVERYTHING).freshness(), making.validate)
    if docs is not None:
        making.write_docs(docs)
    return results


def report(house: House, suites: Sequence[str]) -> Json:
    """The newest run of each of these suites that was ever run: {"passed", "suites": [...]}; nothing passed where none
    was. Raises ControlUnavailable."""
    last = {each.suite: each for each in house.quality.results.last()}
    runs = [last[suite] for suite in suites if suite in last]
    passed = all(each.passed for each in runs) if runs else None
    return {"passed": passed, "suites": [run_json(each) for each in runs]}


def run_json(run: QualityRun) -> Json:
    return {
        "suite": run.suite,
        "at": rfc3339(run.at_us),
        "passed": run.passed,
        "lake_snapshot": run.lake_snapshot,
        "watermark": rfc3339(run.watermark_us),
        "control_version": run.control_version,
        "checks": list(run.checks),
    }
