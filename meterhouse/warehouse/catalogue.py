"""What the catalogue says of the lake's newest snapshot, read from its own tables.

A query of a lake's table costs some milliseconds before it reads a row, for each table that it names, and so does one
of the catalogue's tables in DuckDB, which reads each of them whole. What its own database is asked does not.
DuckLake's specification says what its tables hold:
https://ducklake.select/docs/stable/specification/tables/overview. What it says of a snapshot is sure while that is
the newest one: merges and expiry change what it says of older ones. All functions give None where it is not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from meterhouse.warehouse.lake import Cursor, Lake
from meterhouse.warehouse.lake_schema import POSITION_TABLE, sql_text


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A file of a table. Its first and last time in microseconds, where they are known."""

    path: str
    first_us: int | None
    last_us: int | None

    def may_hold(self, from_us: int, to_us: int) -> bool:
        """May a row's time be in [from_us, to_us)?"""
        return (self.first_us is None or self.first_us < to_us) and (self.last_us is None or self.last_us >= from_us)


def files(lake: Lake, cursor: Cursor, tables: Collection[str], snapshot: int) -> dict[str, list[LakeFile] | None]:
    """The files whose rows are a table's rows, of each of `tables`. None too where some of a file's rows are not: they
    were deleted, or came later."""
    rows = _ask(
        lake,
        cursor,
        f"""
        SELECT
            t.table_name, f.path, f.path_is_relative, s.min_value, s.max_value,
            CASE WHEN
                f.partial_max IS NOT NULL
                OR EXISTS (SELECT 1 FROM ducklake_delete_file AS d WHERE d.data_file_id = f.data_file_id)
                OR {_newest(snapshot)} = 0
            THEN 1 ELSE 0 END AS is_unsure
        FROM ducklake_table AS t
        JOIN ducklake_column AS c ON c.table_id = t.table_id
        JOIN ducklake_data_file AS f ON f.table_id = t.table_id
        LEFT JOIN ducklake_file_column_stats AS s ON s.data_file_id = f.data_file_id AND s.column_id = c.column_id
        WHERE
            t.table_name IN ({", ".join(map(sql_text, tables))}) AND t.end_snapshot IS NULL
            AND c.column_name = 'time' AND c.end_snapshot IS NULL AND {_alive("f", snapshot)}
        ORDER BY f.data_file_id
        """,
        "table_name, path, path_is_relative::BOOLEAN, epoch_us(min_value::TIMESTAMPTZ),"
        " epoch_us(max_value::TIMESTAMPTZ), is_unsure::BOOLEAN",
    )
    found: dict[str, list[LakeFile] | None] = {table: [] for table in tables}
    for table, path, is_relative, first_us, last_us, is_unsure in rows:
        known = found[table]
        if is_unsure or known is None:
            found[table] = None
        else:
            known.append(
                LakeFile(f"{lake.config.root}/main/{table}/{path}" if is_relative else path, first_us, last_us)
            )
    return found


def positions(lake: Lake, cursor: Cursor, snapshot: int) -> list[tuple[int, int, int | None]] | None:
    """Partition, next offset and newest arrival of each partition's position, ascending. A position is a row of the
    catalogue; None too where one of them is not."""
    tables = _ask(
        lake,
        cursor,
        "SELECT t.table_name, i.table_name AS rows_name FROM ducklake_table AS t"
        " LEFT JOIN ducklake_inlined_data_tables AS i ON i.table_id = t.table_id"
        f" WHERE t.table_name LIKE {sql_text(POSITION_TABLE + '%')} AND t.end_snapshot IS NULL",
    )
    if not tables or any(rows is None for _, rows in tables):
        return None
    of_each = " UNION ALL ".join(
        f"SELECT {int(name.removeprefix(POSITION_TABLE))} AS of_partition, r.next_offset, r.arrived_us,"
        f" {_newest(snapshot)} AS is_newest FROM {rows} AS r WHERE {_alive('r', snapshot)}"
        for name, rows in tables
    )
    shown = "of_partition::BIGINT AS of_partition, next_offset::BIGINT, arrived_us::BIGINT, is_newest::BOOLEAN"
    found = sorted(_ask(lake, cursor, of_each, shown))
    if [row[0] for row in found] != list(range(len({name for name, _ in tables}))) or not all(row[-1] for row in found):
        return None
    return [(partition, offset, arrived_us) for partition, offset, arrived_us, _ in found]


def _ask(lake: Lake, cursor: Cursor, sql: str, shown: str = "*") -> list[tuple[Any, ...]]:
    """Rows of a query that the catalogue's own database runs, within the cursor's transaction. SQLite gives all as
    text, so `shown` says what it is."""
    run = "postgres_query" if lake.config.on_postgres else "sqlite_query"
    database = lake.config.metadata.partition(".")[0]
    return cursor.execute(f"SELECT {shown} FROM {run}({sql_text(database)}, {sql_text(sql)})").fetchall()


def _alive(rows: str, snapshot: int) -> str:
    return (
        f"{rows}.begin_snapshot <= {snapshot:d} AND ({rows}.end_snapshot IS NULL OR {rows}.end_snapshot > {snapshot:d})"
    )


def _newest(snapshot: int) -> str:
    """1 where it is the newest one."""
    return f"(SELECT CASE WHEN max(snapshot_id) = {snapshot:d} THEN 1 ELSE 0 END FROM ducklake_snapshot)"
