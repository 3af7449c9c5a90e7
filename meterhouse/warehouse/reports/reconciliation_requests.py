"""The requests behind a reconciliation's counts: which they are, what either side says, and where its events stand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from meterhouse.streams.reconciliation import GAPS, KINDS, Terms
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.places import rows_sql
from meterhouse.warehouse.reports.query import Condition, Query, between
from meterhouse.warehouse.reports.reconciliation import reach_of
from meterhouse.warehouse.reports.reconciliation_query import HERE, Reach, kinds_sql, requests_sql, texts_sql
from meterhouse.warehouse.reports.removed import OF_REQUESTS, check_there

MAX_EVENTS: Final = 10
"""Events of one side that are named of a request: it may have been tried for hours."""


class RequestPlace(NamedTuple):
    """Where a request stands in the order of pages."""

    time_us: int
    id: int  # 128 bits of its tenant and request_id


@dataclass(frozen=True, slots=True)
class Side:
    """What gateways or nodes say of a request."""

    events: int
    input_tokens: int  # inclusive of its cached parts; of gateways: what is billable
    output_tokens: int  # inclusive of reasoning
    told: tuple[str, ...]  # statuses or nodes, the oldest first; at most MAX_EVENTS, as are the places
    places: tuple[str, ...]  # partition/offset/index in the log


@dataclass(frozen=True, slots=True)
class ReconciledRequest:
    place: RequestPlace
    kind: str
    tenant: str
    request_id: str | None
    provider: str
    model: str
    gateway: Side
    node: Side
    device_us: int


@dataclass(frozen=True, slots=True)
class WantedRequests:
    """Which requests: of one kind, or of all GAPS."""

    selection: Selection
    kind: str | None = None
    after: RequestPlace | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class ReconciledRequests:
    from_us: int
    to_us: int
    kind: str | None
    lines: tuple[ReconciledRequest, ...]
    next: RequestPlace | None  # where the next page begins after; None: this is the last
    as_of: AsOf


def reconciled_requests(
    books: Books, wanted: WantedRequests, terms: Terms, freshness: Freshness | None = None
) -> ReconciledRequests:
    """A page, the oldest request first. Raises ReportError on an unknown kind or filter, or an empty range."""
    if wanted.kind is not None and wanted.kind not in KINDS:
        raise ReportError(f"there is no kind {wanted.kind!r} of requests: use one of {', '.join(KINDS)}")
    selection = wanted.selection
    with books.read() as cursor:
        told = as_of(books, cursor, freshness)
        reach = reach_of(selection, terms, told)
        check_there(cursor, selection.from_us, selection.to_us, OF_REQUESTS)
        rows = _requests(reach, wanted).rows(cursor)
        page = rows[: wanted.limit]
        events = _events_of(cursor, page, terms.grace_us)
    lines = tuple(_request(row, events) for row in page)
    return ReconciledRequests(
        selection.from_us,
        selection.to_us,
        wanted.kind,
        lines,
        lines[-1].place if len(rows) > wanted.limit else None,
        told,
    )


_WHO: Final = "CASE WHEN request_id IS NULL THEN 'key ' || \"key\"::VARCHAR ELSE 'id ' || request_id END"
"""What a request is called, whether its gateway names it or not."""
_ID: Final = "md5_number(tenant || chr(0) || who)"


def _requests(reach: Reach, wanted: WantedRequests) -> Query:
    """One row more than the page has, to know whether there is another."""
    kinds = GAPS if wanted.kind is None else (wanted.kind,)
    condition = Condition(f"list_contains($kinds::VARCHAR[], kind) AND {HERE}", {"kinds": list(kinds)})
    condition &= reach.of_models
    # What looks like no gap is none, and need not be looked up.
    looking = "requests" if set(kinds) - {*GAPS, "pending"} else f"(FROM requests WHERE looks IN ({texts_sql(GAPS)}))"
    if wanted.after is not None:
        after = {"after_us": wanted.after.time_us, "after_id": str(wanted.after.id)}
        condition &= Condition(f"(time_us, {_ID}) > ($after_us::BIGINT, $after_id::UHUGEINT)", after)
        reach = reach.since(wanted.after.time_us)
    return Query(
        f"""{requests_sql(reach)}
SELECT time_us, {_ID} AS id, kind, tenant, request_id, who, provider, model,
    at_gateway, gateway_input, gateway_output, at_nodes, node_input, node_output, device_us
FROM (SELECT *, {_WHO} AS who FROM {kinds_sql(looking)}) WHERE {condition.sql}
ORDER BY time_us, id LIMIT $page::BIGINT""",
        {**reach.params(), **condition.params, "page": wanted.limit + 1},
    )


_Named = dict[tuple[str, str, bool], list[tuple[str, str]]]
"""Per tenant, what its request is called and whether at nodes: what each event tells, and its place."""
_PAGE: Final = rows_sql("page", {"tenant": "VARCHAR", "who": "VARCHAR"})
_COLUMNS: Final = f'tenant, {_WHO} AS who, "time", "partition", "offset", "index"'


def _events_of(cursor: Cursor, page: Sequence[tuple[Any, ...]], grace_us: int) -> _Named:
    """The first MAX_EVENTS events of either side of each request."""
    found: _Named = defaultdict(list)
    if not page:
        return found
    span = between(page[0][0] - grace_us, page[-1][0] + grace_us + 1)
    query = Query(
        f"""WITH page AS MATERIALIZED {_PAGE},
seen AS (
    SELECT {_COLUMNS}, false AS of_node, status AS told FROM charges WHERE {span.sql}
    UNION ALL SELECT {_COLUMNS}, true, node FROM node_events WHERE {span.sql}
)
SELECT tenant, who, of_node, told, concat_ws('/', "partition", "offset", "index")
FROM seen SEMI JOIN page USING (tenant, who)
QUALIFY row_number() OVER (
    PARTITION BY tenant, who, of_node ORDER BY "time", "partition", "offset", "index"
) <= {MAX_EVENTS}
ORDER BY "time", "partition", "offset", "index\"""",
        {**span.params, "page": json.dumps([{"tenant": row[3], "who": row[5]} for row in page])},
    )
    for tenant, who, of_node, told, place in query.rows(cursor):
        found[tenant, who, of_node].append((told, place))
    return found


def _request(row: Sequence[Any], events: _Named) -> ReconciledRequest:
    time_us, id_, kind, tenant, request_id, who, provider, model, *numbers = row
    *counts, device_us = map(int, numbers)

    def side(of_node: bool) -> Side:
        named = events.get((tenant, who, of_node), [])
        count, input_tokens, output_tokens = counts[3:] if of_node else counts[:3]
        told, places = tuple(told for told, _ in named), tuple(place for _, place in named)
        return Side(count, input_tokens, output_tokens, told, places)

    place = RequestPlace(time_us, int(id_))
    return ReconciledRequest(place, kind, tenant, request_id, provider, model, side(False), side(True), device_us)
