"""Rows of the SQLite log: topics, partitions, records, and the statements on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from meterhouse.ingest.log import BATCH, CONTENT_TYPE, STRUCTURED, Headers, LogError, Records

OFFSET_BITS: Final = 44
"""17 x 10^12 records a partition: more than five centuries of a thousand a second."""
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

_TRIM_RECORDS: Final = 5_000  # removed per transaction, so that appends wait for milliseconds only
_TRIM_BYTES: Final = 32 * 1024**2


class Topic(NamedTuple):
    """A topic's row."""

    id: int
    name: str
    retention_us: int | None
    compacted: bool


class Bounds(NamedTuple):
    """A partition's row: retention has removed what is before `kept_from`, `next_offset` is not there yet."""

    kept_from: int
    next_offset: int


def position(partition: int, offset: int) -> int:
    """The primary key of a record."""
    return partition << OFFSET_BITS | offset


_COMMON: Final[dict[Headers, int | None]] = {
    (): None,
    ((CONTENT_TYPE, STRUCTURED.encode()),): 1,
    ((CONTENT_TYPE, BATCH.encode()),): 2,
}
_Pairs = tuple[tuple[str, bytes], ...]


class _Decoded(dict[int | bytes | None, Headers]):
    """Stored form → headers: the usual ones are shared values, the rest is decoded each time."""

    def __missing__(self, stored: int | bytes | None) -> Headers:
        if not isinstance(stored, bytes):
            raise LogError(f"headers stored as {stored!r} are of a newer version of Meterhouse: read the log with that")
        return msgspec.msgpack.decode(stored, type=_Pairs)


_DECODED: Final = _Decoded({code: headers for headers, code in _COMMON.items()})


def stored_headers(headers: Headers) -> int | bytes | None:
    """None for none, a small number for a CloudEvents content type alone, MessagePack pairs for any other."""
    return _COMMON[headers] if headers in _COMMON else msgspec.msgpack.encode(headers)


def read_run(
    connection: sqlite3.Connection, topic: Topic, partition: int, offsets: range, *, max_records: int, max_bytes: int
) -> Records:
    """Records of one partition whose offset is in `offsets`: at most `max_records`, and of values no more than the one
    that reaches `max_bytes`."""
    cursor = connection.execute(
        f"SELECT position, appended_us, key, value, headers FROM records_{topic.id} "
        "WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
        (position(partition, offsets.start), position(partition, offsets.stop), max_records),
    )
    rows: list[Any] = []
    size = 0
    for row in cursor:
        rows.append(row)
        value = row[3]
        if value is not None:
            size += len(value)
            if size >= max_bytes:
                break
    cursor.close()
    if not rows:
        return Records(topic.name, partition, (), (), (), (), ())
    positions, appended_us, keys, values, headers = zip(*rows, strict=True)
    return Records(
        topic.name, partition, _offsets(positions), appended_us, keys, values, [_DECODED[stored] for stored in headers]
    )


def _offsets(positions: Sequence[int]) -> Sequence[int]:
    """Offsets of a run; where it has no gaps (all but compacted topics), without an integer object for each."""
    first, last = positions[0] & OFFSET_MASK, positions[-1] & OFFSET_MASK
    if last - first + 1 == len(positions):
        return range(first, last + 1)
    return [place & OFFSET_MASK for place in positions]


def topics(connection: sqlite3.Connection) -> list[Topic]:
    rows = connection.execute("SELECT id, name, retention_us, compacted FROM topics ORDER BY id").fetchall()
    return [Topic(id_, name, retention_us, bool(compacted)) for id_, name, retention_us, compacted in rows]


def find_topic(connection: sqlite3.Connection, name: str) -> Topic | None:
    sql = "SELECT id, name, retention_us, compacted FROM topics WHERE name = ?"
    row = connection.execute(sql, (name,)).fetchone()
    return None if row is None else Topic(row[0], row[1], row[2], bool(row[3]))


def require_topic(connection: sqlite3.Connection, name: str) -> Topic:
    topic = find_topic(connection, name)
    if topic is None:
        raise LogError(f"there is no topic {name}: create it first (create_topics)")
    return topic


def bounds_of(connection: sqlite3.Connection, topic: Topic) -> dict[int, Bounds]:
    sql = "SELECT partition, kept_from, next_offset FROM partitions WHERE topic = ? ORDER BY partition"
    return {partition: Bounds(kept, end) for partition, kept, end in connection.execute(sql, (topic.id,))}


def oldest(connection: sqlite3.Connection, topic: Topic, partition: int, bounds: Bounds) -> int:
    row = connection.execute(
        f"SELECT min(position) FROM records_{topic.id} WHERE position >= ? AND position < ?",
        (position(partition, 0), position(partition, bounds.next_offset)),
    ).fetchone()
    return bounds.next_offset if row[0] is None else row[0] & OFFSET_MASK


def trim_some(
    connection: sqlite3.Connection, topic: Topic, partition: int, limit: int, before_us: int
) -> tuple[int, bool]:
    """Removes the oldest records that are before offset `limit` and time `before_us`, a bounded number of them.

    Returns how many went and whether there may be more.
    """
    end = min(limit, bounds_of(connection, topic)[partition].next_offset)
    rows = connection.execute(
        f"SELECT position, appended_us, length(value) FROM records_{topic.id} "
        "WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
        (position(partition, 0), position(partition, end), _TRIM_RECORDS),
    ).fetchall()
    count = size = 0
    for _, appended_us, value_bytes in rows:
        if appended_us >= before_us or size > _TRIM_BYTES:
            break
        count += 1
        size += value_bytes or 0
    if count:
        last = rows[count - 1][0]
        connection.execute(
            f"DELETE FROM records_{topic.id} WHERE position >= ? AND position <= ?", (position(partition, 0), last)
        )
        connection.execute(
            "UPDATE partitions SET kept_from = ? WHERE topic = ? AND partition = ?",
            ((last & OFFSET_MASK) + 1, topic.id, partition),
        )
    return count, count == _TRIM_RECORDS or size > _TRIM_BYTES
