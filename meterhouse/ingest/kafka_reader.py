"""Reading a run of Kafka's records without a group: for drill-down, and for small topics that are read as a whole."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from meterhouse.ingest.kafka_client import REQUEST_S, Trouble, error_of, log_error, wrong_options
from meterhouse.ingest.kafka_columns import Columns, Taken
from meterhouse.ingest.log import LogUnavailable, Records

READ_BYTES: Final = 64 * 1024**2  # as the embedded log's
QUEUE_KB: Final = 8 * 1024  # read ahead of what was asked for
CHUNK_RECORDS: Final = 1_000


class Reader:
    """One client that reads wherever it is asked to, for one thread at a time.

    A read that goes on where the last one ended costs no new request when the records are there already.
    """

    def __init__(self, config: dict[str, Any], trouble: Trouble) -> None:
        self._trouble = trouble
        self._lock = threading.Lock()
        self._at: tuple[str, int, int] | None = None  # topic, partition and offset that the client reads next
        try:
            self._client = Consumer(
                config
                | {"enable.partition.eof": True, "queued.max.messages.kbytes": QUEUE_KB, "queued.min.messages": 10_000}
            )
        except KafkaException as raised:
            raise wrong_options(raised) from raised

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> Records:
        """Up to `max_records` records from `offset` on, which must be kept or the end. Raises LogError,
        LogUnavailable."""
        with self._lock:
            try:
                return self._read(topic, partition, offset, max_records)
            except KafkaException as raised:
                raise log_error(error_of(raised), f"read {topic}") from raised
            finally:
                if self._at is None:
                    self._client.unassign()

    def _read(self, topic: str, partition: int, offset: int, max_records: int) -> Records:
        if self._at != (topic, partition, offset):
            self._client.assign([TopicPartition(topic, partition, offset)])
        self._at = None
        taken = Taken()
        give_up_at = time.monotonic() + REQUEST_S
        while taken.records < max_records and taken.bytes_ < READ_BYTES:
            messages = self._client.consume(min(CHUNK_RECORDS, max_records - taken.records), 0.0)
            messages = messages or self._client.consume(1, 0.5)
            records = [message for message in messages if message.error() is None]
            if records:
                taken.add(records)
                give_up_at = time.monotonic() + REQUEST_S
            if len(records) < len(messages) and self._is_end(topic, messages):
                break
            if time.monotonic() > give_up_at:
                raise LogUnavailable(f"read {topic}: Kafka does not answer; try again{self._trouble.after()}")
        else:
            run = taken.columns[partition].records(topic, partition)
            self._at = (topic, partition, run.next_offset)
            return run
        return taken.columns.get(partition, Columns()).records(topic, partition)

    def _is_end(self, topic: str, messages: list[Message]) -> bool:
        """Is the end of the partition among the messages? Raises LogError, LogUnavailable for other errors."""
        for error in filter(None, map(Message.error, messages)):
            if error.code() != KafkaError._PARTITION_EOF:
                raise log_error(error, f"read {topic}")
        return True

    def close(self) -> None:
        with self._lock:
            self._client.close()
