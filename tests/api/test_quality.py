"""What data quality came to: over HTTP, as metrics, and on a schedule."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from meterhouse.api.cli_quality import repeat
from meterhouse.api.quality_metrics import QualityMetrics
from meterhouse.warehouse.lake import LakeError
from meterhouse.warehouse.quality.checks import CheckResult, Finding, SuiteResult
from meterhouse.warehouse.quality.suites import SUITES
from tests.api.doors import gatehouse
from tests.api.test_http import problem
from tests.builders import T0_US
from tests.commands import invoked

LOW, HIGH = SUITES["events"][:2]
FAILS = SuiteResult(
    suite="events",
    at_us=T0_US,
    lake_snapshot=7,
    watermark_us=T0_US - 1_000_000,
    control_version=3,
    checks=(
        CheckResult(LOW, Finding(30, 1, ("day 2026-10-31, tenant acme: fewest_tokens -5",)), True),
        CheckResult(HIGH, Finding(30, 0), False),
    ),
)


def test_the_last_results_are_for_those_who_look_at_all_tenants(tmp_path: Path) -> None:
    with gatehouse(tmp_path) as doors:
        for role in ("product_owner", "gateway"):
            problem(doors.ask(role, "/v1/quality"), 403, "forbidden")
        assert doors.ask("finance", "/v1/quality").json() == {"passed": None, "suites": []}
        doors.house.quality.results.add(FAILS)
        told = doors.ask("auditor", "/v1/quality").json()
        assert told == doors.ask("admin", "/v1/quality", params={"suite": "events"}).json()
        assert told == {
            "passed": False,
            "suites": [
                {
                    "suite": "events",
                    "at": "2026-11-01T00:00:00Z",
                    "passed": False,
                    "lake_snapshot": 7,
                    "watermark": "2026-10-31T23:59:59Z",
                    "control_version": 3,
                    "checks": [
                        {
                            "check": "tokens-low",
                            "kind": "range",
                            "says": LOW.says,
                            "passed": False,
                            "checked": 30,
                            "whole": True,
                            "offending": 1,
                            "rows": ["day 2026-10-31, tenant acme: fewest_tokens -5"],
                            "trouble": None,
                            "do": LOW.do,
                        },
                        {
                            "check": "tokens-high",
                            "kind": "range",
                            "says": HIGH.says,
                            "passed": True,
                            "checked": 30,
                            "whole": False,
                            "offending": 0,
                            "rows": [],
                            "trouble": None,
                            "do": None,
                        },
                    ],
                }
            ],
        }
        assert doors.ask("admin", "/v1/quality", params={"suite": "control"}).json()["suites"] == []


def test_on_a_schedule_trouble_is_passing_and_the_last_results_are_metrics() -> None:
    registry, stop, runs = CollectorRegistry(), threading.Event(), [0]

    def run() -> Sequence[SuiteResult]:
        runs[0] += 1
        if runs[0] == 1:
            raise LakeError("the catalogue is down")
        stop.set()
        return [FAILS]

    repeat(run, 0, QualityMetrics(registry), stop)
    low, high = ({"suite": "events", "check": name, "kind": "range"} for name in ("tokens-low", "tokens-high"))
    assert {
        "broken": registry.get_sample_value("meterhouse_quality_runs_broken_total"),
        "runs": registry.get_sample_value("meterhouse_quality_run_seconds_count"),
        "at": registry.get_sample_value("meterhouse_quality_run_timestamp_seconds", {"suite": "events"}),
        "low": registry.get_sample_value("meterhouse_quality_check_failing", low),
        "rows": registry.get_sample_value("meterhouse_quality_check_offending", low),
        "high": registry.get_sample_value("meterhouse_quality_check_failing", high),
    } == {"broken": 1, "runs": 1, "at": T0_US / 1_000_000, "low": 1, "rows": 1, "high": 0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--every", "soon"), "write a number and m, h or d"),
        (("--every", "0m"), "a minute apart at least"),
        (("--suite", "everything"), "'events', 'rollups', 'control'"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = invoked(tmp_path / "home", "quality", *words)
    assert done.exit_code == 2
    assert said in done.output


def test_without_great_expectations_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meterhouse.warehouse.quality.expectations", None)
    done = invoked(tmp_path / "home", "quality")
    assert done.exit_code == 1
    assert "pip install 'meterhouse[quality]'" in done.output
