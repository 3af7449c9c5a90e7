"""What a report's figures include: one snapshot of the lake, and how far behind the log it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from meterhouse.warehouse import catalogue
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor, Lake
from meterhouse.warehouse.reports.query import Query


@dataclass(frozen=True, slots=True)
class Committed:
    """How far a partition is in the lake."""

    partition: int
    next_offset: int
    arrived_us: int | None  # newest arrival committed


@dataclass(frozen=True, slots=True)
class Positions:
    """All partitions' positions in one snapshot of the lake. Worth keeping between reports: reading them costs as much
    as a report does (a small table per partition), and they stay true for as long as the snapshot is the newest."""

    snapshot: int
    committed: tuple[Committed, ...]


@dataclass(frozen=True, slots=True)
class Freshness:
    """What the caller knows of the log, since the lake does not: read the clock first, then the log, then report."""

    read_at_us: int  # the clock, before `end_offsets` was read
    end_offsets: Mapping[int, int]  # per partition, the offset that the next record will get
    waiting_since_us: Mapping[int, int] = field(default_factory=dict)
    """Per partition, where known: arrival of the first record that was not committed when the log was read."""
    positions: Positions | None = None
    """As read last: used again when the report's snapshot is still the same."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """Every event that arrived in the log before `watermark_us` is in the figures."""

    snapshot: int  # of the lake
    watermark_us: int | None  # None: unknown, since a partition has events but none of them is committed
    lag_us: int | None  # at most the age of the oldest event that is not in the figures; 0: none; None: unknown
    offsets: Mapping[int, int]  # per partition, the next offset to be committed


_MOST_KEPT: Final = 4
"""The newest snapshot, the one that is shown before it, and those that slow reads come with."""
_POSITIONS: Final = Query('SELECT "partition", next_offset, arrived_us FROM positions ORDER BY "partition"')


def positions_of(books: Books, cursor: Cursor, known: Positions | None = None) -> Positions:
    """The positions of the snapshot that `cursor` reads; `known` itself when it is of that snapshot."""
    snapshot = books.snapshot_id(cursor)
    if known is not None and known.snapshot == snapshot:
        return known
    return Positions(snapshot, tuple(Committed(*row) for row in _POSITIONS.rows(cursor)))


class KeptPositions:
    """Those of the last snapshots that somebody read as the newest ones. May be shared between threads."""

    def __init__(self) -> None:
        self._kept: dict[int, Positions] = {}  # by snapshot; never changed, but replaced

    def find(self, snapshot: int | None) -> Positions | None:
        return None if snapshot is None else self._kept.get(snapshot)

    def read(self, lake: Lake, cursor: Cursor) -> Positions:
        """Of the newest snapshot, which the cursor reads: from the catalogue, where that is sure of them."""
        snapshot, kept = lake.snapshot_id(cursor), self._kept
        if (found := kept.get(snapshot)) is None:
            rows = catalogue.positions(lake, cursor, snapshot)
            committed = positions_of(lake, cursor).committed if rows is None else tuple(Committed(*row) for row in rows)
            found = Positions(snapshot, committed)
            self._kept = {**dict([*kept.items()][1 - _MOST_KEPT :]), snapshot: found}
        return found


def as_of(books: Books, cursor: Cursor, freshness: Freshness | None) -> AsOf:
    """Of the snapshot that `cursor` reads. Without `freshness` the lag is unknown, and the watermark is what the
    slowest partition's newest commit tells."""
    return judged(positions_of(books, cursor, freshness.positions if freshness else None), freshness)


def judged(positions: Positions, freshness: Freshness | None) -> AsOf:
    """`as_of` without the lake.

    A partition read to its end tells of all arrivals up to the moment the end was read. Another one tells of arrivals
    before its first waiting record or, where that is unknown, before its newest committed one (records arrive in
    order of offset).
    """
    snapshot = positions.snapshot
    offsets = {position.partition: position.next_offset for position in positions.committed}
    arrived = {position.partition: position.arrived_us for position in positions.committed}
    if freshness is None:
        return AsOf(snapshot, _oldest([arrived[p] for p in offsets]), None, offsets)
    complete_until: list[int | None] = []
    for partition in sorted(offsets.keys() | freshness.end_offsets.keys()):
        if offsets.get(partition, 0) >= freshness.end_offsets.get(partition, 0):
            complete_until.append(freshness.read_at_us)
        else:
            complete_until.append(freshness.waiting_since_us.get(partition, arrived.get(partition)))
    watermark_us = _oldest(complete_until)
    lag_us = None if watermark_us is None else max(0, freshness.read_at_us - watermark_us)
    return AsOf(snapshot, watermark_us, lag_us, offsets)


def _oldest(times_us: list[int | None]) -> int | None:
    known = [time_us for time_us in times_us if time_us is not None]
    return min(known) if known and len(known) == len(times_us) else None
