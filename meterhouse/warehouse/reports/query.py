"""A query is a value: SQL with named parameters. Values never become part of SQL; columns come from fixed tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import duckdb
import pyarrow as pa

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import RateCard
from meterhouse.warehouse.lake import Cursor

MINUTE_US: Final = 60 * 1_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

Span = tuple[str, int, int]
"""A table, and the range of its rows' times."""


@dataclass(frozen=True, slots=True)
class Query:
    """SQL and its named parameters (`$name`). `keepable`: relations that it names and that someone may have kept."""

    sql: str
    params: Mapping[str, Any] = field(default_factory=dict)
    keepable: Mapping[str, KeepableSums] = field(default_factory=dict)

    def rows(self, cursor: Cursor) -> list[tuple[Any, ...]]:
        """Runs it, unless someone keeps what came of it. A report touches the lake by the methods of a query only."""
        return cursor.rows_of(self) if self.keepable and isinstance(cursor, Keeping) else self.read(cursor)

    def read(self, cursor: Cursor) -> list[tuple[Any, ...]]:
        """Runs it."""
        return self._run(cursor).fetchall()

    def batches(self, cursor: Cursor, rows: int, of: Span | None = None) -> pa.RecordBatchReader:
        """Runs it; the rows come as they are read, about `rows` at a time. `of`: as for `table`."""
        return self._over(cursor, of).to_arrow_reader(rows)

    def table(self, cursor: Cursor, of: Span | None = None) -> pa.Table:
        """Runs it. `of`: it asks for rows of this table alone, of times in this range. A cursor that knows the table's
        files reads those that may hold them, and is spared what it costs to name a table of the lake."""
        return self._over(cursor, of).to_arrow_table()

    def _over(self, cursor: Cursor, of: Span | None) -> duckdb.DuckDBPyConnection:
        found = cursor.of_files(self, *of) if of and isinstance(cursor, Keeping) else None
        return self._run(cursor) if found is None else found

    def plain(self) -> Query:
        """The same, with all that it needs in it: to be a part of another query."""
        return self._with(self.keepable)

    def _run(self, cursor: Cursor) -> duckdb.DuckDBPyConnection:
        kept = {name: cursor.kept(sums) for name, sums in self.keepable.items()} if isinstance(cursor, Keeping) else {}
        for name, rows in kept.items():
            if rows is not None:
                cursor.register(name, rows)
        whole = self._with({name: sums for name, sums in self.keepable.items() if kept.get(name) is None})
        named = set(_NAMES.findall(whole.sql))
        return cursor.execute(whole.sql, {name: value for name, value in whole.params.items() if name in named})

    def _with(self, keepable: Mapping[str, KeepableSums]) -> Query:
        sql, params = self.sql, dict(self.params)
        for name, sums in keepable.items():
            sql = with_relation(sql, f"{name} AS NOT MATERIALIZED ({sums.query.sql})")
            params |= sums.query.params
        return Query(sql, params)


_NAMES: Final = re.compile(r"\$(\w+)")


def with_relation(sql: str, relation: str) -> str:
    """The query with one more relation (`name AS (...)`) before its own."""
    asked = sql.lstrip()
    return f"WITH {relation}, {asked[5:]}" if asked.startswith("WITH ") else f"WITH {relation}\n{asked}"


@dataclass(frozen=True, slots=True)
class KeepableSums:
    """Sums over the rows of one table in a range of time, which are the sums of any parts of these rows added up."""

    query: Query
    table: str
    from_us: int
    to_us: int

    def kept(self, cursor: Cursor) -> pa.Table | None:
        """The rows of its query, of all files that may hold a row of its range: as many blocks of rows as there are
        files, so add them up. None: nothing is kept."""
        return cursor.kept(self) if isinstance(cursor, Keeping) else None


@runtime_checkable
class Keeping(Protocol):
    """A cursor that knows sums that were kept."""

    def rows_of(self, query: Query) -> list[tuple[Any, ...]]:
        """The rows of a query: those that were kept of the same snapshot, or of a run."""
        ...

    def kept(self, sums: KeepableSums) -> pa.Table | None:
        """The rows of its query. None: they are not kept, so ask for them."""
        ...

    def of_files(self, query: Query, table: str, from_us: int, to_us: int) -> duckdb.DuckDBPyConnection | None:
        """Runs a query of one table over the files alone that may hold rows of a range. None: they are not known."""
        ...


@dataclass(frozen=True, slots=True)
class Condition:
    """What rows must satisfy: a piece of a WHERE clause and its parameters. Empty SQL: any row."""

    sql: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __and__(self, other: Condition) -> Condition:
        both = [part for part in (self.sql, other.sql) if part]
        return Condition(" AND ".join(both), {**self.params, **other.params})

    def suffixed(self, suffix: str) -> Condition:
        """The same with other names of its parameters, to stand beside others of its kind."""
        sql = _NAMES.sub(lambda name: f"{name[0]}{suffix}", self.sql)
        return Condition(sql, {f"{name}{suffix}": value for name, value in self.params.items()})


def any_of(conditions: Sequence[Condition]) -> Condition:
    """Rows that satisfy at least one of them."""
    if not all(each.sql for each in conditions):
        return Condition()
    params = {name: value for each in conditions for name, value in each.params.items()}
    return Condition(f"({' OR '.join(f'({each.sql})' for each in conditions)})", params)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a time range, and the table that it is read from."""

    table: str
    from_us: int
    to_us: int
    beside: str = ""  # a JOIN that all of its rows go through
    where: Condition = Condition()  # what its rows must satisfy besides
    keys: Mapping[str, str] = field(default_factory=dict)  # key columns that each piece has of its own


LAYERS: Final = {"rollup_day": DAY_US, "rollup_hour": HOUR_US, "rollup_minute": MINUTE_US}
"""Roll-ups from coarse to fine, and the length of their steps."""


KEEPABLE: Final = frozenset({"rollup_day", "rollup_hour"})
"""Roll-ups whose sums are worth keeping: a range that ends now has other minutes each time."""


def pieces(from_us: int, to_us: int, coarsest: str = "rollup_day") -> list[Piece]:
    """Cuts [from_us, to_us) so that each part comes from the coarsest table that has it exactly.

    Whole days of UTC are read from `rollup_day`, whole hours at the edges from `rollup_hour`, whole minutes at their
    edges from `rollup_minute`, what is left from `charges`; layers coarser than `coarsest` are not used. The parts
    touch, do not overlap and cover the range.
    """
    layers = list(LAYERS.items())
    return _cut(from_us, to_us, layers[list(LAYERS).index(coarsest) :])


def _cut(from_us: int, to_us: int, layers: Sequence[tuple[str, int]]) -> list[Piece]:
    if from_us >= to_us:
        return []
    if not layers:
        return [Piece("charges", from_us, to_us)]
    (table, unit_us), *finer = layers
    first, last = -(-from_us // unit_us) * unit_us, to_us // unit_us * unit_us
    if first >= last:
        return _cut(from_us, to_us, finer)
    return [*_cut(from_us, first, finer), Piece(table, first, last), *_cut(last, to_us, finer)]


def between(from_us: int, to_us: int, suffix: str = "") -> Condition:
    """Rows whose time is in [from_us, to_us)."""
    low, high = f"from_us{suffix}", f"to_us{suffix}"
    return Condition(
        f'"time" >= make_timestamptz(${low}::BIGINT) AND "time" < make_timestamptz(${high}::BIGINT)',
        {low: from_us, high: to_us},
    )


@dataclass(frozen=True, slots=True)
class Measure:
    """A sum, as it is taken over roll-ups and over charges."""

    name: str
    of_rollups: str
    of_charges: str


PICO: Final = "0.000000000001"
"""One pico-unit as an SQL literal, DECIMAL(12,12): times DECIMAL(26,0) it is DECIMAL(38,12), exact."""

REQUESTS: Final = Measure("requests", "sum(requests)", "count(*)::HUGEINT")
TOKENS: Final = tuple(Measure(k.tokens, f"sum({k.tokens})", f"sum({k.tokens})") for k in TOKEN_KINDS)
COST: Final = Measure(
    "cost",
    " + ".join(f"sum({kind.cost})" for kind in TOKEN_KINDS),
    f"coalesce(sum(cost_pico), 0)::DECIMAL(26,0) * {PICO}",
)
"""Cost of all kinds together; of charges as it was charged."""
KIND_COSTS: Final = tuple(
    Measure(
        kind.cost,
        f"sum({kind.cost})",
        f"coalesce(sum({kind.tokens}::HUGEINT * {kind.name}_price) FILTER (disposition = 'billed'), 0)"
        f"::DECIMAL(26,0) * {PICO}",
    )
    for kind in TOKEN_KINDS
)
"""Cost by kind; of charges it is worked out again from the rate card (join `PRICES`)."""

PRICES: Final = (
    "(SELECT unnest($cards::INTEGER[]) AS price_card, "
    + ", ".join(f"unnest(${kind.name}_prices::BIGINT[]) AS {kind.name}_price" for kind in TOKEN_KINDS)
    + ")"
)
"""Rate cards as a relation: price_card, and pico-units per token by kind (null: no price)."""


def price_params(cards: Sequence[RateCard]) -> dict[str, Any]:
    """Parameters of `PRICES`."""
    return {
        "cards": [card.id for card in cards],
        **{f"{k.name}_prices": [card.pico_per_token.get(k.name) for card in cards] for k in TOKEN_KINDS},
    }


def facts(
    parts: Sequence[Piece],
    keys: Mapping[str, str],
    measures: Sequence[Measure],
    where: Condition,
    cards: Sequence[RateCard] | None = None,
) -> Query:
    """Sums of `measures` per `keys` (column name → SQL over a row), a block of rows per piece: add them up.

    `cards` are needed for KIND_COSTS only.
    """
    return keepable_facts(parts, keys, measures, where, cards).plain()


def keepable_facts(
    parts: Sequence[Piece],
    keys: Mapping[str, str],
    measures: Sequence[Measure],
    where: Condition,
    cards: Sequence[RateCard] | None = None,
) -> Query:
    """`facts` of which someone may have kept a part. A query around it hands its `keepable` on."""
    blocks: list[str] = []
    params: dict[str, Any] = {}
    keepable: dict[str, KeepableSums] = {}
    for number, part in enumerate(parts):
        block = _block(part, number, keys, measures, where, cards)
        if part.table in KEEPABLE:
            keepable[f"kept_{number}"] = KeepableSums(block, part.table, part.from_us, part.to_us)
            blocks.append(f"SELECT * FROM kept_{number}")
        else:
            blocks.append(block.sql)
            params |= block.params
    return Query("\nUNION ALL ".join(blocks), params, keepable)


def _block(
    part: Piece,
    number: int,
    keys: Mapping[str, str],
    measures: Sequence[Measure],
    where: Condition,
    cards: Sequence[RateCard] | None,
) -> Query:
    params: dict[str, Any] = {}
    of_charges = part.table == "charges"
    source = part.table
    if of_charges and cards is not None:
        source = f"charges LEFT JOIN {PRICES} AS prices ON price_card = card"
        params |= price_params(cards)
    condition = between(part.from_us, part.to_us, f"_{number}") & where & part.where
    here = {**keys, **part.keys}
    columns = [f"{sql} AS {name}" for name, sql in here.items()]
    columns += [f"{m.of_charges if of_charges else m.of_rollups} AS {m.name}" for m in measures]
    return Query(
        f"SELECT {', '.join(columns)} FROM {source}{part.beside} WHERE {condition.sql}{_group_by(len(here))}",
        {**params, **condition.params},
    )


def _group_by(count: int) -> str:
    """Without keys, no row rather than a row of nulls when nothing matches."""
    return f" GROUP BY {', '.join(map(str, range(1, count + 1)))}" if count else " HAVING count(*) > 0"
