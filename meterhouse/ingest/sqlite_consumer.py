"""The consumer of the embedded log: one that owns all partitions of its topic."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping
from typing import Final

from meterhouse.ingest.log import LogError, OnAssign, Records
from meterhouse.ingest.sqlite_file import Pool
from meterhouse.ingest.sqlite_rows import Bounds, Topic, bounds_of, read_run

POLL_BYTES: Final = 64 * 1024**2
"""Of values in one poll: 150,000 events, a tenth of the memory that a meter may use once they are decoded."""
LOOK_S: Final = (0.002, 0.020)
"""Between two looks for another process's appends: short after there was something, growing by a quarter each time that
there is nothing. A look costs 30 µs, a wake-up more; 20 ms leave most of the 50 ms from event to budget state."""


class Bell:
    """Wakes the consumers of a topic when something was appended to it in this process."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0

    @property
    def rings(self) -> int:
        """Read it before looking at the log, then `wait` for the next: a ring in between is not missed."""
        return self._rings

    def ring(self) -> None:
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def wait(self, rings: int, timeout_s: float) -> None:
        """Until the bell has rung more often than `rings` times, or `timeout_s` has passed."""
        with self._condition:
            self._condition.wait_for(lambda: self._rings != rings, timeout_s)


class SqliteConsumer:
    """Reads all partitions of one topic, in turn, so that none starves."""

    def __init__(self, pool: Pool, bell: Bell, topic: Topic, on_assign: OnAssign) -> None:
        self._pool = pool
        self._bell = bell
        self._topic = topic
        self._on_assign = on_assign
        self._next: dict[int, int] = {}
        self._last_served = -1
        self._look_s = LOOK_S[0]
        self._closed = False

    def poll(self, max_records: int, timeout_s: float) -> list[Records]:
        """As the port says, at most 64 MiB of values (and one record more).

        Sees appends of this process's log at once, those of others within 20 ms. Raises LogError when the record to
        read next is not there to read: removed by retention, or beyond the end of the log.
        """
        if max_records < 1:
            raise ValueError(f"max_records is {max_records}: ask for at least one")
        if self._closed:
            raise LogError("the consumer is closed: make a new one")
        deadline = time.monotonic() + timeout_s
        while True:
            rings = self._bell.rings
            runs = self._take(max_records)
            left_s = deadline - time.monotonic()
            if runs:
                self._look_s = LOOK_S[0]
            if runs or left_s <= 0:
                return runs
            self._bell.wait(rings, min(left_s, self._look_s))
            self._look_s = min(self._look_s * 1.25, LOOK_S[1])

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self._next:
            raise LogError(f"partition {partition} of {self._topic.name} is not assigned: seek after `on_assign`")
        self._next[partition] = offset

    def assignment(self) -> frozenset[int]:
        return frozenset(self._next)

    def close(self) -> None:
        """Calls nothing; closing twice does nothing."""
        self._closed = True
        self._next = {}

    def _take(self, max_records: int) -> list[Records]:
        while True:
            with self._pool.snapshot() as connection:
                bounds = bounds_of(connection, self._topic)
                added = frozenset(bounds.keys() - self._next.keys())
                if not added:
                    runs = self._read(connection, bounds, max_records)
                    # No runs before the end: compaction has removed what was next; others may wait behind it.
                    if runs or all(wanted == bounds[p].next_offset for p, wanted in self._next.items()):
                        return runs
                    continue
            # Outside of the transaction: the callback may use the log.
            starts = self._on_assign(added)
            for partition in added:
                if partition not in starts:
                    raise LogError(f"on_assign gave no offset for partition {partition}: give one for each")
                self._next[partition] = starts[partition]

    def _read(self, connection: sqlite3.Connection, bounds: Mapping[int, Bounds], max_records: int) -> list[Records]:
        for partition, wanted in self._next.items():
            _check_wanted(self._topic, partition, wanted, bounds[partition])
        backlog = {p: bounds[p].next_offset - wanted for p, wanted in self._next.items()}
        waiting = sorted((p for p in backlog if backlog[p]), key=lambda p: (p <= self._last_served, p))[:max_records]
        shares = fair_shares({p: backlog[p] for p in waiting}, max_records)
        runs: list[Records] = []
        left_bytes = POLL_BYTES
        for served, partition in enumerate(waiting):
            if left_bytes <= 0:
                break
            run = read_run(
                connection,
                self._topic,
                partition,
                range(self._next[partition], bounds[partition].next_offset),
                max_records=shares[partition],
                max_bytes=left_bytes // (len(waiting) - served) or 1,
            )
            self._last_served = partition
            # Nothing there: compaction has removed the rest.
            self._next[partition] = run.next_offset if run else bounds[partition].next_offset
            if run:
                runs.append(run)
                left_bytes -= sum(len(value) for value in run.values if value is not None)
        return runs


def fair_shares(backlog: Mapping[int, int], total: int) -> dict[int, int]:
    """How many of `total` records each partition may give: all get the same, but none more than its backlog, and what
    the small ones leave goes to the large ones. With `total` >= the number of partitions each gets at least one."""
    shares = {}
    for done, partition in enumerate(sorted(backlog, key=lambda p: backlog[p])):
        shares[partition] = min(backlog[partition], total // (len(backlog) - done))
        total -= shares[partition]
    return shares


def _check_wanted(topic: Topic, partition: int, wanted: int, bounds: Bounds) -> None:
    """Nothing may be skipped in silence: a reader whose next record is gone has to stop."""
    place = f"{topic.name} partition {partition}"
    if wanted < bounds.kept_from:
        raise LogError(
            f"{place}: records {wanted} to {bounds.kept_from - 1} were removed by retention before they were read "
            f"here. Restore the log from a backup or, if they may be given up, read from {bounds.kept_from}"
        )
    if wanted > bounds.next_offset:
        raise LogError(
            f"{place}: offset {wanted} is wanted, but the log ends at {bounds.next_offset}. It is not the log that was "
            f"read before: name the right file or, if this one is right, read from {bounds.next_offset}"
        )
