"""Replay a trace, work, and read every report: each equals what the oracle works out from the same files."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import GROUPS, Books
from tests.e2e.house import SPAN
from tests.oracle import books


def test_the_trace_meets_every_price_that_the_control_file_changes(kept: Books) -> None:
    """A guard of these tests themselves: old and new, list and negotiated prices, unpriced events all occur."""
    used = {
        (price.provider, price.model, price.tenant, price.valid_from)
        for each in kept.charges
        if each.disposition == "billed"
        for price in [
            books.price_at(kept.control, each.event.provider, each.event.model, each.event.tenant, each.event.time)
        ]
        if price is not None
    }
    assert len(used) == len(kept.control.prices)
    assert {each.disposition for each in kept.charges} == {"billed", "unpriced", "unbilled"}


def test_the_bill_equals_the_oracle_to_the_last_digit(kept: Books) -> None:
    asked = ("chargeback", "--group-by", ",".join(GROUPS), *SPAN, "--format", "json")
    report = json.loads(kept.house.run(*asked).stdout)
    assert {"lines": report["lines"], "total": report["total"]} == kept.bill()
    assert (report["currency"], report["group_by"]) == ("USD", list(GROUPS))
    assert (report["from"], report["to"]) == (SPAN[1], SPAN[3])


@pytest.mark.parametrize(
    "group_by", [("provider",), ("cost_center", "model"), ("hour", "tenant"), ("day",), ("month",)]
)
def test_the_bill_equals_the_oracle_however_it_is_grouped(kept: Books, group_by: tuple[str, ...]) -> None:
    ours, truth = kept.house.bill(group_by), kept.bill(group_by)
    for line in [*ours["lines"], *truth["lines"]]:  # type: ignore[misc]
        for column in {"hour", "day", "month"} & set(line):
            line[column] = moment(line[column])
    assert ours == truth


def moment(text: str) -> str:
    """A day may be written as a date and a month as 2026-03: all as full times."""
    full = text + "-01" if len(text) == len("2026-03") else text
    found = datetime.fromisoformat(full)
    return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).isoformat()


def test_a_period_cuts_between_two_events(kept: Books) -> None:
    """`from` is included and `to` is not, to the minute."""
    start, end = "2026-03-28T22:51:00Z", "2026-03-28T23:14:00Z"
    asked = ("chargeback", "--group-by", "tenant", "--from", start, "--to", end, "--format", "json")
    report = json.loads(kept.house.ask(*asked))
    inside = [each for each in kept.charges if books.microseconds(start) <= each.event.time < books.microseconds(end)]
    truth = books.chargeback(kept.control, inside, ("tenant",))
    assert {name: report[name] for name in ("lines", "total")} == truth
    assert 0 < len(inside) < len(kept.charges)


def test_a_line_per_kind_adds_up_to_the_whole(kept: Books) -> None:
    lines = kept.house.bill(("tenant", "kind"))["lines"]
    truth: dict[tuple[str, str], tuple[int, Fraction]] = {}
    for each in kept.charges:
        for kind in books.KINDS:
            tokens, cost = truth.get((each.event.tenant, kind), (0, Fraction(0)))
            counted = each.event.tokens[kind] if each.disposition == "billed" else 0
            truth[each.event.tenant, kind] = tokens + counted, cost + each.costs[kind]
    ours = {(line["tenant"], line["kind"]): (line["tokens"][line["kind"]], line["cost"]) for line in lines}
    assert {key: value for key, value in ours.items() if value[0]} == {
        key: (tokens, books.money(cost)) for key, (tokens, cost) in truth.items() if tokens
    }


def test_the_csv_says_what_the_json_says(kept: Books) -> None:
    text = kept.house.ask("chargeback", "--group-by", "tenant", *SPAN, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    lines = kept.house.bill(("tenant",))["lines"]
    assert [(row["tenant"], row["requests"], row["cost"]) for row in rows] == [
        (line["tenant"], str(line["requests"]), line["cost"]) for line in lines
    ]


def test_the_charges_of_each_line_are_on_the_command_line_too(kept: Books) -> None:
    for line in kept.house.bill(("tenant", "model"))["lines"]:
        where = ("--where", f"tenant={line['tenant']}", "--where", f"model={line['model']}")
        text = kept.house.ask("charges", *where, *SPAN, "--limit", "10000", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert (len(rows), sum(Decimal(row["cost"] or 0) for row in rows)) == (line["requests"], Decimal(line["cost"]))


def test_usage_counts_every_request_by_status(kept: Books) -> None:
    report = kept.house.report("usage", "--group-by", "tenant,model", "--every", "hour")
    truth = books.usage(kept.control, kept.charges, ("hour", "tenant", "model"))
    assert added_up(report["lines"], "time") == added_up(truth["lines"], "hour")
    assert report["total"]["requests"] == len(kept.charges)


def added_up(lines: list[dict[str, Any]], time: str) -> dict[tuple[str, ...], Any]:
    return {
        (moment(line[time]), line["tenant"], line["model"]): (
            line["requests"],
            {status: count for status, count in line["by_status"].items() if count},
            {kind: count for kind, count in line["tokens"].items() if count},
        )
        for line in lines
    }


def test_objectives_count_good_and_total_as_the_oracle_does(kept: Books) -> None:
    listed = {line["id"]: line for line in kept.house.report("slo")["objectives"]}
    assert set(listed) == {objective["id"] for objective in kept.control.objectives}
    for objective in kept.control.objectives:
        good, total = books.objective_counts(kept.control, kept.charges, objective)
        line = listed[objective["id"]]
        assert (line["good"], line["total"]) == (good, total)
        assert Fraction(line["target"]) == Fraction(objective["target"])


def latencies(kept: Books, scope: dict[str, str], metric: str) -> list[int]:
    return [
        getattr(each.event, metric)
        for each in kept.charges
        if each.event.status not in books.REFUSED and books.in_scope(kept.control, each.event, scope)
    ]


def test_percentiles_are_within_one_percent_of_the_exact_nearest_rank(kept: Books) -> None:
    listed = {line["id"]: line for line in kept.house.report("slo")["objectives"]}
    for objective in kept.control.objectives:
        for metric in ("duration", "time_to_first_token"):
            values = latencies(kept, objective["scope"], metric)
            for percent in (50, 95, 99):
                exact_ms = Fraction(books.percentile(values, percent), 1000)
                ours = Fraction(str(listed[objective["id"]][f"{metric}_ms"][f"p{percent}"]))
                assert abs(ours - exact_ms) <= exact_ms / 100, (objective["id"], metric, percent)


def test_budgets_spend_what_the_oracle_adds_up_per_window(kept: Books) -> None:
    expected, ours = {}, {}
    for budget in kept.control.budgets:
        for (start, end), spent in books.budget_spend(kept.control, kept.charges, budget).items():
            expected[budget["id"], start, end] = spent
    for line in kept.house.listing("budgets"):
        start, end = (books.microseconds(line["window"][edge]) for edge in ("start", "end"))
        if Fraction(line["spent"]):
            ours[line["id"], start, end] = Fraction(line["spent"])
    assert ours == expected
    assert len([key for key in expected if key[0] == "retail-day"]) == 2  # midnight in Berlin lies in the trace


def test_a_home_can_be_moved(kept: Books, tmp_path: Path) -> None:
    house = kept.house.copy(tmp_path / "elsewhere")
    assert house.bill(GROUPS) == kept.house.bill(GROUPS)


def test_the_books_balance(kept: Books) -> None:
    laws = kept.house.report("verify", span=())["laws"]
    assert laws
    assert [law for law in laws if Decimal(str(law["difference"])) != 0] == []


def test_a_report_says_what_it_includes(kept: Books) -> None:
    as_of = kept.house.report("chargeback")["as_of"]
    assert as_of["lag_seconds"] == 0
    assert sum(as_of["offsets"].values()) > 0
