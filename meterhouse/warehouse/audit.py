"""The audit log: who did what, append-only, each entry chained to the one before (`audit_chain`).

An entry is written in the transaction of what it tells of: there is never the one without the other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from meterhouse.streams.alerts import storable
from meterhouse.warehouse.audit_chain import BadDeed, Deed, Entry, Head, Told, Verification, entry_of, verified
from meterhouse.warehouse.control_tables import AUDIT_HEAD, AUDIT_LOG
from meterhouse.warehouse.database import available, reading, writing

__all__ = ["UNKNOWN", "AuditFilter", "AuditLog", "BadDeed", "Deed", "Entry", "Head", "append"]

UNKNOWN: Final = "unknown"
"""The actor of a deed whose doer has no name."""
_BATCH: Final = 1_000
"""Entries that a check holds at a time: at most some 20 MB."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are asked for; None: any. A range is half-open, of microseconds."""

    from_us: int | None = None
    to_us: int | None = None
    actor: str | None = None
    action: str | None = None


def append(connection: sa.Connection, deed: Deed, at_us: int) -> None:
    """Writes an entry within the caller's transaction, which must be one of `database.writing`, as its last statements.
    Entries are written one after the other: the head's row is the lock, held until the transaction ends."""
    head = connection.execute(sa.select(AUDIT_HEAD.c.seq, AUDIT_HEAD.c.hash).with_for_update()).one()
    entry = entry_of(Head(*head), deed, at_us)
    connection.execute(sa.insert(AUDIT_LOG).values(asdict(entry)))
    connection.execute(sa.update(AUDIT_HEAD).values(seq=entry.seq, hash=entry.hash))


class AuditLog:
    """The audit log of the database of `database.open_database`. May be shared between threads. Every method raises
    ControlUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def record(self, deed: Deed, at_us: int) -> None:
        """Writes an entry about what changes nothing in this database: an export, a refused key."""
        with available(), writing(self._engine) as connection:
            append(connection, deed, at_us)

    def head(self) -> Head:
        """The newest entry: one small read."""
        with available(), reading(self._engine) as connection:
            return _head(connection)

    def page(self, matching: AuditFilter, before: int | None, limit: int) -> list[Entry]:
        """At most `limit` entries that match, the newest first; `before`: only those older than this one."""
        query = sa.select(AUDIT_LOG).where(*_conditions(matching)).order_by(AUDIT_LOG.c.seq.desc()).limit(limit)
        if before is not None:
            query = query.where(AUDIT_LOG.c.seq < before)
        with available(), reading(self._engine) as connection:
            return [Entry(**row) for row in connection.execute(query).mappings()]

    def verify(self, heads: Iterable[Head], told: Told | None = None) -> Verification:
        """Checks every entry in one pass (`audit_chain.verified`). `heads` must have been read before this begins: one
        that was written later may tell of entries that this does not see."""
        with available(), reading(self._engine) as connection, closing(_entries(connection)) as entries:
            return verified(entries, _head(connection), heads, told)


def _conditions(matching: AuditFilter) -> list[sa.ColumnElement[bool]]:
    columns, found = AUDIT_LOG.c, list[sa.ColumnElement[bool]]()
    if matching.from_us is not None:
        found.append(columns.at_us >= matching.from_us)
    if matching.to_us is not None:
        found.append(columns.at_us < matching.to_us)
    if matching.actor is not None:
        found.append(columns.actor == storable(matching.actor))
    if matching.action is not None:
        found.append(columns.action == storable(matching.action))
    return found


def _head(connection: sa.Connection) -> Head:
    row = connection.execute(sa.text("SELECT seq, hash FROM audit_head")).first()
    return Head(-1, b"") if row is None else Head(*row)


def _entries(connection: sa.Connection) -> Generator[Entry, None, None]:
    """All entries by seq, as they are: whoever altered the file may have put anything in any column, and text that is
    none. So texts are read as bytes, and nothing is converted on the way."""
    text = "convert_to({0}, 'UTF8')"
    if connection.dialect.name == "sqlite":
        text = "CASE typeof({0}) WHEN 'text' THEN CAST({0} AS BLOB) END"
    texts = ", ".join(text.format(name) for name in ("actor", "action", "subject", "detail"))
    query = sa.text(f"SELECT seq, at_us, {texts}, hash FROM audit_log ORDER BY seq")
    with connection.execution_options(yield_per=_BATCH).execute(query) as rows:
        for seq, at_us, *told, digest in rows:
            actor, action, subject, detail = map(_decoded, told)
            yield Entry(seq, at_us, actor, action, subject, detail, digest)


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
