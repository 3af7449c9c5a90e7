"""What a control file may change: the append-only rate card, names that must be known, and the diff."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import RateCard
from meterhouse.warehouse.control_plan import _in_order
from tests.warehouse.control_texts import NOW_US, applied, edited, planned, problems

HOUR_US = 3_600_000_000
Frozen = tuple[int, int, tuple[tuple[str, int], ...]]
LATER = """  - provider: atlas
    model: large
    valid_from: {at}
    per_million: {{input: 1, cache_read: 1, cache_write: 1, output: 1, reasoning: 1}}
budgets:
"""


def with_card(at: str) -> str:
    """The small file with one more list price of atlas/large."""
    return edited(("budgets:\n", LATER.format(at=at)))


def cards(text: str, now_us: int = NOW_US) -> tuple[RateCard, ...]:
    """The rate cards after the small file and then `text`."""
    return applied(text, applied(), now_us).rate_cards


def test_the_first_file_becomes_version_one_in_its_order() -> None:
    snapshot = applied()
    assert (snapshot.version, snapshot.currency, snapshot.strict_tenants) == (1, "EUR", True)
    assert [tenant.id for tenant in snapshot.tenants] == ["acme", "no"]
    assert [card.id for card in snapshot.rate_cards] == [1, 2, 3]
    assert snapshot.models == (("atlas", "large"), ("borea", "swift"))


def test_the_same_file_again_changes_nothing() -> None:
    first = applied()
    again = planned(edited(("input: 2.50", 'input: "2.5000000"')), first)
    assert (again.changes, again.target, again.problems) == ((), first, ())


def test_a_changed_price_in_force_is_refused_and_nothing_else_is_planned() -> None:
    first = applied()
    refused = planned(edited(("input: 2.50", "input: 2.51"), ("limit_tokens: 100", "limit_tokens: 200")), first)
    assert [str(problem) for problem in refused.problems] == [
        (
            "rate_card[0] (atlas/large, line 6) is in force since 2026-01-01T00:00:00Z, and the file changes its "
            "price: leave this entry as it was and add a new one with a later valid_from"
        )
    ]
    assert (refused.target, refused.changes) == (first, ())


def test_a_card_is_in_force_from_its_valid_from_on() -> None:
    first, change = applied(), edited(("{input: 2, output: 8}", "{input: 2, output: 7}"))
    begins_us = first.rate_cards[2].valid_from_us
    assert planned(change, first, begins_us - 1).problems == ()
    assert len(planned(change, first, begins_us).problems) == 1


def test_another_approval_of_a_price_in_force_is_refused() -> None:
    assert "changes its approval" in problems(edited(("finance@example.com", "me@example.com")), applied())[0]


def test_a_kind_added_to_a_price_in_force_is_refused() -> None:
    assert "changes its price" in problems(edited(("input: 2.50,", "input: 2.50, reasoning: 1,")), applied())[0]


def test_a_card_not_yet_in_force_is_replaced_by_one_of_a_new_id() -> None:
    made = planned(edited(("{input: 2, output: 8}", "{input: 2, output: 7}")), applied())
    replaced = made.target.rate_cards[2]
    assert (replaced.id, replaced.pico_per_token["output"]) == (4, 7_000_000)
    assert [str(change) for change in made.changes] == [
        "~ rate_card atlas/large for acme from 2026-12-01T00:00:00Z: output 8.00 → 7.00, id 3 → 4"
    ]


def test_a_card_in_force_may_get_an_end_in_the_future() -> None:
    after = cards(edited(("2026-01-01T00:00:00Z\n", "2026-01-01T00:00:00Z\n    valid_to: 2027-06-01T00:00:00Z\n")))
    assert after[0] == dataclasses.replace(applied().rate_cards[0], valid_to_us=1_811_808_000_000_000)


def test_an_end_that_is_still_ahead_may_move_ahead_or_away() -> None:
    assert cards(edited(("2027-01-01T00:00:00Z", "2026-11-24T00:00:00Z")))[1].valid_to_us == 1_795_478_400_000_000
    assert cards(edited(("    valid_to: 2027-01-01T00:00:00Z\n", "")))[1].valid_to_us is None


def test_a_card_in_force_cannot_end_in_the_past() -> None:
    text = edited(("2027-01-01T00:00:00Z", "2026-11-23T12:00:00Z"))
    assert "can only end in the future" in problems(text, applied())[0]


def test_a_card_that_ended_stays_ended() -> None:
    first = applied()
    ended_us = first.rate_cards[1].valid_to_us
    assert ended_us is not None
    text = edited(("    valid_to: 2027-01-01T00:00:00Z\n", ""))
    assert planned(text, first, ended_us - 1).problems == ()
    assert "ended at 2027-01-01T00:00:00Z" in problems(text, first, ended_us)[0]


def test_cards_that_a_file_leaves_out_stay() -> None:
    text = "rate_card:\n" + LATER.format(at="2027-01-01T00:00:00Z").replace("budgets:\n", "")
    made = planned(text, applied())
    assert [card.id for card in made.target.rate_cards] == [1, 2, 3, 4]
    assert [str(warning) for warning in made.warnings] == [
        (
            "rate_card leaves out atlas/large for acme from 2026-12-01T00:00:00Z, which is not yet in force: it "
            "stays; to undo it, replace it"
        )
    ]


def test_a_new_card_in_the_past_is_accepted_with_a_warning() -> None:
    made = planned(with_card("2026-11-01T00:00:00Z"), applied())
    assert made.problems == ()
    assert [str(warning) for warning in made.warnings] == [
        (
            "rate_card[3].valid_from (atlas/large, line 21) begins in the past: rows rated already keep their "
            "charge, only what is rated from now on gets this price"
        )
    ]


def test_a_card_without_a_kind_warns_of_unpriced_events() -> None:
    assert [str(warning) for warning in planned(edited()).warnings] == [
        (
            "rate_card[0].per_million (atlas/large, line 6) has no price for cache_write, reasoning: an event with "
            "such tokens stays unpriced (0 makes them free)"
        ),
        (
            "rate_card[1].per_million (borea/swift, line 11) has no price for cache_read, cache_write, reasoning: an "
            "event with such tokens stays unpriced (0 makes them free)"
        ),
        (
            "rate_card[2].per_million (atlas/large for acme, line 16) has no price for cache_read, cache_write, "
            "reasoning: an event with such tokens stays unpriced (0 makes them free)"
        ),
    ]


def test_an_end_after_the_next_price_begins_is_refused() -> None:
    ends = ("from: 2026-01-01T00:00:00Z\n", "from: 2026-01-01T00:00:00Z\n    valid_to: 2027-01-01T00:00:00.000001Z\n")
    text = edited(ends, text=with_card("2027-01-01T00:00:00Z"))
    assert (
        "ends at 2027-01-01T00:00:00.000001Z, after the next price of its kind begins" in problems(text, applied())[0]
    )
    assert problems(text.replace("00.000001Z", "00Z"), applied()) == []


def test_a_card_that_begins_inside_a_stored_one_is_refused() -> None:
    text = """\
rate_card:
  - {provider: borea, model: swift, valid_from: 2026-12-31T00:00:00Z, per_million: {input: 1}}
"""
    assert problems(text, applied()) == [
        (
            "rate_card[0].valid_from (borea/swift, line 2) begins at 2026-12-31T00:00:00Z, while borea/swift from "
            "2026-01-01T00:00:00.500000Z holds to 2027-01-01T00:00:00Z: begin then, or give that one an earlier "
            "valid_to in this file"
        )
    ]


def test_a_negotiated_price_does_not_overlap_the_list_price() -> None:
    text = edited(("    tenant: acme\n", "    tenant: acme\n    valid_to: 2028-01-01T00:00:00Z\n"))
    assert problems(text, applied()) == []


def test_two_cards_of_the_same_beginning_are_refused() -> None:
    text = with_card("2026-01-01T00:00:00Z")
    assert problems(text) == [
        (
            "rate_card[3] (atlas/large, line 21) has provider, model, tenant and valid_from of rate_card[0] again: "
            "remove one or change it"
        )
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("scope: {tenant: acme,", "scope: {tenant: acne,", 'budgets[0].scope.tenant (acme-month, line 22) is "acne"'),
        ("model: large}", "model: lage}", "(did you mean `large`?): correct it, or give it a price under `rate_card`"),
        (
            "org_unit: group",
            "org_unit: grup",
            "(did you mean `group`?): correct it, or name it in the `org` of a tenant",
        ),
        ("    tenant: acme\n", "    tenant: acne\n", 'rate_card[2].tenant (atlas/large for acne, line 16) is "acne"'),
    ],
)
def test_unknown_names_are_refused(old: str, new: str, says: str) -> None:
    (problem,) = problems(edited((old, new)))
    assert says in problem


def test_a_tenant_with_a_problem_of_its_own_is_not_unknown_as_well() -> None:
    assert len(problems(edited(("cost_center: CC-1}", "cost: CC-1}")))) == 1


def test_an_org_unit_that_a_stored_objective_needs_cannot_go() -> None:
    text = "tenants:\n  - {id: acme, org: [other]}\n  - {id: no, org: [other]}\n"
    assert problems(text, applied()) == [
        (
            'objectives (stored).scope.org_unit (up) is "group", which is unknown: correct it, or name it in the '
            "`org` of a tenant"
        )
    ]


def test_the_currency_cannot_change_once_there_are_prices() -> None:
    assert "keep EUR, or begin a new home folder for USD" in problems("currency: USD", applied())[0]
    assert applied("currency: USD", applied("currency: CHF")).currency == "USD"


def test_tenants_stay_and_budgets_and_objectives_of_a_present_section_go() -> None:
    after = applied("tenants: []\nbudgets: []\nobjectives: []\n", applied())
    assert [tenant.id for tenant in after.tenants] == ["acme", "no"]
    assert (after.budgets, after.objectives) == ((), ())


def test_absent_sections_are_not_touched() -> None:
    first = applied()
    after = applied("strict_tenants: false", first)
    assert after == dataclasses.replace(first, version=2, strict_tenants=False)


def test_the_order_of_a_file_is_a_change_of_its_own() -> None:
    two = "tenants: [{id: a}, {id: b}]"
    made = planned("tenants: [{id: b}, {id: a}]", applied(two))
    assert [tenant.id for tenant in made.target.tenants] == ["b", "a"]
    assert [str(change) for change in made.changes] == ["~ tenants: in another order"]


def test_the_diff_names_each_field_before_and_after() -> None:
    text = edited(
        ("name: Acme,", "name: Acme Retail,"),
        ("limit_tokens: 100\n    limit: null", 'limit: "7.5"'),
        ("  - {id: fast, scope: {application: assistant}, sli: duration, below_ms: 20000", ("  - {id: quick, scope: "
         "{}, sli: duration, below_ms: 1")),
    )  # fmt: skip
    assert [str(change) for change in planned(text, applied()).changes] == [
        "~ tenants acme: name Acme → Acme Retail",
        "~ budgets all-day: limit none → 7.50, limit_tokens 100 → none",
        "+ objectives quick: sli duration, below_ms 1, target 0.99, window_days 30",
        "- objectives fast: application assistant, sli duration, below_ms 20000, target 0.99, window_days 30",
    ]


@given(st.lists(st.integers(0, 8), unique=True), st.lists(st.integers(0, 8), unique=True))
@settings(max_examples=200)
def test_the_files_order_holds_and_nothing_stored_is_lost(stored: list[int], listed: list[int]) -> None:
    merged = _in_order(stored, listed, lambda item: item)
    assert sorted(merged) == sorted({*stored, *listed})
    assert [item for item in merged if item in listed] == listed
    left = [item for item in stored if item not in listed]
    assert sorted(item for item in merged if item not in listed) == sorted(left)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 3)), max_size=8), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_a_price_that_was_in_force_never_changes_whatever_is_applied(edits: list[tuple[int, int]], step: int) -> None:
    """Cards at hours around a moving now: whatever is accepted, no card in force gets other prices, no id returns."""
    snapshot, now_us = applied("tenants: []"), NOW_US
    prices_of: dict[int, Frozen] = {}
    for hours, input_price in edits:
        now_us += step * HOUR_US
        at = f"2026-11-23T{12 + hours:02d}:00:00Z"
        text = f"rate_card: [{{provider: p, model: m, valid_from: {at}, per_million: {{input: {input_price}}}}}]"
        in_force = {card for card in map(_frozen, snapshot.rate_cards) if card[1] <= now_us}
        made = planned(text, snapshot, now_us)
        snapshot = snapshot if made.problems else made.target
        assert in_force <= set(map(_frozen, snapshot.rate_cards))
        for card in map(_frozen, snapshot.rate_cards):
            assert prices_of.setdefault(card[0], card) == card


def _frozen(card: RateCard) -> Frozen:
    return (card.id, card.valid_from_us, tuple(card.pico_per_token.items()))
