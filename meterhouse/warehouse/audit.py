"""The audit log: who did what, append-only, each entry chained to the one before by its hash.

hash(n) = SHA-256 of hash(n - 1) and the entry as canonical JSON; hash(0) is 32 zero bytes. An entry is written in the
transaction of what it tells of: there is never the one without the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from meterhouse.warehouse.control import available
from meterhouse.warehouse.control_tables import AUDIT_HEAD, AUDIT_LOG
from meterhouse.warehouse.database import writing


@dataclass(frozen=True, slots=True)
class Deed:
    """What someone did. No secrets, no prompts: entries are never removed."""

    actor: str  # `Caller.id`, or the user of the machine
    action: str  # noun.verb: `control.applied`, `key.created`, `export.made`
    subject: str  # what it was done to: an id, a path
    detail: Mapping[str, Any] = field(default_factory=dict)  # JSON


class AuditLog:
    """The audit log of the database of `database.open_database`. May be shared between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def record(self, deed: Deed, at_us: int) -> None:
        """Writes an entry about what changes nothing in this database: an export. Raises ControlUnavailable."""
        with available(), writing(self._engine) as connection:
            append(connection, deed, at_us)


def append(connection: sa.Connection, deed: Deed, at_us: int) -> None:
    """Writes an entry within the caller's transaction, which must be one of `database.writing`. Entries are written
    one after the other: the head's row is the lock."""
    seq, before = connection.execute(sa.select(AUDIT_HEAD.c.seq, AUDIT_HEAD.c.hash).with_for_update()).one()
    entry = {
        "seq": seq + 1,
        "at_us": at_us,
        "actor": deed.actor,
        "action": deed.action,
        "subject": deed.subject,
        "detail": json.dumps(deed.detail, sort_keys=True, ensure_ascii=False, separators=(",", ":")),
    }
    digest = chained(before, entry)
    connection.execute(sa.insert(AUDIT_LOG).values(**entry, hash=digest))
    connection.execute(sa.update(AUDIT_HEAD).values(seq=seq + 1, hash=digest))


def chained(before: bytes, entry: Mapping[str, Any]) -> bytes:
    """The hash of an entry (seq, at_us, actor, action, subject, detail as its text) that follows `before`."""
    fields = [entry[name] for name in ("seq", "at_us", "actor", "action", "subject", "detail")]
    return hashlib.sha256(before + json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")).digest()
