"""A lake filled from short dicts, in plain Python: what reports must find again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from meterhouse.ingest.batch import EVENT_SCHEMA, Reason, Reject
from meterhouse.streams import latency
from meterhouse.streams.control import Budget, Objective, RateCard, Scope, Snapshot, Tenant, WindowSpec
from meterhouse.streams.ledger import (
    CHARGE_SCHEMA,
    LATENCY_KEYS,
    LATENCY_SCHEMA,
    NODE_EVENT_SCHEMA,
    ROLLUP_KEYS,
    ROLLUP_SCHEMA,
    Counts,
    Position,
    Processed,
)
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.lake_ledger import LakeLedger
from tests.builders import HOUR_US, MINUTE_US, T0_US, events

KINDS: Final = ("input", "cache_read", "cache_write", "output", "reasoning")
PICO: Final = Decimal(10) ** -12


def card(number: int, model: str, tenant: str | None = None, **pico: int) -> RateCard:
    prices = {"input": 2_500_000, "cache_read": 250_000, "cache_write": 3_125_000, "output": 10_000_000}
    return RateCard(number, "atlas", model, tenant, 0, None, {**prices, "reasoning": 10_000_000, **pico})


SNAPSHOT: Final = Snapshot(
    version=3,
    currency="USD",
    tenants=(
        Tenant("acme", "Acme", ("group", "consumer"), "CC-1"),
        Tenant("bolt", "Bolt", ("group",), None),
        Tenant("cork", "Cork", (), "CC-1"),
    ),
    rate_cards=(
        card(1, "atlas-large"),
        card(2, "atlas-large", "bolt", input=2_000_001),
        card(3, "atlas-small", output=7),
    ),
    budgets=(
        Budget(
            "acme-day",
            Scope(tenant="acme"),
            WindowSpec("day", "Asia/Kathmandu"),  # 5:45 ahead: windows that start between whole hours of UTC
            10_000_000_000,
            None,
            (Decimal(50), Decimal("99.5")),
            "block",
        ),
        Budget(
            "group-tokens",
            Scope(org_unit="group", application="assistant"),
            WindowSpec("month", "UTC"),
            None,
            1_000,
            (Decimal(80),),
            "notify",
        ),
    ),
    objectives=(
        Objective("up", Scope(application="assistant"), "availability", None, Decimal("0.9"), 30),
        Objective("fast", Scope(org_unit="group"), "duration", 20, Decimal("0.5"), 30),
        Objective("first", Scope(model="atlas-small"), "time_to_first_token", 5, Decimal("0.99"), 7),
    ),
)


def charges_of(rows: Iterable[Mapping[str, Any]], snapshot: Snapshot = SNAPSHOT) -> list[dict[str, Any]]:
    """Charges, as dicts of CHARGE_SCHEMA, of requests given as `tests.builders.events` takes them."""
    return [_charge(row, snapshot) for row in events(rows).to_pylist()]


def _charge(event: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    time_us = microseconds(event)
    cards = [
        c
        for c in snapshot.rate_cards
        if (c.model, c.tenant in (None, event["tenant"])) == (event["model"], True)
        and c.valid_from_us <= time_us
        and (c.valid_to_us is None or time_us < c.valid_to_us)
    ]
    billable = event["status"] in ("ok", "aborted")
    chosen = max(cards, key=lambda c: (c.tenant is not None, c.valid_from_us), default=None) if billable else None
    cost = sum(event[f"{k}_tokens"] * chosen.pico_per_token[k] for k in KINDS) if chosen else None
    return {
        **{name: event[name] for name in EVENT_SCHEMA.names if name in CHARGE_SCHEMA.names},
        "disposition": "billed" if chosen else "unpriced" if billable else "unbilled",
        "cost_pico": cost if billable else 0,
        "card": chosen.id if chosen else None,
        "control_version": snapshot.version,
    }


def fill(
    lake: Lake,
    rows: Iterable[Mapping[str, Any]] = (),
    nodes: Iterable[Mapping[str, Any]] = (),
    rejects: Sequence[Reject] = (),
    snapshot: Snapshot = SNAPSHOT,
) -> list[dict[str, Any]]:
    """Commits all of it in one transaction and returns the charges. Each row's `offset` defaults to its number, so
    nodes and rejects need offsets of their own."""
    charges = charges_of(rows, snapshot)
    node_events = [{n: row[n] for n in NODE_EVENT_SCHEMA.names} for row in events(nodes).to_pylist()]
    ledger = LakeLedger(lake)
    seen = [*charges, *node_events]
    places = {row["partition"] for row in seen} | {reject.partition for reject in rejects} | {0}
    ledger.seed(max(places) + 1)
    before = {partition: position for partition, position in ledger.positions().items() if partition in places}
    ledger.commit(
        Processed(
            charges=pa.Table.from_pylist(charges, schema=CHARGE_SCHEMA),
            node_events=pa.Table.from_pylist(node_events, schema=NODE_EVENT_SCHEMA),
            minutes=rolled_up(charges, MINUTE_US, snapshot),
            hours=rolled_up(charges, HOUR_US, snapshot),
            latency=_latency(charges),
            rejects=rejects,
            before=before,
            after={p: _after(p, position, seen, rejects) for p, position in before.items()},
        )
    )
    ledger.close()
    return charges


def _after(partition: int, before: Position, seen: Sequence[dict[str, Any]], rejects: Sequence[Reject]) -> Position:
    mine = [row for row in seen if row["partition"] == partition]
    refused = [reject for reject in rejects if reject.partition == partition]
    of = [row.get("disposition", "informational") for row in mine]
    counts = before.counts + Counts(
        read=len(mine) + len(refused),
        billed=of.count("billed"),
        unpriced=of.count("unpriced"),
        unbilled=of.count("unbilled"),
        informational=of.count("informational"),
        rejected=len(refused),
    )
    offsets = [row["offset"] for row in mine] + [reject.offset for reject in refused]
    arrived = [int(row["arrived"].timestamp()) * 1_000_000 for row in mine] + [r.arrived_us for r in refused]
    return Position(max([before.next_offset, *(offset + 1 for offset in offsets)]), counts, max(arrived, default=None))


def microseconds(row: Mapping[str, Any]) -> int:
    return int(row["time"].timestamp()) * 1_000_000 + int(row["time"].microsecond)


def kind_cost(row: Mapping[str, Any], kind: str, snapshot: Snapshot = SNAPSHOT) -> int:
    """Pico-units of one kind of a charge."""
    price = next((c.pico_per_token[kind] for c in snapshot.rate_cards if c.id == row["card"]), 0)
    return int(row[f"{kind}_tokens"] * price)


def rolled_up(charges: Sequence[dict[str, Any]], unit_us: int, snapshot: Snapshot = SNAPSHOT) -> pa.Table:
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 11)
    for row in charges:
        start = microseconds(row) // unit_us * unit_us
        key = tuple(start if name == "time" else row[name] for name in ROLLUP_KEYS)
        values = [1, *(row[f"{k}_tokens"] for k in KINDS), *(kind_cost(row, k, snapshot) for k in KINDS)]
        sums[key] = [a + b for a, b in zip(sums[key], values, strict=True)]
    rows = [(*key, *values[:6], *(value * PICO for value in values[6:])) for key, values in sums.items()]
    return _table(rows, ROLLUP_SCHEMA)


def _latency(charges: Sequence[dict[str, Any]]) -> pa.Table:
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for row in charges:
        if row["status"] in ("throttled", "blocked"):
            continue
        for metric in ("duration", "time_to_first_token"):
            if row[f"{metric}_us"] is not None:
                more = {
                    "time": microseconds(row) // HOUR_US * HOUR_US,
                    "metric": metric,
                    "bucket": latency.bucket_of(row[f"{metric}_us"]),
                }
                counts[tuple({**row, **more}[name] for name in LATENCY_KEYS)] += 1
    return _table([(*key, count) for key, count in counts.items()], LATENCY_SCHEMA)


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def reject(offset: int, payload: bytes = b"{}", **more: Any) -> Reject:
    defaults: dict[str, Any] = {
        "topic": "usage.events",
        "partition": 0,
        "offset": offset,
        "index": 0,
        "arrived_us": T0_US,
        "reason": Reason.MISSING_FIELD,
        "detail": "data.model is missing: name the model",
        "tenant": "acme",
        "payload": payload,
    }
    return Reject(**{**defaults, **more})
