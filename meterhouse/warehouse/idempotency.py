"""Writes that may be sent again: what was answered to each, by caller and key, in the control database.

An answer is kept in the transaction of the write that it tells of. Who sends the same again, after a crash or beside
the first, is answered the same, and nothing is done twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import sqlalchemy as sa

from meterhouse.warehouse.control_tables import IDEMPOTENCY_KEYS as TABLE
from meterhouse.warehouse.database import Along, available, reading

KEPT_US: Final = 86_400 * 1_000_000
"""A day: whoever does not know by then what became of a write looks, and does not send it again."""
MAX_BODY_BYTES: Final = 64 * 2**10
"""Of an answer that is kept: what a write answers is one thing of a few texts."""
_SWEPT: Final = 100
"""Rows that are over and go with each new one: more than come, and too few to be felt."""

Keep = Callable[[Mapping[str, Any]], Along]
"""Takes the answer to a write, and gives what keeps it within the write's transaction."""


class Repeated(Exception):
    """Another process did this write meanwhile: the transaction was rolled back, and its answer is there."""


class Underway(Exception):
    """The same write is being done by this process."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was answered to a write. `digest`: of what was asked. `body` None: it held a secret, and was not kept."""

    digest: bytes
    status: int
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Write:
    """A write of a caller under its key."""

    caller: str
    key: str


class IdempotencyKeys:
    """Answers in the database of `database.open_database`. May be shared between threads. Raises ControlUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        dialect = import_module(f"sqlalchemy.dialects.{engine.dialect.name}")
        insert = dialect.insert(TABLE).on_conflict_do_nothing(index_elements=["caller", "key"])
        self._insert_new = insert.returning(TABLE.c.at_us)
        self._underway: set[Write] = set()
        self._lock = threading.Lock()

    def find(self, write: Write, now_us: int) -> Kept | None:
        """What was answered to it within the last KEPT_US."""
        query = sa.select(TABLE.c.digest, TABLE.c.status, TABLE.c.body).where(
            _is(write), TABLE.c.at_us > now_us - KEPT_US
        )
        with available(), reading(self._engine) as connection:
            row = connection.execute(query).first()
        return None if row is None else Kept(*row)

    @contextmanager
    def doing(self, write: Write) -> Iterator[None]:
        """While it is being done. Raises Underway: it is already, by this process. (Another process's is met at its
        end, as Repeated.)"""
        with self._lock:
            if write in self._underway:
                raise Underway
            self._underway.add(write)
        try:
            yield
        finally:
            with self._lock:
                self._underway.discard(write)

    def keeping(self, write: Write, kept: Kept, now_us: int) -> Along:
        """Keeps an answer within the write's transaction. Raises Repeated there: it was done meanwhile."""
        if kept.body is not None and len(kept.body) > MAX_BODY_BYTES:
            raise AssertionError(f"an answer of {len(kept.body):,} bytes is not kept: at most {MAX_BODY_BYTES:,} are")

        def along(connection: sa.Connection) -> None:
            over = TABLE.c.at_us <= now_us - KEPT_US
            oldest = sa.select(TABLE.c.caller, TABLE.c.key).where(over).order_by(TABLE.c.at_us).limit(_SWEPT)
            connection.execute(sa.delete(TABLE).where(over, _is(write)))
            connection.execute(sa.delete(TABLE).where(sa.tuple_(TABLE.c.caller, TABLE.c.key).in_(oldest)))
            row = {
                "caller": write.caller,
                "key": write.key,
                "digest": kept.digest,
                "status": kept.status,
                "body": kept.body,
                "at_us": now_us,
            }
            if not connection.execute(self._insert_new, row).all():
                raise Repeated

        return along


def _is(write: Write) -> sa.ColumnElement[bool]:
    return sa.and_(TABLE.c.caller == write.caller, TABLE.c.key == write.key)
