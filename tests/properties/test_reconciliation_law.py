"""Laws of reconciliation: each request is of the kind that the oracle says, the kinds add up to the events of both
sides, and ranges that touch add up to the one around them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.streams.ledger import CHARGE_SCHEMA, NODE_EVENT_SCHEMA
from meterhouse.streams.reconciliation import KINDS
from meterhouse.warehouse.reports.reconciliation import ReconciliationLine, counted_lines
from meterhouse.warehouse.reports.reconciliation_query import Reach
from tests.builders import SECOND_US, T0_US, events
from tests.oracle.reconciliation import Found, Range, reconciled
from tests.warehouse.filled import charges_of

GRACE_US = 100 * SECOND_US
MIDNIGHT_US = T0_US  # the edge between two days of files lies among the times
MOMENTS = st.integers(-6, 6).map(lambda step: MIDNIGHT_US + step * 37 * SECOND_US)
NOW_US = MIDNIGHT_US + 300 * SECOND_US
COUNTS = st.sampled_from((0, 0, 1, 2, 7))
SHARED = {
    "tenant": st.sampled_from(("acme", "bolt")),
    "provider": st.sampled_from(("atlas", "borea")),
    "model": st.sampled_from(("large", "small")),
    "time": MOMENTS,
    "arrived": st.sampled_from((MIDNIGHT_US, NOW_US - GRACE_US, NOW_US - GRACE_US - 1)),
    "input": COUNTS,
    "output": COUNTS,
}
IDS = st.sampled_from(("r1", "r2", "r3"))
GATEWAY = st.fixed_dictionaries(
    {
        **SHARED,
        "request_id": st.one_of(st.none(), IDS),
        "status": st.sampled_from(("ok", "ok", "ok", "aborted", "error", "throttled", "blocked")),
    }
)
NODE = st.fixed_dictionaries({**SHARED, "request_id": IDS, "device_us": st.integers(0, 5)})
EVENTS = st.tuples(st.lists(GATEWAY, max_size=12), st.lists(NODE, max_size=8))
Event = Mapping[str, Any]


@pytest.fixture(scope="module")
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with closing(duckdb.connect(":memory:", config={"threads": 1})) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def fill(cursor: duckdb.DuckDBPyConnection, gateway: Sequence[Event], node: Sequence[Event]) -> None:
    """Both tables, with tokens spread over the kinds of their side."""

    def row(event: Event) -> dict[str, Any]:
        names = ("tenant", "request_id", "provider", "model", "time", "arrived")
        read, thought = event["input"] // 2, event["output"] // 2
        counts = {"input_tokens": event["input"] - read, "cache_read_tokens": read}
        counts |= {"output_tokens": event["output"] - thought, "reasoning_tokens": thought}
        return {name: event[name] for name in names} | counts

    charges = charges_of({**row(event), "status": event["status"]} for event in gateway)
    worked = events({**row(event), "node": "n", "accelerator_us": event["device_us"] or None} for event in node)
    cursor.register("charges", pa.Table.from_pylist(charges, schema=CHARGE_SCHEMA))
    cursor.register("node_events", worked.select(NODE_EVENT_SCHEMA.names))


def reach(of: Range, **filters: Sequence[str | None]) -> Reach:
    return Reach(of.start, of.end, of.grace, of.now, filters)


def counted(lines: Sequence[ReconciliationLine]) -> Found:
    """Lines as the oracle tells them."""
    found = Found()
    for line in lines:
        for kind in KINDS:
            key = (line.tenant, line.provider, line.model, kind)
            tally = line.counted.kinds[kind]
            found.requests[key] += tally.requests
            found.gateway[key] += tally.gateway_events
            found.node[key] += tally.node_events
        found.device_us += line.counted.device_us
    return without_zeros(found)


def without_zeros(found: Found) -> Found:
    return Found(+found.requests, +found.gateway, +found.node, found.device_us)


def shared_lake(examples: int) -> settings:
    return settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples)


@shared_lake(60)
@given(EVENTS, MOMENTS, MOMENTS)
def test_every_request_is_of_the_kind_that_the_oracle_says(
    cursor: duckdb.DuckDBPyConnection, both: tuple[list[Event], list[Event]], one: int, other: int
) -> None:
    gateway, node = both
    of = Range(min(one, other), max(one, other) + 1, GRACE_US, NOW_US)
    fill(cursor, gateway, node)
    lines, gateway_in_range, node_in_range = counted_lines(cursor, reach(of))
    assert counted(lines) == without_zeros(reconciled(gateway, node, of))
    assert gateway_in_range == sum(of.has(event["time"]) for event in gateway)
    assert node_in_range == sum(of.has(event["time"]) for event in node)


@shared_lake(20)
@given(EVENTS)
def test_kinds_add_up_to_the_events_of_both_sides(
    cursor: duckdb.DuckDBPyConnection, both: tuple[list[Event], list[Event]]
) -> None:
    gateway, node = both
    fill(cursor, gateway, node)
    lines, *in_range = counted_lines(cursor, reach(Range(MIDNIGHT_US - 10**9, MIDNIGHT_US + 10**9, GRACE_US, NOW_US)))
    found = counted(lines)
    requests = {(e["tenant"], e["request_id"]) for e in (*gateway, *node) if e["request_id"] is not None}
    unnamed = sum(event["request_id"] is None for event in gateway)
    assert found.requests.total() == len(requests) + unnamed
    assert [found.gateway.total(), found.node.total()] == in_range == [len(gateway), len(node)]


NEAR = st.integers(0, GRACE_US // SECOND_US // 2).map(lambda seconds: seconds * SECOND_US)


@st.composite
def together(draw: st.DrawFn) -> tuple[list[Event], list[Event]]:
    """Events of which those of one request are at most GRACE_US apart, and nodes of every provider tell of each
    tenant, at every edge: what is known of nodes is the same in all ranges."""
    gateway, node = draw(EVENTS)
    middle = {(tenant, id_): draw(MOMENTS) for tenant in ("acme", "bolt") for id_ in ("r1", "r2", "r3", None)}

    def moved(event: Event) -> Event:
        return {
            **event,
            "time": middle[event["tenant"], event["request_id"]] + draw(NEAR) * draw(st.sampled_from((1, -1))),
        }

    return [moved(event) for event in gateway], [moved(event) for event in node]


@shared_lake(20)
@given(together(), st.lists(MOMENTS, min_size=1, max_size=2))
def test_ranges_that_touch_add_up(
    cursor: duckdb.DuckDBPyConnection, both: tuple[list[Event], list[Event]], cuts: list[int]
) -> None:
    gateway, node = both
    always = [
        {"tenant": tenant, "provider": provider, "model": "large", "request_id": f"always {n}", "time": MIDNIGHT_US
         + n * GRACE_US, "arrived": MIDNIGHT_US, "input": 1, "output": 1, "device_us": 1}
        for tenant in ("acme", "bolt") for provider in ("atlas", "borea") for n in range(-6, 7)
    ]  # fmt: skip
    fill(cursor, gateway, [*node, *always])
    edges = sorted({MIDNIGHT_US - 5 * GRACE_US, *cuts, MIDNIGHT_US + 5 * GRACE_US})
    parts: list[Found] = []
    for start, end in itertools.pairwise(edges):
        lines, *_ = counted_lines(cursor, reach(Range(start, end, GRACE_US, NOW_US)))
        parts.append(counted(lines))
    whole, *_ = counted_lines(cursor, reach(Range(edges[0], edges[-1], GRACE_US, NOW_US)))
    assert counted(whole) == Found(
        sum((part.requests for part in parts), Counter()),
        sum((part.gateway for part in parts), Counter()),
        sum((part.node for part in parts), Counter()),
        sum(part.device_us for part in parts),
    )


@shared_lake(20)
@given(
    EVENTS, st.sampled_from(("acme", "bolt")), st.sampled_from(("atlas", "borea")), st.sampled_from(("large", "small"))
)
def test_a_filter_leaves_the_lines_that_it_names_as_they_are(
    cursor: duckdb.DuckDBPyConnection, both: tuple[list[Event], list[Event]], tenant: str, provider: str, model: str
) -> None:
    fill(cursor, *both)
    of = Range(MIDNIGHT_US - 100 * SECOND_US, MIDNIGHT_US + 100 * SECOND_US, GRACE_US, NOW_US)
    whole, *_ = counted_lines(cursor, reach(of))
    part, *_ = counted_lines(cursor, reach(of, tenant=[tenant], provider=[provider], model=[model]))
    assert part == [line for line in whole if (line.tenant, line.provider, line.model) == (tenant, provider, model)]
