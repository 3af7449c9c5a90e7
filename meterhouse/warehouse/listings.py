"""Listings: reports that someone reads page by page, and the lake snapshots that stay for them.

A listing is begun by its first page and names the lake snapshot that all its pages are read from. While it lasts
maintenance lets that snapshot be (`held`). Its row holds a key of its own, with which the tokens of its pages are
signed: what was not made here is told from what is over.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from meterhouse.warehouse.control_tables import LISTINGS as TABLE
from meterhouse.warehouse.database import available, reading, writing

LASTS_US: Final = 10 * 60 * 1_000_000
"""At least, from a listing's last page on: a person who reads a page comes back within it, a program in a second."""
_GIVEN_US: Final = 2 * LASTS_US  # so that only few pages write
MAX_LISTINGS: Final = 200
"""That last at once: each may hold a snapshot, and 100 snapshots cost a commit 8 ms. The one that was left alone
longest goes first."""
MAX_OF_HOLDER: Final = 50
"""Of those of one holder: nobody can end all others' listings by beginning many."""
_KNOWN_US: Final = 24 * 3_600 * 1_000_000
"""How long it is known that a listing was: its tokens say `gone` until then, and are unknown after."""
_MAX_KNOWN: Final = 10_000
"""Rows of half a kilobyte, whatever is asked of the server."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One report that is read page by page."""

    holder: str  # who sees it: a digest of their view
    bound: str  # what was asked: a digest of the query
    lake_snapshot: int
    control_version: int | None  # None: it does not depend on it
    freshness: Mapping[str, Any]  # what the first page knew of the log (JSON)
    id: bytes = field(default_factory=lambda: secrets.token_bytes(12))
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    until_us: int = 0  # as it was found; it is not stored from here


class Listings:
    """Listings in the database of `database.open_database`. Every method raises ControlUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def begin(self, listing: Listing, now_us: int) -> None:
        """It lasts from now on. Where there are too many, others end."""
        columns = TABLE.c
        row = {**asdict(listing), "id": listing.id.hex(), "until_us": now_us + _GIVEN_US}
        with available(), writing(self._engine) as connection:
            connection.execute(sa.delete(TABLE).where(columns.until_us <= now_us - _KNOWN_US))
            _keep_newest(connection, sa.true(), MAX_LISTINGS - 1, now_us)
            _keep_newest(connection, columns.holder == listing.holder, MAX_OF_HOLDER - 1, now_us)
            by_age = sa.select(columns.until_us).order_by(columns.until_us.desc())
            oldest = connection.execute(by_age.offset(_MAX_KNOWN - 1).limit(1)).scalar()
            if oldest is not None:
                connection.execute(sa.delete(TABLE).where(columns.until_us <= oldest))
            connection.execute(sa.insert(TABLE).values(row))

    def find(self, id_: bytes) -> Listing | None:
        """The listing, also when it is over; None: there never was one, or it is forgotten."""
        with available(), reading(self._engine) as connection:
            row = connection.execute(sa.select(TABLE).where(TABLE.c.id == id_.hex())).mappings().first()
        if row is None:
            return None
        return Listing(**{**row, "id": id_})

    def go_on(self, listing: Listing, now_us: int) -> bool:
        """Lets it last for LASTS_US more; False: it is over."""
        if listing.until_us >= now_us + LASTS_US:
            return True
        lasting = sa.and_(TABLE.c.id == listing.id.hex(), TABLE.c.until_us > now_us)
        with available(), writing(self._engine) as connection:
            return connection.execute(sa.update(TABLE).where(lasting).values(until_us=now_us + _GIVEN_US)).rowcount == 1

    def held(self, now_us: int) -> frozenset[int]:
        """The lake snapshots that listings are read from."""
        with available(), reading(self._engine) as connection:
            found = connection.execute(sa.select(TABLE.c.lake_snapshot).distinct().where(TABLE.c.until_us > now_us))
            return frozenset(found.scalars())


def _keep_newest(connection: sa.Connection, whose: sa.ColumnElement[bool], count: int, now_us: int) -> None:
    lasting = sa.and_(whose, TABLE.c.until_us > now_us)
    ids = connection.execute(sa.select(TABLE.c.id).where(lasting).order_by(TABLE.c.until_us.desc())).scalars().all()
    if len(ids) > count:
        connection.execute(sa.update(TABLE).where(TABLE.c.id.in_(ids[count:])).values(until_us=now_us))
