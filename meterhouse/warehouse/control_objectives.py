"""Scopes and objectives of the control file."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, cast

from meterhouse.streams.control import Objective, Scope
from meterhouse.warehouse.control_fields import Entry, Located, Problem, name, one_of, share, whole
from meterhouse.warehouse.control_yaml import Node

MAX_WINDOW_DAYS: Final = 366
MAX_BELOW_MS: Final = 86_400_000
"""A day: no request takes longer."""

SCOPE_KEYS: Final = ("tenant", "org_unit", "application", "model")
SLIS: Final = ("duration", "time_to_first_token", "availability")


def scope_of(entry: Entry) -> Scope:
    """The scope under an entry's key `scope`, which must be there."""
    if not entry.has("scope"):
        entry.tell("is missing: say what it covers, like {tenant: acme}, or {} for the whole platform", "scope")
        return Scope()
    scope = entry.child("scope", SCOPE_KEYS)
    return Scope(
        tenant=scope.maybe("tenant", name),
        org_unit=scope.maybe("org_unit", name),
        application=scope.maybe("application", name),
        model=scope.maybe("model", name),
    )


def read_objective(node: Node, path: str, problems: list[Problem]) -> Located[Objective]:
    """An entry of the section `objectives`."""
    entry = Entry(node, path, ("id", "scope", "sli", "below_ms", "target", "window_days"), problems)
    sli = entry.take("sli", one_of(*SLIS), "")
    if sli == "availability" and entry.has("below_ms"):
        entry.tell("has no meaning for availability: remove it", "below_ms")
    elif sli in ("duration", "time_to_first_token") and not entry.has("below_ms"):
        entry.tell(f"is missing: say below how many milliseconds a {sli} is good", "below_ms")
    objective = Objective(
        id=entry.take("id", name, ""),
        scope=scope_of(entry),
        sli=cast(Any, sli),
        below_ms=entry.maybe("below_ms", whole(1, MAX_BELOW_MS)),
        target=entry.take("target", share, Decimal("0.5")),
        window_days=entry.take("window_days", whole(1, MAX_WINDOW_DAYS), 1),
    )
    return entry.located(objective)
