"""The lookout over a lake and a log: what it raises, once, and what it resolves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterhouse.ingest.log import USAGE_EVENTS, LogUnavailable, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.ingest.topics import embedded
from meterhouse.streams.alert import Alert
from meterhouse.streams.alerts import MemoryOutbox, OutboxUnavailable
from meterhouse.streams.control import Budget, RateCard, Scope, Snapshot, WindowSpec
from meterhouse.streams.watch import Away, Sight
from meterhouse.warehouse import lookout as module
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.lake import Lake, LakeConfig, LakeMissing, LakeUnavailable
from meterhouse.warehouse.lookout import Lookout, LookoutSettings, Views
from tests.builders import DAY_US, HOUR_US, SECOND_US, T0_US
from tests.warehouse.filled import SNAPSHOT, card, fill

NOW = T0_US + 12 * DAY_US + 12 * HOUR_US
BUDGET = Budget("acme-month", Scope(tenant="acme"), WindowSpec("month", "UTC"), None, 1_000, (Decimal(100),), "notify")
CONTROL = replace(SNAPSHOT, budgets=(BUDGET,))


def spend(tokens: int) -> list[dict[str, Any]]:
    """So many tokens of acme at each noon of the last seventy days."""
    return [{"time": NOW - n * DAY_US, "input_tokens": tokens} for n in range(70)]


class Watch:
    """Keeps what a lookout tells."""

    def __init__(self) -> None:
        self.sights: list[Sight] = []
        self.aways: list[Away] = []

    def looked(self, sight: Sight) -> None:
        self.sights.append(sight)

    def tries_again(self, away: Away) -> None:
        self.aways.append(away)


@dataclass
class Scene:
    """A lookout with what it looks at; time and control data are the test's."""

    lake: Lake
    log: SqliteLog
    now_us: int = NOW
    control: Snapshot = CONTROL
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    watch: Watch = field(default_factory=lambda: Watch())

    def lookout(self) -> Lookout:
        return Lookout(
            Views(lambda: self.lake, lambda: self.log, lambda: self.control), self.outbox, lambda: self.now_us,
            LookoutSettings(every_s=30, stuck_s=60, behind_s=300), watch=self.watch,
        )  # fmt: skip

    def news(self) -> Sequence[Alert]:
        """All that was ever raised, the oldest first; of one moment, by id."""
        return [entry.alert for entry in reversed(self.outbox.list(limit=1_000))]

    def told(self) -> list[tuple[str, str, str]]:
        return [(alert.kind, alert.status, alert.subject) for alert in self.news()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with (
        Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake,
        closing(SqliteLog(tmp_path / "log.sqlite", clock=lambda: scene.now_us)) as log,
    ):
        log.create_topics(embedded(partitions=2, retention_us=35 * DAY_US))
        scene = Scene(lake, log)
        yield scene


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_a_budget_on_course_to_exceed_is_raised_once_and_resolved_when_its_limit_is_raised(scene: Scene) -> None:
    fill(scene.lake, spend(50))
    lookouts = [scene.lookout(), scene.lookout()]
    for lookout in lookouts:
        lookout.look()
    (alert,) = scene.news()
    assert alert.summary == (
        "budget acme-month is on course to exceed its limit by Fri 20 Nov: forecast 1,547 of 1,000 tokens"
    )
    assert alert.spent == "650"
    scene.now_us += 1
    scene.control = replace(CONTROL, version=4, budgets=(replace(BUDGET, limit_tokens=2_000),))
    for lookout in lookouts:
        lookout.look()  # at once, since control data is new
    assert scene.told() == [("forecast", "firing", "acme-month"), ("forecast", "resolved", "acme-month")]
    scene.control = replace(CONTROL, version=5)
    lookouts[0].look()
    assert len(scene.news()) == 2  # once per window


def test_forecasts_are_made_every_five_minutes(scene: Scene) -> None:
    lookout = scene.lookout()
    fill(scene.lake, [{"time": NOW, "offset": 0}])
    lookout.look()
    fill(scene.lake, [{**row, "offset": n + 1} for n, row in enumerate(spend(50))])
    scene.now_us += module.FORECAST_EVERY_US - 1
    lookout.look()
    assert scene.news() == []
    scene.now_us += 1
    lookout.look()
    assert scene.told() == [("forecast", "firing", "acme-month")]


def test_a_limit_that_is_reached_is_the_thresholds_news(scene: Scene) -> None:
    fill(scene.lake, spend(100))
    scene.lookout().look()
    assert scene.news() == []


# -- prices -----------------------------------------------------------------------------------------------------------


def test_a_model_without_a_price_is_raised_once_resolved_by_a_card_and_raised_again_when_that_ends(
    scene: Scene,
) -> None:
    lookout, other = scene.lookout(), scene.lookout()
    fill(scene.lake, [{"time": NOW - n * HOUR_US, "model": "new", "input_tokens": 3} for n in range(30)])
    for one in (lookout, other, lookout):
        one.look()
    (alert,) = scene.news()
    assert (alert.subject, alert.payload["requests"], alert.payload["since"]) == (
        "atlas/new",
        30,
        "2026-11-12T07:00:00Z",
    )
    priced = replace(card(9, "new"), valid_from_us=NOW, valid_to_us=NOW + DAY_US)
    scene.control = with_card(priced)
    for one in (lookout, other):
        one.look()
    assert scene.told() == [("unpriced", "firing", "atlas/new"), ("unpriced", "resolved", "atlas/new")]
    scene.now_us = NOW + DAY_US
    lookout.look()
    assert len(scene.news()) == 2  # the price ended, and nobody has asked since
    fill(scene.lake, [{"time": NOW + DAY_US, "model": "new", "offset": 30}])
    scene.now_us += 1
    for one in (lookout, other):
        one.look()
    assert scene.told()[2:] == [("unpriced", "firing", "atlas/new")]


def with_card(more: RateCard) -> Snapshot:
    return replace(CONTROL, version=4, rate_cards=(*CONTROL.rate_cards, more))


def test_models_of_which_there_is_no_end_are_not_all_raised(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 3)
    fill(scene.lake, [{"time": NOW, "model": f"made-up-{n}"} for n in range(5)])
    lookout = scene.lookout()
    for _ in range(3):
        lookout.look()
    assert len(scene.news()) == 3


# -- requests ---------------------------------------------------------------------------------------------------------


def both_sides(first: int, count: int, **at_node: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Requests of acme, two hours ago, as the gateway and a node tell of them; the node of none without `at_node`."""
    shared = {"time": NOW - 2 * HOUR_US, "arrived": NOW - 2 * HOUR_US, "output_tokens": 1}
    numbers = range(first, first + count)
    rows = [{**shared, "request_id": f"r{n}", "offset": n} for n in numbers]
    return rows, [{**row, "offset": row["offset"] + 1_000, "node": "n", **at_node} for row in rows if at_node]


def test_requests_that_do_not_reconcile_are_raised_once_and_resolved_when_most_do_again(scene: Scene) -> None:
    lookouts = [scene.lookout(), scene.lookout()]
    fill(scene.lake, *both_sides(0, 90, accelerator_us=1))
    fill(scene.lake, *both_sides(90, 10))
    for lookout in lookouts:
        lookout.look()
    (alert,) = scene.news()
    assert (alert.kind, alert.subject, alert.payload["exceeded"]) == ("reconciliation", "acme", ["share"])
    assert alert.summary == (
        "acme: 10 of 100 requests of the last day do not reconcile (10 gateway only); see `meterhouse reconcile`"
    )
    _, late = both_sides(91, 9, accelerator_us=1)
    fill(scene.lake, (), late)
    scene.now_us += module.RECONCILE_EVERY_US - 1
    lookouts[0].look()
    assert len(scene.news()) == 1  # all requests of a day are not put together at each look
    scene.now_us += 1
    lookouts[0].look()
    assert len(scene.news()) == 1  # 1 of 100 is not more than 1 %, but too near
    fill(scene.lake, *both_sides(100, 50, accelerator_us=1))
    scene.now_us += module.RECONCILE_EVERY_US
    for lookout in lookouts:
        lookout.look()
    assert scene.told() == [("reconciliation", "firing", "acme"), ("reconciliation", "resolved", "acme")]


def test_a_node_that_falls_silent_for_a_day_does_not_end_the_alert(scene: Scene) -> None:
    lookout = scene.lookout()
    fill(scene.lake, *both_sides(0, 1, accelerator_us=1))
    fill(scene.lake, *both_sides(1, 10))
    lookout.look()
    scene.now_us += 2 * DAY_US
    fill(scene.lake, [{**row, "time": scene.now_us - HOUR_US} for row in both_sides(11, 10)[0]])
    lookout.look()
    assert scene.told() == [("reconciliation", "firing", "acme")]
    scene.now_us += 2 * DAY_US
    lookout.look()
    assert scene.told()[1:] == [("reconciliation", "resolved", "acme")]  # nobody asks any more


def test_what_may_still_be_on_its_way_is_no_news(scene: Scene) -> None:
    fill(scene.lake, *both_sides(0, 1, accelerator_us=1))
    fill(scene.lake, [{**row, "arrived": NOW - HOUR_US} for row in both_sides(1, 10)[0]])
    scene.lookout().look()
    assert scene.news() == []


# -- meters -----------------------------------------------------------------------------------------------------------


def test_a_stopped_meter_is_raised_once_and_resolved_when_one_has_metered(scene: Scene) -> None:
    lookout, other = scene.lookout(), scene.lookout()
    scene.log.append(USAGE_EVENTS, [Message(b"a", b"{}", partition=1) for _ in range(3)])
    for second in (0, 30, 60, 90):
        scene.now_us = NOW + second * SECOND_US
        lookout.look()
        other.look()
    (alert,) = scene.news()
    assert (alert.subject, alert.payload["records"]) == ("usage.events/1", 3)
    assert alert.created_us == NOW + 60 * SECOND_US
    fill(scene.lake, [{"time": NOW, "partition": 1, "offset": 2}])
    for one in (lookout, other):
        one.look()
    assert scene.told() == [
        ("meter_behind", "firing", "usage.events/1"),
        ("meter_behind", "resolved", "usage.events/1"),
    ]


def test_a_meter_far_behind_is_raised_at_the_second_look(scene: Scene) -> None:
    lookout = scene.lookout()
    for second in (0, 1):
        scene.log.append(USAGE_EVENTS, [Message(b"a", b"{}", partition=0, appended_us=NOW + second * SECOND_US)])
    scene.now_us = NOW + 310 * SECOND_US
    lookout.look()
    assert scene.news() == []
    fill(scene.lake, [{"time": NOW}])
    scene.now_us += 30 * SECOND_US
    lookout.look()
    assert [(alert.payload["rule"], alert.payload["offset"]) for alert in scene.news()] == [("far_behind", 1)]
    first = Sight({0: (2, 310.0)}, NOW, 0)  # the lake knows no partition yet
    second = Sight({0: (1, 339.0)}, NOW + SECOND_US, 0)
    assert scene.watch.sights == [first, second]
    fill(scene.lake, [{"time": NOW, "offset": 1, "model": "new"}])
    lookout.look()
    assert scene.watch.sights[-1] == Sight({0: (0, 0.0)}, scene.now_us, 1)


# -- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "away"),
    [
        (LakeMissing("no lake"), []),
        (LakeUnavailable("no catalogue"), ["lake"]),
        (LogUnavailable("no broker"), ["log"]),
        (OutboxUnavailable("no outbox"), ["control"]),
        (ControlUnavailable("gone"), ["control"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_lookout_outlives_what_is_away_and_looks_again(scene: Scene, trouble: Exception, away: list[Away]) -> None:
    fill(scene.lake, spend(50))
    stop, left = threading.Event(), [trouble, trouble]

    def lake() -> Lake:
        if left:
            raise left.pop()
        return scene.lake

    def clock() -> int:
        stop.set()  # it got so far, and its look is the last
        return NOW

    lookout = Lookout(
        Views(lake, lambda: scene.log, lambda: CONTROL),
        scene.outbox,
        clock,
        LookoutSettings(every_s=0.001),
        watch=scene.watch,
    )

    lookout.run(stop)
    assert scene.told() == [("forecast", "firing", "acme-month")]
    assert (scene.watch.aways, len(scene.watch.sights)) == (away * 2, 1)


def test_a_defect_is_not_waited_for(scene: Scene) -> None:
    def broken() -> Lake:
        raise TypeError("a defect")

    lookout = Lookout(Views(broken, lambda: scene.log, lambda: CONTROL), scene.outbox, lambda: NOW)
    with pytest.raises(TypeError):
        lookout.run(threading.Event())
