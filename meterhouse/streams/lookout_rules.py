"""The lookout's rules: when a forecast, a missing price or a meter that is behind is news, and when it no longer is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from meterhouse.ingest.log import USAGE_EVENTS
from meterhouse.streams.alert import Alert, alert_id, rfc3339
from meterhouse.streams.budget_alerts import budget_details
from meterhouse.streams.budget_state import Window
from meterhouse.streams.control import Budget, RateCard
from meterhouse.streams.forecast import Forecast
from meterhouse.streams.money import to_decimal, to_text
from meterhouse.streams.rate_card import in_force

MAX_TENANTS: Final = 20
"""Named in an alert; the number of all is beside them."""
THIN_PART: Final = 10
THIN_US: Final = 2 * 86_400 * 1_000_000
"""A forecast is news from a tenth of the window on, or from two days on if that is sooner."""
RELIEF_PERCENT: Final = 90
"""Of the limit: a forecast that falls to this is no longer news. Just below the limit it may be again tomorrow."""


# -- forecast ---------------------------------------------------------------------------------------------------------


def forecast_alert(
    budget: Budget, currency: str, window: Window, spent: int, found: Forecast, now_us: int
) -> Alert | None:
    """The news that a budget is on course to exceed, once per window; None: it is not, it has exceeded already, or the
    window has hardly begun. Amounts are in the unit of the limit."""
    if found.exceeds_on is None or now_us - window[0] < min((window[1] - window[0]) // THIN_PART, THIN_US):
        return None
    limit = limit_of(budget)
    amount, of, unit = _shown(found.amount, budget), _shown(limit, budget), currency
    return Alert(
        id=alert_id("forecast", budget.id, *window),
        kind="forecast",
        subject=budget.id,
        summary=f"budget {budget.id} is on course to exceed its limit by {found.exceeds_on:%a} {found.exceeds_on.day}"
        f" {found.exceeds_on:%b}: forecast {amount} of {of} {'tokens' if budget.limit_pico is None else unit}",
        created_us=now_us,
        budget_id=budget.id,
        window_start_us=window[0],
        window_end_us=window[1],
        spent=_text(spent, budget),
        limit=_text(limit, budget),
        payload={
            **budget_details(budget, currency),
            "forecast": _text(found.amount, budget),
            "exceeds_on": found.exceeds_on.isoformat(),
        },
    )


def forecast_is_over(alert: Alert, budget: Budget | None, window: Window | None, found: Forecast | None) -> str | None:
    """Why an open alert's reason is gone; None: it stands. The budget, its window and forecast are those of now."""
    if budget is None or window is None or found is None:
        return "there is no such budget any more"
    if (alert.window_start_us, alert.window_end_us) != window:
        return "the budget has another window"
    if found.amount * 100 <= limit_of(budget) * RELIEF_PERCENT:
        return f"the forecast fell to {_shown(found.amount, budget)} of {_shown(limit_of(budget), budget)}"
    return None


def limit_of(budget: Budget) -> int:
    """In pico-units or tokens."""
    limit = budget.limit_tokens if budget.limit_pico is None else budget.limit_pico
    assert limit is not None
    return limit


def _text(amount: int, budget: Budget) -> str:
    return str(amount) if budget.limit_pico is None else to_text(amount)


def _shown(amount: int, budget: Budget) -> str:
    if budget.limit_pico is None:
        return f"{amount:,}"
    return f"{to_decimal(amount).quantize(Decimal('0.01'), ROUND_HALF_EVEN):,}"


# -- unpriced ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnpricedDay:
    """A tenant's requests of a model in one day of UTC that are billable and have no price."""

    provider: str
    model: str
    tenant: str
    day: date
    first_us: int  # start of the first hour that has any
    last_us: int  # end of the last one
    kinds: frozenset[str]  # the token kinds that they have
    requests: int
    tokens: int


def unpriced_alerts(days: Iterable[UnpricedDay], cards: Sequence[RateCard], now_us: int) -> dict[str, Alert]:
    """By `provider/model`: models with requests that have no price, and would have none if they came now.

    An *episode* begins when a price ends, or with the first request of a model that never had one. Requests before it
    are not counted: a price that came for them later does not price the past, and they were news then.
    """
    by_model: dict[tuple[str, str], list[RateCard]] = {}
    for card in cards:
        by_model.setdefault((card.provider, card.model), []).append(card)
    found: dict[tuple[str, str], list[tuple[UnpricedDay, int]]] = {}
    for day in days:
        since_us = _without_price_since(day, by_model.get((day.provider, day.model), []), now_us)
        if since_us is not None and day.last_us > since_us:
            found.setdefault((day.provider, day.model), []).append((day, since_us))
    return {
        f"{provider}/{model}": _unpriced(provider, model, rows, now_us) for (provider, model), rows in found.items()
    }


def unpriced_is_over(alert: Alert, found: Mapping[str, Alert], cards: Iterable[RateCard], now_us: int) -> str | None:
    """Why an open alert's reason is gone; None: it stands. Requests that nobody sends any more are no reason."""
    if alert.subject in found:
        return None
    for card in cards:
        begun = card.valid_from_us <= now_us and (card.valid_to_us is None or now_us < card.valid_to_us)
        if begun and f"{card.provider}/{card.model}" == alert.subject:
            return f"rate card {card.id} prices it; what came before stays unpriced"
    return None


def _without_price_since(day: UnpricedDay, cards: Sequence[RateCard], now_us: int) -> int | None:
    """When requests like the day's last had a price; 0: never; None: they have one now."""

    def priced_at(time_us: int) -> bool:
        card = in_force(cards, day.provider, day.model, day.tenant, time_us)
        return card is not None and day.kinds <= card.pico_per_token.keys()

    if priced_at(now_us):
        return None
    changes = sorted(
        {t for card in cards for t in (card.valid_from_us, card.valid_to_us) if t is not None and t <= now_us}
    )
    for n in range(len(changes) - 1, 0, -1):
        if priced_at(changes[n - 1]):
            return changes[n]
    return 0


def _unpriced(provider: str, model: str, rows: Sequence[tuple[UnpricedDay, int]], now_us: int) -> Alert:
    began_us = min(max(day.first_us, since_us) for day, since_us in rows)
    ended_us = max(since_us for _, since_us in rows)
    requests, tenants = sum(day.requests for day, _ in rows), sorted({day.tenant for day, _ in rows})
    first_day = min(day.day for day, _ in rows).isoformat()
    return Alert(
        id=alert_id("unpriced", provider, model, first_day, ended_us),
        kind="unpriced",
        subject=f"{provider}/{model}",
        summary=f"{requests:,} requests of {provider}/{model} have no price since {first_day}: add a rate card",
        created_us=now_us,
        payload={
            "provider": provider,
            "model": model,
            "requests": requests,
            "tokens": sum(day.tokens for day, _ in rows),
            "tenants": tenants[:MAX_TENANTS],
            "tenant_count": len(tenants),
            "token_kinds": sorted({kind for day, _ in rows for kind in day.kinds}),
            "since": rfc3339(began_us),
        },
    )


# -- meter behind -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a partition holds that the lake does not."""

    offset: int  # of the first of them
    records: int
    arrived_us: int | None  # when it arrived; None: it is gone from the log


@dataclass(frozen=True, slots=True)
class Standing:
    """How long a partition is where it is, as far as this lookout has seen."""

    offset: int  # of its first waiting record
    since_us: int  # the first look that found it there
    far: bool  # its first waiting record was too old at the last look


@dataclass(frozen=True, slots=True)
class Patience:
    """When a meter is behind, microseconds."""

    stuck_us: int  # so long at one offset with records waiting
    behind_us: int  # so old is the first record that waits, at two looks in a row: one look may fall on a restart


def standing_of(waiting: Waiting, before: Standing | None, patience: Patience, now_us: int) -> Standing:
    """Of a partition at this look, after that of the last one."""
    stays = before is not None and before.offset == waiting.offset
    since_us = before.since_us if before is not None and stays else now_us
    return Standing(waiting.offset, since_us, _age_us(waiting, now_us) > patience.behind_us)


def meter_alert(
    partition: int, waiting: Waiting, before: Standing | None, now: Standing, patience: Patience, now_us: int
) -> Alert | None:
    """The news that a partition is not metered, or late; None: it is neither."""
    stuck = now_us - now.since_us >= patience.stuck_us
    if not stuck and not (now.far and before is not None and before.far):
        return None
    subject = subject_of(partition)
    late = "late" if waiting.arrived_us is None else f"{_age_us(waiting, now_us) // 1_000_000:,} s late"
    how = f"is stuck at offset {waiting.offset:,}" if stuck else f"is metered {late}"
    return Alert(
        id=alert_id("meter_behind", subject, waiting.offset),
        kind="meter_behind",
        subject=subject,
        summary=f"{subject} {how}: {waiting.records:,} records wait; see that a meter runs, and what it says",
        created_us=now_us,
        payload={
            "rule": "stuck" if stuck else "far_behind",
            "topic": USAGE_EVENTS,
            "partition": partition,
            "offset": waiting.offset,
            "records": waiting.records,
            "oldest": None if waiting.arrived_us is None else rfc3339(waiting.arrived_us),
        },
    )


def meter_is_back(
    alert: Alert, waiting: Waiting | None, now: Standing | None, patience: Patience, now_us: int
) -> str | None:
    """Why an open alert's reason is gone: the partition moved on, and is within half of both limits; or None."""
    if waiting is None or now is None:
        return "all records are metered"
    if waiting.offset == alert.payload.get("offset") or now_us - now.since_us > patience.stuck_us // 2:
        return None
    age_us = _age_us(waiting, now_us)
    return None if age_us > patience.behind_us // 2 else f"metered {age_us // 1_000_000:,} s late"


def subject_of(partition: int) -> str:
    return f"{USAGE_EVENTS}/{partition}"


def _age_us(waiting: Waiting, now_us: int) -> int:
    return 0 if waiting.arrived_us is None else now_us - waiting.arrived_us
