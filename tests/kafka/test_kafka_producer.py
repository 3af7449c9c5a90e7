"""Appending to a real broker, and to brokers that are paused and killed: what is reported delivered is there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from meterhouse.ingest.kafka_client import KafkaSettings
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import EventLog, LogError, LogUnavailable, Message, partition_of
from meterhouse.ingest.publisher import Delivery, Publisher, PublisherLimits, Retries
from tests.ingest.test_publisher import event
from tests.kafka.logs import DEADLINE_S, await_that, new_name, new_topic
from tests.services.kafka import own_cluster

HOUR_US = 3_600 * 1_000_000
QUICK = KafkaSettings(append_timeout_s=1.5)
EAGER = PublisherLimits(retries=Retries(first_s=0.05, longest_s=0.2))


@pytest.fixture
def log(kafka_bootstrap: str) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_bootstrap)) as opened:
        yield opened


def values(log: EventLog, topic: str) -> dict[tuple[int, int], bytes | None]:
    """All that a topic holds, by partition and offset."""
    found: dict[tuple[int, int], bytes | None] = {}
    for partition, end in log.end_offsets(topic).items():
        offset = 0
        while offset < end:
            run = log.read(topic, partition, offset, 100_000)
            found |= {(partition, at): value for at, value in zip(run.offsets, run.values, strict=True)}
            offset = run.next_offset
    return found


def ids(log: EventLog, topic: str) -> list[str]:
    parsed = [json.loads(value or b"") for value in values(log, topic).values()]
    return [item["id"] for each in parsed for item in (each if isinstance(each, list) else [each])]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_an_unknown_topic_says_which_command_makes_it(log: KafkaLog) -> None:
    with pytest.raises(LogError, match="run `meterhouse topics apply`"):
        log.append(new_name(), [Message(b"a", b"x")])


def test_a_time_far_ahead_is_refused_by_the_broker(log: KafkaLog) -> None:
    topic = new_topic(log)
    ahead_us = time.time_ns() // 1_000 + 2 * HOUR_US
    with pytest.raises(LogError) as refused:
        log.append(topic, [Message(b"a", b"x", appended_us=ahead_us)])
    assert not isinstance(refused.value, LogUnavailable)
    assert sum(log.end_offsets(topic).values()) == 0


def test_options_that_the_client_does_not_know_are_named_without_their_values() -> None:
    with pytest.raises(LogError, match="METERHOUSE_KAFKA_OPTIONS") as refused:
        KafkaLog("127.0.0.1:1", settings=KafkaSettings(options={"ssl.no.such": "c4n4ry"}))
    assert "ssl.no.such" in str(refused.value)
    assert "c4n4ry" not in str(refused.value) + repr(KafkaSettings(options={"ssl.no.such": "c4n4ry"}))


def test_a_cluster_that_is_away_is_passing_trouble() -> None:
    with closing(KafkaLog("127.0.0.1:1")) as log, pytest.raises(LogUnavailable):
        log.partitions("usage.events")


# --- brokers that fail -----------------------------------------------------------------------------------------------


def test_a_paused_broker_is_reported_in_time_and_nothing_comes_after_a_close() -> None:
    with own_cluster() as cluster, closing(KafkaLog(cluster.bootstrap, settings=QUICK)) as log:
        topic = new_topic(log, partitions=1)
        log.append(topic, [Message(b"a", b"before")])
        cluster.pause(0)
        began = time.monotonic()
        with pytest.raises(LogUnavailable, match="1 failed of 1"):
            log.append(topic, [Message(b"a", b"paused")])
        assert time.monotonic() - began < 10 * QUICK.append_timeout_s
        cluster.resume(0)
        log.append(topic, [Message(b"a", b"after")])
        there = list(values(log, topic).values())
        # What was reported as failed may be there all the same, as the port says.
        assert [value for value in there if value != b"paused"] == [b"before", b"after"]


def test_closing_while_the_broker_is_away_ends_in_time_and_reports_what_was_under_way() -> None:
    with own_cluster() as cluster:
        log = KafkaLog(cluster.bootstrap)
        topic = new_topic(log, partitions=1)
        log.append(topic, [Message(b"a", b"before")])
        cluster.pause(0)
        raised: list[LogError] = []

        def append() -> None:
            try:
                log.append(topic, [Message(b"a", b"under way")])
            except LogError as error:
                raised.append(error)

        thread = threading.Thread(target=append)
        thread.start()
        await_that(lambda: log._sender is not None and log._sender._bytes > 0)
        began = time.monotonic()
        log.close()
        thread.join(DEADLINE_S)
        assert time.monotonic() - began < 25
        assert [type(error) for error in raised] == [LogUnavailable]


def test_a_broker_that_restarts_under_readers_and_writers_loses_nothing() -> None:
    with own_cluster() as cluster, closing(KafkaLog(cluster.bootstrap, group="g")) as log:
        topic = new_topic(log, partitions=2)
        delivered: dict[tuple[int, int], bytes] = {}
        stop = threading.Event()

        def work() -> None:
            number = 0
            while not stop.is_set():
                value = b"%d" % number
                try:
                    [place] = log.append(topic, [Message(value, value)])
                except LogUnavailable:
                    continue  # the same again
                delivered[place] = value
                number += 1

        read: dict[tuple[int, int], bytes | None] = {}

        def poll() -> bool:
            for run in consumer.poll(1_000, 0.1):
                places = [(run.partition, offset) for offset in run.offsets]
                assert not read.keys() & set(places)
                read.update(zip(places, run.values, strict=True))
            return True

        def positions(added: frozenset[int]) -> dict[int, int]:
            """The group may have to form anew."""
            return {p: 1 + max((offset for at, offset in read if at == p), default=-1) for p in added}

        with closing(log.consumer(topic, on_assign=positions)) as consumer:
            writer = threading.Thread(target=work)
            writer.start()
            await_that(lambda: poll() and len(read) > 20)
            for end in (cluster.kill, cluster.stop):
                end(0)
                poll()
                cluster.start(0)
                before = len(delivered)
                await_that(lambda before=before: poll() and len(delivered) > before + 20)  # type: ignore[misc]
            stop.set()
            writer.join(DEADLINE_S)
            await_that(lambda: poll() and delivered.keys() <= read.keys())
        assert read == values(log, topic)
        assert {place: read[place] for place in delivered} == delivered


def test_what_a_publisher_reports_delivered_is_there_when_a_leader_is_killed() -> None:
    with own_cluster(brokers=3) as cluster:
        settings = KafkaSettings(replication=3)
        with closing(KafkaLog(cluster.bootstrap, settings=settings)) as log:
            topic = new_topic(log, partitions=3)
            assert log.describe_topics([topic])[topic].config["min.insync.replicas"] == "2"
            deliveries: list[Delivery] = []
            with Publisher(log, topic=topic, limits=EAGER, on_delivery=deliveries.append) as publisher:
                for number in range(3_000):
                    assert publisher.publish(event(number, f"tenant-{number % 7}"))
                    if number % 1_000 == 500:
                        publisher.flush(DEADLINE_S)
                    if number == 1_200:
                        cluster.kill(0)  # leads a partition of three
                publisher.flush(DEADLINE_S)
                counts = publisher.counts
            assert (counts.published, counts.delivered, counts.failed, counts.pending) == (3_000, 3_000, 0, 0)
            assert sum(each.events for each in deliveries if each.error is None) == 3_000
            assert set(ids(log, topic)) == {f"e-{number}" for number in range(3_000)}
            for (partition, _), value in values(log, topic).items():
                tenant = json.loads(value or b"")
                tenant = (tenant[0] if isinstance(tenant, list) else tenant)["subject"]
                assert partition == partition_of(tenant.encode(), 3)


def test_a_publisher_never_waits_for_a_broker_that_is_away_and_says_when_it_is_full() -> None:
    with own_cluster() as cluster, closing(KafkaLog(cluster.bootstrap, settings=QUICK)) as log:
        topic = new_topic(log, partitions=1)
        log.append(topic, [Message(b"a", b'{"id": "first"}')])
        cluster.pause(0)
        limits = PublisherLimits(max_pending_bytes=20_000, retries=EAGER.retries)
        with Publisher(log, topic=topic, limits=limits) as publisher:
            longest_s, taken = 0.0, []
            for number in range(200):
                began = time.monotonic()
                taken.append(publisher.publish(event(number)))
                longest_s = max(longest_s, time.monotonic() - began)
            assert longest_s < 1.0  # a request does not wait for the log, whose time-out is longer
            kept = taken.count(True)
            assert 0 < kept < 200
            assert publisher.counts.refused == 200 - kept
            await_that(lambda: publisher.counts.retries > 0 or _pause())
            assert publisher.counts.delivered == 0
            cluster.resume(0)
            publisher.flush(DEADLINE_S)
            assert publisher.counts.delivered == kept
        assert set(ids(log, topic)) == {"first"} | {f"e-{number}" for number in range(200) if taken[number]}


def _pause() -> bool:
    threading.Event().wait(0.01)
    return False
