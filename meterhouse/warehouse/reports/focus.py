"""The FOCUS export: what was billed as rows of FOCUS 1.4 Cost and Usage, some days at a time, all of one snapshot.

A row is tenant × application × provider and model × token kind × hour × price, so that in each row unit price ×
quantity = cost, exactly. Usage without a price yet makes no row, since it is not free: it is counted beside them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.streams.money import pico_sum, to_pico
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.chargeback import Figures, billed_total
from meterhouse.warehouse.reports.errors import BooksError, ReportError
from meterhouse.warehouse.reports.focus_columns import COST, TOKENS, csv_sql, typed_sql
from meterhouse.warehouse.reports.focus_query import FocusQuery
from meterhouse.warehouse.reports.groups import Selection, check_range, floor_sql
from meterhouse.warehouse.reports.query import DAY_US, REQUESTS, Condition, facts, pieces
from meterhouse.warehouse.reports.removed import check_there

MAX_DAYS: Final = 366
"""Of one export: a year, the longest that books are kept for as one."""
PART_REQUESTS: Final = 1_000_000
"""Of the days that one query reads, unless a single day has more: it is a second's work, so that rows begin to come
soon and the memory does not grow with the range. A query for each day would take a second for every twenty."""
BATCH_ROWS: Final = 4_096
"""Of a piece: some 3 MB of CSV, what is held at a time beside DuckDB's own memory."""

Part = tuple[int, int]
"""[from_us, to_us): days of UTC, or what of them is in the range."""


@dataclass(slots=True)
class FocusExport:
    """An export under way: what it will add up to, and how far it is."""

    query: FocusQuery
    total: Figures  # of the chargeback report over the same range, from the roll-ups
    as_of: AsOf
    parts: Sequence[Part]
    cursor: Cursor
    rows: int = 0
    cost_pico: int = 0
    tokens: int = 0
    parts_done: int = 0

    def typed(self) -> Iterator[pa.RecordBatch]:
        """Rows of `focus_columns.COLUMNS`, at most BATCH_ROWS at a time; at least one batch, if an empty one.

        Raises BooksError at the end, when they do not add up to the chargeback.
        """
        return self._batches(typed_sql())

    def lines(self) -> Iterator[str]:
        """The same rows as lines of CSV, without a header."""
        for batch in self._batches(csv_sql()):
            yield "".join(str(line) for line in batch.column(0).to_pylist())

    def _batches(self, columns: str) -> Iterator[pa.RecordBatch]:
        for number, part in enumerate(self.parts):
            reader = self.query.of(*part, columns).batches(self.cursor, BATCH_ROWS)
            if number == 0:
                yield pa.RecordBatch.from_pylist([], reader.schema)
            for batch in reader:
                self._count(batch)
                yield batch
            self.parts_done += 1
        self._check()

    def _count(self, batch: pa.RecordBatch) -> None:
        self.rows += len(batch)
        self.cost_pico += pico_sum(batch[COST])
        self.tokens += int(pc.sum(batch[TOKENS]).as_py() or 0)

    def _check(self) -> None:
        """Rows come from the charges, the total from the roll-ups: they can only agree when all is there once."""
        cost, tokens = to_pico(self.total.cost), sum(self.total.tokens.values())
        if (self.cost_pico, self.tokens) != (cost, tokens):
            raise BooksError(
                f"the export's rows add up to {self.cost_pico} pico-units and {self.tokens} tokens, the chargeback to"
                f" {cost} and {tokens}: run `meterhouse verify`, which names the rows that differ"
            )


@contextmanager
def focus(books: Books, query: FocusQuery, freshness: Freshness | None = None) -> Iterator[FocusExport]:
    """An export, within one read: all its rows are of one snapshot of the lake.

    A range that begins or ends within an hour has a row for the part of the hour that is in it; its charge period is
    that part. Raises ReportError on an empty range or one of more than MAX_DAYS, LakeUnavailable, and SnapshotExpired
    when it lasted longer than snapshots are kept.
    """
    selection = query.selection
    check_range(selection.from_us, selection.to_us)
    if selection.to_us - selection.from_us > MAX_DAYS * DAY_US:
        raise ReportError(f"an export has at most {MAX_DAYS} days: ask for a year at a time")
    with books.read() as cursor:
        check_there(cursor, selection.from_us, selection.to_us)
        total = billed_total(cursor, query.control, selection)
        yield FocusExport(query, total, as_of(books, cursor, freshness), _parts(cursor, selection), cursor)


def _parts(cursor: Cursor, selection: Selection) -> list[Part]:
    """The range, cut at midnights of UTC so that a part has about PART_REQUESTS. All of the range is in some part,
    whatever the roll-ups say of its size."""
    start_us, end_us = selection.from_us, selection.to_us
    by_day = facts(pieces(start_us, end_us), {"day_us": floor_sql(DAY_US)}, (REQUESTS,), Condition())
    requests: defaultdict[int, int] = defaultdict(int)
    for day_us, count in by_day.rows(cursor):
        requests[day_us] += count
    cuts, size = [start_us], 0
    for day_us in sorted(requests):
        if size and size + requests[day_us] > PART_REQUESTS:
            cuts.append(day_us)
            size = 0
        size += requests[day_us]
    return list(itertools.pairwise([*cuts, end_us]))
