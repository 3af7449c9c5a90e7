"""The laws of the books as queries: each is two sides, keyed alike, that must be equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meterhouse.ingest.event import BILLED_STATUSES, MAX_COUNT, TOKEN_KINDS
from meterhouse.streams.control import Snapshot
from meterhouse.streams.ledger import ROLLUP_KEYS
from meterhouse.warehouse.reports.chargeback import chargeback_query
from meterhouse.warehouse.reports.groups import Selection, chosen, floor_sql
from meterhouse.warehouse.reports.query import (
    COST,
    DAY_US,
    HOUR_US,
    KIND_COSTS,
    LAYERS,
    MINUTE_US,
    PICO,
    PRICES,
    REQUESTS,
    TOKENS,
    Condition,
    Piece,
    Query,
    facts,
    price_params,
)
from meterhouse.warehouse.reports.removed import OF_CHARGES

MAX_ROWS: Final = 20
"""Offending rows named per law: enough to see what they have in common. The number of all of them is told as well."""

_PLACE: Final = ("partition", "offset", "index")
_ROLLED_UP_BY: Final = {"rollup_minute": MINUTE_US, "rollup_hour": HOUR_US, "rollup_day": DAY_US}


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is compared: columns that both sides have. Sides differ at a key when any of the columns does."""

    name: str
    columns: tuple[str, ...]
    money: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """A law's query. It gives a row of five columns per quantity: left, right, difference, offending, their texts."""

    law: int
    name: str
    quantities: tuple[Quantity, ...]
    query: Query


ANY: Final = Condition()

REQUESTS_Q: Final = Quantity("requests", ("requests",))
TOKENS_Q: Final = Quantity("tokens", tuple(kind.tokens for kind in TOKEN_KINDS))
COST_Q: Final = Quantity("cost", ("cost",), money=True)
KIND_COSTS_Q: Final = Quantity("cost by kind", tuple(kind.cost for kind in TOKEN_KINDS), money=True)


def compared(
    law: int, name: str, keys: Sequence[str], quantities: tuple[Quantity, ...], sides: tuple[Query, Query]
) -> Comparison:
    """Both sides must have the columns of `keys` (`*_us` is a time) and of the quantities; rows of equal key add up.

    The difference is the sum over keys and columns of absolute differences, so that no two can make up for each other.
    """
    left, right = sides
    columns = [column for quantity in quantities for column in quantity.columns]
    key_list = ", ".join(f'"{key}"' for key in keys)
    blocks = [
        f"SELECT {key_list}, {_sided(columns, side)} FROM (\n{query.sql}\n)"
        for side, query in zip("lr", sides, strict=True)
    ]
    sums = ", ".join(f"sum({side}_{column}) AS {side}_{column}" for side in "lr" for column in columns)
    select = ", ".join(_verdict(quantity, keys) for quantity in quantities)
    sql = (
        f"WITH keyed AS (\nSELECT {key_list}, {sums} FROM (\n{' UNION ALL '.join(blocks)}\n) GROUP BY {key_list}\n)\n"
        f"SELECT {select} FROM keyed"
    )
    return Comparison(law, name, quantities, Query(sql, {**left.params, **right.params}))


def _sided(columns: Sequence[str], here: str) -> str:
    """Each column on its own side, 0 on the other."""
    named = [(side, column) for side in "lr" for column in columns]
    return ", ".join(f"{column if side == here else 0} AS {side}_{column}" for side, column in named)


def _verdict(quantity: Quantity, keys: Sequence[str]) -> str:
    left = " + ".join(f"coalesce(l_{column}, 0)" for column in quantity.columns)
    right = " + ".join(f"coalesce(r_{column}, 0)" for column in quantity.columns)
    gaps = " + ".join(f"abs(coalesce(l_{column}, 0) - coalesce(r_{column}, 0))" for column in quantity.columns)
    text = f"concat({_said(keys)}, ': ', {left}, ' against ', {right})"
    return (
        f"coalesce(sum({left}), 0), coalesce(sum({right}), 0), coalesce(sum({gaps}), 0),"
        f" count(*) FILTER ({gaps} <> 0), min(CASE WHEN {gaps} <> 0 THEN {text} END, {MAX_ROWS}) FILTER ({gaps} <> 0)"
    )


def _said(keys: Sequence[str]) -> str:
    """A key as a text: `tenant acme, model atlas-large, ...`."""
    parts = []
    for key in keys:
        if key.endswith("_us"):
            text = f"strftime(make_timestamp(\"{key}\"), '%Y-%m-%dT%H:%M:%SZ')"
            parts.append(f"concat('{key.removesuffix('_us')} ', {text})")
        else:
            parts.append(f"concat('{key} ', coalesce(\"{key}\"::VARCHAR, 'null'))")
    return f"concat_ws(', ', {', '.join(parts)})"


# -- law 1 -----------------------------------------------------------------------------------------------------------


READ: Final = 'SELECT "partition", read AS events FROM positions'
BECAME: Final = (
    'SELECT "partition", billed + unpriced + unbilled + informational + duplicates + rejected + forwarded AS events'
    " FROM positions"
)
"""Both sides of law 1, by partition."""
COUNTED: Final = " UNION ALL ".join(
    f"SELECT \"partition\", '{name}' AS what, {name} AS rows FROM positions"
    for name in ("billed", "unpriced", "unbilled", "informational", "rejected")
)
STORED: Final = (
    'SELECT "partition", disposition AS what, count(*) AS rows FROM charges GROUP BY ALL UNION ALL '
    "SELECT \"partition\", 'informational', count(*) FROM node_events GROUP BY ALL UNION ALL "
    "SELECT \"partition\", 'rejected', count(*) FROM rejects GROUP BY ALL UNION ALL "
    'SELECT "partition", disposition, sum(requests) FROM removed GROUP BY ALL'
)
"""The rows that the positions counted, and those that there are or that retention removed, by partition and by what
became of them."""


def counts_balance() -> Comparison:
    """Law 1 in the positions themselves: what was read is what became of it."""
    events = Quantity("events", ("events",))
    return compared(1, "events read = what became of them", ("partition",), (events,), (Query(READ), Query(BECAME)))


def counts_are_rows() -> Comparison:
    """Law 1 against the tables: the positions' counts are the numbers of rows."""
    return compared(
        1,
        "counts of the positions = rows of charges, node_events, rejects",
        ("partition", "what"),
        (Quantity("rows", ("rows",)),),
        (Query(COUNTED), Query(STORED)),
    )


# -- law 2 -----------------------------------------------------------------------------------------------------------


def bounds() -> Query:
    """One row: first and last time of charges and roll-ups, microseconds; nulls when there are none."""
    tables = ("charges", *LAYERS, "latency_hour")
    spans = " UNION ALL ".join(f'SELECT min("time") AS first, max("time") AS last FROM {table}' for table in tables)
    return Query(f"SELECT epoch_us(min(first)), epoch_us(max(last)) FROM ({spans})")


def rolled_up(
    finer: str, coarser: str, span_us: tuple[int, int], snapshot: Snapshot, where: Condition = ANY
) -> Comparison:
    """Law 2: two neighbouring tables add up to the same per key of the coarser one. Per kind, the cost of charges is
    worked out again from the rate cards. Only rows that are `where`."""
    keys = {
        ("time_us" if name == "time" else name): floor_sql(_ROLLED_UP_BY[coarser]) if name == "time" else f'"{name}"'
        for name in ROLLUP_KEYS
    }
    quoted_keys = {f'"{name}"': sql for name, sql in keys.items()}
    measures = (REQUESTS, *TOKENS, COST, *KIND_COSTS)
    left, right = (
        facts([Piece(table, *span_us)], quoted_keys, measures, where, snapshot.rate_cards) for table in (finer, coarser)
    )
    quantities = (REQUESTS_Q, TOKENS_Q, COST_Q, KIND_COSTS_Q)
    return compared(2, f"{finer} = {coarser}", tuple(keys), quantities, (left, right))


def charged_back(span_us: tuple[int, int], snapshot: Snapshot) -> Comparison:
    """Law 2: the lines of the chargeback report, as it is made, against charges."""
    keys = ("day", "tenant", "application", "model")
    names = (*keys, "requests", "billed", "unpriced", *(kind.tokens for kind in TOKEN_KINDS), "cost")
    report = chargeback_query(snapshot, Selection(*span_us), chosen(keys), max_lines=None).plain()
    renamed = ", ".join(f'"{name}"' for name in ("is_total", *names))
    lines = Query(f"SELECT * FROM (\n{report.sql}\n) AS lines({renamed}) WHERE NOT is_total", report.params)
    billed = "FILTER (disposition = 'billed')"
    tokens = ", ".join(f"coalesce(sum({k.tokens}) {billed}, 0) AS {k.tokens}" for k in TOKEN_KINDS)
    grouped = f"{floor_sql(DAY_US)} AS day, tenant, application, model"
    charges = Query(
        f"SELECT {grouped}, count(*) AS requests, count(*) {billed} AS billed,"
        f" count(*) FILTER (disposition = 'unpriced') AS unpriced, {tokens}, {COST.of_charges} AS cost FROM charges"
        f" GROUP BY ALL UNION ALL SELECT {grouped}, sum(requests), coalesce(sum(requests) {billed}, 0),"
        f" coalesce(sum(requests) FILTER (disposition = 'unpriced'), 0), {tokens}, sum(cost) FROM removed"
        f" WHERE {OF_CHARGES} GROUP BY ALL"
    )
    as_time = [Query(f"SELECT *, day AS day_us FROM (\n{side.sql}\n)", side.params) for side in (charges, lines)]
    requests = Quantity("requests, billed and unpriced", ("requests", "billed", "unpriced"))
    return compared(
        2, "charges = chargeback lines", ("day_us", *keys[1:]), (requests, TOKENS_Q, COST_Q), (as_time[0], as_time[1])
    )


def priced(snapshot: Snapshot) -> Comparison:
    """Law 2 at its root: the cost of a charge is the sum over kinds of tokens × price of its card, row by row."""
    worked_out = " + ".join(f"coalesce({k.tokens}::HUGEINT * {k.name}_price, 0)" for k in TOKEN_KINDS)
    rows = (
        f"SELECT *, coalesce(cost_pico, 0)::DECIMAL(26,0) * {PICO} AS l_cost,"
        f" CASE WHEN disposition = 'billed' THEN {worked_out} ELSE 0 END::DECIMAL(26,0) * {PICO} AS r_cost"
        f" FROM charges LEFT JOIN {PRICES} AS prices ON price_card = card"
    )
    sql = f"SELECT {_verdict(COST_Q, (*_PLACE, 'card'))} FROM (\n{rows}\n)"
    query = Query(sql, price_params(snapshot.rate_cards))
    return Comparison(2, "cost of each charge = tokens × price of its card", (COST_Q,), query)


# -- laws that no row may break --------------------------------------------------------------------------------------


def none_may(law: int, name: str, offending: Query) -> Comparison:
    """`offending` selects the rows that break the law, one text column `what`: there must be none."""
    sql = f"SELECT count(*), 0, count(*), count(*), min(what, {MAX_ROWS}) FROM (\n{offending.sql}\n)"
    return Comparison(law, name, (Quantity("rows that break it", ()),), Query(sql, offending.params))


def _place_of(table: str) -> str:
    return f"concat('{table} partition ', \"partition\", ', offset ', \"offset\", ', index ', \"index\")"


def dispositions_follow() -> Query:
    """Charges whose disposition, cost and card do not fit their status."""
    billable = "list_contains($billed::VARCHAR[], status)"
    sound = (
        f"(disposition = 'billed' AND {billable} AND cost_pico >= 0 AND card IS NOT NULL)"
        f" OR (disposition = 'unpriced' AND {billable} AND cost_pico IS NULL AND card IS NULL)"
        f" OR (disposition = 'unbilled' AND NOT {billable} AND cost_pico = 0 AND card IS NULL)"
    )
    text = f"concat({_place_of('charges')}, ': ', status, ' is ', disposition)"
    return Query(
        f"SELECT {text} AS what FROM charges WHERE NOT coalesce({sound}, false)", {"billed": sorted(BILLED_STATUSES)}
    )


def cards_fit(snapshot: Snapshot) -> Query:
    """Billed charges whose card is unknown, or of another model or tenant, or not yet valid at the event's time."""
    cards = snapshot.rate_cards
    relation = (
        "(SELECT unnest($cards::INTEGER[]) AS id, unnest($providers::VARCHAR[]) AS of_provider,"
        " unnest($models::VARCHAR[]) AS of_model, unnest($tenants::VARCHAR[]) AS of_tenant,"
        " unnest($valid_from_us::BIGINT[]) AS valid_from_us)"
    )
    fits = (
        "id IS NOT NULL AND of_provider = provider AND of_model = model AND coalesce(of_tenant, tenant) = tenant"
        ' AND valid_from_us <= epoch_us("time")'
    )
    params: Mapping[str, Any] = {
        "cards": [card.id for card in cards],
        "providers": [card.provider for card in cards],
        "models": [card.model for card in cards],
        "tenants": [card.tenant for card in cards],
        "valid_from_us": [card.valid_from_us for card in cards],
    }
    return Query(
        f"SELECT concat({_place_of('charges')}, ': card ', coalesce(card::VARCHAR, 'null')) AS what"
        f" FROM charges LEFT JOIN {relation} AS cards ON id = card"
        f" WHERE disposition = 'billed' AND NOT coalesce({fits}, false)",
        params,
    )


def kinds_are_counts() -> Query:
    """Rows whose disjoint counts could not come from inclusive ones: each is at least 0, and the kinds that one wire
    count was split into add up to at most the largest wire count."""
    negative = " OR ".join(f"{kind.tokens} < 0" for kind in TOKEN_KINDS)
    inclusive = {kind.counted_in: [kind.tokens] for kind in TOKEN_KINDS if kind.less}
    for kind in TOKEN_KINDS:
        for whole in TOKEN_KINDS:
            if kind.counted_in in whole.less:
                inclusive[whole.counted_in].append(kind.tokens)
    over = " OR ".join(f"{' + '.join(parts)} > $max_count::BIGINT" for parts in inclusive.values())
    counts = ", '/', ".join(kind.tokens for kind in TOKEN_KINDS)
    blocks = " UNION ALL ".join(
        f"SELECT concat({_place_of(table)}, ': ', {counts}) AS what FROM {table} WHERE {negative} OR {over}"
        for table in ("charges", "node_events")
    )
    return Query(blocks, {"max_count": MAX_COUNT})


def keys_once(window_hours: int) -> Query:
    """Events of one partition and key that arrived within the dedupe window of each other."""
    both = " UNION ALL ".join(
        f'SELECT "partition", "key", epoch_us(arrived) // {HOUR_US:d} AS hour, {_place_of(table)} AS what FROM {table}'
        for table in ("charges", "node_events")
    )
    text = "concat('key ', \"key\", ': ', string_agg(what, ' and ' ORDER BY hour, what)) AS what"
    nearest = "list_min(list_transform(range(1, len(hours)), lambda i: hours[i + 1] - hours[i]))"
    # Few keys occur twice at all: only theirs are put in order.
    return Query(
        f"WITH seen AS ({both}), repeated AS (\n"
        'SELECT "partition", "key" FROM seen GROUP BY ALL HAVING count(*) > 1\n), found AS (\n'
        f'SELECT {text}, list(hour ORDER BY hour) AS hours FROM seen SEMI JOIN repeated USING ("partition", "key")'
        ' GROUP BY "partition", "key"\n)\n'
        f"SELECT what FROM found WHERE {nearest} < $window_hours::BIGINT",
        {"window_hours": window_hours},
    )


def places_once() -> Query:
    """Places in the log that more than one row claims."""
    text = "concat(string_agg(DISTINCT what, ' and ' ORDER BY what), ' (', count(*), ' rows)')"
    place = '"partition", "offset", "index"'
    # Texts only of places that occur twice: of all they would not fit in memory.
    return Query(
        f"WITH places AS (\n{_all_places()}\n), repeated AS (\n"
        f"SELECT {place} FROM places GROUP BY ALL HAVING count(*) > 1\n)\n"
        f"SELECT {text} AS what FROM places SEMI JOIN repeated USING ({place}) GROUP BY {place}"
    )


def places_committed() -> Query:
    """Rows at or beyond their partition's position, or of a partition that has none."""
    return Query(
        "SELECT concat(what, ': the position is ', coalesce(next_offset::VARCHAR, 'missing')) AS what"
        f' FROM (\n{_all_places()}\n) LEFT JOIN positions USING ("partition")'
        ' WHERE "offset" < 0 OR "offset" >= coalesce(next_offset, 0)'
    )


def _all_places() -> str:
    return " UNION ALL ".join(
        f'SELECT "partition", "offset", "index", {_place_of(table)} AS what FROM {table}'
        for table in ("charges", "node_events", "rejects")
    )
