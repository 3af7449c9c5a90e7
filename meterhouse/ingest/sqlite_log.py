"""SqliteLog: the embedded twin of the event log, one SQLite file.

Several threads and processes of one machine may use a file at once: one writes at a time, readers never wait. The
file must be on a local disk (SQLite's write-ahead log needs shared memory). After a fork, open it anew.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meterhouse.ingest.log import (
    LogError,
    LogUnavailable,
    Message,
    OnAssign,
    OnRevoke,
    Records,
    TopicSpec,
)
from meterhouse.ingest.log_limits import check_spec, checked_bytes, place_of, refuse_keyless
from meterhouse.ingest.sqlite_consumer import POLL_BYTES, Bell, SqliteConsumer
from meterhouse.ingest.sqlite_file import Pool, connect, log_errors, prepare, transaction
from meterhouse.ingest.sqlite_rows import (
    OFFSET_BITS,
    Topic,
    bounds_of,
    find_topic,
    oldest,
    position,
    read_run,
    require_topic,
    stored_headers,
    topics,
    trim_some,
)

MAX_BYTES: Final = 64 * 1024**3
"""Default size limit: two days of a thousand requests a second, at 400 bytes an event."""
TOMBSTONE_US: Final = 86_400 * 1_000_000
"""How long a tombstone is kept (Kafka's default): a reader that was away for less sees that its key is gone."""

_GROUP_BYTES: Final = 16 * 1024**2  # of appends that share one commit: so many bytes take about as long as the sync


@dataclass(slots=True)
class _Turn:
    """One `append` on its way through the writer."""

    topic: str
    messages: Sequence[Message]
    size: int
    places: list[tuple[int, int]] = field(default_factory=list)
    error: LogError | None = None
    settled: bool = False

    def settle(self, places: list[tuple[int, int]], error: LogError | None = None) -> None:
        self.places, self.error, self.settled = places, error, True


class SqliteLog:
    """An EventLog in the file `path` (made if missing).

    `clock`: microseconds UTC, the time of records that do not bring their own. `max_bytes`: `append` raises LogFull
    rather than let the file grow beyond it; beside the file stands a write-ahead log of about 16 MiB, or of the
    largest append. The file never shrinks: what retention and compaction free is used again. A compacted topic is
    compacted at each append, so it holds one record per key.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], int], max_bytes: int = MAX_BYTES) -> None:
        self._path = Path(path)
        self._clock = clock
        self._pool = Pool(self._path)
        self._write_lock = threading.Lock()  # holds the writing connection
        self._queue_lock = threading.Lock()
        self._queue: list[_Turn] = []
        self._bells: defaultdict[str, Bell] = defaultdict(Bell)  # of each topic
        self._closed = False
        prepare(self._path)
        with log_errors(self._path):
            self._writer = connect(self._path, max_bytes=max_bytes)

    # --- topics ---

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """As the port says; a changed `retention_us` takes effect. Raises LogError, and then changes nothing, for a
        name or partition count out of bounds, fewer partitions than there are, or another `compacted`."""
        for spec in specs:
            check_spec(spec)
        with self._write_lock, log_errors(self._path):
            self._refuse_if_closed()
            with transaction(self._writer):
                for spec in specs:
                    self._create_topic(spec)

    def _create_topic(self, spec: TopicSpec) -> None:
        topic = find_topic(self._writer, spec.name)
        if topic is None:
            topic = self._create_table(spec)
        elif topic.compacted != spec.compacted:
            raise LogError(
                f"topic {spec.name} is {'' if topic.compacted else 'not '}compacted, and that cannot change: "
                "declare it as it is, or take another name"
            )
        there = len(bounds_of(self._writer, topic))
        if spec.partitions < there:
            raise LogError(
                f"topic {spec.name} has {there} partitions, not {spec.partitions}, and cannot lose any: set {there}"
            )
        self._writer.execute("UPDATE topics SET retention_us = ? WHERE id = ?", (spec.retention_us, topic.id))
        self._writer.executemany(
            "INSERT INTO partitions (topic, partition) VALUES (?, ?)",
            [(topic.id, partition) for partition in range(there, spec.partitions)],
        )

    def _create_table(self, spec: TopicSpec) -> Topic:
        row = self._writer.execute(
            "INSERT INTO topics (name, retention_us, compacted) VALUES (?, ?, ?) RETURNING id",
            (spec.name, spec.retention_us, spec.compacted),
        ).fetchone()
        topic = Topic(row[0], spec.name, spec.retention_us, spec.compacted)
        self._writer.execute(
            f"CREATE TABLE records_{topic.id} "
            "(position INTEGER PRIMARY KEY, appended_us INTEGER NOT NULL, key BLOB, headers, value BLOB)"
        )
        if topic.compacted:
            self._writer.execute(
                f"CREATE UNIQUE INDEX newest_{topic.id} ON records_{topic.id} (position >> {OFFSET_BITS}, key)"
            )
        return topic

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises LogError when there is no such topic."""
        return len(self.end_offsets(topic))

    # --- appending ---

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """As the port says. Appends of several threads that wait for the disk at the same time share one commit."""
        turn = _Turn(topic, messages, checked_bytes(topic, messages))
        if not messages:
            return []
        with self._queue_lock:
            self._queue.append(turn)
        with self._write_lock:
            if not turn.settled:  # else whoever had the lock before us has written ours with theirs
                self._write(self._next_group())
        self._bells[topic].ring()
        if turn.error is not None:
            raise turn.error
        return turn.places

    def _next_group(self) -> list[_Turn]:
        with self._queue_lock:
            size = count = 0
            for turn in self._queue:
                size += turn.size
                if count and size > _GROUP_BYTES:
                    break
                count += 1
            group, self._queue = self._queue[:count], self._queue[count:]
            return group

    def _write(self, group: Sequence[_Turn]) -> None:
        """Writes the turns in one transaction; where that fails for one of them, each in its own."""
        try:
            self._refuse_if_closed()
            with log_errors(self._path), transaction(self._writer):
                places = [self._insert(turn) for turn in group]
            for turn, of_turn in zip(group, places, strict=True):
                turn.settle(of_turn)
        except LogError as error:
            alone = len(group) == 1 or isinstance(error, LogUnavailable) or self._closed
            for turn in group:
                if alone:
                    turn.settle([], error)
                else:
                    self._write([turn])
        finally:
            for turn in group:
                if not turn.settled:  # this thread was interrupted; the others must not wait for it
                    turn.settle([], LogUnavailable("the writing thread was interrupted: append again"))

    def _insert(self, turn: _Turn) -> list[tuple[int, int]]:
        topic = require_topic(self._writer, turn.topic)
        ends = {partition: bounds.next_offset for partition, bounds in bounds_of(self._writer, topic).items()}
        now_us = self._clock()
        places: list[tuple[int, int]] = []
        rows = []
        for message in turn.messages:
            partition = _place(topic, message, len(ends))
            offset = ends[partition]
            ends[partition] = offset + 1
            places.append((partition, offset))
            appended_us = now_us if message.appended_us is None else message.appended_us
            rows.append(
                (position(partition, offset), appended_us, message.key, stored_headers(message.headers), message.value)
            )
        verb = "INSERT OR REPLACE" if topic.compacted else "INSERT"
        self._writer.executemany(f"{verb} INTO records_{topic.id} VALUES (?, ?, ?, ?, ?)", rows)
        self._writer.executemany(
            "UPDATE partitions SET next_offset = ? WHERE topic = ? AND partition = ?",
            [(ends[partition], topic.id, partition) for partition in {partition for partition, _ in places}],
        )
        return places

    # --- reading ---

    def consumer(self, topic: str, *, on_assign: OnAssign, on_revoke: OnRevoke | None = None) -> SqliteConsumer:
        """A consumer that owns all partitions of `topic`, and so never loses one: `on_revoke` is not called."""
        with self._pool.snapshot() as connection:
            return SqliteConsumer(self._pool, self._bells[topic], require_topic(connection, topic), on_assign)

    def begin_offsets(self, topic: str) -> dict[int, int]:
        """As the port says."""
        with self._pool.snapshot() as connection:
            found = require_topic(connection, topic)
            return {
                partition: oldest(connection, found, partition, bounds)
                for partition, bounds in bounds_of(connection, found).items()
            }

    def end_offsets(self, topic: str) -> dict[int, int]:
        """As the port says."""
        with self._pool.snapshot() as connection:
            bounds = bounds_of(connection, require_topic(connection, topic))
        return {partition: of_partition.next_offset for partition, of_partition in bounds.items()}

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> Records:
        """As the port says; from the oldest kept record on where `offset` is older, and at most 64 MiB of values."""
        with self._pool.snapshot() as connection:
            found = require_topic(connection, topic)
            bounds = bounds_of(connection, found).get(partition)
            if bounds is None:
                raise LogError(f"topic {topic} has no partition {partition}: ask `partitions` how many there are")
            wanted = range(max(0, offset), bounds.next_offset)
            return read_run(connection, found, partition, wanted, max_records=max_records, max_bytes=POLL_BYTES)

    # --- room ---

    def enforce_retention(self, now_us: int, keep_from: Mapping[tuple[str, int], int]) -> int:
        """Removes records older than their topic's retention and tombstones older than a day; returns how many.

        `keep_from`: (topic, partition) → the offset from which on nothing may go, because it is not committed
        downstream; a partition that is not named keeps all its records. Records go from the oldest on, up to the
        first that is young enough. Raises LogUnavailable. Works on a log that is full.
        """
        self._refuse_if_closed()
        removed = 0
        with log_errors(self._path):
            connection = connect(self._path)
            try:
                for topic in topics(connection):
                    if topic.compacted:
                        removed += self._remove_tombstones(connection, topic, now_us - TOMBSTONE_US)
                    if topic.retention_us is None:
                        continue
                    for partition in bounds_of(connection, topic):
                        limit = keep_from.get((topic.name, partition), 0)
                        removed += self._trim(connection, topic, partition, limit, now_us - topic.retention_us)
            finally:
                connection.close()
        return removed

    def _remove_tombstones(self, connection: sqlite3.Connection, topic: Topic, before_us: int) -> int:
        with self._write_lock:
            return connection.execute(
                f"DELETE FROM records_{topic.id} WHERE value IS NULL AND appended_us < ?", (before_us,)
            ).rowcount

    def _trim(self, connection: sqlite3.Connection, topic: Topic, partition: int, limit: int, before_us: int) -> int:
        removed = 0
        while True:
            with self._write_lock, transaction(connection):
                count, more = trim_some(connection, topic, partition, limit, before_us)
            removed += count
            if not more:
                return removed

    def close(self) -> None:
        """Whoever still uses the log or its consumers gets a LogError. Closing twice does nothing."""
        with self._write_lock:
            self._closed = True
            self._writer.close()
        self._pool.close()
        for bell in list(self._bells.values()):
            bell.ring()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise LogError(f"the log {self._path} is closed: open it again")


def _place(topic: Topic, message: Message, partitions: int) -> int:
    if topic.compacted and message.key is None:
        raise refuse_keyless(topic.name)
    return place_of(topic.name, message, partitions)
