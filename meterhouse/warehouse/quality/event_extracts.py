"""Extracts of events: what arrived in the last days, as it was charged."""

from __future__ import annotations

from typing import Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.warehouse.quality.checks import Extract
from meterhouse.warehouse.quality.sources import MODEL, Sources, day_sql, extract, made
from meterhouse.warehouse.quality.suites import MIN_REQUESTS
from meterhouse.warehouse.reports.groups import datetime_of
from meterhouse.warehouse.reports.query import DAY_US, Query
from meterhouse.warehouse.verify_sql import BECAME, COUNTED, READ, STORED

_KINDS: Final = ", ".join(kind.tokens for kind in TOKEN_KINDS)
_TOKENS: Final = " + ".join(kind.tokens for kind in TOKEN_KINDS)
_DURATIONS: Final = "duration_us, time_to_first_token_us, queue_us"
_EARLY: Final = 'epoch_us("time") - epoch_us(arrived) - $ahead_us'
_LATE: Final = 'epoch_us(arrived) - epoch_us("time") - $behind_us'

_ARRIVED: Final = "arrived >= make_timestamptz($arrived_us::BIGINT)"
"""Files hold what arrived together, so that others are left out by what the catalogue knows of them."""


def events(sources: Sources) -> Extract:
    """The extremes of each day, partition, tenant and model."""
    query = Query(
        f"""
        SELECT {day_sql('min(epoch_us("time"))')} AS "day", "partition", tenant, {MODEL} AS model,
            count(*) AS requests,
            min(least({_KINDS})) AS fewest_tokens, max({_TOKENS}) AS most_tokens,
            min(least({_DURATIONS})) AS shortest_us, max(greatest({_DURATIONS})) AS longest_us,
            count(*) FILTER (time_to_first_token_us > duration_us) AS first_token_after_end,
            min(http_status)::BIGINT AS least_http, max(http_status)::BIGINT AS most_http,
            min(cost_pico) AS least_cost_pico, max(cost_pico) AS most_cost_pico,
            greatest(0, max({_EARLY})) // 1000000 AS too_early_s, greatest(0, max({_LATE})) // 1000000 AS too_late_s
        FROM charges WHERE {_ARRIVED}
        GROUP BY epoch_us("time") // {DAY_US}, "partition", tenant, provider, model
        ORDER BY "day" DESC, "partition", tenant, model
        """,
        {
            "arrived_us": sources.from_us,
            "ahead_us": sources.lateness.ahead_us,
            "behind_us": sources.lateness.behind_us,
        },
    )
    return extract("events", ("day", "partition", "tenant", "model"), query, sources)


def event_words(sources: Sources) -> Extract:
    """How each tenant's requests ended, and what was made of them."""
    query = Query(
        f"""
        SELECT tenant, status, disposition, {day_sql('min(epoch_us("time"))')} AS "day", count(*) AS requests
        FROM charges WHERE {_ARRIVED} GROUP BY tenant, status, disposition ORDER BY tenant, status, disposition
        """,
        {"arrived_us": sources.from_us},
    )
    return extract("event_words", ("tenant", "day"), query, sources)


def partitions(sources: Sources) -> Extract:
    """How long the oldest record waits that the lake does not hold; 0: none waits."""
    ends, committed = sources.freshness.end_offsets, sources.as_of.offsets
    rows = []
    for partition in sorted(ends.keys() | committed.keys()):
        records = max(0, ends.get(partition, 0) - committed.get(partition, 0))
        # One whose arrival is not known has waited since the log began.
        since_us = sources.freshness.waiting_since_us.get(partition, 0)
        waiting_s = (sources.now_us - since_us) // 1_000_000 if records else 0
        rows.append({"partition": partition, "records": records, "waiting_s": waiting_s})
    return made("partitions", ("partition",), {"partition": int, "records": int, "waiting_s": int}, rows)


def ledger(sources: Sources) -> Extract:
    """Rows that the positions counted, and those that there are, in the whole lake."""
    query = Query(
        f"""
        SELECT "partition", what, sum(counted)::BIGINT AS counted, sum(stored)::BIGINT AS stored FROM (
            SELECT "partition", what, rows AS counted, 0 AS stored FROM ({COUNTED})
            UNION ALL SELECT "partition", what, 0, rows FROM ({STORED})
        ) GROUP BY "partition", what ORDER BY "partition", what
        """
    )
    return extract("ledger", ("partition", "what"), query, sources)


def ledger_read(sources: Sources) -> Extract:
    """Events that were read from each partition, and the sum of what became of them."""
    query = Query(
        f"""
        SELECT "partition", read.events AS read, became.events AS became
        FROM ({READ}) AS read JOIN ({BECAME}) AS became USING ("partition") ORDER BY "partition"
        """
    )
    return extract("ledger_read", ("partition",), query, sources)


def rejects(sources: Sources) -> Extract:
    """The share of rejects of a day's arrivals, of all tenants and of each, beside the one of a week before."""
    day_us = sources.last_day_us
    before_us = day_us - 7 * DAY_US
    rows = Query(
        f"""
        WITH arrivals AS (
            SELECT tenant, epoch_us(arrived) // {DAY_US} * {DAY_US} AS day_us, count(*) AS events, 0 AS rejected
            FROM charges WHERE {_ARRIVED} GROUP BY 1, 2
            UNION ALL
            SELECT tenant, epoch_us(arrived) // {DAY_US} * {DAY_US}, count(*), count(*)
            FROM rejects WHERE {_ARRIVED} GROUP BY 1, 2
        )
        SELECT tenant, grouping(tenant) = 1,
            coalesce(sum(rejected) FILTER (day_us = $day_us), 0)::BIGINT,
            coalesce(sum(events) FILTER (day_us = $day_us), 0)::BIGINT AS events_now,
            coalesce(sum(rejected) FILTER (day_us = $before_us), 0)::BIGINT,
            coalesce(sum(events) FILTER (day_us = $before_us), 0)::BIGINT AS events_before
        FROM arrivals GROUP BY GROUPING SETS ((), (tenant))
        HAVING events_now >= {MIN_REQUESTS} AND events_before >= {MIN_REQUESTS} ORDER BY 2 DESC, 1
        """,
        {"arrived_us": before_us, "day_us": day_us, "before_us": before_us},
    ).rows(sources.cursor)
    day = datetime_of(day_us).date().isoformat()
    found = [
        {
            "day": day,
            "tenant": "(all)" if of_all else tenant or "(unknown)",
            "rejected": rejected,
            "events": events_now,
            "grew_permille": rejected * 1_000 // events_now - was_rejected * 1_000 // events_before,
        }
        for tenant, of_all, rejected, events_now, was_rejected, events_before in rows
    ]
    columns = {"day": str, "tenant": str, "rejected": int, "events": int, "grew_permille": int}
    return made("rejects", ("day", "tenant"), columns, found)
