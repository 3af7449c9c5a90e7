"""Topics of a Kafka cluster: what is there, where they begin and end, and making them what was planned."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its names are there, though not exported for typing
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from meterhouse.ingest.kafka_client import (
    REQUEST_S,
    KafkaSettings,
    Trouble,
    client_config,
    error_of,
    log_error,
    outcome,
    wrong_options,
)
from meterhouse.ingest.log import LogError, LogUnavailable
from meterhouse.ingest.topics import TopicPlan, TopicState, config_of

COUNT_S: Final = 5.0
"""How long a partition count is believed: appends go to new partitions, and consumers see them, within seconds."""
SHOWN_S: Final = 30.0  # how long a topic that was created may take to be known to all brokers
EARLIEST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Topics:
    """One admin client for all threads of a log."""

    def __init__(self, bootstrap: str, settings: KafkaSettings) -> None:
        self._trouble = Trouble("admin")
        self._replication = settings.replication
        try:
            self._client = AdminClient(client_config(bootstrap, settings, self._trouble))
        except KafkaException as raised:
            raise wrong_options(raised) from raised
        self._counts: dict[str, tuple[float, int]] = {}  # topic → (believed until, partitions)
        self._compacted: dict[str, bool] = {}
        self._lock = threading.Lock()

    # --- what is there ---

    def partitions(self, topic: str, *, anew: bool = False) -> int:
        """How many partitions a topic has, a few seconds ago at most unless `anew`; older only while Kafka is away.
        Raises LogError: no such topic; LogUnavailable."""
        now = time.monotonic()
        until, count = self._counts.get(topic, (0.0, 0))
        if now < until and not anew:
            return count
        try:
            found = self._described([topic])
        except LogUnavailable:
            if not count or anew:
                raise
            self._counts[topic] = (now + COUNT_S, count)
            return count
        if topic not in found:
            self._counts.pop(topic, None)
            raise LogError(f"there is no topic {topic}: run `meterhouse topics apply` once")
        count = found[topic][0]
        self._counts[topic] = (now + COUNT_S, count)
        return count

    def is_compacted(self, topic: str) -> bool:
        """Whether a topic is compacted; asked once."""
        if topic not in self._compacted:
            self._compacted[topic] = "compact" in self._configs([topic])[topic]["cleanup.policy"]
        return self._compacted[topic]

    def states(self, names: Iterable[str]) -> dict[str, TopicState]:
        """Those of the named topics that exist. Raises LogError, LogUnavailable."""
        found = self._described(list(names))
        configs = self._configs(found) if found else {}
        return {name: TopicState(name, *sizes, configs[name]) for name, sizes in found.items()}

    def offsets(self, topic: str, spec: OffsetSpec, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """Where each partition begins (EARLIEST) or ends (LATEST). Raises LogError, LogUnavailable."""
        numbers = range(self.partitions(topic)) if partitions is None else partitions
        asked = {TopicPartition(topic, number): spec for number in numbers}
        doing = f"offsets of {topic}"
        futures = self._client.list_offsets(asked, request_timeout=REQUEST_S)
        return {place.partition: outcome(future, doing).offset for place, future in futures.items()}

    def _described(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Name → (partitions, replication) of those that exist."""
        found = {}
        futures = self._client.describe_topics(TopicCollection(list(names)), request_timeout=REQUEST_S)
        for name, future in futures.items():
            try:
                described = future.result(2 * REQUEST_S)
            except KafkaException as raised:
                if error_of(raised).code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise log_error(error_of(raised), f"look at topic {name}{self._trouble.after()}") from raised
            found[name] = (len(described.partitions), len(described.partitions[0].replicas))
        return found

    def _configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        futures = self._client.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=REQUEST_S
        )
        return {
            resource.name: {
                entry.name: entry.value
                for entry in outcome(future, f"look at topic {resource.name}").values()
                if entry.value is not None
            }
            for resource, future in futures.items()
        }

    # --- changing it ---

    def apply(self, plan: TopicPlan) -> None:
        """Does what was planned; on return every broker that is asked knows of it. Raises LogError, LogUnavailable:
        some of it may be done, so plan again."""
        with self._lock:
            self._create(plan)
            self._grow(plan)
            self._configure(plan)
        for spec in (*plan.create, *plan.grow):
            self._wait_for(spec.name, spec.partitions)

    def _create(self, plan: TopicPlan) -> None:
        if not plan.create:
            return
        topics = [
            NewTopic(spec.name, spec.partitions, self._replication, config=config_of(spec, self._replication))
            for spec in plan.create
        ]
        for name, future in self._client.create_topics(topics, request_timeout=REQUEST_S).items():
            try:
                future.result(2 * REQUEST_S)
            except KafkaException as raised:
                error = error_of(raised)
                if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else applies the same
                    raise log_error(error, f"create topic {name}") from raised

    def _grow(self, plan: TopicPlan) -> None:
        if not plan.grow:
            return
        wanted = [NewPartitions(spec.name, spec.partitions) for spec in plan.grow]
        for name, future in self._client.create_partitions(wanted, request_timeout=REQUEST_S).items():
            outcome(future, f"add partitions to {name}")

    def _configure(self, plan: TopicPlan) -> None:
        if not plan.configure:
            return
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry(option, value, incremental_operation=AlterConfigOpType.SET)
                    for option, value in options.items()
                ],
            )
            for name, options in plan.configure.items()
        ]
        for resource, future in self._client.incremental_alter_configs(resources, request_timeout=REQUEST_S).items():
            outcome(future, f"configure {resource.name}")

    def _wait_for(self, topic: str, partitions: int) -> None:
        """Until the topic is known with that many partitions, each with a leader that says where it ends."""
        give_up_at = time.monotonic() + SHOWN_S
        pause = threading.Event()
        while True:
            try:
                if self.partitions(topic, anew=True) >= partitions:
                    self.offsets(topic, LATEST)
                    return
            except LogError as trouble:
                if time.monotonic() > give_up_at:
                    raise LogUnavailable(f"topic {topic} is not there on all brokers yet: {trouble}") from trouble
            pause.wait(0.05)
