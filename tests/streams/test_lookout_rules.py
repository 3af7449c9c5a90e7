"""When a forecast, a missing price or a meter that is behind is news, and when it no longer is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from meterhouse.streams.alert import Alert, alert_id
from meterhouse.streams.control import RateCard
from meterhouse.streams.forecast import Forecast
from meterhouse.streams.lookout_rules import (
    Patience,
    Standing,
    UnpricedDay,
    Waiting,
    forecast_alert,
    forecast_is_over,
    meter_alert,
    meter_is_back,
    standing_of,
    unpriced_alerts,
    unpriced_is_over,
)
from tests.builders import DAY_US, HOUR_US, SECOND_US, T0_US
from tests.streams.budget_builders import budget, us

NOVEMBER = (us("2026-10-31T23:00"), us("2026-11-30T23:00"))
MID = us("2026-11-15T12:00")
USD = 10**12
BUDGET = budget(limit_pico=250 * USD)
OVER = Forecast(312_400_000_000_000, date(2026, 11, 21))
PATIENCE = Patience(stuck_us=60 * SECOND_US, behind_us=300 * SECOND_US)


# -- forecast ---------------------------------------------------------------------------------------------------------


def test_a_budget_on_course_to_exceed_is_news() -> None:
    assert forecast_alert(BUDGET, "USD", NOVEMBER, 100 * USD, OVER, MID) == Alert(
        id=alert_id("forecast", "acme-month", *NOVEMBER),
        kind="forecast",
        subject="acme-month",
        summary="budget acme-month is on course to exceed its limit by Sat 21 Nov: forecast 312.40 of 250.00 USD",
        created_us=MID,
        budget_id="acme-month",
        window_start_us=NOVEMBER[0],
        window_end_us=NOVEMBER[1],
        spent="100.000000000000",
        limit="250.000000000000",
        payload={
            "unit": "USD",
            "scope": {"tenant": "acme"},
            "window": {"every": "month", "time_zone": "Europe/Berlin"},
            "on_exceeded": "notify",
            "forecast": "312.400000000000",
            "exceeds_on": "2026-11-21",
        },
    )


def test_a_forecast_in_tokens_speaks_of_tokens() -> None:
    tokens = budget(limit_pico=None, limit_tokens=1_000_000)
    alert = forecast_alert(tokens, "USD", NOVEMBER, 7, Forecast(1_234_567, date(2026, 11, 3)), MID)
    assert alert is not None
    assert alert.summary.endswith("by Tue 3 Nov: forecast 1,234,567 of 1,000,000 tokens")
    assert (alert.spent, alert.limit, alert.payload["forecast"]) == ("7", "1000000", "1234567")


def test_a_forecast_that_stays_below_the_limit_is_no_news() -> None:
    assert forecast_alert(BUDGET, "USD", NOVEMBER, 100 * USD, Forecast(249 * USD, None), MID) is None


@pytest.mark.parametrize(
    ("window", "first_us"),
    [
        (NOVEMBER, 2 * DAY_US),
        ((T0_US, T0_US + 7 * DAY_US), 7 * DAY_US // 10),
        ((T0_US, T0_US + DAY_US), DAY_US // 10),
    ],
)
def test_a_window_that_has_hardly_begun_is_no_evidence(window: tuple[int, int], first_us: int) -> None:
    def raised(at_us: int) -> bool:
        return forecast_alert(BUDGET, "USD", window, 0, OVER, at_us) is not None

    assert (raised(window[0] + first_us - 1), raised(window[0] + first_us)) == (False, True)


def test_a_forecast_is_over_when_it_falls_well_below_the_limit() -> None:
    alert = forecast_alert(BUDGET, "USD", NOVEMBER, 100 * USD, OVER, MID)
    assert alert is not None

    def over(amount: int, limit: int = 250) -> str | None:
        return forecast_is_over(alert, budget(limit_pico=limit * USD), NOVEMBER, Forecast(amount, None))

    assert over(225 * USD + 1) is None
    assert over(225 * USD) == "the forecast fell to 225.00 of 250.00"
    assert over(312 * USD, limit=400) == "the forecast fell to 312.00 of 400.00"
    december = (NOVEMBER[1], NOVEMBER[1] + 31 * DAY_US)
    assert forecast_is_over(alert, BUDGET, december, OVER) == "the budget has another window"
    assert forecast_is_over(alert, None, None, None) == "there is no such budget any more"


# -- unpriced ---------------------------------------------------------------------------------------------------------


def day(number: int, **changes: Any) -> UnpricedDay:
    """A day of November: ten requests of a hundred tokens at its noon."""
    noon_us = T0_US + (number - 1) * DAY_US + 12 * HOUR_US
    at = datetime.fromtimestamp(noon_us // SECOND_US, UTC).date()
    made = UnpricedDay("atlas", "new", "acme", at, noon_us, noon_us + HOUR_US, frozenset({"input", "output"}), 10, 1000)
    return replace(made, **changes)


def card(from_day: int, to_day: int | None = None, **changes: Any) -> RateCard:
    """Prices of atlas/new from a day of November until another."""
    ends_us = None if to_day is None else T0_US + (to_day - 1) * DAY_US
    made = RateCard(1, "atlas", "new", None, T0_US + (from_day - 1) * DAY_US, ends_us, {"input": 1, "output": 2})
    return replace(made, **changes)


NOW = T0_US + 9 * DAY_US + 13 * HOUR_US  # the 10th


def test_a_model_without_a_price_is_news_with_what_is_known_of_it() -> None:
    days = [day(10), day(8, tenant="bolt", kinds=frozenset({"reasoning"})), day(9, requests=990)]
    assert unpriced_alerts(days, [], NOW) == {
        "atlas/new": Alert(
            id=alert_id("unpriced", "atlas", "new", "2026-11-08", 0),
            kind="unpriced",
            subject="atlas/new",
            summary="1,010 requests of atlas/new have no price since 2026-11-08: add a rate card",
            created_us=NOW,
            payload={
                "provider": "atlas",
                "model": "new",
                "requests": 1010,
                "tokens": 3000,
                "tenants": ["acme", "bolt"],
                "tenant_count": 2,
                "token_kinds": ["input", "output", "reasoning"],
                "since": "2026-11-08T12:00:00Z",
            },
        )
    }


@pytest.mark.parametrize(
    ("cards", "is_news"),
    [
        ([], True),
        ([card(1, model="other")], True),
        ([card(1)], False),
        ([card(10)], False),  # it came after some of the requests: they were news before it
        ([card(11)], True),  # not in force yet
        ([card(1, tenant="acme")], False),
        ([card(1, tenant="bolt")], True),  # somebody else's
        ([card(1, pico_per_token={"input": 1})], True),  # no price of output
    ],
)
def test_a_model_is_news_while_no_price_in_force_covers_what_was_asked(cards: list[RateCard], is_news: bool) -> None:
    assert bool(unpriced_alerts([day(9), day(10)], cards, NOW)) == is_news


def test_an_episode_begins_where_a_price_ended() -> None:
    ended = [card(3, 6), card(1, 2, id=2)]
    assert unpriced_alerts([day(2)], ended, NOW) == {}
    alert = unpriced_alerts([day(2), day(7), day(8)], ended, NOW)["atlas/new"]
    assert alert.id == alert_id("unpriced", "atlas", "new", "2026-11-07", T0_US + 5 * DAY_US)
    assert (alert.payload["requests"], alert.payload["since"]) == (20, "2026-11-07T12:00:00Z")
    first = unpriced_alerts([day(2)], [], NOW)["atlas/new"]
    assert first.id != alert.id


def test_a_missing_price_is_over_when_a_card_prices_it_not_when_nobody_asks() -> None:
    found = unpriced_alerts([day(10)], [], NOW)
    alert = found["atlas/new"]
    assert unpriced_is_over(alert, found, [], NOW) is None
    assert unpriced_is_over(alert, {}, [], NOW) is None
    assert unpriced_is_over(alert, {}, [card(11), card(1, 5), card(1, model="other")], NOW) is None
    assert unpriced_is_over(alert, {}, [card(10)], NOW) == "rate card 1 prices it; what came before stays unpriced"
    assert unpriced_is_over(alert, found, [card(10, tenant="bolt")], NOW) is None


# -- meter behind -----------------------------------------------------------------------------------------------------


def looks(*at: tuple[int, Waiting | None]) -> list[Alert | None]:
    """What a lookout finds at each of these seconds."""
    before: Standing | None = None
    found = []
    for second, waiting in at:
        now_us = T0_US + second * SECOND_US
        now = None if waiting is None else standing_of(waiting, before, PATIENCE, now_us)
        alert = None
        if waiting is not None and now is not None:
            alert = meter_alert(3, waiting, before, now, PATIENCE, now_us)
        found.append(alert)
        before = now
    return found


def waiting(offset: int, arrived_s: int | None = 0, records: int = 5) -> Waiting:
    return Waiting(offset, records, None if arrived_s is None else T0_US + arrived_s * SECOND_US)


def test_a_partition_that_does_not_move_is_stuck_after_a_minute() -> None:
    none, still_none, alert = looks((0, waiting(7)), (59, waiting(7)), (60, waiting(7)))
    assert (none, still_none) == (None, None)
    assert alert == Alert(
        id=alert_id("meter_behind", "usage.events/3", 7),
        kind="meter_behind",
        subject="usage.events/3",
        summary="usage.events/3 is stuck at offset 7: 5 records wait; see that a meter runs, and what it says",
        created_us=T0_US + 60 * SECOND_US,
        payload={
            "rule": "stuck",
            "topic": "usage.events",
            "partition": 3,
            "offset": 7,
            "records": 5,
            "oldest": "2026-11-01T00:00:00Z",
        },
    )


def test_a_partition_that_moves_or_is_read_to_its_end_is_not_stuck() -> None:
    assert looks((0, waiting(7)), (60, waiting(8, 50)), (119, waiting(8, 50))) == [None] * 3
    assert looks((0, waiting(7)), (30, None), (60, waiting(7, 55)), (119, waiting(7, 55))) == [None] * 4


def test_a_partition_is_late_when_two_looks_find_its_first_record_too_old() -> None:
    once = looks((310, waiting(7)), (340, waiting(90, 100)), (370, waiting(99, 60)))
    assert once == [None] * 3
    alert = looks((310, waiting(7)), (340, waiting(90, 20)))[1]
    assert alert is not None
    assert alert.payload["rule"] == "far_behind"
    assert alert.summary.startswith("usage.events/3 is metered 320 s late: 5 records wait")


def test_records_that_are_gone_from_the_log_are_a_stuck_meter() -> None:
    alert = looks((0, waiting(7, None)), (60, waiting(7, None)))[1]
    assert alert is not None
    assert (alert.payload["rule"], alert.payload["oldest"]) == ("stuck", None)


def test_a_meter_is_back_when_it_moved_on_and_is_within_half_of_both_limits() -> None:
    alert = looks((0, waiting(7)), (60, waiting(7)))[1]
    assert alert is not None
    now_us = T0_US + 100 * SECOND_US

    def back(waits: Waiting | None, since_s: int = 100) -> str | None:
        now = None if waits is None else Standing(waits.offset, T0_US + since_s * SECOND_US, False)
        return meter_is_back(alert, waits, now, PATIENCE, now_us)

    assert back(None) == "all records are metered"
    assert back(waiting(7)) is None  # another lookout may have seen it stand there: this one has just begun
    assert back(waiting(8, -51)) is None  # 151 s late
    assert back(waiting(8, -50)) == "metered 150 s late"
    assert back(waiting(8, 99), since_s=69) is None
    assert back(waiting(8, 99), since_s=70) == "metered 1 s late"
