"""Control data as it is stored: versions, snapshots, and `apply`.

Each version is recorded with its time and its diff. A version is applied by a compare-and-set on the version it was
planned against, so two people who apply at once cannot overwrite each other.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from meterhouse.streams.control import EVER_US, Budget, Objective, Place, RateCard, Scope, Snapshot, Tenant, WindowSpec
from meterhouse.warehouse.audit import UNKNOWN, Deed, append
from meterhouse.warehouse.control_event_types import event_type_row, stored_event_type
from meterhouse.warehouse.control_fields import Problem
from meterhouse.warehouse.control_places import place_name
from meterhouse.warehouse.control_plan import Plan
from meterhouse.warehouse.control_rates import card_name
from meterhouse.warehouse.control_tables import (
    BUDGETS,
    CONTROL,
    CONTROL_VERSIONS,
    EVENT_TYPES,
    OBJECTIVES,
    RATE_CARDS,
    TENANT_PLACES,
    TENANTS,
)
from meterhouse.warehouse.database import ControlUnavailable, available, reading, writing

__all__ = [
    "MAX_HISTORY",
    "ControlConflict",
    "ControlRefused",
    "ControlStore",
    "ControlUnavailable",
    "VersionRecord",
]  # fmt: skip

MAX_HISTORY: Final = 1000
"""Versions in one answer of `history`."""

Row = sa.RowMapping


class ControlRefused(Exception):
    """The plan has problems: nothing was changed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ControlConflict(Exception):
    """Control data, or the time, moved on since the plan was made: nothing was changed."""


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of control data: when it was applied, by whom, and what it changed."""

    version: int
    recorded_us: int
    actor: str | None
    changes: Sequence[Mapping[str, Any]]  # as `Change.as_json`


class ControlStore:
    """Control data in the database of `database.open_database`. May be shared between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._newest: Snapshot | None = None

    def version(self) -> int:
        """The version in force: one small read, for polling. Raises ControlUnavailable."""
        with available(), reading(self._engine) as connection:
            return _version(connection)

    def snapshot(self) -> Snapshot:
        """Control data of the version in force; read anew only when the version moved. Raises ControlUnavailable."""
        newest = self._newest
        with available(), reading(self._engine) as connection:
            if newest is None or newest.version != _version(connection):
                self._newest = newest = _snapshot(connection)
        return newest

    def apply(self, plan: Plan, now_us: int, actor: str | None = None) -> int:
        """Makes `plan.target` the version in force and returns its number; a plan without changes changes nothing.

        Raises ControlRefused (the plan has problems), ControlConflict (make a new plan), ControlUnavailable.
        """
        if plan.problems:
            raise ControlRefused(plan.problems)
        if not plan.changes:
            return plan.current.version
        target = plan.target
        _still_ahead(plan, now_us)
        with available(), writing(self._engine) as connection:
            moved = connection.execute(
                sa.update(CONTROL)
                .where(CONTROL.c.version == plan.current.version)
                .values(version=target.version, currency=target.currency, strict_tenants=target.strict_tenants)
            )
            if moved.rowcount != 1:
                raise ControlConflict(
                    f"control data is at version {_version(connection)}, not at {plan.current.version}: someone else "
                    "applied a file; look at what it changed and apply again"
                )
            _sync(connection, TENANTS, _tenant_rows(target))
            _write_places(connection, plan)
            _write_cards(connection, plan)
            _sync(connection, BUDGETS, _budget_rows(target))
            _sync(connection, OBJECTIVES, _objective_rows(target))
            _sync(connection, EVENT_TYPES, [event_type_row(t, place) for place, t in enumerate(target.event_types)])
            changes = [change.as_json() for change in plan.changes]
            connection.execute(
                sa.insert(CONTROL_VERSIONS).values(
                    version=target.version, recorded_us=now_us, actor=actor, changes=changes
                )
            )
            append(connection, _deed(plan, changes, actor), now_us)
        return target.version

    def history(self, limit: int = 100) -> list[VersionRecord]:
        """The newest versions, newest first; at most MAX_HISTORY. Raises ControlUnavailable."""
        query = sa.select(CONTROL_VERSIONS).order_by(CONTROL_VERSIONS.c.version.desc()).limit(min(limit, MAX_HISTORY))
        with available(), reading(self._engine) as connection:
            return [VersionRecord(**row) for row in connection.execute(query).mappings()]

    def every_card(self) -> tuple[RateCard, ...]:
        """All rate cards there ever were by id, replaced ones too: a charge may name any. Raises ControlUnavailable."""
        with available(), reading(self._engine) as connection:
            return tuple(map(_card, connection.execute(sa.select(RATE_CARDS).order_by(RATE_CARDS.c.id)).mappings()))


def _deed(plan: Plan, changes: Sequence[Mapping[str, object]], actor: str | None) -> Deed:
    """What the audit log says of an apply: how many lines its diff has of what, and what they hash to. The diff itself
    is in CONTROL_VERSIONS, and may be long."""
    lines = json.dumps(changes, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    detail = {
        "from_version": plan.current.version,
        "version": plan.target.version,
        "changes": dict(Counter(f"{change.section}.{change.action}" for change in plan.changes)),
        "changes_sha256": hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest(),
    }
    return Deed(actor or UNKNOWN, "control.applied", f"control/{plan.target.version}", detail)


def _still_ahead(plan: Plan, now_us: int) -> None:
    """A card or place may have come into force between the plan and now; then it is no longer the plan's to change."""
    for place in plan.current.places:
        if plan.made_us < place.from_us <= now_us and place not in plan.target.places:
            raise ControlConflict(f"{place_name(place)} came into force since the plan was made: apply again")
    after = {card.id: card for card in plan.target.rate_cards}
    for card in plan.current.rate_cards:
        kept = after.get(card.id)
        if kept is None and card.valid_from_us <= now_us:
            raise ControlConflict(f"{card_name(card)} came into force since the plan was made: apply again")
        if kept is None or kept.valid_to_us == card.valid_to_us:
            continue
        if any(end is not None and end <= now_us for end in (card.valid_to_us, kept.valid_to_us)):
            raise ControlConflict(f"{card_name(card)} reached its end since the plan was made: apply again")


def _version(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(CONTROL.c.version)).scalar_one())


def _snapshot(connection: sa.Connection) -> Snapshot:
    head = connection.execute(sa.select(CONTROL)).mappings().one()

    def rows(table: sa.Table) -> sa.MappingResult:
        return connection.execute(sa.select(table).order_by(table.c.place)).mappings()

    live = sa.select(RATE_CARDS).where(RATE_CARDS.c.replaced_version.is_(None)).order_by(RATE_CARDS.c.place)
    return Snapshot(
        version=head["version"],
        currency=head["currency"],
        tenants=tuple(
            Tenant(id=row["id"], name=row["name"], org=tuple(row["org"]), cost_center=row["cost_center"])
            for row in rows(TENANTS)
        ),
        rate_cards=tuple(map(_card, connection.execute(live).mappings())),
        budgets=tuple(map(_budget, rows(BUDGETS))),
        objectives=tuple(map(_objective, rows(OBJECTIVES))),
        event_types=tuple(map(stored_event_type, rows(EVENT_TYPES))),
        strict_tenants=head["strict_tenants"],
        places=_places(connection),
    )


def _places(connection: sa.Connection) -> tuple[Place, ...]:
    """Of the tenants that ever moved."""
    moved = sa.select(TENANT_PLACES.c.tenant).where(TENANT_PLACES.c.from_us > EVER_US)
    query = sa.select(TENANT_PLACES).where(TENANT_PLACES.c.tenant.in_(moved)).order_by("tenant", "from_us")
    return tuple(
        Place(row["tenant"], row["from_us"], tuple(row["org"]), row["cost_center"])
        for row in connection.execute(query).mappings()
    )


def _card(row: Row) -> RateCard:
    return RateCard(
        id=row["id"],
        provider=row["provider"],
        model=row["model"],
        tenant=row["tenant"],
        valid_from_us=row["valid_from_us"],
        valid_to_us=row["valid_to_us"],
        pico_per_token=row["pico_per_token"],
        approved_by=row["approved_by"],
    )


def _scope(row: Row) -> Scope:
    return Scope(row["tenant"], row["org_unit"], row["application"], row["model"])


def _scope_columns(scope: Scope) -> dict[str, str | None]:
    return {
        "tenant": scope.tenant,
        "org_unit": scope.org_unit,
        "application": scope.application,
        "model": scope.model,
    }


def _budget(row: Row) -> Budget:
    return Budget(
        id=row["id"],
        scope=_scope(row),
        window=WindowSpec(row["every"], row["time_zone"]),
        limit_pico=row["limit_pico"],
        limit_tokens=row["limit_tokens"],
        thresholds=tuple(Decimal(text) for text in row["thresholds"]),
        on_exceeded=row["on_exceeded"],
        throttle_per_minute=row["throttle_per_minute"],
        when_stale=row["when_stale"],
        stale_after_s=row["stale_after_s"],
    )


def _objective(row: Row) -> Objective:
    return Objective(
        id=row["id"],
        scope=_scope(row),
        sli=row["sli"],
        below_ms=row["below_ms"],
        target=Decimal(row["target"]),
        window_days=row["window_days"],
    )


def _tenant_rows(target: Snapshot) -> list[dict[str, Any]]:
    return [
        {"id": t.id, "place": place, "name": t.name, "org": list(t.org), "cost_center": t.cost_center}
        for place, t in enumerate(target.tenants)
    ]


def _write_places(connection: sa.Connection, plan: Plan) -> None:
    """Those that the plan adds or takes away; of others the version that recorded them stays."""
    stored, target = (
        {(place.tenant, place.from_us): place for places in each.places_by_tenant().values() for place in places}
        for each in (plan.current, plan.target)
    )
    gone = [{"gone_tenant": key[0], "gone_us": key[1]} for key, place in stored.items() if target.get(key) != place]
    if gone:
        of_key = sa.and_(
            TENANT_PLACES.c.tenant == sa.bindparam("gone_tenant"), TENANT_PLACES.c.from_us == sa.bindparam("gone_us")
        )
        connection.execute(sa.delete(TENANT_PLACES).where(of_key), gone)
    new = [
        {
            "tenant": place.tenant,
            "from_us": place.from_us,
            "org": list(place.org),
            "cost_center": place.cost_center,
            "recorded_version": plan.target.version,
        }
        for key, place in target.items()
        if stored.get(key) != place
    ]
    if new:
        connection.execute(sa.insert(TENANT_PLACES), new)


def _budget_rows(target: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "id": budget.id,
            "place": place,
            **_scope_columns(budget.scope),
            "every": budget.window.every,
            "time_zone": budget.window.time_zone,
            "limit_pico": budget.limit_pico,
            "limit_tokens": budget.limit_tokens,
            "thresholds": [str(threshold) for threshold in budget.thresholds],
            "on_exceeded": budget.on_exceeded,
            "throttle_per_minute": budget.throttle_per_minute,
            "when_stale": budget.when_stale,
            "stale_after_s": budget.stale_after_s,
        }
        for place, budget in enumerate(target.budgets)
    ]


def _objective_rows(target: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "id": objective.id,
            "place": place,
            **_scope_columns(objective.scope),
            "sli": objective.sli,
            "below_ms": objective.below_ms,
            "target": str(objective.target),
            "window_days": objective.window_days,
        }
        for place, objective in enumerate(target.objectives)
    ]


def _card_row(card: RateCard, place: int) -> dict[str, Any]:
    return {
        "id": card.id,
        "place": place,
        "provider": card.provider,
        "model": card.model,
        "tenant": card.tenant,
        "valid_from_us": card.valid_from_us,
        "valid_to_us": card.valid_to_us,
        "pico_per_token": dict(card.pico_per_token),
        "approved_by": card.approved_by,
    }


def _write_cards(connection: sa.Connection, plan: Plan) -> None:
    """Adds new cards, moves ends and places, and marks the replaced: no row is ever deleted or repriced."""
    stored = {card.id: _card_row(card, place) for place, card in enumerate(plan.current.rate_cards)}
    target = {card.id: _card_row(card, place) for place, card in enumerate(plan.target.rate_cards)}
    new = [{**row, "recorded_version": plan.target.version} for id_, row in target.items() if id_ not in stored]
    moved = [
        {"row_id": id_, "place": row["place"], "valid_to_us": row["valid_to_us"]}
        for id_, row in target.items()
        if id_ in stored and row != stored[id_]
    ]
    replaced = [{"row_id": id_, "replaced_version": plan.target.version} for id_ in stored if id_ not in target]
    for statement, rows in (
        (sa.insert(RATE_CARDS), new),
        (_updating(RATE_CARDS), moved),
        (_updating(RATE_CARDS), replaced),
    ):
        if rows:
            connection.execute(statement, rows)


def _updating(table: sa.Table) -> sa.Update:
    return sa.update(table).where(table.c.id == sa.bindparam("row_id"))


def _sync(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Makes the table hold exactly `rows`, touching only what differs."""
    stored = {row["id"]: dict(row) for row in connection.execute(sa.select(table)).mappings()}
    wanted = {row["id"]: row for row in rows}
    steps: tuple[tuple[Callable[[], sa.Executable], list[dict[str, Any]]], ...] = (
        (
            lambda: sa.delete(table).where(table.c.id == sa.bindparam("row_id")),
            [{"row_id": id_} for id_ in stored if id_ not in wanted],
        ),
        (lambda: sa.insert(table), [row for id_, row in wanted.items() if id_ not in stored]),
        (
            lambda: _updating(table),
            [
                {"row_id": id_, **{key: value for key, value in row.items() if key != "id"}}
                for id_, row in wanted.items()
                if id_ in stored and stored[id_] != row
            ],
        ),
    )
    for statement, values in steps:
        if values:
            connection.execute(statement(), values)
