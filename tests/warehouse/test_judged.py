"""What objectives come to from kept counts is what their requests come to, counted one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meterhouse.streams import latency
from meterhouse.streams.control import Objective, Scope
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from meterhouse.warehouse.reports import judged
from meterhouse.warehouse.reports.burn_down import burn_down
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.judged import Ratio
from meterhouse.warehouse.reports.latencies import latencies
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, MINUTE_US
from meterhouse.warehouse.reports.slo import BURN_WINDOWS_US, slo, slo_days
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import T0_US
from tests.warehouse.filled import SNAPSHOT, fill, microseconds

MIDNIGHT_US = T0_US // DAY_US * DAY_US
MERGING = MaintenanceSettings(merge_files=2, merge_files_closed=2)
VIEWS = (EVERYTHING, View((Grant("acme"),)), View((Grant("bolt", "search"), Grant("cork"))))
CONTROL = replace(
    SNAPSHOT, objectives=(*SNAPSHOT.objectives, Objective("all", Scope(), "availability", None, Decimal("0.99"), 3))
)
Row = dict[str, Any]


def request(offset: int, at_us: int) -> Row:
    """The `offset`th event: of each tenant, application, model, status and with or without its measures in turn."""
    return {
        "offset": offset,
        "tenant": ("acme", "bolt", "cork")[offset % 3],
        "application": ("assistant", "search")[offset % 2],
        "model": ("atlas-large", "atlas-small")[offset % 5 % 2],
        "status": ("ok", "error", "aborted", "ok", "throttled")[offset % 7 % 5],
        "time": at_us,
        "duration_us": (None, 19_999, 20_000, 45_000)[offset % 11 % 4],
        "time_to_first_token_us": (4_999, None, 5_000)[offset % 13 % 3],
    }


def in_scope(row: Row, objective: Objective, view: View) -> bool:
    scope = objective.scope
    org = {tenant.id: tenant.org for tenant in CONTROL.tenants}[row["tenant"]]
    return (
        view.sees(row["tenant"], row["application"])
        and (scope.application is None or row["application"] == scope.application)
        and (scope.model is None or row["model"] == scope.model)
        and (scope.org_unit is None or scope.org_unit in org)
    )


def ratio(rows: Sequence[Row], objective: Objective, view: View, from_us: int, to_us: int) -> Ratio:
    """One by one."""
    good = total = 0
    for row in rows:
        measure = 0 if objective.sli == "availability" else row[f"{objective.sli}_us"]
        inside = from_us <= microseconds(row) < to_us and row["status"] not in ("throttled", "blocked")
        if inside and measure is not None and in_scope(row, objective, view):
            total += 1
            limit_us = (objective.below_ms or 1) * 1000
            good += row["status"] != "error" if objective.sli == "availability" else measure < limit_us
    return Ratio(good, total)


# Some within the same minutes, on their edges and beside them, so that cuts part what was counted together.
MOMENTS = st.one_of(
    st.integers(MIDNIGHT_US - 4 * DAY_US, MIDNIGHT_US + DAY_US),
    st.builds(
        lambda minute, beside: MIDNIGHT_US + minute * MINUTE_US + beside,
        st.sampled_from((-1440, -61, -60, -1, 0, 1)),
        st.sampled_from((-1, 0, 1, 30_000_000)),
    ),
)
STEPS = st.one_of(
    st.tuples(st.just("commit"), st.lists(MOMENTS, min_size=1, max_size=12)),
    st.tuples(st.just("merge"), st.just([])),
    st.tuples(st.just("delete"), st.lists(st.integers(0, 30), min_size=1, max_size=1)),
)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.reuse, Phase.generate],  # an example takes a second, and is short as it is
)
@given(st.lists(STEPS, min_size=1, max_size=5), st.sampled_from(VIEWS), MOMENTS, MOMENTS)
def test_kept_counts_are_those_of_the_requests_that_are_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int]]], view: View, one: int, other: int
) -> None:
    folder, offsets = tmp_path_factory.mktemp("lake"), count()
    from_us, to_us = min(one, other), max(one, other) + 1
    control = view.cut(CONTROL)
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        sums, rows = KeptSums(lake), list[Row]()
        for step, given_ in [("commit", [MIDNIGHT_US - 1, MIDNIGHT_US, to_us - 1]), *steps]:
            if step == "commit":
                rows += fill(lake, [request(next(offsets), at_us) for at_us in given_])
            elif step == "merge":
                maintain(lake, MIDNIGHT_US + 3 * DAY_US, MERGING)
            else:
                rows = [row for row in rows if row["offset"] % 5 != given_[0] % 5]
                with lake.borrowed() as cursor:
                    cursor.execute('DELETE FROM charges WHERE "offset" % 5 = ?', [given_[0] % 5])
            kept, afresh = (SeenBooks(lake, view, sums=some) for some in (sums, None))
            for between in (None, (from_us, to_us)):
                report = slo(kept, control, to_us, between)
                assert report == slo(afresh, control, to_us, between)
            for selection in (Selection(from_us, to_us), Selection(from_us - 2 * DAY_US, to_us + 2 * DAY_US)):
                by_day = latencies(kept, selection, ("model",), "day")
                assert by_day == latencies(afresh, selection, ("model",), "day")
            for line, days in zip(report.lines, slo_days(kept, control, from_us, to_us), strict=True):
                one_by_one = ratio(rows, line.objective, view, from_us, to_us)
                assert line.ratio == days.whole == one_by_one
                for name, length_us in BURN_WINDOWS_US.items():
                    burnt_us = max(from_us, to_us - length_us)
                    assert line.burns[name] == ratio(rows, line.objective, view, burnt_us, to_us)
                ends = [*list(days.days)[1:], to_us]
                assert dict(days.days) == {
                    start: ratio(rows, line.objective, view, start, end)
                    for start, end in zip(days.days, ends, strict=True)
                }
            for objective in control.objectives[:1]:
                burnt = burn_down(kept, control, objective, to_us, (from_us, to_us))
                assert burnt == burn_down(afresh, control, objective, to_us, (from_us, to_us))
                for start_us, worst in burnt.worst:
                    inside = max(from_us, start_us), min(to_us, start_us + MINUTE_US)
                    assert worst == ratio(rows, objective, view, *inside)


def test_a_minute_that_a_range_cuts_is_as_bad_as_what_is_inside(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, from_us = tmp_path_factory.mktemp("lake"), MIDNIGHT_US + 30_000_000
    moments = [from_us - 2, from_us - 1, from_us, from_us + 2 * MINUTE_US, from_us + 2 * MINUTE_US + 1]
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, [request(n, at_us) | {"status": "error"} for n, at_us in enumerate(moments)])
        kept = SeenBooks(lake, EVERYTHING, sums=KeptSums(lake))
        worst = burn_down(kept, CONTROL, CONTROL.objectives[-1], 0, (from_us, moments[-1])).worst
    assert worst == ((MIDNIGHT_US + 2 * MINUTE_US, Ratio(0, 1)), (MIDNIGHT_US, Ratio(0, 1)))


def test_more_objectives_than_are_counted_together_are_told_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, [request(n, MIDNIGHT_US - n * HOUR_US) for n in range(50)])
        kept = SeenBooks(lake, EVERYTHING, sums=KeptSums(lake))
        at_once = slo(kept, CONTROL, MIDNIGHT_US + 1)
        monkeypatch.setattr(judged, "TOGETHER", 3)
        assert slo(kept, CONTROL, MIDNIGHT_US + 1) == at_once
        assert [line.objective for line in at_once.lines] == list(CONTROL.objectives)
        last = burn_down(kept, CONTROL, CONTROL.objectives[-1], MIDNIGHT_US + 1)
        assert last.ratio == at_once.lines[-1].ratio


def test_groups_are_of_what_rows_hold_whatever_the_catalogue_says_of_the_extremes(tmp_path: Path) -> None:
    """It said 45,000 to 45,000 of these durations, so that a group's 20,000 came back as 45,088."""
    later_us = MIDNIGHT_US + 2_000_000_000
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        fill(lake, [request(n, at_us) for n, at_us in enumerate((MIDNIGHT_US - 1, MIDNIGHT_US, later_us))])
        fill(lake, [request(3, MIDNIGHT_US - 1)])
        edge = Selection(later_us - 1, later_us + 1)
        [line] = latencies(SeenBooks(lake, EVERYTHING), edge, ("model",), "day").lines
    assert line.percentiles_us["duration"]["p50"] == latency.value(latency.bucket_of(20_000))
