"""What retention removed, as reports tell it: never as nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from meterhouse.streams.control import Snapshot
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection, charges_where, datetime_of
from meterhouse.warehouse.reports.query import DAY_US, Piece, Query, between

OF_CHARGES: Final = "disposition NOT IN ('informational', 'rejected')"
"""Rows of `removed` that were charges."""
OF_REQUESTS: Final = "disposition <> 'rejected'"
"""And those that were charges or node events."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Charges that are no longer there, of whole days."""

    requests: int
    cost: Decimal
    until_us: int  # the end of the newest of these days


def removed_charges(cursor: Cursor, snapshot: Snapshot, selection: Selection) -> Removed | None:
    """What was removed of the days of UTC that a selection touches. None: nothing was."""
    days = between(selection.from_us // DAY_US * DAY_US, selection.to_us) & charges_where(selection, snapshot)
    sql = (
        'SELECT sum(requests), sum(cost), epoch_us(max("time")) FROM removed'
        f" WHERE {OF_CHARGES} AND {days.sql} HAVING count(*) > 0"
    )
    rows = Query(sql, days.params).rows(cursor)
    return Removed(int(rows[0][0]), rows[0][1], int(rows[0][2]) + DAY_US) if rows else None


def check_there(cursor: Cursor, from_us: int, to_us: int, what: str = OF_CHARGES) -> None:
    """Raises ReportError when rows of [from_us, to_us) were removed: for a report that is made from them alone."""
    first_us = from_us // DAY_US * DAY_US
    days = between(first_us, to_us)
    asked = Query(f"SELECT 1 FROM removed WHERE {what} AND {days.sql} LIMIT 1", days.params)
    if asked.table(cursor, ("removed", first_us, to_us)).num_rows:
        [(newest_us,)] = Query(f'SELECT epoch_us(max("time")) FROM removed WHERE {what}').rows(cursor)
        end = datetime_of(newest_us + DAY_US).date().isoformat()
        raise ReportError(
            f"this is made from single requests, and retention removed those before {end}: ask from {end} on. Sums of"
            " whole minutes, as `chargeback` and `usage` have, are there for ever"
        )


def check_pieces(cursor: Cursor, parts: Iterable[Piece]) -> None:
    """The same of a report's pieces that no roll-up has: less than whole minutes."""
    for part in parts:
        if part.table == "charges":
            check_there(cursor, part.from_us, part.to_us)
