"""Comparison, explanation, the tree of org units and forecasts, against sums over charges, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.streams.bill_change import PARTS
from meterhouse.streams.control import EVER_US, Place
from meterhouse.streams.forecast import days_between
from meterhouse.streams.forecast import forecast as forecast_one
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.change_json import comparison_json, explanation_json, org_tree_json, relative
from meterhouse.warehouse.reports.comparison import comparison, explanation, range_before
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.forecasts import forecasts
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.org_tree import org_tree
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.view import Grant, View
from tests.builders import HOUR_US, T0_US
from tests.oracle.bill_change import parts as oracle_parts
from tests.warehouse.filled import KINDS, SNAPSHOT, fill, kind_cost, microseconds
from tests.warehouse.test_reports_places import moved

ROWS = [
    {
        "tenant": ("acme", "bolt", "cork", "stranger")[i % 4],
        "model": ("atlas-large", "atlas-small", "unpriced-model")[i % 7 % 3],
        "application": ("assistant", "search")[i % 5 % 2],
        "status": ("ok", "ok", "error", "aborted")[i % 13 % 4],
        "time": T0_US - 40 * DAY_US + i * 12_345_678_917 % (50 * DAY_US),
        "input_tokens": i * 37 % 1000,
        "cache_read_tokens": i * 11 % 64,
        "output_tokens": i * 7 % 500,
    }
    for i in range(500)
]
NOVEMBER = (T0_US, T0_US + 30 * DAY_US)
OCTOBER = (T0_US - 31 * DAY_US, T0_US)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS)


def costs(rows: Sequence[dict[str, Any]], range_us: tuple[int, int], *names: str) -> dict[tuple[Any, ...], int]:
    """Pico-units by the values of these columns."""
    sums: dict[tuple[Any, ...], int] = defaultdict(int)
    for row in rows:
        if range_us[0] <= microseconds(row) < range_us[1]:
            sums[tuple(row[name] for name in names)] += row["cost_pico"] or 0
    return dict(sums)


def pico(text: str) -> int:
    return int(text.replace(".", ""))


def test_a_whole_month_compares_with_the_month_before_and_any_other_range_with_its_length_before() -> None:
    assert range_before(*NOVEMBER) == OCTOBER
    assert range_before(T0_US, T0_US + DAY_US) == (T0_US - DAY_US, T0_US)
    assert range_before(T0_US + 1, NOVEMBER[1]) == (T0_US + 1 - 30 * DAY_US + 1, T0_US + 1)


def test_each_group_is_compared_with_itself_before(lake: Lake, charges: list[dict[str, Any]]) -> None:
    now, before = (costs(charges, span, "tenant", "application") for span in (NOVEMBER, OCTOBER))
    report = comparison_json(comparison(lake, SNAPSHOT, Selection(*NOVEMBER), ("tenant", "application")))
    assert report["compared_with"] == {"from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
    assert [(line["tenant"], line["application"]) for line in report["lines"]] == sorted(now.keys() | before.keys())
    for line in report["lines"]:
        key = line["tenant"], line["application"]
        difference = now.get(key, 0) - before.get(key, 0)
        assert pico(line["difference"]) == difference
        assert line["relative"] == (f"{difference / before[key]:.6f}" if before.get(key) else None)
    assert pico(report["total"]["difference"]) == sum(now.values()) - sum(before.values())


def test_new_and_gone_lines_have_figures_of_one_period_only(lake: Lake, charges: list[dict[str, Any]]) -> None:
    first = microseconds(charges[8])  # acme's
    rows = [row for row in charges if first - HOUR_US <= microseconds(row) < first + HOUR_US]
    selection = Selection(first, first + HOUR_US)
    lines = comparison(lake, SNAPSHOT, selection, ("tenant", "model", "application")).lines
    now = {(r["tenant"], r["model"], r["application"]) for r in rows if microseconds(r) >= first}
    before = {(r["tenant"], r["model"], r["application"]) for r in rows if microseconds(r) < first}
    assert {tuple(line.groups.values()): line.state for line in lines} == {
        key: "kept" if key in now & before else "new" if key in now else "gone" for key in now | before
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-30 * DAY_US, 8 * DAY_US), st.integers(1, 20 * DAY_US))
def test_an_explanation_adds_up_to_the_difference_and_is_the_oracles(
    lake: Lake, charges: list[dict[str, Any]], start_us: int, length_us: int
) -> None:
    span = T0_US + start_us, T0_US + start_us + length_us
    report = explanation(lake, SNAPSHOT, Selection(*span))
    earlier = range_before(*span)
    now, before = (sum(costs(charges, each).values()) for each in (span, earlier))
    assert (report.now_pico, report.before_pico) == (now, before)
    assert sum(report.parts.values()) == now - before
    expected = dict.fromkeys(PARTS, Fraction(0))
    for tenant in ("acme", "bolt", "cork", "stranger"):
        sides = [used([row for row in charges if row["tenant"] == tenant], each) for each in (earlier, span)]
        expected = {name: sum_ + oracle_parts(*sides)[name] for name, sum_ in expected.items()}
    assert all(abs(report.parts[name] - expected[name]) < max(1, len(report.lines)) for name in PARTS)


def used(rows: Sequence[dict[str, Any]], range_us: tuple[int, int]) -> dict[Any, dict[str, tuple[int, int]]]:
    found: dict[Any, dict[str, tuple[int, int]]] = {}
    for row in rows:
        if row["disposition"] == "billed" and range_us[0] <= microseconds(row) < range_us[1]:
            of = found.setdefault((row["provider"], row["model"]), {})
            for kind in KINDS:
                if row[f"{kind}_tokens"]:
                    tokens, cost = of.get(kind, (0, 0))
                    of[kind] = tokens + row[f"{kind}_tokens"], cost + kind_cost(row, kind)
    return found


def test_an_explanation_reads_as_money_line_by_line(lake: Lake, charges: list[dict[str, Any]]) -> None:
    report = explanation_json(explanation(lake, SNAPSHOT, Selection(*NOVEMBER, {"tenant": ["acme"]})))
    assert {line["tenant"] for line in report["lines"]} == {"acme"}
    for line in [report, *report["lines"]]:
        assert (
            sum(map(pico, line["parts"].values()))
            == pico(line["difference"])
            == pico(line["now"]) - pico(line["before"])
        )


def test_shares_are_text_rounded_once() -> None:
    assert [relative(share) for share in (None, Fraction(1, 3), Fraction(-5, 4), Fraction(-1, 10**8))] == [
        None,
        "0.333333",
        "-1.250000",
        "0.000000",
    ]


def test_a_group_of_time_cannot_be_compared(lake: Lake) -> None:
    with pytest.raises(ReportError, match="no group 'day'"):
        comparison(lake, SNAPSHOT, Selection(*NOVEMBER), ("day",))


def test_the_tree_adds_up_from_its_leaves_to_the_total(lake: Lake, charges: list[dict[str, Any]]) -> None:
    span = T0_US - 40 * DAY_US, T0_US + 10 * DAY_US
    snapshot = moved(Place("acme", T0_US - 7 * DAY_US + 123_456, ("group", "labs", "deep"), None))
    tree = org_tree(lake, snapshot, Selection(*span))
    assert [node.path for node in tree.nodes] == [
        (),
        ("group",),
        ("group", "consumer"),
        ("group", "labs"),
        ("group", "labs", "deep"),
    ]
    acme = [row for row in charges if row["tenant"] == "acme"]
    cut = (span[0], T0_US - 7 * DAY_US + 123_456, span[1])
    bolt = costs(charges, span, "tenant")[("bolt",)]
    consumer, deep = (costs(acme, each)[()] for each in ((cut[0], cut[1]), (cut[1], cut[2])))
    shown = {node["path"]: node for node in org_tree_json(tree)["nodes"]}
    below = {path: pico(node["with_below"]["cost"]) for path, node in shown.items()}
    assert below == {
        None: sum(costs(charges, span).values()),
        "group": bolt + consumer + deep,
        "group/consumer": consumer,
        "group/labs": deep,
        "group/labs/deep": deep,
    }
    assert sum(pico(node["own"]["cost"]) for node in shown.values()) == below[None]
    assert [each["tenant"] for each in shown[None]["tenants"]] == ["cork", "stranger"]
    assert (pico(shown["group/labs"]["own"]["cost"]), shown["group/labs"]["level"]) == (0, 2)


def test_who_sees_some_tenants_sees_their_tree_only(lake: Lake, charges: list[dict[str, Any]]) -> None:
    view = View((Grant("bolt"),))
    snapshot = view.cut(moved(Place("acme", T0_US, ("labs",), None)))
    tree = org_tree(SeenBooks(lake, view), snapshot, Selection(*NOVEMBER))
    assert [(node.path, [each.tenant for each in node.tenants]) for node in tree.nodes] == [
        ((), []),
        (("group",), ["bolt"]),
    ]
    assert tree.total == tree.nodes[0].with_below == tree.nodes[1].own


def test_forecasts_are_each_groups_own_and_add_up(lake: Lake, charges: list[dict[str, Any]]) -> None:
    at_us = T0_US + 9 * DAY_US + 5 * HOUR_US
    report = forecasts(lake, SNAPSHOT, Selection(*NOVEMBER), ("tenant",), at_us)
    window = days_between("UTC", *NOVEMBER)
    for line in report.lines:
        mine = [row for row in charges if row["tenant"] == line.groups["tenant"]]
        history = []
        for back in range(56, 0, -1):
            day_us = T0_US + (9 - back) * DAY_US
            spent = costs(mine, (day_us, day_us + DAY_US)).get((), 0)
            history.append((datetime.fromtimestamp(day_us // 1_000_000, UTC).date(), spent))
        spent = costs(mine, NOVEMBER).get((), 0)
        assert line.spent_pico == spent
        assert line.forecast_pico == forecast_one(spent, None, window, at_us, history).amount >= spent
    assert [line.groups["tenant"] for line in report.lines] == ["acme", "bolt", "cork", "stranger"]
    assert report.total.forecast_pico == sum(line.forecast_pico for line in report.lines)
    whole = forecasts(lake, SNAPSHOT, Selection(*NOVEMBER), (), at_us)
    assert (whole.lines, whole.total.spent_pico) == ((), report.total.spent_pico)


def test_a_range_that_is_over_is_forecast_as_what_was_spent(lake: Lake, charges: list[dict[str, Any]]) -> None:
    report = forecasts(lake, SNAPSHOT, Selection(*OCTOBER), ("tenant",), T0_US + DAY_US)
    assert all(line.forecast_pico == line.spent_pico for line in report.lines)


@pytest.mark.parametrize(
    ("span", "told"),
    [
        ((T0_US + 1, T0_US + DAY_US), "whole days of UTC"),
        ((T0_US, T0_US + 367 * DAY_US), "over 366 days"),
        ((T0_US + DAY_US, T0_US + 2 * DAY_US), "lies ahead"),
    ],
)
def test_what_cannot_be_forecast_is_refused(lake: Lake, span: tuple[int, int], told: str) -> None:
    with pytest.raises(ReportError, match=told):
        forecasts(lake, SNAPSHOT, Selection(*span), (), T0_US)


def test_a_first_place_is_from_ever_on() -> None:
    assert moved(Place("acme", T0_US)).places[0] == Place("acme", EVER_US, ("group", "consumer"), "CC-1")
