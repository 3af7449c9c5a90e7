"""KafkaLog: the production twin of the event log, on confluent-kafka."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from meterhouse.ingest.kafka_client import KafkaSettings, Trouble, client_config
from meterhouse.ingest.kafka_consumer import KafkaConsumer, consumer_config
from meterhouse.ingest.kafka_producer import Sender
from meterhouse.ingest.kafka_reader import Reader
from meterhouse.ingest.kafka_topics import EARLIEST, LATEST, Topics
from meterhouse.ingest.log import LogError, Message, OnAssign, OnRevoke, Records, TopicSpec
from meterhouse.ingest.log_limits import checked_bytes, place_of, refuse_keyless
from meterhouse.ingest.topics import TopicPlan, TopicState, plan_topics


class KafkaLog:
    """An EventLog on the cluster at `bootstrap`.

    Consumers are members of `group`; with None they are in no group, and own all partitions. Each kind of client is
    made when it is first needed, and shared by all threads. After a fork, make a new log.
    """

    def __init__(self, bootstrap: str, *, group: str | None = None, settings: KafkaSettings | None = None) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._settings = settings or KafkaSettings()
        self._topics = Topics(bootstrap, self._settings)
        self._lock = threading.Lock()  # guards the making of those below
        self._sender: Sender | None = None
        self._reader: Reader | None = None
        self._known: dict[str, int] = {}  # partitions that the producer has heard of
        self._closed = False

    # --- topics ---

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """As the port says; options that differ take effect too. Raises LogError, and then changes nothing, for what
        `plan_topics` finds against it."""
        plan = self.plan_topics(specs)
        if plan.problems:
            raise LogError("; ".join(plan.problems))
        self.apply_topics(plan)

    def describe_topics(self, names: Iterable[str]) -> dict[str, TopicState]:
        """Those of the named topics that exist."""
        self._refuse_if_closed()
        return self._topics.states(names)

    def plan_topics(self, specs: Sequence[TopicSpec]) -> TopicPlan:
        """What it takes to make the cluster's topics those of `specs`; nothing is changed."""
        there = self.describe_topics([spec.name for spec in specs])
        return plan_topics(specs, there, self._settings.replication)

    def apply_topics(self, plan: TopicPlan) -> None:
        """Does what was planned. Raises LogError, LogUnavailable: some of it may be done, so plan again."""
        self._refuse_if_closed()
        self._topics.apply(plan)

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has, a few seconds ago at most. Raises LogError: there is no such topic."""
        self._refuse_if_closed()
        return self._topics.partitions(topic)

    # --- appending ---

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """As the port says. Each record's delivery is reported within the settings' `append_timeout_s`."""
        self._refuse_if_closed()
        size = checked_bytes(topic, messages)
        if not messages:
            return []
        partitions = self._topics.partitions(topic)
        places = [place_of(topic, message, partitions) for message in messages]
        if any(message.key is None for message in messages) and self._topics.is_compacted(topic):
            raise refuse_keyless(topic)
        sender = self._sender_now()
        if self._known.get(topic, 0) < partitions:
            sender.knows(topic, partitions)
            self._known[topic] = partitions
        return sender.append(topic, messages, places, size)

    def _sender_now(self) -> Sender:
        with self._lock:
            self._refuse_if_closed()
            if self._sender is not None and self._sender.is_broken:
                self._sender.close()
                self._sender = None
            if self._sender is None:
                self._sender = Sender(self._bootstrap, self._settings)
                self._known = {}
            return self._sender

    # --- reading ---

    def consumer(self, topic: str, *, on_assign: OnAssign, on_revoke: OnRevoke | None = None) -> KafkaConsumer:
        """A member of the log's group; without a group the owner of all partitions, which never loses one."""
        self._refuse_if_closed()
        self._topics.partitions(topic, anew=True)
        trouble = Trouble("consumer")
        config = {**client_config(self._bootstrap, self._settings, trouble)}
        return KafkaConsumer(
            config | consumer_config(self._settings, self._group),
            topic,
            trouble,
            (on_assign, on_revoke),
            None if self._group else lambda: self._topics.partitions(topic),
            lambda partition: self._bounds(topic, partition),
        )

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """As the port says."""
        self._refuse_if_closed()
        return self._topics.offsets(topic, EARLIEST)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """As the port says: one request to each broker that leads a partition."""
        self._refuse_if_closed()
        return self._topics.offsets(topic, LATEST)

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> Records:
        """As the port says; from the oldest kept record on where `offset` is older, and about 64 MiB of values."""
        self._refuse_if_closed()
        if not 0 <= partition < self._topics.partitions(topic):
            raise LogError(f"topic {topic} has no partition {partition}: ask `partitions` how many there are")
        begin, end = self._bounds(topic, partition)
        start = max(offset, begin)
        if start >= end:
            return Records(topic, partition, [], [], [], [], [])
        return self._reader_now().read(topic, partition, start, max_records)

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        begin = self._topics.offsets(topic, EARLIEST, [partition])[partition]
        return begin, self._topics.offsets(topic, LATEST, [partition])[partition]

    def _reader_now(self) -> Reader:
        with self._lock:
            self._refuse_if_closed()
            if self._reader is None:
                trouble = Trouble("reader")
                config = client_config(self._bootstrap, self._settings, trouble)
                self._reader = Reader(config | consumer_config(self._settings, None), trouble)
            return self._reader

    # --- the end ---

    def close(self) -> None:
        """Waits a few seconds for the appends under way; whoever uses the log after that gets a LogError. Consumers
        are closed by whoever made them. Closing twice does nothing."""
        with self._lock:
            self._closed = True
            sender, self._sender = self._sender, None
            reader, self._reader = self._reader, None
        if sender is not None:
            sender.close()
        if reader is not None:
            reader.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise LogError("the log is closed: open it again")
