"""The budget runtime's contract: totals in; states and alerts out. Held by the embedded worker and by Faust's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import (
    BUDGET_ALERTS,
    BUDGET_STATES,
    BUDGET_TOTALS,
    USAGE_EVENTS,
    EventLog,
    Message,
    TopicSpec,
    partition_of,
)
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.alert import alert_id
from meterhouse.streams.alerts import MemoryOutbox
from meterhouse.streams.budget import BudgetTotal, definition_of
from meterhouse.streams.budget_alerts import RESOLVE_AFTER_US
from meterhouse.streams.budget_desk import LISTEN_EVERY_US, BudgetDesk
from meterhouse.streams.budget_faust import FaustBudgetWorker, FaustSettings
from meterhouse.streams.budget_totals import AsOfMark, LayoutMark, Mark
from meterhouse.streams.budget_worker import EmbeddedBudgetWorker, budget_topics
from meterhouse.streams.control import Budget, Scope, Snapshot, WindowSpec
from tests.kafka.logs import DEADLINE_S, SESSION_S, await_that, new_name
from tests.services.kafka import own_cluster
from tests.streams.budget_builders import DAY_US, budget, snapshot, us

NOVEMBER = (us("2026-10-31T23:00"), us("2026-11-30T23:00"))  # of Berlin
OCTOBER = (us("2026-09-30T22:00"), us("2026-10-31T23:00"))
NOW = us("2026-11-20T12:00")
UNIT = 10**12
PARTITIONS = 3
TOPICS = [*budget_topics(PARTITIONS), TopicSpec(USAGE_EVENTS, 2)]
SETTLE_TURNS = 1000


class Running(Protocol):
    """A runtime at work."""

    def settle(self) -> None:
        """Returns when all totals in the log are taken in and all that follows is said; fails at a deadline."""
        ...

    def kill(self) -> None:
        """Ends it without a goodbye."""
        ...


@dataclass
class Desk:
    """What a runtime works with; `start` starts one."""

    log: EventLog
    outbox: MemoryOutbox
    start: Callable[[], Running]
    control: Snapshot = field(default_factory=lambda: snapshot(budget()))
    now_us: int = NOW

    def budget_desk(self) -> BudgetDesk:
        return BudgetDesk(self.log, lambda: self.control, self.outbox, lambda: self.now_us)

    def say(self, *marks: Mark) -> None:
        self.log.append(BUDGET_TOTALS, [message for mark in marks for message in mark.messages(PARTITIONS)])

    def publish(self, *totals: BudgetTotal) -> None:
        self.log.append(BUDGET_TOTALS, [total.message(PARTITIONS) for total in totals])

    def states(self) -> dict[str, Any]:
        """Newest state by key; a state that is gone is not there."""
        return {key: value for key, value in self._told().items() if not key.startswith("|")}

    def terms(self) -> dict[str, Any]:
        """What gates are told of each budget."""
        return {key.removeprefix("|terms|"): value for key, value in self._told().items() if key.startswith("|terms|")}

    def fresh(self) -> dict[int, Any]:
        """How fresh the states of each partition are."""
        return {value["partition"]: value for key, value in self._told().items() if key.startswith("|fresh|")}

    def _told(self) -> dict[str, Any]:
        return {key: json.loads(value) for key, value in self._newest(BUDGET_STATES).items() if value is not None}

    def totals(self) -> set[str]:
        """Keys of the totals that are still there."""
        return {key for key, value in self._newest(BUDGET_TOTALS).items() if value is not None}

    def newest_total(self, total: BudgetTotal) -> BudgetTotal:
        """The last record of the total's key."""
        return BudgetTotal.from_json(self._newest(BUDGET_TOTALS)[total.key().decode()] or b"")

    def alerts(self) -> list[Any]:
        return [json.loads(value) for _, value in self._records(BUDGET_ALERTS) if value is not None]

    def said(self) -> int:
        """How many records of states were ever appended."""
        return sum(not key.startswith(b"|") for key, _ in self._records(BUDGET_STATES))

    def _newest(self, topic: str) -> dict[str, bytes | None]:
        return {key.decode(): value for key, value in self._records(topic)}

    def _records(self, topic: str) -> Iterator[tuple[bytes, bytes | None]]:
        for partition in self.log.end_offsets(topic):
            records = self.log.read(topic, partition, 0, 100_000)
            for key, value in zip(records.keys, records.values, strict=True):
                assert key is not None
                yield key, value


class EmbeddedRunning:
    def __init__(self, desk: Desk) -> None:
        self.worker = EmbeddedBudgetWorker(desk.log, desk.budget_desk())

    def settle(self) -> None:
        for _ in range(SETTLE_TURNS):
            self.worker.run_once(0.0)
            if self.worker.idle():
                return
        raise AssertionError(f"not idle after {SETTLE_TURNS} turns")

    def kill(self) -> None:
        self.worker.close()  # closing says nothing: it only gives the file back


class FaustRunning:
    """A member of the test's own group, in a thread."""

    def __init__(self, desk: Desk, bootstrap: str, group: str) -> None:
        settings = FaustSettings(bootstrap=bootstrap, group=group, session_timeout_s=SESSION_S)
        self.worker = FaustBudgetWorker(desk.budget_desk(), settings)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(self.worker.run, self._stop)

    def settle(self) -> None:
        def idle() -> bool:
            assert not self._running.done(), self._running.exception()
            return self.worker.idle()

        await_that(idle)

    def kill(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._running.result()
            self.worker.close()
            self._pool.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A broker of our own: the names of the topics are Meterhouse's."""
    with own_cluster(steady=True) as made:
        yield made.bootstrap


@pytest.fixture(params=["embedded", "faust"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    running: list[EmbeddedRunning | FaustRunning] = []
    log: EventLog
    if request.param == "embedded":
        log = SqliteLog(tmp_path / "log.sqlite", clock=lambda: NOW)
        log.create_topics(TOPICS)

        def start() -> Running:
            running.append(EmbeddedRunning(there))
            return running[-1]

    else:
        bootstrap = request.getfixturevalue("cluster")
        log = KafkaLog(bootstrap, group=None)
        make_anew(bootstrap, log)
        group = new_name()

        def start() -> Running:
            running.append(FaustRunning(there, bootstrap, group))
            return running[-1]

    there = Desk(log, MemoryOutbox(), start)
    yield there
    for one in running:
        one.kill()
    log.close()


def make_anew(bootstrap: str, log: KafkaLog) -> None:
    """The topics, empty."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    names = [spec.name for spec in TOPICS]
    for deleting in admin.delete_topics(names).values():
        with suppress(KafkaException):  # the first test finds none
            deleting.result(DEADLINE_S)
    await_that(lambda: not log.describe_topics(names))
    log.create_topics(TOPICS)


def total(
    desk: Desk, offset: int, cost: int, *, window: tuple[int, int] = NOVEMBER, of: Budget | None = None, **more: int
) -> BudgetTotal:
    """A total of `cost` whole units and as many tokens."""
    first = of or desk.control.budgets[0]
    fields = {"partition": 0, "control_version": desk.control.version} | more
    definition = definition_of(first, desk.control)
    return BudgetTotal(
        first.id, *window, offset=offset, cost_pico=cost * UNIT, tokens=cost, definition=definition, **fields
    )


def key(budget_id: str = "acme-month", window: tuple[int, int] = NOVEMBER) -> str:
    return f"{budget_id}|{window[0]}|{window[1]}"


def ids(*thresholds: str, budget_id: str = "acme-month", window: tuple[int, int] = NOVEMBER) -> list[str]:
    return [alert_id("threshold", budget_id, *window, threshold) for threshold in thresholds]


def raised(desk: Desk) -> list[str]:
    """Ids of alerts in the outbox; the topic has the same ones, once each."""
    in_outbox = sorted(entry.alert.id for entry in desk.outbox.list())
    assert sorted(alert["id"] for alert in desk.alerts()) == in_outbox
    return in_outbox


def test_a_total_becomes_a_state(desk: Desk) -> None:
    desk.publish(total(desk, 10, 60))
    desk.start().settle()
    assert desk.states() == {
        key(): {
            "budget_id": "acme-month",
            "window_start_us": NOVEMBER[0],
            "window_end_us": NOVEMBER[1],
            "state": "warned",
            "spent_pico": "60000000000000",
            "spent_tokens": 60,
            "limit_pico": "100000000000000",
            "limit_tokens": None,
            "share_percent": "60",
            "crossed": ["50"],
            "on_exceeded": "notify",
            "offsets": {"0": 10},
            "definition": definition_of(desk.control.budgets[0], desk.control),
        }
    }


def test_all_records_of_a_budget_are_in_its_partition(desk: Desk) -> None:
    desk.publish(total(desk, 10, 100), total(desk, 10, 100, window=OCTOBER))
    desk.start().settle()
    place = partition_of(b"acme-month", PARTITIONS)
    for topic in (BUDGET_TOTALS, BUDGET_STATES, BUDGET_ALERTS):
        assert {p for p, end in desk.log.end_offsets(topic).items() if end} == {place}


def test_partitions_are_added_up(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 30), total(desk, 5, 40, partition=7))
    running.settle()
    desk.publish(total(desk, 12, 31))
    running.settle()
    state = desk.states()[key()]
    assert (state["spent_pico"], state["offsets"]) == (str(71 * UNIT), {"0": 12, "7": 5})


def test_each_threshold_alerts_once_per_window(desk: Desk) -> None:
    running = desk.start()
    for offset, cost in enumerate((10, 49, 50, 55, 79, 99, 100, 300), 1):
        desk.publish(total(desk, offset, cost))
        running.settle()
    desk.publish(total(desk, 1, 85, window=OCTOBER))
    running.settle()
    assert raised(desk) == sorted(ids("50", "80", "100") + ids("50", "80", window=OCTOBER))
    spent = {alert["threshold"]: alert["spent"] for alert in desk.alerts() if "2026-10-31" in alert["window_start"]}
    assert spent == {"50": "50.000000000000", "80": "99.000000000000", "100": "100.000000000000"}


def test_repeats_and_older_totals_change_nothing(desk: Desk) -> None:
    running = desk.start()
    first, second = total(desk, 10, 60), total(desk, 20, 90)
    desk.publish(first, second)
    running.settle()
    said, states = desk.said(), desk.states()
    desk.publish(first, second, second, first)
    running.settle()
    assert (desk.said(), desk.states(), raised(desk)) == (said, states, sorted(ids("50", "80")))


def test_a_newer_control_version_wins_over_a_higher_offset(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 20, 90, control_version=1))
    running.settle()
    desk.publish(total(desk, 15, 70, control_version=2))
    running.settle()
    desk.publish(total(desk, 30, 95, control_version=1))
    running.settle()
    assert desk.states()[key()]["spent_tokens"] == 70


def test_an_older_total_published_last_does_not_outlive_the_newer_one(desk: Desk) -> None:
    """A meter that lost its partition may speak after its successor, and a compacted topic keeps the last word."""
    first = desk.start()
    newer = total(desk, 20, 90)
    desk.publish(newer)
    first.settle()
    desk.publish(total(desk, 10, 60))
    first.settle()
    first.kill()
    desk.start().settle()
    assert desk.states()[key()]["spent_tokens"] == 90
    assert desk.newest_total(newer) == newer


def test_a_restart_says_nothing_again_and_goes_on(desk: Desk) -> None:
    first = desk.start()
    desk.publish(total(desk, 10, 60), total(desk, 10, 30, partition=1))
    first.settle()
    first.kill()
    said = desk.said()
    desk.now_us += 60_000_000
    second = desk.start()
    second.settle()
    assert (desk.said(), raised(desk)) == (said, sorted(ids("50", "80")))
    desk.publish(total(desk, 12, 70))
    second.settle()
    assert desk.states()[key()]["spent_tokens"] == 100
    assert raised(desk) == sorted(ids("50", "80", "100"))


def test_what_another_worker_says_after_this_one_does_not_stand(desk: Desk) -> None:
    """One that was paused, lost its partitions and does not know it, repeats an older state when it wakes."""
    running = desk.start()
    desk.publish(total(desk, 10, 60))
    running.settle()
    place = partition_of(b"acme-month", PARTITIONS)
    old = desk.states()[key()]
    desk.publish(total(desk, 20, 90))
    running.settle()
    desk.log.append(BUDGET_STATES, [Message(key().encode(), json.dumps(old).encode(), partition=place)])
    desk.log.append(BUDGET_STATES, [Message(b"|terms|acme-month", None, partition=place)])
    desk.now_us += LISTEN_EVERY_US
    running.settle()
    assert desk.states()[key()]["spent_tokens"] == 90
    assert set(desk.terms()) == {"acme-month"}


def test_what_came_while_nobody_worked_is_said_by_the_next(desk: Desk) -> None:
    desk.start().kill()
    desk.publish(total(desk, 10, 60))
    desk.start().settle()
    assert (desk.states()[key()]["state"], raised(desk)) == ("warned", ids("50"))


def test_a_raised_limit_lifts_the_state_and_a_lower_one_brings_it_back_without_a_second_alert(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 100))
    running.settle()
    assert desk.states()[key()]["state"] == "exceeded"
    desk.control = snapshot(budget(limit_pico=1000 * UNIT), version=2)
    running.settle()
    lifted = desk.states()[key()]
    assert (lifted["state"], lifted["crossed"], lifted["limit_pico"]) == ("ok", [], str(1000 * UNIT))
    desk.control = snapshot(budget(limit_pico=90 * UNIT), version=3)
    running.settle()
    assert desk.states()[key()]["state"] == "exceeded"
    assert raised(desk) == sorted(ids("50", "80", "100"))


def test_a_new_threshold_alerts_at_once(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 45))
    running.settle()
    desk.control = snapshot(budget(thresholds=(Decimal(45), Decimal("45.5"))), version=2)
    running.settle()
    assert raised(desk) == ids("45")


def test_budgets_that_are_unknown_or_deleted_have_no_state(desk: Desk) -> None:
    running = desk.start()
    other = budget("other")
    desk.publish(total(desk, 10, 60), total(desk, 10, 60, of=other))
    running.settle()
    assert set(desk.states()) == {key()}
    desk.control = snapshot(other, version=2)
    running.settle()
    assert set(desk.states()) == {key("other")}
    assert raised(desk) == sorted(ids("50") + ids("50", budget_id="other"))


def test_totals_of_an_older_scope_or_zone_count_for_nothing(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 60), total(desk, 10, 30, partition=1))
    running.settle()
    desk.control = snapshot(budget(scope=Scope(tenant="borg")), version=2)
    desk.publish(total(desk, 11, 5))
    running.settle()
    assert (desk.states()[key()]["spent_tokens"], desk.states()[key()]["offsets"]) == (5, {"0": 11})
    desk.control = snapshot(budget(window=WindowSpec("month", "UTC")), version=3)
    running.settle()
    assert desk.states() == {}


def test_late_totals_count_for_their_window_until_it_ends_in_tombstones(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 40, window=OCTOBER), total(desk, 10, 10))
    running.settle()
    desk.publish(total(desk, 11, 55, window=OCTOBER))
    running.settle()
    assert desk.states()[key(window=OCTOBER)]["state"] == "warned"
    desk.now_us = OCTOBER[1] + 35 * DAY_US
    running.settle()
    running.settle()  # what the sweep has appended
    assert set(desk.states()) == {key()}
    assert desk.totals() == {f"{key()}|0"}
    assert [alert["id"] for alert in desk.alerts() if alert["status"] == "firing"] == ids("50", window=OCTOBER)


def test_a_window_closed_for_good_neither_alerts_nor_has_a_state(desk: Desk) -> None:
    running = desk.start()
    desk.now_us = OCTOBER[1] + 35 * DAY_US
    desk.publish(total(desk, 10, 100, window=OCTOBER))
    running.settle()
    assert (desk.states(), raised(desk)) == ({}, [])


def test_a_record_that_is_no_total_costs_only_itself(desk: Desk) -> None:
    running = desk.start()
    place = partition_of(b"acme-month", PARTITIONS)
    rubbish: Sequence[Message] = [
        Message(key=b"x", value=b"{", partition=place),
        Message(key=b"y|1", value=None, partition=place),
        Message(key=b"\xff", value=b'{"budget_id": "acme-month"}', partition=place),
    ]
    desk.log.append(BUDGET_TOTALS, rubbish)
    desk.publish(total(desk, 10, 60))
    running.settle()
    assert set(desk.states()) == {key()}


def test_a_start_with_many_totals_says_each_state_once(desk: Desk) -> None:
    """Sums of some partitions only are never said, so no gate sees spend go down while a worker starts."""
    desk.publish(*(replace(total(desk, 10, 1), partition=p) for p in range(40)))
    desk.start().settle()
    assert (desk.said(), desk.states()[key()]["spent_tokens"]) == (1, 40)


def test_gates_are_told_the_terms_of_each_budget_and_what_changes_of_them(desk: Desk) -> None:
    unit = budget("unit", scope=Scope(org_unit="group", model="large"), limit_pico=None, limit_tokens=5)
    desk.control = snapshot(budget(on_exceeded="block", when_stale="closed", stale_after_s=9), unit)
    running = desk.start()
    running.settle()
    assert desk.terms() == {
        "acme-month": {
            "budget_id": "acme-month",
            "definition": definition_of(desk.control.budgets[0], desk.control),
            "tenants": ["acme"],
            "application": None,
            "model": None,
            "every": "month",
            "time_zone": "Europe/Berlin",
            "unit": "USD",
            "limit": str(100 * UNIT),
            "on_exceeded": "block",
            "throttle_per_minute": 60,
            "when_stale": "closed",
            "stale_after_s": 9,
        },
        "unit": {
            "budget_id": "unit",
            "definition": definition_of(unit, desk.control),
            "tenants": ["acme", "borg"],
            "application": None,
            "model": "large",
            "every": "month",
            "time_zone": "Europe/Berlin",
            "unit": "tokens",
            "limit": "5",
            "on_exceeded": "notify",
            "throttle_per_minute": 60,
            "when_stale": "open",
            "stale_after_s": 60,
        },
    }
    desk.control = snapshot(budget(limit_pico=7), version=2)
    running.settle()
    assert {name: terms["limit"] for name, terms in desk.terms().items()} == {"acme-month": "7"}
    running.kill()
    desk.control = snapshot(budget("other"), version=3)
    desk.start().settle()
    assert set(desk.terms()) == {"other"}


def test_states_are_as_fresh_as_the_meter_that_is_furthest_behind(desk: Desk) -> None:
    running = desk.start()
    desk.say(AsOfMark(0, NOW, 70, control_version=1))
    running.settle()
    assert desk.fresh() == {}, "nothing is known of the other meter"
    desk.say(AsOfMark(1, NOW - 5, 30, control_version=1))
    running.settle()
    expected = {"as_of_us": NOW - 5, "offsets": {"0": 70, "1": 30}}
    assert desk.fresh() == {p: expected | {"partition": p} for p in range(PARTITIONS)}


def test_states_are_not_called_fresh_while_meters_count_under_other_control_data(desk: Desk) -> None:
    running = desk.start()
    desk.control = snapshot(budget(scope=Scope(tenant="borg")), version=2)
    desk.say(AsOfMark(0, NOW, 70, control_version=2), AsOfMark(1, NOW, 30, control_version=1))
    running.settle()
    assert desk.fresh() == {}


def test_states_are_not_called_fresh_while_meters_count_under_different_layouts(desk: Desk) -> None:
    """When a topic grows, tenants move: what one meter marks as counted may be another's to count by now."""
    running = desk.start()
    desk.say(AsOfMark(0, NOW, 70, 1, layout=2), AsOfMark(1, NOW, 30, 1, layout=1))
    running.settle()
    assert desk.fresh() == {}
    desk.say(AsOfMark(0, NOW, 70, 1, layout=3), AsOfMark(1, NOW, 30, 1, layout=3))
    running.settle()
    assert desk.fresh() == {}, "there is a third partition somewhere"
    desk.say(AsOfMark(0, NOW, 70, 1, layout=2), AsOfMark(1, NOW, 30, 1, layout=2))
    running.settle()
    assert {fresh["as_of_us"] for fresh in desk.fresh().values()} == {NOW}


def test_how_far_a_meter_was_is_not_said_of_the_one_that_took_over(desk: Desk) -> None:
    """It begins at the lake's position, and its totals replace in the topic what the one before had said beyond."""
    desk.publish(total(desk, 30, 90, layout=2))
    desk.say(AsOfMark(0, NOW, 30, 1, layout=2), AsOfMark(1, NOW, 5, 1, layout=2))
    desk.publish(total(desk, 21, 60, layout=2))
    desk.say(LayoutMark(0, layout=2))
    running = desk.start()
    running.settle()
    assert desk.fresh() == {}
    desk.publish(total(desk, 33, 95, layout=2))
    desk.say(AsOfMark(0, NOW, 33, 1, layout=2))
    running.settle()
    place = partition_of(b"acme-month", PARTITIONS)
    assert (desk.fresh()[place]["offsets"], desk.states()[key()]["spent_tokens"]) == ({"0": 33, "1": 5}, 95)


def complete(control_version: int) -> list[AsOfMark]:
    """What meters say when all totals of both partitions are out."""
    return [AsOfMark(partition, NOW, 10, control_version, layout=2) for partition in (0, 1)]


def test_an_alert_whose_reason_is_gone_for_a_minute_is_resolved_once(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 85))
    running.settle()
    desk.control = snapshot(budget(limit_pico=150 * UNIT), version=2)
    desk.say(*complete(control_version=2))
    running.settle()
    assert raised(desk) == sorted(ids("50", "80"))
    desk.now_us += RESOLVE_AFTER_US
    for _ in range(2):
        running.settle()
        running.kill()
        running = desk.start()
    running.settle()
    resolved = [alert for alert in desk.alerts() if alert["status"] == "resolved"]
    assert [(alert["resolves"], alert["threshold"]) for alert in resolved] == [(ids("80")[0], "80")]
    assert len(raised(desk)) == 3


@pytest.mark.parametrize(
    "anew",
    [
        [LayoutMark(0, layout=3)],
        [AsOfMark(0, NOW, 10, 2, layout=2), AsOfMark(1, NOW, 0, 1, layout=2)],
        [AsOfMark(0, NOW, 10, 2, layout=3), AsOfMark(1, NOW, 0, 2, layout=2)],
    ],
    ids=["a topic that grew", "other control data", "two layouts"],
)
def test_while_totals_are_missing_no_alert_ends_however_long_it_takes(desk: Desk, anew: list[Mark]) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 85, layout=2))
    desk.say(*complete(control_version=1))
    running.settle()
    desk.control = snapshot(budget(limit_pico=150 * UNIT), version=2)
    desk.say(*anew)
    for _ in range(3):
        running.settle()
        desk.now_us += RESOLVE_AFTER_US
    assert [alert for alert in desk.alerts() if alert["status"] == "resolved"] == []
    desk.say(*complete(control_version=2))
    running.settle()
    desk.now_us += RESOLVE_AFTER_US
    running.settle()
    assert {alert["resolves"] for alert in desk.alerts() if alert["status"] == "resolved"} >= {ids("80")[0]}


def test_a_dip_while_meters_count_anew_resolves_nothing(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 85))
    running.settle()
    desk.control = snapshot(budget(scope=Scope(tenant="acme", application="assistant")), version=2)
    desk.say(*complete(control_version=2))
    running.settle()
    desk.now_us += RESOLVE_AFTER_US - 1
    desk.publish(total(desk, 10, 82))
    running.settle()
    desk.now_us += RESOLVE_AFTER_US
    running.settle()
    assert raised(desk) == sorted(ids("50", "80"))


def test_a_windows_end_resolves_its_alerts(desk: Desk) -> None:
    running = desk.start()
    desk.publish(total(desk, 10, 85))
    running.settle()
    desk.now_us = NOVEMBER[1]
    running.settle()
    resolved = [alert["resolves"] for alert in desk.alerts() if alert["status"] == "resolved"]
    assert sorted(resolved) == sorted(ids("50", "80"))
