from __future__ import annotations

from dataclasses import replace

import pytest

from meterhouse.ingest.log import partition_of
from meterhouse.streams.budget import BudgetTotal, BudgetTotals, definition_of
from meterhouse.streams.budget_totals import read_total_key
from meterhouse.streams.control import Scope, Snapshot, Tenant, WindowSpec
from meterhouse.streams.ledger import Position
from tests.streams.budget_builders import BERLIN_MONTH, DAY_US, TENANTS, Spend, budget, minutes, snapshot, us
from tests.streams.budget_builders import spend_table as spend_of

NOW = us("2026-11-20T12:00")
NOVEMBER = (us("2026-10-31T23:00"), us("2026-11-30T23:00"))  # of Berlin
OCTOBER = (us("2026-09-30T22:00"), us("2026-10-31T23:00"))


def started(control: Snapshot, *partitions: int, history: tuple[Spend, ...] = (), offset: int = 0) -> BudgetTotals:
    totals = BudgetTotals(control)
    edges = totals.edges(NOW)
    for partition in partitions or (0,):
        totals.start(partition, spend_of(history, edges), edges, offset)
    return totals


def total(control: Snapshot, window: tuple[int, int] = NOVEMBER, **fields: int) -> BudgetTotal:
    first = control.budgets[0]
    values = {"partition": 0, "offset": 0, "cost_pico": 0, "tokens": 0} | fields
    return BudgetTotal(
        first.id, *window, control_version=control.version, definition=definition_of(first, control), **values
    )


def test_a_total_is_cumulative_and_stands_for_the_new_position() -> None:
    control = snapshot(budget())
    totals = started(control)
    first = totals.add(minutes([Spend(NOW, 5, 7), Spend(NOW, 1, 1, application="search")]), {0: Position(10)})
    second = totals.add(minutes([Spend(NOW, 2, 3)]), {0: Position(12)})
    assert first == [total(control, offset=10, cost_pico=6, tokens=8)]
    assert second == [total(control, offset=12, cost_pico=8, tokens=11)]


def test_only_what_changed_is_returned() -> None:
    control = snapshot(budget(), budget("borg-month", scope=Scope(tenant="borg")))
    totals = started(control)
    rows = [Spend(NOW, 5, 7), Spend(NOW, 0, 0, tenant="borg"), Spend(NOW, 3, 3, tenant="cove")]
    assert totals.add(minutes(rows), {0: Position(10)}) == [total(control, offset=10, cost_pico=5, tokens=7)]
    assert totals.add(minutes([]), {0: Position(11)}) == []


def test_only_billed_events_count_for_money_and_for_tokens() -> None:
    totals = started(snapshot(budget()))
    rows = [Spend(NOW, 0, 7, disposition="unpriced"), Spend(NOW, 0, 9, disposition="unbilled")]
    assert totals.add(minutes(rows), {0: Position(10)}) == []


def test_each_partition_has_its_own_total() -> None:
    control = snapshot(budget())
    totals = started(control, 0, 3)
    found = totals.add(minutes([Spend(NOW, 1, 1), Spend(NOW, 2, 2, partition=3)]), {0: Position(5), 3: Position(9)})
    assert found == [
        total(control, offset=5, cost_pico=1, tokens=1),
        total(control, partition=3, offset=9, cost_pico=2, tokens=2),
    ]


def test_a_late_event_counts_for_its_own_window() -> None:
    control = snapshot(budget())
    late = us("2026-10-31T22:59:59")
    found = started(control).add(minutes([Spend(late, 1, 1), Spend(late + 1_000_000, 2, 2)]), {0: Position(1)})
    assert found == [
        total(control, OCTOBER, offset=1, cost_pico=1, tokens=1),
        total(control, NOVEMBER, offset=1, cost_pico=2, tokens=2),
    ]


@pytest.mark.parametrize(
    ("scope", "spent"),
    [
        (Scope(), 0b1111),
        (Scope(tenant="acme"), 0b0011),
        (Scope(org_unit="group"), 0b0111),
        (Scope(org_unit="consumer"), 0b0011),
        (Scope(application="search"), 0b1010),
        (Scope(model="small"), 0b0100),
        (Scope(tenant="acme", application="search"), 0b0010),
        (Scope(org_unit="group", model="large", application="assistant"), 0b0001),
        (Scope(tenant="cove", org_unit="group"), 0),
    ],
)
def test_every_part_of_a_scope_must_match(scope: Scope, spent: int) -> None:
    rows = [
        Spend(NOW, 0b0001),
        Spend(NOW, 0b0010, application="search"),
        Spend(NOW, 0b0100, tenant="borg", model="small"),
        Spend(NOW, 0b1000, tenant="cove", application="search"),
    ]
    found = started(snapshot(budget(scope=scope))).add(minutes(rows), {0: Position(4)})
    assert [t.cost_pico for t in found] == ([spent] if spent else [])


def test_a_tenant_unknown_to_the_snapshot_counts_for_budgets_without_an_org_unit() -> None:
    control = snapshot(budget(scope=Scope()), budget("group", scope=Scope(org_unit="group")))
    found = started(control).add(minutes([Spend(NOW, 1, tenant="newcomer")]), {0: Position(1)})
    assert [t.budget_id for t in found] == ["acme-month"]


def test_sums_beyond_64_bits_are_exact() -> None:
    huge = 123_456_789_012_345_678_901_234_567_890
    totals = started(snapshot(budget()))
    found = totals.add(minutes([Spend(NOW, huge + i, 2**40) for i in range(1000)]), {0: Position(1)})
    assert [(t.cost_pico, t.tokens) for t in found] == [(1000 * huge + 499_500, 1000 * 2**40)]


def test_a_correction_may_be_negative() -> None:
    totals = started(snapshot(budget()))
    totals.add(minutes([Spend(NOW, 10**20)]), {0: Position(1)})
    found = totals.add(minutes([Spend(NOW, -(10**20) + 1)]), {0: Position(2)})
    assert [t.cost_pico for t in found] == [1]


def test_totals_start_from_the_lake_and_go_on() -> None:
    control = snapshot(budget(), budget("day", scope=Scope(), window=WindowSpec("day", "UTC")))
    history = (Spend(NOW, 5, 7), Spend(NOW - 15 * DAY_US, 3, 3), Spend(NOW, 1, 1, partition=1))
    fresh = BudgetTotals(control)
    edges = fresh.edges(NOW)
    first = fresh.start(0, spend_of(history, edges), edges, 40)
    assert {(t.budget_id, t.cost_pico, t.tokens, t.offset, t.partition) for t in first} == {
        ("acme-month", 8, 10, 40, 0),
        ("day", 5, 7, 40, 0),
        ("day", 3, 3, 40, 0),
    }
    after = fresh.add(minutes([Spend(NOW, 2, 2)]), {0: Position(50)})
    assert {(t.budget_id, t.cost_pico, t.tokens, t.offset) for t in after} == {
        ("acme-month", 10, 12, 50),
        ("day", 7, 9, 50),
    }


def test_edges_hold_every_window_that_can_still_change() -> None:
    control = snapshot(budget(), budget("day", window=WindowSpec("day", "UTC")))
    edges = BudgetTotals(control).edges(NOW)
    assert edges == sorted(set(edges))
    assert edges[0] == OCTOBER[0]  # 35 days back is in October
    days = [us(f"2026-10-{day}") for day in range(16, 32)] + [us(f"2026-11-{day:02}") for day in range(1, 22)]
    assert [edge for edge in edges if edge not in {*OCTOBER, *NOVEMBER}] == days


def test_without_budgets_there_are_no_edges_and_no_totals() -> None:
    control = snapshot()
    assert BudgetTotals(control).edges(NOW) == []
    assert started(control, history=(Spend(NOW, 1),)).add(minutes([Spend(NOW, 1)]), {0: Position(1)}) == []


def test_a_window_whose_history_is_only_partly_known_is_not_totalled() -> None:
    control = snapshot(budget(), budget("day", window=WindowSpec("day", "UTC")))
    totals = started(control)
    # 1 October lies within October's window of the month budget, but is no window that was asked for as a day.
    found = totals.add(minutes([Spend(us("2026-10-02"), 1, 1), Spend(us("2026-09-02"), 1, 1)]), {0: Position(1)})
    assert found == [total(control, OCTOBER, offset=1, cost_pico=1, tokens=1)]


def test_a_window_that_opens_later_starts_from_zero() -> None:
    totals = started(snapshot(budget()))
    found = totals.add(minutes([Spend(us("2027-02-03"), 4, 4)]), {0: Position(1)})
    assert [(t.window_start_us, t.cost_pico) for t in found] == [(us("2027-01-31T23:00"), 4)]


def test_a_window_that_opens_while_another_zone_has_its_day_still_open_starts_from_zero() -> None:
    days = [budget(zone, window=WindowSpec("day", zone)) for zone in ("Europe/Berlin", "America/New_York")]
    evening = us("2026-11-20T21:30")  # Berlin's day ends at 23:00, New York's at 05:00
    totals = BudgetTotals(snapshot(*days))
    edges = totals.edges(evening)
    totals.start(0, spend_of([], edges), edges, 0)
    found = totals.add(minutes([Spend(us("2026-11-20T23:30"), 4, 4)]), {0: Position(1)})
    starts = {"Europe/Berlin": us("2026-11-20T23:00"), "America/New_York": us("2026-11-20T05:00")}
    assert {t.budget_id: t.window_start_us for t in found} == starts


def test_a_start_without_edges_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="call edges"):
        BudgetTotals(snapshot(budget())).start(0, spend_of([], [0, 1]), [0, 1], 0)


def test_sums_of_windows_that_no_event_can_reach_are_forgotten() -> None:
    control = snapshot(budget(window=WindowSpec("day", "UTC")))
    totals = started(control)
    for day in range(400):
        at = NOW + day * DAY_US
        totals.add(minutes([Spend(at, 1, 1)]), {0: Position(day + 1, arrived_us=at)})
    held = totals._partitions[0].sums
    assert len(held) <= 37
    long_ago = totals.add(minutes([Spend(NOW, 1, 1)]), {0: Position(500, arrived_us=NOW + 400 * DAY_US)})
    assert long_ago == []


def test_an_event_late_but_in_time_when_it_arrived_counts_whatever_came_with_it() -> None:
    control = snapshot(budget(window=WindowSpec("day", "UTC")))
    totals = started(control)
    rows = [Spend(NOW - 34 * DAY_US, 1), Spend(NOW + 20 * DAY_US, 1)]
    found = totals.add(minutes(rows), {0: Position(2, arrived_us=NOW + 20 * DAY_US)})
    assert len(found) == 2


def test_a_partition_must_be_started_first() -> None:
    with pytest.raises(ValueError, match="partition 7 were never started"):
        started(snapshot(budget())).add(minutes([]), {7: Position(1)})


def test_a_dropped_partition_is_gone_and_can_be_started_again() -> None:
    control = snapshot(budget())
    totals = started(control, 0, 1)
    totals.add(minutes([Spend(NOW, 5)]), {0: Position(5)})
    totals.drop(0)
    edges = totals.edges(NOW)
    assert totals.start(0, spend_of([Spend(NOW, 2)], edges), edges, 3) == [total(control, offset=3, cost_pico=2)]


def test_a_total_reads_back_from_its_json_and_its_key() -> None:
    first = BudgetTotal("a|b", 1, 2, 3, 4, 5, 10**30, 7, "d")
    assert BudgetTotal.from_json(first.to_json()) == first
    assert read_total_key(first.key()) == ("a|b", 1, 2, 3)
    message = first.message(5)
    assert (message.key, message.value, message.partition) == (first.key(), first.to_json(), partition_of(b"a|b", 5))


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b"null", b'{"budget_id": 1}', b"\xff"])
def test_what_is_no_total_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a budget total"):
        BudgetTotal.from_json(value)


def test_a_total_with_a_field_of_another_type_is_refused() -> None:
    value = BudgetTotal("a", 1, 2, 3, 4, 5, 6, 7, "d").to_json().replace(b'"offset":5', b'"offset":"5"')
    with pytest.raises(ValueError, match="Expected `int`, got `str`"):
        BudgetTotal.from_json(value)


def test_the_definition_changes_with_scope_zone_and_members_only() -> None:
    first = budget(scope=Scope(org_unit="consumer"))
    here = definition_of(first, snapshot(first))
    same = replace(first, limit_pico=1, thresholds=(), on_exceeded="block")
    assert definition_of(same, snapshot(same, version=9)) == here
    moved = (*TENANTS[1:], Tenant(id="acme", name="Acme", org=("group",)))
    others = {
        definition_of(replace(first, scope=Scope(org_unit="group")), snapshot(first)),
        definition_of(replace(first, scope=Scope(tenant="consumer")), snapshot(first)),
        definition_of(replace(first, window=replace(BERLIN_MONTH, time_zone="UTC")), snapshot(first)),
        definition_of(replace(first, window=replace(BERLIN_MONTH, every="week")), snapshot(first)),
        definition_of(first, snapshot(first, tenants=moved)),
    }
    assert len(others) == 5
    assert here not in others
