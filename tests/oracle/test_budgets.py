"""The oracle of budgets against figures worked out by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from tests.oracle import books, budgets

UNIT = 10**12
NOON = books.microseconds("2026-11-25T12:00:00+00:00")
BUDGET: dict[str, Any] = {
    "id": "day", "scope": {"org_unit": "retail", "model": "large"}, "window": {"every": "day", "time_zone": "UTC"},
    "limit": "10.00", "thresholds": [0.5, 50, 100], "on_exceeded": "block",
}  # fmt: skip
CONTROL = books.Control(
    "USD", ({"id": "a", "org": ["retail"]}, {"id": "b", "org": ["retail"]}, {"id": "c"}), (), (BUDGET,), ()
)
WINDOW = ("day", NOON - 43_200_000_000, NOON + 43_200_000_000)


def charge(tenant: str, model: str, time_us: int, cost: str, disposition: str = "billed") -> books.Charge:
    event = books.Event(
        id="", source="", tenant=tenant, application="x", provider="p", model=model, time=time_us, status="ok",
        tokens={"input": 3, "output": 4}, duration=0, time_to_first_token=0,
    )  # fmt: skip
    return books.Charge(event, disposition, {"input": Fraction(cost)})


def test_windows_add_up_what_was_billed_in_scope() -> None:
    spend: budgets.Spend = {}
    for each in (
        charge("a", "large", NOON, "1.25"),
        charge("b", "large", NOON + 59_000_000, "2"),
        charge("b", "large", WINDOW[2], "4"),
        charge("c", "large", NOON, "8"),
        charge("a", "small", NOON, "16"),
        charge("a", "large", NOON, "32", "unpriced"),
    ):
        budgets.account(spend, each)
    tomorrow = ("day", WINDOW[2], WINDOW[2] + 86_400_000_000)
    assert budgets.windows(CONTROL, spend) == {WINDOW: (3 * UNIT + UNIT // 4, 14), tomorrow: (4 * UNIT, 7)}


def test_a_state_says_how_much_of_the_limit_is_spent() -> None:
    assert budgets.state(BUDGET, WINDOW, (UNIT * 999_999 // 100_000, 7)) == {
        "budget_id": "day",
        "window_start_us": WINDOW[1],
        "window_end_us": WINDOW[2],
        "state": "warned",
        "spent_pico": "9999990000000",
        "spent_tokens": 7,
        "limit_pico": "10000000000000",
        "limit_tokens": None,
        "share_percent": "99.9999",
        "crossed": ["0.5", "50"],
        "on_exceeded": "block",
    }
    of_tokens = {**{name: value for name, value in BUDGET.items() if name != "limit"}, "limit_tokens": 300}
    state = budgets.state(of_tokens, WINDOW, (0, 300))
    assert (state["state"], state["share_percent"], state["limit_pico"]) == ("exceeded", "100", None)


def test_terms_name_the_tenants_of_an_org_unit() -> None:
    terms = budgets.terms(CONTROL, BUDGET)
    assert (terms["tenants"], terms["model"], terms["limit"], terms["unit"]) == (
        ["a", "b"],
        "large",
        "10000000000000",
        "USD",
    )
    assert budgets.terms(CONTROL, {**BUDGET, "scope": {"model": "large"}})["tenants"] is None


def test_an_alerts_id_is_that_which_everybody_has_stored() -> None:
    month = {**BUDGET, "id": "acme-month", "thresholds": [80]}
    window = ("acme-month", 1_793_484_000_000_000, 1_796_079_600_000_000)
    [(id_, percent)] = budgets.alerts(month, window, (8 * UNIT, 0))
    assert (id_, percent) == ("bd3aed92-cf70-5826-8ce6-3ba6a07cfae6", "80")
    assert budgets.resolution_id(id_) == "b92771fc-d706-57fe-95ae-0eaa858c0c20"
