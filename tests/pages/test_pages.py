"""Each page in a browser, as each role: its figures are the API's, and nothing is wrong with it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.api.doors import Gatehouse
from tests.pages.place import CANARIES, OF_ADMINS, PAGES, ROLES, WITHOUT_NAMES, Reader, pages_of, reading


@pytest.mark.parametrize("role", ROLES)
def test_no_page_has_a_complaint_or_anothers_figures(reader: Reader, doors: Gatehouse, role: str) -> None:
    reader.sign_in(doors.keys[role])
    for path in pages_of(role):
        reader.open(path)
        assert reader.page.locator("h1").is_visible()
        assert reader.complaints == [], f"{role} at {path}"
        shown = [mark for mark in CANARIES if mark in reader.page.content()]
        nowhere = role == "product_owner" or any(part in path for part in WITHOUT_NAMES)
        assert (shown == []) == nowhere, f"{role} at {path}"


def test_every_page_fits_a_narrow_screen_and_has_no_fault_in_both_themes(opened: Browser, doors: Gatehouse) -> None:
    with reading(opened, doors, viewport={"width": 320, "height": 700}, color_scheme="light") as reader:
        reader.sign_in(doors.keys["admin"])  # who is shown every form
        first = doors.ask("admin", "/v1/charges", params={"limit": 1}).json()["charges"][0]
        charge = "/charges/{partition}/{offset}/{index}".format_map(first)
        for path in (*PAGES, *OF_ADMINS, charge):
            reader.open(path)
            beyond = reader.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert beyond == 0, path
            assert reader.faults() == [], path
            reader.page.emulate_media(color_scheme="dark")  # which changes colours, and nothing else
            assert reader.faults("color-contrast") == [], path
            reader.page.emulate_media(color_scheme="light")
            assert reader.complaints == [], path


@pytest.mark.parametrize("role", ["finance", "product_owner"])
def test_the_chargebacks_figures_are_those_of_the_api(reader: Reader, doors: Gatehouse, role: str) -> None:
    reader.sign_in(doors.keys[role])
    reader.open("/chargeback?range=last-7-days&by=application&then=model")
    days = {name: reader.page.locator(f"#asked-{name}").input_value() for name in ("from", "to")}
    said = doors.ask(role, "/v1/chargeback/comparison", params={**days, "group_by": "application,model"}).json()
    rows = reader.page.locator("#lines tbody tr")
    shown = [_cells(rows.nth(number)) for number in range(rows.count())]
    expected = [
        [line["application"], line["model"], *(_cost(line, when) for when in ("now", "before")), line["difference"]]
        for line in said["lines"]
    ]
    assert sorted(shown) == sorted(expected)
    assert reader.figure("#total") == said["total"]["now"]["cost"]
    whole = doors.ask(role, "/v1/chargeback", params={**days, "group_by": "day,application"}).json()
    drawn = reader.page.locator("#timeline tbody data").evaluate_all("all => all.map(each => each.value)")
    assert sum(map(Decimal, drawn)) == Decimal(whole["total"]["cost"])
    why = doors.ask(role, "/v1/chargeback/explanation", params=days).json()
    causes = reader.page.locator("#why tbody data").evaluate_all("all => all.map(each => each.value)")
    assert sorted(causes) == sorted(part for part in why["parts"].values() if Decimal(part))


def _cells(row: Any) -> list[str]:
    texts = row.locator("th, td").all_text_contents()[:2]
    figures: list[str] = row.locator("data").evaluate_all("all => all.map(each => each.value)")
    return texts + figures


def _cost(line: Any, when: str) -> str:
    return "0.000000000000" if line[when] is None else line[when]["cost"]


def test_the_overviews_figures_are_those_of_the_api(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.open("/overview")
    month, by_day = (doors.ask("finance", path).json() for path in ("/v1/forecast", "/v1/chargeback?group_by=day"))
    assert reader.figure("#figure-month .large") == by_day["total"]["cost"]
    assert reader.figure("#figure-today .large") == by_day["lines"][-1]["cost"]
    budgets = doors.ask("finance", "/v1/budgets").json()["budgets"]
    reader.page.get_by_text(f"of {len(budgets)}: over a threshold").wait_for()
    # A forecast moves with the clock: by the second, not by the cent.
    told, shown = (Decimal(each) for each in (month["total"]["forecast"], reader.figure("#figure-forecast .large")))
    assert abs(told - shown) < Decimal("0.01") * max(told, 1)


def test_without_scripts_every_figure_is_there(opened: Browser, doors: Gatehouse) -> None:
    with reading(opened, doors, java_script_enabled=False) as plain, reading(opened, doors) as full:
        found = []
        for reader in (plain, full):
            reader.sign_in(doors.keys["finance"])
            reader.open("/chargeback?range=last-7-days&by=application")
            found.append([each.get_attribute("value") for each in reader.page.locator("data").all()])
        assert found[0] == found[1] != []
        plain.page.locator("#asked-by").select_option("model")
        plain.page.get_by_role("button", name="Show").click()
        assert "by=model" in plain.page.url


def test_a_choice_changes_figures_and_address_without_a_new_page(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.open("/chargeback?range=last-7-days&tenant=acme")
    reader.page.evaluate("window.same = true")
    reader.page.locator("#asked-by").select_option("model")
    reader.page.locator("#lines thead", has_text="Model").wait_for()
    assert "by=model" in reader.page.url
    assert "tenant=acme" in reader.page.url
    assert reader.page.evaluate("window.same") is True
    assert reader.page.locator("figure#timeline svg").count() == 1
    assert reader.complaints == []


def test_from_the_overview_to_the_application_and_the_model_that_made_a_bill_grow(
    reader: Reader, doors: Gatehouse
) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.page.locator("#movers").get_by_role("link", name="acme").click()
    first = reader.page.locator("#lines tbody tr").first.locator("th, td").all_text_contents()
    days = {name: reader.page.locator(f"#asked-{name}").input_value() for name in ("from", "to")}
    asked = {**days, "tenant": "acme", "group_by": "application,model"}
    lines = doors.ask("finance", "/v1/chargeback/comparison", params=asked).json()["lines"]
    most = max(lines, key=lambda line: abs(Decimal(line["difference"])))
    assert first[:2] == [most["application"], most["model"]]
    reader.page.locator("#lines tbody tr").first.get_by_role("link", name="events").click()
    reader.page.locator("#charges tbody tr").first.wait_for()
    filters = {"tenant=acme", f"application={most['application']}", f"model={most['model']}"}
    assert filters <= set(reader.page.url.partition("?")[2].split("&"))


def test_the_keyboard_alone_reaches_the_figures(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.open("/chargeback?range=last-7-days")
    reader.page.keyboard.press("Tab")
    assert reader.page.locator(":focus").text_content() == "Skip to the figures"
    reader.page.keyboard.press("Enter")
    assert reader.page.locator(":focus").get_attribute("id") == "content"
    reader.page.keyboard.press("Tab")
    assert reader.page.locator(":focus").get_attribute("name") == "range"


def test_files_hold_what_the_page_shows(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["product_owner"])
    reader.open("/chargeback?range=last-7-days&by=application")
    total = reader.figure("#total")
    for name in ("CSV", "FOCUS CSV"):
        with reader.page.expect_download() as download:
            reader.page.get_by_role("link", name=name, exact=True).click()
        text = download.value.path().read_text(encoding="utf-8")
        column = text.splitlines()[0].split(",").index("cost" if name == "CSV" else "BilledCost")
        assert sum(Decimal(line.split(",")[column]) for line in text.splitlines()[1:]) == Decimal(total)
        assert [mark for mark in CANARIES if mark in text] == []


def test_from_the_overview_to_an_exported_month_in_two_clicks(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.open("/overview")
    reader.page.get_by_role("navigation").get_by_role("link", name="Chargeback").click()
    with reader.page.expect_download() as download:
        reader.page.get_by_role("link", name="CSV", exact=True).click()
    header, *lines = download.value.path().read_text(encoding="utf-8").splitlines()
    exported = [Decimal(line.split(",")[header.split(",").index("cost")]) for line in lines]
    assert sum(exported) == Decimal(doors.ask("finance", "/v1/chargeback").json()["total"]["cost"]) > 0


def test_a_filter_is_offered_written_kept_in_the_address_and_taken_away(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["product_owner"])
    reader.open("/chargeback?range=last-7-days&by=model")
    whole = reader.figure("#total")
    field = reader.page.get_by_label("Only")
    field.focus()
    reader.page.locator("#known option").first.wait_for(state="attached")
    values = reader.page.locator("#known option").evaluate_all("all => all.map(each => each.value)")
    assert {"tenant: acme", "application: search", "model: large", "environment: (none)"} <= set(values)
    assert [mark for mark in CANARIES if mark in " ".join(values)] == []
    field.fill("Application: search")
    field.press("Tab")
    chip = reader.page.locator("a.chip", has_text="application search")
    chip.wait_for()
    assert "application=search" in reader.page.url
    assert "only=" not in reader.page.url
    days = {name: reader.page.locator(f"#asked-{name}").input_value() for name in ("from", "to")}
    said = doors.ask("product_owner", "/v1/chargeback", params={**days, "application": "search"}).json()
    assert reader.figure("#total") == said["total"]["cost"] != whole
    chip.click()
    reader.page.wait_for_url(lambda url: "application=" not in url)
    assert reader.figure("#total") == whole
    assert reader.complaints == []
    reader.page.get_by_label("Only").fill("nonsense")
    reader.page.get_by_label("Only").press("Tab")
    reader.page.get_by_role("alert").get_by_text("write `name: value`").wait_for()


@pytest.mark.parametrize("path", ["/charges", "/application", "/chargeback"])
def test_a_filter_that_is_written_becomes_a_parameter(doors: Gatehouse, path: str) -> None:
    there = {"application": "search", "range": "last-7-days"}
    answer = doors.ask("finance", path, params={"only": " Tenant: a:c ", **there})
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        f"{path}?application=search&range=last-7-days&tenant=a%3Ac",
    )


def test_a_legend_has_room_at_any_width(reader: Reader, doors: Gatehouse) -> None:
    reader.sign_in(doors.keys["finance"])
    reader.page.set_viewport_size({"width": 1200, "height": 700})
    reader.open("/chargeback?range=last-7-days&by=application")
    for width, lines in ((1200, 1), (200, 2), (1200, 1)):
        reader.page.set_viewport_size({"width": width, "height": 700})
        reader.page.wait_for_function(_LEGEND_HAS_ROOM, arg=lines, timeout=5_000)


_LEGEND_HAS_ROOM = """lines => {
  const figure = document.querySelector("#timeline");
  const names = [...figure.querySelectorAll("thead th")].slice(1).map((cell) => cell.textContent);
  const legend = [], others = [];
  for (const text of figure.querySelectorAll("svg text")) {
    (names.includes(text.textContent) ? legend : others).push(text.getBoundingClientRect());
  }
  const rows = new Set(legend.map((box) => Math.round(box.top)));
  const last = Math.max(...legend.map((box) => box.bottom)), first = Math.min(...others.map((box) => box.top));
  return rows.size === lines && legend.length === names.length && last <= first + 1;
}"""
"""Its names stand in so many lines, and no text of an axis stands in them."""
