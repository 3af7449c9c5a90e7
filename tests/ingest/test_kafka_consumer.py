"""What a consumer makes of a rebalance that strikes between two takes of one poll: a client of ours plays it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from meterhouse.ingest import kafka_consumer
from meterhouse.ingest.kafka_client import KafkaSettings, Trouble
from meterhouse.ingest.kafka_consumer import KafkaConsumer, consumer_config
from meterhouse.ingest.log import LogUnavailable, OnRevoke

TOPIC = "usage.events"
Step = Sequence[Message] | Callable[["PlayedClient"], Sequence[Message]]


class PlayedClient:
    """Gives a step of its script at each `consume`, and nothing after the last."""

    script: ClassVar[list[Step]] = []

    def __init__(self, config: dict[str, Any]) -> None:
        self.told: list[tuple[str, list[tuple[int, int]]]] = []

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.callbacks = callbacks

    def consume(self, count: int, timeout: float) -> Sequence[Message]:
        step = self.script.pop(0) if self.script else []
        return step(self) if callable(step) else step

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self.told.append(("assign", [(each.partition, each.offset) for each in places]))

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        self.told.append(("unassign", [(each.partition, 0) for each in places]))

    def seek(self, place: TopicPartition) -> None:
        self.told.append(("seek", [(place.partition, place.offset)]))

    def close(self) -> None:
        self.told.append(("close", []))


def records(partition: int, *offsets: int) -> list[Message]:
    return [
        Message(topic=TOPIC, value=b"x", key=b"k", partition=partition, offset=offset, timestamp=(1, 7))
        for offset in offsets
    ]


def given(*partitions: int) -> Step:
    def step(client: PlayedClient) -> list[Message]:
        client.callbacks["on_assign"](client, [TopicPartition(TOPIC, p) for p in partitions])
        return []

    return step


def taken(*partitions: int) -> Step:
    def step(client: PlayedClient) -> list[Message]:
        client.callbacks["on_revoke"](client, [TopicPartition(TOPIC, p) for p in partitions])
        return []

    return step


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_consumer, "Consumer", PlayedClient)


def consumer_of(script: list[Step], on_revoke: OnRevoke | None = None) -> KafkaConsumer:
    """A consumer whose partitions all begin at 0."""
    PlayedClient.script = script
    return KafkaConsumer(
        consumer_config(KafkaSettings(), "g"),
        TOPIC,
        Trouble("test"),
        (lambda added: dict.fromkeys(added, 0), on_revoke),
        None,
        lambda partition: (0, 100),
    )


def read(consumer: KafkaConsumer) -> dict[int, list[int]]:
    return {run.partition: list(run.offsets) for run in consumer.poll(1_000, 0.0)}


def test_what_was_taken_of_a_partition_before_it_was_revoked_is_not_returned() -> None:
    consumer = consumer_of([given(0, 1), [*records(0, 0, 1), *records(1, 0)], lambda c: [*taken(0)(c), *records(1, 1)]])  # type: ignore[operator]
    assert read(consumer) == {}
    assert read(consumer) == {1: [0, 1]}
    assert consumer.assignment() == {1}


def test_what_on_revoke_raises_is_raised_and_what_was_taken_is_asked_for_again() -> None:
    def on_revoke(gone: frozenset[int]) -> None:
        raise LogUnavailable("the lake is away")

    consumer = consumer_of([given(0, 1), records(1, 0, 1), lambda c: [*taken(0)(c), *records(1, 2)], []], on_revoke)  # type: ignore[operator]
    assert read(consumer) == {}
    with pytest.raises(LogUnavailable, match="the lake is away"):
        read(consumer)
    assert consumer.assignment() == {1}
    PlayedClient.script = [records(1, 0, 1, 2)]
    assert read(consumer) == {1: [0, 1, 2]}
    assert consumer._client.told == [  # type: ignore[attr-defined]
        ("assign", []),
        ("assign", [(0, 0), (1, 0)]),
        ("unassign", [(0, 0)]),
        ("seek", [(1, 0)]),
    ]


def test_a_seek_while_partitions_are_revoked_holds_for_what_was_taken_already() -> None:
    consumer = consumer_of(
        [given(0, 1), records(1, 0, 1), records(1, 2, 3), lambda c: [*taken(0)(c), *records(1, 4)]],  # type: ignore[operator]
        lambda gone: consumer.seek(1, 2),
    )
    assert read(consumer) == {}
    assert read(consumer) == {}  # 2 and 3 are asked for again, and 0 and 1 are not said twice or at all
    PlayedClient.script = [records(1, 2, 3, 4)]
    assert read(consumer) == {1: [2, 3, 4]}


def test_a_record_that_was_returned_before_is_not_returned_again() -> None:
    consumer = consumer_of([given(0), records(0, 0, 1), [], records(0, 1, 2)])
    assert [read(consumer) for _ in range(3)] == [{}, {0: [0, 1]}, {0: [2]}]


def test_partitions_are_asked_for_anew_after_the_group_went_on_without_us() -> None:
    revoked: list[frozenset[int]] = []
    silent = Message(topic=TOPIC, partition=-1, error=KafkaError(KafkaError._MAX_POLL_EXCEEDED))
    consumer = consumer_of([given(0, 1), records(0, 0, 1), [silent, *records(0, 2)]], revoked.append)
    assert [read(consumer) for _ in range(2)] == [{}, {}]
    assert revoked == [{0, 1}]
    PlayedClient.script = [records(0, 0, 1)]
    assert read(consumer) == {0: [0, 1]}
    assert consumer._client.told[2:] == [("seek", [(0, 0)]), ("seek", [(1, 0)])]  # type: ignore[attr-defined]
