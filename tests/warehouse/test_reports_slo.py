"""The SLO report: exact good and total, burn rates, percentiles from merged histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from meterhouse.streams.control import Objective, Scope
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.burn_down import WORST, burn_down
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import MAX_DAYS, Selection
from meterhouse.warehouse.reports.judged import Ratio
from meterhouse.warehouse.reports.latencies import latencies
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.slo import burn_rules, slo, slo_days
from meterhouse.warehouse.reports.to_json import to_json
from tests.builders import HOUR_US, MINUTE_US, SECOND_US, T0_US
from tests.warehouse.filled import SNAPSHOT, fill, microseconds

STATUSES = ("ok", "ok", "error", "throttled", "aborted", "ok", "blocked")
NOW = T0_US + 2 * DAY_US + 13 * MINUTE_US + 7
ROWS = [
    {
        "tenant": ("acme", "bolt", "cork")[i % 3],
        "application": ("assistant", "search")[i % 2],
        "model": ("atlas-large", "atlas-small")[i % 5 % 2],
        "status": STATUSES[i % 11 % 7],
        "time": NOW - i * i * SECOND_US,
        # Some lie exactly on the threshold of `fast` and of `first`: good is strictly below.
        "duration_us": None if i % 17 == 0 else 20_000 if i % 10 == 0 else 1000 + i * 7919 % 60_000,
        "time_to_first_token_us": None if i % 13 == 0 else 5_000 if i % 9 == 0 else i * 104_729 % 9_000,
    }
    for i in range(1, 420)
]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[Row]:
    return fill(lake, ROWS)


IN_SCOPE: dict[str, Callable[[Row], bool]] = {
    "up": lambda row: row["application"] == "assistant",
    "fast": lambda row: row["tenant"] in ("acme", "bolt"),
    "first": lambda row: row["model"] == "atlas-small",
}


def counted(rows: list[Row], objective: Objective, from_us: int, to_us: int) -> list[Row]:
    return [
        row
        for row in rows
        if from_us <= microseconds(row) < to_us
        and row["status"] not in ("throttled", "blocked")
        and IN_SCOPE[objective.id](row)
        and (objective.sli == "availability" or row[f"{objective.sli}_us"] is not None)
    ]


def good(rows: list[Row], objective: Objective) -> int:
    if objective.sli == "availability":
        return sum(row["status"] != "error" for row in rows)
    assert objective.below_ms is not None
    return sum(row[f"{objective.sli}_us"] < objective.below_ms * 1000 for row in rows)


def test_good_and_total_are_exact_in_the_window_and_in_every_burn_window(lake: Lake, charges: list[Row]) -> None:
    lengths = {"5m": 5 * MINUTE_US, "30m": 30 * MINUTE_US, "1h": HOUR_US, "2h": 2 * HOUR_US}
    lengths |= {"6h": 6 * HOUR_US, "1d": DAY_US, "3d": 3 * DAY_US}
    report = slo(lake, SNAPSHOT, NOW)
    assert [line.objective.id for line in report.lines] == ["up", "fast", "first"]
    for line in report.lines:
        objective = line.objective
        inside = counted(charges, objective, NOW - objective.window_days * DAY_US, NOW)
        assert (line.from_us, line.to_us) == (NOW - objective.window_days * DAY_US, NOW)
        assert (line.ratio.good, line.ratio.total) == (good(inside, objective), len(inside))
        assert set(line.burns) == set(lengths)
        for name, length_us in lengths.items():
            burning = counted(charges, objective, NOW - length_us, NOW)
            assert (line.burns[name].good, line.burns[name].total) == (good(burning, objective), len(burning))


def test_percentiles_are_within_one_percent_of_the_nearest_rank(lake: Lake, charges: list[Row]) -> None:
    for line in slo(lake, SNAPSHOT, NOW).lines:
        for metric, found in line.percentiles_us.items():
            as_latency = replace(line.objective, sli=metric, below_ms=1)  # type: ignore[arg-type]
            rows = counted(charges, as_latency, line.from_us, line.to_us)
            values = sorted(row[f"{metric}_us"] for row in rows)
            for percent in (50, 95, 99):
                exact = values[math.ceil(percent * len(values) / 100) - 1]
                found_us = found[f"p{percent}"]
                assert found_us is not None
                assert abs(found_us - exact) * 100 <= exact


def test_an_explicit_range_is_the_window_and_cuts_the_burn_windows(lake: Lake, charges: list[Row]) -> None:
    window = (NOW - 50 * MINUTE_US - 3, NOW - 10 * MINUTE_US)
    line = slo(lake, SNAPSHOT, NOW, window).lines[0]
    inside = counted(charges, line.objective, *window)
    assert (line.ratio.good, line.ratio.total) == (good(inside, line.objective), len(inside))
    assert line.burns["3d"] == line.burns["1h"] == line.ratio
    last = counted(charges, line.objective, window[1] - 5 * MINUTE_US, window[1])
    assert (line.burns["5m"].good, line.burns["5m"].total) == (good(last, line.objective), len(last))
    values = sorted(row["duration_us"] for row in inside if row["duration_us"] is not None)
    exact, median = values[math.ceil(len(values) / 2) - 1], line.percentiles_us["duration"]["p50"]
    assert median is not None
    assert abs(median - exact) * 100 <= exact


def test_days_are_counted_as_the_window_and_add_up_to_it(lake: Lake, charges: list[Row]) -> None:
    from_us, to_us = T0_US - 3 * DAY_US + HOUR_US + 1, T0_US + DAY_US + MINUTE_US
    begins = [from_us, T0_US - 2 * DAY_US, T0_US - DAY_US, T0_US, T0_US + DAY_US]
    windows = slo(lake, SNAPSHOT, to_us, (from_us, to_us)).lines
    for found, line in zip(slo_days(lake, SNAPSHOT, from_us, to_us), windows, strict=True):
        assert (found.objective, found.whole) == (line.objective, line.ratio)
        rows = [counted(charges, found.objective, *span) for span in pairwise([*begins, to_us])]
        assert dict(found.days) == {
            begin: Ratio(good(inside, found.objective), len(inside)) for begin, inside in zip(begins, rows, strict=True)
        }
        assert sum(day.total for day in found.days.values()) == found.whole.total


def test_a_range_of_too_many_days_is_refused(lake: Lake) -> None:
    with pytest.raises(ReportError, match="366 days"):
        slo_days(lake, SNAPSHOT, T0_US, T0_US + (MAX_DAYS + 1) * DAY_US)


def test_it_reads_as_the_contract_says(lake: Lake, charges: list[Row]) -> None:
    line = to_json(slo(lake, SNAPSHOT, NOW))["objectives"][0]
    objective = SNAPSHOT.objectives[0]
    inside = counted(charges, objective, NOW - 30 * DAY_US, NOW)
    share = Fraction(good(inside, objective), len(inside))
    assert {name: value for name, value in line.items() if not name.endswith("_ms") and name != "burn_rates"} == {
        "id": "up",
        "scope": {"application": "assistant"},
        "sli": "availability",
        "target": "0.9",
        "window": {"from": "2026-10-04T00:13:00.000007Z", "to": "2026-11-03T00:13:00.000007Z", "days": 30},
        "good": good(inside, objective),
        "total": len(inside),
        "compliance": float(round(share, 9)),
        "state": "missed" if share < Fraction("0.9") else "met",
        "error_budget_left": float(round(1 - (1 - share) * 10, 9)),
        "burning": [],
    } | ({"burning": line["burning"]} if line["burning"] else {})
    assert list(line["burn_rates"]) == ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
    assert set(line["duration_ms"]) == {"p50", "p95", "p99"} == set(line["time_to_first_token_ms"])


def test_an_objective_burns_when_both_windows_of_a_pair_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("burning")
    snapshot = replace(SNAPSHOT, objectives=(Objective("up", Scope(), "availability", None, Decimal("0.9"), 30),))
    failing = [{"time": NOW - i * MINUTE_US - 1, "status": "error" if i < 40 else "ok"} for i in range(150)]
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, failing)
        [line] = to_json(slo(lake, snapshot, NOW))["objectives"]
    assert line["burn_rates"]["5m"] == line["burn_rates"]["30m"] == 10.0
    assert line["burn_rates"]["1h"] == pytest.approx(40 / 60 * 10, abs=1e-8)
    # 1h/5m: 6.67 and 10 are below 14.4; 6h/30m: 40 of 150 is 2.67, below 6; 1d/2h: 2.67 < 3; 3d/6h: both over 1.
    assert line["burning"] == [{"long": "3d", "short": "6h", "factor": 1.0, "severity": "ticket"}]
    assert line["state"] == "missed"


@pytest.mark.parametrize(
    ("days", "rules"),
    [
        (30, [("1h", "5m", "14.4"), ("6h", "30m", "6"), ("1d", "2h", "3"), ("3d", "6h", "1")]),
        (7, [("1h", "5m", "3.36"), ("6h", "30m", "1.4"), ("1d", "2h", "1"), ("3d", "6h", "1")]),
        (90, [("1h", "5m", "43.2"), ("6h", "30m", "18"), ("1d", "2h", "9"), ("3d", "6h", "3")]),
        (1, [("1h", "5m", "1"), ("6h", "30m", "1")]),
    ],
)
def test_a_rule_is_the_same_share_of_the_budget_whatever_the_window(
    days: int, rules: list[tuple[str, str, str]]
) -> None:
    assert [(rule.long, rule.short, rule.factor) for rule in burn_rules(days)] == [
        (long, short, Fraction(factor)) for long, short, factor in rules
    ]


def test_without_requests_nothing_is_claimed(lake: Lake) -> None:
    line = to_json(slo(lake, SNAPSHOT, NOW, (0, 1)))["objectives"][1]
    assert (line["good"], line["total"], line["compliance"], line["error_budget_left"]) == (0, 0, None, None)
    assert (line["state"], line["burning"], line["burn_rates"]["1h"]) == ("no data", [], None)
    assert line["duration_ms"] == {"p50": None, "p95": None, "p99": None}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("days", [2, 30])
def test_a_burn_down_ends_at_what_is_left(lake: Lake, charges: list[Row], number: int, days: int) -> None:
    objective = replace(SNAPSHOT.objectives[number], window_days=days)
    report = burn_down(lake, SNAPSHOT, objective, NOW)
    step_us = HOUR_US if days == 2 else DAY_US
    assert [step.start_us for step in report.steps] == list(range(report.from_us // step_us * step_us, NOW, step_us))
    [line] = slo(lake, replace(SNAPSHOT, objectives=(objective,)), NOW).lines
    assert (report.ratio, report.steps[-1].left, report.steps[-1].even) == (line.ratio, line.error_budget_left, 0)
    allowed = (1 - Fraction(objective.target)) * line.ratio.total
    for step in report.steps:
        end_us = min(step.start_us + step_us, NOW)
        inside = counted(charges, objective, max(step.start_us, report.from_us), end_us)
        assert (step.ratio.good, step.ratio.total) == (good(inside, objective), len(inside))
        so_far = counted(charges, objective, report.from_us, end_us)
        assert step.left == 1 - (len(so_far) - good(so_far, objective)) / allowed


def test_the_worst_minutes_are_those_with_most_bad_requests(lake: Lake, charges: list[Row]) -> None:
    objective = SNAPSHOT.objectives[1]
    minutes: dict[int, list[Row]] = {}
    for row in counted(charges, objective, NOW - 30 * DAY_US, NOW):
        minutes.setdefault(microseconds(row) // MINUTE_US * MINUTE_US, []).append(row)
    told = {at: (len(rows) - good(rows, objective), good(rows, objective)) for at, rows in minutes.items()}
    ranked = sorted((-bad, -at, at) for at, (bad, _) in told.items() if bad)[:WORST]
    worst = burn_down(lake, SNAPSHOT, objective, NOW).worst
    assert [at for at, _ in worst] == [at for *_, at in ranked]
    assert [(ratio.total - ratio.good, ratio.good) for _, ratio in worst] == [told[at] for at, _ in worst]


def test_without_a_request_nothing_is_said_of_the_budget(lake: Lake, charges: list[Row]) -> None:
    report = burn_down(lake, SNAPSHOT, replace(SNAPSHOT.objectives[0], scope=Scope(tenant="nobody")), NOW)
    assert {step.left for step in report.steps} == {None}
    assert (report.ratio.total, report.worst) == (0, ())


@pytest.mark.parametrize("every", ["whole", "hour", "day", "month"])
def test_latencies_by_time_and_model_are_those_of_their_requests(lake: Lake, charges: list[Row], every: Any) -> None:
    window, filters = (NOW - 2 * DAY_US, NOW), {"application": ["assistant"]}
    report = latencies(lake, Selection(*window, filters), ("model",), every)
    step_us = {"hour": HOUR_US, "day": DAY_US}.get(every)
    expected: dict[tuple[int | None, str], list[int]] = {}
    for row in charges:
        at_us = microseconds(row)
        if row["application"] != "assistant" or row["status"] in ("throttled", "blocked"):
            continue
        if window[0] <= at_us < window[1] and row["duration_us"] is not None:
            month_us = T0_US if at_us >= T0_US else T0_US - 31 * DAY_US
            start_us = None if every == "whole" else month_us if every == "month" else at_us // step_us * step_us  # type: ignore[operator]
            expected.setdefault((start_us, row["model"]), []).append(row["duration_us"])
    found = {(line.time_us, line.groups["model"]): line.percentiles_us["duration"] for line in report.lines}
    assert {key for key, values in found.items() if values["p50"] is not None} == expected.keys()
    for key, values in expected.items():
        for percent in (50, 95, 99):
            exact = sorted(values)[math.ceil(percent * len(values) / 100) - 1]
            assert abs((found[key][f"p{percent}"] or 0) - exact) * 100 <= exact
    everything = sorted(value for values in expected.values() for value in values)
    median = everything[math.ceil(len(everything) / 2) - 1]
    assert abs((report.total["duration"]["p50"] or 0) - median) * 100 <= median


def test_latencies_say_by_what_they_are_known() -> None:
    nowhere: Any = None
    with pytest.raises(ReportError, match="use any of tenant, application, model, provider"):
        latencies(nowhere, Selection(0, DAY_US), ("environment",))
