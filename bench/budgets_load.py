"""What the benches of budgets publish and hear: a steady flow of usage records, and the records that gates read."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

import msgspec

from bench.workload import event
from meterhouse.api.clock import now_us
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import BATCH, CONTENT_TYPE, READ_RECORDS, USAGE_EVENTS, EventLog, Message
from meterhouse.streams.gate import Gate
from meterhouse.streams.gate_feed import LogFeed

HEADERS: Final = ((CONTENT_TYPE, BATCH.encode()),)
PUBLISHERS: Final = 4
"""Threads: each append waits for the broker, and a record must not wait for the one before it."""
READY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Published:
    """A record of events of one tenant: where it is, and when its append began."""

    tenant: str
    partition: int
    offset: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Records of `per_record` events, so many events a second for so long, of tenants in turn."""

    tenants: Sequence[str]
    events_per_s: int
    seconds: float
    per_record: int = 10
    seed: int = 1

    def messages(self) -> list[tuple[float, Message]]:
        """When each is due, in seconds from the beginning, and the record."""
        random_ = random.Random(f"{self.seed} {now_us()}")  # ids are new in every run
        begin_us, every_s = now_us(), self.per_record / self.events_per_s
        found = []
        for number in range(int(self.events_per_s * self.seconds / self.per_record)):
            tenant = self.tenants[number % len(self.tenants)]
            due_s = number * every_s
            events = [event(random_, tenant, begin_us + int(due_s * 1e6)) for _ in range(self.per_record)]
            found.append((due_s, Message(tenant.encode(), msgspec.json.encode(events), HEADERS)))
        return found

    @contextmanager
    def beside(self, log: KafkaLog) -> Iterator[None]:
        """Publishes while something else is measured."""
        thread = threading.Thread(target=self.publish, args=(log,))
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def publish(self, log: KafkaLog) -> list[Published]:
        """Publishes at its pace; returns what is in the log, by time."""
        messages = self.messages()
        begin_s = time.monotonic() + 0.1
        done: list[Published] = []

        def each(first: int) -> None:
            for due_s, message in messages[first::PUBLISHERS]:
                time.sleep(max(0.0, begin_s + due_s - time.monotonic()))
                at_us = now_us()
                [(partition, offset)] = log.append(USAGE_EVENTS, [message])
                done.append(Published((message.key or b"").decode(), partition, offset, at_us))

        threads = [threading.Thread(target=each, args=(first,)) for first in range(PUBLISHERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(done, key=lambda one: one.at_us)


@dataclass(frozen=True, slots=True)
class Heard:
    """A record of `budget.states`: when the gate had taken it in."""

    at_us: int
    key: bytes
    value: bytes | None


class ClockedGate(Gate):
    """A gate that notes when it has taken in what."""

    def __init__(self) -> None:
        super().__init__(now_us)
        self.heard: list[Heard] = []

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        super().take(partition, key, value)
        self.heard.append(Heard(now_us(), key, value))


@contextmanager
def clocked_gate(log: KafkaLog) -> Iterator[ClockedGate]:
    """A gate that follows the log, from when it has caught up on."""
    gate = ClockedGate()
    with LogFeed(log, gate) as feed:
        if not feed.wait_caught_up(READY_S):
            raise SystemExit(f"the gate has not caught up within {READY_S:.0f} s")
        yield gate


def appended(log: EventLog, topic: str, begins: Mapping[int, int]) -> Iterator[tuple[int, bytes, bytes | None]]:
    """(when its producer took it, to the millisecond; key; value) of each record of a topic from `begins` on."""
    for partition, end in log.end_offsets(topic).items():
        at = begins[partition]
        while at < end and (records := log.read(topic, partition, at, READ_RECORDS)):
            for at_us, key, value in zip(records.appended_us, records.keys, records.values, strict=True):
                yield at_us, key or b"", value
            at = records.next_offset


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50, p99."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def shown(values: Sequence[float]) -> str:
    p50, p99 = percentiles(values)
    return f"{p50:,.1f} / {p99:,.1f} ms"


def load() -> str:
    """For a table's title: figures of a busy machine are no figures."""
    return f"(load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
