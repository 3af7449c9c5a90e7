"""Erasures in the control database: whose rows were erased, and until when what arrived is without them.

Users are digests under a key that is kept beside them: nobody reads an id out of it, and a meter that finds the same id
in an event of before knows it again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Final

import sqlalchemy as sa

from meterhouse.streams.ledger import LedgerUnavailable, Processed
from meterhouse.warehouse.audit import Deed, append
from meterhouse.warehouse.control_tables import ERASURE_KEY, ERASURES, REJECT_RESOLUTIONS
from meterhouse.warehouse.database import ControlUnavailable, available, reading, writing
from meterhouse.warehouse.erasing import Erased, digest, payload_names, without

_AWAY_S: Final = 10.0
"""Not asked again for so long where it did not answer: commits would wait for its time-out, each."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One user's."""

    tenant: str
    digest: str
    begun_us: int  # what arrived until then is without them
    done_us: int | None  # None: it was begun, and must be asked for again
    by: str


class Erasures:
    """Erasures in the database of `database.open_database`. May be shared between threads. Methods raise
    ControlUnavailable, but for `erased`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._last: Erased | None = None
        self._again_s = 0.0

    def begin(self, tenant: str, user: str, by: str, now_us: int) -> tuple[Erasure, bytes]:
        """From now on meters leave the user out of what arrived until now. Gives the key of digests as well."""
        with available(), writing(self._engine) as connection:
            key = connection.execute(sa.select(ERASURE_KEY.c.key)).scalar()
            if key is None:
                key = secrets.token_bytes(32)
                connection.execute(sa.insert(ERASURE_KEY).values(id=1, key=key))
            made = Erasure(tenant, digest(key, tenant, user), now_us, None, by)
            same = sa.and_(ERASURES.c.tenant == tenant, ERASURES.c.digest == made.digest)
            connection.execute(sa.delete(ERASURES).where(same))
            row = {"tenant": tenant, "digest": made.digest, "begun_us": now_us, "done_us": None, "by": by}
            connection.execute(sa.insert(ERASURES).values(row))
        return made, key

    def end(self, erasure: Erasure, user: str, rows: dict[str, int], now_us: int) -> int:
        """It is done: its entry in the audit log says of how many rows. Takes away the bytes of repairs that name the
        user, too, and gives their number."""
        same = sa.and_(ERASURES.c.tenant == erasure.tenant, ERASURES.c.digest == erasure.digest)
        with available(), writing(self._engine) as connection:
            repairs = _without_repairs(connection, user)
            connection.execute(sa.update(ERASURES).where(same).values(done_us=now_us))
            detail = {**rows, "repairs": repairs}
            append(connection, Deed(erasure.by, "user.erased", f"{erasure.tenant}/{erasure.digest}", detail), now_us)
        return repairs

    def erased(self) -> Erased:
        """What meters leave out: as the database says or, while it is away, as it said last. Raises ControlUnavailable
        where it never did."""
        with self._lock:
            if self._last is not None and monotonic() < self._again_s:
                return self._last
            try:
                self._last = self._read()
            except ControlUnavailable:
                if self._last is None:
                    raise
                self._again_s = monotonic() + _AWAY_S
            return self._last

    def cleaned(self, unit: Processed) -> Processed:
        """A meter's unit as it may be committed. Raises LedgerUnavailable where it is not known."""
        try:
            return without(unit, self.erased())
        except ControlUnavailable as away:
            raise LedgerUnavailable(f"nothing was committed: it is not known who was erased ({away})") from None

    def _read(self) -> Erased:
        with available(), reading(self._engine) as connection:
            rows = connection.execute(sa.select(ERASURES.c.tenant, ERASURES.c.digest, ERASURES.c.begun_us)).all()
            key = connection.execute(sa.select(ERASURE_KEY.c.key)).scalar() if rows else None
        return Erased(key or b"", {(tenant, hashed): begun_us for tenant, hashed, begun_us in rows})


def _without_repairs(connection: sa.Connection, user: str) -> int:
    columns = REJECT_RESOLUTIONS.c
    place = (columns.topic, columns.partition, columns.offset, columns.index)
    query = sa.select(*place, columns.sent).where(columns.sent.is_not(None), columns.state == "done")
    found = [row[:4] for row in connection.execute(query) if payload_names(row[4], user)]
    for row in found:
        here = sa.and_(*(column == value for column, value in zip(place, row, strict=True)))
        connection.execute(sa.update(REJECT_RESOLUTIONS).where(here).values(sent=None))
    return len(found)
