"""What a gate decides: from states, and from what it admitted itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from meterhouse.streams.gate import Decision, Gate, GateSettings, Quota, upper_bound_pico
from meterhouse.streams.gate_wire import Fresh, fresh_key, terms_key
from tests.streams.budget_builders import DAY_US, us
from tests.streams.gate_builders import DAY, NOW, House, record, state, terms


def test_a_gate_imports_little() -> None:
    heavy = {"pyarrow", "duckdb", "sqlalchemy", "fastapi", "confluent_kafka", "httpx", "sqlite3"}
    imports = "import sys, meterhouse.streams.gate, meterhouse.streams.gate_feed, meterhouse.streams.gate_http"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert heavy & set(done.stdout.split()) == set()


# --- money -----------------------------------------------------------------------------------------------------------


def test_what_fits_is_admitted_and_reserved() -> None:
    house = House(terms(), state(30))
    decision = house.admit(50)
    assert decision == Decision(
        outcome="allow",
        reservation=decision.reservation,
        tightest=Quota("day", "USD", 100, 20, *DAY),
        now_us=NOW,
    )
    assert decision.reservation


def test_what_would_fit_alone_is_refused_for_now() -> None:
    house = House(terms(), state(30))
    assert house.outcomes(50) == ["allow"]
    assert house.admit(21) == Decision(
        outcome="refuse",
        reason="reserved",
        budget_id="day",
        window_end_us=DAY[1],
        retryable=True,
        retry_after_s=1,
        tightest=Quota("day", "USD", 100, 20, *DAY),
        now_us=NOW,
    )
    assert house.outcomes(20) == ["allow"]


def test_what_does_not_fit_is_refused_until_the_window_ends() -> None:
    decision = House(terms(), state(30)).admit(71)
    assert (decision.reason, decision.retryable, decision.retry_after_s) == ("does_not_fit", False, None)


def test_a_limit_that_is_reached_refuses_what_costs_nothing() -> None:
    assert House(terms(), state(99)).outcomes(0) == ["allow"]
    assert House(terms(), state(100)).outcomes(0) == ["exceeded"]
    assert House(terms(limit="0")).outcomes(0) == ["exceeded"]


def test_a_raised_limit_lifts_a_refusal() -> None:
    house = House(terms(), state(100))
    assert house.outcomes(1) == ["exceeded"]
    house.say(terms(limit="101"))
    assert house.outcomes(1, 1) == ["allow", "reserved"]


def test_an_outlook_says_what_a_request_would_be_told_and_reserves_nothing() -> None:
    house = House(terms(), state(99))
    assert house.gate.outlook("day") == Decision(outcome="allow", budget_id="day", now_us=NOW)
    house.say(state(100))
    said = house.gate.outlook("day")
    assert said is not None
    assert (said.outcome, said.reason, said.budget_id, said.reservation) == ("refuse", "exceeded", "day", None)
    assert house.gate.outlook("another") is None
    assert house.gate.reservations == 0


def test_tokens_are_counted_where_the_limit_is_one_of_tokens() -> None:
    house = House(terms(unit="tokens", limit="1000"), state(10**12, spent_tokens=900))
    decision = house.admit(10**15, 60)
    assert (decision.outcome, decision.tightest) == ("allow", Quota("day", "tokens", 1000, 40, *DAY))
    assert house.admit(0, 41).reason == "reserved"


def test_an_upper_bound_is_never_negative() -> None:
    house = House(terms())
    with pytest.raises(ValueError):
        house.admit(-1)
    with pytest.raises(ValueError):
        house.gate.settle("x", -1, 0)


# --- reservations ----------------------------------------------------------------------------------------------------


def test_what_is_cancelled_was_not_spent() -> None:
    house = House(terms())
    decision = house.admit(100)
    assert house.gate.cancel(decision.reservation)
    assert house.outcomes(100) == ["allow"]


def test_a_reservation_is_settled_once() -> None:
    house = House(terms())
    reservation = house.admit(10).reservation
    assert house.gate.settle(reservation, 10, 0)
    assert not house.gate.settle(reservation, 10, 0)
    assert not house.gate.cancel(reservation)
    assert not house.gate.settle(None, 10, 0)
    assert house.outcomes(91, 90) == ["reserved", "allow"]


@pytest.mark.parametrize("how", ["by the state", "by freshness"])
def test_a_settled_amount_counts_until_states_have_come_past_its_event(how: str) -> None:
    house = House(terms(), state(0))
    house.gate.settle(house.admit(80).reservation, 60, 0, (3, 41))
    house.fresh(house.now_us + DAY_US, p3=41)
    house.say(state(0, offsets={"3": 41}))
    assert house.outcomes(41) == ["reserved"]
    house.say(state(60, offsets={"3": 42 if how == "by the state" else 41}))
    if how == "by freshness":
        assert house.outcomes(40) == ["reserved"]  # counted twice until it is known to be covered
        house.fresh(p3=42)
    assert house.outcomes(41, 40) == ["does_not_fit", "allow"]


def test_without_a_position_a_settled_amount_counts_until_states_are_fresh_enough() -> None:
    house = House(terms(), state(0), margin_s=2)
    house.gate.settle(house.admit(80).reservation, 60, 0)
    house.say(state(60))
    house.fresh(NOW + 2_000_000)
    assert house.outcomes(40) == ["reserved"]
    house.fresh(NOW + 2_000_001)
    assert house.outcomes(40, 1) == ["allow", "reserved"]


def test_an_event_that_is_covered_already_is_released_when_it_is_settled() -> None:
    house = House(terms(), state(0))
    reservation = house.admit(80).reservation
    house.say(state(60, offsets={"3": 42}))
    house.gate.settle(reservation, 60, 0, (3, 41))
    assert house.outcomes(41, 40) == ["does_not_fit", "allow"]


def test_a_reservation_that_nobody_settles_counts_as_spent_until_it_is_covered() -> None:
    house = House(terms(), state(0), hold_s=900, margin_s=2)
    reservation = house.admit(80).reservation
    house.wait(899)
    house.fresh()
    assert house.outcomes(21) == ["reserved"]
    house.wait(3)
    house.fresh()
    assert house.outcomes(21) == ["reserved"]
    house.wait(0.000_001)
    house.fresh()
    assert house.outcomes(100) == ["allow"]
    assert not house.gate.settle(reservation, 10, 0)


def test_reservations_are_bounded() -> None:
    house = House(terms(), max_reservations=2)
    first = house.admit(1)
    assert house.outcomes(1, 1) == ["allow", "too_many"]
    assert house.admit(1).retryable
    house.gate.cancel(first.reservation)
    assert house.outcomes(1) == ["allow"]


def test_many_settled_amounts_are_kept_together_and_none_is_lost() -> None:
    house = House(terms(limit="3000"), state(0))
    for offset in range(3000):
        house.gate.settle(house.admit(1).reservation, 1, 0, (0, offset))
    assert house.outcomes(1) == ["reserved"]
    house.say(state(2999, limit_pico="3000", offsets={"0": 2999}))
    assert house.outcomes(1) == ["reserved"]
    house.say(state(3000, limit_pico="3000", offsets={"0": 3000}))
    house.say(terms(limit="3001"))
    assert house.outcomes(1) == ["allow"]


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_state_that_knows_less_takes_nothing_back() -> None:
    house = House(terms(), state(0))
    house.gate.settle(house.admit(60).reservation, 60, 0, (0, 9))
    house.say(state(60, offsets={"0": 10, "1": 5}))
    house.say(state(10, offsets={"0": 4, "1": 5}))
    assert house.outcomes(41) == ["does_not_fit"]
    house.say(state(50, offsets={"0": 10, "1": 6}))  # corrected
    assert house.outcomes(41) == ["allow"]


def test_spend_of_another_definition_counts_for_nothing() -> None:
    house = House(terms(), state(100, definition="old"))
    assert house.outcomes(60) == ["allow"]
    house.say(state(100))
    assert house.outcomes(0) == ["exceeded"]
    house.say(state(0, definition="old"))
    assert house.outcomes(0) == ["exceeded"]
    house.say(terms(definition="new"), state(7, definition="new"))
    assert house.outcomes(34, 33) == ["reserved", "allow"]


def test_a_state_that_knows_less_of_one_partition_may_know_more_of_another() -> None:
    house = House(terms(), state(60, offsets={"0": 10}))
    house.say(state(70, offsets={"0": 4, "1": 5}))
    assert house.outcomes(31, 30) == ["does_not_fit", "allow"]


def test_a_settled_amount_is_not_covered_by_a_spend_that_counts_something_else() -> None:
    house = House(terms(), state(0))
    house.gate.settle(house.admit(60).reservation, 60, 0, (0, 9))
    house.say(terms(definition="new"))
    house.fresh(p0=10)
    assert house.outcomes(41) == ["reserved"]
    house.say(state(0, definition="new"))
    assert house.outcomes(100) == ["allow"]


def test_what_is_not_known_of_a_settled_request_counts_as_it_was_reserved() -> None:
    house = House(terms("money"), terms("tokens", unit="tokens"), state(0, "money"), state(0, "tokens"))
    house.gate.settle(house.admit(60, 70).reservation, None, 10)
    assert (house.admit(41, 0).budget_id, house.admit(40, 90).outcome) == ("money", "allow")
    house.gate.settle(house.admit(0, 0).reservation, 0, None)
    assert house.gate.reservations == 1


def test_offsets_of_one_partition_say_nothing_of_another() -> None:
    house = House(terms(), state(0))
    house.gate.settle(house.admit(60).reservation, 60, 0, (0, 9))
    house.fresh(p0=9, p1=100)
    assert house.outcomes(41) == ["reserved"]


def test_the_next_window_opens_by_itself_and_a_request_that_still_runs_counts_in_it() -> None:
    house = House(terms(), state(40), now_us=DAY[1] - 1)
    reservation = house.admit(60).reservation
    assert house.outcomes(1) == ["reserved"]
    house.now_us = DAY[1]
    assert house.outcomes(41) == ["reserved"]
    assert house.admit(40).tightest == Quota("day", "USD", 100, 0, DAY[1], DAY[1] + DAY_US)
    house.gate.cancel(reservation)
    assert house.outcomes(60) == ["allow"]


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-10-25", 25), ("2026-03-29", 23), ("2026-06-01", 24)], ids=["longer", "shorter", "plain"]
)
def test_a_day_ends_when_its_zone_says_so(day: str, hours: int) -> None:
    start = us(f"{day}T00:00+02:00") if day != "2026-03-29" else us(f"{day}T00:00+01:00")
    end = start + hours * 3_600_000_000
    house = House(terms(time_zone="Europe/Berlin"), now_us=start)
    house.say(state(100, window=(start, end)))
    house.now_us = end - 1
    assert house.outcomes(1) == ["exceeded"]
    house.now_us = end
    assert house.outcomes(1) == ["allow"]


def test_a_tombstone_takes_a_record_back() -> None:
    house = House(terms(), state(100))
    house.unsay(state(100))
    assert house.outcomes(100) == ["allow"]
    house.unsay(terms())
    assert house.admit(1) == Decision(outcome="allow", now_us=NOW)


def test_a_feed_that_starts_over_replaces_what_was_there() -> None:
    house = House(terms("a"), terms("b"), state(100, "a"), state(100, "b"))
    house.fresh()
    house.gate.starts_over()
    house.say(terms("a", when_stale="closed"))
    assert house.admit(0).reason == "exceeded"
    house.gate.caught_up()
    assert house.admit(0).reason == "stale"
    house.fresh()
    assert house.admit(100).tightest == Quota("a", "USD", 100, 0, *DAY)


BAD = [
    (terms_key("day"), b"{"),
    (terms_key("other"), record(terms(limit="0"))[1]),
    (terms_key("day"), record(terms(limit="many"))[1]),
    (terms_key("day"), record(terms(limit="-1"))[1]),
    (terms_key("day"), record(terms(throttle_per_minute=0))[1]),
    (terms_key("day"), record(terms(time_zone="Mars/Olympus"))[1]),
    (record(state(0))[0], record(state(0, spent_pico="1e3"))[1]),
    (record(state(0))[0], record(state(100, "other"))[1]),
    (record(state(0))[0], record(state(100, offsets={"x": 1}))[1]),
    (fresh_key(0), record(Fresh(partition=0, as_of_us=1, offsets={"x": 1}))[1]),
    (fresh_key(1), record(Fresh(partition=1, as_of_us=1))[1]),
    (b"\xff|1|2", None),
    (b"", None),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_record_costs_only_itself(key: bytes, value: bytes | None) -> None:
    house = House(terms(when_stale="closed"), state(60))
    house.fresh()
    with capture_logs() as lines:
        house.gate.take(0, key, value)
    assert [line["event"] for line in lines] == ["record skipped"]
    assert house.outcomes(41, 40) == ["does_not_fit", "allow"]


# --- several budgets -------------------------------------------------------------------------------------------------


def test_a_request_counts_in_every_budget_that_looks_at_it() -> None:
    house = House(
        terms("anybody", tenants=None, limit="1000"),
        terms("tenant", limit="500"),
        terms("both", tenants=("acme", "borg"), model="large", limit="50"),
        terms("other model", model="small", limit="0"),
        terms("other tenant", tenants=("borg",), limit="0"),
        terms("nobody", tenants=(), limit="0"),
    )
    decision = house.admit(40)
    assert (decision.outcome, decision.tightest) == ("allow", Quota("both", "USD", 50, 10, *DAY))
    refused = house.admit(20)
    assert (refused.reason, refused.budget_id) == ("reserved", "both")
    assert house.admit(0, tenant="borg").budget_id == "other tenant"
    assert house.admit(0, model="small").budget_id == "other model"
    assert house.admit(1, tenant="cove").tightest == Quota("anybody", "USD", 1000, 959, *DAY)


def test_nothing_is_reserved_unless_all_admit() -> None:
    house = House(terms("a"), terms("z", model="large", limit="10"))
    assert house.outcomes(50) == ["does_not_fit"]
    assert house.admit(100, model="small").outcome == "allow"


def test_a_scope_that_changes_takes_effect_at_once() -> None:
    house = House(terms(), state(100))
    assert house.outcomes(1) == ["exceeded"]
    house.say(terms(tenants=("borg",)))
    assert house.outcomes(1) == ["allow"]
    assert house.admit(1, tenant="borg").reason == "exceeded"


# --- throttle, notify ------------------------------------------------------------------------------------------------


def test_beyond_the_limit_a_throttle_lets_requests_through_at_its_rate() -> None:
    house = House(terms(on_exceeded="throttle", throttle_per_minute=30), state(90))
    assert house.outcomes(10) == ["allow"]
    within = house.admit(10)
    assert (within.outcome, within.budget_id, within.throttle_per_minute) == ("allow", "day", 30)
    house.wait(0.5)
    above = house.admit(10)
    assert above == Decision(
        outcome="throttle",
        reason="throttled",
        budget_id="day",
        window_end_us=DAY[1],
        retryable=True,
        retry_after_s=2,
        throttle_per_minute=30,
        tightest=Quota("day", "USD", 100, 0, *DAY),
        now_us=house.now_us,
    )
    house.wait(1.5)
    assert house.outcomes(10, 10) == ["allow", "throttled"]
    house.wait(60)  # no burst is saved up
    assert house.outcomes(10, 10) == ["allow", "throttled"]


def test_a_turn_is_not_lost_to_a_request_that_another_budget_refuses() -> None:
    house = House(terms("t", on_exceeded="throttle", limit="0"), terms("b", model="large", limit="0"))
    refused = house.admit(0)
    assert (refused.outcome, refused.budget_id) == ("refuse", "b")
    assert house.admit(0, model="small").outcome == "allow"
    assert house.admit(0, model="small").outcome == "throttle"
    assert house.admit(0).outcome == "refuse"


def test_notify_never_refuses() -> None:
    house = House(terms(on_exceeded="notify", when_stale="closed"), state(500))
    decision = house.admit(10**15)
    assert (decision.outcome, decision.tightest) == ("allow", Quota("day", "USD", 100, 0, *DAY))


# --- several gates ---------------------------------------------------------------------------------------------------


def test_a_gate_of_many_takes_its_share_of_what_is_left() -> None:
    house = House(terms(), state(20), gates=4)
    assert house.outcomes(21, 15, 6, 5, 1) == ["does_not_fit", "allow", "reserved", "allow", "reserved"]


def test_a_gate_of_many_throttles_when_its_share_is_used_up() -> None:
    house = House(terms(on_exceeded="throttle"), state(20), gates=4)
    assert house.outcomes(20, 1, 1) == ["allow", "allow", "throttled"]


# --- stale, not ready ------------------------------------------------------------------------------------------------


def test_an_old_spend_refuses_where_the_budget_says_closed() -> None:
    house = House(terms(when_stale="closed", stale_after_s=60))
    assert house.outcomes(1) == ["stale"]
    house.fresh()
    house.wait(60)
    assert house.outcomes(1) == ["allow"]
    house.wait(0.000_001)
    decision = house.admit(1)
    assert (decision.reason, decision.budget_id, decision.retryable, decision.retry_after_s) == (
        "stale",
        "day",
        True,
        5,
    )
    house.fresh()
    assert house.outcomes(1) == ["allow"]


def test_an_old_spend_goes_on_where_the_budget_says_open() -> None:
    house = House(terms(), state(90))
    house.fresh()
    house.wait(3_600)
    assert house.outcomes(6, 5, 4) == ["allow", "reserved", "allow"]
    house.say(state(100))
    assert house.outcomes(0) == ["exceeded"]


def test_each_partition_of_states_has_its_own_age() -> None:
    house = House(terms(when_stale="closed"))
    house.gate.take(1, *record(terms("other", tenants=("borg",), when_stale="closed")))
    house.gate.take(1, *record(Fresh(partition=1, as_of_us=NOW)))
    assert house.outcomes(1) == ["stale"]
    assert house.admit(1, tenant="borg").outcome == "allow"


@pytest.mark.parametrize(("policy", "outcome"), [("closed", "not_ready"), ("open", "allow")])
def test_before_the_feed_has_caught_up(policy: Any, outcome: str) -> None:
    gate = Gate(lambda: NOW, GateSettings(when_not_ready=policy))
    decision = gate.admit("acme", "assistant", "large", max_cost_pico=1)
    assert (decision.reason or decision.outcome, gate.ready) == (outcome, False)
    gate.caught_up()
    assert gate.admit("acme", "assistant", "large", max_cost_pico=1).outcome == "allow"
    assert gate.ready


# --- the bound of a request ------------------------------------------------------------------------------------------


def test_an_upper_bound_takes_the_dearest_kinds() -> None:
    prices = {"input": 5, "cache_read": 1, "cache_write": 6, "output": 10, "reasoning": 20}
    assert upper_bound_pico(prices, 100, 7) == 100 * 6 + 7 * 20
    assert upper_bound_pico({"input": 5}, 100, 0) == 500
    assert upper_bound_pico({"output": 5}, 0, 3) == 15
    for missing in ({"input": 5}, {"output": 5}, {"cache_read": 1, "output": 5}):
        with pytest.raises(ValueError, match="no price for"):
            upper_bound_pico(missing, 1, 1)
    with pytest.raises(ValueError, match="0 or more"):
        upper_bound_pico(prices, -1, 0)
