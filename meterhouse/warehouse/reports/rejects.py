"""Rejects: events that were not taken, newest first, with their bytes, a page at a time."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.query import Condition, Query

MAX_PAGE: Final = 1_000
"""Rejects on one page: payloads are mostly below a kilobyte, and at most what the log takes as a record."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a reject stands in the order of arrival: the keyset that a page begins after."""

    arrived_us: int
    partition: int
    offset: int
    index: int  # -1: the whole record

    def to_token(self) -> str:
        """An opaque text for `after`; `Place.from_token` reads it."""
        return f"{self.arrived_us}.{self.partition}.{self.offset}.{self.index}"

    @classmethod
    def from_token(cls, token: str) -> Place:
        try:
            arrived_us, partition, offset, index = map(int, token.split("."))
        except ValueError:
            raise ReportError(f"{token!r} is no page token: send back `next` of the page before, unchanged") from None
        return cls(arrived_us, partition, offset, index)


@dataclass(frozen=True, slots=True)
class RejectLine:
    topic: str
    place: Place
    reason: str
    detail: str
    tenant: str | None
    payload: bytes

    def payload_text(self) -> tuple[str, str]:
        """(text, encoding): the payload as it is when it is UTF-8, else in base64; encoding is `utf-8` or `base64`."""
        try:
            return self.payload.decode(), "utf-8"
        except UnicodeDecodeError:
            return base64.b64encode(self.payload).decode("ascii"), "base64"


@dataclass(frozen=True, slots=True)
class Rejects:
    lines: tuple[RejectLine, ...]
    next: Place | None  # `after` of the next page; None: this is the last
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class RejectFilter:
    """What rejects to list; all that is set must match. Times are of arrival, [from_us, to_us)."""

    from_us: int | None = None
    to_us: int | None = None
    reasons: Sequence[str] = ()
    tenant: str | None = None
    at: tuple[str, int, int, int] | None = None  # topic, partition, offset, index of one


def rejects(
    books: Books,
    matching: RejectFilter,
    after: Place | None = None,
    limit: int = 100,
    freshness: Freshness | None = None,
) -> Rejects:
    """A page of up to `limit` rejects, newest arrival first. Raises ReportError when `limit` is not 1 .. MAX_PAGE."""
    if not 1 <= limit <= MAX_PAGE:
        raise ReportError(f"a page has 1 to {MAX_PAGE} rejects, not {limit}")
    with books.read() as cursor:
        rows = rejects_query(matching, after, limit + 1).rows(cursor)
        figures_as_of = as_of(books, cursor, freshness)
    lines = tuple(_line(row) for row in rows[:limit])
    return Rejects(lines, lines[-1].place if len(rows) > limit else None, figures_as_of)


def rejects_query(matching: RejectFilter, after: Place | None, limit: int) -> Query:
    condition = Condition("true")
    if matching.from_us is not None:
        condition &= Condition("arrived >= make_timestamptz($from_us::BIGINT)", {"from_us": matching.from_us})
    if matching.to_us is not None:
        condition &= Condition("arrived < make_timestamptz($to_us::BIGINT)", {"to_us": matching.to_us})
    if matching.reasons:
        condition &= Condition("list_contains($reasons::VARCHAR[], reason)", {"reasons": list(matching.reasons)})
    if matching.tenant is not None:
        condition &= Condition("tenant = $tenant::VARCHAR", {"tenant": matching.tenant})
    if matching.at is not None:
        names = ("at_topic", "at_partition", "at_offset", "at_index")
        condition &= Condition(
            'topic = $at_topic::VARCHAR AND "partition" = $at_partition::INTEGER'
            ' AND "offset" = $at_offset::BIGINT AND "index" = $at_index::INTEGER',
            dict(zip(names, matching.at, strict=True)),
        )
    if after is not None:
        condition &= Condition(
            "arrived <= make_timestamptz($after_us::BIGINT)"
            ' AND (epoch_us(arrived), "partition", "offset", "index")'
            " < ($after_us::BIGINT, $after_partition::INTEGER, $after_offset::BIGINT, $after_index::INTEGER)",
            {
                "after_us": after.arrived_us,
                "after_partition": after.partition,
                "after_offset": after.offset,
                "after_index": after.index,
            },
        )
    return Query(
        'SELECT topic, epoch_us(arrived), "partition", "offset", "index", reason, detail, tenant, payload'
        f' FROM rejects WHERE {condition.sql} ORDER BY arrived DESC, "partition" DESC, "offset" DESC, "index" DESC'
        " LIMIT $page::BIGINT",
        {**condition.params, "page": limit},
    )


def _line(row: Sequence[Any]) -> RejectLine:
    topic, arrived_us, partition, offset, index, reason, detail, tenant, payload = row
    return RejectLine(topic, Place(arrived_us, partition, offset, index), reason, detail, tenant, payload)
