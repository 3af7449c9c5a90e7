"""Kafka's messages → columns of records, a chunk at a time, while they are in the processor's cache."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

from confluent_kafka import Message

from meterhouse.ingest.log import Headers, Records


@dataclass(slots=True)
class Columns:
    """The records of one partition, as they come."""

    offsets: array[int] = field(default_factory=lambda: array("q"))
    appended_us: array[int] = field(default_factory=lambda: array("q"))
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)

    def add(self, messages: Sequence[Message]) -> int:
        """Takes messages of one partition in offset order; returns the bytes of their values."""
        values = list(map(Message.value, messages))
        # A record without an offset or a key that is no bytes does not come out of Kafka: stubs say more than is.
        self.offsets.extend(map(Message.offset, messages))  # type: ignore[arg-type]
        self.appended_us.extend([1_000 * time_ms for _, time_ms in map(Message.timestamp, messages)])
        self.keys += map(Message.key, messages)
        self.values += values
        self._add_headers(messages)
        return sum(map(len, filter(None, values)))

    def _add_headers(self, messages: Sequence[Message]) -> None:
        """Neighbours mostly have the same headers: they then share one tuple."""
        add = self.headers.append
        last: object = None
        same: Headers = ()
        for headers in _headers_of(messages):
            if headers != last:
                last = headers
                pairs = cast("list[tuple[str, bytes | None]]", headers or [])
                same = tuple((name, value or b"") for name, value in pairs)  # Kafka allows a header without value
            add(same)

    def since(self, offset: int) -> Columns:
        """Without the records before `offset`."""
        if not self.offsets or self.offsets[0] >= offset:
            return self
        at = bisect_left(self.offsets, offset)
        return Columns(self.offsets[at:], self.appended_us[at:], self.keys[at:], self.values[at:], self.headers[at:])

    def records(self, topic: str, partition: int) -> Records:
        return Records(topic, partition, self.offsets, self.appended_us, self.keys, self.values, self.headers)


def _headers_of(messages: Sequence[Message]) -> Sequence[object]:
    """Each message's headers. Where the client library cannot decode a name, which Kafka leaves to producers, that
    record is without headers: it is read for what its bytes say, and must not be what nobody gets past."""
    found: list[object] = []
    each = map(Message.headers, messages)
    while True:
        try:
            found.extend(each)  # keeps what came before an error
        except SystemError:
            found.append(None)  # never ask this message again: it would answer with a hole in memory
        else:
            return found


@dataclass(slots=True)
class Taken:
    """What a poll has taken so far: columns per partition, how many records, bytes of values."""

    columns: dict[int, Columns] = field(default_factory=dict)
    records: int = 0
    bytes_: int = 0

    def add(self, messages: Sequence[Message]) -> None:
        """Takes messages that are records, not errors."""
        for partition, run in _by_partition(messages):
            self.bytes_ += self.columns.setdefault(partition, Columns()).add(run)
        self.records += len(messages)


def _by_partition(messages: Sequence[Message]) -> Iterator[tuple[int, Sequence[Message]]]:
    """Runs of messages of one partition: they come a fetch at a time, so there are few."""
    partitions: list[int] = list(map(Message.partition, messages))  # type: ignore[arg-type]
    first = partitions[0]
    if partitions.count(first) == len(partitions):
        yield first, messages
        return
    start = 0
    for partition, same in groupby(partitions):
        stop = start + sum(1 for _ in same)
        yield partition, messages[start:stop]
        start = stop
