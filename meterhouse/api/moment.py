"""A moment of the books, for who asks the functions of `warehouse.reports` themselves."""

from __future__ import annotations

from dataclasses import dataclass

from meterhouse.streams.control import Snapshot
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import Freshness


@dataclass(frozen=True, slots=True)
class Moment:
    """What the functions of `warehouse.reports` are asked with, all of one moment: figures of several of them agree."""

    books: Books
    control: Snapshot  # with the rate cards that others took the place of: charges may name them
    freshness: Freshness

    @property
    def at_us(self) -> int:
        """When it was, microseconds."""
        return self.freshness.read_at_us
