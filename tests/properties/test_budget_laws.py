"""Laws of budgets: spend is the sum of charges, whatever was repeated, reordered, killed or edited on the way."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alert import Alert, alert_id
from meterhouse.streams.alerts import MemoryOutbox
from meterhouse.streams.budget import BudgetTable, BudgetTotal, BudgetTotals, state_of
from meterhouse.streams.budget_alerts import LOOK_EVERY_US
from meterhouse.streams.budget_book import BudgetBook
from meterhouse.streams.control import Budget, Scope, Snapshot, WindowSpec
from meterhouse.streams.gate_wire import read_state_key
from meterhouse.streams.ledger import Position
from tests.streams.budget_builders import Spend, budget, minutes, snapshot, spend_table, us

WINDOW = (us("2026-10-31T23:00"), us("2026-11-30T23:00"))
START = us("2026-10-24T20:00")  # the night before clocks go back in Berlin; New York follows a week later
HOUR_US = 3_600_000_000
PARTITIONS = (0, 1)


# -- the table --------------------------------------------------------------------------------------------------------


@st.composite
def heaps_of_totals(draw: st.DrawFn) -> list[BudgetTotal]:
    """Totals of two windows and partitions, some of one key, version and offset."""
    return draw(
        st.lists(
            st.builds(
                BudgetTotal,
                budget_id=st.sampled_from(["a", "b"]),
                window_start_us=st.sampled_from([0, 10]),
                window_end_us=st.just(20),
                partition=st.integers(0, 1),
                control_version=st.integers(1, 2),
                offset=st.integers(0, 3),
                cost_pico=st.integers(0, 3),
                tokens=st.integers(0, 3),
                definition=st.sampled_from(["d", "e"]),
            ),
            max_size=12,
        )
    )


@given(heaps_of_totals(), st.randoms(use_true_random=False))
def test_a_table_forgets_order_and_repeats(totals: list[BudgetTotal], random: Random) -> None:
    shuffled = totals + totals
    random.shuffle(shuffled)
    one, other = BudgetTable(totals), BudgetTable(shuffled)
    assert {which: one.totals(*which) for which in one.windows()} == {w: other.totals(*w) for w in other.windows()}
    assert not any(other.apply(total) for total in totals)


# -- state ---------------------------------------------------------------------------------------------------------


@given(
    spent=st.integers(0, 10**30),
    limit=st.integers(0, 10**30),
    thresholds=st.lists(st.decimals("0.01", "200", places=2), max_size=5, unique=True),
)
def test_a_threshold_is_reached_exactly_when_its_share_of_the_limit_is_spent(
    spent: int, limit: int, thresholds: list[Decimal]
) -> None:
    state = state_of(budget(limit_pico=limit, thresholds=tuple(sorted(thresholds))), WINDOW, spent, 0)
    assert set(state.crossed) == {t for t in thresholds if Fraction(spent) >= Fraction(limit) * Fraction(t) / 100}
    assert (state.state == "exceeded") == (spent >= limit)
    assert state.state != "ok" or not state.crossed


# -- meters, workers, edits, in any order -----------------------------------------------------------------------------


@dataclass
class Meter:
    """A meter as far as budgets see it: sums of the partitions it believes to be its own."""

    control: Snapshot
    totals: BudgetTotals
    at: dict[int, int] = field(default_factory=dict)  # partition → next offset
    newest: dict[bytes, BudgetTotal] = field(default_factory=dict)  # what it said last, by key

    def says(self, totals: list[BudgetTotal]) -> list[BudgetTotal]:
        self.newest |= {total.key(): total for total in totals}
        return totals


def window_at(spec: WindowSpec, time_us: int) -> tuple[int, int]:
    """The window of an instant, by the calendar on the wall."""
    zone = ZoneInfo(spec.time_zone)
    day = datetime.fromtimestamp(time_us // 1_000_000, zone).date()
    if spec.every == "day":
        first, end = day, day + timedelta(days=1)
    elif spec.every == "week":
        first = day - timedelta(days=day.weekday())
        end = first + timedelta(days=7)
    else:
        first, end = day.replace(day=1), date(day.year + day.month // 12, day.month % 12 + 1, 1)
    midnights = [datetime(d.year, d.month, d.day, tzinfo=zone).timestamp() for d in (first, end)]
    return round(midnights[0]) * 1_000_000, round(midnights[1]) * 1_000_000


def counts_for(one: Budget, spend: Spend) -> bool:
    org = {"acme": {"group", "consumer"}, "borg": {"group", "industry"}, "cove": set()}[spend.tenant]
    wanted = one.scope
    return (
        spend.disposition == "billed"
        and wanted.tenant in (None, spend.tenant)
        and (wanted.org_unit is None or wanted.org_unit in org)
        and wanted.application in (None, spend.application)
        and wanted.model in (None, spend.model)
    )


SCOPES = st.builds(
    Scope,
    tenant=st.sampled_from([None, None, "acme", "borg"]),
    org_unit=st.sampled_from([None, None, "group", "industry"]),
    application=st.sampled_from([None, None, "search"]),
    model=st.sampled_from([None, None, None, "small"]),
)
SPECS = st.builds(
    WindowSpec,
    every=st.sampled_from(["day", "week", "month"]),
    time_zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]),
)


def any_budget(scope: Scope, spec: WindowSpec, limit: int, in_tokens: bool) -> Budget:
    pico, tokens = (None, limit) if in_tokens else (limit, None)
    return budget(scope=scope, window=spec, limit_pico=pico, limit_tokens=tokens)


def any_event(hours_ago: int, amount: int, place: Spend, status: str) -> Spend:
    """`time_us` is how long ago, until it comes."""
    return replace(place, time_us=hours_ago * HOUR_US, cost_pico=amount, tokens=100 - amount, disposition=status)


BUDGETS = st.builds(any_budget, SCOPES, SPECS, st.integers(0, 400), st.booleans())
PLACES = st.builds(
    Spend,
    time_us=st.just(0),
    partition=st.sampled_from(PARTITIONS),
    tenant=st.sampled_from(["acme", "borg", "cove"]),
    application=st.sampled_from(["assistant", "search"]),
    model=st.sampled_from(["large", "small"]),
)
EVENTS = st.builds(
    any_event,
    st.integers(0, 20 * 24),
    st.integers(0, 99),
    PLACES,
    st.sampled_from(["billed", "billed", "billed", "unbilled"]),
)


class BudgetMachine(RuleBasedStateMachine):
    """Two meters that may both believe to own a partition, a lake, a wire that repeats and reorders, a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = START
        self.log: dict[int, list[Spend]] = {p: [] for p in PARTITIONS}
        self.controls: dict[int, Snapshot] = {}  # by version
        self.lake = dict.fromkeys(PARTITIONS, 0)  # committed up to
        self.wire: list[BudgetTotal] = []  # all that meters ever said
        self.outbox = MemoryOutbox()
        self.edited = False

    @initialize(first=BUDGETS, second=BUDGETS)
    def begin(self, first: Budget, second: Budget) -> None:
        self.follow(snapshot(replace(first, id="one"), replace(second, id="two")))
        self.meters = [self.new_meter() for _ in range(2)]
        self.new_worker()

    def follow(self, control: Snapshot) -> None:
        self.control = self.controls[control.version] = control

    def new_meter(self) -> Meter:
        return Meter(self.control, BudgetTotals(self.control))

    def new_worker(self) -> None:
        self.book = BudgetBook()
        self.arrived: list[BudgetTotal] = []
        self.said: dict[bytes, bytes] = {}
        self.alerted: list[str] = []

    def take(self, meter: Meter, partition: int) -> None:
        edges = meter.totals.edges(self.now_us)
        committed = [spend for p, offset in self.lake.items() for spend in self.log[p][:offset]]
        offset = self.lake[partition]
        self.wire += meter.says(meter.totals.start(partition, spend_table(committed, edges), edges, offset))
        meter.at[partition] = offset

    def read(self, meter: Meter, partition: int, count: int) -> None:
        at = meter.at[partition]
        run = self.log[partition][at : at + count]
        meter.at[partition] = at + len(run)
        after = {partition: Position(at + len(run), arrived_us=self.now_us)}
        self.wire += meter.says(meter.totals.add(minutes(run), after))

    def hear(self, totals: list[BudgetTotal]) -> None:
        for total in totals:
            self.book.apply(BudgetTotal.from_json(total.to_json()))
            self.arrived.append(total)

    # -- what may happen ---------------------------------------------------------------------------------------------

    @rule(events=st.lists(EVENTS, min_size=1, max_size=6))
    def events_come(self, events: list[Spend]) -> None:
        for event in events:
            self.log[event.partition].append(replace(event, time_us=self.now_us - event.time_us))

    @rule(hours=st.integers(1, 240))
    def time_passes(self, hours: int) -> None:
        self.now_us += hours * HOUR_US

    @rule(meter=st.integers(0, 1), partition=st.sampled_from(PARTITIONS))
    def assign(self, meter: int, partition: int) -> None:
        self.take(self.meters[meter], partition)

    @rule(meter=st.integers(0, 1), count=st.integers(1, 9), heard=st.booleans())
    def meter_reads(self, meter: int, count: int, heard: bool) -> None:
        before = len(self.wire)
        for partition in PARTITIONS:
            if partition not in self.meters[meter].at:
                self.take(self.meters[meter], partition)
            self.read(self.meters[meter], partition, count)
        if heard:
            self.hear(self.wire[before:])
            self.worker_speaks()

    @rule(meter=st.integers(0, 1))
    def commit(self, meter: int) -> None:
        for partition, offset in self.meters[meter].at.items():
            self.lake[partition] = max(self.lake[partition], offset)

    @rule(meter=st.integers(0, 1))
    def meter_dies(self, meter: int) -> None:
        self.meters[meter] = self.new_meter()

    @rule(meter=st.integers(0, 1))
    def meter_follows_control(self, meter: int) -> None:
        owned = list(self.meters[meter].at)
        self.meters[meter] = self.new_meter()
        for partition in owned:
            self.take(self.meters[meter], partition)

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def some_totals_arrive(self, data: st.DataObject) -> None:
        self.hear(data.draw(st.lists(st.sampled_from(self.wire), max_size=8)))

    @rule()
    def worker_speaks(self) -> None:
        self.book.follow(self.control)
        self.book.closed(self.now_us)
        due = self.book.due(self.now_us)
        assert due == self.book.due(self.now_us)
        self.alerted += [alert.id for alert in due.alerts]
        self.outbox.add(due.alerts)
        self.book.raised(due)
        for which, value in due.states.items():
            key = f"{which[0]}|{which[1][0]}|{which[1][1]}".encode()
            assert self.said.get(key) != value, "a state that did not change was said again"
            if value is None:
                del self.said[key]
            else:
                self.said[key] = value
        self.book.said(due, self.now_us)
        assert not self.book.due(self.now_us)
        assert len(self.alerted) == len(set(self.alerted)), "an alert was raised twice"
        self.what_is_said_follows_from_what_arrived()

    def what_is_said_follows_from_what_arrived(self) -> None:
        fresh = BudgetBook()
        for total in self.arrived:
            fresh.apply(total)
        fresh.follow(self.control)
        expected = fresh.due(self.now_us).states
        assert self.said == {f"{b}|{w[0]}|{w[1]}".encode(): value for (b, w), value in expected.items()}

    @rule()
    def worker_restarts(self) -> None:
        said, alerts = self.said, self.outbox.list(limit=100_000)
        alerted = self.alerted
        self.new_worker()
        for key, value in said.items():
            self.book.restore_state(key, value)
        for entry in alerts:
            self.book.restore_alert(entry.alert.to_json())
        self.hear(self.wire)
        self.said, self.alerted = said, alerted

    @rule(which=st.integers(0, 1), other=BUDGETS, limit_only=st.booleans())
    def budget_is_edited(self, which: int, other: Budget, limit_only: bool) -> None:
        budgets = list(self.control.budgets)
        old = budgets[which]
        budgets[which] = replace(
            other,
            id=old.id,
            scope=old.scope if limit_only else other.scope,
            window=old.window if limit_only else other.window,
        )
        self.follow(snapshot(*budgets, version=self.control.version + 1))
        self.edited = True

    # -- what must hold ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not self.controls:
            return
        self.meters.append(self.new_meter())
        for meter in self.meters:
            for partition in PARTITIONS:
                if partition not in meter.at:
                    self.take(meter, partition)
                while meter.at[partition] < len(self.log[partition]):
                    self.read(meter, partition, 7)
            self.a_meter_has_said_all(meter)
        for total in self.wire:
            self.a_total_is_a_function_of_the_log(total)
        self.hear(self.wire[::-1])
        self.worker_speaks()
        self.now_us += LOOK_EVERY_US
        self.worker_speaks()  # of windows that had ended when an alert was raised
        self.the_books_balance()

    def spend_of(self, one: Budget, events: list[Spend]) -> dict[tuple[int, int], list[int]]:
        """[pico-units, tokens] by window, of the windows that events can still reach."""
        found: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
        for event in events:
            window = window_at(one.window, event.time_us)
            if counts_for(one, event) and self.now_us < window[1] + Lateness().behind_us:
                found[window][0] += event.cost_pico
                found[window][1] += event.tokens
        return dict(found)

    def a_total_is_a_function_of_the_log(self, total: BudgetTotal) -> None:
        (one,) = (b for b in self.controls[total.control_version].budgets if b.id == total.budget_id)
        window = (total.window_start_us, total.window_end_us)
        if self.now_us < window[1] + Lateness().behind_us:
            spent = self.spend_of(one, self.log[total.partition][: total.offset])
            assert [total.cost_pico, total.tokens] == spent[window]

    def a_meter_has_said_all(self, meter: Meter) -> None:
        spent = {
            (one.id, window, partition): amounts
            for one in meter.control.budgets
            for partition in PARTITIONS
            for window, amounts in self.spend_of(one, self.log[partition]).items()
        }
        for (budget_id, window, partition), amounts in spent.items():
            said = meter.newest[f"{budget_id}|{window[0]}|{window[1]}|{partition}".encode()]
            assert [said.cost_pico, said.tokens] == amounts

    def the_books_balance(self) -> None:
        """Spend said = sum of charges; each threshold reached has its alert, and no other has."""
        events = [event for run in self.log.values() for event in run]
        expected = {
            (one.id, window): (one, amounts)
            for one in self.control.budgets
            for window, amounts in self.spend_of(one, events).items()
        }
        spent = {read_state_key(key): self.spent(value) for key, value in self.said.items()}
        assert spent == {which: amounts for which, (_, amounts) in expected.items()}
        crossed = {
            alert_id("threshold", one.id, *window, f"{threshold.normalize():f}")
            for (_, window), (one, amounts) in expected.items()
            for threshold in state_of(one, window, *amounts).crossed
        }
        alerts = [entry.alert for entry in self.outbox.list(limit=100_000)]
        raised = {
            alert.id
            for alert in alerts
            if alert.status == "firing" and self.now_us < (alert.window_end_us or 0) + Lateness().behind_us
        }
        assert crossed <= raised
        assert self.edited or crossed == raised
        self.what_is_over_is_resolved(alerts)

    def what_is_over_is_resolved(self, alerts: list[Alert]) -> None:
        """Each alert of an ended window is resolved, no other is unless a budget was edited, and none twice."""
        firing = {alert.id: alert for alert in alerts if alert.status == "firing"}
        resolved = [alert.resolves for alert in alerts if alert.status == "resolved"]
        assert len(resolved) == len(set(resolved))
        assert set(resolved) <= set(firing)
        ended = {id_ for id_, alert in firing.items() if (alert.window_end_us or 0) <= self.now_us}
        assert ended <= set(resolved)
        assert self.edited or ended == set(resolved)

    @staticmethod
    def spent(state: bytes) -> list[int]:
        fields = json.loads(state)
        return [int(fields["spent_pico"]), fields["spent_tokens"]]


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
