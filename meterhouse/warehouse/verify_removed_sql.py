"""Laws of books of which retention removed rows: what was removed is written down, and is a part of every sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meterhouse.ingest.event import REFUSED_STATUSES, TOKEN_KINDS
from meterhouse.streams.latency import LOWER_US
from meterhouse.streams.ledger import LATENCY_KEYS, ROLLUP_KEYS
from meterhouse.warehouse.reports.groups import floor_sql
from meterhouse.warehouse.reports.query import COST, DAY_US, HOUR_US, Condition, Query
from meterhouse.warehouse.reports.removed import OF_CHARGES
from meterhouse.warehouse.verify_sql import COST_Q, REQUESTS_Q, TOKENS_Q, Comparison, compared


def removed_days() -> Query:
    """Days of UTC of which retention removed charges: their starts, microseconds, ascending."""
    return Query(f'SELECT DISTINCT epoch_us("time") FROM removed WHERE {OF_CHARGES} ORDER BY 1')


def kept(days_us: Sequence[int]) -> Condition:
    """Rows of none of these days."""
    if not days_us:
        return Condition()
    days = {"removed_days": list(days_us)}
    return Condition(f"NOT list_contains($removed_days::BIGINT[], {floor_sql(DAY_US)})", days)


def removed_rolled_up(days_us: Sequence[int]) -> Comparison:
    """Law 2 of days of which retention removed charges: these, and what is left, add up to the roll-ups of the day."""
    days = {"removed_days": list(days_us)}
    here = f"list_contains($removed_days::BIGINT[], {floor_sql(DAY_US)})"
    keys = ", ".join(f"{floor_sql(DAY_US)} AS time_us" if name == "time" else f'"{name}"' for name in ROLLUP_KEYS)
    tokens = ", ".join(f"sum({kind.tokens}) AS {kind.tokens}" for kind in TOKEN_KINDS)
    of_charges = f"SELECT {keys}, count(*) AS requests, {tokens}, {COST.of_charges} AS cost FROM charges WHERE {here}"
    removed = f"SELECT {keys}, sum(requests), {tokens}, sum(cost) FROM removed WHERE {OF_CHARGES}"
    left = Query(f"{of_charges} GROUP BY ALL UNION ALL {removed} GROUP BY ALL", days)
    right = Query(
        f"SELECT {keys}, sum(requests) AS requests, {tokens}, {COST.of_rollups} AS cost FROM rollup_day WHERE {here}"
        " GROUP BY ALL",
        days,
    )
    named = tuple("time_us" if name == "time" else name for name in ROLLUP_KEYS)
    return compared(2, "charges removed and left = rollup_day", named, (REQUESTS_Q, TOKENS_Q, COST_Q), (left, right))


def latencies(days_us: Sequence[int] = ()) -> Comparison:
    """Law 2 for latency: every charge that reports a measure stands in its histogram's bucket once. Not of these
    days."""
    where = Condition()
    if days_us:
        start = f"time_us - time_us % {DAY_US}"
        days = {"removed_days": list(days_us)}
        where = Condition(f"NOT list_contains($removed_days::BIGINT[], {start})", days)
    sides = [_only(side, where) for side in (_measured(HOUR_US), _buckets("latency_hour", HOUR_US))]
    return compared(2, "charges = latency_hour", _BUCKET_KEYS, (REQUESTS_Q,), (sides[0], sides[1]))


def removed_latencies(days_us: Sequence[int]) -> Comparison:
    """The same of days of which charges were removed, by day."""
    here = Condition("list_contains($removed_days::BIGINT[], time_us)", {"removed_days": list(days_us)})
    charges, removed = _only(_measured(DAY_US), here), _buckets("removed_latency", DAY_US)
    left = Query(f"{charges.sql} UNION ALL {removed.sql}", charges.params)
    right = _only(_buckets("latency_hour", DAY_US), here)
    return compared(2, "latency removed and left = latency_hour", _BUCKET_KEYS, (REQUESTS_Q,), (left, right))


_BUCKET_KEYS: Final = tuple("time_us" if name == "time" else name for name in LATENCY_KEYS)
_BUCKETED: Final = ", ".join(f'"{name}"' for name in LATENCY_KEYS if name not in ("time", "metric", "bucket"))


def _measured(unit_us: int) -> Query:
    """Charges as buckets of a histogram."""
    measured = " UNION ALL ".join(
        f"SELECT {_BUCKETED}, {floor_sql(unit_us)} AS time_us, '{metric}' AS metric, {metric}_us AS value_us"
        f" FROM charges WHERE {metric}_us IS NOT NULL AND NOT list_contains($refused::VARCHAR[], status)"
        for metric in ("duration", "time_to_first_token")
    )
    buckets = "(SELECT unnest($lower_us::BIGINT[]) AS lower_us, unnest(range(len($lower_us))) AS bucket)"
    return Query(
        f"SELECT {_BUCKETED}, time_us, metric, bucket, count(*) AS requests"
        f" FROM (\n{measured}\n) ASOF JOIN {buckets} ON value_us >= lower_us GROUP BY ALL",
        {"refused": sorted(REFUSED_STATUSES), "lower_us": list(LOWER_US)},
    )


def _buckets(table: str, unit_us: int) -> Query:
    return Query(
        f"SELECT {_BUCKETED}, {floor_sql(unit_us)} AS time_us, metric, bucket, sum(requests) AS requests FROM {table}"
        " GROUP BY ALL"
    )


def _only(query: Query, where: Condition) -> Query:
    """Rows that have `time_us`, of which the condition may speak."""
    if not where.sql:
        return query
    return Query(f"SELECT * FROM (\n{query.sql}\n) WHERE {where.sql}", {**query.params, **where.params})
