"""The event log's port: topics of partitions of records, as Kafka has them.

*Topic*: a named set of partitions. *Partition*: an append-only run of records, numbered by *offset* from 0.
*Compacted topic*: of the records with one key only the newest is sure to stay; a record whose value is None is a
tombstone, which removes its key.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

USAGE_EVENTS: Final = "usage.events"
USAGE_REJECTED: Final = "usage.rejected"
BUDGET_TOTALS: Final = "budget.totals"
BUDGET_STATES: Final = "budget.states"
BUDGET_ALERTS: Final = "budget.alerts"

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
ARROW_STREAM: Final = "application/vnd.apache.arrow.stream"
CONTENT_TYPE: Final = "content-type"

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it is declared. `retention_us` None: kept for ever. A compacted topic keeps the newest per key."""

    name: str
    partitions: int
    retention_us: int | None = None
    compacted: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A record to append. `partition` None: placed by the key (`partition_of`).

    `appended_us`: the record's time; None: the log's clock. Only tools that tell of the past (`replay`, `simulate`)
    set it. Kafka keeps whole milliseconds of it, rounded down, and refuses a time more than an hour ahead.
    """

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    appended_us: int | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """A run of records of one partition in offset order, as columns of equal length (offsets may have gaps)."""

    topic: str
    partition: int
    offsets: Sequence[int]
    appended_us: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def next_offset(self) -> int:
        """The offset to read after this run."""
        return self.offsets[-1] + 1


class LogError(Exception):
    """The log cannot do what was asked; the message says what to do. Of an append, see there what may have happened."""


class LogFull(LogError):
    """The log is at its size limit."""


class LogUnavailable(LogError):
    """Passing trouble (locked, disconnected): trying again may help."""


def partition_of(key: bytes | None, partitions: int) -> int:
    """Where a key lives: CRC-32 modulo the partition count, librdkafka's `consistent` partitioner. No key: 0."""
    return zlib.crc32(key or b"") % partitions


OnAssign = Callable[[frozenset[int]], Mapping[int, int]]
"""Partitions newly ours → the offset to read each from."""
OnRevoke = Callable[[frozenset[int]], None]


class Consumer(Protocol):
    """Reads one topic. Not shared between threads."""

    def poll(self, max_records: int, timeout_s: float) -> list[Records]:
        """Up to `max_records` records, a `Records` per partition that has any; empty after `timeout_s`.

        Calls `on_assign` and `on_revoke` from within, and raises what they raise; `on_assign` is then called again by
        the next poll. A bounded number of bytes is returned even where `max_records` would allow more. After
        `on_revoke` nothing of those partitions is returned. Raises LogError when the record to read next is not there
        to read: nothing is skipped in silence.
        """
        ...

    def seek(self, partition: int, offset: int) -> None:
        """Reads this partition from `offset` next; nothing from before the call is returned after it."""
        ...

    def assignment(self) -> frozenset[int]: ...

    def close(self) -> None: ...


class EventLog(Protocol):
    """A log of topics. May be shared between threads."""

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Creates what is missing; an existing topic may only gain partitions."""
        ...

    def partitions(self, topic: str) -> int: ...

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Appends them durably and returns (partition, offset) of each; in a partition they keep their order.

        Raises LogError, LogFull, LogUnavailable. The embedded log has then appended none of them. Kafka cannot promise
        that: what can be seen to be wrong beforehand (a partition, a size, a missing key) is refused as a whole, but
        when brokers fail midway some records may be in the log, and one whose answer was lost may be there although it
        is reported as failed. Append all of them again: ids make an event that is there twice harmless, and what is
        keyed by state says the same again. After the call nothing more is sent.
        """
        ...

    def consumer(self, topic: str, *, on_assign: OnAssign, on_revoke: OnRevoke | None = None) -> Consumer: ...

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the oldest offset still kept (the end offset if none is)."""
        ...

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition, the offset the next record will get."""
        ...

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> Records:
        """The records from `offset` on, without a consumer: for drill-down and tests."""
        ...

    def close(self) -> None: ...


READ_RECORDS: Final = 10_000
"""Records that `whole_topic` holds at a time: some MB of a topic of budgets."""


def whole_topic(log: EventLog, topic: str) -> Iterator[Records]:
    """All that a topic holds, partition by partition, without a consumer: for small compacted topics."""
    for partition, offset in log.begin_offsets(topic).items():
        next_offset = offset
        while records := log.read(topic, partition, next_offset, READ_RECORDS):
            yield records
            next_offset = records.next_offset


def reached(log: EventLog, topic: str, positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    """Has a reader that stands at `positions` read all that comes before `ends`? A compacted topic may end in offsets
    whose records are gone, so an end that is not reached is looked at again."""
    return all(
        positions.get(partition, 0) >= end or not log.read(topic, partition, positions.get(partition, 0), 1)
        for partition, end in ends.items()
    )
