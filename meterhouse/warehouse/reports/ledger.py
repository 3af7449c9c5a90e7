"""The ledger by partition: how far each is in the lake, and what became of every event that was read (law 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterhouse.streams.ledger import Counts
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake_schema import COUNTS
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.query import Query


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One partition. `counts`: since its first record."""

    partition: int
    next_offset: int
    waiting: int  # records of the log that the lake does not hold yet
    arrived_us: int | None  # newest arrival committed
    counts: Counts


@dataclass(frozen=True, slots=True)
class LedgerReport:
    lines: tuple[LedgerLine, ...]  # of all partitions, those too of which nothing is committed
    total: Counts
    as_of: AsOf


_QUERY: Final = Query(
    f'SELECT "partition", next_offset, arrived_us, {", ".join(f"{name}" for name in COUNTS)} FROM positions'
)


def ledger(books: Books, fresh: Freshness) -> LedgerReport:
    with books.read() as cursor:
        rows = {row[0]: row[1:] for row in _QUERY.rows(cursor)}
        figures_as_of = as_of(books, cursor, fresh)
    lines = []
    for partition in sorted(rows.keys() | fresh.end_offsets.keys()):
        next_offset, arrived_us, *counts = rows.get(partition, (0, None))
        waiting = max(0, fresh.end_offsets.get(partition, next_offset) - next_offset)
        lines.append(LedgerLine(partition, next_offset, waiting, arrived_us, Counts(*counts)))
    return LedgerReport(tuple(lines), sum((line.counts for line in lines), Counts()), figures_as_of)


def became(counts: Counts) -> int:
    """Events of which it is known what they became: by law 1, as many as were read."""
    return counts.accepted + counts.duplicates + counts.rejected + counts.forwarded
