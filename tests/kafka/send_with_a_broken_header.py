"""Sends records whose header names are no UTF-8, as a producer in another language may: no client in Python would.

    python -m tests.kafka.send_with_a_broken_header BOOTSTRAP TOPIC VALUE...

Every second record has such a header, beginning with the first.
"""

from __future__ import annotations

import asyncio
import os
import sys

os.environ["AIOKAFKA_NO_EXTENSIONS"] = "1"  # its compiled half insists on names that are real texts

from aiokafka import AIOKafkaProducer


class Broken(str):
    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


async def send(bootstrap: str, topic: str, values: list[str]) -> None:
    # Compressed as the topic is: a broker that compresses anew would mend the names.
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="zstd")
    await producer.start()
    for number, value in enumerate(values):
        headers = [("sound", b"1")] if number % 2 else [(Broken("broken"), b"1")]
        await producer.send_and_wait(topic, value.encode(), key=b"acme", headers=headers)
    await producer.stop()


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], sys.argv[2], sys.argv[3:]))
