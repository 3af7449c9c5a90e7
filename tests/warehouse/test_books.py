"""Reports of a view tell of what is seen, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import Budget, Objective, Scope, WindowSpec
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.slo import slo
from meterhouse.warehouse.reports.usage import usage
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import T0_US
from tests.warehouse.filled import SNAPSHOT, fill, microseconds

DAY_US = 86_400 * 1_000_000
TENANTS = ("acme", "bolt", "cork")
APPLICATIONS = ("assistant", "search")
ROWS = [
    {
        "tenant": TENANTS[i % 3],
        "application": APPLICATIONS[i % 5 % 2],
        "model": "atlas-large",
        "status": ("ok", "error")[i % 7 == 0],
        "time": T0_US + i * 1_234_567_891 % DAY_US,
        "input_tokens": 1 + i % 50,
        "output_tokens": i % 9,
        "duration_us": 1_000 * (1 + i),
    }
    for i in range(200)
]
WHOLE = Selection(T0_US - 100, T0_US + DAY_US + 77)
GRANTS = st.builds(Grant, st.sampled_from((*TENANTS, "nobody")), st.sampled_from((None, *APPLICATIONS, "nothing")))
VIEWS = st.builds(View, st.lists(GRANTS, max_size=4).map(tuple))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder: Path = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS)


def seen(rows: Sequence[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    grants = view.grants or ()
    return [
        r for r in rows if any(g.tenant == r["tenant"] and g.application in (None, r["application"]) for g in grants)
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VIEWS, st.integers(0, DAY_US))
def test_figures_of_a_view_are_those_of_the_rows_it_sees(
    lake: Lake, charges: list[dict[str, Any]], view: View, cut_us: int
) -> None:
    books, control = SeenBooks(lake, view), view.cut(SNAPSHOT)
    selection = Selection(T0_US - 100, T0_US + cut_us + 1)
    rows = [row for row in seen(charges, view) if selection.from_us <= microseconds(row) < selection.to_us]
    bill = chargeback(books, control, selection, ("tenant", "application"))
    assert {(line.groups["tenant"], line.groups["application"]) for line in bill.lines} == {
        (row["tenant"], row["application"]) for row in rows
    }
    assert bill.total.requests == len(rows)
    assert bill.total.cost == sum((Decimal(row["cost_pico"] or 0) for row in rows), Decimal(0)).scaleb(-12)
    assert usage(books, control, selection, ("tenant",), "hour").total.requests == len(rows)


def test_a_whole_view_reads_what_is_there(lake: Lake, charges: list[dict[str, Any]]) -> None:
    whole = chargeback(SeenBooks(lake, EVERYTHING), SNAPSHOT, WHOLE, ("tenant",))
    assert whole == chargeback(lake, SNAPSHOT, WHOLE, ("tenant",))


def objective(name: str, **scope: str) -> Objective:
    return Objective(name, Scope(**scope), "availability", None, Decimal("0.9"), 30)


def test_an_objective_over_all_tenants_is_judged_by_the_rows_that_are_seen(
    lake: Lake, charges: list[dict[str, Any]]
) -> None:
    control = View((Grant("acme"),)).cut(
        type(SNAPSHOT)(
            version=1,
            currency="USD",
            tenants=SNAPSHOT.tenants,
            objectives=(objective("all", application="assistant"), objective("theirs", tenant="bolt")),
        )
    )
    [line] = slo(SeenBooks(lake, View((Grant("acme"),))), control, T0_US + DAY_US + 1).lines
    rows = [row for row in charges if row["tenant"] == "acme" and row["application"] == "assistant"]
    assert (line.objective.id, line.ratio.total) == ("all", len(rows))


def test_a_budget_is_seen_by_who_sees_all_that_it_looks_at() -> None:
    def budget(name: str, **scope: str) -> Budget:
        return Budget(name, Scope(**scope), WindowSpec("month", "UTC"), 1, None, (), "notify")

    budgets = (
        budget("all", application="assistant"),
        budget("acme", tenant="acme"),
        budget("acme-search", tenant="acme", application="search"),
        budget("bolt", tenant="bolt"),
    )
    control = type(SNAPSHOT)(version=1, currency="USD", tenants=SNAPSHOT.tenants, budgets=budgets)

    def names(*grants: Grant) -> list[str]:
        return [each.id for each in View(grants).cut(control).budgets]

    assert names(Grant("acme")) == ["acme", "acme-search"]
    assert names(Grant("acme", "search")) == ["acme-search"]
    assert names(Grant("nobody")) == names() == []
