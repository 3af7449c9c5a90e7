"""Extracts of roll-ups: the last days of each table, beside the charges they came from and the week before."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.warehouse.quality.checks import Extract
from meterhouse.warehouse.quality.sources import MODEL, Sources, day_sql, extract, made, percent
from meterhouse.warehouse.quality.suites import MIN_REQUESTS
from meterhouse.warehouse.reports.groups import datetime_of, floor_sql
from meterhouse.warehouse.reports.query import (
    COST,
    DAY_US,
    LAYERS,
    REQUESTS,
    TOKENS,
    Condition,
    Piece,
    Query,
    between,
    facts,
)

_DAY: Final = floor_sql(DAY_US)
_ALL_TOKENS: Final = " + ".join(kind.tokens for kind in TOKEN_KINDS)
_KEYS: Final = {"day_us": _DAY, '"partition"': '"partition"', "tenant": "tenant", "model": MODEL}
_SIDES: Final = ", ".join(_KEYS)


def rollups(sources: Sources) -> Extract:
    """The least of each sum, and rows whose time is no step of their table, by day and tenant."""
    costs = ", ".join(f"sum({kind.cost})" for kind in TOKEN_KINDS)
    tokens = ", ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)
    span = between(sources.from_us, sources.to_us)
    blocks = [
        f"""
        SELECT '{layer}' AS "table", {_DAY} AS day_us, "partition", tenant, {MODEL} AS model,
            sum(requests)::BIGINT AS least_requests, least({tokens})::BIGINT AS least_tokens,
            floor(least({costs}))::BIGINT AS least_cost,
            count(*) FILTER (epoch_us("time") % {unit_us} <> 0) AS off_step
        FROM {layer} WHERE {span.sql} GROUP BY ALL
        """
        for layer, unit_us in LAYERS.items()
    ]
    query = Query(
        f"""
        SELECT "table", {day_sql("day_us")} AS "day", "partition", tenant, model,
            least_requests, least_tokens, least_cost, off_step
        FROM ({" UNION ALL ".join(blocks)})
        ORDER BY least(least_requests, least_tokens, least_cost) >= 0 AND off_step = 0, 1, 2, 3, 4, 5
        """,
        span.params,
    )
    return extract("rollups", ("table", "day", "partition", "tenant", "model"), query, sources)


def rollup_words(sources: Sources) -> Extract:
    """How each tenant's requests ended, by table."""
    span = between(sources.from_us, sources.to_us)
    blocks = [
        f"SELECT '{layer}' AS \"table\", tenant, status, disposition, min({_DAY}) AS day_us FROM {layer}"
        f" WHERE {span.sql} GROUP BY ALL"
        for layer in LAYERS
    ]
    query = Query(
        f'SELECT "table", {day_sql("day_us")} AS "day", tenant, status, disposition'
        f" FROM ({' UNION ALL '.join(blocks)}) ORDER BY ALL",
        span.params,
    )
    return extract("rollup_words", ("table", "day", "tenant"), query, sources)


def rollup_newest(sources: Sources) -> Extract:
    """By how many of its steps a table stands behind the newest charge of its partition."""
    span = between(sources.from_us, sources.to_us)
    blocks = [
        f"""
        SELECT '{layer}' AS "table", "partition", newest_us // {unit_us} - coalesce(reached_us, $from_us) // {unit_us}
            AS steps_behind
        FROM charged LEFT JOIN (
            SELECT "partition", max(epoch_us("time")) AS reached_us FROM {layer} WHERE {span.sql} GROUP BY 1
        ) USING ("partition")
        """
        for layer, unit_us in LAYERS.items()
    ]
    query = Query(
        f"""
        WITH charged AS (
            SELECT "partition", max(epoch_us("time")) AS newest_us FROM charges WHERE {span.sql} GROUP BY 1
        ) {" UNION ALL ".join(blocks)} ORDER BY ALL
        """,
        span.params,
    )
    return extract("rollup_newest", ("table", "partition"), query, sources)


def rollup_sums(sources: Sources) -> Extract:
    """Each table's sums beside those of the charges; what differs comes first, so that no limit hides it."""
    measures = (REQUESTS, *TOKENS, COST)

    def sums(table: str) -> Query:
        return facts([Piece(table, sources.from_us, sources.to_us)], _KEYS, measures, Condition())

    charged = sums("charges")
    rolled = " UNION ALL ".join(f"SELECT '{layer}' AS \"table\", * FROM ({sums(layer).sql})" for layer in LAYERS)
    query = Query(
        f"""
        WITH charged AS ({charged.sql}), rolled AS ({rolled}),
        expected AS (SELECT "table", charged.* FROM charged CROSS JOIN (SELECT unnest($layers::VARCHAR[]) AS "table")),
        sides AS (
            SELECT "table", {_SIDES}, {_side("rolled")}, {_side("expected")}
            FROM expected FULL JOIN rolled USING ("table", {_SIDES})
        )
        SELECT "table", {day_sql("day_us")} AS "day", "partition", tenant, model,
            rolled_requests AS requests, expected_requests AS charged_requests,
            rolled_tokens AS tokens, expected_tokens AS charged_tokens,
            rolled_cost AS cost, expected_cost AS charged_cost
        FROM sides ORDER BY (rolled_requests, rolled_tokens, rolled_cost)
            = (expected_requests, expected_tokens, expected_cost), 1, 2, 3, 4, 5
        """,
        {**charged.params, "layers": list(LAYERS)},
    )
    return extract("rollup_sums", ("table", "day", "partition", "tenant", "model"), query, sources)


def _side(side: str) -> str:
    """Money as text with all its decimals: equal texts are equal sums."""
    tokens = " + ".join(f"coalesce({side}.{kind.tokens}, 0)" for kind in TOKEN_KINDS)
    return (
        f"coalesce({side}.requests, 0)::BIGINT AS {side}_requests, ({tokens})::BIGINT AS {side}_tokens,"
        f" coalesce({side}.cost, 0)::DECIMAL(38,12)::VARCHAR AS {side}_cost"
    )


def days(sources: Sources) -> Extract:
    """The newest whole day beside the same weekday a week before: of all, of each tenant, of each model."""
    day_us = sources.last_day_us
    before_us = day_us - 7 * DAY_US
    now, before = between(day_us, day_us + DAY_US, "_now"), between(before_us, before_us + DAY_US, "_before")
    sums = ", ".join(
        f"coalesce({measure} FILTER ({span.sql}), 0) AS {name}_{which}"
        for which, span in (("now", now), ("before", before))
        for name, measure in (("requests", "sum(requests)"), ("tokens", f"sum({_ALL_TOKENS})"), ("cost", _cost()))
    )
    rows = Query(
        f"""
        SELECT tenant, {MODEL} AS named, {sums} FROM rollup_day WHERE ({now.sql}) OR ({before.sql})
        GROUP BY GROUPING SETS ((), (tenant), (named))
        HAVING requests_before >= {MIN_REQUESTS} ORDER BY tenant NULLS FIRST, named NULLS FIRST
        """,
        {**now.params, **before.params},
    ).rows(sources.cursor)
    columns = {
        "day": str, "tenant": str, "model": str, "requests": int, "requests_before": int,
        "requests_percent": int, "cost_percent": int, "tokens_a_request_percent": int,
    }  # fmt: skip
    day = datetime_of(day_us).date().isoformat()
    return made("days", ("day", "tenant", "model"), columns, ({"day": day, **line} for line in compared(rows)))


def compared(rows: list[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Lines of rows (tenant, model, requests, tokens and cost now, the same before). Tokens a request are compared only
    where there were enough requests on both days."""
    for tenant, model, requests, tokens, cost, requests_before, tokens_before, cost_before in rows:
        enough = requests >= MIN_REQUESTS
        yield {
            "tenant": tenant,
            "model": model,
            "requests": int(requests),
            "requests_before": int(requests_before),
            "requests_percent": percent(requests, requests_before),
            "cost_percent": percent(Decimal(cost), Decimal(cost_before)),
            "tokens_a_request_percent": percent(tokens * requests_before, tokens_before * requests) if enough else None,
        }


def _cost() -> str:
    return f"sum({' + '.join(kind.cost for kind in TOKEN_KINDS)})"
