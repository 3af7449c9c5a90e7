"""The broker that other tests rely on: what it took in is there after a kill."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.services.kafka import own_cluster

QUIET = {"log_level": 0}
DEADLINE_S = 60.0


def produce(bootstrap: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, **QUIET})
    for value in values:
        producer.produce("kept", value, partition=0)
    assert producer.flush(DEADLINE_S) == 0


def stored(bootstrap: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, **QUIET})
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        return [message.value() for message in consumer.consume(count, DEADLINE_S)]
    finally:
        consumer.close()


@pytest.mark.parametrize("brokers", [1, 3])
def test_what_a_killed_broker_acknowledged_is_there_when_it_is_back(brokers: int) -> None:
    with own_cluster(brokers) as kafka:
        topic = NewTopic("kept", num_partitions=1, replication_factor=brokers)
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap, **QUIET})
        admin.create_topics([topic])["kept"].result(DEADLINE_S)
        produce(kafka.bootstrap, [b"one", b"two"])
        kafka.kill(0)
        assert len(kafka.pids) == brokers - 1
        if brokers == 1:
            kafka.start(0)
        produce(kafka.bootstrap, [b"three"])  # of three brokers the other two go on
        assert stored(kafka.bootstrap, 3) == [b"one", b"two", b"three"]
