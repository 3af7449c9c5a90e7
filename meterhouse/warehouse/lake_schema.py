"""The lake's tables: one list, from which the DDL is made. Columns are those of the ledger port's Arrow schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.batch import NAME, TIME, Reject
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.ledger import (
    CHARGE_SCHEMA,
    LATENCY_KEYS,
    LATENCY_SCHEMA,
    MONEY,
    NODE_EVENT_SCHEMA,
    ROLLUP_KEYS,
    ROLLUP_SCHEMA,
    Counts,
)

REJECT_SCHEMA: Final = pa.schema(
    [
        pa.field("topic", NAME, nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),  # place in the record's array; -1: the whole record
        pa.field("arrived", TIME, nullable=False),
        pa.field("reason", NAME, nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("tenant", pa.string()),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)
"""The lake's table `rejects`: `ingest.batch.Reject` as columns."""

REMOVED_SCHEMA: Final = pa.schema(
    [
        *(field for field in ROLLUP_SCHEMA if field.name in ROLLUP_KEYS),
        *(field for field in ROLLUP_SCHEMA if field.name in ("requests", *(kind.tokens for kind in TOKEN_KINDS))),
        pa.field("cost", MONEY, nullable=False),
    ]
)
"""What retention removed, by day: charges under their own keys; node events under the disposition `informational` and
rejects under `rejected`, with empty texts for what these have not."""

COUNTS: Final = tuple(field.name for field in fields(Counts))
POSITION_COLUMNS: Final = ("next_offset", *COUNTS, "arrived_us")
"""Columns of `position_<p>`, one row each: `streams.ledger.Position`. Beside them stands LAYOUT."""
LAYOUT: Final = "layout"
"""Of how many partitions the topic is: the same in all rows."""


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A table of the lake. `period` is the calendar part that its files are partitioned by, of column `time_column`."""

    name: str
    schema: pa.Schema
    time_column: str
    period: str  # day | month
    keys: tuple[str, ...] = ()  # of a table of deltas: rows of equal keys are added up
    unit: str = ""  # of a table of deltas: what its times are the start of

    @property
    def measures(self) -> tuple[str, ...]:
        """The columns of a table of deltas that are added up."""
        return tuple(name for name in self.schema.names if name not in self.keys) if self.keys else ()


CHARGES: Final = LakeTable("charges", CHARGE_SCHEMA, "time", "day")
NODE_EVENTS: Final = LakeTable("node_events", NODE_EVENT_SCHEMA, "time", "day")
ROLLUP_MINUTE: Final = LakeTable("rollup_minute", ROLLUP_SCHEMA, "time", "day", ROLLUP_KEYS, "minute")
ROLLUP_HOUR: Final = LakeTable("rollup_hour", ROLLUP_SCHEMA, "time", "month", ROLLUP_KEYS, "hour")
ROLLUP_DAY: Final = LakeTable("rollup_day", ROLLUP_SCHEMA, "time", "month", ROLLUP_KEYS, "day")
LATENCY_HOUR: Final = LakeTable("latency_hour", LATENCY_SCHEMA, "time", "month", LATENCY_KEYS, "hour")
REJECTS: Final = LakeTable("rejects", REJECT_SCHEMA, "arrived", "month")

REMOVED: Final = LakeTable("removed", REMOVED_SCHEMA, "time", "month", ROLLUP_KEYS, "day")
REMOVED_LATENCY: Final = LakeTable("removed_latency", LATENCY_SCHEMA, "time", "month", LATENCY_KEYS, "day")

COMMITTED: Final = (CHARGES, NODE_EVENTS, ROLLUP_MINUTE, ROLLUP_HOUR, ROLLUP_DAY, LATENCY_HOUR, REJECTS)
"""What meters write."""
TABLES: Final = (*COMMITTED, REMOVED, REMOVED_LATENCY)

PERSONAL: Final = ("user", "labels", "request_id", "reservation_id", "source", "payload", "detail")
"""Columns that may name a user. Files hold no extremes of them, which the catalogue would keep."""

AUDIT_HEADS: Final = "audit_heads"
"""Heads of the audit log: rows of the catalogue, as positions are. They are added, never changed, merged or removed."""

ADD_FILES: Final = "CALL ducklake_add_data_files('lake', ?, ?)"
"""Parameters: a table's name, a list of paths."""

POSITION_TABLE: Final = "position_"
"""What the names of their tables begin with."""
_DAY_US: Final = 86_400 * 1_000_000
_PERIODS: Final = {"day": ("year", "month", "day"), "month": ("year", "month")}
_SQL_TYPES: Final = {
    pa.binary(16): "UUID",  # 16 fixed bytes in Parquet, where a BLOB would carry a length and be an opaque string
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.string(): "VARCHAR",
    NAME: "VARCHAR",
    TIME: "TIMESTAMPTZ",
    pa.decimal128(38, 12): "DECIMAL(38,12)",
}


def quoted(name: str) -> str:
    """A column or table name as SQL: `partition`, `offset`, `time` and `user` are words of SQL as well."""
    return f'"{name}"'


def sql_text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def columns_sql(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))


def sql_type(kind: pa.DataType) -> str:
    """The lake's column type of an Arrow type of the ledger's schemas."""
    return _SQL_TYPES[kind]


def create_table_sql(table: LakeTable) -> list[str]:
    """Statements that make a table and say how its files are laid out."""
    columns = ", ".join(
        f"{quoted(field.name)} {sql_type(field.type)}{'' if field.nullable else ' NOT NULL'}" for field in table.schema
    )
    parts = ", ".join(f"{part}({quoted(table.time_column)})" for part in _PERIODS[table.period])
    return [
        f"CREATE TABLE {table.name} ({columns})",
        f"ALTER TABLE {table.name} SET PARTITIONED BY ({parts})",
    ]


def create_audit_heads_sql() -> str:
    """The statement that makes AUDIT_HEADS; `hash` is in hexadecimal."""
    return f'CREATE TABLE {AUDIT_HEADS} (seq BIGINT NOT NULL, hash VARCHAR NOT NULL, "at" TIMESTAMPTZ NOT NULL)'


def options_sql() -> list[str]:
    """Statements, harmless when repeated, that set how files are written: none may stand in a transaction."""
    return [
        "CALL lake.set_option('parquet_compression', 'zstd')",
        "CALL lake.set_option('parquet_compression_level', 1)",
        "CALL lake.set_option('parquet_version', 2)",  # encodes integers as differences: 2 bytes an event less
        # An inlined row is a row of the SQLite catalogue: right for the positions, slower than a file for the rest.
        *(f"CALL lake.set_option('data_inlining_row_limit', 0, table_name => '{table.name}')" for table in TABLES),
    ]


def position_table(partition: int) -> str:
    """The table that holds one partition's position: the fence of its commits."""
    return f"{POSITION_TABLE}{partition:d}"


def create_position_sql(partition: int, layout: int, arrived_us: int | None) -> list[str]:
    """Statements that make and seed a partition's position table."""
    numbers = ", ".join(
        f"{quoted(name)} BIGINT{' NOT NULL' if name != 'arrived_us' else ''}" for name in POSITION_COLUMNS
    )
    zeros = ", ".join("0" for _ in POSITION_COLUMNS[:-1])
    table, arrived = position_table(partition), "NULL" if arrived_us is None else f"{arrived_us:d}"
    return [
        f"CREATE TABLE {table} ({numbers}, {LAYOUT} BIGINT)",
        f"INSERT INTO {table} VALUES ({zeros}, {arrived}, {layout:d})",
    ]


def lacking_layout(cursor: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """Position tables of a lake made before there were layouts."""
    rows = cursor.execute(
        """
        SELECT table_name FROM information_schema.columns WHERE table_catalog = 'lake' AND starts_with(table_name, ?)
        GROUP BY table_name HAVING NOT bool_or(column_name = ?)
        """,
        [POSITION_TABLE, LAYOUT],
    ).fetchall()
    return frozenset(name for (name,) in rows)


def create_positions_view_sql(partitions: int) -> str:
    """Makes the view `positions`: partition and POSITION_COLUMNS, a row for each of partitions 0 .. n-1."""
    return f"CREATE OR REPLACE VIEW positions AS {_positions_sql(range(partitions))}"


def delta_sum_sql(table: LakeTable, source: str) -> str:
    """A select that adds up `source`, rows of the table of deltas or finer ones, to one row per key."""
    start = f'date_trunc(\'{table.unit}\', "time") AS "time"'
    keys = ", ".join(start if name == "time" else quoted(name) for name in table.keys)
    sums = ", ".join(
        f"sum({quoted(field.name)})::{sql_type(field.type)} AS {quoted(field.name)}"
        for field in table.schema
        if field.name in table.measures
    )
    return f"SELECT {keys}, {sums} FROM {source} GROUP BY ALL"


def by_day(hours: pa.Table) -> pa.Table:
    """Rows of ROLLUP_SCHEMA by hour as deltas by UTC day. They are not added up: deltas of one commit seldom meet."""
    place = hours.schema.get_field_index("time")
    days = pc.cast(hours["time"], pa.int64()).to_numpy() // _DAY_US * _DAY_US
    return hours.set_column(place, hours.schema.field(place), pa.array(days).cast(TIME))


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as REJECT_SCHEMA."""
    rows = [
        (r.topic, r.partition, r.offset, r.index, r.arrived_us, r.reason.value, r.detail, r.tenant, r.payload)
        for r in rejects
    ]
    columns = zip(*rows, strict=True) if rows else ((),) * len(REJECT_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, REJECT_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=REJECT_SCHEMA)


def _positions_sql(partitions: Sequence[int]) -> str:
    names = columns_sql(POSITION_COLUMNS)
    if not partitions:
        nulls = ", ".join(f"NULL::BIGINT AS {quoted(name)}" for name in POSITION_COLUMNS)
        return f'SELECT NULL::INTEGER AS "partition", {nulls} WHERE false'
    return " UNION ALL ".join(
        f'SELECT {p:d}::INTEGER AS "partition", {names} FROM {position_table(p)}' for p in partitions
    )
