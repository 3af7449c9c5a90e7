"""Requests that have no price: what was counted of each model and tenant, day by day, from the hours' roll-ups."""

from __future__ import annotations

from typing import Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.lookout_rules import UnpricedDay
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.groups import datetime_of, floor_sql
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, Condition, Query, between

MAX_ROWS: Final = 10_000
"""The newest: model names are the sender's free text, so without a limit there could be as many as requests."""

_DAY: Final = floor_sql(DAY_US)
_KINDS: Final = ", ".join(f"sum({kind.tokens}) > 0" for kind in TOKEN_KINDS)
_TOKENS: Final = " + ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)


def unpriced_days(cursor: Cursor, from_us: int, to_us: int) -> list[UnpricedDay]:
    """Those of requests that ended in [from_us, to_us), the newest first, at most MAX_ROWS."""
    where = between(from_us, to_us) & Condition("disposition = 'unpriced'")
    rows = Query(
        f"""
        SELECT provider, model, tenant, {_DAY}, min(epoch_us("time")), max(epoch_us("time")), [{_KINDS}],
            sum(requests), {_TOKENS}
        FROM rollup_hour WHERE {where.sql}
        GROUP BY provider, model, tenant, {_DAY} ORDER BY {_DAY} DESC, provider, model, tenant LIMIT {MAX_ROWS}
        """,
        where.params,
    ).rows(cursor)
    return [
        UnpricedDay(
            *(provider, model, tenant, datetime_of(day_us).date(), first_us, last_us + HOUR_US),
            frozenset(kind.name for kind, there in zip(TOKEN_KINDS, has, strict=True) if there),
            *(int(requests), int(tokens)),
        )
        for provider, model, tenant, day_us, first_us, last_us, has, requests, tokens in rows
    ]
