"""What both logs refuse before they append anything: records and topics out of bounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from meterhouse.ingest.log import LogError, Message, TopicSpec, partition_of

MAX_RECORD_BYTES: Final = 8 * 1024**2
"""Key, value and headers of a record. Batches are cut at half a MiB; an event that is too large (256 KiB) must still
get in, to be rejected with its bytes, and so must a body that a foreign client sent as one record."""
MAX_KEY_BYTES: Final = 4 * 1024
"""A key is made of a few names of at most 256 characters each."""
MAX_APPEND_BYTES: Final = 128 * 1024**2
"""Of one `append`: SQLite writes all of it in one transaction, which others wait for; Kafka's client holds it."""
MAX_PARTITIONS: Final = 1024
"""Every poll looks at each partition."""

_OVERHEAD_BYTES: Final = 64  # counted per record, so that a million empty ones are not nothing
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka's rule


def check_spec(spec: TopicSpec) -> None:
    """Raises LogError for a name or partition count out of bounds."""
    if not _NAME.fullmatch(spec.name):
        raise LogError(f"topic name {spec.name!r}: use 1 to 249 letters, digits, dots, underscores or dashes")
    if not 1 <= spec.partitions <= MAX_PARTITIONS:
        raise LogError(f"topic {spec.name}: {spec.partitions} partitions asked for; give 1 to {MAX_PARTITIONS}")


def record_bytes(message: Message) -> int:
    """The size of a record: key, value and headers."""
    of_headers = sum(len(name) + len(value) for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + of_headers


def checked_bytes(topic: str, messages: Sequence[Message]) -> int:
    """The size of an append, bytes. Raises LogError when it or one of its records is over a limit."""
    total = 0
    for message in messages:
        key_bytes = len(message.key or b"")
        size = record_bytes(message)
        if key_bytes > MAX_KEY_BYTES:
            raise LogError(f"a key of {key_bytes} bytes for {topic}: at most {MAX_KEY_BYTES}; use a shorter id")
        if size > MAX_RECORD_BYTES:
            raise LogError(f"a record of {size} bytes for {topic}: at most {MAX_RECORD_BYTES}; send fewer events in it")
        total += size + _OVERHEAD_BYTES
    if total > MAX_APPEND_BYTES:
        raise LogError(f"{total} bytes in one append to {topic}: at most {MAX_APPEND_BYTES}; append in several steps")
    return total


def place_of(topic: str, message: Message, partitions: int) -> int:
    """The partition that a message goes to. Raises LogError when it names one that does not exist."""
    if message.partition is None:
        return partition_of(message.key, partitions)
    if not 0 <= message.partition < partitions:
        raise LogError(f"topic {topic} has partitions 0 to {partitions - 1}, not {message.partition}")
    return message.partition


def refuse_keyless(topic: str) -> LogError:
    return LogError(f"topic {topic} is compacted: a record without a key could never be replaced; give it one")
