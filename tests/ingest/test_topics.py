"""What is planned when a cluster's topics differ from the declared ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meterhouse.ingest.log import LogError, TopicSpec
from meterhouse.ingest.topics import DAY_US, TopicPlan, TopicState, budget_topics, config_of, declared, plan_topics

EVENTS = TopicSpec("usage.events", 4, retention_us=35 * DAY_US)
TOTALS = budget_topics(4)[0]


def as_declared(spec: TopicSpec, replication: int = 3) -> TopicState:
    return TopicState(spec.name, spec.partitions, replication, config_of(spec, replication) | {"flush.ms": "1"})


def test_what_is_as_declared_needs_nothing() -> None:
    specs = declared(partitions=4, retention_us=DAY_US)
    assert plan_topics(specs, {spec.name: as_declared(spec) for spec in specs}, 3) == TopicPlan()


def test_what_is_missing_is_created_and_what_differs_is_shown_from_and_to() -> None:
    there = as_declared(replace(EVENTS, partitions=2, retention_us=DAY_US))
    plan = plan_topics([EVENTS, TOTALS], {EVENTS.name: there}, 3)
    assert (plan.create, plan.grow, plan.problems) == ((TOTALS,), (EVENTS,), ())
    assert plan.configure == {EVENTS.name: {"retention.ms": "3024000000"}}
    created, *changed = map(str, plan.changes)
    assert created.startswith("+ budget.totals: 4 partitions, replication 3, cleanup.policy=compact")
    assert changed == [
        "~ usage.events: partitions 2 -> 4",
        "~ usage.events: retention.ms 86400000 -> 3024000000",
    ]


def test_two_of_three_copies_are_awaited_and_one_where_there_are_fewer() -> None:
    assert [config_of(EVENTS, copies)["min.insync.replicas"] for copies in (1, 2, 3, 5)] == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("spec", "there", "said"),
    [
        (EVENTS, replace(EVENTS, partitions=6), "has 6 partitions, not 4, and cannot lose any: set 6"),
        (EVENTS, replace(EVENTS, compacted=True), "is compacted, and that cannot change"),
        (replace(TOTALS, partitions=8), TOTALS, "would move budgets away"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(spec: TopicSpec, there: TopicSpec, said: str) -> None:
    [problem] = plan_topics([spec], {spec.name: as_declared(there)}, 3).problems
    assert said in problem


def test_another_replication_is_refused() -> None:
    [problem] = plan_topics([EVENTS], {EVENTS.name: as_declared(EVENTS, 1)}, 3).problems
    assert "has replication 1, not 3: set METERHOUSE_REPLICATION to 1" in problem


def test_a_name_that_kafka_would_not_take_is_refused() -> None:
    with pytest.raises(LogError, match="topic name"):
        plan_topics([TopicSpec("no spaces", 1)], {}, 1)
