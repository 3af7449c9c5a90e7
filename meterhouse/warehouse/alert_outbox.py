"""The alerts outbox in the control database: the durable twin of `streams.alerts.MemoryOutbox`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from typing import Any

import sqlalchemy as sa

from meterhouse.streams.alert import Alert, AlertKind
from meterhouse.streams.alerts import (
    EVERY_ALERT,
    AlertFilter,
    AlertPlace,
    Delivery,
    OutboxEntry,
    OutboxUnavailable,
    recorded,
    silenced,
    storable,
)
from meterhouse.warehouse.audit import Deed, append
from meterhouse.warehouse.control_tables import ALERTS
from meterhouse.warehouse.database import TROUBLE, reading, writing

_RESOLUTIONS = ALERTS.alias("resolutions")
_RESOLVED_US = (
    sa.select(sa.func.min(_RESOLUTIONS.c.created_us))
    .where(_RESOLUTIONS.c.resolves == ALERTS.c.id)
    .correlate(ALERTS)
    .scalar_subquery()
)
_ENTRIES = sa.select(ALERTS, _RESOLVED_US.label("resolved_us"))


class SqlAlertOutbox:
    """An AlertOutbox in the database of `database.open_database`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        # The two dialects have the same clause, each in its own insert; importing both is felt at every command.
        dialect = import_module(f"sqlalchemy.dialects.{engine.dialect.name}")
        self._insert_new = dialect.insert(ALERTS).on_conflict_do_nothing(index_elements=["id"]).returning(ALERTS.c.id)

    def add(self, alerts: Sequence[Alert]) -> int:
        with available(), writing(self._engine) as connection:
            # What is returned is what was new: PostgreSQL's driver counts no rows of such an insert.
            return sum(len(connection.execute(self._insert_new, _row(alert)).all()) for alert in alerts)

    def due(self, now_us: int, limit: int) -> Sequence[OutboxEntry]:
        query = (
            _ENTRIES.where(ALERTS.c.next_attempt_us <= now_us)
            .order_by(ALERTS.c.next_attempt_us, ALERTS.c.id)
            .limit(limit)
        )
        return self._read(query)

    def waiting(self) -> tuple[int, int | None]:
        query = sa.select(sa.func.count(), sa.func.min(ALERTS.c.created_us)).where(
            ALERTS.c.next_attempt_us.is_not(None)
        )
        with available(), reading(self._engine) as connection:
            count, oldest_us = connection.execute(query).one()
        return count, oldest_us

    def record(self, alert_id: str, deliveries: Mapping[str, Delivery], wanted: Sequence[str]) -> None:
        self._change(alert_id, lambda entry: recorded(entry, deliveries, wanted))

    def silence(self, alert_id: str, now_us: int) -> None:
        self._change(alert_id, lambda entry: silenced(entry, now_us))

    def get(self, alert_id: str, budgets: frozenset[str] | None = None) -> OutboxEntry:
        found = self._read(_ENTRIES.where(ALERTS.c.id == alert_id, *_conditions(AlertFilter(budgets=budgets))))
        if not found:
            raise KeyError(alert_id)
        return found[0]

    def open(self, now_us: int, limit: int, kind: AlertKind | None = None) -> Sequence[OutboxEntry]:
        return self.list(AlertFilter(kind=kind, status="open", at_us=now_us), limit=limit)

    def acknowledge(
        self, alert_id: str, by: str, note: str | None, now_us: int, actor: str | None = None
    ) -> OutboxEntry:
        """`actor`: who the audit log says did it (None: `by`)."""
        said = {"acknowledged_by": storable(by), "note": None if note is None else storable(note)}
        unsaid = sa.or_(*(ALERTS.c[name].is_distinct_from(text) for name, text in said.items()))
        with available(), writing(self._engine) as connection:
            new = sa.update(ALERTS).where(ALERTS.c.id == alert_id, unsaid).values(acknowledged_us=now_us, **said)
            if connection.execute(new).rowcount:
                deed = Deed(
                    actor or storable(by), "alert.acknowledged", alert_id, {"by": storable(by), "note": said["note"]}
                )
                append(connection, deed, now_us)
        return self.get(alert_id)

    def list(
        self, matching: AlertFilter = EVERY_ALERT, *, after: AlertPlace | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        query = _ENTRIES.where(*_conditions(matching))
        if after is not None:
            query = query.where(sa.tuple_(ALERTS.c.created_us, ALERTS.c.id) < sa.tuple_(*after))
        return self._read(query.order_by(ALERTS.c.created_us.desc(), ALERTS.c.id.desc()).limit(limit))

    def _read(self, query: sa.Select[Any]) -> Sequence[OutboxEntry]:
        with available(), reading(self._engine) as connection:
            return tuple(map(_entry, connection.execute(query).mappings()))

    def _change(self, alert_id: str, change: Callable[[OutboxEntry], OutboxEntry]) -> None:
        """Reads and rewrites how an alert's delivery stands, with nobody in between."""
        is_it = ALERTS.c.id == alert_id
        with available(), writing(self._engine) as connection:
            row = connection.execute(_ENTRIES.where(is_it).with_for_update(of=ALERTS)).mappings().first()
            if row is None:
                raise KeyError(alert_id)
            connection.execute(sa.update(ALERTS).where(is_it).values(**_delivery_columns(change(_entry(row)))))


@contextmanager
def available() -> Iterator[None]:
    """Turns passing trouble of the database into OutboxUnavailable."""
    try:
        yield
    except TROUBLE as error:
        raise OutboxUnavailable(f"the alerts database does not answer ({error.orig})") from error


def _conditions(matching: AlertFilter) -> list[sa.ColumnElement[bool]]:
    """`AlertFilter.matches` in SQL."""
    columns, found = ALERTS.c, []
    if matching.from_us is not None:
        found.append(columns.created_us >= matching.from_us)
    if matching.to_us is not None:
        found.append(columns.created_us < matching.to_us)
    if matching.kind is not None:
        found.append(columns.kind == matching.kind)
    if matching.subject is not None:
        found.append(columns.subject == matching.subject)
    if matching.budgets is not None:
        found.append(columns.budget_id.in_(matching.budgets))
    if matching.status is not None:
        ended = sa.or_(_RESOLVED_US.is_not(None), sa.func.coalesce(columns.window_end_us <= matching.at_us, sa.false()))
        found += [columns.resolves.is_(None), ended if matching.status == "resolved" else sa.not_(ended)]
    if matching.status == "acknowledged":
        found.append(columns.acknowledged_us.is_not(None))
    return found


def _row(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "kind": alert.kind,
        "subject": alert.subject,
        "summary": alert.summary,
        "resolves": alert.resolves,
        "channels": {},
        "budget_id": alert.budget_id,
        "window_start_us": alert.window_start_us,
        "window_end_us": alert.window_end_us,
        "threshold": alert.threshold,
        "spent": alert.spent,
        "limit": alert.limit,
        "created_us": alert.created_us,
        "payload": dict(alert.payload),
        "attempts": 0,
        "next_attempt_us": alert.created_us,
    }


def _delivery_columns(entry: OutboxEntry) -> dict[str, Any]:
    return {
        "attempts": entry.attempts,
        "next_attempt_us": entry.next_attempt_us,
        "delivered_us": entry.delivered_us,
        "delivered_by": entry.delivered_by,
        "last_error": entry.last_error,
        "channels": {name: asdict(delivery) for name, delivery in entry.channels.items()},
    }


def _entry(row: sa.RowMapping) -> OutboxEntry:
    return OutboxEntry(
        alert=Alert(
            id=row["id"],
            kind=row["kind"],
            subject=row["subject"],
            summary=row["summary"],
            resolves=row["resolves"],
            budget_id=row["budget_id"],
            window_start_us=row["window_start_us"],
            window_end_us=row["window_end_us"],
            threshold=row["threshold"],
            spent=row["spent"],
            limit=row["limit"],
            created_us=row["created_us"],
            payload=row["payload"],
        ),
        attempts=row["attempts"],
        next_attempt_us=row["next_attempt_us"],
        delivered_us=row["delivered_us"],
        delivered_by=row["delivered_by"],
        last_error=row["last_error"],
        channels={name: Delivery(**told) for name, told in row["channels"].items()},
        resolved_us=row["resolved_us"],
        acknowledged_us=row["acknowledged_us"],
        acknowledged_by=row["acknowledged_by"],
        note=row["note"],
    )
