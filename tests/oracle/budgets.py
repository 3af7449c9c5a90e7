"""The oracle of budgets: what each window comes to, what gates must be told of it, and which alerts are due.

As `books`, it shares no code with the product: plain sums, fractions, and the record's fields written down once more.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from tests.oracle import books

Spend = dict[tuple[str, str, str, int], list[int]]
"""(tenant, application, model, start of minute in microseconds) → pico-units and tokens of what was billed."""
Window = tuple[str, int, int]
"""Budget, [start, end) in microseconds."""

MINUTE_US: Final = 60_000_000
QUARTER_US: Final = 15 * MINUTE_US
"""Zones are whole quarters of an hour from UTC, so all of one is in one window."""
ALERTS: Final = uuid.UUID("5b0f6b0e-6c1e-4d0b-9a53-2f8d1c7e4a90")


def account(spend: Spend, charge: books.Charge) -> None:
    """Adds one charge up, if it is billed."""
    if charge.disposition != "billed":
        return
    event, pico = charge.event, charge.cost * 10**12
    assert pico.denominator == 1
    key = event.tenant, event.application, event.model, event.time // MINUTE_US * MINUTE_US
    sums = spend.setdefault(key, [0, 0])
    sums[0] += pico.numerator
    sums[1] += sum(event.tokens.values())


def window_at(time_us: int, window: dict[str, str]) -> tuple[int, int]:
    """[start, end) of a budget's window around a time."""
    return _window_of_quarter(time_us // QUARTER_US, window["every"], window["time_zone"])


@lru_cache(maxsize=100_000)
def _window_of_quarter(quarter: int, every: str, time_zone: str) -> tuple[int, int]:
    return books.window_of(quarter * QUARTER_US, every, time_zone)


def windows(control: books.Control, spend: Spend) -> dict[Window, tuple[int, int]]:
    """Pico-units and tokens of each budget's windows that anything billed falls into."""
    found: dict[Window, list[int]] = defaultdict(lambda: [0, 0])
    for (tenant, application, model, minute), (pico, tokens) in spend.items():
        event = books.Event(
            id="", source="", tenant=tenant, application=application, provider="", model=model, time=minute,
            status="ok", tokens={}, duration=0, time_to_first_token=0,
        )  # fmt: skip
        for budget in control.budgets:
            if (pico or tokens) and books.in_scope(control, event, budget.get("scope")):
                sums = found[budget["id"], *window_at(minute, budget["window"])]
                sums[0] += pico
                sums[1] += tokens
    return {window: (pico, tokens) for window, (pico, tokens) in found.items()}


def _plain(percent: Fraction) -> str:
    """A percentage of at most a few decimals, in plain digits."""
    return f"{(Decimal(percent.numerator) / Decimal(percent.denominator)).normalize():f}"


def spent_of(budget: dict[str, Any], sums: tuple[int, int]) -> Fraction:
    """In the limit's unit: the currency, or tokens."""
    return Fraction(sums[1]) if "limit_tokens" in budget else Fraction(sums[0], 10**12)


def state(budget: dict[str, Any], window: Window, sums: tuple[int, int]) -> dict[str, Any]:
    """What `budget.states` says of a window, without what depends on the log: offsets, and the digest of the scope."""
    spent, limit = spent_of(budget, sums), books.budget_limit(budget)
    crossed = books.crossed(budget, spent)
    tokens = budget.get("limit_tokens")
    share = Fraction(spent * 1_000_000 // limit, 10_000)  # percent, rounded down to four decimals
    return {
        "budget_id": budget["id"],
        "window_start_us": window[1],
        "window_end_us": window[2],
        "state": "exceeded" if spent >= limit else "warned" if crossed else "ok",
        "spent_pico": str(sums[0]),
        "spent_tokens": sums[1],
        "limit_pico": None if tokens is not None else str(limit * 10**12),
        "limit_tokens": tokens,
        "share_percent": _plain(share),
        "crossed": [_plain(threshold) for threshold in crossed],
        "on_exceeded": budget["on_exceeded"],
    }


def terms(control: books.Control, budget: dict[str, Any]) -> dict[str, Any]:
    """What `budget.states` says of a budget itself, without the digest of its scope."""
    scope = budget.get("scope") or {}
    tenants = [
        tenant["id"]
        for tenant in control.tenants
        if scope.get("tenant") in (None, tenant["id"]) and scope.get("org_unit") in (None, *tenant.get("org", []))
    ]
    in_tokens = "limit_tokens" in budget
    return {
        "budget_id": budget["id"],
        "tenants": tenants if {"tenant", "org_unit"} & scope.keys() else None,
        "application": scope.get("application"),
        "model": scope.get("model"),
        "every": budget["window"]["every"],
        "time_zone": budget["window"]["time_zone"],
        "unit": "tokens" if in_tokens else control.currency,
        "limit": str(budget["limit_tokens"] if in_tokens else books.budget_limit(budget) * 10**12),
        "on_exceeded": budget["on_exceeded"],
        "throttle_per_minute": budget.get("throttle_per_minute", 60),
        "when_stale": budget.get("when_stale", "open"),
        "stale_after_s": budget.get("stale_after_s", 60),
    }


def alerts(budget: dict[str, Any], window: Window, sums: tuple[int, int]) -> Iterable[tuple[str, str]]:
    """(id, percent) of each threshold that a window's spend has reached."""
    for threshold in books.crossed(budget, spent_of(budget, sums)):
        percent = _plain(threshold)
        yield str(uuid.uuid5(ALERTS, json.dumps(["threshold", *window, percent]))), percent


def resolution_id(alert_id: str) -> str:
    """The id of the news that an alert's reason is gone."""
    return str(uuid.uuid5(ALERTS, json.dumps(["resolved", alert_id])))
