"""What the benches of budgets publish and hear: a steady flow of usage records, and the records that gates read."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.workload import event
from meterhouse.api.clock import now_us
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import BATCH, BUDGET_STATES, CONTENT_TYPE, USAGE_EVENTS, Message

HEADERS: Final = ((CONTENT_TYPE, BATCH.encode()),)
PUBLISHERS: Final = 4
"""Threads: each append waits for the broker, and a record must not wait for the one before it."""
POLL_S: Final = 0.1


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
    """A record of a budget topic: when it was readable here, and when its producer gave it away (milliseconds)."""

    at_us: int
    said_us: int
    key: bytes
    value: bytes | None


class Listener:
    """Reads a topic as a gate does, from its end on, in a thread. Use as a context manager."""

    def __init__(self, log: KafkaLog, topic: str = BUDGET_STATES) -> None:
        self.heard: list[Heard] = []
        self._consumer = log.consumer(topic, on_assign=lambda _: log.end_offsets(topic))
        self._consumer.poll(1, 0.5)  # it stands at the end when the bench goes on
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for records in self._consumer.poll(10_000, POLL_S):
                at_us = now_us()
                self.heard += [
                    Heard(at_us, said_us, key or b"", value)
                    for said_us, key, value in zip(records.appended_us, records.keys, records.values, strict=True)
                ]
