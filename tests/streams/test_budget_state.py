from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alert import Alert, alert_id
from meterhouse.streams.budget import BudgetTable, BudgetTotal, alerts_of, state_from_totals, state_of
from meterhouse.streams.budget_book import BudgetBook
from meterhouse.streams.budget_totals import AsOfMark, LayoutMark, read_total
from meterhouse.streams.control import Scope
from meterhouse.streams.gate_wire import Fresh, read_state_key
from tests.streams.budget_builders import DAY_US, budget, snapshot, us

NOVEMBER = (us("2026-10-31T23:00"), us("2026-11-30T23:00"))
NOW = us("2026-11-20T12:00")
UNIT = 10**12


def total(offset: int = 1, cost: int = 0, **fields: object) -> BudgetTotal:
    first = BudgetTotal("acme-month", *NOVEMBER, 0, 1, offset, cost, cost // UNIT, "d")
    return replace(first, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spent_pico", "name", "crossed"),
    [
        (0, "ok", ()),
        (50 * UNIT - 1, "ok", ()),
        (50 * UNIT, "warned", (50,)),
        (80 * UNIT - 1, "warned", (50,)),
        (80 * UNIT, "warned", (50, 80)),
        (100 * UNIT - 1, "warned", (50, 80)),
        (100 * UNIT, "exceeded", (50, 80, 100)),
        (500 * UNIT, "exceeded", (50, 80, 100)),
    ],
)
def test_a_threshold_is_reached_at_exactly_its_share_of_the_limit(
    spent_pico: int, name: str, crossed: tuple[int, ...]
) -> None:
    state = state_of(budget(), NOVEMBER, spent_pico, 7)
    assert (state.state, state.crossed) == (name, tuple(map(Decimal, crossed)))


def test_a_threshold_between_two_pico_units_is_reached_at_the_upper_one() -> None:
    third = budget(limit_pico=3, thresholds=(Decimal("33.4"),))
    assert [state_of(third, NOVEMBER, spent, 0).state for spent in range(4)] == ["ok", "ok", "warned", "exceeded"]


def test_a_threshold_over_100_percent_is_reached_after_the_limit() -> None:
    over = budget(limit_pico=10, thresholds=(Decimal(120),))
    states = [state_of(over, NOVEMBER, spent, 0) for spent in (9, 10, 11, 12)]
    assert [(state.state, len(state.crossed)) for state in states] == [
        ("ok", 0),
        ("exceeded", 0),
        ("exceeded", 0),
        ("exceeded", 1),
    ]


def test_a_limit_in_tokens_looks_at_tokens_alone() -> None:
    tokens = budget(limit_pico=None, limit_tokens=200)
    state = state_of(tokens, NOVEMBER, 10**30, 100)
    assert (state.state, state.spent, state.limit, state.share_percent) == ("warned", 100, 200, Decimal(50))


def test_a_limit_of_zero_is_exceeded_from_the_start() -> None:
    state = state_of(budget(limit_pico=0), NOVEMBER, 0, 0)
    assert (state.state, state.share_percent) == ("exceeded", None)


def test_the_share_is_rounded_down() -> None:
    assert state_of(budget(), NOVEMBER, 100 * UNIT - 1, 0).share_percent == Decimal("99.9999")
    assert state_of(budget(), NOVEMBER, 10**38, 0).share_percent == Decimal(10**26)


def test_the_newest_total_of_each_partition_counts() -> None:
    table = BudgetTable()
    assert table.apply(total(5, 30 * UNIT))
    assert not table.apply(total(5, 30 * UNIT))
    assert not table.apply(total(4, 20 * UNIT))
    assert table.apply(total(2, 25 * UNIT, control_version=2))
    assert table.apply(total(9, 35 * UNIT, partition=3))
    state = state_from_totals(budget(), "d", NOVEMBER, table.totals("acme-month", NOVEMBER))
    assert state == replace(state_of(budget(), NOVEMBER, 60 * UNIT, 60, [(0, 2), (3, 9)]), definition="d")


def test_totals_of_another_definition_count_for_nothing() -> None:
    totals = [total(5, 30 * UNIT), total(9, 35 * UNIT, partition=3, definition="other")]
    found = state_from_totals(budget(), "d", NOVEMBER, totals)
    assert found == replace(state_of(budget(), NOVEMBER, 30 * UNIT, 30, [(0, 5)]), definition="d")
    assert state_from_totals(budget(), "new", NOVEMBER, totals) is None


def test_totals_of_an_older_layout_are_void_once_it_is_marked_whenever_they_come() -> None:
    old, restated, other = total(9, UNIT, layout=3), total(5, 3 * UNIT, layout=4), total(7, UNIT, layout=3, partition=1)
    window = ("acme-month", NOVEMBER)
    table = BudgetTable([old, other])
    assert table.mark(LayoutMark(0, 4)) == [old]
    assert table.totals(*window) == [other]
    assert not table.apply(old)
    assert not table.apply(replace(old, offset=1_000, control_version=8))
    assert table.apply(restated)
    assert table.totals(*window) == [restated, other]
    assert table.mark(LayoutMark(0, 4)) == table.mark(LayoutMark(0, 3)) == []


def test_a_marks_record_stands_in_every_partition_and_reads_back() -> None:
    mark = LayoutMark(2, 5)
    messages = mark.messages(3)
    assert [message.partition for message in messages] == [0, 1, 2]
    assert {read_total(message.key or b"", message.value or b"") for message in messages} == {mark}
    assert read_total(total().key(), total().to_json()) == total()
    with pytest.raises(ValueError, match="see who else writes"):
        read_total(mark.key(), b"{}")


def test_a_forgotten_total_is_gone() -> None:
    table = BudgetTable([total(5, 30 * UNIT)])
    assert table.forget("acme-month", NOVEMBER, 0)
    assert not table.forget("acme-month", NOVEMBER, 0)
    assert list(table.windows()) == []


def test_windows_end_when_no_event_can_reach_them() -> None:
    table = BudgetTable([total(5), total(6, partition=1)])
    last_us = NOVEMBER[1] + 35 * DAY_US - 1
    assert table.closed(last_us, Lateness()) == []
    assert table.closed(last_us + 1, Lateness()) == [total(5), total(6, partition=1)]


def test_an_alert_says_all_that_a_person_needs() -> None:
    first = budget(scope=Scope(tenant="acme", model="large"))
    state = state_of(first, NOVEMBER, 81_234_567_890_123, 5)
    fifty, eighty = alerts_of(state, first, "USD", NOW)
    assert (fifty.threshold, eighty.threshold) == ("50", "80")
    assert eighty == Alert(
        id=alert_id("threshold", "acme-month", *NOVEMBER, "80"),
        kind="threshold",
        subject="acme-month",
        summary="budget acme-month has reached 80 % of its limit",
        budget_id="acme-month",
        window_start_us=NOVEMBER[0],
        window_end_us=NOVEMBER[1],
        threshold="80",
        spent="81.234567890123",
        limit="100.000000000000",
        created_us=NOW,
        payload={
            "unit": "USD",
            "state": "warned",
            "share_percent": "81.2345",
            "scope": {"tenant": "acme", "model": "large"},
            "window": {"every": "month", "time_zone": "Europe/Berlin"},
            "on_exceeded": "notify",
        },
    )
    assert json.loads(eighty.to_json()) == {
        "type": "meterhouse.alert.v1",
        "id": eighty.id,
        "kind": "threshold",
        "status": "firing",
        "subject": "acme-month",
        "summary": "budget acme-month has reached 80 % of its limit",
        "resolves": None,
        "budget_id": "acme-month",
        "window_start": "2026-10-31T23:00:00Z",
        "window_end": "2026-11-30T23:00:00Z",
        "threshold": "80",
        "spent": "81.234567890123",
        "limit": "100.000000000000",
        "created": "2026-11-20T12:00:00Z",
        "details": dict(eighty.payload),
    }


def test_an_alert_about_tokens_counts_tokens() -> None:
    tokens = budget(limit_pico=None, limit_tokens=200, thresholds=(Decimal("12.50"),))
    (alert,) = alerts_of(state_of(tokens, NOVEMBER, 5, 25), tokens, "USD", NOW)
    assert (alert.threshold, alert.spent, alert.limit, alert.payload["unit"]) == ("12.5", "25", "200", "tokens")


def test_the_id_of_an_alert_is_the_same_for_ever() -> None:
    assert alert_id("threshold", "acme-month", 1, 2, "80") == "6d3a23af-e4f3-558a-be0f-04ffaa16431e"
    others = {
        alert_id("threshold", "acme-month", 1, 2, "50"),
        alert_id("threshold", "acme-month", 2, 3, "80"),
        alert_id("threshold", "borg-month", 1, 2, "80"),
    }
    assert len(others) == 3


def test_a_state_is_one_json_value() -> None:
    state = state_of(budget("a|b"), NOVEMBER, 81 * UNIT, 5, [(3, 9), (0, 2)])
    assert read_state_key(state.key()) == ("a|b", NOVEMBER)
    assert json.loads(state.to_json()) == {
        "budget_id": "a|b",
        "window_start_us": NOVEMBER[0],
        "window_end_us": NOVEMBER[1],
        "state": "warned",
        "spent_pico": "81000000000000",
        "spent_tokens": 5,
        "limit_pico": "100000000000000",
        "limit_tokens": None,
        "share_percent": "81",
        "crossed": ["50", "80"],
        "on_exceeded": "notify",
        "offsets": {"0": 2, "3": 9},
        "definition": "",
    }


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="set limit or limit_tokens"):
        state_of(budget(limit_pico=None), NOVEMBER, 0, 0)


def test_a_mark_is_in_force_when_all_that_was_there_after_it_is_read() -> None:
    """Compaction may have taken a total from before the mark, since a newer one of its key stands behind it."""
    book = BudgetBook()
    book.follow(snapshot(budget()))
    book.hear(AsOfMark(0, NOW, 7, control_version=1))
    book.reached(read_to=10, end=12)
    assert book.due(NOW, meters=1).fresh is None
    book.hear(AsOfMark(0, NOW + 1, 8, control_version=1))
    book.reached(read_to=11, end=14)
    assert book.due(NOW, meters=1).fresh is None
    book.reached(read_to=12, end=15)
    assert book.due(NOW, meters=1).fresh == Fresh(partition=0, as_of_us=NOW, offsets={"0": 7})
    book.reached(read_to=15, end=15)
    assert book.due(NOW, meters=1).fresh == Fresh(partition=0, as_of_us=NOW + 1, offsets={"0": 8})


def test_what_was_marked_before_a_meter_took_over_never_comes_into_force() -> None:
    book = BudgetBook()
    book.follow(snapshot(budget()))
    book.hear(AsOfMark(0, NOW, 7, control_version=1))
    book.reached(read_to=10, end=12)
    book.hear(LayoutMark(0, 0))
    book.reached(read_to=12, end=12)
    assert book.due(NOW, meters=1).fresh is None
