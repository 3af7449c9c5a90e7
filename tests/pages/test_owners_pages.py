"""Applications, objectives and budgets: their figures are the API's, and what a reader does there is done."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from meterhouse.api.figures import Reports, Span
from meterhouse.warehouse.view import EVERYTHING, Grant
from tests.api.doors import Gatehouse
from tests.pages.place import Reader


def values(reader: Reader, selector: str) -> list[str]:
    found: list[str] = reader.page.locator(f"{selector} data").evaluate_all("all => all.map(each => each.value)")
    return found


def texts(reader: Reader, selector: str) -> list[list[str]]:
    rows = reader.page.locator(f"{selector} tbody tr")
    return [rows.nth(number).locator("th, td").all_inner_texts() for number in range(rows.count())]


def test_an_applications_figures_are_those_of_the_api(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["product_owner"])
    assert reader.page.url.endswith("/application")
    assert {row[0] for row in texts(reader, "#applications")} == {"assistant", "search"}
    reader.open("/application?application=search&range=last-7-days")
    days = {name: reader.page.locator(f"#asked-{name}").input_value() for name in ("from", "to")}
    asked = {**days, "application": "search"}
    cost, usage = (
        doors.ask("product_owner", f"/v1/{name}", params=asked | {"group_by": "model"}).json()
        for name in ("chargeback", "usage")
    )
    assert reader.figure("#figure-cost") == cost["total"]["cost"]
    assert reader.figure("#figure-requests") == str(usage["total"]["requests"])
    assert reader.figure("#figure-errors") == str(usage["total"]["by_status"]["error"])
    assert sum(map(int, values(reader, "#requests tbody"))) == usage["total"]["requests"]
    models = {row[0]: row[1] for row in texts(reader, "#models")}
    asked_for = dict.fromkeys(models, 0)
    for line in usage["lines"]:
        asked_for[line["model"]] += line["requests"]
    assert models == {name: str(requests) for name, requests in asked_for.items()}
    asked = {"application": "search", "every": "day", **days}
    told = doors.ask("finance", "/v1/latencies", params=asked).json()
    drawn = [Decimal(value) * 1000 for value in values(reader, "#latency-duration tbody")]
    expected = [Decimal(str(line["duration_ms"][name])) for line in told["lines"] for name in ("p50", "p95", "p99")]
    assert drawn == expected != []


def test_a_long_range_is_shown_by_month(doors: Gatehouse) -> None:
    today = datetime.now(UTC).date()
    days = {"from": f"{today.year - 1}-01-01", "to": f"{today.year + 1}-01-01"}
    page = doors.ask("finance", "/application", params={"application": "search", **days}).text
    assert page.count(f'<th scope="row">{today:%b %Y}</th>') == 4  # of charts; the search's first tokens are not timed


def test_who_sees_one_application_lands_on_it(reader: Reader, doors: Gatehouse) -> None:
    doors.make("narrow", "product_owner", Grant("acme", "search"))
    doors.house.authentication._ring.look()
    reader.sign_in(doors.keys["narrow"])
    assert reader.page.locator("h1").inner_text() == "search"
    assert "application=search" in reader.page.url


def test_an_objectives_figures_are_those_of_the_api(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.open("/slo?objective=assistant-up")
    said = {each["id"]: each for each in doors.ask("finance", "/v1/slo").json()["objectives"]}
    rows = {row[0].split()[0]: (row[5], row[6]) for row in texts(reader, "#objectives")}
    assert rows == {name: (str(each["total"] - each["good"]), str(each["total"])) for name, each in said.items()}
    chosen = said["assistant-up"]
    left, even = values(reader, "#burn-down tbody tr:last-child")
    assert (Decimal(left), Decimal(even)) == (Decimal(str(chosen["error_budget_left"])) * 100, 0)
    rates = chosen["burn_rates"]
    shown = [rates[name] for rule in (("1h", "5m"), ("6h", "30m"), ("1d", "2h"), ("3d", "6h")) for name in rule]
    assert values(reader, "#rates") == [str(rate) for rate in shown if rate is not None]
    burnt = doors.ask("finance", "/v1/slo/burn-down?objective=assistant-up").json()
    assert Decimal(left) == Decimal(str(burnt["steps"][-1]["error_budget_left"])) * 100
    worst = burnt["worst_minutes"]
    assert [row[1] for row in texts(reader, "#worst")] == [str(each["total"] - each["good"]) for each in worst]
    reader.page.locator("#worst").get_by_role("link").first.click()
    assert reader.page.locator("#charges tbody tr").count() == worst[0]["total"]


def test_budgets_figures_are_those_of_the_api_and_of_the_gate(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.open("/budgets?budget=acme-month&limit=1000000")
    said = {each["id"]: each for each in doors.ask("finance", "/v1/budgets").json()["budgets"]}
    shown = {row[0].split()[0]: row[-1] for row in texts(reader, "#budgets")}
    assert shown.keys() == said.keys()
    assert shown["acme-month"] == "refuse: the limit is spent"
    figures = values(reader, "#budgets tbody tr:nth-child(2)")
    assert figures[:2] == [said["acme-month"]["spent"], said["acme-month"]["limit"]]
    [limit, state, *_] = texts(reader, "#supposed")
    assert limit[1:] == ["0.1000", "1,000,000.00"]
    assert [text.split(",")[0] for text in state[1:]] == ["exceeded", "ok"]
    assert doors.ask("finance", "/v1/budgets").json()["budgets"][1]["limit"] == said["acme-month"]["limit"]


@pytest.mark.parametrize(("query", "told"), [("budget=acme-month&limit=much", "250.00"), ("limit=5", "budget")])
def test_a_limit_that_is_none_is_told_with_what_to_write(doors: Gatehouse, query: str, told: str) -> None:
    answer = doors.ask("finance", f"/budgets?{query}")
    assert (answer.status_code, told in answer.json()["detail"]) == (400, True)


def test_who_answers_alerts_acknowledges_them_in_the_page(reader: Reader, doors: Gatehouse) -> None:
    def open_alerts() -> dict[str, Any]:
        said = doors.ask("admin", "/v1/alerts", params={"subject": "acme-month"}).json()
        return {each["threshold"]: each for each in said["alerts"] if each["kind"] == "threshold"}

    assert {each["standing"] for each in open_alerts().values()} == {"open"}
    reader.sign_in(doors.keys["finance"])
    reader.open("/budgets")
    assert reader.page.get_by_role("button", name="Acknowledge").count() == 0
    reader.sign_in(doors.keys["product_owner"])
    reader.open("/budgets")
    form = reader.page.locator(f"#alert-{open_alerts()['100']['id']}")
    form.get_by_label("Note").fill("<b>asked the team</b>")
    form.get_by_role("button").click()
    reader.page.wait_for_url("**/budgets#alerts-title")
    assert "product_owner looks after it" in form.inner_text()
    assert "<b>asked the team</b>" in form.inner_text()
    done = open_alerts()
    assert (done["100"]["acknowledged_by"], done["100"]["note"]) == ("product_owner", "<b>asked the team</b>")
    assert done["50"]["standing"] == "open"


def test_an_acknowledgement_is_taken_from_our_own_form_only(doors: Gatehouse) -> None:
    [alert, *_] = doors.ask("admin", "/v1/alerts", params={"status": "open"}).json()["alerts"]
    path = f"/budgets/alerts/{alert['id']}/acknowledgement"
    assert doors.ask("admin", path, "POST", data={"note": "mine"}).status_code == 403
    assert doors.ask("finance", path, "POST", data={"note": "mine"}).status_code == 403
    assert doors.ask("admin", f"/v1/alerts/{alert['id']}").json()["standing"] == "open"


def test_a_report_without_its_subject_is_not_there(doors: Gatehouse) -> None:
    reports = Reports(doors.house, EVERYTHING)
    assert reports.slo(Span())["objectives"] != []
    for path in ("/slo?objective=nothing", "/budgets?budget=nothing"):
        assert doors.ask("finance", path).status_code == 404
