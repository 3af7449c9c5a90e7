"""What tests of the log on Kafka share: topics of their own, and members of a group that keep their positions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from meterhouse.ingest.kafka_client import KafkaSettings
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import Message, Records, TopicSpec
from tests.services.kafka import ADDRESS

DEADLINE_S = 60.0
SESSION_S = 6.0 if ADDRESS else 1.0
"""The least that the brokers at hand allow."""


def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def new_topic(log: KafkaLog, partitions: int = 4) -> str:
    name = new_name()
    log.create_topics([TopicSpec(name, partitions)])
    return name


def append_each(log: KafkaLog, topic: str, partitions: int, each: int) -> None:
    """`each` records to every partition."""
    log.append(topic, [Message(None, b"%d" % i, partition=p) for i in range(each) for p in range(partitions)])


def await_that(condition: Callable[[], bool]) -> None:
    """Calls `condition`, which waits or works within, until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s"


@dataclass
class Group:
    """What the members of a group have read: offsets per partition, and where each is to be read next.

    With a fence, a member that reads from anywhere else has lost the partition without having heard of it: what it read
    does not count.
    """

    bootstrap: str
    topic: str
    name: str = field(default_factory=new_name)
    settings: KafkaSettings = field(default_factory=KafkaSettings)
    has_fence: bool = False
    positions: dict[int, int] = field(default_factory=dict)
    read: dict[int, list[int]] = field(default_factory=dict)

    def join(self) -> Member:
        return Member(self)

    def offsets_read(self) -> int:
        return sum(map(len, self.read.values()))


class Member:
    """A consumer that takes up each partition where the group has left it, and lets go of it when told to."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.owned: set[int] = set()
        self.revoked: list[frozenset[int]] = []
        self.on_revoke: Callable[[frozenset[int]], None] = lambda gone: None
        self.log = KafkaLog(group.bootstrap, group=group.name, settings=group.settings)
        self.consumer = self.log.consumer(group.topic, on_assign=self._assigned, on_revoke=self._revoked)

    def poll(self, timeout_s: float = 0.05, max_records: int = 1_000) -> list[Records]:
        """Reads, and insists that nothing comes of a partition that is not its own."""
        runs = self.consumer.poll(max_records, timeout_s)
        assert self.consumer.assignment() == self.owned
        for run in runs:
            assert run.partition in self.owned
            position = self.group.positions.get(run.partition, 0)
            if run.offsets[0] != position and self.group.has_fence:
                self.consumer.seek(run.partition, position)
                continue
            assert run.offsets[0] == position
            self.group.read.setdefault(run.partition, []).extend(run.offsets)
            self.group.positions[run.partition] = run.next_offset
        return runs

    def close(self) -> None:
        self.consumer.close()
        self.log.close()

    def _assigned(self, added: frozenset[int]) -> Mapping[int, int]:
        assert not added & self.owned
        self.owned |= added
        return {partition: self.group.positions.get(partition, 0) for partition in added}

    def _revoked(self, gone: frozenset[int]) -> None:
        assert gone <= self.owned
        self.owned -= gone
        self.revoked.append(gone)
        self.on_revoke(gone)
