"""Small builders for budget tests: budgets, spends, and the tables a meter would make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Budget, Scope, Snapshot, Tenant, WindowSpec
from meterhouse.streams.ledger import MONEY, ROLLUP_SCHEMA

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
TENANTS = (
    Tenant(id="acme", name="Acme", org=("group", "consumer")),
    Tenant(id="borg", name="Borg", org=("group", "industry")),
    Tenant(id="cove", name="Cove"),
)
BERLIN_MONTH = WindowSpec("month", "Europe/Berlin")


def us(text: str) -> int:
    """An ISO instant (UTC where it says no zone) → microseconds."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * 1_000_000


def budget(id: str = "acme-month", **changes: Any) -> Budget:
    fields: dict[str, Any] = {
        "scope": Scope(tenant="acme"),
        "window": BERLIN_MONTH,
        "limit_pico": 100 * 10**12,
        "limit_tokens": None,
        "thresholds": (Decimal(50), Decimal(80), Decimal(100)),
        "on_exceeded": "notify",
    }
    return Budget(id=id, **(fields | changes))


def snapshot(*budgets: Budget, version: int = 1, tenants: Sequence[Tenant] = TENANTS) -> Snapshot:
    return Snapshot(version=version, currency="USD", tenants=tuple(tenants), budgets=budgets)


@dataclass(frozen=True)
class Spend:
    """One roll-up row."""

    time_us: int
    cost_pico: int = 0
    tokens: int = 0
    partition: int = 0
    tenant: str = "acme"
    application: str = "assistant"
    model: str = "large"
    disposition: str = "billed"


def minutes(rows: Iterable[Spend]) -> pa.Table:
    """ROLLUP_SCHEMA rows; money and tokens are spread over the kinds, unevenly."""
    rows = list(rows)
    kinds = len(TOKEN_KINDS)
    columns: dict[str, list[Any]] = {
        "partition": [row.partition for row in rows],
        "time": [row.time_us // MINUTE_US * MINUTE_US for row in rows],
        "environment": [None for _ in rows],
        "provider": ["atlas" for _ in rows],
        "operation": [None for _ in rows],
        "status": ["ok" for _ in rows],
        "requests": [1 for _ in rows],
    }
    columns |= {name: [getattr(r, name) for r in rows] for name in ("tenant", "application", "model", "disposition")}
    for i, kind in enumerate(TOKEN_KINDS):
        columns[kind.tokens] = [share(row.tokens, i, kinds) for row in rows]
        columns[kind.cost] = [money(share(row.cost_pico, i, kinds)) for row in rows]
    return pa.table({f.name: pa.array(columns[f.name], f.type) for f in ROLLUP_SCHEMA}, ROLLUP_SCHEMA)


def share(amount: int, i: int, of: int) -> int:
    """The i-th part of an amount cut unevenly into `of` parts that add up."""
    cut = [amount * k * k // (of * of) for k in range(of + 1)]
    return cut[i + 1] - cut[i]


def money(pico: int) -> Decimal:
    return Decimal((int(pico < 0), tuple(map(int, str(abs(pico)))), -12))


def spend_table(rows: Iterable[Spend], edges: Sequence[int]) -> pa.Table:
    """What `Ledger.spend(edges)` returns for these rows, worked out one row at a time."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        minute = row.time_us // MINUTE_US * MINUTE_US
        interval = sum(edge <= minute for edge in edges) - 1
        if row.disposition == "billed" and 0 <= interval < len(edges) - 1:
            found = sums.setdefault((row.partition, interval, row.tenant, row.application, row.model), [0, 0])
            found[0] += row.cost_pico
            found[1] += row.tokens
    schema = pa.schema(
        {
            "partition": pa.int32(),
            "interval": pa.int32(),
            "tenant": pa.string(),
            "application": pa.string(),
            "model": pa.string(),
            "cost": MONEY,
            "tokens": pa.int64(),
        }
    )
    table = [(*key, money(cost), tokens) for key, (cost, tokens) in sums.items()]
    columns = list(zip(*table, strict=True)) if table else [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
