"""A publisher that may die: sends a plan through the broker's own client, and notes what was acknowledged.

    python -m tests.crash.producer ADDRESS PLAN ACKNOWLEDGED RATE

Started again it sends all that is not noted, so that what was on its way comes twice and nothing is left out. It shares
no code with the product's publisher.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.crash.stream import read_plan

TOPIC: Final = "usage.events"
EMBEDDED: Final = "sqlite:"
"""In front of an embedded log's path, where an address is expected."""
FLUSH_S: Final = 120.0
"""A leader that died is replaced within seconds, a cluster that was killed whole within half a minute."""
CONFIG: Final[dict[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "zstd",
    "linger.ms": 5,
    "delivery.timeout.ms": 110_000,
    "log_level": 0,
}


def publish(bootstrap: str, plan: Path, acknowledged: Path, rate: float) -> None:
    """Records a second: `rate`. Returns when the broker has acknowledged all."""
    from confluent_kafka import KafkaError, KafkaException, Producer

    noted = set(acknowledged.read_text(encoding="ascii").split()) if acknowledged.exists() else set()
    producer = Producer({**CONFIG, "bootstrap.servers": bootstrap})
    partitions = len(producer.list_topics(TOPIC, timeout=FLUSH_S).topics[TOPIC].partitions)
    failed: list[KafkaError] = []
    with acknowledged.open("ab", buffering=0) as notes:

        def note(number: int) -> Callable[[KafkaError | None, Any], None]:
            def delivered(error: KafkaError | None, _: Any) -> None:
                if error is None:
                    # One write of a few bytes to the end: whole, or not there.
                    notes.write(b"%d " % number)
                else:
                    failed.append(error)

            return delivered

        begin, sent = time.monotonic(), 0
        for entry in read_plan(plan):
            if str(entry.number) in noted:
                continue
            producer.produce(
                TOPIC,
                entry.value,
                entry.key,
                partition=entry.partition(partitions),
                headers=list(entry.all_headers),
                on_delivery=note(entry.number),
            )
            sent += 1
            producer.poll(max(0.0, begin + sent / rate - time.monotonic()))
        left = producer.flush(FLUSH_S)
    if failed or left:
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))


def publish_embedded(path: Path, plan: Path, acknowledged: Path, rate: float) -> None:
    """The same into an embedded log."""
    from meterhouse.ingest.log import Message
    from meterhouse.ingest.sqlite_log import SqliteLog

    noted = set(acknowledged.read_text(encoding="ascii").split()) if acknowledged.exists() else set()
    log = SqliteLog(path, clock=lambda: time.time_ns() // 1_000, max_bytes=2**36)
    partitions = log.partitions(TOPIC)
    begin, sent = time.monotonic(), 0
    with acknowledged.open("ab", buffering=0) as notes:
        left = [entry for entry in read_plan(plan) if str(entry.number) not in noted]
        for first in range(0, len(left), 20):
            some = left[first : first + 20]
            log.append(TOPIC, [Message(e.key, e.value, e.all_headers, e.partition(partitions)) for e in some])
            notes.write(b"".join(b"%d " % entry.number for entry in some))
            sent += len(some)
            time.sleep(max(0.0, begin + sent / rate - time.monotonic()))
    log.close()


def main() -> None:
    address, plan, acknowledged, rate = sys.argv[1:]
    if address.startswith(EMBEDDED):
        publish_embedded(Path(address.removeprefix(EMBEDDED)), Path(plan), Path(acknowledged), float(rate))
    else:
        publish(address, Path(plan), Path(acknowledged), float(rate))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # no client library's farewell
