"""Reconciliation: what gateways and model nodes say of the same requests, per tenant, provider and model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meterhouse.streams.reconciliation import GAPS, KINDS, WITHOUT_REQUEST, Counted, Tally, Terms, added_up
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.groups import MAX_LINES, Selection, check_lines, check_range
from meterhouse.warehouse.reports.query import Query
from meterhouse.warehouse.reports.reconciliation_query import COUNTS, HERE, Reach, kinds_sql, requests_sql
from meterhouse.warehouse.reports.removed import OF_REQUESTS, check_there

Key = tuple[str, str, str]
"""Tenant, provider, model."""


@dataclass(frozen=True, slots=True)
class ReconciliationLine:
    tenant: str
    provider: str
    model: str
    counted: Counted


@dataclass(frozen=True, slots=True)
class Reconciliation:
    from_us: int
    to_us: int
    terms: Terms
    lines: tuple[ReconciliationLine, ...]
    total: Counted
    gateway_in_range: int  # events of [from, to), whatever range their requests are in
    node_in_range: int
    exceeded: Mapping[str, tuple[str, ...]]  # per tenant that exceeds any: the limits that it does
    as_of: AsOf


def reconciliation(
    books: Books, selection: Selection, terms: Terms, freshness: Freshness | None = None
) -> Reconciliation:
    """Every request of the range in one kind. Raises ReportError on an unknown filter or an empty range."""
    with books.read() as cursor:
        told = as_of(books, cursor, freshness)
        reach = reach_of(selection, terms, told)
        check_there(cursor, selection.from_us, selection.to_us, OF_REQUESTS)
        lines, gateway_in_range, node_in_range = counted_lines(cursor, reach)
    tenants = by_tenant(lines)
    return Reconciliation(
        selection.from_us,
        selection.to_us,
        terms,
        tuple(lines),
        added_up(line.counted for line in lines),
        gateway_in_range,
        node_in_range,
        {tenant: names for tenant, counted in tenants.items() if (names := terms.limits.exceeded(counted))},
        told,
    )


def reach_of(selection: Selection, terms: Terms, told: AsOf) -> Reach:
    """Raises ReportError as `reconciliation`. Without a watermark nothing is known to be complete: all is pending."""
    check_range(selection.from_us, selection.to_us)
    reach = Reach(selection.from_us, selection.to_us, terms.grace_us, told.watermark_us or 0, filters=selection.filters)
    reach.check_filters()
    return reach


def counted_lines(cursor: Cursor, reach: Reach) -> tuple[list[ReconciliationLine], int, int]:
    """Lines in order, and how many events of gateways and of nodes are in the range by their own time."""
    found: dict[Key, dict[str, Tally]] = defaultdict(dict)
    device_us: dict[Key, int] = defaultdict(int)
    last_gap_us: dict[Key, int] = {}
    gateway_in_range = node_in_range = 0
    for tenant, provider, model, kind, here, *numbers in _counts(reach).rows(cursor):
        requests, at_gateway, at_nodes, gateway_in, node_in, device, last_us = map(int, numbers)
        gateway_in_range += gateway_in
        node_in_range += node_in
        if not here:
            continue
        key = (tenant, provider, model)
        found[key][kind] = Tally(requests, at_gateway, at_nodes)
        if kind in WITHOUT_REQUEST:
            device_us[key] += device
        if kind in GAPS:
            last_gap_us[key] = max(last_us, last_gap_us.get(key, last_us))
    check_lines(len(found))
    lines = [
        ReconciliationLine(*key, Counted(_every(found[key]), device_us[key], last_gap_us.get(key)))
        for key in sorted(found)
    ]
    return lines, gateway_in_range, node_in_range


def by_tenant(lines: Sequence[ReconciliationLine]) -> dict[str, Counted]:
    parts: dict[str, list[Counted]] = defaultdict(list)
    for line in lines:
        parts[line.tenant].append(line.counted)
    return {tenant: added_up(each) for tenant, each in parts.items()}


def _every(found: Mapping[str, Tally]) -> dict[str, Tally]:
    return {kind: found.get(kind, Tally()) for kind in KINDS}


_MAX_ROWS: Final = 2 * len(KINDS) * (MAX_LINES + 1)
"""A line has a row for each kind, and as many for requests at the range's edges."""


def _counts(reach: Reach) -> Query:
    models = reach.of_models
    where = f" WHERE {models.sql}" if models.sql else ""
    sums = ", ".join(f"sum({name}) AS {name}" for name in ("requests", *COUNTS))
    # Summed before kinds are looked up, as all that a kind follows from has few values.
    summed = f"""(SELECT tenant, name, looks, recent, here, 0 AS node_input, any_tokens::BIGINT AS node_output,
        {sums}, max(time_us) AS time_us
    FROM (SELECT *, 1 AS requests, {HERE} AS here, node_input + node_output > 0 AS any_tokens FROM requests)
    GROUP BY tenant, name, looks, recent, here, any_tokens)"""
    return Query(
        f"""{requests_sql(reach)}
SELECT tenant, provider, model, kind, here, {sums}, max(time_us) FROM {kinds_sql(summed)}{where} GROUP BY ALL
LIMIT {_MAX_ROWS}""",
        {**reach.params(), **models.params},
    )
