"""What people did about rejects, in the control database. The lake's own rows are never rewritten.

A resolution is recorded as pending before its bytes are sent and as done after. Who finds one pending finishes it with
the same bytes: whatever was sent before carries the same event ids, so dedupe drops it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Final, Literal, NamedTuple

import sqlalchemy as sa

from meterhouse.streams.alerts import storable
from meterhouse.warehouse.audit import Deed, append
from meterhouse.warehouse.control_tables import REJECT_RESOLUTIONS as TABLE
from meterhouse.warehouse.database import available, reading, writing

Action = Literal["requeue", "repair", "discard"]
State = Literal["pending", "done"]
_NOTE_SAID: Final = 500
"""Characters of a note that the audit log repeats."""
_LOOKUP: Final = 200
"""Places in one query: four parameters each stay below SQLite's oldest limit of 999."""


class RejectPlace(NamedTuple):
    """Where a rejected event stands in the log. `index` -1: the whole record."""

    topic: str
    partition: int
    offset: int
    index: int  # type: ignore[assignment]  # a place has an index; nobody searches in one

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}/{self.index}"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was done about the reject at `place`; `sent`: the bytes of a repair."""

    place: RejectPlace
    action: Action
    at_us: int
    by: str
    note: str | None = None
    state: State = "pending"
    sent: bytes | None = None


class RejectResolutions:
    """Resolutions in the database of `database.open_database`. Every method raises ControlUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        dialect = import_module(f"sqlalchemy.dialects.{engine.dialect.name}")
        insert = dialect.insert(TABLE).on_conflict_do_nothing(index_elements=["topic", "partition", "offset", "index"])
        self._insert_new = insert.returning(TABLE.c.at_us)

    def of(self, places: Iterable[RejectPlace]) -> Mapping[RejectPlace, Resolution]:
        """The resolutions of these places, of those that have one."""
        with available(), reading(self._engine) as connection:
            return _stored(connection, list(places))

    def intend(self, wanted: Sequence[Resolution]) -> Mapping[RejectPlace, Resolution]:
        """Records intents, where there is none yet, and an entry of the audit log for each; returns what then stands
        there. Durable when it returns.

        The caller goes on only where its own action and bytes stand.
        """
        with available(), writing(self._engine) as connection:
            # What is returned is what was new: PostgreSQL's driver counts no rows of such an insert.
            new = [each for each in wanted if connection.execute(self._insert_new, _row(each)).all()]
            for each in new:
                append(connection, _deed(each), each.at_us)
            return _stored(connection, [each.place for each in wanted])

    def finish(self, places: Sequence[RejectPlace]) -> None:
        """Their bytes are in the log."""
        with available(), writing(self._engine) as connection:
            for place in places:
                connection.execute(sa.update(TABLE).where(_is(place)).values(state="done"))


def _deed(resolution: Resolution) -> Deed:
    detail = {
        "note": None if resolution.note is None else storable(resolution.note)[:_NOTE_SAID],
        "sent_sha256": None if resolution.sent is None else hashlib.sha256(resolution.sent).hexdigest(),
    }
    return Deed(storable(resolution.by), f"reject.{resolution.action}", str(resolution.place), detail)


def _is(place: RejectPlace) -> sa.ColumnElement[bool]:
    return sa.and_(*(TABLE.c[name] == value for name, value in place._asdict().items()))


def _row(resolution: Resolution) -> dict[str, object]:
    return {
        **resolution.place._asdict(),
        "action": resolution.action,
        "state": resolution.state,
        "at_us": resolution.at_us,
        "by": resolution.by,
        "note": resolution.note,
        "sent": resolution.sent,
    }


def _stored(connection: sa.Connection, places: Sequence[RejectPlace]) -> dict[RejectPlace, Resolution]:
    found: dict[RejectPlace, Resolution] = {}
    for start in range(0, len(places), _LOOKUP):
        query = sa.select(TABLE).where(sa.or_(*map(_is, places[start : start + _LOOKUP])))
        for row in connection.execute(query).mappings():
            place = RejectPlace(row["topic"], row["partition"], row["offset"], row["index"])
            made = Resolution(place, row["action"], row["at_us"], row["by"], row["note"])
            found[place] = replace(made, state=row["state"], sent=row["sent"])
    return found
