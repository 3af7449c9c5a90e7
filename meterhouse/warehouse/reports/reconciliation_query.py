"""Gateways' and nodes' events brought together by request, as SQL: each side summed up by request, then joined.

`requests` has a row per (tenant, request_id): how many events either side has of it, what tokens each tells, its *time*
(of its first event at the gateway or, without one, at a node), the provider and model that this event names, and what
it *looks* like by itself; what nodes tell of others makes that its kind (`streams.reconciliation`). All events of a
request are at most `grace_us` apart, so that much is read on both sides of the range, and a request is in the range
that its time is in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from meterhouse.ingest.event import BILLED_STATUSES, REFUSED_STATUSES
from meterhouse.streams.reconciliation import GAPS
from meterhouse.warehouse.lake_schema import sql_text
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Filters, one_of
from meterhouse.warehouse.reports.query import Condition, between

FILTERS: Final = ("tenant", "provider", "model")
"""What nodes know of a request too."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which requests, and what is known of them. Times in microseconds UTC."""

    from_us: int
    to_us: int
    grace_us: int
    known_until_us: int  # every event that arrived before is in the lake
    filters: Filters = field(default_factory=dict)  # of FILTERS
    since_us: int | None = None  # only requests from this time on, which is in the range; None: all of it

    def check_filters(self) -> None:
        """Raises ReportError on one that nodes do not know."""
        for name in self.filters:
            if name not in FILTERS:
                raise ReportError(
                    f"there is no filter {name!r} here, since nodes do not know it: use any of {', '.join(FILTERS)}"
                )

    def since(self, time_us: int) -> Reach:
        """The same for those requests alone whose time is at or after this one, in the range."""
        return replace(self, since_us=time_us)

    def params(self) -> dict[str, Any]:
        """Of `requests_sql`."""
        since_us = self.from_us if self.since_us is None else self.since_us
        return {
            **between(since_us - self.grace_us, self.to_us + self.grace_us, "_read").params,
            **between(self.from_us - self.grace_us, self.to_us + self.grace_us, "_told").params,
            "from_us": self.from_us,
            "to_us": self.to_us,
            "settled_us": self.known_until_us - self.grace_us,
            **self.of_tenants.params,
        }

    @property
    def of_tenants(self) -> Condition:
        """What both tables are cut to. A provider and a model are a request's, not an event's: its other half may name
        another."""
        wanted = self.filters.get("tenant")
        return Condition() if wanted is None else one_of("tenant", "filter_tenant", wanted)

    @property
    def of_models(self) -> Condition:
        """What requests are cut to, once they are put together."""
        condition = Condition()
        for name in ("provider", "model"):
            if name in self.filters:
                condition &= one_of(name, f"filter_{name}", self.filters[name])
        return condition


def texts_sql(texts: Iterable[str]) -> str:
    """Texts as a list of SQL literals."""
    return ", ".join(map(sql_text, sorted(texts)))


def _billable(tokens: str) -> str:
    """What a gateway's event of another status says is what it knew when it failed."""
    return f"CASE WHEN status IN ({texts_sql(BILLED_STATUSES)}) THEN {tokens} ELSE 0 END"


_INPUT: Final = "input_tokens + cache_read_tokens + cache_write_tokens"
_OUTPUT: Final = "output_tokens + reasoning_tokens"

# Time and name in one number: the least of them is the first event's. It is shifted, since a division of each would
# cost more than all else.
_FIRST: Final = "(time_us::HUGEINT << 32) + name"
_FIRST_US: Final = "(first >> 32)::BIGINT"
_FIRST_NAME: Final = "(first & 4294967295)::BIGINT"
HERE: Final = "time_us >= $from_us::BIGINT AND time_us < $to_us::BIGINT"
"""Whether a row's time is in the range."""

_LOOKS: Final = """CASE
    WHEN at_gateway = 0 THEN 'node_only'
    WHEN at_nodes = 0 AND gateway_input + gateway_output = 0 THEN 'no_node_needed'
    WHEN at_nodes = 0 THEN 'gateway_only'
    WHEN ran = 0 THEN 'refused_but_run'
    WHEN node_input = gateway_input AND node_output = gateway_output THEN 'matched'
    WHEN cut_short AND node_input >= gateway_input AND node_output >= gateway_output THEN 'matched'
    ELSE 'tokens_differ'
END"""
_KIND: Final = f"""CASE
    WHEN looks = 'gateway_only' AND tells_tokens IS NULL THEN 'no_node_events'
    WHEN looks = 'tokens_differ' AND node_input + node_output = 0 AND NOT coalesce(tells_tokens, false) THEN 'matched'
    WHEN looks IN ({texts_sql(GAPS)}) AND recent THEN 'pending'
    ELSE looks
END"""
COUNTS: Final = ("at_gateway", "at_nodes", "gateway_in_range", "node_in_range", "device_us")
"""Of a row of `requests`: numbers that may be added up."""


_TOGETHER: Final = """
SELECT tenant, request_id, coalesce(g.events, 0) AS at_gateway, coalesce(n.events, 0) AS at_nodes,
    coalesce(g.in_range, 0) AS gateway_in_range, coalesce(n.in_range, 0) AS node_in_range, ran, cut_short,
    coalesce(g.input, 0) AS gateway_input, coalesce(g.output, 0) AS gateway_output,
    coalesce(n.input, 0) AS node_input, coalesce(n.output, 0) AS node_output,
    coalesce(device_us, 0) AS device_us, coalesce(g.first, n.first) AS first,
    epoch_us(greatest(g.arrived, n.arrived)) >= $settled_us::BIGINT AS recent
FROM gateways g FULL JOIN nodes n USING (tenant, request_id)"""


def _gateways_sql(span: str) -> str:
    """Requests as gateways tell of them."""
    return f"""
SELECT tenant, request_id, count(*) AS events, count(*) FILTER ({HERE}) AS in_range, sum(input) AS input,
    sum(output) AS output, count(*) FILTER (status NOT IN ({texts_sql(REFUSED_STATUSES)})) AS ran,
    bool_or(status IN ('aborted', 'error')) AS cut_short, max(arrived) AS arrived, min({_FIRST}) AS first
FROM (
    SELECT *, epoch_us("time") AS time_us, {_billable(_INPUT)} AS input, {_billable(_OUTPUT)} AS output
    FROM charges JOIN names USING (provider, model) WHERE {span} AND request_id IS NOT NULL
) GROUP BY tenant, request_id"""


def _nodes_sql(span: str) -> str:
    """Requests as nodes tell of them."""
    return f"""
SELECT tenant, request_id, count(*) AS events, count(*) FILTER ({HERE}) AS in_range, sum({_INPUT}) AS input,
    sum({_OUTPUT}) AS output, sum(coalesce(accelerator_us, 0)) AS device_us, max(arrived) AS arrived,
    min({_FIRST}) AS first
FROM (SELECT *, epoch_us("time") AS time_us FROM node_events JOIN names USING (provider, model) WHERE {span})
GROUP BY tenant, request_id"""


def kinds_sql(rows: str) -> str:
    """Rows of `requests`, or of sums of them, with their provider, model and kind: a relation. The sums are by tenant,
    name, looks, recent, and whether there are tokens at the nodes: a kind follows from these and from what nodes tell
    of others."""
    return f"(SELECT *, {_KIND} AS kind FROM {rows} JOIN names USING (name) LEFT JOIN told USING (tenant, provider))"


def requests_sql(reach: Reach) -> str:
    """`WITH ... requests AS (...)`, for a SELECT behind it. Its parameters: `reach.params()`."""
    span = (between(0, 0, "_read") & reach.of_tenants).sql
    told = (between(0, 0, "_told") & reach.of_tenants).sql
    return f"""WITH names AS MATERIALIZED (
    SELECT provider, model, row_number() OVER (ORDER BY provider, model) AS name FROM (
        SELECT DISTINCT provider, model FROM charges WHERE {span}
        UNION SELECT DISTINCT provider, model FROM node_events WHERE {span}
    )
),
told AS MATERIALIZED (
    SELECT tenant, provider, max({_INPUT} + {_OUTPUT}) > 0 AS tells_tokens FROM node_events WHERE {told}
    GROUP BY tenant, provider
),
gateways AS ({_gateways_sql(span)}),
nodes AS ({_nodes_sql(span)}),
together AS ({_TOGETHER}),
requests AS (
    SELECT NULL AS "key", *, {_FIRST_US} AS time_us, {_FIRST_NAME} AS name, {_LOOKS} AS looks FROM together
    UNION ALL BY NAME
    SELECT tenant, NULL AS request_id, "key", name, epoch_us("time") AS time_us, 'no_request_id' AS looks,
        false AS recent, 1 AS at_gateway, 1 AS gateway_in_range, 0 AS at_nodes, 0 AS node_in_range, 0 AS device_us,
        {_billable(_INPUT)} AS gateway_input, {_billable(_OUTPUT)} AS gateway_output, 0 AS node_input, 0 AS node_output
    FROM charges JOIN names USING (provider, model)
    WHERE {span} AND request_id IS NULL AND {HERE.replace("time_us", 'epoch_us("time")')}
)"""
