"""The oracle: what a trace costs under a control file, worked out one event at a time in plain Python.

It shares no code with the product, on purpose: the standard library and PyYAML, fractions for money, no vectors, no
SQL, no roll-ups. Slow and plain is the point. Times are integer microseconds UTC; money is `Fraction` of the currency.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

KINDS = ("input", "cache_read", "cache_write", "output", "reasoning")
BILLED = ("ok", "aborted")
REFUSED = ("throttled", "blocked")
STATUSES = ("ok", "error", "aborted", "throttled", "blocked")
APPLICATIONS = ("assistant", "search", "batch-summaries")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# -- control data ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    provider: str
    model: str
    tenant: str | None
    valid_from: int
    valid_to: int | None
    per_million: dict[str, Fraction]


@dataclass(frozen=True)
class Control:
    """A control file, read."""

    currency: str
    tenants: tuple[dict[str, Any], ...]
    prices: tuple[Price, ...]
    budgets: tuple[dict[str, Any], ...]
    objectives: tuple[dict[str, Any], ...]

    @property
    def models(self) -> list[tuple[str, str]]:
        """(provider, model) in order of first appearance in the rate card."""
        found: list[tuple[str, str]] = []
        for price in self.prices:
            if (price.provider, price.model) not in found:
                found.append((price.provider, price.model))
        return found

    def tenant(self, tenant_id: str) -> dict[str, Any]:
        (tenant,) = (each for each in self.tenants if each["id"] == tenant_id)
        return tenant


def microseconds(moment: datetime | str) -> int:
    """Microseconds since the epoch of a moment with a zone."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    assert moment.tzinfo is not None, f"{moment} has no zone"
    return (moment - EPOCH) // timedelta(microseconds=1)


def rfc3339(time_us: int) -> str:
    return (EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


def read_control(path: Path) -> Control:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Control(
        currency=document["currency"],
        tenants=tuple(document["tenants"]),
        prices=tuple(
            Price(
                provider=entry["provider"],
                model=entry["model"],
                tenant=entry.get("tenant"),
                valid_from=microseconds(entry["valid_from"]),
                valid_to=microseconds(entry["valid_to"]) if entry.get("valid_to") else None,
                per_million={kind: Fraction(price) for kind, price in entry["per_million"].items()},
            )
            for entry in document["rate_card"]
        ),
        budgets=tuple(document.get("budgets") or ()),
        objectives=tuple(document.get("objectives") or ()),
    )


def price_at(control: Control, provider: str, model: str, tenant: str, time_us: int) -> Price | None:
    """The price in force: the tenant's own before the list's, of each the latest that has begun and not ended."""
    for owner in (tenant, None):
        in_force = [
            price
            for price in control.prices
            if (price.provider, price.model, price.tenant) == (provider, model, owner)
            and price.valid_from <= time_us
            and (price.valid_to is None or time_us < price.valid_to)
        ]
        if in_force:
            return max(in_force, key=lambda price: price.valid_from)
    return None


# -- traces and the replay rule ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    id: str
    source: str
    tenant: str
    application: str
    provider: str
    model: str
    time: int
    status: str
    tokens: dict[str, int]  # disjoint kinds
    duration: int
    time_to_first_token: int


@dataclass(frozen=True)
class Row:
    """A row of a trace. `since_first` is exact, in seconds."""

    since_first: Fraction
    input: int
    cache_read: int
    output: int


def azure_seconds(text: str) -> Fraction:
    """Seconds since the epoch of '2023-11-16 18:15:46.6805900', all digits kept."""
    whole, _, fraction = text.partition(".")
    moment = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return Fraction(int(moment.timestamp())) + (Fraction(int(fraction), 10 ** len(fraction)) if fraction else 0)


def azure_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        first: Fraction | None = None
        for line in csv.DictReader(file):
            time = azure_seconds(line["TIMESTAMP"])
            first = time if first is None else first
            yield Row(time - first, int(line["ContextTokens"]), 0, int(line["GeneratedTokens"]))


def mooncake_rows(path: Path) -> Iterator[Row]:
    """Leading blocks of a prompt that occurred in any earlier row are read from the cache, 512 tokens each."""
    seen: set[int] = set()
    first: Fraction | None = None
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            time = Fraction(row["timestamp"], 1000)
            first = time if first is None else first
            leading = 0
            for block in row["hash_ids"]:
                if block not in seen:
                    break
                leading += 1
            seen.update(row["hash_ids"])
            cached = min(512 * leading, row["input_length"])
            yield Row(time - first, row["input_length"], cached, row["output_length"])


ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {"azure-llm": azure_rows, "mooncake": mooncake_rows}


def status_of(i: int) -> str:
    if i % 97 == 96:
        return "error"
    return "aborted" if i % 101 == 100 else "ok"


def replayed(control: Control, path: Path, trace_format: str, start_us: int) -> list[Event]:
    """The events of a trace by the replay rule, in file order."""
    count, models, events = len(control.tenants), control.models, []
    for i, row in enumerate(ROWS[trace_format](path)):
        provider, model = models[(i // (3 * count)) % len(models)]
        first_token = 50_000 + 30 * (row.input - row.cache_read)
        events.append(
            Event(
                id=f"{path.stem}-{i}",
                source=f"/replay/{path.stem}",
                tenant=control.tenants[i % count]["id"],
                application=APPLICATIONS[(i // count) % 3],
                provider=provider,
                model=model,
                time=start_us + math.floor(row.since_first * 1_000_000),
                status=status_of(i),
                tokens={
                    "input": row.input - row.cache_read,
                    "cache_read": row.cache_read,
                    "cache_write": 0,
                    "output": row.output,
                    "reasoning": 0,
                },
                duration=first_token + 20_000 * row.output,
                time_to_first_token=first_token,
            )
        )
    return events


# -- charges -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Charge:
    event: Event
    disposition: str  # billed, unpriced, unbilled
    costs: dict[str, Fraction]  # per kind; nothing but zeros unless billed

    @property
    def cost(self) -> Fraction:
        return sum(self.costs.values(), Fraction(0))


def charge(control: Control, event: Event) -> Charge:
    nothing = dict.fromkeys(KINDS, Fraction(0))
    if event.status not in BILLED:
        return Charge(event, "unbilled", nothing)
    price = price_at(control, event.provider, event.model, event.tenant, event.time)
    if price is None or any(event.tokens[kind] and kind not in price.per_million for kind in KINDS):
        return Charge(event, "unpriced", nothing)
    return Charge(
        event,
        "billed",
        {kind: event.tokens[kind] * price.per_million.get(kind, Fraction(0)) / 1_000_000 for kind in KINDS},
    )


def charges(control: Control, events: Iterable[Event]) -> list[Charge]:
    """A charge for each event that is not a repeat: the first of each (tenant, source, id) counts."""
    seen: set[tuple[str, str, str]] = set()
    found = []
    for event in events:
        key = (event.tenant, event.source, event.id)
        if key not in seen:
            seen.add(key)
            found.append(charge(control, event))
    return found


def money(amount: Fraction) -> str:
    """Twelve decimals, exactly: an amount that needs more is an error of the oracle."""
    pico = amount * 10**12
    assert pico.denominator == 1, f"{amount} has more than twelve decimals"
    sign, digits = ("-" if pico < 0 else ""), f"{abs(pico.numerator):013d}"
    return f"{sign}{digits[:-12]}.{digits[-12:]}"


# -- reports -----------------------------------------------------------------------------------------------------------


def truncated(time_us: int, every: str) -> str:
    """Start of the UTC day, hour, minute or month that a time lies in."""
    moment = EPOCH + timedelta(microseconds=time_us)
    zeros = {"minute": ("second",), "hour": ("minute", "second"), "day": ("hour", "minute", "second")}
    if every == "month":
        moment = moment.replace(day=1, hour=0, minute=0, second=0)
    else:
        moment = moment.replace(**dict.fromkeys(zeros[every], 0))  # type: ignore[arg-type]
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def group_value(control: Control, event: Event, column: str) -> str | None:
    if column in ("tenant", "application", "provider", "model"):
        return str(getattr(event, column))
    if column == "cost_center":
        center = control.tenant(event.tenant).get("cost_center")
        return None if center is None else str(center)
    if column in ("minute", "hour", "day", "month"):
        return truncated(event.time, column)
    raise AssertionError(f"the oracle does not group by {column}")


def summed(of: Sequence[Charge]) -> dict[str, Any]:
    billed = [each for each in of if each.disposition == "billed"]
    return {
        "requests": len(of),
        "billed_requests": len(billed),
        "unpriced_requests": sum(each.disposition == "unpriced" for each in of),
        "tokens": {kind: sum(each.event.tokens[kind] for each in billed) for kind in KINDS},
        "cost": money(sum((each.cost for each in billed), Fraction(0))),
    }


def chargeback(control: Control, of: Sequence[Charge], group_by: Sequence[str]) -> dict[str, Any]:
    """`lines` and `total` of the chargeback report: lines sorted by their groups, sums of billed tokens and cost."""
    groups: dict[tuple[str, ...], list[Charge]] = defaultdict(list)
    for each in of:
        groups[tuple(group_value(control, each.event, column) or "" for column in group_by)].append(each)
    lines = [dict(zip(group_by, key, strict=True)) | summed(groups[key]) for key in sorted(groups)]
    return {"lines": lines, "total": summed(of)}


def usage(control: Control, of: Sequence[Charge], group_by: Sequence[str]) -> dict[str, Any]:
    """Per group: requests, requests by status, and tokens of every request, billed or not."""

    def line(members: Sequence[Charge]) -> dict[str, Any]:
        return {
            "requests": len(members),
            "by_status": {status: sum(each.event.status == status for each in members) for status in STATUSES},
            "tokens": {kind: sum(each.event.tokens[kind] for each in members) for kind in KINDS},
        }

    groups: dict[tuple[str, ...], list[Charge]] = defaultdict(list)
    for each in of:
        groups[tuple(group_value(control, each.event, column) or "" for column in group_by)].append(each)
    lines = [dict(zip(group_by, key, strict=True)) | line(groups[key]) for key in sorted(groups)]
    return {"lines": lines, "total": line(of)}


def in_scope(control: Control, event: Event, scope: dict[str, str] | None) -> bool:
    for column, wanted in (scope or {}).items():
        if column == "org_unit":
            if wanted not in control.tenant(event.tenant).get("org", []):
                return False
        elif getattr(event, column) != wanted:
            return False
    return True


def window_of(time_us: int, every: str, time_zone: str) -> tuple[int, int]:
    """[start, end) of the zone's calendar day, week (from Monday) or month around a time."""
    zone = ZoneInfo(time_zone)
    day = (EPOCH + timedelta(microseconds=time_us)).astimezone(zone).date()
    if every == "week":
        day -= timedelta(days=day.weekday())
        end = day + timedelta(days=7)
    elif every == "month":
        day = day.replace(day=1)
        end = (day + timedelta(days=32)).replace(day=1)
    else:
        end = day + timedelta(days=1)
    start_us, end_us = (
        microseconds(datetime(edge.year, edge.month, edge.day, tzinfo=zone).astimezone(UTC)) for edge in (day, end)
    )
    return start_us, end_us


def budget_spend(control: Control, of: Sequence[Charge], budget: dict[str, Any]) -> dict[tuple[int, int], Fraction]:
    """Spend per window: money for a limit in money, tokens of all kinds for a limit in tokens."""
    spent: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    window = budget["window"]
    for each in of:
        if each.disposition == "billed" and in_scope(control, each.event, budget.get("scope")):
            key = window_of(each.event.time, window["every"], window["time_zone"])
            spent[key] += sum(each.event.tokens.values()) if "limit_tokens" in budget else each.cost
    return dict(spent)


def budget_limit(budget: dict[str, Any]) -> Fraction:
    return Fraction(budget["limit_tokens"] if "limit_tokens" in budget else budget["limit"])


def crossed(budget: dict[str, Any], spent: Fraction) -> list[Fraction]:
    """Thresholds, in percent, that a spend has reached."""
    return [
        Fraction(str(percent))
        for percent in budget["thresholds"]
        if spent * 100 >= Fraction(str(percent)) * budget_limit(budget)
    ]


def objective_counts(control: Control, of: Sequence[Charge], objective: dict[str, Any]) -> tuple[int, int]:
    """(good, total) of all events in scope: those refused are outside; good latency is strictly below."""
    counted = [
        each.event
        for each in of
        if each.event.status not in REFUSED and in_scope(control, each.event, objective.get("scope"))
    ]
    if objective["sli"] == "availability":
        return sum(event.status != "error" for event in counted), len(counted)
    limit_us = int(Decimal(str(objective["below_ms"])) * 1000)
    return sum(getattr(event, objective["sli"]) < limit_us for event in counted), len(counted)


def percentile(values: Sequence[int], percent: int) -> int:
    """The exact nearest-rank percentile: the smallest value that at least `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(Fraction(percent, 100) * len(ordered)) - 1]
