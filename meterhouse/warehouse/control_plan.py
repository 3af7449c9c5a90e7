"""What applying a control file would do: the changes, the warnings, and every reason not to.

Tenants and rate cards are never removed by leaving them out; budgets, objectives and event types of a section that
is in the file are. An absent section is not touched. The file's order holds; what it leaves out keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal, TypeVar

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Budget, Objective, Place, RateCard, Scope, Snapshot, Tenant
from meterhouse.warehouse.control_event_types import event_type_fields
from meterhouse.warehouse.control_fields import PICO, Located, Problem, nearest, time_text
from meterhouse.warehouse.control_file import ControlFile
from meterhouse.warehouse.control_places import merge_places, place_fields, place_name
from meterhouse.warehouse.control_rates import card_key, card_name, merge_cards

T = TypeVar("T")

MOST: Final = {"tenants": 50_000, "rate_card": 50_000, "budgets": 10_000, "objectives": 10_000, "event_types": 1_000}
"""Every process holds a snapshot in memory, and each budget has a total per partition and window in the log."""

Action = Literal["add", "change", "remove", "order"]
_SIGNS: Final[Mapping[Action, str]] = {"add": "+", "change": "~", "remove": "-", "order": "~"}


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field before and after, as texts; None: it has no value."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the diff. `order`: the section's entries are the same in another order."""

    action: Action
    section: str
    name: str
    fields: tuple[FieldChange, ...] = ()

    def __str__(self) -> str:
        if self.action == "order":
            return f"~ {self.section}: in another order"
        if self.action == "change":
            told = ", ".join(f"{f.field} {f.before or 'none'} → {f.after or 'none'}" for f in self.fields)
        else:
            told = ", ".join(f"{f.field} {f.after or f.before}" for f in self.fields if f.after or f.before)
        return f"{_SIGNS[self.action]} {self.section} {self.name}" + (f": {told}" if told else "")

    def as_json(self) -> dict[str, object]:
        """For the history of versions."""
        fields = [{"field": f.field, "before": f.before, "after": f.after} for f in self.fields]
        return {"action": self.action, "section": self.section, "name": self.name, "fields": fields}


@dataclass(frozen=True, slots=True)
class Plan:
    """What `ControlStore.apply` would do. With problems there are no changes: all or nothing."""

    current: Snapshot  # what it was made against
    target: Snapshot  # what control data becomes; the current one when nothing changes
    changes: tuple[Change, ...] = ()
    warnings: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()
    made_us: int = 0  # the time it was made for


def plan(file: ControlFile, current: Snapshot, now_us: int) -> Plan:
    """Compares a file with the control data in force at `now_us`. Pure; tells every problem there is."""
    if file.unread:
        return Plan(current, current, problems=file.problems)
    merged = merge_cards(current.rate_cards, file.rate_cards or (), now_us)
    placed = merge_places(current, file.tenants or (), file.moves, now_us)
    target = Snapshot(
        version=current.version + 1,
        currency=file.currency.value if file.currency else current.currency,
        tenants=_in_order(current.tenants, _values(file.tenants), lambda tenant: tenant.id),
        rate_cards=_ordered_cards(current, file, merged.cards),
        budgets=current.budgets if file.budgets is None else _values(file.budgets),
        objectives=current.objectives if file.objectives is None else _values(file.objectives),
        event_types=current.event_types if file.event_types is None else _values(file.event_types),
        strict_tenants=current.strict_tenants if file.strict_tenants is None else file.strict_tenants,
        places=placed.places,
    )
    warnings = (*file.notes, *placed.warnings, *merged.warnings)
    problems = [
        *file.problems,
        *placed.problems,
        *merged.problems,
        *_currency(file, current),
        *_references(file, target),
        *_counts(target),
    ]
    if problems:
        return Plan(current, current, warnings=warnings, problems=tuple(problems))
    changes = diff(current, target)
    if not changes:
        return Plan(current, current, warnings=warnings)
    return Plan(current, target, changes=changes, warnings=warnings, made_us=now_us)


def _values(entries: Sequence[Located[T]] | None) -> tuple[T, ...]:
    return tuple(entry.value for entry in entries or ())


def _in_order(stored: Sequence[T], listed: Sequence[T], key_of: Callable[[T], Hashable]) -> tuple[T, ...]:
    """The listed in their order; a stored one that is not listed stays behind the stored one before it."""
    keys = {key_of(item) for item in listed}
    followers: dict[Hashable, list[T]] = {}
    anchor: Hashable = None
    for item in stored:
        if key_of(item) in keys:
            anchor = key_of(item)
        else:
            followers.setdefault(anchor, []).append(item)
    ordered = list(followers.get(None, ()))
    for item in listed:
        ordered.append(item)
        ordered.extend(followers.get(key_of(item), ()))
    return tuple(ordered)


def _ordered_cards(
    current: Snapshot, file: ControlFile, cards: Mapping[tuple[str, str, str | None, int], RateCard]
) -> tuple[RateCard, ...]:
    listed = [cards[card_key(entry.value)] for entry in file.rate_cards or () if entry.sound]
    return _in_order([cards[card_key(card)] for card in current.rate_cards], listed, card_key)


def _currency(file: ControlFile, current: Snapshot) -> list[Problem]:
    if file.currency is None or file.currency.value == current.currency or not current.rate_cards:
        return []
    message = (
        f"is {file.currency.value}, but prices and charges are in {current.currency} and are never converted: keep "
        f"{current.currency}, or begin a new home folder for {file.currency.value}"
    )
    return [file.currency.problem(message)]


def _references(file: ControlFile, target: Snapshot) -> list[Problem]:
    """Names that a file or what stays beside it uses, but that nothing defines."""
    known = {
        "tenant": {tenant.id for tenant in target.tenants},
        "org_unit": {unit for tenant in target.tenants for unit in tenant.org},
        # A card with another problem still says that its model exists.
        "model": {card.model for card in (*target.rate_cards, *_values(file.rate_cards))},
    }
    remedy = {
        "tenant": "add it under `tenants`",
        "org_unit": "name it in the `org` of a tenant",
        "model": "give it a price under `rate_card`",
    }
    problems = [
        card.problem(_unknown("tenant", card.value.tenant, known, remedy), "tenant")
        for card in file.rate_cards or ()
        if card.value.tenant is not None and card.value.tenant not in known["tenant"]
    ]
    for entry in _scopes(file, target):
        for part, names in known.items():
            word: str | None = getattr(entry.value, part)
            if word is not None and word not in names:
                problems.append(entry.problem(_unknown(part, word, known, remedy), f"scope.{part}"))
    return problems


def _unknown(part: str, word: str | None, known: Mapping[str, set[str]], remedy: Mapping[str, str]) -> str:
    return f'is "{word}", which is unknown{nearest(word or "", sorted(known[part]))}: correct it, or {remedy[part]}'


def _scopes(file: ControlFile, target: Snapshot) -> Iterable[Located[Scope]]:
    """Each scope as it will be, with its place: an absent section's stand where they are stored."""
    sections: tuple[
        tuple[str, Sequence[Located[Budget] | Located[Objective]] | None, Sequence[Budget | Objective]], ...
    ] = (
        ("budgets", file.budgets, target.budgets),
        ("objectives", file.objectives, target.objectives),
    )
    for section, listed, stored in sections:
        if listed is None:
            yield from (Located(item.scope, f"{section} (stored)", None, item.id) for item in stored)
        else:
            yield from (Located(entry.value.scope, entry.path, entry.line, entry.about) for entry in listed)


def _counts(target: Snapshot) -> list[Problem]:
    counts = {
        "tenants": len(target.tenants),
        "rate_card": len(target.rate_cards),
        "budgets": len(target.budgets),
        "objectives": len(target.objectives),
        "event_types": len(target.event_types),
    }
    return [
        Problem(section, f"would have {count} entries: at most {MOST[section]} are allowed, stored ones included")
        for section, count in counts.items()
        if count > MOST[section]
    ]


def diff(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """What changes from one snapshot to the other, versions aside."""
    settings = [
        FieldChange(field, str(getattr(before, field)), str(getattr(after, field)))
        for field in ("currency", "strict_tenants")
        if getattr(before, field) != getattr(after, field)
    ]
    return (
        *(Change("change", "settings", change.field, (change,)) for change in settings),
        *_section("tenants", before.tenants, after.tenants, lambda tenant: tenant.id, tenant_fields),
        *_section("places", *_told_places(before, after), place_name, place_fields),
        *_cards(before.rate_cards, after.rate_cards),
        *_section("budgets", before.budgets, after.budgets, lambda budget: budget.id, budget_fields),
        *_section("objectives", before.objectives, after.objectives, lambda objective: objective.id, objective_fields),
        *_section("event_types", before.event_types, after.event_types, lambda type_: type_.type, event_type_fields),
    )


def _told_places(before: Snapshot, after: Snapshot) -> tuple[list[Place], list[Place]]:
    """Places of tenants that were there before: the first place of a new one is told with it."""
    known = {tenant.id for tenant in before.tenants}

    def told(snapshot: Snapshot) -> list[Place]:
        by_tenant = snapshot.places_by_tenant()
        return [place for tenant in sorted(known & by_tenant.keys()) for place in by_tenant[tenant]]

    return told(before), told(after)


def _section(
    section: str,
    before: Sequence[T],
    after: Sequence[T],
    name_of: Callable[[T], str],
    fields_of: Callable[[T], Mapping[str, str | None]],
) -> list[Change]:
    old, new = {name_of(item): item for item in before}, {name_of(item): item for item in after}
    changes = []
    for name, item in new.items():
        told = fields_of(item)
        if name not in old:
            fields = tuple(FieldChange(field, None, text) for field, text in told.items() if text is not None)
            changes.append(Change("add", section, name, fields))
        elif item != old[name]:
            was = fields_of(old[name])
            fields = tuple(
                FieldChange(field, was.get(field), told.get(field))
                for field in dict.fromkeys((*was, *told))
                if was.get(field) != told.get(field)
            )
            changes.append(Change("change", section, name, fields))
    for name, item in old.items():
        if name not in new:
            fields = tuple(FieldChange(field, text, None) for field, text in fields_of(item).items() if text)
            changes.append(Change("remove", section, name, fields))
    if [name for name in old if name in new] != [name for name in new if name in old]:
        changes.append(Change("order", section, ""))
    return changes


def _cards(before: Sequence[RateCard], after: Sequence[RateCard]) -> list[Change]:
    """Prices. Ids are told only where a card replaces another one."""
    changes = _section("rate_card", before, after, card_name, card_fields)
    ids = {card_name(card): str(card.id) for card in before}, {card_name(card): str(card.id) for card in after}
    return [
        replace(change, fields=(*change.fields, FieldChange("id", ids[0][change.name], ids[1][change.name])))
        if change.action == "change" and ids[0][change.name] != ids[1][change.name]
        else change
        for change in changes
    ]


def tenant_fields(tenant: Tenant) -> dict[str, str | None]:
    return {"name": tenant.name, **place_fields(tenant)}


def card_fields(card: RateCard) -> dict[str, str | None]:
    """Prices per million tokens by kind, and the rest."""
    prices = {kind.name: card.pico_per_token.get(kind.name) for kind in TOKEN_KINDS}
    return {
        **{kind: None if pico is None else plain(Decimal(pico) / 10**6, 2) for kind, pico in prices.items()},
        "valid_to": None if card.valid_to_us is None else time_text(card.valid_to_us),
        "approved_by": card.approved_by,
    }


def budget_fields(budget: Budget) -> dict[str, str | None]:
    return {
        **_scope_fields(budget.scope),
        "window": f"{budget.window.every} in {budget.window.time_zone}",
        "limit": None if budget.limit_pico is None else plain(Decimal(budget.limit_pico) / PICO, 2),
        "limit_tokens": None if budget.limit_tokens is None else str(budget.limit_tokens),
        "thresholds": ", ".join(plain(threshold) for threshold in budget.thresholds) or None,
        "on_exceeded": budget.on_exceeded,
        "throttle_per_minute": str(budget.throttle_per_minute) if budget.on_exceeded == "throttle" else None,
        "when_stale": f"{budget.when_stale} after {budget.stale_after_s} s",
    }


def objective_fields(objective: Objective) -> dict[str, str | None]:
    return {
        **_scope_fields(objective.scope),
        "sli": objective.sli,
        "below_ms": None if objective.below_ms is None else str(objective.below_ms),
        "target": plain(objective.target),
        "window_days": str(objective.window_days),
    }


def _scope_fields(scope: Scope) -> dict[str, str | None]:
    return {part: getattr(scope, part) for part in ("tenant", "org_unit", "application", "model")}


def plain(amount: Decimal, decimals: int = 0) -> str:
    """An amount in plain digits with no more zeros at its end than `decimals` asks for: 2.50, 0.0375, 80."""
    whole, _, rest = f"{amount:f}".partition(".")
    rest = f"{rest.rstrip('0'):0<{decimals}}"
    return f"{whole}.{rest}" if rest else whole
