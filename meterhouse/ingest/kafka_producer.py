"""Appending to Kafka: one idempotent producer for all threads of a log, which wait for their delivery reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from meterhouse.ingest.kafka_client import (
    LASTING,
    KafkaSettings,
    Trouble,
    client_config,
    error_of,
    log_error,
    wrong_options,
)
from meterhouse.ingest.log import LogError, LogUnavailable, Message
from meterhouse.ingest.log_limits import MAX_APPEND_BYTES, MAX_RECORD_BYTES

LINGER_MS: Final = 0.5
"""How long a record waits for company. The records of one append come together anyway, and on its way from an event to
a gate a budget's state waits for three appends."""
IN_FLIGHT_BYTES: Final = MAX_APPEND_BYTES
"""Of all appends under way: one of the largest size, or many small ones."""
RECORD_OVERHEAD: Final = 512
"""Bytes that a record in the client costs beside its content (its own, and its delivery report's)."""
CLOSE_S: Final = 5.0
"""For the appends under way when the log is closed: what is not delivered then is withdrawn and reported."""
POLL_S: Final = 0.5  # how soon the thread sees that it is to end; reports wake it at once


class _Appending:
    """One append: counts its delivery reports down. Reports come on the sender's thread."""

    __slots__ = ("_left", "_lock", "done", "errors", "places")

    def __init__(self, records: int) -> None:
        self.places: list[tuple[int, int]] = [(-1, -1)] * records
        self.errors: list[KafkaError] = []
        self.done = threading.Event()
        self._left = records
        self._lock = threading.Lock()

    def report(self, number: int, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is None:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self.places[number] = (partition, offset)
            self._count(1)
        else:
            self.give_up(1, error)

    def give_up(self, records: int, error: KafkaError) -> None:
        self.errors.append(error)
        self._count(records)

    def _count(self, records: int) -> None:
        with self._lock:
            self._left -= records
            if not self._left:
                self.done.set()


class Sender:
    """A producer and the thread that serves its delivery reports. After a fatal error make another one."""

    def __init__(self, bootstrap: str, settings: KafkaSettings) -> None:
        self._trouble = Trouble("producer")
        self._timeout_s = settings.append_timeout_s
        timeout_ms = round(self._timeout_s * 1_000)
        config = {
            **client_config(bootstrap, settings, self._trouble),
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "zstd",
            "linger.ms": LINGER_MS,
            "delivery.timeout.ms": timeout_ms,
            "request.timeout.ms": min(timeout_ms, 10_000),
            "message.max.bytes": MAX_RECORD_BYTES + 65_536,
            # Bounded by IN_FLIGHT_BYTES, before the client's own queue is full.
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": 4 * IN_FLIGHT_BYTES // 1_024,
        }
        try:
            self._producer = Producer(config)
        except KafkaException as raised:
            raise wrong_options(raised) from raised
        self._room = threading.Condition()  # guards the two below
        self._bytes = 0
        self._closing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kafka-delivery", daemon=True)
        self._thread.start()

    @property
    def is_broken(self) -> bool:
        return self._trouble.fatal is not None

    def knows(self, topic: str, partitions: int) -> None:
        """Returns when the client has heard of that many partitions. Raises LogUnavailable."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                known = self._producer.list_topics(topic, timeout=self._timeout_s).topics[topic]
            except KafkaException as raised:
                raise log_error(error_of(raised), f"append to {topic}") from raised
            if len(known.partitions) >= partitions:
                return
            if time.monotonic() > deadline:
                raise LogUnavailable(f"append to {topic}: the brokers disagree about its partitions; try again")
            self._ended.wait(0.02)

    def append(
        self, topic: str, messages: Sequence[Message], places: Sequence[int], size: int
    ) -> list[tuple[int, int]]:
        """Appends each message to its partition; on return all are durable. `size`: their bytes.

        Raises LogError, LogUnavailable when one is not (others may be).
        """
        size += RECORD_OVERHEAD * len(messages)
        self._take_room(topic, size)
        try:
            appending = _Appending(len(messages))
            self._produce(topic, messages, places, appending)
            # Every record is reported, at the latest by the client's own time-out, or when the sender closes.
            appending.done.wait()
        finally:
            with self._room:
                self._bytes -= size
                self._room.notify_all()
        if appending.errors:
            raise self._error_of(topic, appending)
        return appending.places

    def _produce(self, topic: str, messages: Sequence[Message], places: Sequence[int], appending: _Appending) -> None:
        produce, report = self._producer.produce, appending.report
        for number, (message, partition) in enumerate(zip(messages, places, strict=True)):
            time_ms = 0 if message.appended_us is None else max(1, message.appended_us // 1_000)  # 0: now
            try:
                produce(
                    topic,
                    message.value,
                    message.key,
                    partition,
                    partial(report, number),
                    timestamp=time_ms,
                    headers=list(message.headers) or None,
                )
            except KafkaException as raised:
                appending.give_up(len(messages) - number, error_of(raised))
                return
            except BufferError:
                appending.give_up(len(messages) - number, KafkaError(KafkaError._QUEUE_FULL))
                return

    def _take_room(self, topic: str, size: int) -> None:
        with self._room:
            there = self._room.wait_for(
                lambda: self._closing or not self._bytes or self._bytes + size <= IN_FLIGHT_BYTES, self._timeout_s
            )
            if self._closing:
                raise LogError("the log is closed: open it again")
            if not there:
                raise LogUnavailable(
                    f"append to {topic}: {self._bytes} bytes are under way already, at most {IN_FLIGHT_BYTES};"
                    f" try again{self._trouble.after()}"
                )
            self._bytes += size

    def _error_of(self, topic: str, appending: _Appending) -> LogError:
        worst = next((error for error in appending.errors if error.code() in LASTING), appending.errors[0])
        if worst.fatal():
            self._trouble.hear(worst)
        failed = len(appending.errors)
        return log_error(worst, f"append to {topic}, {failed} failed of {len(appending.places)}{self._trouble.after()}")

    def close(self) -> None:
        """Waits for the appends under way, within bounds; what is not delivered then is withdrawn and reported."""
        with self._room:
            self._closing = True
            self._room.notify_all()
        self._ended.set()
        self._thread.join()

    def _serve(self) -> None:
        producer = self._producer
        while not self._ended.is_set():
            producer.poll(POLL_S)
        give_up_at = time.monotonic() + CLOSE_S
        while self._bytes:  # each append ends by its reports, and no new one begins
            if time.monotonic() > give_up_at:
                producer.purge()
            producer.poll(0.05)
        producer.close()
