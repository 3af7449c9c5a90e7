"""Extracts of control data: prices, budgets, objectives, and what requests of the last days ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import ceil
from typing import Any, Final

from meterhouse.streams.control import Budget, RateCard, Scope, Snapshot
from meterhouse.streams.lookout_rules import unpriced_alerts
from meterhouse.streams.money import PICO
from meterhouse.warehouse.quality.checks import Extract
from meterhouse.warehouse.quality.sources import MODEL, Sources, made, percent
from meterhouse.warehouse.reports.query import DAY_US, Query, between
from meterhouse.warehouse.reports.unpriced import unpriced_days

NEW_VERSION_US: Final = 300 * 1_000_000
"""How long a meter may rate under the version before: it looks for a new one five times a second, and an hour's outage
of the control database is the lookout's news before it is this one's."""
OPEN_US: Final = 35 * DAY_US
"""What ended longer ago is not looked at: no event of then comes any more, and cards in force are never edited."""

_CARD: Final = {"card": int, "model": str, "tenant": str}
_CARD_KEYS: Final = ("card", "model", "tenant")


def prices(sources: Sources) -> Extract:
    """Every price in force or to come."""
    rows = (
        {**_named(card), "kind": kind, "pico_per_token": pico}
        for card in _open_cards(sources)
        for kind, pico in card.pico_per_token.items()
    )
    return made("prices", (*_CARD_KEYS, "kind"), {**_CARD, "kind": str, "pico_per_token": int}, rows)


def card_spans(sources: Sources) -> Extract:
    """By how many seconds each card overlaps the next one of its model and tenant, or ends before that begins."""
    rows = ({**_named(card), **_span(card, following)} for card, following in _neighbours(sources))
    return made("card_spans", _CARD_KEYS, {**_CARD, "overlap_s": int, "gap_s": int}, rows)


def _span(card: RateCard, following: RateCard) -> dict[str, int]:
    if card.valid_from_us == following.valid_from_us:
        return {"overlap_s": max(1, _seconds(following.valid_to_us, card.valid_from_us)), "gap_s": 0}
    return {
        "overlap_s": max(0, _seconds(card.valid_to_us, following.valid_from_us)),
        "gap_s": max(0, -_seconds(card.valid_to_us, following.valid_from_us)),
    }


def _seconds(end_us: int | None, start_us: int) -> int:
    """From start to end, rounded away from 0; 0: without an end, which is where the next one begins."""
    if end_us is None:
        return 0
    gap_us = end_us - start_us
    return -(-gap_us // 1_000_000) if gap_us > 0 else gap_us // 1_000_000


def price_steps(sources: Sources) -> Extract:
    """What percentage each price is of the one before it; there is none of what was free."""
    rows = (
        {**_named(following), "kind": kind, "percent": percent(pico, card.pico_per_token.get(kind, 0))}
        for card, following in _neighbours(sources)
        for kind, pico in following.pico_per_token.items()
    )
    return made("price_steps", (*_CARD_KEYS, "kind"), {**_CARD, "kind": str, "percent": int}, rows)


def _open_cards(sources: Sources) -> list[RateCard]:
    oldest_us = sources.now_us - OPEN_US
    return [card for card in sources.snapshot.rate_cards if card.valid_to_us is None or card.valid_to_us > oldest_us]


def _neighbours(sources: Sources) -> Iterator[tuple[RateCard, RateCard]]:
    """Each card with the one that follows it, of those that follow one in the last OPEN_US or later."""
    series: dict[tuple[str, str, str | None], list[RateCard]] = {}
    for card in sources.snapshot.rate_cards:
        series.setdefault((card.provider, card.model, card.tenant), []).append(card)
    for cards in series.values():
        ordered = sorted(cards, key=lambda card: (card.valid_from_us, card.id))
        for card, following in pairwise(ordered):
            if following.valid_from_us > sources.now_us - OPEN_US:
                yield card, following


def _named(card: RateCard) -> dict[str, Any]:
    return {"card": card.id, "model": f"{card.provider}/{card.model}", "tenant": card.tenant}


def budgets(sources: Sources) -> Extract:
    """Limits in whole units of the currency, rounded up, or in tokens; thresholds in percent, rounded up."""
    columns = {"budget": str, "limit_units": int, "lowest_threshold": int, "highest_threshold": int}
    return made("budgets", ("budget",), columns, map(_limits, sources.snapshot.budgets))


def _limits(budget: Budget) -> dict[str, Any]:
    pico, percents = budget.limit_pico, budget.thresholds
    return {
        "budget": budget.id,
        "limit_units": budget.limit_tokens if pico is None else -(-pico // PICO),
        "lowest_threshold": ceil(min(percents)) if percents else None,
        "highest_threshold": ceil(max(percents)) if percents else None,
    }


def scopes(sources: Sources) -> Extract:
    """Whether the tenant, org unit and model that each budget and objective names are there."""
    snapshot = sources.snapshot
    rows = (
        {"what": what, "id": each.id, "names": _unknown_in(each.scope, snapshot) or "known"}
        for what, those in (("budget", snapshot.budgets), ("objective", snapshot.objectives))
        for each in those
    )
    return made("scopes", ("what", "id"), {"what": str, "id": str, "names": str}, rows)


def _unknown_in(scope: Scope, snapshot: Snapshot) -> str | None:
    units = {unit for tenant in snapshot.tenants for unit in tenant.org}
    tenants, models = {tenant.id for tenant in snapshot.tenants}, {card.model for card in snapshot.rate_cards}
    if scope.tenant is not None and scope.tenant not in tenants and snapshot.strict_tenants:
        return f"tenant {scope.tenant}, which is not there"
    if scope.org_unit is not None and scope.org_unit not in units:
        return f"org unit {scope.org_unit}, which is not there"
    if scope.model is not None and scope.model not in models:
        return f"model {scope.model}, which has no rate card"
    return None


def used_tenants(sources: Sources) -> Extract:
    """Tenants with requests in the last days; none where control data takes anyone's."""
    span = between(sources.from_us, sources.to_us)
    query = Query(f"SELECT tenant FROM rollup_day WHERE {span.sql} GROUP BY 1 ORDER BY 1", span.params)
    known = sources.snapshot.known_tenants
    seen = [] if known is None else [tenant for (tenant,) in query.rows(sources.cursor)]
    rows = ({"tenant": tenant, "in_control_data": "yes" if tenant in (known or ()) else "no"} for tenant in seen)
    return made("used_tenants", ("tenant",), {"tenant": str, "in_control_data": str}, rows)


def used_cards(sources: Sources) -> Extract:
    """Rate cards that charges of the last days name."""
    span = between(sources.from_us, sources.to_us)
    query = Query(
        f"SELECT card, {MODEL} AS named, min(tenant) FROM charges WHERE {span.sql} AND card IS NOT NULL"
        " GROUP BY card, named ORDER BY card, named",
        span.params,
    )
    known = {card.id for card in sources.cards}
    rows = (
        {"card": card, "model": model, "tenant": tenant, "in_control_data": "yes" if card in known else "no"}
        for card, model, tenant in query.rows(sources.cursor)
    )
    return made("used_cards", _CARD_KEYS, {**_CARD, "in_control_data": str}, rows)


def used_models(sources: Sources) -> Extract:
    """Models with requests in the last days, and how many of these have no price and would have none now."""
    span = between(sources.from_us, sources.to_us)
    used = Query(f"SELECT DISTINCT {MODEL} FROM rollup_day WHERE {span.sql} ORDER BY 1", span.params)
    days = unpriced_days(sources.cursor, sources.from_us, sources.to_us)
    alerts = unpriced_alerts(days, sources.snapshot.rate_cards, sources.now_us)
    without: dict[str, Any] = {model: alert.payload for model, alert in alerts.items()}
    rows = (
        {
            "model": model,
            "tenants": ", ".join(without[model]["tenants"]) if model in without else None,
            "unpriced": without[model]["requests"] if model in without else 0,
        }
        for (model,) in used.rows(sources.cursor)
    )
    return made("used_models", ("model", "tenants"), {"model": str, "tenants": str, "unpriced": int}, rows)


def versions(sources: Sources) -> Extract:
    """Under which version of control data each partition's newest charges were rated, beside the newest there is, and
    the one that was in force when they arrived."""
    newest = Query(
        'SELECT "partition", max(epoch_us(arrived)), max(control_version),'
        " arg_max(control_version, arrived) FROM charges"
        " WHERE arrived >= make_timestamptz($arrived_us::BIGINT) GROUP BY 1 ORDER BY 1",
        {"arrived_us": sources.from_us},
    ).rows(sources.cursor)
    rows = [
        {
            "partition": partition,
            "version": rated,
            "versions_ahead": highest - sources.snapshot.version,
            "versions_behind": _in_force(sources, arrived_us - NEW_VERSION_US) - rated,
        }
        for partition, arrived_us, highest, rated in newest
    ]
    columns = {"partition": int, "version": int, "versions_ahead": int, "versions_behind": int}
    return made("versions", ("partition",), columns, rows)


def _in_force(sources: Sources, at_us: int) -> int:
    """The newest version that was recorded by then; 0: none that is known."""
    return max((version for version, recorded_us in sources.versions if recorded_us <= at_us), default=0)
